//! Which backend runs a bundle: a pure decision from its annotations and the name that this program was called by.
//!
//! It fails closed: a handler that is not known is an error and never an ordinary container.

use crate::error::Result;
use crate::runtime::krun::pod::{self, Part};
use crate::runtime::record::Backend;
use oci_spec::runtime::Spec;

/// Our own annotation.
const OURS: &str = "org.magikrun.backend";
/// crun's annotation.
const HANDLER: &str = "run.oci.handler";
/// The annotation of WebAssembly images.
const WASM_VARIANT: &str = "module.wasm.image/variant";
/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Backend(Backend),
    /// WebAssembly if the entrypoint is a module, else native.
    Smart,
}

/// Decides which backend the configuration asks for.
///
/// `called` is the name of the program in the command line; `is_module` looks at the entrypoint, and is called only where the
/// decision depends on that.
pub fn select(spec: &Spec, called: &str, is_module: impl FnOnce() -> bool) -> Result<Backend> {
    let annotation = |name: &str| {
        spec.annotations()
            .as_ref()
            .and_then(|all| all.get(name))
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    };
    // The container that holds the namespaces of a pod. Its program is a native one also when the annotations of the pod ask for
    // WebAssembly; of a microVM it is the machine that the pod's containers share.
    let sandbox = pod::part(spec) == Part::Sandbox;
    Ok(match wanted(&annotation, called)? {
        Wanted::Backend(Backend::Krun) if sandbox && pod::is_shared(spec) => Backend::Krun,
        Wanted::Backend(_) | Wanted::Smart if sandbox => Backend::Native,
        Wanted::Backend(backend) => backend,
        Wanted::Smart if is_module() => Backend::Wasm,
        Wanted::Smart => Backend::Native,
    })
}

fn wanted<'a>(annotation: &impl Fn(&str) -> Option<&'a str>, called: &str) -> Result<Wanted> {
    if let Some(name) = annotation(OURS) {
        return match name {
            "native" => Ok(Wanted::Backend(Backend::Native)),
            "wasm" => Ok(Wanted::Backend(Backend::Wasm)),
            "krun" => Ok(Wanted::Backend(Backend::Krun)),
            _ => crate::bail!(
                InvalidBundle,
                "annotations: {OURS}: unknown backend '{name}' (native, wasm or krun)"
            ),
        };
    }
    if let Some(name) = annotation(HANDLER) {
        return match name {
            "wasm" => Ok(Wanted::Backend(Backend::Wasm)),
            "wasm-smart" => Ok(Wanted::Smart),
            "krun" => Ok(Wanted::Backend(Backend::Krun)),
            _ => crate::bail!(InvalidBundle, "annotations: {HANDLER}: unknown handler '{name}'"),
        };
    }
    match annotation(WASM_VARIANT) {
        Some("compat") => return Ok(Wanted::Backend(Backend::Wasm)),
        Some("compat-smart") => return Ok(Wanted::Smart),
        Some(name) => crate::bail!(InvalidBundle, "annotations: {WASM_VARIANT}: unknown variant '{name}'"),
        None => {}
    }
    Ok(Wanted::Backend(match called.rsplit('/').next() {
        Some("krun" | "magikrun-krun") => Backend::Krun,
        Some("magikrun-wasm") => Backend::Wasm,
        _ => Backend::Native,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn decide(annotations: &[(&str, &str)], called: &str, module: bool) -> Result<Backend> {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let spec = json!({"ociVersion": "1.0.0", "annotations": annotations});
        select(&serde_json::from_value(spec).unwrap(), called, || module)
    }

    #[test]
    fn the_first_annotation_that_is_there_decides() {
        let native = Backend::Native;
        let wasm = Backend::Wasm;
        for (annotations, expected) in [
            (&[][..], native),
            (&[(OURS, "native"), (HANDLER, "wasm")], native),
            (&[(OURS, "wasm")], wasm),
            (&[(OURS, ""), (HANDLER, "wasm")], wasm),
            (&[(HANDLER, "wasm"), (WASM_VARIANT, "strange")], wasm),
            (&[(WASM_VARIANT, "compat")], wasm),
            (&[(OURS, "krun"), (WASM_VARIANT, "compat")], Backend::Krun),
            (&[(HANDLER, "krun"), (WASM_VARIANT, "compat")], Backend::Krun),
        ] {
            assert_eq!(decide(annotations, "magikrun", false).unwrap(), expected, "{annotations:?}");
        }
    }

    #[test]
    fn the_smart_ones_look_at_the_entrypoint() {
        for smart in [(HANDLER, "wasm-smart"), (WASM_VARIANT, "compat-smart")] {
            assert_eq!(decide(&[smart], "magikrun", true).unwrap(), Backend::Wasm);
            assert_eq!(decide(&[smart], "magikrun", false).unwrap(), Backend::Native);
        }
        assert_eq!(decide(&[], "magikrun", true).unwrap(), Backend::Native);
    }

    #[test]
    fn the_container_that_holds_a_pods_namespaces_is_native_or_the_pods_microvm() {
        let disk = ("org.magikrun.krun.root-disk", "/disk");
        for kind in ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"] {
            let with = |more: &[_]| decide(&[&[(kind, "sandbox")], more].concat(), "magikrun", true).unwrap();
            assert_eq!(with(&[(HANDLER, "wasm")]), Backend::Native);
            assert_eq!(with(&[(HANDLER, "wasm-smart")]), Backend::Native);
            assert_eq!(with(&[(HANDLER, "krun")]), Backend::Krun);
            assert_eq!(with(&[(HANDLER, "krun"), disk]), Backend::Native);
        }
        let container = ("io.kubernetes.cri.container-type", "container");
        assert_eq!(decide(&[container, (HANDLER, "wasm")], "magikrun", true).unwrap(), Backend::Wasm);
    }

    #[test]
    fn a_link_with_the_name_of_a_backend_asks_for_it() {
        for (called, backend) in [
            ("krun", Backend::Krun),
            ("/usr/bin/krun", Backend::Krun),
            ("/usr/libexec/magikrun-krun", Backend::Krun),
            ("magikrun-wasm", Backend::Wasm),
            ("/usr/bin/magikrun-wasm", Backend::Wasm),
            ("/opt/magikrun-wasm/magikrun", Backend::Native),
        ] {
            assert_eq!(decide(&[], called, false).unwrap(), backend, "{called}");
            assert_eq!(decide(&[(OURS, "native")], called, false).unwrap(), Backend::Native);
        }
        let sandbox = ("io.kubernetes.cri-o.ContainerType", "sandbox");
        assert_eq!(decide(&[sandbox], "/usr/bin/magikrun-wasm", false).unwrap(), Backend::Native);
    }

    #[test]
    fn an_unknown_handler_is_never_an_ordinary_container() {
        for annotation in [(OURS, "podman"), (HANDLER, "wasmedge"), (WASM_VARIANT, "strange")] {
            assert!(decide(&[annotation], "magikrun", true).is_err());
        }
    }
}
