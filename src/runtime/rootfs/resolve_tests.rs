use super::*;
use std::fs;
use std::os::unix::fs::symlink;

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("r/a/b")).unwrap();
        fs::create_dir_all(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("r/file"), "").unwrap();
        Self(dir)
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("r")
    }
    fn link(&self, target: &str, name: &str) {
        symlink(target, self.path().join(name)).unwrap();
    }
    fn open(&self) -> OwnedFd {
        rustix::fs::open(self.path(), NAME_ONLY, Mode::empty()).unwrap()
    }
    fn locate(&self, path: &str) -> Result<Spot, Errno> {
        locate(self.open().as_fd(), Path::new(path))
    }
    fn outside_is_empty(&self) -> bool {
        fs::read_dir(self.0.path().join("outside")).unwrap().next().is_none()
    }
}

#[test]
fn a_path_without_links_is_found_as_written() {
    let root = Root::new();
    let spot = root.locate("//a/./b/").unwrap();
    assert_eq!(spot.path(), Path::new("/a/b"));
    assert!(spot.existing().is_some());
    assert_eq!(root.locate("/").unwrap().path(), Path::new("/"));
}

#[test]
fn links_that_point_outside_stay_inside() {
    let root = Root::new();
    root.link("../../outside", "up");
    root.link("/outside", "abs");
    root.link("/a", "ok");
    for (name, path) in [("/up/x", "/outside/x"), ("/abs/y", "/outside/y")] {
        let spot = root.locate(name).unwrap();
        assert_eq!(spot.path(), Path::new(path));
        assert!(spot.existing().is_none());
        spot.or_create_dir().unwrap();
    }
    assert!(root.outside_is_empty());
    assert!(root.path().join("outside/x").is_dir());
    assert_eq!(root.locate("/ok/b").unwrap().path(), Path::new("/a/b"));
}

#[test]
fn dot_dot_never_leaves_the_root_and_follows_the_links_target() {
    let root = Root::new();
    root.link("a/b", "deep");
    assert_eq!(root.locate("../../../a").unwrap().path(), Path::new("/a"));
    assert_eq!(root.locate("/deep/../c").unwrap().path(), Path::new("/a/c"));
    assert_eq!(root.locate("/no/such/../../a").unwrap().path(), Path::new("/a"));
}

#[test]
fn a_dangling_link_is_created_at_its_target_inside() {
    let root = Root::new();
    root.link("/new/dir/file", "dangling");
    root.locate("/dangling").unwrap().or_create_file().unwrap();
    assert!(root.path().join("new/dir/file").is_file());
}

#[test]
fn loops_of_links_and_files_used_as_directories_are_errors() {
    let root = Root::new();
    root.link("two", "one");
    root.link("one", "two");
    assert_eq!(root.locate("/one/x").unwrap_err(), Errno::LOOP);
    assert_eq!(root.locate("/file/x").unwrap_err(), Errno::NOTDIR);
}

#[test]
fn creating_does_not_follow_a_link_that_appears_meanwhile() {
    let root = Root::new();
    let spot = root.locate("/late/dir").unwrap();
    root.link("../outside", "late");
    assert!(spot.or_create_dir().is_err());
    let spot = root.locate("/latefile").unwrap();
    root.link("../outside/file", "latefile");
    assert_eq!(spot.or_create_file().unwrap_err(), Errno::LOOP);
    assert!(root.outside_is_empty());
}

#[test]
fn a_descriptor_found_before_a_swap_stays_what_it_was() {
    let root = Root::new();
    let spot = root.locate("/a/b").unwrap();
    fs::rename(root.path().join("a"), root.path().join("old")).unwrap();
    root.link("../outside", "a");
    let dir = spot.or_create_dir().unwrap();
    mkdirat(&dir, "made", DIR_MODE).unwrap();
    assert!(root.path().join("old/b/made").is_dir());
    assert!(root.outside_is_empty());
}

#[test]
fn paths_are_cleaned_by_text() {
    assert_eq!(clean(Path::new("dev//./pts/../shm/")), Path::new("/dev/shm"));
    assert_eq!(clean(Path::new("/../..")), Path::new("/"));
}
