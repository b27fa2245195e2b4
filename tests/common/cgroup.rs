//! The host's view of cgroups, v1 one controller a folder or v2.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CGROUPS: &str = "/sys/fs/cgroup";

/// The host's folder of the cgroup that process `pid` is in for `controller`.
pub fn cgroup_dir(pid: i32, controller: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the cgroups of the process");
    let mut unified = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().expect("controllers"), fields.next().expect("a path"));
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|name| name == controller) {
            let single = Path::new(CGROUPS).join(controller);
            let root = if single.exists() { single } else { Path::new(CGROUPS).join(controllers) };
            return root.join(path);
        }
        if controllers.is_empty() {
            unified = Some(Path::new(CGROUPS).join(path));
        }
    }
    unified.expect("a cgroup v2 path")
}

/// Whether the host has these controllers, of either version; says which it lacks.
pub fn has_controllers(names: &[&str]) -> bool {
    let unified = fs::read_to_string(Path::new(CGROUPS).join("cgroup.controllers")).unwrap_or_default();
    let has = |name: &str| {
        unified.split_whitespace().any(|known| known == name) || Path::new(CGROUPS).join(name).exists()
    };
    let missing: Vec<_> = names.iter().filter(|name| !has(name)).collect();
    for name in &missing {
        eprintln!("unsupported: cgroup controller {name}");
    }
    missing.is_empty()
}

/// One value of a container's cgroup, by its v1 or v2 file, whichever exists.
pub fn cgroup_value(pid: i32, controller: &str, v1: &str, v2: &str) -> String {
    let dir = cgroup_dir(pid, controller);
    let file = [v1, v2].into_iter().map(|name| dir.join(name)).find(|path| path.exists());
    let file = file.unwrap_or_else(|| panic!("neither {v1} nor {v2} in {}", dir.display()));
    fs::read_to_string(&file).expect("a readable cgroup file").trim().to_owned()
}

fn hierarchies() -> Vec<PathBuf> {
    let children = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
    let controllers = children.filter(|path| path.join("cgroup.procs").exists() && path.is_dir());
    std::iter::once(PathBuf::from(CGROUPS)).chain(controllers).collect()
}

fn tree(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tree(&entry.path(), found);
        }
    }
    found.push(dir.to_path_buf());
}

/// Every cgroup below `/<name>` in every hierarchy, children before parents.
pub fn leftover_cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        let dir = hierarchy.join(name);
        if dir.is_dir() {
            tree(&dir, &mut found);
        }
    }
    found
}

/// Makes the cgroup `/<name>` in every hierarchy whose cgroups take processes as they are made.
pub fn make_cgroups(name: &str) {
    let takes = |dir: &PathBuf| dir.join("cgroup.procs").exists() && !dir.ends_with("cpuset");
    for hierarchy in hierarchies().into_iter().filter(takes) {
        fs::create_dir_all(hierarchy.join(name)).expect("a cgroup");
    }
}

/// Removes the cgroups below `/<name>`, which a test made, as soon as they are empty.
pub fn remove_cgroups(name: &str) {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let left = leftover_cgroups(name);
        let busy = left.iter().filter(|dir| fs::remove_dir(dir).is_err()).count();
        if busy == 0 || Instant::now() > end {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
