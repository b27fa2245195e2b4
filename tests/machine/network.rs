//! Networks of pods on a host whose AppArmor confines pasta.

use crate::common::pods::{container, lead_out, manifest, pasta};
use crate::common::{Pods, finish, poll, require_program};
use std::process::Command;

/// Port of the machine that leads to the pod.
const PORT: u16 = 8125;

#[test]
fn a_port_of_the_host_leads_to_a_pod_whose_pasta_is_confined() {
    lead_out();
    let pods = Pods::new();
    let name = pods.name("port");
    let script = "mkdir /www; echo of-the-pod >/www/index.html; exec httpd -f -p 8080 -h /www";
    let web = container("web", script, &format!("ports: [{{containerPort: 8080, hostPort: {PORT}}}]"));
    let pod = pods.start(&manifest(&name, &format!("{{containers: [{web}]}}")));
    let pasta = pasta(&name).expect("a pasta");
    let profile = std::fs::read_to_string(format!("/proc/{pasta}/attr/current")).expect("its profile");
    assert!(profile.trim().ends_with("(enforce)"), "{profile}");
    let page = poll("the port of the host to lead to the pod", || {
        let mut command = Command::new(require_program("busybox"));
        command.args(["wget", "-qO-", &format!("http://127.0.0.1:{PORT}/")]);
        let output = finish(command, None);
        (output.code == 0).then_some(output.stdout)
    });
    assert_eq!(page, "of-the-pod\n");
    pods.ok(&["delete", "--force", &pod]);
    pods.assert_nothing_left();
}
