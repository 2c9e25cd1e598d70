//! The host's own TAP and the kernel's routes to it.
//!
//! The kernel reaches pods, here and on other nodes, by one device, with the node's own address as source. What always
//! holds: every step may be taken again; of routes, only those with our protocol number on our device are touched.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use desired::HOST_PORT;
use proto::dataplane::Router;
use rtnetlink::packet_route::address::AddressScope;
use rustix::io::Errno;
use tap::{Tap, TapConfig, TapError};
use wire::{IpPrefix, MacAddr};

use crate::netlink::{self, Netlink, NetlinkError};
use crate::peers;
use crate::routes::{self, Links};
use crate::store::{Store, Warner};
use crate::wanted::{Difference, MARK, MARKED, Wanted};

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

/// Has the kernel's device and routes follow the desired state for good, on the calling thread.
pub(crate) fn follow(store: &Store, name: &str, router: &Router) {
    let (mut seen, mut looked, mut rest) = (0, Instant::now(), LOOK);
    let mut settled: Option<Wanted> = None;
    loop {
        let plan = store.next_plan(seen, rest.saturating_sub(looked.elapsed()));
        seen = plan.revision;
        let mut wanted = Wanted::of(&plan.desired);
        if wanted.by_kernel.tunnel.is_some_and(|tunnel| !store.holds_tunnel(&tunnel)) {
            wanted = wanted.without_tunnel();
        }
        if let Some(before) = settled.take().filter(|_| looked.elapsed() < rest) {
            // Most changes are none of the kernel's; most others are a node's, of thousands.
            let stepped = before == wanted
                || wanted.since(&before, router).is_some_and(|difference| step(name, &difference).is_ok());
            if stepped {
                settled = Some(wanted);
                continue;
            }
        }
        let began = Instant::now();
        // Other networks make another plan, which comes next.
        if store.config.wants_subnets()
            && let Ok(subnets) = subnets(name)
        {
            store.know_subnets(subnets);
        }
        let kept = keep(store, name).map_err(|error| error.to_string());
        let mut warnings = match kept.and_then(|()| {
            sync(name, &wanted, router).map_err(|error| format!("host interface `{name}`: {error}"))
        }) {
            Ok(warnings) => {
                settled = Some(wanted.clone());
                warnings
            }
            Err(error) => vec![format!("{error}; it is tried again every {LOOK:?}")],
        };
        warnings.extend(unforwarded(&wanted));
        looked = Instant::now();
        rest = if warnings.is_empty() { LOOK.max((looked - began) * SHARE) } else { LOOK };
        store.warn(Warner::Host, warnings);
    }
}

/// What of pods the kernel would not forward, though it is the way.
fn unforwarded(wanted: &Wanted) -> Vec<String> {
    let switches = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
    let off = |switch: &&str| {
        let path = format!("/proc/sys/{}", switch.replace('.', "/"));
        !wanted.by_kernel.cluster.is_empty()
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
pub(crate) const LOOK: Duration = Duration::from_secs(3);

/// A look at thousands of nodes takes tenths of a second, in which a change has to wait: between two of them there is that many times as
/// much, so that few do.
pub(crate) const SHARE: u32 = 100;

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

/// Brings all that is wanted there; gives what could not be done.
fn sync(name: &str, wanted: &Wanted, router: &Router) -> Result<Vec<String>, NetlinkError> {
    netlink::run(None, async |kernel: Netlink| {
        let host = kernel.link(name).await?.ok_or_else(|| NetlinkError::NoLink(name.to_owned()))?;
        let whole = wanted.whole(router);
        let (tunnel, mut warnings) =
            peers::prepare(&kernel, name, wanted.by_kernel.tunnel.as_ref(), &whole).await?;
        warnings.extend(routes::sync(&kernel, Links { host, tunnel }, &whole.routes).await?);
        for v4 in [true, false] {
            kernel.set_mark_rule(v4, MARK, MARKED, routes::PROTOCOL, wanted.has_externals(v4)).await?;
        }
        Ok(warnings)
    })
}

/// Carries out what is different since the kernel knew all that was wanted.
fn step(name: &str, difference: &Difference) -> Result<(), String> {
    let Difference { gone, new } = difference;
    let stepped = netlink::run(None, async |kernel: Netlink| {
        let host = kernel.link(name).await?.ok_or_else(|| NetlinkError::NoLink(name.to_owned()))?;
        let tunnel = kernel.link(peers::DEVICE).await?;
        if tunnel.is_none() && difference.needs_tunnel() {
            return Err(NetlinkError::NoLink(peers::DEVICE.to_owned()));
        }
        if let Some(link) = tunnel
            && let [first, ..] = &*peers::meet(&kernel, link, new.neighbours.keys()).await
        {
            return Ok(Err(first.clone()));
        }
        let stepped = routes::step(&kernel, Links { host, tunnel }, difference).await;
        if let Some(link) = tunnel {
            peers::forget(&kernel, link, gone.neighbours.keys()).await?;
        }
        Ok(stepped)
    });
    stepped.map_err(|error| error.to_string())?
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
