//! An extension of the infra container that counts what happens to its pod, and a pod that is made up to try it:
//! `cargo run --example extension`

use magikrun::infra::message::{FromInfra, ToInfra};
use magikrun::infra::wire::Wire;
use magikrun::infra::{ExtensionResult, InfraContext, InfraEvent, InfraExtension, PodInfo, run};

/// Counts the containers that run.
#[derive(Default)]
struct Census {
    running: usize,
}

impl InfraExtension for Census {
    fn name(&self) -> &'static str {
        "census"
    }

    fn on_start(&mut self, context: &InfraContext<'_>) -> ExtensionResult<()> {
        println!("census of pod {} begins", context.pod().name);
        context.request_udp_port(51820, 51820, self.name())
    }

    fn on_event(&mut self, event: &InfraEvent, _: &InfraContext<'_>) -> ExtensionResult<()> {
        match event {
            InfraEvent::ContainerStarted { .. } => self.running += 1,
            InfraEvent::ContainerExited { .. } => self.running -= 1,
            _ => {}
        }
        println!("containers that run: {}", self.running);
        Ok(())
    }
}

fn main() -> magikrun::Result<()> {
    let (mut monitor, infra) = Wire::pair()?;
    let infra = std::thread::spawn(|| run(infra, vec![Box::new(Census::default())]));
    let pod = PodInfo { name: "web".to_owned(), ..PodInfo::default() };
    monitor.send(&ToInfra::Start {
        pod,
        extensions: Vec::new(),
        state_directory: std::env::temp_dir(),
        name_servers: Vec::new(),
    })?;
    while let Some(message) = monitor.receive::<FromInfra>(None)? {
        match message {
            FromInfra::RequestPort { host_port, .. } => {
                println!("port {host_port} is asked for");
                monitor.send(&ToInfra::Port(None))?;
            }
            FromInfra::Ready => {
                monitor.send(&ToInfra::Event(InfraEvent::ContainerStarted { name: "server".to_owned() }))?;
                monitor.send(&ToInfra::Stop)?;
            }
            FromInfra::Stopped => break,
            _ => {}
        }
    }
    infra.join().expect("the infra container ends")
}

#[cfg(test)]
#[test]
fn it_runs_to_its_end() {
    main().unwrap();
}
