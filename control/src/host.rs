//! The host's own TAP and the kernel's routes to it.
//!
//! The kernel reaches pods, here and on other nodes, by one device, with the node's own address as source. What always
//! holds: every step may be taken again; of routes, only those with our protocol number on our device are touched.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use desired::{ByKernel, Desired, HOST_PORT, HostPort, Prefixes};
use proto::dataplane::Router;
use rtnetlink::packet_route::address::AddressScope;
use rustix::io::Errno;
use tap::{Tap, TapConfig, TapError};
use wire::{IpPrefix, MacAddr};

use crate::nat::Nat;
use crate::netlink::{self, KernelRoute, Netlink, NetlinkError};
use crate::peers;
use crate::routes::{self, Routes};
use crate::store::{Store, Warner};

/// The kernel's own address on the host TAP. One on every node will do: nobody else is on that link.
pub(crate) const MAC: MacAddr = MacAddr([0x02, 0x70, 0x6f, 0x64, 0x00, 0x02]);

/// The kernel's own IPv4 address on the TAP: with none, `rp_filter` treats the device as one that nothing may come from.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);

/// Why the host's device could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error("host interface `{name}`: {source}")]
    Netlink { name: String, source: NetlinkError },
}

/// Makes the device if it is not there, and sets it up. Gives its descriptor, or `None` while the data plane holds it
/// and can duplicate it.
///
/// # Errors
/// No permission, or a device of another kind has the name.
pub(crate) fn prepare(name: &str, mtu: u16) -> Result<Option<Tap>, HostError> {
    let config = TapConfig { name: name.to_owned(), persistent: true, vnet_hdr: true };
    let tap = match Tap::create(&config) {
        Ok(tap) => Some(tap),
        Err(TapError::Attach { errno: Errno::BUSY, .. }) => None,
        Err(error) => return Err(error.into()),
    };
    set_up(name, mtu)?;
    Ok(tap)
}

/// Sets the device as it is to be, whatever was changed about it.
fn set_up(name: &str, mtu: u16) -> Result<(), HostError> {
    let conf4 = format!("net/ipv4/conf/{name}");
    let conf6 = format!("net/ipv6/conf/{name}");
    // Answers to the node itself carry its own address as source, and come from this device.
    netlink::sysctl(&format!("{conf4}/accept_local"), "1");
    // Other nodes' packets come from here too, though the kernel would answer some of them elsewhere: loose (2), which
    // also outranks a strict `all` (the larger of the two counts).
    netlink::sysctl(&format!("{conf4}/rp_filter"), "2");
    for switch in ["accept_dad", "accept_ra", "autoconf"] {
        netlink::sysctl(&format!("{conf6}/{switch}"), "0");
    }
    let work = async |kernel: Netlink| {
        let link = kernel.link(name).await?.ok_or_else(|| NetlinkError::NoLink(name.to_owned()))?;
        kernel.set_link(link, MAC, mtu).await?;
        kernel.add_address(link, ADDRESS.into(), AddressScope::Link).await
    };
    netlink::run(None, work).map_err(|source| HostError::Netlink { name: name.to_owned(), source })
}

/// Follows the desired state for good, on the calling thread.
pub(crate) fn follow(store: &Store, name: &str, router: &Router) {
    let mut seen = 0;
    let mut looked = Instant::now();
    let mut settled = None;
    let mut nat = Nat::default();
    loop {
        if store.config.wants_subnets()
            && looked.elapsed() >= LOOK
            && let Ok(subnets) = subnets(name)
        {
            store.know_subnets(subnets);
        }
        let plan = store.next_plan(seen, LOOK.saturating_sub(looked.elapsed()));
        seen = plan.revision;
        let wanted = Wanted::of(&plan.desired);
        // Most changes are none of the kernel's, and its routes may be ten thousand.
        if looked.elapsed() < LOOK && settled.as_ref() == Some(&wanted) {
            continue;
        }
        let kept = keep(store, name).map_err(|error| error.to_string());
        let mut warnings = match kept.and_then(|()| {
            sync(name, &wanted, router).map_err(|error| format!("host interface `{name}`: {error}"))
        }) {
            Ok(warnings) => {
                settled = Some(wanted);
                warnings
            }
            Err(error) => {
                settled = None;
                vec![format!("{error}; it is tried again every {LOOK:?}")]
            }
        };
        if let Err(error) = nat.keep(name, &plan.desired) {
            settled = None;
            warnings.push(format!("host interface `{name}`: {error}; it is tried again every {LOOK:?}"));
        }
        warnings.extend(unforwarded(&plan.desired));
        looked = Instant::now();
        store.warn(Warner::Host, warnings);
    }
}

/// What of pods the kernel would not forward, though it is the way.
fn unforwarded(desired: &Desired) -> Vec<String> {
    let switches = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
    let off = |switch: &&str| {
        let path = format!("/proc/sys/{}", switch.replace('.', "/"));
        !desired.by_kernel.cluster.is_empty()
            && std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "0")
    };
    let text = |switch: &str| {
        format!(
            "{switch} is 0: pods reach no other node, nor beyond the cluster; set it to 1, or start with --uplink"
        )
    };
    switches.into_iter().filter(off).map(text).collect()
}

/// Time after which the device and its routes are looked at without a change of the desired state: somebody may have
/// changed them, and what failed may succeed, as when the node gets the address that is to be the source.
const LOOK: Duration = Duration::from_secs(3);

/// Makes the device anew if somebody deleted it, and sets again what somebody changed.
fn keep(store: &Store, name: &str) -> Result<(), HostError> {
    // A descriptor outlives its device, and then knows no flags any more.
    if store.tap(HOST_PORT).is_some_and(|held| held.tap.persistent().is_ok()) {
        return set_up(name, store.config.mtu);
    }
    if let Some(tap) = prepare(name, store.config.mtu)? {
        tracing::warn!("host interface `{name}` was not there or was nobody's: it is handed over anew");
        store.renew_tap(HOST_PORT, tap);
    }
    Ok(())
}

/// Gives what could not be done.
fn sync(name: &str, wanted: &Wanted, router: &Router) -> Result<Vec<String>, NetlinkError> {
    netlink::run(None, async |kernel: Netlink| {
        let link = kernel.link(name).await?.ok_or_else(|| NetlinkError::NoLink(name.to_owned()))?;
        let mut all = vec![Routes { link: Some(link), wanted: wanted.routes(router) }];
        all.extend(peers::prepare(&kernel, name, &wanted.by_kernel, &wanted.sources).await?);
        routes::sync(&kernel, &all).await
    })
}

/// The networks that the node is on, save those of ours.
///
/// # Errors
/// The kernel does not list them.
pub(crate) fn subnets(name: &str) -> Result<Vec<IpPrefix>, HostError> {
    let work = async |kernel: Netlink| {
        let own = [kernel.link(name).await?, kernel.link(peers::DEVICE).await?];
        kernel.subnets(&own.into_iter().flatten().collect::<Vec<_>>()).await
    };
    netlink::run(None, work).map_err(|source| HostError::Netlink { name: name.to_owned(), source })
}

/// What the kernel's routes to the host port follow from: prefixes, none where the host has no port, and sources; and the ports that
/// it leads to pods.
#[derive(Debug, PartialEq)]
struct Wanted {
    prefixes: Prefixes,
    sources: Vec<IpAddr>,
    ports: Vec<HostPort>,
    by_kernel: ByKernel,
}

impl Wanted {
    fn of(desired: &Desired) -> Self {
        let prefixes = match desired.ports.contains_key(HOST_PORT) {
            true => desired.host_prefixes.clone(),
            false => Prefixes::new(),
        };
        Self {
            prefixes,
            sources: desired.host_addresses.clone(),
            ports: desired.host_ports.clone(),
            by_kernel: desired.by_kernel.clone(),
        }
    }

    fn routes(&self, router: &Router) -> BTreeSet<KernelRoute> {
        let route = |&prefix: &IpPrefix| {
            let v4 = prefix.addr().is_ipv4();
            let gateway: IpAddr = if v4 { router.gateway4.into() } else { router.gateway6.into() };
            let source = self.sources.iter().copied().find(|own| own.is_ipv4() == v4);
            KernelRoute { prefix, gateway: Some(gateway), source, table: netlink::MAIN }
        };
        self.prefixes.iter().map(route).collect()
    }
}
