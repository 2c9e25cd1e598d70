//! The kernel's device for tunnels to other nodes, where it is the way to them (VXLAN, RFC 7348).
//!
//! The device learns nothing: whom it reaches, and by what address, is told to it for each node. What pods send to other nodes themselves
//! looks at a table of its own, by a rule, so that it goes into the tunnel and the tunnel's datagrams do not.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use desired::KernelTunnel;
use rtnetlink::packet_route::address::AddressScope;
use rustix::io::Errno;

use crate::netlink::{self, Link, Neighbour, Netlink, NetlinkError, VxlanDevice};
use crate::routes::PROTOCOL;
use crate::wanted::{Part, TABLE};

/// The device for tunnels.
pub(crate) const DEVICE: &str = "podrouter.vxlan";

/// An address of its own: with none, `rp_filter` takes only what the kernel's own way back for is by this very device.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 3);

/// Brings device, neighbours and rule there, for what comes by `host`; gives the device, if there is to be one, and what could not be done.
///
/// # Errors
/// The kernel refuses the device, or to list what it has.
pub(crate) async fn prepare(
    kernel: &Netlink,
    host: &str,
    tunnel: Option<&KernelTunnel>,
    wanted: &Part,
) -> Result<(Option<Link>, Vec<String>), NetlinkError> {
    let mut warnings = Vec::new();
    let link = match tunnel {
        Some(tunnel) => {
            let link = device(kernel, tunnel).await?;
            let known = kernel.neighbours(link).await?;
            let wanted: BTreeSet<Neighbour> = wanted.neighbours.keys().copied().collect();
            // An address has one entry: what it is to be comes after what it was.
            forget(kernel, link, known.difference(&wanted)).await?;
            warnings = meet(kernel, link, wanted.difference(&known)).await;
            Some(link)
        }
        None => {
            if let Some(link) = kernel.link(DEVICE).await? {
                // Its routes go with it.
                kernel.delete_link(link).await?;
            }
            None
        }
    };
    kernel.set_rule(host, TABLE, PROTOCOL, tunnel.is_some()).await?;
    Ok((link, warnings))
}

/// Has the device know these; gives what could not be done, as of IPv6 where there is none.
pub(crate) async fn meet(
    kernel: &Netlink,
    link: Link,
    neighbours: impl Iterator<Item = &Neighbour>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for own in neighbours {
        if let Err(error) = kernel.add_neighbour(link, *own).await {
            warnings.push(format!("interface `{DEVICE}`: {error}"));
        }
    }
    warnings
}

/// Has it know these no more.
///
/// # Errors
/// The kernel refuses one.
pub(crate) async fn forget(
    kernel: &Netlink,
    link: Link,
    neighbours: impl Iterator<Item = &Neighbour>,
) -> Result<(), NetlinkError> {
    for own in neighbours {
        match kernel.delete_neighbour(link, *own).await {
            // Its place may have been taken by another already.
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            result => result?,
        }
    }
    Ok(())
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
