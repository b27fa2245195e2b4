//! Users of an image, by the text of its `/etc/passwd` and `/etc/group`. Never by the C library, which would load code of
//! the image's.

use crate::error::{Error, ErrorKind, Result};

/// Who a process is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Additional group ids.
    pub additional_gids: Vec<u32>,
}

/// Resolves `USER[:GROUP]`. A number needs no entry; its group is then root's unless there is one.
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity> {
    let (user, wanted_group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    let number = user.parse::<u32>().ok();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields.as_slice() else { return None };
        let uid: u32 = uid.parse().ok()?;
        (*name == user || number == Some(uid)).then(|| Some(((*name).to_owned(), uid, gid.parse().ok()?)))?
    });
    let (name, uid, own_gid) = match (entry, number) {
        (Some((name, uid, gid)), _) => (Some(name), uid, gid),
        (None, Some(uid)) => (None, uid, 0),
        (None, None) if user.is_empty() => (None, 0, 0),
        (None, None) => return Err(unknown("user", user, "/etc/passwd")),
    };
    let gid = match wanted_group.filter(|group| !group.is_empty()) {
        Some(wanted) => group_id(wanted, group)?,
        None => own_gid,
    };
    let additional_gids = name.map(|name| groups_of(&name, group)).unwrap_or_default();
    Ok(Identity { uid, gid, additional_gids: additional_gids.into_iter().filter(|id| *id != gid).collect() })
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    Error::new(
        ErrorKind::BundleBuildFailed,
        format!("cannot find {what} '{}' in the image's {file}", name.escape_default()),
    )
}

/// The entries of `/etc/group`: name, id, members.
fn entries(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields.as_slice() else { return None };
        Some((*name, gid.parse().ok()?, *members))
    })
}

fn group_id(wanted: &str, group: &str) -> Result<u32> {
    let found = entries(group).find(|(name, _, _)| *name == wanted).map(|(_, gid, _)| gid);
    found.or_else(|| wanted.parse().ok()).ok_or_else(|| unknown("group", wanted, "/etc/group"))
}

fn groups_of(name: &str, group: &str) -> Vec<u32> {
    let is_member = |members: &str| members.split(',').any(|member| member == name);
    entries(group).filter(|(_, _, members)| is_member(members)).map(|(_, gid, _)| gid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nalice:x:1000:100::/home:/bin/sh\n7:x:70:70::/:\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\naudio:x:29:bob,alice\nvideo:x:44:alicex\n";

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        let identity = |uid, gid, more: &[u32]| Identity { uid, gid, additional_gids: more.to_vec() };
        for (user, expected) in [
            ("", identity(0, 0, &[])),
            ("root", identity(0, 0, &[])),
            ("alice", identity(1000, 100, &[29])),
            ("1000", identity(1000, 100, &[29])),
            ("alice:audio", identity(1000, 29, &[])),
            ("alice:5", identity(1000, 5, &[29])),
            ("4711", identity(4711, 0, &[])),
            ("4711:4712", identity(4711, 4712, &[])),
            ("7", identity(70, 70, &[])),
            (":5", identity(0, 5, &[])),
        ] {
            assert_eq!(resolve(user, PASSWD, GROUP).unwrap(), expected, "{user}");
        }
        assert!(resolve("nobody", PASSWD, GROUP).unwrap_err().message().contains("user 'nobody'"));
        assert!(resolve("0:wheel", PASSWD, GROUP).is_err());
        assert_eq!(resolve("5", "", "").unwrap(), identity(5, 0, &[]));
    }
}
