//! Network devices of a new network namespace: the loopback device, and devices moved in from the host.

use crate::error::{Context as _, Error, ErrorKind, Result};
use libcontainer::network::address::AddressClient;
use libcontainer::network::cidr::CidrAddress;
use libcontainer::network::link::LinkClient;
use libcontainer::network::wrapper::create_network_client;
use libcontainer::network::{NetworkError, network_device};
use oci_spec::runtime::LinuxNetDevice;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The loopback device is the first of every network namespace.
const LOOPBACK: u32 = 1;

fn error(what: String, e: &NetworkError) -> Error {
    Error::new(ErrorKind::CreateFailed, format!("{what}: {e}"))
}

/// Brings up the loopback device of the calling process's network namespace.
pub fn loopback_up() -> Result<()> {
    LinkClient::new(create_network_client())
        .and_then(|mut client| client.set_up(LOOPBACK))
        .map_err(|e| error("cannot bring up the loopback device".to_owned(), &e))
}

/// Moves the host's devices into the network namespace of process `pid`, with their addresses, and brings them up there.
///
/// This process, which must be single-threaded, enters that namespace for a moment.
pub fn move_devices(devices: &HashMap<String, LinuxNetDevice>, pid: i32) -> Result<()> {
    let own = open_namespace("/proc/self/ns/net")?;
    let target = open_namespace(&format!("/proc/{pid}/ns/net"))?;
    for (name, device) in devices {
        let moved = network_device::dev_change_net_namespace(name, target.as_raw_fd(), device)
            .map_err(|e| error(format!("cannot move network device '{name}'"), &e))?;
        let new_name = network_device::resolve_device_name(device, name);
        enter(&target)?;
        let configured = configure(new_name, &moved);
        enter(&own)?;
        configured.map_err(|e| error(format!("cannot configure network device '{new_name}'"), &e))?;
    }
    Ok(())
}

fn configure(name: &str, addresses: &[CidrAddress]) -> std::result::Result<(), NetworkError> {
    let mut links = LinkClient::new(create_network_client())?;
    let index = links.get_by_name(name)?.header.index;
    let mut client = AddressClient::new(create_network_client())?;
    network_device::setup_addresses_in_network_namespace(addresses, index, name, &mut client)?;
    links.set_up(index)
}

fn open_namespace(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context(|| format!("cannot open '{path}'"))
}

fn enter(namespace: &OwnedFd) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context(|| "cannot enter the network namespace")
}
