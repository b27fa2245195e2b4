use super::*;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use tempfile::TempDir;

/// Ids as a container with a user namespace has them.
const MAPPED: [&str; 2] = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"];
/// The owner of what belongs to root on the disk.
const OWNER: (u32, u32) = (100_000, 200_000);

/// A folder with the layers of an overlay, and a place for it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts, and must run as root");
        let folder = Self(tempfile::tempdir().unwrap());
        ["one", "two", "upper", "work", "rootfs"]
            .iter()
            .for_each(|name| fs::create_dir(folder.at(name)).unwrap());
        fs::write(folder.at("one/first"), "1").unwrap();
        fs::write(folder.at("two/second"), "2").unwrap();
        std::os::unix::fs::chown(folder.at("two/second"), Some(7), Some(8)).unwrap();
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn overlay(&self, layers: &[&str]) -> Mount {
        let layers: Vec<_> = layers.iter().map(|name| self.text(name)).collect();
        let layers = format!("lowerdir={}", layers.join(":"));
        let [upper, work] = ["upper", "work"].map(|name| format!("{name}dir={}", self.text(name)));
        mount_of("overlay", "overlay", &[&upper, &work, &layers, "index=off"])
    }

    fn mount(&self, mount: Mount) -> Result<Mounted> {
        super::mount(&Reaper::shared(), &[mount], &self.at("rootfs"))
    }

    fn owner(&self, name: &str) -> (u32, u32) {
        let metadata = fs::metadata(self.at(name)).unwrap();
        (metadata.uid(), metadata.gid())
    }

    /// What is mounted below.
    fn mounts(&self) -> Vec<String> {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        text.lines().filter(|line| line.contains(&self.text(""))).map(str::to_owned).collect()
    }
}

fn mount_of(kind: &str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|&option| option.to_owned()).collect();
    Mount { type_: kind.to_owned(), source: source.to_owned(), options, ..Mount::default() }
}

fn mapped(mut mount: Mount) -> Mount {
    mount.options.extend(MAPPED.map(str::to_owned));
    mount
}

#[test]
fn a_target_stays_below_the_root() {
    assert_eq!(inside(Path::new("/r"), "").unwrap(), Path::new("/r"));
    assert_eq!(inside(Path::new("/r"), "/a/b").unwrap(), Path::new("/r/a/b"));
    assert!(inside(Path::new("/r"), "a/../..").is_err());
}

#[test]
fn the_layers_of_an_overlay_are_mapped() {
    let folder = Folder::new();
    let mounted = folder.mount(mapped(folder.overlay(&["one", "two"]))).unwrap();
    assert_eq!(folder.mounts().len(), 1, "{:?}", folder.mounts());
    assert_eq!(folder.owner("rootfs/first"), OWNER);
    assert_eq!(folder.owner("rootfs/second"), (100_007, 200_008));
    // The upper layer is not: containerd gives it to the mapped root.
    fs::write(folder.at("rootfs/new"), "").unwrap();
    assert_eq!([folder.owner("rootfs/new"), folder.owner("upper/new")], [(0, 0); 2]);
    assert_eq!(folder.owner("one/first"), (0, 0));
    drop(mounted);
    assert_eq!(folder.mounts(), Vec::<String>::new());
}

#[test]
fn many_mapped_layers_are_an_overlay() {
    let folder = Folder::new();
    let names: Vec<_> = (0..200).map(|n| format!("a-layer-with-a-name-that-is-not-short-{n}")).collect();
    for name in &names {
        fs::create_dir(folder.at(name)).unwrap();
        fs::write(folder.at(name).join(name), "").unwrap();
    }
    let mount = folder.overlay(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let _mounted = folder.mount(mapped(mount)).unwrap();
    for name in &names {
        assert_eq!(folder.owner(&format!("rootfs/{name}")), OWNER);
    }
}

#[test]
fn a_failure_leaves_nothing_mounted() {
    let folder = Folder::new();
    let error = folder.mount(mapped(folder.overlay(&["one", "missing"]))).map(drop).unwrap_err();
    let text = format!("cannot open the layer '{}': no such file or directory", folder.text("missing"));
    assert!(error.to_string().ends_with(&text), "{error}");
    // The layers are mounted already when this is found out.
    fs::remove_dir(folder.at("work")).unwrap();
    let error = folder.mount(mapped(folder.overlay(&["one", "two"]))).map(drop).unwrap_err();
    assert!(error.to_string().ends_with("of type overlay: no such file or directory"), "{error}");
    // procfs has no ids that could be mapped.
    let error = folder.mount(mapped(mount_of("bind", "/proc", &["bind"]))).map(drop).unwrap_err();
    assert!(error.to_string().contains("cannot map its ids: invalid argument: its file system"), "{error}");
    assert_eq!(folder.mounts(), Vec::<String>::new());
}

#[test]
fn a_bind_is_mapped_itself_and_has_its_flags() {
    let folder = Folder::new();
    let bind = |options: &[&str]| mapped(mount_of("bind", &folder.text("two"), options));
    let mounted = folder.mount(bind(&["rbind", "ro"])).unwrap();
    assert_eq!(folder.mounts().len(), 1, "{:?}", folder.mounts());
    assert_eq!([folder.owner("rootfs"), folder.owner("rootfs/second")], [OWNER, (100_007, 200_008)]);
    assert_eq!(folder.owner("two/second"), (7, 8));
    let error = fs::write(folder.at("rootfs/new"), "").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    drop(mounted);
    assert_eq!(folder.mounts(), Vec::<String>::new());
}

#[test]
fn without_mappings_owners_are_those_on_the_disk() {
    let folder = Folder::new();
    let _mounted = folder.mount(folder.overlay(&["one", "two"])).unwrap();
    assert_eq!([folder.owner("rootfs/first"), folder.owner("rootfs/second")], [(0, 0), (7, 8)]);
}

/// The loop devices of a file.
fn devices(file: &Path) -> Vec<String> {
    let entries = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
    let of_file = |device: &PathBuf| {
        let backing = fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
        backing.trim_end() == file.to_str().unwrap()
    };
    entries.filter(of_file).map(|device| device.display().to_string()).collect()
}

#[test]
fn a_file_is_mounted_by_a_loop_device_that_goes_away() {
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("unsupported: loop devices");
        return;
    }
    let folder = Folder::new();
    let disk = folder.at("disk");
    fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-d", &folder.text("two")]).arg(&disk);
    let (_child, end) = Reaper::shared().spawn(&mut command).expect("mkfs.ext4");
    assert_eq!(end.recv().unwrap().status, 0);
    let error = folder.mount(mount_of("ext4", &folder.text("none"), &["loop"])).map(drop).unwrap_err();
    assert!(error.to_string().contains("none': no such file or directory"), "{error}");

    for (options, owner) in
        [(&["loop", "rw"][..], (7, 8)), (&["loop", "ro", MAPPED[0], MAPPED[1]], (100_007, 200_008))]
    {
        let mounted = folder.mount(mount_of("ext4", disk.to_str().unwrap(), options)).unwrap();
        let devices = devices(&disk);
        assert_eq!(devices.len(), 1, "{devices:?}");
        let read_only = fs::read_to_string(format!("{}/ro", devices[0])).unwrap();
        assert_eq!(read_only.trim() == "1", options.contains(&"ro"));
        assert_eq!(folder.owner("rootfs/second"), owner);
        drop(mounted);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !self::devices(&disk).is_empty() {
            assert!(std::time::Instant::now() < deadline, "the device is still there");
            std::thread::yield_now();
        }
    }
    assert_eq!(folder.mounts(), Vec::<String>::new());
}
