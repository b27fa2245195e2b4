//! Manifests: Kubernetes pods in YAML or JSON, with the config maps, secrets and claims that they refer to.

mod check;
mod fields;
mod findings;
pub mod modules;
mod quantity;
mod sift;
mod similar;
pub mod types;

pub use check::{MICROVM, microvm};
pub use findings::{Finding, Findings, Level};

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::limits::MAX_MANIFEST_SIZE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fields::Type;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use types::{DataObject, Metadata, Spec};

/// Key of the credentials for registries in a secret of the type `kubernetes.io/dockerconfigjson`.
pub const PULL_SECRET_KEY: &str = ".dockerconfigjson";

/// The content of a config map or a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    /// Values by key.
    pub values: BTreeMap<String, Vec<u8>>,
    /// The type of a secret.
    pub secret_type: String,
}

/// A pod and what its manifest says beside it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodSpec {
    /// Name, labels and annotations.
    pub metadata: Metadata,
    /// What to run.
    pub spec: Spec,
    /// Config maps of the same manifest and namespace, by name.
    pub config_maps: BTreeMap<String, Data>,
    /// Secrets of the same manifest and namespace, by name.
    pub secrets: BTreeMap<String, Data>,
    /// What of the manifest has no effect.
    pub warnings: Vec<Finding>,
}

impl PodSpec {
    /// Reads a manifest, YAML or JSON, with one pod.
    ///
    /// ```
    /// use magikrun::pod::PodSpec;
    ///
    /// let manifest = "
    /// apiVersion: v1
    /// kind: Pod
    /// metadata: {name: web}
    /// spec:
    ///   containers:
    ///   - {name: server, image: 'localhost:5000/server:1.0', volumeDevices: [{name: disk}]}
    /// ";
    /// // What is not supported is refused by name, and never left out.
    /// let e = PodSpec::from_yaml(manifest).unwrap_err();
    /// assert!(e.message().contains("spec.containers[0].volumeDevices"), "{e}");
    /// assert_eq!(PodSpec::from_yaml(manifest.replace(", volumeDevices: [{name: disk}]", ""))?.name(), "web");
    /// # Ok::<(), magikrun::Error>(())
    /// ```
    pub fn from_yaml(manifest: impl AsRef<[u8]>) -> Result<Self> {
        let mut pods = Self::all_from_yaml(manifest)?;
        match (pods.pop(), pods.len()) {
            (Some(pod), 0) => Ok(pod),
            (_, others) => {
                crate::bail!(InvalidManifest, "the manifest holds {} pods and not one", others + 1)
            }
        }
    }

    /// Reads a manifest, YAML or JSON, with one or more pods.
    pub fn all_from_yaml(manifest: impl AsRef<[u8]>) -> Result<Vec<Self>> {
        let (pods, findings) = examine(manifest.as_ref())?;
        findings.to_result()?;
        Ok(pods)
    }

    /// True if all its containers are to be in one microVM.
    pub fn is_microvm(&self) -> bool {
        self.spec.runtime_class_name.as_deref() == Some(MICROVM)
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }
}

/// Reads a manifest of at most [`MAX_MANIFEST_SIZE`] bytes.
pub fn read_limited(source: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    source
        .take(MAX_MANIFEST_SIZE + 1)
        .read_to_end(&mut data)
        .or_kind(ErrorKind::InvalidManifest, || format!("cannot read manifest '{name}'"))?;
    if data.len() as u64 > MAX_MANIFEST_SIZE {
        crate::bail!(InvalidManifest, "cannot read manifest '{name}': more than {MAX_MANIFEST_SIZE} bytes");
    }
    Ok(data)
}

/// Reads a manifest and tells everything that is wrong with it or has no effect. The pods can be run only if no finding is an error.
pub fn examine(manifest: &[u8]) -> Result<(Vec<PodSpec>, Findings)> {
    let mut findings = Findings::default();
    let mut objects = Objects::default();
    let documents = documents(manifest)?;
    for (number, document) in documents.into_iter().enumerate() {
        findings.object = format!("document {}", number + 1);
        objects.add(document, &mut findings);
    }
    let pods = objects.into_pods(&mut findings);
    if pods.is_empty() && !findings.has_errors() {
        findings.object = String::new();
        findings.error("", "the manifest holds no pod");
    }
    Ok((pods, findings))
}

fn documents(manifest: &[u8]) -> Result<Vec<Value>> {
    let cannot =
        |what: String| Error::new(ErrorKind::InvalidManifest, format!("cannot parse the manifest: {what}"));
    let text = std::str::from_utf8(manifest).map_err(|e| cannot(e.to_string()))?;
    if text.trim_start().starts_with('{') {
        let parsed: std::result::Result<_, serde_json::Error> =
            serde_json::Deserializer::from_str(text).into_iter().collect();
        return parsed.map_err(|e| cannot(e.to_string()));
    }
    // Modes are written as in YAML 1.1, where 0400 is octal; words like `no` are words, as in 1.2.
    let options =
        serde_saphyr::options! { legacy_octal_numbers: true, strict_booleans: true, with_snippet: false };
    let parsed: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|e| cannot(e.to_string().replace('\n', " ")))?;
    Ok(parsed.into_iter().filter(|value| !value.is_null()).collect())
}

/// The objects of a manifest, by namespace and name.
#[derive(Default)]
struct Objects {
    pods: Vec<(Metadata, Spec)>,
    config_maps: BTreeMap<(String, String), Data>,
    secrets: BTreeMap<(String, String), Data>,
    warnings: BTreeMap<String, Vec<Finding>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodObject {
    metadata: Metadata,
    spec: Spec,
}

impl Objects {
    fn add(&mut self, mut document: Value, findings: &mut Findings) {
        let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&document, "apiVersion"), text(&document, "kind"));
        let name = text(&document["metadata"], "name");
        if kind == "List" && version == "v1" {
            for item in document["items"].as_array_mut().into_iter().flatten() {
                self.add(item.take(), findings);
            }
            return;
        }
        if !name.is_empty() {
            findings.object = format!("{kind}/{name}");
        }
        let table = match (version.as_str(), kind.as_str()) {
            ("v1", "Pod") => &fields::POD,
            ("v1", "ConfigMap") => &fields::CONFIG_MAP,
            ("v1", "Secret") => &fields::SECRET,
            ("v1", "PersistentVolumeClaim") => &fields::CLAIM,
            ("", _) => return findings.error("apiVersion", "must be set"),
            (_, "") => return findings.error("kind", "must be set"),
            _ => {
                let what = format!(
                    "'{version} {kind}' is not supported: only Pod, ConfigMap, Secret and PersistentVolumeClaim of v1"
                );
                return findings.error("kind", what);
            }
        };
        let before = findings.all.len();
        if let Value::Object(map) = &mut document {
            sift::sift(map, table, "", findings);
        }
        let warnings: Vec<Finding> =
            findings.all[before..].iter().filter(|f| f.level == Level::Warning).cloned().collect();
        self.warnings.entry(findings.object.clone()).or_default().extend(warnings);
        self.keep(document, table, findings);
    }

    fn keep(&mut self, document: Value, table: &Type, findings: &mut Findings) {
        if table.name == "Pod" {
            let Some(pod) = parse::<PodObject>(document, findings) else { return };
            check::pod(&pod.metadata, &pod.spec, findings);
            let same = |(metadata, _): &(Metadata, Spec)| key(metadata) == key(&pod.metadata);
            if self.pods.iter().any(same) {
                findings.error("metadata.name", "another pod of the manifest has this name");
            }
            self.pods.push((pod.metadata, pod.spec));
            return;
        }
        if table.name == "PersistentVolumeClaim" {
            if document["spec"]["volumeMode"].as_str().is_some_and(|mode| mode != "Filesystem") {
                findings.error("spec.volumeMode", "not supported: raw block volumes");
            }
            let metadata = parse::<Metadata>(document["metadata"].clone(), findings).unwrap_or_default();
            check::dns_subdomain("metadata.name", &metadata.name, findings);
            return;
        }
        let Some(object) = parse::<DataObject>(document, findings) else { return };
        check::dns_subdomain("metadata.name", &object.metadata.name, findings);
        let key = key(&object.metadata);
        let secret = table.name == "Secret";
        let data = data(object, secret, findings);
        let objects = if secret { &mut self.secrets } else { &mut self.config_maps };
        if objects.insert(key, data).is_some() {
            findings.error("metadata.name", "another object of the manifest has this kind and name");
        }
    }

    fn into_pods(self, findings: &mut Findings) -> Vec<PodSpec> {
        let mut pods = Vec::new();
        for (metadata, spec) in self.pods {
            findings.object = format!("Pod/{}", metadata.name);
            let of_namespace = |objects: &BTreeMap<(String, String), Data>| {
                objects
                    .iter()
                    .filter(|((namespace, _), _)| namespace == metadata.namespace())
                    .map(|((_, name), data)| (name.clone(), data.clone()))
                    .collect::<BTreeMap<_, _>>()
            };
            let pod = PodSpec {
                config_maps: of_namespace(&self.config_maps),
                secrets: of_namespace(&self.secrets),
                warnings: self.warnings.get(&findings.object).cloned().unwrap_or_default(),
                metadata,
                spec,
            };
            check::references(&pod, findings);
            pods.push(pod);
        }
        pods
    }
}

fn key(metadata: &Metadata) -> (String, String) {
    (metadata.namespace().to_owned(), metadata.name.clone())
}

fn parse<T: DeserializeOwned>(document: Value, findings: &mut Findings) -> Option<T> {
    serde_path_to_error::deserialize(document)
        .map_err(|e| {
            let path = e.path().to_string();
            findings.error(if path == "." { "" } else { &path }, e.into_inner().to_string());
        })
        .ok()
}

fn data(object: DataObject, secret: bool, findings: &mut Findings) -> Data {
    let mut values = BTreeMap::new();
    let (encoded, at) =
        if secret { (object.data.clone(), "data") } else { (object.binary_data, "binaryData") };
    for (key, text) in encoded {
        match STANDARD.decode(text.split_whitespace().collect::<String>()) {
            Ok(value) => drop(values.insert(key, value)),
            Err(e) => findings.error(&format!("{at}.{key}"), format!("not base64: {e}")),
        }
    }
    let plain = if secret { object.string_data } else { object.data };
    values.extend(plain.into_iter().map(|(key, text)| (key, text.into_bytes())));
    for key in values.keys() {
        check::data_key(key, findings);
    }
    Data { values, secret_type: object.secret_type }
}

#[cfg(test)]
mod tests;
