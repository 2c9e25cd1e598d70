//! What the node's kernel is told of other nodes, where it is the way to them: routes, and a device for tunnels (VXLAN, RFC 7348).
//!
//! The device learns nothing: whom it reaches, and by what address, is told to it for each node. What pods send to other nodes themselves
//! looks at a table of its own, by a rule, so that it goes into the tunnel and the tunnel's datagrams do not.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use desired::{ByKernel, End, KernelTunnel, Way};
use rtnetlink::packet_route::address::AddressScope;
use rustix::io::Errno;
use wire::{IpPrefix, MacAddr};

use crate::netlink::{self, KernelRoute, Link, Neighbour, Netlink, NetlinkError, VxlanDevice};
use crate::routes::{PROTOCOL, Routes};

/// The device for tunnels.
pub(crate) const DEVICE: &str = "podrouter.vxlan";

/// An address of its own: with none, `rp_filter` takes only what the kernel's own way back for is by this very device.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 3);

/// The number of the table for what pods send to other nodes, and of the rule that leads there.
const TABLE: u32 = 30_112;

/// Brings device, neighbours and rule there, for what comes by `host`; gives the routes that are wanted. `sources`: the node's own addresses.
///
/// # Errors
/// The kernel refuses the device, or to list what it has.
pub(crate) async fn prepare(
    kernel: &Netlink,
    host: &str,
    wanted: &ByKernel,
    sources: &[IpAddr],
) -> Result<Vec<Routes>, NetlinkError> {
    let neighbours = wanted.pods.iter().filter_map(|(&prefix, way)| match way {
        Way::Neighbour(gateway) => {
            Some(KernelRoute { prefix, gateway: Some(*gateway), source: None, table: netlink::MAIN })
        }
        Way::Tunnel(_) => None,
    });
    let mut all = vec![Routes { link: None, wanted: neighbours.collect() }];
    if let Some(tunnel) = &wanted.tunnel {
        let link = device(kernel, tunnel).await?;
        meet(kernel, link, wanted).await?;
        all.push(Routes { link: Some(link), wanted: through(wanted, sources) });
    } else if let Some(link) = kernel.link(DEVICE).await? {
        // Its routes go with it.
        kernel.delete_link(link).await?;
    }
    kernel.set_rule(host, TABLE, PROTOCOL, wanted.tunnel.is_some()).await?;
    Ok(all)
}

/// The device as it is to be: made anew where what it is cannot be changed.
async fn device(kernel: &Netlink, tunnel: &KernelTunnel) -> Result<Link, NetlinkError> {
    let KernelTunnel { end, vni, udp_port, mtu } = *tunnel;
    let wanted = VxlanDevice { vni, udp_port, local: end.address, learns: false };
    let mut present = kernel.link(DEVICE).await?;
    if let Some(other) = present.filter(|link| link.vxlan != Some(wanted)) {
        kernel.delete_link(other).await?;
        present = None;
    }
    if present.is_none() {
        kernel.add_vxlan(DEVICE, wanted, end.mac).await.map_err(|error| explained(error, udp_port))?;
        present = kernel.link(DEVICE).await?;
    }
    let link = present.ok_or_else(|| NetlinkError::NoLink(DEVICE.to_owned()))?;
    // Other nodes' own addresses come by it, to which the kernel's own way is another: loose, as on the host's device.
    netlink::sysctl(&format!("net/ipv4/conf/{DEVICE}/rp_filter"), "2");
    for switch in ["accept_ra", "autoconf", "accept_redirects"] {
        netlink::sysctl(&format!("net/ipv6/conf/{DEVICE}/{switch}"), "0");
    }
    kernel.add_address(link, ADDRESS.into(), AddressScope::Link).await?;
    if !link.up || link.mac != Some(end.mac) || link.mtu != u32::from(mtu) {
        kernel.set_link(link, end.mac, mtu).await?;
    }
    Ok(link)
}

fn explained(error: NetlinkError, udp_port: u16) -> NetlinkError {
    let why = match error.errno() {
        Some(Errno::OPNOTSUPP) => {
            "this kernel has no vxlan: load its module, or start control with --uplink".to_owned()
        }
        Some(Errno::ADDRINUSE) => {
            format!("another program has UDP port {udp_port}: end it, or give all nodes another --vxlan-port")
        }
        Some(Errno::EXIST) => {
            "another vxlan device has its VNI: remove that, or give all nodes another --vxlan-vni".to_owned()
        }
        _ => return error,
    };
    NetlinkError::Failed { what: error.to_string(), why }
}

/// Has the device know all ends, and no others.
async fn meet(kernel: &Netlink, link: Link, wanted: &ByKernel) -> Result<(), NetlinkError> {
    let known = kernel.neighbours(link).await?;
    let wanted: BTreeSet<Neighbour> = hops(wanted)
        .flat_map(|(_, hop, end)| [Neighbour::Inside(hop, end.mac), Neighbour::Outside(end.mac, end.address)])
        .collect();
    for gone in known.difference(&wanted) {
        kernel.delete_neighbour(link, *gone).await?;
    }
    for new in wanted.difference(&known) {
        kernel.add_neighbour(link, *new).await?;
    }
    Ok(())
}

/// Of all that is reached in a tunnel: what, by what next hop inside, and through which end.
fn hops(wanted: &ByKernel) -> impl Iterator<Item = (IpPrefix, IpAddr, End)> + '_ {
    let pods = wanted.pods.iter().filter_map(|(&prefix, way)| match *way {
        Way::Tunnel(end) => Some((prefix, end)),
        Way::Neighbour(_) => None,
    });
    let stations = wanted.stations.iter().map(|(&address, &end)| (IpPrefix::host(address), end));
    pods.chain(stations).map(|(prefix, end)| {
        let same = prefix.addr().is_ipv4() && end.address.is_ipv4();
        // IPv4 needs no IPv6 on this node where both are.
        (prefix, if same { end.address } else { link_local(end.mac).into() }, end)
    })
}

/// The address that a station has by its MAC address alone (RFC 4291, appendix A).
fn link_local(MacAddr([a, b, c, d, e, f]): MacAddr) -> Ipv6Addr {
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

fn through(wanted: &ByKernel, sources: &[IpAddr]) -> BTreeSet<KernelRoute> {
    let route = |(prefix, hop, _): (IpPrefix, IpAddr, End)| {
        let (v4, to_pods) = (prefix.addr().is_ipv4(), wanted.pods.contains_key(&prefix));
        // What others see of this node's own connections; what comes by the host's device has a source.
        let source = sources.iter().copied().find(|own| to_pods && own.is_ipv4() == v4);
        KernelRoute { prefix, gateway: Some(hop), source, table: if to_pods { netlink::MAIN } else { TABLE } }
    };
    hops(wanted).map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_station_has_the_address_that_its_mac_says() {
        let mac = MacAddr([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);
        assert_eq!(link_local(mac).to_string(), "fe80::11:22ff:fe33:4455");
    }
}
