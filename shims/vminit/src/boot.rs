//! What is done before any container: file systems, names, kernel parameters.

use crate::failure::{Context as _, Result, system};
use crate::mounts;
use rustix::fs::{Mode, statfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::path::Path;
use vm_protocol::spec::PodSpec;

/// `PROC_SUPER_MAGIC` of statfs(2).
const PROC_MAGIC: i64 = 0x9fa0;
/// `SYSFS_MAGIC` of statfs(2).
const SYSFS_MAGIC: i64 = 0x6265_6572;

/// Directory for files of our own, in memory.
pub const RUN: &str = "/run/vminit";

/// A file system that every guest has: where, what, flags, options, and whether it is there already.
type Base = (&'static str, &'static str, MountFlags, &'static str, fn(&Path) -> bool);

/// A kernel, or whoever has started us, may have mounted some of them.
fn base() -> [Base; 7] {
    let safe = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    [
        ("/proc", "proc", safe, "", |path| is(path, PROC_MAGIC)),
        ("/sys", "sysfs", safe, "", |path| is(path, SYSFS_MAGIC)),
        ("/dev", "devtmpfs", MountFlags::NOSUID, "mode=755", |path| path.join("null").exists()),
        (
            "/dev/pts",
            "devpts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            "newinstance,ptmxmode=0666,mode=620,gid=5",
            |path| path.join("ptmx").exists(),
        ),
        ("/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=755", |_| false),
        // For mount points: the root may be one in which nothing can be made.
        ("/containers", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=755", |path| {
            path.read_dir().is_ok_and(|mut all| all.next().is_some())
        }),
        ("/sys/fs/cgroup", "cgroup2", safe, "", |path| !is(path, SYSFS_MAGIC)),
    ]
}

fn is(path: &Path, magic: i64) -> bool {
    statfs(path).is_ok_and(|found| found.f_type == magic)
}

/// Mounts what every guest has.
pub fn mount_base() -> Result<()> {
    for (path, kind, flags, data, is_there) in base() {
        if is_there(Path::new(path)) {
            continue;
        }
        if !["/sys/fs/cgroup", "/containers"].contains(&path) {
            let _ = rustix::fs::mkdir(path, Mode::from_raw_mode(0o755));
        }
        let data = CString::new(data).unwrap_or_default();
        match rustix::mount::mount(kind, path, kind, flags, data.as_c_str()) {
            // A kernel without cgroups, or one that has those of version 1: limits are refused later, by name.
            Err(_) if kind == "cgroup2" => {}
            // Only a root that is made of parts has that directory.
            Err(Errno::NOENT) if path == "/containers" => {}
            result => result.context(|| format!("cannot mount '{path}'"))?,
        }
    }
    rustix::fs::mkdir(RUN, Mode::from_raw_mode(0o700)).context(|| format!("cannot make '{RUN}'"))
}

/// Lets the machine end when its kernel finds a fault in itself: the process that has run into it never ends, nor does who waits for that.
pub fn end_with_the_kernel() {
    if let Err(e) = std::fs::write("/proc/sys/kernel/panic_on_oops", "1") {
        eprintln!(
            "vminit: a fault of the kernel does not end the virtual machine: {}",
            crate::failure::text(&e)
        );
    }
}

/// Reads the specification.
pub fn read_spec(path: &Path) -> Result<PodSpec> {
    use std::io::Read as _;
    let cannot = || format!("cannot read '{}'", path.display());
    let file = std::fs::File::open(path).context(cannot)?;
    let mut data = Vec::new();
    file.take(vm_protocol::spec::MAX_SPEC + 1).read_to_end(&mut data).context(cannot)?;
    if data.len() as u64 > vm_protocol::spec::MAX_SPEC {
        return Err(system(format!("{}: it is longer than {} bytes", cannot(), vm_protocol::spec::MAX_SPEC)));
    }
    PodSpec::parse(&data).map_err(|e| system(format!("{}: {e}", cannot())))
}

/// Names, kernel parameters and mounts of the guest.
pub fn set_up(spec: &PodSpec) -> Result<()> {
    if let Some(name) = &spec.hostname {
        rustix::system::sethostname(name.as_bytes())
            .context(|| format!("cannot set the host name '{name}'"))?;
    }
    if let Some(name) = &spec.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .context(|| format!("cannot set the domain name '{name}'"))?;
    }
    for (name, value) in &spec.sysctl {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        if name.contains("..") {
            return Err(system(format!("'{name}' is no kernel parameter")));
        }
        std::fs::write(&path, value).context(|| format!("cannot set '{name}'"))?;
    }
    let root = mounts::Root::open(Path::new("/"))?;
    spec.mounts.iter().try_for_each(|mount| root.mount(mount))
}

/// Unmounts what is on disks, so that nobody has to repair it. It is written all the same when that fails: what a container mounts is
/// its own, and a process of it that still ends may have it.
pub fn unmount_disks(spec: &PodSpec) {
    let disks = spec.mounts.iter().rev().filter(|mount| mount.source.starts_with("/dev/"));
    for disk in disks {
        if let Err(e) = rustix::mount::unmount(&disk.destination, UnmountFlags::NOFOLLOW) {
            eprintln!("vminit: cannot unmount '{}': {}", disk.destination, crate::failure::text(&e.into()));
        }
    }
}
