//! Networks of guests, in a network namespace that leads nowhere but to itself.

use crate::common::{Bundle, Runtime, finish, is_alive, poll, readable, signal, start};
use crate::{children, is_passt, microvm};
use serde_json::json;
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Address of the namespace.
const ADDRESS: &str = "192.0.2.1";
/// Port of the namespace's address that answers datagrams.
const UDP_PORT: u16 = 9092;
/// Port of the guest that does.
const GUEST_UDP_PORT: u16 = 53;
/// Variable that tells this program that it is in the guest.
const IN_GUEST: &str = "IN_GUEST";
/// How long a datagram may take before it is sent again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Makes an interface with a default route, serves a file on port 9090, and stays until its input ends.
const SET_UP: &str = "ip link set lo up && tunctl -t tap0 >/dev/null && ip link set tap0 up && \
    ip addr add 192.0.2.1/24 dev tap0 && ip route add default via 192.0.2.2 && \
    echo of-the-host >index.html && httpd -p 192.0.2.1:9090 -h . && echo made && read end; \
    kill $(pidof httpd)";

/// A network namespace with a way out, and a server in it.
struct Namespace(Child);

impl Namespace {
    fn new(runtime: &Runtime) -> Self {
        let mut command = Command::new("unshare");
        // Its processes do not name the folder: they are none that the runtime leaves behind.
        let served = runtime.path("served");
        std::fs::create_dir(&served).expect("a folder");
        command.args(["-n", "sh", "-c", SET_UP]).current_dir(served);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a network namespace");
        let output = child.stdout.as_mut().expect("its output");
        assert!(readable(&*output), "the network was not made");
        let mut said = [0; 5];
        std::io::Read::read_exact(output, &mut said).expect("the network is made");
        assert_eq!(&said, b"made\n");
        Self(child)
    }

    fn bundle(&self, runtime: &Runtime, script: &str) -> Bundle {
        let mut bundle = microvm(runtime, script);
        let path = format!("/proc/{}/ns/net", self.0.id());
        bundle.namespace("network", Some(json!({"type": "network", "path": path})));
        bundle
    }

    /// Does something in a thread in the namespace.
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let path = format!("/proc/{}/ns/net", self.0.id());
        let enter = || {
            let namespace = std::fs::File::open(path).expect("the namespace");
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)
                .expect("to enter the namespace");
            act()
        };
        thread::scope(|scope| scope.spawn(enter).join().expect("the thread in the namespace"))
    }

    /// What a server at this port of the namespace's address has. Tried until it answers: passt gives a guest ten seconds.
    fn fetch(&self, port: u16) -> String {
        let (namespace, url) = (self.0.id().to_string(), format!("http://{ADDRESS}:{port}/"));
        poll("an answer of the guest's server", || {
            let mut command = Command::new("nsenter");
            command.args(["-t", &namespace, "-n", "wget", "-qO-", &url]);
            let output = finish(command, None);
            (output.code == 0).then_some(output.stdout)
        })
    }
}

/// What is answered to `text`, sent again until it is.
fn ask(socket: &UdpSocket, address: (&str, u16), text: &str) -> String {
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    poll("an answer to a datagram", || {
        socket.send_to(text.as_bytes(), address).expect("a datagram to be sent");
        let mut answer = [0; 100];
        let (length, from) = socket.recv_from(&mut answer).ok()?;
        assert_eq!(from, format!("{}:{}", address.0, address.1).parse().expect("an address"));
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    })
}

/// Shows the guest this program, with the libraries that it needs.
fn mount_this_program(bundle: &mut Bundle) {
    let program = std::env::current_exe().expect("this program");
    bundle.mount("/program", "bind", program.to_str().expect("UTF-8"), &["bind", "ro"]);
    for path in ["/lib/x86_64-linux-gnu", "/lib64"] {
        bundle.mount(path, "bind", path, &["bind", "ro"]);
    }
}

/// Answers a datagram.
fn answer(socket: &UdpSocket, with: &str) -> String {
    let mut text = [0; 100];
    let (length, from) = socket.recv_from(&mut text).expect("a datagram");
    socket.send_to(with.as_bytes(), from).expect("an answer to be sent");
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// The guest's half of the test of datagrams: first it asks, then it answers until it is killed.
fn exchange_datagrams_in_guest() {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    println!("answered {}", ask(&socket, (ADDRESS, UDP_PORT), "guest?"));
    let socket = UdpSocket::bind(("0.0.0.0", GUEST_UDP_PORT)).expect("a socket");
    println!("listens");
    loop {
        println!("asked {}", answer(&socket, "guest!"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(mut input) = self.0.stdin.take() {
            let _ = input.write_all(b"end\n");
        }
        let _ = self.0.wait();
    }
}

#[test]
fn passt_connects_a_guest_both_ways_and_the_machine_does_not_outlive_it() {
    if std::env::var_os(IN_GUEST).is_some() {
        return exchange_datagrams_in_guest();
    }
    let runtime = Runtime::new();
    let network = Namespace::new(&runtime);
    let mut bundle = network.bundle(
        &runtime,
        "mkdir /tmp/www; echo of-the-guest >/tmp/www/index.html; httpd -p 80 -h /tmp/www; \
         until wget -qO- http://192.0.2.1:9090/; do sleep 1; done; ls /sys/class/net; grep MemTotal /proc/meminfo; echo up; \
         until ping -c 1 -W 10 192.0.2.1 >/dev/null; do sleep 1; done; echo pinged; \
         IN_GUEST=1 exec /program --exact --nocapture network::passt_connects_a_guest_both_ways_and_the_machine_does_not_outlive_it",
    );
    mount_this_program(&mut bundle);
    bundle.edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_NET_RAW", "CAP_NET_BIND_SERVICE"]);
        }
        config["annotations"] = json!({"run.oci.handler": "krun", "krun.use_passt": "1", "krun.cpus": "1"});
        config["linux"]["resources"]["memory"] = json!({"limit": 256 << 20});
    });
    let running = start(runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None);
    running.wait_stdout("up\n");
    let said = running.stdout();
    assert!(said.starts_with("of-the-host\n"), "{said} {}", running.stderr());
    assert!(said.contains("eth0\n"), "{said}");
    // The limit without what the monitor needs, and with the memory that libkrun adds for the kernel.
    let memory = said.split_whitespace().find_map(|word| word.parse::<u32>().ok()).expect("memory in kB");
    assert!((180 << 10..224 << 10).contains(&memory), "{said}");
    assert_eq!(network.fetch(80), "of-the-guest\n");
    // passt makes sockets for pings too, which the namespace did not let anybody.
    running.wait_stdout("pinged\n");
    let socket = network.inside(|| UdpSocket::bind((ADDRESS, UDP_PORT)).expect("a socket"));
    assert_eq!(answer(&socket, "host!"), "guest?");
    running.wait_stdout("answered host!\nlistens\n");
    assert_eq!(ask(&socket, (ADDRESS, GUEST_UDP_PORT), "host?"), "guest!");
    running.wait_stdout("asked host?\n");
    let supervisor = runtime.pid(&bundle.id);
    let passt = children(supervisor).into_iter().find(|pid| is_passt(*pid)).expect("passt");
    signal(passt, rustix::process::Signal::KILL);
    let output = running.finish().exits(125);
    assert!(output.stderr.contains("passt has ended"), "{}", output.stderr);
    poll("the machine to be gone", || (!is_alive(supervisor)).then_some(()));
    runtime.assert_nothing_left();
}

#[test]
fn the_sockets_of_a_guest_without_passt_are_made_on_the_host() {
    let runtime = Runtime::new();
    let network = Namespace::new(&runtime);
    let mut bundle = network.bundle(&runtime, "wget -qO- http://192.0.2.1:9090/; ls /sys/class/net; nproc");
    bundle.edit(|config| {
        config["annotations"]["krun.use_passt"] = json!("0");
        config["annotations"]["krun.cpus"] = json!("2");
    });
    let said = runtime.output(&bundle);
    assert!(said.starts_with("of-the-host\n") && said.ends_with("\n2\n"), "{said}");
    assert!(!said.contains("eth0"), "{said}");
    bundle.edit(|config| config["annotations"]["org.magikrun.krun.network"] = json!("none"));
    let output = runtime.run(&bundle);
    assert!(!output.stdout.contains("of-the-host") && !output.stdout.contains("eth0"), "{}", output.stdout);
    runtime.assert_nothing_left();
}
