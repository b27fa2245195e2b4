//! What components can reach: names, by the container's own files, and servers over HTTP.
mod common;

use common::{Bundle, RegistryAuth, RegistryServer, Wasm, annotate};
use magikrun::storage::blobs::Digest;
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, ResourceRecord, TYPE};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

const SOCKETS: &str = "org.magikrun.wasm.sockets";

/// A program of `tests/programs` in the text format.
fn text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name))
        .expect("a program")
}

/// A bundle of a program in the host's network, where the servers of these tests are.
fn bundle(wasm: &Wasm, program: &str, sockets: Option<&str>) -> Bundle {
    let mut bundle = wasm.bundle(program.as_bytes(), "/program.wat", &[]);
    bundle.namespace("network", None);
    if let Some(sockets) = sockets {
        annotate(&mut bundle, SOCKETS, sockets);
    }
    bundle
}

fn write(bundle: &Bundle, path: &str, content: impl AsRef<[u8]>) {
    let path = bundle.rootfs(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("the folder");
    fs::write(path, content).expect("a file");
}

/// A name server on loopback addresses of its own: over UDP it says that its answer is too long for that if it is `short`.
/// It runs until the test ends.
fn name_server(short: bool) -> Ipv4Addr {
    // Others must not have the same one; the port is what clients expect.
    let (address, socket, listener) = (1..250)
        .find_map(|last| {
            let address = Ipv4Addr::new(127, 77, (std::process::id() % 250) as u8, last);
            let socket = UdpSocket::bind((address, 53)).ok()?;
            Some((address, socket, TcpListener::bind((address, 53)).ok()?))
        })
        .expect("a free address");
    thread::spawn(move || {
        let mut buffer = [0u8; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            // Answers to other questions come first, as forged ones would.
            let mut forged = answer(&buffer[..length], false);
            forged[0] ^= 0xff;
            let _ = socket.send_to(&forged, client);
            let _ = socket.send_to(&answer(&buffer[..length], short), client);
        }
    });
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut length = [0u8; 2];
            stream.read_exact(&mut length).expect("a length");
            let mut question = vec![0u8; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question).expect("a question");
            let answer = answer(&question, false);
            let length = u16::try_from(answer.len()).expect("a short answer").to_be_bytes();
            let _ = stream.write_all(&[&length, answer.as_slice()].concat());
        }
    });
    address
}

/// `web.example.test` is 192.0.2.7; nothing else is.
fn answer(question: &[u8], short: bool) -> Vec<u8> {
    let asked = Packet::parse(question).expect("a question");
    let mut packet = asked.clone().into_reply();
    packet.set_flags(PacketFlag::RESPONSE);
    let known = asked.questions[0].qname.to_string() == "web.example.test";
    if short {
        packet.set_flags(PacketFlag::TRUNCATION);
    } else if known && asked.questions[0].qtype == QTYPE::TYPE(TYPE::A) {
        let address = RData::A(A { address: u32::from(Ipv4Addr::new(192, 0, 2, 7)) });
        let name = Name::new("web.example.test").expect("a name");
        packet.answers.push(ResourceRecord::new(name, CLASS::IN, 60, address));
    }
    packet.build_bytes_vec().expect("an answer")
}

#[test]
fn names_are_looked_up_in_the_container_s_own_files_by_whoever_has_sockets() {
    let wasm = Wasm::new();
    let program = text("names.wat");
    for (sockets, code) in [(None, 1), (Some("none"), 1), (Some("tcp"), 0), (Some("udp"), 0)] {
        let bundle = bundle(&wasm, &program, sockets);
        write(&bundle, "etc/hosts", "127.0.0.1 localhost\n192.0.2.7 web.example\n");
        wasm.run(&bundle).exits(code);
    }
    // Another address, and a file that is none.
    let other = bundle(&wasm, &program, Some("all"));
    write(&other, "etc/hosts", "192.0.2.8 web.example\n");
    wasm.run(&other).exits(1);
}

#[test]
fn a_name_server_is_asked_over_udp_and_over_tcp_and_nobody_s_code_is_loaded() {
    let wasm = Wasm::new();
    for short in [false, true] {
        let server = name_server(short);
        let bundle = bundle(&wasm, &text("names.wat"), Some("tcp"));
        write(&bundle, "etc/hosts", "");
        // The C library would load the service that this names from the image.
        write(&bundle, "etc/nsswitch.conf", "hosts: evil\n");
        write(&bundle, "lib/x86_64-linux-gnu/libnss_evil.so.2", "not a library");
        write(
            &bundle,
            "etc/resolv.conf",
            format!("nameserver {server}\nsearch nowhere.test test\noptions timeout:20\n"),
        );
        wasm.run(&bundle).exits(0);
    }
}

#[test]
fn a_server_that_does_not_answer_is_an_error_and_not_the_end() {
    let wasm = Wasm::new();
    let bundle = bundle(&wasm, &text("names.wat"), Some("udp"));
    // Nothing listens there.
    write(&bundle, "etc/resolv.conf", "nameserver 127.78.0.1\noptions timeout:1 attempts:1\n");
    wasm.run(&bundle).exits(1);
}

#[test]
fn a_module_of_preview_1_serves_on_the_socket_that_it_is_passed() {
    let wasm = Wasm::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let module = wasm.runtime.path("server.wasm");
    common::compile("server.c", &module);
    let bundle = wasm.bundle(&fs::read(module).expect("the module"), "/server.wasm", &[]);
    write(&bundle, "etc/greeting", "hello ");
    let run = wasm.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\" 3<&0 </dev/null", "sh"]);
    shell.arg(run.get_program()).args(run.get_args()).stdin(Stdio::from(OwnedFd::from(listener)));
    shell.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdout(Stdio::piped()).stderr(Stdio::piped());
    let server = shell.spawn().expect("the shell");
    for name in ["one", "two"] {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.write_all(name.as_bytes()).expect("a name");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert_eq!(answer, format!("hello {name}"));
    }
    let output = server.wait_with_output().expect("its end");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "type 1\nclosed\n");
}

#[test]
fn descriptors_that_are_no_sockets_are_not_passed() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&["read", "/tmp/file"]);
    write(&bundle, "tmp/file", "content");
    // It says so itself: there are only the runtime's own.
    bundle.edit(|config| config["process"]["env"] = serde_json::json!(["LISTEN_FDS=10"]));
    assert_eq!(wasm.run(&bundle).success().stdout, "content");
}

/// The program that asks `authority`, encrypted or not.
fn fetch(authority: &str, encrypted: bool) -> String {
    let length = format!("(; length ;) {}", authority.len());
    let program = text("fetch.wat").replace("AUTHORITY", authority).replace("(; length ;) 9", &length);
    if encrypted { program.replace("(; scheme ;) 0", "(; scheme ;) 1") } else { program }
}

/// A server that answers every request with 200, and keeps what it was asked.
fn server() -> (SocketAddr, &'static Mutex<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let asked: &Mutex<Vec<String>> = Box::leak(Box::default());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let request = head(&mut stream);
            asked.lock().expect("the requests").push(request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    (address, asked)
}

fn head(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0u8];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
        text.extend(byte);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_component_asks_servers_over_http_if_it_may_use_tcp() {
    let wasm = Wasm::new();
    let (address, asked) = server();
    for sockets in [None, Some("none"), Some("udp")] {
        wasm.run(&bundle(&wasm, &fetch(&address.to_string(), false), sockets)).exits(1);
    }
    assert!(asked.lock().expect("the requests").is_empty());
    let named = format!("web.example:{}", address.port());
    for authority in [address.to_string(), named.clone()] {
        let bundle = bundle(&wasm, &fetch(&authority, false), Some("tcp"));
        write(&bundle, "etc/hosts", "127.0.0.1 web.example\n");
        wasm.run(&bundle).exits(0);
    }
    let asked = asked.lock().expect("the requests");
    assert_eq!(asked.len(), 2);
    assert!(
        asked[1].starts_with("GET / HTTP/1.1\r\n") && asked[1].contains(&format!("host: {named}")),
        "{asked:?}"
    );
    // Nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    wasm.run(&bundle(&wasm, &fetch(&format!("127.0.0.1:{port}"), false), Some("tcp"))).exits(1);
}

#[test]
fn a_server_is_trusted_over_https_if_the_container_knows_its_authority() {
    let wasm = Wasm::new();
    let registry = RegistryServer::start(&wasm.runtime.path("registry"), RegistryAuth::Password);
    let program = fetch(&registry.host, true);
    let stranger = bundle(&wasm, &program, Some("tcp"));
    wasm.run(&stranger).exits(1);
    let trusting = bundle(&wasm, &program, Some("tcp"));
    let authority = fs::read(registry.authority()).expect("the authority");
    write(&trusting, "etc/ssl/certs/ca-certificates.crt", authority);
    wasm.run(&trusting).exits(0);
}

#[test]
fn a_module_of_preview_1_without_sockets_is_none_the_worse_for_them() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&["exit", "3"]);
    annotate(&mut bundle, SOCKETS, "all");
    wasm.run(&bundle).exits(3);
    // The code does not depend on it.
    wasm.run(&wasm.probe(&["exit", "4"])).exits(4);
    let entries = fs::read_dir(wasm.store().join("index")).expect("the index").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    assert_eq!(names.filter(|name| name.len() == Digest::of(b"").hex().len()).count(), 1);
}
