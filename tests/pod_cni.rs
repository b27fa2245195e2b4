//! Pods on networks of the Container Network Interface. What plugins change of the host's network, they change in a network
//! namespace that each test makes for that.
mod common;

use common::pods::{WAIT, container, infra, manifest, monitor};
use common::{Pods, is_alive, names_in, poll, require_program, signal, start, write_script};
use rustix::process::Signal;
use std::path::PathBuf;
use std::process::Command;

/// Debian's directory of plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A host with a network `test`.
struct Host {
    pods: Pods,
    namespace: String,
}

impl Host {
    /// `chain` are plugins after those that make a bridge and map ports, in JSON; `scripts` are plugins of the test's own.
    fn new(chain: &str, scripts: &[(&str, &str)]) -> Self {
        for program in ["ip", "nsenter", "iptables"] {
            require_program(program);
        }
        assert!(
            PathBuf::from(PLUGINS).join("bridge").exists(),
            "containernetworking-plugins is not installed"
        );
        let pods = Pods::new();
        let namespace = pods.name("host");
        let dir = pods.runtime.path("net.d");
        std::fs::create_dir(&dir).unwrap();
        let bin = pods.runtime.path("plugins");
        std::fs::create_dir(&bin).unwrap();
        for (name, script) in scripts {
            write_script(&bin.join(name), &format!("#!/bin/sh\n{script}\n"));
        }
        let leases = pods.runtime.path("leases");
        let list = format!(
            r#"{{"cniVersion": "1.0.0", "name": "test", "plugins": [
                {{"type": "bridge", "bridge": "mkt0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                  "ipam": {{"type": "host-local", "dataDir": "{}", "routes": [{{"dst": "0.0.0.0/0"}}],
                            "ranges": [[{{"subnet": "10.171.0.0/24"}}]]}}}},
                {{"type": "portmap", "capabilities": {{"portMappings": true}}}}{chain}]}}"#,
            leases.display()
        );
        std::fs::write(dir.join("10-test.conflist"), list).unwrap();
        let config = format!(
            "[cni]\nconfig_dirs = ['{}']\nplugin_dirs = ['{}', '{PLUGINS}']\n",
            dir.display(),
            bin.display()
        );
        ip(&["netns", "add", &namespace]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        let pods = pods.on_network_of(&namespace, &config);
        Self { pods, namespace }
    }

    fn run(&self, name: &str, spec: &str) {
        self.pods.run(&["--network", "cni"], &manifest(name, spec)).success();
    }

    /// A command of the host.
    fn sh(&self, script: &str) -> String {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).args(["sh", "-c", script]);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    /// Addresses that are given to pods.
    fn leases(&self) -> Vec<String> {
        let names = names_in(&self.pods.runtime.path("leases/test"));
        names.into_iter().filter(|name| name.starts_with("10.")).collect()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        self.pods.assert_nothing_left();
        assert_eq!(self.leases(), Vec::<String>::new(), "addresses that nobody has");
        let ports = self.sh("iptables-save -t nat | grep -e '^:CNI-[a-f0-9]' -e ^:CNI-DN");
        let links = self.sh("ip -o link show master mkt0 2>/dev/null");
        assert_eq!((links.as_str(), ports.as_str()), ("", ""), "what plugins have made");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // While there is a network that plugins can clean up.
        for id in self.pods.call(&["list", "--quiet"]).stdout.split_whitespace() {
            self.pods.call(&["delete", "--force", id]);
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}

fn ip(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().unwrap().success(), "ip {args:?}");
}

#[test]
fn two_pods_find_each_other_by_name_and_a_port_of_the_host_leads_to_one() {
    let host = Host::new("", &[]);
    let pods = &host.pods;
    let (web, client) = (pods.name("web"), pods.name("client"));
    let script = format!("mkdir /www; echo page > /www/p; httpd -p 80 -h /www; {WAIT}");
    let server = container("web", &script, "ports: [{containerPort: 80, hostPort: 8080}]");
    host.run(&web, &format!("{{subdomain: sub, containers: [{server}]}}"));
    host.run(&client, &format!("{{containers: [{}]}}", container("c", WAIT, "")));
    let address = pods.status(&web)["podIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.171.0."), "{address}");
    assert_eq!(pods.status(&web)["podIPs"][0], address.as_str());
    assert!(pods.sh(&web, "web", "ip -o addr show eth0").contains(&address));
    let hosts = pods.sh(&web, "web", "cat /etc/hosts");
    assert!(hosts.contains(&format!("{address}\t{web}.sub\t{web}")), "{hosts}");
    for name in [web.clone(), format!("{web}.sub"), format!("{web}.default.svc.cluster.local")] {
        let page = poll(&format!("{name} to answer"), || {
            let output = pods.call(&["exec", &client, "wget", "-qO-", &format!("http://{name}/p")]);
            (output.code == 0).then_some(output.stdout)
        });
        assert_eq!(page, "page\n", "{name}");
    }
    for name in [format!("{web}.other"), pods.name("nobody"), "nobody.default.svc.cluster.local".to_owned()] {
        let refused = pods.call(&["exec", &client, "nslookup", &name]);
        assert_ne!(refused.code, 0, "{name}: {}", refused.stdout);
    }
    assert_eq!(host.sh("busybox wget -qO- http://10.171.0.1:8080/p"), "page\n");
    pods.ok(&["delete", "--force", &web]);
    let gone = pods.call(&["exec", &client, "nslookup", &web]);
    assert_ne!(gone.code, 0, "a pod that is gone has no name: {}", gone.stdout);
    // Not of the pod with a port: Debian's portmap misses rules for IPv6 there, which it never makes.
    pods.ok(&["status", "--check", &client]);
    let link = host.sh("ip -o link show master mkt0 | tail -1 | cut -d: -f2 | cut -d@ -f1");
    host.sh(&format!("ip link set {} nomaster", link.trim()));
    pods.call(&["status", "--check", &client]).fails_with(1, &["cannot confirm the network of pod", "CHECK"]);
    assert_eq!(host.leases().len(), 1);
    pods.ok(&["delete", "--force", &client]);
    host.assert_nothing_left();
}

#[test]
fn a_plugin_that_fails_leaves_no_pod_and_is_named() {
    let host = Host::new(
        r#", {"type": "refuse"}"#,
        &[(
            "refuse",
            r#"cat > /dev/null; [ "$CNI_COMMAND" = DEL ] && exit; echo '{"code": 100, "msg": "not today"}'; exit 1"#,
        )],
    );
    let pods = &host.pods;
    let name = pods.name("refused");
    let spec = format!("{{containers: [{}]}}", container("c", WAIT, ""));
    let output = pods.run(&["--network", "cni:test"], &manifest(&name, &spec));
    output.fails_with(1, &["plugin 'refuse' of CNI network 'test': ADD: not today (code 100)"]);
    host.assert_nothing_left();
    let output = pods.run(&["--network", "cni:other"], &manifest(&name, &spec));
    output.fails_with(1, &["cannot find CNI network 'other'"]);
    host.assert_nothing_left();
}

#[test]
fn a_pod_whose_processes_are_killed_gives_its_address_back() {
    let host = Host::new("", &[]);
    let pods = &host.pods;
    let name = pods.name("killed");
    let spec =
        format!("{{containers: [{}]}}", container("c", WAIT, "ports: [{containerPort: 80, hostPort: 8080}]"));
    for both in [false, true] {
        host.run(&name, &spec);
        assert_eq!(host.leases().len(), 1);
        let (its_monitor, its_infra) = (monitor(&name).unwrap(), infra(&name).unwrap());
        signal(its_monitor, Signal::KILL);
        if both {
            signal(its_infra, Signal::KILL);
        }
        pods.wait_phase(&name, "Failed");
        assert_eq!(host.leases().len(), 0, "whoever finds the pod gives back what it had");
        pods.ok(&["delete", &name]);
        host.assert_nothing_left();
    }
}

#[test]
fn a_plugin_that_works_for_a_killed_command_is_killed_too() {
    let host = Host::new(
        r#", {"type": "hang"}"#,
        &[(
            "hang",
            r#"cat > /dev/null; [ "$CNI_COMMAND" = DEL ] && exit; echo $$ > "${0%/*}/../pid"; exec sleep 600"#,
        )],
    );
    let pods = &host.pods;
    let name = pods.name("hang");
    let spec = format!("{{containers: [{}]}}", container("c", WAIT, ""));
    let running = start(pods.run_command(&["--network", "cni"], &manifest(&name, &spec)), None);
    let plugin: i32 =
        poll("the plugin", || std::fs::read_to_string(pods.runtime.path("pid")).ok()?.trim().parse().ok());
    assert_eq!(host.leases().len(), 1);
    signal(running.pid(), Signal::KILL);
    signal(monitor(&name).unwrap(), Signal::KILL);
    running.finish();
    poll("the pod to be gone", || {
        pods.ok(&["gc"]);
        (!is_alive(plugin) && host.leases().is_empty()).then_some(())
    });
    host.assert_nothing_left();
}
