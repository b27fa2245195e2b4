//! Every public path that users of the library rely on, used once. It grows with the library.

use magikrun::image::{BundleBuilder, Capability, ImageService, OciContainerConfig, Platform};
use magikrun::infra::{ExtensionResult, InfraContext, InfraEvent, InfraExtension};
use magikrun::limits;
use magikrun::pod::{NativePodRuntime, PodHandle, PodRuntime, PodSpec, PodStatus, WasmPodRuntime};
use magikrun::runtime::{NativeRuntime, OciRuntime, Signal};
use magikrun::storage::blobs::{BlobStore, Digest};
use magikrun::storage::config::Config;
use magikrun::{Error, ErrorKind, Result};
use std::time::Duration;

/// The life of a container as a library caller writes it. It is compiled and not called: a test has threads, which
/// [`NativeRuntime`] refuses.
#[allow(dead_code, reason = "it has to compile; the test below shows why it is not called")]
fn life() -> Result<()> {
    let image_service = ImageService::new()?;
    let bundle_builder = BundleBuilder::with_storage(image_service.storage().clone())?;
    let image = image_service.pull("alpine:3.18")?;
    let bundle = bundle_builder.build_oci_bundle(
        &image,
        &OciContainerConfig {
            name: "my-container".to_owned(),
            command: Some(vec!["/bin/sh".to_owned()]),
            ..Default::default()
        },
    )?;
    let runtime = NativeRuntime::new();
    runtime.create("my-container", bundle.path())?;
    runtime.start("my-container")?;
    runtime.kill("my-container", Signal::Term)?;
    println!("{}", runtime.state("my-container")?.status);
    runtime.delete("my-container")
}

/// The life of a pod, compiled and not called, for the same reason.
#[allow(dead_code, reason = "it has to compile; the test below shows why it is not called")]
fn pod_life(manifest: &[u8]) -> Result<()> {
    let runtime = NativePodRuntime::new()?;
    let spec = PodSpec::from_yaml(manifest)?;
    let handle: PodHandle = runtime.run_pod(&spec)?;
    let status: PodStatus = runtime.pod_status(&handle.id)?;
    println!("{:?}", status.phase);
    runtime.exec(&handle.id, "app", &["true".to_owned()])?;
    runtime.logs(&handle.id, "app")?;
    runtime.list()?;
    runtime.stop_pod(&handle.id, Duration::from_secs(30))?;
    runtime.delete_pod(&handle.id, false)
}

/// An extension as a library caller writes it.
struct Workplane;

impl InfraExtension for Workplane {
    fn name(&self) -> &'static str {
        "workplane"
    }

    fn on_start(&mut self, context: &InfraContext<'_>) -> ExtensionResult<()> {
        context.request_udp_port(51820, 51820, self.name())
    }

    fn on_event(&mut self, event: &InfraEvent, context: &InfraContext<'_>) -> ExtensionResult<()> {
        if let InfraEvent::ContainerStarted { name, .. } = event {
            assert!(context.pod().containers.contains(name));
        }
        Ok(())
    }
}

#[test]
fn pods_have_a_runtime_for_each_kind_and_extensions_a_name() {
    let root = tempfile::tempdir().unwrap();
    let spec = PodSpec::from_yaml(
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
            "spec": {"containers": [{"name": "a", "image": "localhost/none:1"}]}}"#,
    )
    .unwrap();
    let images = || ImageService::with_root(root.path().join("images"));
    let native = NativePodRuntime::with_root(root.path(), images());
    let wasm = WasmPodRuntime::with_root(root.path(), images());
    for runtime in [&native as &dyn PodRuntime, &wasm] {
        assert!(runtime.run_pod(&spec).unwrap_err().message().contains("threads"));
        assert!(runtime.list().unwrap().is_empty());
        assert_eq!(runtime.pod_status("x").unwrap_err().kind(), ErrorKind::PodNotFound);
    }
    assert_eq!(Workplane.name(), "workplane");
}

#[test]
fn a_process_with_threads_is_told_to_execute_the_program_instead() {
    let root = tempfile::tempdir().unwrap();
    let runtime = NativeRuntime::with_config(root.path(), &Config::default());
    let error = runtime.create("x", root.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateFailed);
    assert!(error.message().contains("threads"), "{error}");
    assert_eq!(runtime.state("x").unwrap_err().kind(), ErrorKind::ContainerNotFound);
}

#[test]
fn the_platform_tells_what_the_host_can_do() {
    let platform = Platform::detect();
    assert_eq!(platform.oci_platform(), format!("linux/{}", platform.arch.name()));
    assert!(platform.supports_native_containers());
    assert!(platform.capabilities.contains(&Capability::WasmRuntime));
    assert_eq!(platform.has_hypervisor(), platform.has(Capability::Hypervisor));
}

#[test]
fn errors_tell_what_the_caller_can_do() {
    use ErrorKind as K;
    for kind in [
        K::ContainerNotFound,
        K::CreateFailed,
        K::InvalidState,
        K::ImagePullFailed,
        K::PathTraversal,
        K::ImageTooLarge,
        K::BundleBuildFailed,
        K::InvalidBundle,
        K::RuntimeUnavailable,
        K::NotSupported,
        K::BlobNotFound,
        K::DigestMismatch,
        K::Timeout,
    ] {
        assert!(!Error::new(kind, "x").recovery().is_empty(), "{kind:?}");
    }
}

#[test]
fn blobs_are_kept_by_digest() {
    let tmp = tempfile::tempdir().unwrap();
    let store = BlobStore::new(tmp.path());
    let digest = Digest::of(b"content");
    store.put(&digest, &b"content"[..], limits::MAX_CONFIG_SIZE).unwrap();
    assert!(store.contains(&digest));
}

/// Every constant, and where it is enforced: `-` where the part of the program that will enforce it is still to come.
#[test]
fn the_limits_are_those_that_were_promised() {
    let secs = Duration::from_secs;
    let sizes: [(&str, u64, u64, &str); 17] = [
        ("MAX_IMAGE_REF_LEN", limits::MAX_IMAGE_REF_LEN as u64, 512, "src/image/reference.rs"),
        ("MAX_LAYER_SIZE", limits::MAX_LAYER_SIZE, 512 << 20, "src/storage/config.rs"),
        ("MAX_ROOTFS_SIZE", limits::MAX_ROOTFS_SIZE, 4 << 30, "src/storage/config.rs"),
        ("MAX_LAYERS", limits::MAX_LAYERS as u64, 128, "src/storage/config.rs"),
        ("MAX_FILES_PER_LAYER", limits::MAX_FILES_PER_LAYER as u64, 100_000, "src/storage/config.rs"),
        ("MAX_MANIFEST_SIZE", limits::MAX_MANIFEST_SIZE, 1 << 20, "src/image/manifest.rs"),
        ("MAX_CONFIG_SIZE", limits::MAX_CONFIG_SIZE, 1 << 20, "src/runtime/spec.rs"),
        ("MAX_CONTAINERS", limits::MAX_CONTAINERS as u64, 1024, "src/storage/config.rs"),
        ("MAX_CONTAINER_ID_LEN", limits::MAX_CONTAINER_ID_LEN as u64, 128, "src/storage/state_root.rs"),
        ("MAX_WASM_MODULE_SIZE", limits::MAX_WASM_MODULE_SIZE, 256 << 20, "src/storage/config.rs"),
        ("MAX_WASM_MEMORY_PAGES", u64::from(limits::MAX_WASM_MEMORY_PAGES), 65_536, "src/storage/config.rs"),
        ("DEFAULT_WASM_FUEL", limits::DEFAULT_WASM_FUEL, 1_000_000_000, "src/runtime/wasm/settings.rs"),
        ("MAX_VM_MEMORY_MIB", u64::from(limits::MAX_VM_MEMORY_MIB), 4096, "src/runtime/krun/settings.rs"),
        ("MAX_VCPUS", u64::from(limits::MAX_VCPUS), 8, "src/runtime/krun/settings.rs"),
        ("DEFAULT_MEMORY_BYTES", limits::DEFAULT_MEMORY_BYTES, 256 << 20, "src/image/bundle/spec.rs"),
        ("MAX_MEMORY_BYTES", limits::MAX_MEMORY_BYTES, 8 << 30, "src/image/bundle/spec.rs"),
        ("MAX_INFLIGHT_BLOBS", limits::MAX_INFLIGHT_BLOBS as u64, 256, "src/image/pull.rs"),
    ];
    let times = [
        ("IMAGE_PULL_TIMEOUT", limits::IMAGE_PULL_TIMEOUT, secs(300), "src/storage/config/timeouts.rs"),
        (
            "CONTAINER_START_TIMEOUT",
            limits::CONTAINER_START_TIMEOUT,
            secs(60),
            "src/storage/config/timeouts.rs",
        ),
        ("DEFAULT_GRACE_PERIOD", limits::DEFAULT_GRACE_PERIOD, secs(30), "src/storage/config/timeouts.rs"),
        ("EXEC_TIMEOUT", limits::EXEC_TIMEOUT, secs(300), "src/storage/config/timeouts.rs"),
    ];
    assert_eq!(sizes.len() + times.len(), 21);
    let is_in = |name: &str, place: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(place);
        std::fs::read_to_string(path).unwrap().contains(name)
    };
    for (name, value, promised, place) in sizes {
        assert_eq!(value, promised, "{name}");
        assert!(is_in(name, place), "{name} is not used in {place}");
    }
    for (name, value, promised, place) in times {
        assert_eq!(value, promised, "{name}");
        assert!(is_in(name, place), "{name} is not used in {place}");
    }
}
