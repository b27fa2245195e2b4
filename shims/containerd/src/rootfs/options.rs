//! The options of a mount, as containerd's snapshotters write them: what they mean for mount(2), and for what comes before it.

use super::idmap::Mappings;
use super::layers;
use crate::error::{Error, Result};
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::ffi::CString;
use std::path::Path;

/// What the options of a mount mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Flags for mount(2).
    pub flags: MountFlags,
    /// How mounts below spread, if it is said.
    pub propagation: MountPropagationFlags,
    /// Options that the file system understands, or refuses.
    pub data: Vec<String>,
    /// The ids that those of the files become.
    pub ids: Option<Mappings>,
    /// The source is a file, and a loop device is made of it.
    pub loop_device: Option<LoopDevice>,
    /// What is mounted there already is changed.
    remount: bool,
}

/// What a loop device is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopDevice {
    /// It goes past the page cache of the file.
    pub direct: bool,
}

impl Options {
    /// Reads options; what is unknown is left to the file system.
    pub fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self {
            flags: MountFlags::empty(),
            propagation: MountPropagationFlags::empty(),
            data: Vec::new(),
            ids: None,
            loop_device: None,
            remount: false,
        };
        let [mut uids, mut gids] = [None; 2];
        for option in options {
            match option.as_str() {
                "private" => parsed.propagation = MountPropagationFlags::PRIVATE,
                "remount" => parsed.remount = true,
                "loop" => parsed.loop_device = Some(LoopDevice { direct: false }),
                "defaults" => {}
                option => {
                    if let Some(map) = option.strip_prefix("uidmap=") {
                        uids = Some(map);
                    } else if let Some(map) = option.strip_prefix("gidmap=") {
                        gids = Some(map);
                    } else if let Some((set, clear)) = flag(option) {
                        parsed.flags = (parsed.flags | set).difference(clear);
                    } else {
                        parsed.data.push(option.to_owned());
                    }
                }
            }
        }
        parsed.ids = match (uids, gids) {
            (None, None) => None,
            (Some(uids), Some(gids)) => Some(Mappings::parse(uids, gids)?),
            // Half of it would give the files to the wrong group or user.
            _ => return Err(Error::invalid("only one of the options 'uidmap' and 'gidmap' is there")),
        };
        if let Some(device) = &mut parsed.loop_device {
            let count = parsed.data.len();
            parsed.data.retain(|option| option != "direct-io");
            device.direct = parsed.data.len() < count;
        }
        Ok(parsed)
    }

    /// The folders that an overlay is made of, the upper one first.
    pub fn layers(&self) -> Option<&str> {
        self.data.iter().find_map(|option| option.strip_prefix(layers::OPTION))
    }

    /// The same with other layers.
    pub fn with_layers(&self, layers: &str) -> Self {
        let mut new = self.clone();
        for option in &mut new.data {
            if option.starts_with(layers::OPTION) {
                *option = format!("{}{layers}", layers::OPTION);
            }
        }
        new
    }

    /// Mounts `source`.
    pub fn mount(&self, kind: &str, source: &str, target: &Path) -> Result<()> {
        let bind = self.flags.contains(MountFlags::BIND);
        let kind = if bind { "" } else { kind };
        let data = self.data.join(",");
        let (data, _folder) = layers::fitting(&data)?;
        let data = CString::new(data.as_bytes()).map_err(|_| Error::invalid("a null byte in its options"))?;
        if self.remount {
            return Ok(rustix::mount::mount_remount(target, self.flags, data.as_c_str())?);
        }
        rustix::mount::mount(source, target, kind, self.flags, Some(data.as_c_str()))?;
        // A bind takes the flags of what it binds, until it is mounted again.
        let others = self.flags.difference(MountFlags::BIND | MountFlags::REC);
        if bind && !others.is_empty() {
            rustix::mount::mount_remount(target, MountFlags::BIND | others, c"")?;
        }
        Ok(())
    }
}

/// The flags that an option sets, and those that it clears.
fn flag(option: &str) -> Option<(MountFlags, MountFlags)> {
    let (set, flag) = match option {
        "bind" => (true, MountFlags::BIND),
        "rbind" => (true, MountFlags::BIND | MountFlags::REC),
        "ro" => (true, MountFlags::RDONLY),
        "rw" => (false, MountFlags::RDONLY),
        "nosuid" => (true, MountFlags::NOSUID),
        "suid" => (false, MountFlags::NOSUID),
        "nodev" => (true, MountFlags::NODEV),
        "dev" => (false, MountFlags::NODEV),
        "noexec" => (true, MountFlags::NOEXEC),
        "exec" => (false, MountFlags::NOEXEC),
        "noatime" => (true, MountFlags::NOATIME),
        "atime" => (false, MountFlags::NOATIME),
        "nodiratime" => (true, MountFlags::NODIRATIME),
        "diratime" => (false, MountFlags::NODIRATIME),
        "relatime" => (true, MountFlags::RELATIME),
        "norelatime" => (false, MountFlags::RELATIME),
        "strictatime" => (true, MountFlags::STRICTATIME),
        "nostrictatime" => (false, MountFlags::STRICTATIME),
        "sync" => (true, MountFlags::SYNCHRONOUS),
        "async" => (false, MountFlags::SYNCHRONOUS),
        "dirsync" => (true, MountFlags::DIRSYNC),
        "mand" => (true, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "nomand" => (false, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        _ => return None,
    };
    let none = MountFlags::empty();
    Some(if set { (flag, none) } else { (none, flag) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options> {
        Options::parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_flags_or_data() {
        let parsed = parse("rbind ro lowerdir=/a:/b rw nosuid index=off defaults").unwrap();
        assert_eq!(parsed.flags, MountFlags::BIND | MountFlags::REC | MountFlags::NOSUID);
        assert_eq!(parsed.data, ["lowerdir=/a:/b", "index=off"]);
        assert_eq!(parsed.layers(), Some("/a:/b"));
        assert_eq!(parsed.with_layers("3:4").data, ["lowerdir=3:4", "index=off"]);
        let times = "noatime atime nodiratime diratime relatime norelatime strictatime nostrictatime";
        let rest = "sync async mand nomand noexec exec nodev dev nosuid suid dirsync";
        assert_eq!(parse(&format!("{times} {rest}")).unwrap().flags, MountFlags::DIRSYNC);
        assert_eq!(parse("mand").unwrap().flags, MountFlags::PERMIT_MANDATORY_FILE_LOCKING);
    }

    #[test]
    fn ids_are_mapped_for_users_and_groups_or_not_at_all() {
        let parsed = parse("uidmap=0:100000:65536 gidmap=0:200000:65536 ro").unwrap();
        assert_eq!(parsed.ids, Some(Mappings::parse("0:100000:65536", "0:200000:65536").unwrap()));
        assert!(parsed.data.is_empty());
        let error = parse("uidmap=0:100000:65536").unwrap_err().to_string();
        assert!(error.contains("only one of"), "{error}");
        assert!(parse("uidmap=0:1 gidmap=0:1:1").is_err());
    }

    #[test]
    fn direct_io_is_an_option_of_a_loop_device() {
        let parsed = parse("direct-io loop ro discard").unwrap();
        assert_eq!(parsed.loop_device, Some(LoopDevice { direct: true }));
        assert_eq!(parsed.data, ["discard"]);
        let parsed = parse("direct-io").unwrap();
        assert_eq!((parsed.loop_device, parsed.data), (None, vec!["direct-io".to_owned()]));
    }
}
