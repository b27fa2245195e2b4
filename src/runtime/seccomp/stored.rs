//! Filters by the content of their profile: compiled once and kept under the state root.

use super::Filter;
use super::compile::compile;
use crate::error::{Context as _, ErrorKind, Result};
use crate::platform::sys::heap;
use crate::storage::blobs::Digest;
use crate::storage::state_root::StateRoot;
use oci_spec::runtime::LinuxSeccomp;

/// Name of the cache.
const CACHE: &str = "seccomp";

/// The filter of a profile. Compiling the default profile of container engines takes longer than all else that `create`
/// does together.
pub fn filter(root: &StateRoot, profile: &LinuxSeccomp) -> Result<Filter> {
    let key = key(profile)?;
    let cache = root.cache(CACHE);
    let kept = cache.as_ref().and_then(|cache| cache.get(&key));
    if let Some(filter) = kept.and_then(|data| Filter::decode(&data).ok()) {
        return Ok(filter);
    }
    let filter = compile(profile)?;
    // The container's first process, a copy of this one, would keep what libseccomp took for itself: a megabyte.
    heap::trim();
    if let Some(cache) = cache {
        cache.put(&key, &filter.encode());
    }
    Ok(filter)
}

/// Stands for everything that a filter depends on: the profile, this program, and the libseccomp that is linked in.
fn key(profile: &LinuxSeccomp) -> Result<Digest> {
    let program = concat!(env!("CARGO_PKG_VERSION"), " ", env!("MAGIKRUN_COMMIT"), " ");
    let mut text = program.as_bytes().to_vec();
    text.extend_from_slice(std::env::consts::ARCH.as_bytes());
    if let Ok(version) = libseccomp::ScmpVersion::current() {
        text.extend(format!(" {} {} {}\n", version.major, version.minor, version.micro).bytes());
    }
    serde_json::to_writer(&mut text, profile)
        .or_kind(ErrorKind::InvalidBundle, || "cannot read linux.seccomp")?;
    Ok(Digest::of(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn profile(name: &str) -> LinuxSeccomp {
        let calls = json!([{"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}]);
        serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls})).unwrap()
    }

    #[test]
    fn a_filter_is_compiled_once_for_each_profile() {
        let tmp = tempfile::tempdir().unwrap();
        let root = StateRoot::new(tmp.path());
        let first = filter(&root, &profile("mkdir")).unwrap();
        let kept = |profile: &LinuxSeccomp| root.cache(CACHE).unwrap().get(&key(profile).unwrap());
        assert_eq!(kept(&profile("mkdir")).unwrap(), first.encode());
        assert_eq!(kept(&profile("rmdir")), None);
        // What is kept is what is used.
        let marked = filter(&root, &profile("rmdir")).unwrap();
        root.cache(CACHE).unwrap().put(&key(&profile("mkdir")).unwrap(), &marked.encode());
        assert_eq!(filter(&root, &profile("mkdir")).unwrap().encode(), marked.encode());
    }

    #[test]
    fn a_wrong_profile_is_refused_every_time() {
        let tmp = tempfile::tempdir().unwrap();
        let root = StateRoot::new(tmp.path());
        let wrong: LinuxSeccomp =
            serde_json::from_value(json!({"defaultAction": "SCMP_ACT_NOTIFY"})).unwrap();
        assert!(filter(&root, &wrong).is_err() && filter(&root, &wrong).is_err());
    }
}
