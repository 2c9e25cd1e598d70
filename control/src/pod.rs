//! A kernel pod's interface: a TAP in the pod's namespace, with addresses, routes and MTU.
//!
//! Owns the steps, not the device: the caller keeps the descriptor, which is what holds the carrier. Each address is a
//! /32 or /128 on a point-to-point link; everything goes by a link-local gateway that the data plane answers for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use proto::control::{Attached, AttachedRoute, Secondary};
use proto::dataplane::Router;
use rtnetlink::packet_route::address::AddressScope;
use rtnetlink::packet_route::route::RouteProtocol;
use rustix::io::Errno;
use tap::{Tap, TapConfig, TapError};
use wire::IpPrefix;

use crate::journal::Attachment;
use crate::netlink::{self, KernelRoute, Netlink, NetlinkError};

/// Why a pod's interface could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    #[error("interface `{0}` is there already: remove it, or choose another CNI_IFNAME")]
    Exists(String),
    #[error("interface `{0}` is no longer in its namespace: DEL it and ADD it again")]
    Gone(String),
    #[error("the pod reaches {0} by another interface already: the subnets of its networks must differ")]
    Reached(IpPrefix),
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error("interface `{interface}`: {source}")]
    Netlink { interface: String, source: NetlinkError },
}

impl PodError {
    /// Whether another process holds the device: the data plane, which then can duplicate it.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Tap(TapError::Attach { errno, .. }) if *errno == Errno::BUSY)
    }
}

/// Makes the interface, which goes with the descriptor until it is made persistent; whatever fails, nothing of it is
/// left.
///
/// # Errors
/// There is an interface of that name, or the kernel refuses a step.
pub(crate) fn make(netns: BorrowedFd<'_>, interface: &str, pod: &Attached) -> Result<Tap, PodError> {
    if find(netns, interface)?.is_some() {
        return Err(PodError::Exists(interface.to_owned()));
    }
    let tap = match Tap::create_in(netns, &TapConfig { persistent: false, ..config(interface) }) {
        Err(TapError::Attach { errno: Errno::EXIST | Errno::BUSY, .. }) => {
            return Err(PodError::Exists(interface.to_owned()));
        }
        made => made?,
    };
    configure(netns, interface, pod, true)?;
    Ok(tap)
}

/// Opens the interface again after its descriptor was lost, and sets again what a time without carrier may have undone.
/// Never makes one: a path such as `/proc/PID/ns/net` may be another's namespace by now, which the MAC shows.
///
/// # Errors
/// It is gone, another process holds it ([`PodError::is_busy`]), or the kernel refuses a step.
pub(crate) fn restore(netns: BorrowedFd<'_>, interface: &str, pod: &Attached) -> Result<Tap, PodError> {
    if find(netns, interface)?.is_none_or(|link| link.mac != Some(pod.mac)) {
        return Err(PodError::Gone(interface.to_owned()));
    }
    let tap = Tap::create_in(netns, &config(interface))?;
    configure(netns, interface, pod, false)?;
    Ok(tap)
}

/// Sets its MTU alone, where somebody else has its descriptor.
///
/// # Errors
/// It is gone, or the kernel refuses.
pub(crate) fn set_mtu(netns: BorrowedFd<'_>, interface: &str, pod: &Attached) -> Result<(), PodError> {
    let work = async |kernel: Netlink| match kernel.link(interface).await? {
        Some(link) if link.mac == Some(pod.mac) && link.mtu != u32::from(pod.mtu) => {
            kernel.set_link(link, pod.mac, pod.mtu).await
        }
        _ => Ok(()),
    };
    netlink::run(Some(netns), work)
        .map_err(|source| PodError::Netlink { interface: interface.to_owned(), source })
}

/// Takes the interface away: by the descriptor if it is held, else by name if the MAC shows that it is still this pod's.
pub(crate) fn remove(tap: Option<&Tap>, attachment: &Attachment) {
    if let Some(tap) = tap
        && let Err(error) = tap.set_persistent(false)
    {
        tracing::debug!("{}: {error}", attachment.port);
    }
    let request = &attachment.request;
    // A namespace that is gone took the device along.
    let Ok(netns) = tap::netns::open_netns(&request.netns) else { return };
    let mac = attachment.attached.mac;
    let deleted = netlink::run(Some(netns.as_fd()), async |kernel: Netlink| {
        match kernel.link(&request.interface).await? {
            Some(link) if link.mac == Some(mac) => kernel.delete_link(link).await,
            _ => Ok(()),
        }
    });
    if let Err(error) = deleted {
        tracing::warn!("{}: {}: {error}", request.netns.display(), request.interface);
    }
}

/// The router's addresses of the families that the pod has.
pub(crate) fn gateways(addresses: &[IpAddr], router: &Router) -> Vec<IpAddr> {
    let has = |v4: bool| addresses.iter().any(|own| own.is_ipv4() == v4);
    let all: [IpAddr; 2] = [router.gateway4.into(), router.gateway6.into()];
    all.into_iter().filter(|gateway| has(gateway.is_ipv4())).collect()
}

/// Destinations that the pod reaches, as the kernel is told and as ADD answers: everything, or a secondary network's subnets.
pub(crate) fn routes(
    addresses: &[IpAddr],
    router: &Router,
    secondary: Option<&Secondary>,
) -> Vec<AttachedRoute> {
    let mut routes = Vec::new();
    for gateway in gateways(addresses, router) {
        if let Some(Secondary { subnets, .. }) = secondary {
            // The gateway is on each of the pod's links, and has a route by one of them: these say that it is on this one.
            let own = subnets.iter().filter(|subnet| subnet.addr().is_ipv4() == gateway.is_ipv4());
            routes.extend(own.map(|&destination| AttachedRoute { destination, gateway: Some(gateway) }));
            continue;
        }
        let all: IpAddr =
            if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // In IPv6 each link has its own fe80::/64; in IPv4 the gateway must be said to be on the link.
        if gateway.is_ipv4() {
            routes.push(AttachedRoute { destination: IpPrefix::host(gateway), gateway: None });
        }
        if let Some(destination) = IpPrefix::containing(all, 0) {
            routes.push(AttachedRoute { destination, gateway: Some(gateway) });
        }
    }
    routes
}

fn config(interface: &str) -> TapConfig {
    TapConfig { name: interface.to_owned(), persistent: true, vnet_hdr: true }
}

fn find(netns: BorrowedFd<'_>, interface: &str) -> Result<Option<netlink::Link>, PodError> {
    netlink::run(Some(netns), async |kernel: Netlink| kernel.link(interface).await)
        .map_err(|source| PodError::Netlink { interface: interface.to_owned(), source })
}

/// `anew`: nothing of it is there yet.
fn configure(netns: BorrowedFd<'_>, interface: &str, pod: &Attached, anew: bool) -> Result<(), PodError> {
    let work = async |kernel: Netlink| {
        let conf = format!("net/ipv6/conf/{interface}");
        if pod.addresses.iter().any(IpAddr::is_ipv6) {
            // Runtimes switch IPv6 off in namespaces for which they know of none.
            netlink::sysctl(&format!("{conf}/disable_ipv6"), "0");
        }
        // Nobody else is on the link: nothing to detect, and routes come from here alone.
        for switch in ["accept_dad", "accept_ra", "autoconf"] {
            netlink::sysctl(&format!("{conf}/{switch}"), "0");
        }
        let link = kernel.link(interface).await?.ok_or_else(|| NetlinkError::NoLink(interface.to_owned()))?;
        kernel.set_link(link, pod.mac, pod.mtu).await?;
        for &address in &pod.addresses {
            kernel.add_address(link, address, AddressScope::Universe).await?;
        }
        for route in &pod.routes {
            let route = KernelRoute {
                prefix: route.destination,
                gateway: route.gateway,
                source: None,
                table: netlink::MAIN,
            };
            match kernel.add_route(Some(link), &route, RouteProtocol::Static, false).await {
                // A second interface on the pods' own network leaves the first default route in force; on another it would do nothing
                // without its route.
                Err(error) if error.errno() == Some(Errno::EXIST) => {
                    if anew && pod.network_id != 0 {
                        return Ok(Some(route.prefix));
                    }
                }
                done => done?,
            }
        }
        Ok(None)
    };
    let taken = netlink::run(Some(netns), work)
        .map_err(|source| PodError::Netlink { interface: interface.to_owned(), source })?;
    taken.map_or(Ok(()), |subnet| Err(PodError::Reached(subnet)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_the_routes_of_its_families() {
        let router = Router {
            gateway4: "169.254.1.1".parse().unwrap(),
            gateway6: "fe80::1".parse().unwrap(),
            dns_servers: vec![],
            dns_search: vec![],
        };
        let text = |addresses: &[&str], secondary: Option<&Secondary>| -> Vec<String> {
            let addresses: Vec<IpAddr> = addresses.iter().map(|own| own.parse().unwrap()).collect();
            let show = |route: &AttachedRoute| format!("{} {:?}", route.destination, route.gateway);
            routes(&addresses, &router, secondary).iter().map(show).collect()
        };
        assert_eq!(text(&["10.0.0.2"], None), ["169.254.1.1/32 None", "0.0.0.0/0 Some(169.254.1.1)"]);
        assert_eq!(text(&["fd00::2"], None), ["::/0 Some(fe80::1)"]);
        assert_eq!(text(&["10.0.0.2", "fd00::2"], None).len(), 3);
        let subnets = ["10.5.0.0/16", "fd05::/64", "10.6.0.0/24"].map(|text| text.parse().unwrap()).to_vec();
        let secondary = Secondary { id: 7, subnets };
        assert_eq!(
            text(&["10.5.0.2"], Some(&secondary)),
            ["10.5.0.0/16 Some(169.254.1.1)", "10.6.0.0/24 Some(169.254.1.1)"]
        );
        assert_eq!(text(&["fd05::2"], Some(&secondary)), ["fd05::/64 Some(fe80::1)"]);
    }
}
