//! What this shim is: `-v`, and `-info` for containerd 2.

use crate::error::{Context as _, Result};
use crate::options::Options;
use crate::reaper::Reaper;
use crate::runtime::Runtime;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message as _, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use std::io::{IsTerminal as _, Read as _, Write as _};

/// The type of the runtime specification's features document, which is JSON.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints the version.
pub fn print_version() -> Result<()> {
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("MAGIKRUN_COMMIT"));
    write(format!("containerd-shim-magikrun-v2 version {version}\ncommit: {commit}\n").as_bytes())
}

/// Prints what the shim and its runtime support.
pub fn print_info() -> Result<()> {
    let mut data = Vec::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin().read_to_end(&mut data).context(|| "cannot read the options")?;
    }
    let given = Any::parse_from_bytes(&data)?;
    let options = Options::from_any(Some(&given))?;
    let features = Runtime::new(&options, "", &Reaper::start()?).features()?;
    let version = RuntimeVersion {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: env!("MAGIKRUN_COMMIT").to_owned(),
        ..RuntimeVersion::default()
    };
    let features = Any { type_url: FEATURES.to_owned(), value: features.into_bytes(), ..Any::default() };
    let info = RuntimeInfo {
        name: crate::NAME.to_owned(),
        version: MessageField::some(version),
        options: MessageField::some(given),
        features: MessageField::some(features),
        ..RuntimeInfo::default()
    };
    write(&info.write_to_bytes()?)
}

fn write(bytes: &[u8]) -> Result<()> {
    std::io::stdout().write_all(bytes).context(|| "cannot print")
}
