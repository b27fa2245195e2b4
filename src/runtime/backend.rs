//! Which backend runs a bundle: a pure decision from its annotations.
//!
//! It fails closed: a handler that is not known is an error and never an ordinary container.

use crate::error::Result;
use crate::runtime::record::Backend;
use oci_spec::runtime::Spec;

/// Our own annotation.
const OURS: &str = "org.magikrun.backend";
/// crun's annotation.
const HANDLER: &str = "run.oci.handler";
/// The annotation of WebAssembly images.
const WASM_VARIANT: &str = "module.wasm.image/variant";

/// Decides which backend the configuration asks for, and refuses what this build does not have.
pub fn select(spec: &Spec) -> Result<Backend> {
    let annotation = |name: &str| {
        spec.annotations()
            .as_ref()
            .and_then(|all| all.get(name))
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    };
    match wanted(annotation(OURS), annotation(HANDLER), annotation(WASM_VARIANT))? {
        Backend::Native => Ok(Backend::Native),
        Backend::Wasm => crate::bail!(RuntimeUnavailable, "this build has no WebAssembly backend"),
        Backend::Krun => crate::bail!(RuntimeUnavailable, "this build has no microVM backend"),
    }
}

fn wanted(ours: Option<&str>, handler: Option<&str>, variant: Option<&str>) -> Result<Backend> {
    if let Some(name) = ours {
        return match name {
            "native" => Ok(Backend::Native),
            "wasm" => Ok(Backend::Wasm),
            "krun" => Ok(Backend::Krun),
            _ => crate::bail!(
                InvalidBundle,
                "annotations: {OURS}: unknown backend '{name}' (native, wasm or krun)"
            ),
        };
    }
    if let Some(name) = handler {
        return match name {
            "wasm" | "wasm-smart" => Ok(Backend::Wasm),
            "krun" => Ok(Backend::Krun),
            _ => crate::bail!(InvalidBundle, "annotations: {HANDLER}: unknown handler '{name}'"),
        };
    }
    match variant {
        Some("compat" | "compat-smart") => Ok(Backend::Wasm),
        Some(name) => crate::bail!(InvalidBundle, "annotations: {WASM_VARIANT}: unknown variant '{name}'"),
        None => Ok(Backend::Native),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_annotation_that_is_there_decides() {
        assert_eq!(wanted(None, None, None).unwrap(), Backend::Native);
        assert_eq!(wanted(Some("krun"), Some("wasm"), None).unwrap(), Backend::Krun);
        assert_eq!(wanted(None, Some("wasm-smart"), None).unwrap(), Backend::Wasm);
        assert_eq!(wanted(None, None, Some("compat")).unwrap(), Backend::Wasm);
    }

    #[test]
    fn an_unknown_handler_is_never_an_ordinary_container() {
        for (ours, handler, variant) in
            [(Some("podman"), None, None), (None, Some("wasmedge"), None), (None, None, Some("strange"))]
        {
            assert!(wanted(ours, handler, variant).is_err());
        }
    }
}
