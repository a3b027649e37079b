//! The guest's links, addresses and routes, by netlink.

use futures_util::TryStreamExt;
use mvm_core::Interface;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use std::io;
use std::net::IpAddr;

/// The index of the loopback in every network namespace (Linux `LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// Brings up the loopback, and the first Ethernet link with the addresses of the configuration.
pub(super) async fn configure(interface: Option<&Interface>) -> io::Result<()> {
    let (connection, netlink, _) = rtnetlink::new_connection()?;
    let connection = tokio::task::spawn_local(connection);
    let result = links(&netlink, interface).await;
    connection.abort();
    result
}

async fn links(netlink: &Handle, interface: Option<&Interface>) -> io::Result<()> {
    up(netlink, LOOPBACK).await.map_err(|error| because("the loopback cannot be brought up", &error))?;
    let Some(interface) = interface else { return Ok(()) };
    let all = netlink.link().get().execute().try_collect::<Vec<_>>().await;
    let all = all.map_err(|error| because("the links cannot be listed", &error))?;
    let link =
        ethernet(&all).ok_or_else(|| io::Error::other("the configuration has addresses, the VM no interface"))?;
    address(netlink, link, interface).await
}

async fn address(netlink: &Handle, link: u32, interface: &Interface) -> io::Result<()> {
    for (address, prefix) in &interface.addresses {
        // Replaced, so that an address that the kernel has given is no error.
        let mut request = netlink.address().add(link, *address, *prefix).replace();
        if address.is_ipv6() {
            // The host gives an address to one VM only. To look for a duplicate would keep it from use for a second.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(|error| because(&format!("the address {address}/{prefix}"), &error))?;
    }
    up(netlink, link).await.map_err(|error| because("the interface cannot be brought up", &error))?;
    for gateway in &interface.gateways {
        let route = match gateway {
            IpAddr::V4(gateway) => {
                RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway(*gateway).output_interface(link).build()
            }
            IpAddr::V6(gateway) => {
                RouteMessageBuilder::<std::net::Ipv6Addr>::new().gateway(*gateway).output_interface(link).build()
            }
        };
        let request = netlink.route().add(route).replace();
        request.execute().await.map_err(|error| because(&format!("the route by {gateway}"), &error))?;
    }
    Ok(())
}

async fn up(netlink: &Handle, link: u32) -> Result<(), rtnetlink::Error> {
    netlink.link().set(LinkUnspec::new_with_index(link).up().build()).execute().await
}

/// The Ethernet link that the kernel found first.
fn ethernet(links: &[LinkMessage]) -> Option<u32> {
    let mut indexes: Vec<_> = links
        .iter()
        .filter(|link| link.header.link_layer_type == LinkLayerType::Ether)
        // One that is made by software (a bridge, dummy, veth) says of what kind it is.
        .filter(|link| !link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkInfo(_))))
        .map(|link| link.header.index)
        .collect();
    indexes.sort_unstable();
    indexes.first().copied()
}

fn because(what: &str, error: &rtnetlink::Error) -> io::Error {
    io::Error::other(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::link::{InfoKind, LinkInfo};

    #[test]
    fn the_first_real_interface_is_meant() {
        let link = |index, kind| {
            let mut link = LinkMessage::default();
            link.header.index = index;
            link.header.link_layer_type = kind;
            link
        };
        let mut bridge = link(2, LinkLayerType::Ether);
        bridge.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        let lo = link(1, LinkLayerType::Loopback);
        assert_eq!(ethernet(&[lo.clone(), bridge.clone()]), None);
        let real = [link(4, LinkLayerType::Ether), lo, bridge, link(3, LinkLayerType::Ether)];
        assert_eq!(ethernet(&real), Some(3));
    }
}
