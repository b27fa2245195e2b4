//! Runs a pod, looks at it, and removes it. As root: `cargo run --example pod`

use magikrun::pod::{NativePodRuntime, PodRuntime, PodSpec};
use std::time::Duration;

fn main() -> magikrun::Result<()> {
    // The processes that look after a pod are this program, executed again.
    if let Some(status) = magikrun::pod::role() {
        std::process::exit(status.into());
    }
    let runtime = NativePodRuntime::new()?;
    let spec = PodSpec::from_yaml(include_bytes!("pods/01-minimal.yaml"))?;
    let handle = runtime.run_pod(&spec)?;
    println!("pod {} runs", handle.id);
    println!("phase: {:?}", runtime.pod_status(&handle.id)?.phase);
    runtime.stop_pod(&handle.id, Duration::from_secs(30))?;
    runtime.delete_pod(&handle.id, false)
}
