//! Volumes, and the objects that volumes are made from.

use super::Rule::{Harmless, List, Object, Refused, Value as Plain};
use super::{FIELD_REF, METADATA, RESOURCE_REF, Type};

const DRIVER: &str = "there are no storage drivers on a single host";
const OWNER: &str = "files belong to root and to fsGroup";
const NO_SERVER: &str = "there is no API server";

pub(in super::super) const VOLUME: Type = Type {
    name: "Volume",
    fields: &[
        ("awsElasticBlockStore", Refused(DRIVER)),
        ("azureDisk", Refused(DRIVER)),
        ("azureFile", Refused(DRIVER)),
        ("cephfs", Refused(DRIVER)),
        ("cinder", Refused(DRIVER)),
        ("configMap", Object(&CONFIG_MAP_VOLUME)),
        ("csi", Refused(DRIVER)),
        ("downwardAPI", Object(&DOWNWARD_VOLUME)),
        ("emptyDir", Object(&EMPTY_DIR)),
        ("ephemeral", Refused(DRIVER)),
        ("fc", Refused(DRIVER)),
        ("flexVolume", Refused(DRIVER)),
        ("flocker", Refused(DRIVER)),
        ("gcePersistentDisk", Refused(DRIVER)),
        ("gitRepo", Refused("Kubernetes has removed it; use an init container")),
        ("glusterfs", Refused(DRIVER)),
        ("hostPath", Object(&HOST_PATH)),
        ("image", Object(&IMAGE_VOLUME)),
        ("iscsi", Refused(DRIVER)),
        ("name", Plain),
        ("nfs", Refused(DRIVER)),
        ("persistentVolumeClaim", Object(&CLAIM_VOLUME)),
        ("photonPersistentDisk", Refused(DRIVER)),
        ("portworxVolume", Refused(DRIVER)),
        ("projected", Object(&PROJECTED)),
        ("quobyte", Refused(DRIVER)),
        ("rbd", Refused(DRIVER)),
        ("scaleIO", Refused(DRIVER)),
        ("secret", Object(&SECRET_VOLUME)),
        ("storageos", Refused(DRIVER)),
        ("vsphereVolume", Refused(DRIVER)),
    ],
};

const EMPTY_DIR: Type = Type {
    name: "EmptyDirVolumeSource",
    fields: &[("medium", Plain), ("mode", Plain), ("sizeLimit", Plain)],
};

const HOST_PATH: Type = Type { name: "HostPathVolumeSource", fields: &[("path", Plain), ("type", Plain)] };

const IMAGE_VOLUME: Type =
    Type { name: "ImageVolumeSource", fields: &[("pullPolicy", Plain), ("reference", Plain)] };

const CLAIM_VOLUME: Type =
    Type { name: "PersistentVolumeClaimVolumeSource", fields: &[("claimName", Plain), ("readOnly", Plain)] };

const CONFIG_MAP_VOLUME: Type = Type {
    name: "ConfigMapVolumeSource",
    fields: &[
        ("defaultMode", Plain),
        ("defaultUser", Refused(OWNER)),
        ("items", List(&KEY_TO_PATH)),
        ("name", Plain),
        ("optional", Plain),
    ],
};

const SECRET_VOLUME: Type = Type {
    name: "SecretVolumeSource",
    fields: &[
        ("defaultMode", Plain),
        ("defaultUser", Refused(OWNER)),
        ("items", List(&KEY_TO_PATH)),
        ("optional", Plain),
        ("secretName", Plain),
    ],
};

const KEY_TO_PATH: Type = Type {
    name: "KeyToPath",
    fields: &[("key", Plain), ("mode", Plain), ("path", Plain), ("user", Refused(OWNER))],
};

const DOWNWARD_VOLUME: Type = Type {
    name: "DownwardAPIVolumeSource",
    fields: &[("defaultMode", Plain), ("defaultUser", Refused(OWNER)), ("items", List(&DOWNWARD_FILE))],
};

const DOWNWARD_FILE: Type = Type {
    name: "DownwardAPIVolumeFile",
    fields: &[
        ("fieldRef", Object(&FIELD_REF)),
        ("mode", Plain),
        ("path", Plain),
        ("resourceFieldRef", Object(&RESOURCE_REF)),
        ("user", Refused(OWNER)),
    ],
};

const PROJECTED: Type = Type {
    name: "ProjectedVolumeSource",
    fields: &[("defaultMode", Plain), ("defaultUser", Refused(OWNER)), ("sources", List(&PROJECTION))],
};

const PROJECTION: Type = Type {
    name: "VolumeProjection",
    fields: &[
        ("clusterTrustBundle", Refused(NO_SERVER)),
        ("configMap", Object(&CONFIG_MAP_PROJECTION)),
        ("downwardAPI", Object(&DOWNWARD_PROJECTION)),
        ("podCertificate", Refused(NO_SERVER)),
        ("secret", Object(&SECRET_PROJECTION)),
        ("serviceAccountToken", Refused(NO_SERVER)),
    ],
};

const CONFIG_MAP_PROJECTION: Type = Type {
    name: "ConfigMapProjection",
    fields: &[("items", List(&KEY_TO_PATH)), ("name", Plain), ("optional", Plain)],
};

const SECRET_PROJECTION: Type = Type {
    name: "SecretProjection",
    fields: &[("items", List(&KEY_TO_PATH)), ("name", Plain), ("optional", Plain)],
};

const DOWNWARD_PROJECTION: Type =
    Type { name: "DownwardAPIProjection", fields: &[("items", List(&DOWNWARD_FILE))] };

pub(in super::super) const CONFIG_MAP: Type = Type {
    name: "ConfigMap",
    fields: &[
        ("apiVersion", Plain),
        ("binaryData", Plain),
        ("data", Plain),
        ("immutable", Plain),
        ("kind", Plain),
        ("metadata", Object(&METADATA)),
    ],
};

pub(in super::super) const SECRET: Type = Type {
    name: "Secret",
    fields: &[
        ("apiVersion", Plain),
        ("data", Plain),
        ("immutable", Plain),
        ("kind", Plain),
        ("metadata", Object(&METADATA)),
        ("stringData", Plain),
        ("type", Plain),
    ],
};

pub(in super::super) const CLAIM: Type = Type {
    name: "PersistentVolumeClaim",
    fields: &[
        ("apiVersion", Plain),
        ("kind", Plain),
        ("metadata", Object(&METADATA)),
        ("spec", Object(&CLAIM_SPEC)),
        ("status", Harmless("the status is an output")),
    ],
};

const CLAIM_SPEC: Type = Type {
    name: "PersistentVolumeClaimSpec",
    fields: &[
        ("accessModes", Harmless("a claim is a directory on this host")),
        ("dataSource", Refused(DRIVER)),
        ("dataSourceRef", Refused(DRIVER)),
        ("resources", Harmless("a claim is a directory on this host, without a quota")),
        ("selector", Refused(DRIVER)),
        ("storageClassName", Harmless("a claim is a directory on this host")),
        ("volumeAttributesClassName", Refused(DRIVER)),
        ("volumeMode", Plain),
        ("volumeName", Refused(DRIVER)),
    ],
};
