//! Names in a layer: what they ask for, or why they are refused. Nothing here touches a file system.

use crate::error::{Error, ErrorKind, Result};

/// Prefix of a name that removes what lower layers have: OCI image specification, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
/// Name that hides everything that lower layers have in a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of names that aufs kept for itself.
const AUFS: &[u8] = b".wh..wh.";
/// Longest path, in bytes: `PATH_MAX` of the kernel.
const MAX_PATH: usize = 4096;
/// Longest name, in bytes: `NAME_MAX` of the kernel.
const MAX_NAME: usize = 255;

/// Most directories that one is in. What is unpacked is also copied and looked at, with two descriptors a level.
pub(super) const MAX_DEPTH: usize = 256;

/// What a name asks for. `parent` has neither a leading nor a trailing slash, and is empty for the root.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// The root itself.
    Root,
    /// Something to be made.
    Plain { parent: Vec<u8>, name: &'a [u8] },
    /// Something of lower layers to be hidden.
    Whiteout { parent: Vec<u8>, name: &'a [u8] },
    /// A directory whose content in lower layers is hidden.
    Opaque { parent: Vec<u8> },
    /// Bookkeeping of other tools.
    Ignored,
}

fn refuse(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::PathTraversal, why)
}

/// It would be below too many directories.
pub(super) fn too_deep() -> Error {
    refuse(format!("it is in more than {MAX_DEPTH} directories"))
}

/// Checks a name and tells what it asks for.
pub(super) fn classify(path: &[u8]) -> Result<Name<'_>> {
    if path.contains(&0) {
        return Err(refuse("its name has a NUL byte"));
    }
    // The root itself has no other name in the layers of some tools.
    if path.first() == Some(&b'/') && path.iter().any(|byte| *byte != b'/') {
        return Err(refuse("its name is absolute"));
    }
    if path.len() > MAX_PATH {
        return Err(refuse(format!("its name has more than {MAX_PATH} bytes")));
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refuse("its name has a component '..'")),
            part if part.len() > MAX_NAME => {
                return Err(refuse(format!("its name has a component of more than {MAX_NAME} bytes")));
            }
            part => parts.push(part),
        }
    }
    let Some(name) = parts.pop() else { return Ok(Name::Root) };
    if parts.iter().any(|part| part.starts_with(WHITEOUT)) {
        return Err(refuse("a directory of its name is a whiteout"));
    }
    if parts.len() > MAX_DEPTH {
        return Err(too_deep());
    }
    let parent = parts.join(&b'/');
    if name == OPAQUE {
        return Ok(Name::Opaque { parent });
    }
    if name.starts_with(AUFS) {
        return Ok(Name::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        Some(b"" | b"." | b"..") => Err(refuse("it is a whiteout of no file")),
        Some(hidden) => Ok(Name::Whiteout { parent, name: hidden }),
        None => Ok(Name::Plain { parent, name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_asks_for_one_thing() {
        let plain =
            |parent: &str, name: &'static str| Name::Plain { parent: parent.into(), name: name.as_bytes() };
        for (path, name) in [
            ("a", plain("", "a")),
            ("./a/b/", plain("a", "b")),
            ("a//b/./c", plain("a/b", "c")),
            ("...", plain("", "...")),
            ("a/..b", plain("a", "..b")),
            ("", Name::Root),
            ("./", Name::Root),
            ("/", Name::Root),
            ("a/.wh.b", Name::Whiteout { parent: b"a".to_vec(), name: b"b" }),
            (".wh..wh..opq", Name::Opaque { parent: Vec::new() }),
            ("a/b/.wh..wh..opq", Name::Opaque { parent: b"a/b".to_vec() }),
            (".wh..wh.plnk", Name::Ignored),
        ] {
            assert_eq!(classify(path.as_bytes()).unwrap(), name, "{path}");
        }
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        let long = "x".repeat(256);
        let (deep, many) = ("x/".repeat(2049), "x/".repeat(258));
        for path in [
            "/a", "..", "a/..", "a/../b", "../a", "a\0b", ".wh.", "a/.wh..", ".wh...", ".wh.a/b", &long,
            &deep, &many,
        ] {
            let e = classify(path.as_bytes()).expect_err(path);
            assert_eq!(e.kind(), ErrorKind::PathTraversal);
        }
    }
}
