//! The network of the guest, set up statically.

use crate::boot::RUN;
use crate::failure::{Context as _, Result, system};
use crate::netlink::Netlink;
use rustix::net::{AddressFamily, SocketType};
use std::net::IpAddr;
use vm_protocol::message::Failure;
use vm_protocol::spec::Network;

/// Brings the loopback interface up, and the one of the specification.
pub fn set_up(network: Option<&Network>) -> Result<()> {
    let netlink = Netlink::open()?;
    let put = |e: Failure, what: String| Failure { message: format!("{what}: {}", e.message), ..e };
    if let Ok(index) = interface("lo") {
        netlink.up(index, None).map_err(|e| put(e, "cannot bring up 'lo'".to_owned()))?;
    }
    let Some(network) = network else { return Ok(()) };
    let name = &network.interface;
    let index = interface(name)?;
    netlink.up(index, network.mtu).map_err(|e| put(e, format!("cannot bring up '{name}'")))?;
    for text in &network.addresses {
        let (address, prefix) = parse(text)?;
        netlink
            .add_address(index, address, prefix)
            .map_err(|e| put(e, format!("cannot give '{name}' the address '{text}'")))?;
    }
    for text in &network.gateways {
        let gateway = text.parse().map_err(|_| system(format!("'{text}' is no address")))?;
        netlink
            .add_default_route(index, gateway)
            .map_err(|e| put(e, format!("cannot make the route by '{text}'")))?;
    }
    for (file, contents) in [("resolv.conf", &network.resolv_conf), ("hosts", &network.hosts)] {
        if let Some(contents) = contents {
            let path = format!("{RUN}/{file}");
            std::fs::write(&path, contents).context(|| format!("cannot write '{path}'"))?;
        }
    }
    Ok(())
}

fn interface(name: &str) -> Result<u32> {
    let cannot = || format!("cannot find the interface '{}'", name.escape_debug());
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).context(cannot)?;
    rustix::net::netdevice::name_to_index(&socket, name).context(cannot)
}

fn parse(text: &str) -> Result<(IpAddr, u8)> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
    });
    parsed.ok_or_else(|| system(format!("'{text}' is no address with a prefix length")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_prefix_length_that_fits() {
        assert_eq!(parse("192.0.2.1/24").unwrap(), ("192.0.2.1".parse().unwrap(), 24));
        assert_eq!(parse("fd00::2/64").unwrap().1, 64);
        for wrong in ["192.0.2.1", "192.0.2.1/33", "x/8", "fd00::/129"] {
            parse(wrong).unwrap_err();
        }
    }
}
