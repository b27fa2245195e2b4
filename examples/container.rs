//! Pulls an image, makes a bundle of it, and runs a container. As root: `cargo run --example container`

use magikrun::image::{BundleBuilder, ImageService, OciContainerConfig};
use magikrun::runtime::{NativeRuntime, OciRuntime, Signal};

fn main() -> magikrun::Result<()> {
    let images = ImageService::new()?;
    let image = images.pull("busybox:1.36")?;
    let config = OciContainerConfig {
        name: "my-container".to_owned(),
        command: Some(vec!["/bin/sleep".to_owned(), "60".to_owned()]),
        ..OciContainerConfig::default()
    };
    let bundle = BundleBuilder::with_storage(images.storage().clone())?.build_oci_bundle(&image, &config)?;
    let runtime = NativeRuntime::new();
    runtime.create("my-container", bundle.path())?;
    runtime.start("my-container")?;
    println!("my-container is {}", runtime.state("my-container")?.status);
    runtime.kill("my-container", Signal::Kill)?;
    while runtime.state("my-container")?.status.to_string() != "stopped" {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    runtime.delete("my-container")
}
