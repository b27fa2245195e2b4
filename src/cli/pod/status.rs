//! `magikrun pod status`

use super::table;
use crate::cli::list::Format;
use crate::cli::print;
use crate::error::{Context as _, Result};
use crate::pod::PodHost;
use crate::pod::record::ContainerStatus;
use serde_json::{Value, json};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id or name of the pod, or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: String,
    /// Form
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Ask the plugins of the pod's network whether all is as they made it; fail if not
    #[arg(long)]
    check: bool,
}

/// `magikrun pod status`
pub fn run(host: &PodHost, args: &Args) -> Result<()> {
    let pod = host.store.open(&args.pod)?;
    let status = pod.status(&host.host)?;
    let record = &pod.record;
    if args.check {
        pod.check_network().context(|| format!("cannot confirm the network of pod '{}'", record.name))?;
    }
    let mut all = json!({
        "id": record.id, "name": record.name, "namespace": record.namespace, "created": record.created,
        "ports": record.ports,
    });
    if let (Some(map), Value::Object(more)) = (all.as_object_mut(), serde_json::to_value(&status)?) {
        map.extend(more);
    }
    for (object, container) in all["containers"].as_array_mut().into_iter().flatten().zip(&record.containers)
    {
        object["image"] = json!(container.image);
        object["imageID"] = json!(container.image_id);
    }
    if args.format == Format::Json {
        return print(&all.to_string());
    }
    let mut rows = vec![
        vec!["ID".to_owned(), record.id.clone()],
        vec!["NAME".to_owned(), format!("{}/{}", record.namespace, record.name)],
        vec!["PHASE".to_owned(), format!("{:?}", status.phase)],
        vec!["IP".to_owned(), status.pod_ip.clone()],
    ];
    rows.extend(status.reason.iter().map(|reason| vec!["REASON".to_owned(), reason.clone()]));
    for port in &record.ports {
        let address = port.host_ip.as_deref().unwrap_or("*");
        let protocol = if port.udp { "udp" } else { "tcp" };
        let text = format!("{address}:{} -> {}/{protocol}", port.host_port, port.container_port);
        rows.push(vec!["PORT".to_owned(), text]);
    }
    print(&table(&rows)?)?;
    let mut rows = vec![
        ["CONTAINER", "ROLE", "STATE", "READY", "EXIT", "RESTARTS", "IMAGE"].map(str::to_owned).to_vec(),
    ];
    for (container, info) in status.containers.iter().zip(&record.containers) {
        rows.push(vec![
            container.name.clone(),
            format!("{:?}", container.role).to_lowercase(),
            state(container),
            container.ready.to_string(),
            container.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
            container.restarts.to_string(),
            info.image.clone(),
        ]);
    }
    print(&format!("\n{}", table(&rows)?))
}

/// The state of a container, and why it has ended so.
fn state(container: &ContainerStatus) -> String {
    let state = format!("{:?}", container.state).to_lowercase();
    container.reason.as_ref().map_or_else(|| state.clone(), |reason| format!("{state} ({reason})"))
}
