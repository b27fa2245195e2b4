//! Mount options of the runtime specification (config.md, "Linux mount options"), as data.

use rustix::mount::{MountAttrFlags as Attr, MountPropagationFlags as Propagation};

/// Attributes that apply to one mount, all of them but the access time policy.
const PLAIN: Attr = Attr::MOUNT_ATTR_RDONLY
    .union(Attr::MOUNT_ATTR_NOSUID)
    .union(Attr::MOUNT_ATTR_NODEV)
    .union(Attr::MOUNT_ATTR_NOEXEC);

/// What one option word means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Sets an attribute of the mount.
    Set(Attr),
    /// Clears an attribute of the mount.
    Clear(Attr),
    /// Chooses (true) or drops (false) an access time policy.
    Atime(Atime, bool),
    /// Sets a flag of the superblock, by its fsconfig(2) name.
    Super(&'static str),
    /// Clears a flag of the superblock.
    NoSuper(&'static str),
    /// Propagation type, recursive or not.
    Propagate(Propagation, bool),
    /// Sets an attribute of the mount and all mounts below it.
    RecSet(Attr),
    /// Clears an attribute of the mount and all mounts below it.
    RecClear(Attr),
    Bind {
        recursive: bool,
    },
    Idmap {
        recursive: bool,
    },
    CopyUp,
    Remount,
    /// Known, and means nothing for us.
    Nothing,
}

/// A policy for the update of access times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Atime {
    No,
    Relative,
    Strict,
}

/// Every option word, sorted; anything else is data for the file system.
const TABLE: &[(&str, Meaning)] = {
    use Meaning::{Atime as A, Bind, Clear, CopyUp, Idmap, NoSuper, Nothing, Propagate, RecClear, RecSet};
    use Meaning::{Remount, Set, Super};
    &[
        ("acl", Super("acl")),
        ("async", NoSuper("sync")),
        ("atime", A(Atime::No, false)),
        ("bind", Bind { recursive: false }),
        ("defaults", Nothing),
        ("dev", Clear(Attr::MOUNT_ATTR_NODEV)),
        ("diratime", Clear(Attr::MOUNT_ATTR_NODIRATIME)),
        ("dirsync", Super("dirsync")),
        ("exec", Clear(Attr::MOUNT_ATTR_NOEXEC)),
        ("idmap", Idmap { recursive: false }),
        ("iversion", Super("iversion")),
        ("lazytime", Super("lazytime")),
        ("loud", NoSuper("silent")),
        ("mand", Super("mand")),
        ("noacl", NoSuper("acl")),
        ("noatime", A(Atime::No, true)),
        ("nodev", Set(Attr::MOUNT_ATTR_NODEV)),
        ("nodiratime", Set(Attr::MOUNT_ATTR_NODIRATIME)),
        ("noexec", Set(Attr::MOUNT_ATTR_NOEXEC)),
        ("noiversion", NoSuper("iversion")),
        ("nolazytime", NoSuper("lazytime")),
        ("nomand", NoSuper("mand")),
        ("norelatime", A(Atime::Relative, false)),
        ("nostrictatime", A(Atime::Strict, false)),
        ("nosuid", Set(Attr::MOUNT_ATTR_NOSUID)),
        ("nosymfollow", Set(Attr::MOUNT_ATTR_NOSYMFOLLOW)),
        ("private", Propagate(Propagation::PRIVATE, false)),
        ("ratime", RecClear(Attr::MOUNT_ATTR__ATIME)),
        ("rbind", Bind { recursive: true }),
        ("rdev", RecClear(Attr::MOUNT_ATTR_NODEV)),
        ("rdiratime", RecClear(Attr::MOUNT_ATTR_NODIRATIME)),
        ("relatime", A(Atime::Relative, true)),
        ("remount", Remount),
        ("rexec", RecClear(Attr::MOUNT_ATTR_NOEXEC)),
        ("ridmap", Idmap { recursive: true }),
        ("rnoatime", RecSet(Attr::MOUNT_ATTR_NOATIME)),
        ("rnodev", RecSet(Attr::MOUNT_ATTR_NODEV)),
        ("rnodiratime", RecSet(Attr::MOUNT_ATTR_NODIRATIME)),
        ("rnoexec", RecSet(Attr::MOUNT_ATTR_NOEXEC)),
        ("rnorelatime", RecClear(Attr::MOUNT_ATTR__ATIME)),
        ("rnostrictatime", RecClear(Attr::MOUNT_ATTR__ATIME)),
        ("rnosuid", RecSet(Attr::MOUNT_ATTR_NOSUID)),
        ("rnosymfollow", RecSet(Attr::MOUNT_ATTR_NOSYMFOLLOW)),
        ("ro", Set(Attr::MOUNT_ATTR_RDONLY)),
        ("rprivate", Propagate(Propagation::PRIVATE, true)),
        ("rrelatime", RecSet(Attr::MOUNT_ATTR_RELATIME)),
        ("rro", RecSet(Attr::MOUNT_ATTR_RDONLY)),
        ("rrw", RecClear(Attr::MOUNT_ATTR_RDONLY)),
        ("rshared", Propagate(Propagation::SHARED, true)),
        ("rslave", Propagate(Propagation::DOWNSTREAM, true)),
        ("rstrictatime", RecSet(Attr::MOUNT_ATTR_STRICTATIME)),
        ("rsuid", RecClear(Attr::MOUNT_ATTR_NOSUID)),
        ("rsymfollow", RecClear(Attr::MOUNT_ATTR_NOSYMFOLLOW)),
        ("runbindable", Propagate(Propagation::UNBINDABLE, true)),
        ("rw", Clear(Attr::MOUNT_ATTR_RDONLY)),
        ("shared", Propagate(Propagation::SHARED, false)),
        ("silent", Super("silent")),
        ("slave", Propagate(Propagation::DOWNSTREAM, false)),
        ("strictatime", A(Atime::Strict, true)),
        ("suid", Clear(Attr::MOUNT_ATTR_NOSUID)),
        ("symfollow", Clear(Attr::MOUNT_ATTR_NOSYMFOLLOW)),
        ("sync", Super("sync")),
        ("tmpcopyup", CopyUp),
        ("unbindable", Propagate(Propagation::UNBINDABLE, false)),
    ]
};

/// Every mount option that is understood here, sorted; others are handed to the file system.
pub fn known_mount_options() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(word, _)| *word)
}

/// The propagation type named `word` (`rslave`, `private`, ...) and whether it is recursive.
pub(super) fn propagation(word: &str) -> Option<(Propagation, bool)> {
    match meaning(word)? {
        Meaning::Propagate(kind, recursive) => Some((kind, recursive)),
        _ => None,
    }
}

fn meaning(word: &str) -> Option<Meaning> {
    TABLE.binary_search_by_key(&word, |(name, _)| name).ok().map(|i| TABLE[i].1)
}

/// The options of one mount, sorted out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// `Some(recursive)` for a bind mount.
    pub(super) bind: Option<bool>,
    /// `Some(recursive)` when an id mapping was asked for by option.
    pub(super) idmap: Option<bool>,
    pub(super) remount: bool,
    pub(super) copy_up: bool,
    /// Attributes to set, without the access time policy.
    pub(super) set: Attr,
    /// Attributes that must not be set.
    pub(super) clear: Attr,
    no_atime: bool,
    rel_atime: bool,
    strict_atime: bool,
    atime_cleared: bool,
    /// Attributes to set and clear on the mount and all below.
    pub(super) rec_set: Attr,
    pub(super) rec_clear: Attr,
    /// Superblock flags by fsconfig(2) name; without `ro`, which follows `set`.
    pub(super) super_flags: Vec<&'static str>,
    /// In the order given; each is applied.
    pub(super) propagation: Vec<(Propagation, bool)>,
    /// What the file system itself gets: `key=value` or `key`.
    pub(super) data: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: None,
            idmap: None,
            remount: false,
            copy_up: false,
            set: Attr::empty(),
            clear: Attr::empty(),
            no_atime: false,
            rel_atime: false,
            strict_atime: false,
            atime_cleared: false,
            rec_set: Attr::empty(),
            rec_clear: Attr::empty(),
            super_flags: Vec::new(),
            propagation: Vec::new(),
            data: Vec::new(),
        }
    }
}

impl Options {
    /// Sorts out `words`; of two that contradict each other the later holds.
    pub(super) fn parse<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Self {
        let mut options = Self::default();
        for word in words {
            let word = word.as_ref();
            match meaning(word) {
                Some(meaning) => options.add(meaning),
                None => options.data.extend(split_data(word)),
            }
        }
        options
    }

    fn add(&mut self, meaning: Meaning) {
        match meaning {
            Meaning::Set(attr) => {
                self.set |= attr;
                self.clear -= attr;
            }
            Meaning::Clear(attr) => {
                self.set -= attr;
                self.clear |= attr;
            }
            Meaning::Atime(policy, on) => {
                match policy {
                    Atime::No => self.no_atime = on,
                    Atime::Relative => self.rel_atime = on,
                    Atime::Strict => self.strict_atime = on,
                }
                self.atime_cleared |= !on;
            }
            Meaning::Super(flag) => {
                self.super_flags.retain(|f| *f != flag);
                self.super_flags.push(flag);
            }
            Meaning::NoSuper(flag) => self.super_flags.retain(|f| *f != flag),
            Meaning::Propagate(kind, recursive) => self.propagation.push((kind, recursive)),
            Meaning::RecSet(attr) => {
                // mount_setattr(2): a new access time policy replaces the whole old one.
                if Attr::MOUNT_ATTR__ATIME.contains(attr) {
                    self.rec_clear |= Attr::MOUNT_ATTR__ATIME;
                }
                self.rec_set |= attr;
            }
            Meaning::RecClear(attr) => self.rec_clear |= attr,
            Meaning::Bind { recursive } => self.bind = Some(recursive || self.bind == Some(true)),
            Meaning::Idmap { recursive } => self.idmap = Some(recursive),
            Meaning::CopyUp => self.copy_up = true,
            Meaning::Remount => self.remount = true,
            Meaning::Nothing => {}
        }
    }

    /// Whether a recursive attribute was asked for.
    pub(super) fn has_recursive(&self) -> bool {
        !(self.rec_set.is_empty() && self.rec_clear.is_empty())
    }

    /// The same with the attributes that are set also set on all mounts below.
    pub(super) fn for_all_below(&self) -> Self {
        Self { rec_set: self.rec_set | self.set, ..self.clone() }
    }

    pub(super) fn read_only(&self) -> bool {
        self.set.contains(Attr::MOUNT_ATTR_RDONLY)
    }

    /// The attributes of a new file system's mount.
    ///
    /// mount(2): strictatime wins over noatime, and relatime is what a mount has when nothing is said.
    pub(super) fn new_mount_attr(&self) -> Attr {
        let atime = if self.strict_atime {
            Attr::MOUNT_ATTR_STRICTATIME
        } else if self.no_atime {
            Attr::MOUNT_ATTR_NOATIME
        } else {
            Attr::MOUNT_ATTR_RELATIME
        };
        self.set | atime
    }

    /// Whether a bind mount gets attributes of its own: when any was set or cleared.
    pub(super) fn changes_bind(&self) -> bool {
        !self.set.is_empty() || !self.clear.is_empty() || self.has_atime() || self.atime_cleared
    }

    fn has_atime(&self) -> bool {
        self.no_atime || self.rel_atime || self.strict_atime || self.set.contains(Attr::MOUNT_ATTR_NODIRATIME)
    }

    /// `(set, clear)` for a bind mount: exactly the attributes asked for, and the source's access time policy unless
    /// one is named. This is what `mount --bind -o OPTIONS` and runc do.
    pub(super) fn bind_attr(&self) -> (Attr, Attr) {
        let mut clear = (PLAIN | self.clear) - self.set;
        if !self.has_atime() {
            return (self.set, clear);
        }
        clear |= Attr::MOUNT_ATTR__ATIME | (Attr::MOUNT_ATTR_NODIRATIME - self.set);
        (self.new_mount_attr(), clear)
    }

    /// `(set, clear)` for a bind mount whose source has attributes that are locked in this user namespace: those of
    /// the source stay, except what is cleared by name.
    pub(super) fn locked_bind_attr(&self) -> (Attr, Attr) {
        let (set, _) = self.bind_attr();
        let atime = if self.has_atime() { Attr::MOUNT_ATTR__ATIME } else { Attr::empty() };
        (set, self.clear | atime)
    }
}

/// Splits file system data at commas, but not within double quotes (SELinux contexts have commas); the quotes go.
pub(super) fn split_data(data: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in data.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            c => parts.last_mut().expect("never empty").push(c),
        }
    }
    parts.retain(|p| !p.is_empty());
    parts
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
