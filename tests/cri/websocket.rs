//! The streams of CRI exec and attach over a web socket: messages whose first byte is the number of a channel.

use crate::common::DEADLINE;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

/// A connection to a streaming URL.
pub struct WebSocket {
    stream: BufReader<TcpStream>,
    received: HashMap<u8, Vec<u8>>,
}

/// Connects in the network of process `pid`: a thread of its own enters it, as this cannot be taken back.
fn connect(address: String, pid: i32) -> TcpStream {
    let connect = move || {
        let namespace = File::open(format!("/proc/{pid}/ns/net")).expect("the network of containerd");
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(kind))
            .expect("its network");
        TcpStream::connect(address).expect("the streaming server")
    };
    std::thread::spawn(connect).join().expect("a connection")
}

impl WebSocket {
    /// Opens a URL of the streaming server of the containerd with this pid.
    pub fn open(url: &str, pid: i32) -> Self {
        let rest = url.strip_prefix("http://").expect("a URL");
        let (address, path) = rest.split_once('/').expect("a path");
        let mut stream = connect(address.to_owned(), pid);
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://{address}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("the request is sent");
        let mut stream = BufReader::new(stream);
        let mut first = String::new();
        stream.read_line(&mut first).expect("an answer");
        assert!(first.contains(" 101 "), "{first}");
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).expect("a header");
        }
        Self { stream, received: HashMap::new() }
    }

    /// Sends bytes on a channel.
    pub fn send(&mut self, channel: u8, bytes: &[u8]) {
        // A final binary frame; the mask of a client may be zero.
        let length = u8::try_from(bytes.len() + 1).expect("a short message");
        assert!(length < 126, "a short message");
        let mut frame = vec![0x82, 0x80 | length, 0, 0, 0, 0, channel];
        frame.extend(bytes);
        self.stream.get_mut().write_all(&frame).expect("the message is sent");
    }

    /// What has come on a channel.
    pub fn text(&self, channel: u8) -> String {
        String::from_utf8_lossy(self.received.get(&channel).map_or(&[], Vec::as_slice)).into_owned()
    }

    /// Reads until a channel has `needle`, or the end; answers what has come on it.
    pub fn receive_until(&mut self, channel: u8, needle: &str) -> String {
        while !self.text(channel).contains(needle) && self.receive().is_some() {}
        self.text(channel)
    }

    fn receive(&mut self) -> Option<()> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).ok()?;
        let length = match head[1] & 0x7f {
            126 => {
                let mut long = [0; 2];
                self.stream.read_exact(&mut long).ok()?;
                u64::from(u16::from_be_bytes(long))
            }
            127 => panic!("a frame that is too long"),
            short => u64::from(short),
        };
        let mut message = vec![0; usize::try_from(length).expect("a length")];
        self.stream.read_exact(&mut message).ok()?;
        // 8 is the frame that closes.
        if head[0] & 0xf == 8 {
            return None;
        }
        if let Some((channel, bytes)) = message.split_first() {
            self.received.entry(*channel).or_default().extend(bytes);
        }
        Some(())
    }
}
