//! Messages of rtnetlink(7): made as bytes, and one answer read for each.

use crate::failure::{Context as _, Result, failure, text};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use vm_protocol::message::FailureKind;

const HEADER: usize = 16;
const REQUEST_ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;

/// A connection to the kernel.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

/// A message that is being made.
#[derive(Debug)]
struct Message(Vec<u8>);

impl Message {
    /// With the fixed part of its kind.
    fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST_ACK | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend_from_slice(fixed);
        Self(bytes)
    }

    /// With an attribute.
    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() as u32).to_ne_bytes();
        self.0[..4].copy_from_slice(&length);
        self.0
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

impl Netlink {
    /// Connects.
    pub fn open() -> Result<Self> {
        let cannot = || "cannot open a netlink socket";
        // The protocol 0 is NETLINK_ROUTE.
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
                .context(cannot)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0)).context(cannot)?;
        Ok(Self(socket))
    }

    fn call(&self, message: Message) -> Result<()> {
        let cannot = || "cannot speak to the kernel";
        rustix::net::send(&self.0, &message.finish(), SendFlags::empty()).context(cannot)?;
        let mut answer = [0u8; 4096];
        let (length, _) = rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty()).context(cannot)?;
        // An acknowledgement is an error with the number 0.
        let number = answer[..length].get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
        match number.map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(number) => {
                let cause = text(&std::io::Error::from_raw_os_error(-number));
                Err(failure(FailureKind::System, cause))
            }
            None => Err(failure(FailureKind::System, "the kernel's answer is too short")),
        }
    }

    /// Brings an interface up, with this largest packet.
    pub fn up(&self, index: u32, mtu: Option<u32>) -> Result<()> {
        let up = (libc::IFF_UP as u32).to_ne_bytes();
        let fixed = [&[libc::AF_UNSPEC as u8, 0, 0, 0][..], &index.to_ne_bytes(), &up, &up].concat();
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &fixed);
        if let Some(mtu) = mtu {
            message = message.with(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.call(message)
    }

    /// Gives an interface an address.
    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
        // No other host has this address: looking for one would only make it unusable for a second.
        let flags = if address.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
        let fixed = [&[family(address), prefix, flags, 0][..], &index.to_ne_bytes()].concat();
        let octets = octets(address);
        let message = Message::new(libc::RTM_NEWADDR, CREATE, &fixed)
            .with(libc::IFA_LOCAL, &octets)
            .with(libc::IFA_ADDRESS, &octets);
        self.call(message)
    }

    /// Makes the default route.
    pub fn add_default_route(&self, index: u32, gateway: IpAddr) -> Result<()> {
        let fixed = [
            family(gateway),
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let message = Message::new(libc::RTM_NEWROUTE, CREATE, &fixed)
            .with(libc::RTA_GATEWAY, &octets(gateway))
            .with(libc::RTA_OIF, &index.to_ne_bytes());
        self.call(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_the_length_is_that_of_all() {
        let bytes = Message::new(20, CREATE, &[1, 2, 3, 4]).with(1, &[9; 5]).finish();
        assert_eq!(bytes.len(), HEADER + 4 + 12);
        assert_eq!(bytes[..4], (bytes.len() as u32).to_ne_bytes());
        assert_eq!(bytes[20..22], 9u16.to_ne_bytes());
        assert_eq!(bytes[29..], [0; 3]);
    }
}
