//! Volumes, and what they are made from.

use super::{FieldRef, PullPolicy, Quantity, ResourceRef};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub name: String,
    /// An empty directory when the manifest names no source, as in Kubernetes.
    #[serde(flatten)]
    pub source: Option<VolumeSource>,
}

/// Exactly one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeSource {
    ConfigMap(DataVolume),
    #[serde(rename = "downwardAPI")]
    DownwardApi(DownwardVolume),
    EmptyDir(EmptyDir),
    HostPath(HostPath),
    Image(ImageVolume),
    PersistentVolumeClaim(ClaimVolume),
    Projected(Projected),
    Secret(DataVolume),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EmptyDir {
    pub medium: String,
    pub mode: Option<u32>,
    pub size_limit: Option<Quantity>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPath {
    pub path: String,
    #[serde(rename = "type", default)]
    pub kind: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ImageVolume {
    pub pull_policy: Option<PullPolicy>,
    pub reference: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClaimVolume {
    pub claim_name: String,
    pub read_only: bool,
}

/// A config map or a secret as a volume or as a part of one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DataVolume {
    pub default_mode: Option<u32>,
    pub items: Option<Vec<KeyToPath>>,
    #[serde(alias = "secretName")]
    pub name: String,
    pub optional: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyToPath {
    pub key: String,
    pub mode: Option<u32>,
    pub path: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DownwardVolume {
    pub default_mode: Option<u32>,
    pub items: Vec<DownwardFile>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DownwardFile {
    pub field_ref: Option<FieldRef>,
    pub mode: Option<u32>,
    pub path: String,
    pub resource_field_ref: Option<ResourceRef>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Projected {
    pub default_mode: Option<u32>,
    pub sources: Vec<Projection>,
}

/// Exactly one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Projection {
    ConfigMap(DataVolume),
    Secret(DataVolume),
    #[serde(rename = "downwardAPI")]
    DownwardApi(DownwardVolume),
}
