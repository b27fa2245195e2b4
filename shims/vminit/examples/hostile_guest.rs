//! A first process of a microVM that means harm, for the tests: it says that its container runs, and then answers to whoever
//! connects with nonsense, with too much, with the answer to another question, or with nothing at all.

#[path = "../src/ffi.rs"]
#[allow(dead_code)]
mod ffi;

use rustix::net::{SocketFlags, accept_with};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::Duration;
use vm_protocol::frame::{Kind, encode, encode_json};
use vm_protocol::message::{Hello, Reply, Status};

fn main() -> std::io::Result<()> {
    let listener = ffi::listen_vsock(vm_protocol::PORT)?;
    println!("it listens");
    let mut kept = Vec::new();
    let mut behaviours = 0;
    loop {
        let flags = SocketFlags::CLOEXEC;
        let Ok(socket) = accept_with(&listener, flags) else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        kept.extend(answer(socket, behaviours));
        behaviours += 1;
    }
}

/// Answers as it is the turn of the connection with this number; a connection that is to stay open comes back.
fn answer(socket: OwnedFd, number: u32) -> Option<File> {
    let mut file = File::from(socket);
    let hello = encode_json(Kind::Hello, &Hello::new("a hostile guest")).unwrap_or_default();
    let message = |reply: &Reply| encode_json(Kind::Message, reply).unwrap_or_default();
    let status = Reply::Status(Status { ready: true, uptime: 0, containers: Vec::new() });
    // What the host says is of no interest, but must be there before the connection is closed.
    let _ = file.read(&mut [0; 4096]);
    let answer = match number {
        0 => [hello, message(&status)].concat(),
        1 => vec![0xff; 1 << 20],
        2 => [hello, [2, 0xff, 0xff, 0xff, 0xff].into(), vec![b'['; 1 << 20]].concat(),
        3 => [hello, encode(Kind::Message, "[".repeat(100_000).as_bytes()).unwrap_or_default()].concat(),
        4 => [hello, message(&Reply::Exited { code: 0 })].concat(),
        _ => Vec::new(),
    };
    let _ = file.write_all(&answer);
    (number == 0 || answer.is_empty()).then_some(file)
}
