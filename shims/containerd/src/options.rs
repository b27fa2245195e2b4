//! Options of the runtime: what an operator wrote into containerd's configuration for it.
//!
//! They come as runc's message, so that what works for runc's shim works here, or as the message for any other shim,
//! which names or holds a TOML document with the same names.

use crate::error::{Context as _, Error, Result};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{CodedInputStream, Message as _};
use containerd_shim_protos::shim::oci;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where the state of containers is, one directory a namespace.
const DEFAULT_ROOT: &str = "/run/containerd/magikrun";
/// The resolved options in the bundle, for the clean-up after a server that died.
const FILE: &str = "magikrun-options.json";

/// The types of messages that hold options: that of runc's shim, and that for all others.
const TYPES: [&str; 2] = [RUNC, GENERIC];
const RUNC: &str = "containerd.runc.v1.Options";
const GENERIC: &str = "runtimeoptions.v1.Options";

/// Backends that the name of this program may say.
const BACKENDS: [&str; 3] = ["native", "wasm", "krun"];

/// The name of a message's type.
fn name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// The options; the names in TOML are those that runc's shim has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct Options {
    /// The runtime to execute; empty for the `magikrun` beside this program, or on PATH.
    pub binary_name: String,
    /// Directory of the runtime's state, without the namespace; empty for the default.
    pub root: PathBuf,
    /// Let systemd make the cgroups.
    pub systemd_cgroup: bool,
    /// Do not use pivot_root(2).
    pub no_pivot_root: bool,
    /// Keep the session keyring.
    pub no_new_keyring: bool,
    /// Cgroup for the server itself.
    pub shim_cgroup: String,
    /// Owner of the pipes of standard input and output.
    pub io_uid: u32,
    /// Group of the pipes of standard input and output.
    pub io_gid: u32,
    /// Directory of the images of `checkpoint`, where the request names none.
    pub criu_image_path: String,
    /// Directory of criu's work files.
    pub criu_work_path: String,
    /// The backend for containers whose annotations name none: native, wasm or krun.
    pub backend: String,
    /// Type of the document: containerd copies it from its configuration, and nothing reads it.
    #[serde(skip_serializing)]
    pub type_url: String,
}

impl Options {
    /// Whether a message is of a type that can hold options.
    pub fn is_one(any: &Any) -> bool {
        TYPES.contains(&name(any))
    }

    /// Reads the options of a request.
    pub fn from_any(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(Self::default()) };
        match name(any) {
            RUNC => Ok(oci::Options::parse_from_bytes(&any.value)?.into()),
            GENERIC => Self::from_document(&any.value),
            name => Err(Error::invalid(format!("unknown type of runtime options '{name}'"))),
        }
        .context(|| "cannot read the runtime's options")
    }

    /// The message for shims that containerd does not know.
    fn from_document(message: &[u8]) -> Result<Self> {
        let (mut path, mut body) = (String::new(), Vec::new());
        let mut input = CodedInputStream::from_bytes(message);
        // Fields: 1 type_url, 2 config_path, 3 config_body; a tag is the number and the type of the field.
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match tag >> 3 {
                2 => path = input.read_string()?,
                3 => body = input.read_bytes()?,
                _ => drop(input.read_bytes()?),
            }
        }
        if !path.is_empty() {
            body = std::fs::read(&path).context(|| format!("cannot read '{path}'"))?;
        }
        let text = String::from_utf8(body).map_err(|_| Error::invalid("the document is not UTF-8"))?;
        toml::from_str(&text).map_err(|e| Error::invalid(e.to_string().trim().replace('\n', " ")))
    }

    /// The same, with the backend that the name of this program says where they name none: containerd 2 hands no options on to
    /// shims that make sandboxes, but a runtime may have a name of its own.
    #[must_use]
    pub fn or_named(mut self) -> Self {
        if self.backend.is_empty() {
            self.backend = std::env::args_os().next().map(|name| named(Path::new(&name))).unwrap_or_default();
        }
        self
    }

    /// The state root of a namespace.
    pub fn root(&self, namespace: &str) -> PathBuf {
        let root = if self.root.as_os_str().is_empty() { Path::new(DEFAULT_ROOT) } else { &self.root };
        root.join(namespace)
    }

    /// Leaves the options in the bundle.
    pub fn save(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join(FILE);
        std::fs::write(&path, serde_json::to_vec(self)?)
            .context(|| format!("cannot write '{}'", path.display()))
    }

    /// The options that were left in a bundle; the defaults if there are none.
    pub fn load(bundle: &Path) -> Self {
        let data = std::fs::read(bundle.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&data).unwrap_or_default()
    }
}

/// The backend in the name of a program.
fn named(program: &Path) -> String {
    let name = program.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
    let backend = name.strip_prefix("containerd-shim-magikrun-").and_then(|rest| rest.strip_suffix("-v2"));
    backend.filter(|backend| BACKENDS.contains(backend)).unwrap_or_default().to_owned()
}

impl From<oci::Options> for Options {
    fn from(message: oci::Options) -> Self {
        Self {
            binary_name: message.binary_name,
            root: message.root.into(),
            systemd_cgroup: message.systemd_cgroup,
            no_pivot_root: message.no_pivot_root,
            no_new_keyring: message.no_new_keyring,
            shim_cgroup: message.shim_cgroup,
            io_uid: message.io_uid,
            io_gid: message.io_gid,
            criu_image_path: message.criu_image_path,
            criu_work_path: message.criu_work_path,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(name: &str, value: Vec<u8>) -> Any {
        Any { type_url: name.to_owned(), value, ..Any::default() }
    }

    #[test]
    fn the_options_of_runc_are_understood() {
        let message = oci::Options { binary_name: "/b".to_owned(), io_uid: 7, ..oci::Options::default() };
        let any = any("containerd.runc.v1.Options", message.write_to_bytes().unwrap());
        let options = Options::from_any(Some(&any)).unwrap();
        assert_eq!((options.binary_name.as_str(), options.io_uid), ("/b", 7));
    }

    #[test]
    fn a_program_may_be_called_after_its_backend() {
        let of = |name: &str| named(Path::new(name));
        assert_eq!(of("/usr/bin/containerd-shim-magikrun-krun-v2"), "krun");
        assert_eq!(of("containerd-shim-magikrun-v2"), "");
        assert_eq!(of("containerd-shim-magikrun-x-v2"), "");
    }

    #[test]
    fn a_document_in_the_message_is_understood() {
        let body = "TypeUrl = 'x'\nBackend = 'wasm'\nSystemdCgroup = true\n";
        let mut message = vec![0x1a, u8::try_from(body.len()).unwrap()];
        message.extend(body.as_bytes());
        let options = Options::from_any(Some(&any("runtimeoptions.v1.Options", message))).unwrap();
        assert_eq!((options.backend.as_str(), options.systemd_cgroup), ("wasm", true));
    }

    #[test]
    fn what_is_unknown_is_refused_and_nothing_means_the_defaults() {
        assert!(Options::from_any(Some(&any("a.b.Options", Vec::new()))).is_err());
        let message = [b"\x1a\x08Nonsense".as_slice()].concat();
        assert!(Options::from_any(Some(&any("runtimeoptions.v1.Options", message))).is_err());
        assert_eq!(Options::from_any(None).unwrap(), Options::default());
        assert_eq!(Options::default().root("ns"), Path::new("/run/containerd/magikrun/ns"));
    }
}
