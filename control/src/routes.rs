//! Brings the kernel's routes of ours to what is wanted, and says of each that cannot be why.
//!
//! What always holds: a route of somebody else's is never replaced, nor one removed.

use std::collections::BTreeSet;

use rtnetlink::packet_route::route::RouteProtocol;
use rustix::io::Errno;
use wire::IpPrefix;

use crate::netlink::{KernelRoute, Link, Netlink, NetlinkError};

/// Marks our routes (`ip route show proto 112`); 112 is assigned to nobody.
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol::Other(112);

/// Routes by one device, or by whatever others.
#[derive(Debug)]
pub(crate) struct Routes {
    /// `None`: by whatever device the gateway is on.
    pub(crate) link: Option<Link>,
    pub(crate) wanted: BTreeSet<KernelRoute>,
}

/// Brings them all there; gives what could not be done.
///
/// # Errors
/// The kernel does not list its routes.
pub(crate) async fn sync(kernel: &Netlink, all: &[Routes]) -> Result<Vec<String>, NetlinkError> {
    let named: Vec<u32> = all.iter().filter_map(|routes| Some(routes.link?.index)).collect();
    let found = kernel.routes(PROTOCOL).await?;
    let mut warnings = Vec::new();
    let mut present = Vec::new();
    for Routes { link, wanted } in all {
        let here = |index: &Option<u32>| match link {
            Some(link) => *index == Some(link.index),
            None => index.is_none_or(|index| !named.contains(&index)),
        };
        let here: BTreeSet<KernelRoute> =
            found.iter().filter(|(index, _)| here(index)).map(|(_, route)| *route).collect();
        let kept: BTreeSet<(u32, IpPrefix)> = wanted.iter().map(key).collect();
        for route in here.iter().filter(|route| !kept.contains(&key(route))) {
            if let Err(error) = kernel.delete_route(*link, route, PROTOCOL).await {
                warnings.push(error.to_string());
            }
        }
        present.push(here);
    }
    // What has moved from one device to another is gone there by now.
    for (Routes { link, wanted }, present) in all.iter().zip(&present) {
        for route in wanted.difference(present) {
            if let Err(warning) = add(kernel, *link, *route, present).await {
                warnings.push(warning);
            }
        }
    }
    Ok(warnings)
}

fn key(route: &KernelRoute) -> (u32, IpPrefix) {
    (route.table, route.prefix)
}

async fn add(
    kernel: &Netlink,
    link: Option<Link>,
    route: KernelRoute,
    present: &BTreeSet<KernelRoute>,
) -> Result<(), String> {
    // Replacing would take a route of somebody else's by another device just as well.
    let own = present.iter().any(|there| key(there) == key(&route));
    let Err(error) = kernel.add_route(link, &route, PROTOCOL, own).await else { return Ok(()) };
    let KernelRoute { prefix, gateway, source, .. } = route;
    match (error.errno(), source) {
        (Some(Errno::EXIST), _) => Err(format!(
            "there is another route to {prefix}, which stays: see `ip route show {prefix}`, and remove it if pods are \
             podrouter's alone"
        )),
        (Some(Errno::INVAL), Some(source)) => {
            // The source is no address of this machine. A route without one still reaches the pods, from some address.
            let plain = KernelRoute { source: None, ..route };
            if !present.contains(&plain) {
                kernel.add_route(link, &plain, PROTOCOL, own).await.map_err(|error| error.to_string())?;
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
