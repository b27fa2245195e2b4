//! What the machine boots: a kernel, drivers and a disk of Debian, made once and kept in the cache.

use crate::cache;
use crate::debian::run;
use crate::scratch;
use anyhow::{Context as _, Result, anyhow};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release whose kernel criu 3.17 knows.
const RELEASE: &str = "bookworm";
/// Packages on the disk.
const PACKAGES: &str = include_str!("../../vm/packages");
/// Run in the new root: an ordinary user with subordinate ids, and the kernel's package, which is unpacked only.
const CUSTOMIZE: &str = r#"set -eu
useradd --create-home --uid 1000 --shell /bin/sh rig
cd /var/tmp
kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/ *Depends: //p' | head -n 1)
apt-get -qq -o APT::Sandbox::User=root download "$kernel"
"#;
/// Drivers that init loads, with all that they need.
const DRIVERS: [&str; 6] = ["virtio_pci", "virtio_blk", "ext4", "9pnet_virtio", "9p", "virtio_console"];
/// Drivers for a machine without a disk, which has no modprobe to load them when they are wanted.
const BARE_DRIVERS: [&str; 5] = ["kvm-amd", "overlay", "tun", "fuse", "vsock"];
/// Folders of modules for hardware that the machine does not have: most of the package.
const NO_DRIVERS: [&str; 16] = [
    "sound",
    "drivers/gpu",
    "drivers/media",
    "drivers/scsi",
    "drivers/infiniband",
    "drivers/usb",
    "drivers/iio",
    "drivers/hwmon",
    "drivers/staging",
    "drivers/hid",
    "drivers/md",
    "drivers/input",
    "drivers/ata",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/platform",
];
/// Size of the disk, nearly all of it a hole.
const DISK_SIZE: &str = "6G";
/// What an xz stream begins with: the compressed kernel in a bzImage is one.
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

/// The files of a machine.
#[derive(Debug)]
pub(super) struct Image {
    /// The kernel, as an ELF file: it starts in half the time of a compressed one.
    pub(super) kernel: PathBuf,
    /// busybox and the drivers, a cpio archive.
    pub(super) drivers: PathBuf,
    /// The disk, an ext4 file system.
    pub(super) disk: PathBuf,
}

impl Image {
    /// The files from the cache, made first where they are missing; about two minutes and 250 MB of downloads.
    pub(super) fn get() -> Result<Self> {
        let drivers = DRIVERS.join(" ") + &BARE_DRIVERS.join(" ") + &NO_DRIVERS.join(" ");
        let folder = cache::folder_of("vm", &[RELEASE, PACKAGES, CUSTOMIZE, &drivers, DISK_SIZE], make)?;
        Ok(Self {
            kernel: folder.join("vmlinux"),
            drivers: folder.join("drivers.cpio"),
            disk: folder.join("disk"),
        })
    }
}

fn make(folder: &Path) -> Result<()> {
    let work = tempfile::Builder::new().prefix("vm-").tempdir_in(folder)?;
    let (root, package) = (work.path().join("root"), work.path().join("kernel"));
    debian(&root).context("cannot make a root file system of Debian")?;
    unpack_kernel(&root, &package).context("cannot unpack the kernel")?;
    fs::write(folder.join("vmlinux"), kernel(&only_entry(&package.join("boot"), "vmlinuz-")?)?)?;
    let modules = only_entry(&package.join("lib/modules"), "")?;
    for name in NO_DRIVERS {
        fs::remove_dir_all(modules.join("kernel").join(name))
            .with_context(|| format!("no modules in '{name}'"))?;
    }
    let version = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    run(Command::new("depmod").arg("--basedir").arg(&package).arg(&version))?;
    archive_drivers(&root, &package, &version, &folder.join("drivers.cpio"))
        .context("cannot archive the drivers")?;
    run(Command::new("cp").arg("-a").arg(package.join("lib/modules")).arg(root.join("lib/modules")))?;
    let mut mke2fs = Command::new("mke2fs");
    // Nobody needs what a crash leaves on this disk: every boot begins with the same one.
    mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-d"]).arg(&root);
    run(mke2fs.arg(folder.join("disk")).arg(DISK_SIZE))?;
    Ok(())
}

fn debian(root: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
    command.arg(format!("--include={}", PACKAGES.split_whitespace().collect::<Vec<_>>().join(",")));
    for path in ["doc", "locale", "man"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
    }
    command.arg(r#"--customize-hook=chroot "$1" sh -c "$CUSTOMIZE""#).env("CUSTOMIZE", CUSTOMIZE);
    run(command.arg(RELEASE).arg(root))?;
    Ok(())
}

/// Unpacks the kernel's package, which the root holds, beside it.
fn unpack_kernel(root: &Path, target: &Path) -> Result<()> {
    let archive = only_entry(&root.join("var/tmp"), "linux-image-")?;
    run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(target))?;
    fs::remove_file(archive)?;
    Ok(())
}

/// The one entry of a folder whose name begins with `prefix`.
fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    match entries.into_iter().filter(named).collect::<Vec<_>>().as_slice() {
        [path] => Ok(path.clone()),
        other => {
            Err(anyhow!("expected one entry '{prefix}*' in '{}', not {}", folder.display(), other.len()))
        }
    }
}

/// The ELF file in a bzImage.
fn kernel(image: &Path) -> Result<Vec<u8>> {
    let data = fs::read(image)?;
    let start = data.windows(XZ_MAGIC.len()).position(|window| window == XZ_MAGIC);
    let start = start.ok_or_else(|| anyhow!("'{}' holds no xz stream", image.display()))?;
    let stream = tempfile::NamedTempFile::new()?;
    fs::write(stream.path(), &data[start..])?;
    // What follows the stream in the image is none: xz complains about it, after it has written all of the kernel.
    let output = Command::new("xz").args(["-dc", "--single-stream"]).arg(stream.path()).output()?;
    if output.stdout.starts_with(b"\x7fELF") {
        return Ok(output.stdout);
    }
    Err(anyhow!("'{}': {}", image.display(), String::from_utf8_lossy(&output.stderr).trim()))
}

/// Packs busybox and the drivers, with lists of them in the order in which they are loaded.
fn archive_drivers(root: &Path, package: &Path, version: &str, target: &Path) -> Result<()> {
    let stage = scratch::folder()?;
    for name in ["bin", "dev", "proc", "sys", "root", "modules", "rig"] {
        fs::create_dir(stage.path().join(name))?;
    }
    fs::copy(root.join("bin/busybox"), stage.path().join("bin/busybox"))?;
    let mut known = Vec::new();
    for (list, drivers) in [("order", DRIVERS.as_slice()), ("bare", BARE_DRIVERS.as_slice())] {
        let mut names = String::new();
        for module in load_order(package, version, drivers)? {
            if known.contains(&module) {
                continue;
            }
            let name = module.file_name().unwrap_or_default().to_owned();
            fs::copy(&module, stage.path().join("modules").join(&name))?;
            names.push_str(&name.to_string_lossy());
            names.push('\n');
            known.push(module);
        }
        fs::write(stage.path().join("modules").join(list), names)?;
    }
    archive(stage.path(), target)
}

/// The files of modules and of what they need, in the order in which they must be loaded.
fn load_order(package: &Path, version: &str, drivers: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for driver in drivers {
        let mut command = Command::new("modprobe");
        command.arg("--dirname").arg(package).args(["--set-version", version, "--show-depends", driver]);
        let text = run(&mut command)?;
        found.extend(text.lines().filter_map(|line| line.split_whitespace().nth(1)).map(PathBuf::from));
    }
    Ok(found)
}

/// Packs a folder into a cpio archive as the kernel unpacks it.
pub(super) fn archive(folder: &Path, target: &Path) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-ec", r#"find . | LC_ALL=C sort | cpio --quiet -o -H newc --owner=0:0 >"$1""#, "sh"]);
    run(command.arg(target).current_dir(folder))?;
    Ok(())
}
