//! `magikrun pod list`

use super::table;
use crate::cli::list::Format;
use crate::cli::print;
use crate::error::Result;
use crate::pod::PodHost;
use crate::pod::record::ContainerState;
use serde_json::json;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Print the ids only
    #[arg(short, long)]
    quiet: bool,
}

/// `magikrun pod list`
pub fn run(host: &PodHost, args: &Args) -> Result<()> {
    let pods = host.store.all()?;
    if args.quiet {
        return pods.iter().try_for_each(|pod| print(&pod.record.id));
    }
    let mut rows =
        vec![["ID", "NAMESPACE", "NAME", "PHASE", "READY", "IP", "CREATED"].map(str::to_owned).to_vec()];
    let mut objects = Vec::new();
    for pod in &pods {
        let (record, status) = (&pod.record, pod.status(&host.host)?);
        let running = status.containers.iter().filter(|c| c.state != ContainerState::Waiting);
        let ready = running.filter(|c| c.ready).count();
        rows.push(vec![
            record.id.clone(),
            record.namespace.clone(),
            record.name.clone(),
            format!("{:?}", status.phase),
            format!("{ready}/{}", record.containers.len()),
            status.pod_ip.clone(),
            record.created.split('.').next().unwrap_or_default().to_owned() + "Z",
        ]);
        objects.push(json!({
            "id": record.id, "namespace": record.namespace, "name": record.name, "phase": status.phase,
            "podIP": status.pod_ip, "created": record.created,
        }));
    }
    match args.format {
        Format::Json => print(&json!(objects).to_string()),
        Format::Table => print(&table(&rows)?),
    }
}
