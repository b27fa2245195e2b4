//! Files that the containers of a pod share, in the sandbox's bundle. containerd leaves them to whoever makes the sandbox.

use super::pod::Pod;
use crate::bundle::SharedFile;
use crate::error::{Context as _, Result};
use crate::reaper::Reaper;
use crate::rootfs::{self, Mounted};
use containerd_shim_protos::types::mount::Mount;
use std::iter;
use std::path::Path;

/// The folder for shared memory, in the bundle.
pub const SHM: &str = "shm";
/// Its size, as containerd has it.
const SHM_OPTIONS: [&str; 5] = ["nosuid", "nodev", "noexec", "mode=1777", "size=65536k"];

/// Makes the files, and mounts shared memory if the pod has its own.
pub fn make(reaper: &Reaper, bundle: &Path, pod: &Pod) -> Result<(Vec<SharedFile>, Option<Mounted>)> {
    let write = |name: &str, at: &'static str, text: &str| -> Result<SharedFile> {
        let path = bundle.join(name);
        std::fs::write(&path, text).context(|| format!("cannot write '{}'", path.display()))?;
        Ok(SharedFile { source: path, destination: at })
    };
    let host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut files = vec![
        write("hosts", "/etc/hosts", &host("/etc/hosts"))?,
        write("resolv.conf", "/etc/resolv.conf", &resolver(pod).unwrap_or_else(|| host("/etc/resolv.conf")))?,
    ];
    if !pod.hostname.is_empty() {
        files.push(write("hostname", "/etc/hostname", &format!("{}\n", pod.hostname))?);
    }
    if pod.node.ipc {
        files.push(SharedFile { source: "/dev/shm".into(), destination: "/dev/shm" });
        return Ok((files, None));
    }
    let shm = bundle.join(SHM);
    let mount = Mount {
        type_: "tmpfs".to_owned(),
        source: "shm".to_owned(),
        options: SHM_OPTIONS.map(str::to_owned).to_vec(),
        ..Mount::default()
    };
    let mounted = rootfs::mount(reaper, &[mount], &shm)?;
    files.push(SharedFile { source: shm, destination: "/dev/shm" });
    Ok((files, Some(mounted)))
}

/// The resolver's configuration, if the pod has one.
fn resolver(pod: &Pod) -> Option<String> {
    let [servers, searches, options] = &pod.dns;
    let line = |name: &str, words: &[String]| {
        if words.is_empty() { String::new() } else { format!("{name} {}\n", words.join(" ")) }
    };
    let servers = servers.iter().map(|server| format!("nameserver {server}\n"));
    let lines: Vec<_> =
        iter::once(line("search", searches)).chain(servers).chain([line("options", options)]).collect();
    let text = lines.concat();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolver_is_that_of_the_pod_or_of_the_node() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let dns = [words("10.0.0.1 10.0.0.2"), words("a.local local"), words("ndots:5")];
        let text = resolver(&Pod { dns, ..Pod::default() }).unwrap();
        assert_eq!(text, "search a.local local\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n");
        assert_eq!(resolver(&Pod::default()), None);
    }
}
