//! What a pod's annotations say about its WebAssembly modules: `NAME` for all of them, `NAME/CONTAINER` for one.

use super::findings::Findings;
use super::types::{Metadata, Spec, Strings};
use crate::runtime::wasm::settings;

/// What the names of these annotations begin with.
const PREFIX: &str = "org.magikrun.wasm.";

/// The annotations of a pod's modules: a setting, the container whose setting it is if it is that of one, and the value.
fn all(annotations: &Strings) -> impl Iterator<Item = (&str, Option<&str>, &str)> {
    annotations.iter().filter(|(name, _)| name.starts_with(PREFIX)).map(|(name, value)| {
        match name.split_once('/') {
            Some((setting, container)) => (setting, Some(container), value.as_str()),
            None => (name.as_str(), None, value.as_str()),
        }
    })
}

/// The settings of a container. Those that are its own come before those of all.
pub fn settings_of(annotations: &Strings, container: &str) -> Strings {
    let of = |wanted: Option<&str>| {
        let named = all(annotations).filter(move |(_, of, _)| *of == wanted);
        named.map(|(setting, _, value)| (setting.to_owned(), value.to_owned())).collect::<Strings>()
    };
    let mut settings = of(None);
    settings.extend(of(Some(container)));
    settings
}

/// A setting that a container has for itself.
pub fn own_setting<'a>(annotations: &'a Strings, container: &str) -> Option<&'a str> {
    all(annotations).find(|(_, of, _)| *of == Some(container)).map(|(setting, ..)| setting)
}

/// Checks that the settings are known, can be understood, and are those of containers that are there.
pub fn check(metadata: &Metadata, spec: &Spec, findings: &mut Findings) {
    let containers = || spec.init_containers.iter().chain(&spec.containers);
    for (setting, container, value) in all(&metadata.annotations) {
        let path = format!("metadata.annotations.{setting}");
        if !settings::ANNOTATIONS.contains(&setting) {
            let known = settings::ANNOTATIONS.map(|name| name.trim_start_matches(PREFIX)).join(", ");
            findings.error(&path, format!("is no setting of modules; those are {PREFIX}{{{known}}}"));
        } else if let Err(why) = settings::check(setting, value) {
            findings.error(&path, format!("cannot use '{value}': {why}"));
        }
        if let Some(name) = container.filter(|name| !containers().any(|c| c.name == *name)) {
            findings.error(&path, format!("there is no container '{name}'"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PodSpec;
    use super::*;

    #[test]
    fn the_setting_of_a_container_comes_before_that_of_the_pod() {
        let annotations = [
            ("org.magikrun.wasm.fuel", "10"),
            ("org.magikrun.wasm.fuel/b", "20"),
            ("org.magikrun.wasm.http/b", "0.0.0.0:80"),
            ("org.magikrun.wasm.sockets", "all"),
            ("org.magikrun.krun.ports", "none"),
            ("other/b", "x"),
        ];
        let annotations: Strings =
            annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        for (container, expected) in [
            ("a", vec![("fuel", "10"), ("sockets", "all")]),
            ("b", vec![("fuel", "20"), ("http", "0.0.0.0:80"), ("sockets", "all")]),
        ] {
            let settings = settings_of(&annotations, container);
            let found: Vec<_> =
                settings.iter().map(|(n, v)| (n.trim_start_matches(PREFIX), v.as_str())).collect();
            assert_eq!(found, expected, "{container}");
        }
        assert_eq!(own_setting(&annotations, "a"), None);
        assert_eq!(own_setting(&annotations, "b"), Some("org.magikrun.wasm.fuel"));
    }

    #[test]
    fn what_is_unknown_or_cannot_be_understood_is_named() {
        let read = |annotation: &str| {
            PodSpec::from_yaml(format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, annotations: {{{annotation}}}}}\n\
                 spec: {{initContainers: [{{name: first, image: i}}], containers: [{{name: a, image: i}}]}}\n"
            ))
        };
        for (annotation, expected) in [
            ("org.magikrun.wasm.fuel/c: '1'", "fuel: there is no container 'c'"),
            ("org.magikrun.wasm.fuel/: '1'", "there is no container ''"),
            ("org.magikrun.wasm.fuel: lots", "fuel: cannot use 'lots': invalid digit"),
            (
                "org.magikrun.wasm.fule: '1'",
                "fule: is no setting of modules; those are org.magikrun.wasm.{fuel, max-",
            ),
            (
                "org.magikrun.wasm.sockets/a: some",
                "sockets: cannot use 'some': must be none, tcp, udp or all",
            ),
        ] {
            let e = read(annotation).unwrap_err();
            let path = "metadata.annotations.org.magikrun.wasm.";
            assert!(e.message().contains(path) && e.message().contains(expected), "{e}");
        }
        for annotation in [
            "org.magikrun.wasm.fuel/first: '1'",
            "org.magikrun.wasm.http/a: '0.0.0.0:80'",
            "org.magikrun.wasm: x",
        ] {
            read(annotation).unwrap();
        }
    }
}
