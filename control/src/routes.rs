//! Brings the kernel's routes of ours to what is wanted, and says of each that cannot be why.
//!
//! What always holds: a route of somebody else's is never replaced, nor one removed.

use std::collections::BTreeSet;

use rtnetlink::packet_route::route::RouteProtocol;
use rustix::io::Errno;
use wire::IpPrefix;

use crate::netlink::{KernelRoute, Link, Netlink, NetlinkError};
use crate::wanted::{Device, Difference};

/// Marks our routes (`ip route show proto 112`); 112 is assigned to nobody.
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol::Other(112);

/// The devices by which routes of ours go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Links {
    pub(crate) host: Link,
    pub(crate) tunnel: Option<Link>,
}

impl Links {
    /// `None`: whatever device the gateway is on, which the tunnel's is where there is none.
    fn of(self, device: Device) -> Option<Link> {
        match device {
            Device::Host => Some(self.host),
            Device::Any => None,
            Device::Tunnel => self.tunnel,
        }
    }
}

/// Brings all of them there, and removes what others of ours there are; gives what could not be done.
///
/// # Errors
/// The kernel does not list its routes.
pub(crate) async fn sync(
    kernel: &Netlink,
    links: Links,
    wanted: &[(Device, KernelRoute)],
) -> Result<Vec<String>, NetlinkError> {
    let named = [Some(links.host), links.tunnel].map(|link| link.map(|link| link.index));
    let found = kernel.routes(PROTOCOL).await?;
    let mut warnings = Vec::new();
    let mut present = Vec::new();
    for device in [Device::Host, Device::Any, Device::Tunnel] {
        let link = links.of(device);
        let here = |index: &Option<u32>| match link {
            Some(link) => *index == Some(link.index),
            None => device == Device::Any && !named.contains(index),
        };
        let here: BTreeSet<KernelRoute> =
            found.iter().filter(|(index, _)| here(index)).map(|(_, route)| *route).collect();
        let wanted: BTreeSet<KernelRoute> =
            wanted.iter().filter(|(own, _)| *own == device).map(|(_, route)| *route).collect();
        let kept: BTreeSet<(u32, IpPrefix)> = wanted.iter().map(key).collect();
        for route in here.iter().filter(|route| !kept.contains(&key(route))) {
            if let Err(error) = kernel.delete_route(link, route, PROTOCOL).await {
                warnings.push(error.to_string());
            }
        }
        let keys: BTreeSet<_> = here.iter().map(key).collect();
        present.push((link, here, keys, wanted));
    }
    // What has moved from one device to another is gone there by now.
    for (link, present, keys, wanted) in &present {
        for route in wanted.difference(present) {
            // Replacing would take a route of somebody else's by another device just as well.
            let own = keys.contains(&key(route));
            let bare = present.contains(&KernelRoute { source: None, ..*route });
            if let Err(warning) = add(kernel, *link, *route, own, bare).await {
                warnings.push(warning);
            }
        }
    }
    Ok(warnings)
}

/// Carries out what is different, where all else stands as it was told.
///
/// # Errors
/// The first thing that could not be done; the rest is not tried.
pub(crate) async fn step(
    kernel: &Netlink,
    links: Links,
    Difference { gone, new }: &Difference,
) -> Result<(), String> {
    let same = |(device, route): &(Device, KernelRoute), others: &[(Device, KernelRoute)]| {
        others.iter().any(|(other, there)| (other, key(there)) == (device, key(route)))
    };
    for one in gone.routes.iter().filter(|one| !same(one, &new.routes)) {
        let (device, route) = one;
        let gone = kernel.delete_route(links.of(*device), route, PROTOCOL).await;
        gone.map_err(|error| error.to_string())?;
    }
    for one in &new.routes {
        let (device, route) = one;
        add(kernel, links.of(*device), *route, same(one, &gone.routes), false).await?;
    }
    Ok(())
}

fn key(route: &KernelRoute) -> (u32, IpPrefix) {
    (route.table, route.prefix)
}

/// `replace`: there is one of ours there; `bare`: the same without a source.
async fn add(
    kernel: &Netlink,
    link: Option<Link>,
    route: KernelRoute,
    replace: bool,
    bare: bool,
) -> Result<(), String> {
    let Err(error) = kernel.add_route(link, &route, PROTOCOL, replace).await else { return Ok(()) };
    let KernelRoute { prefix, gateway, source, .. } = route;
    match (error.errno(), source) {
        (Some(Errno::EXIST), _) => Err(format!(
            "there is another route to {prefix}, which stays: see `ip route show {prefix}`, and remove it if pods are \
             podrouter's alone"
        )),
        (Some(Errno::INVAL), Some(source)) => {
            // The source is no address of this machine. A route without one still reaches the pods, from some address.
            let plain = KernelRoute { source: None, ..route };
            if !bare {
                kernel.add_route(link, &plain, PROTOCOL, replace).await.map_err(|error| error.to_string())?;
            }
            Err(format!(
                "the route to {prefix} cannot have source {source}: give this machine that address, or correct the \
                 Node's status.addresses"
            ))
        }
        (Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::INVAL), None) if link.is_none() => {
            let gateway = gateway.map(|own| own.to_string()).unwrap_or_default();
            Err(format!(
                "pods in {prefix} cannot be reached: {gateway}, their node, is on no network that this one is on; \
                 give both a network, or start control with --vxlan across-subnets on all nodes, or with --uplink"
            ))
        }
        _ => Err(error.to_string()),
    }
}
