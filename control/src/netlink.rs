//! The kernel's own side of a device, by netlink: link, addresses, routes, tunnels, what nftables' sets hold; and its switches under
//! /proc/sys.
//!
//! Owns no device. Each piece of work gets a socket of its own, in the namespace it is for: a netlink socket belongs to
//! the namespace in which it was opened.

mod marks;
mod nftables;
mod tunnel;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressScope};
use rtnetlink::packet_route::link::{InfoData, LinkAttribute, LinkFlags, LinkInfo};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteVia,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use rustix::io::Errno;
use wire::{IpPrefix, MacAddr};

pub(crate) use nftables::{Nftables, SetChange};
pub(crate) use tunnel::{Neighbour, VxlanDevice};

/// The table of routes that all look at, unless told otherwise.
pub(crate) const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// A request that the kernel refused, or could not be put.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    #[error("{what}: {errno}")]
    Refused { what: String, errno: Errno },
    #[error("{what}: {why}")]
    Failed { what: String, why: String },
    #[error(transparent)]
    Netns(#[from] tap::NetnsError),
    #[error("there is no interface `{0}`")]
    NoLink(String),
}

impl NetlinkError {
    fn from(what: impl Into<String>, error: &rtnetlink::Error) -> Self {
        let what = what.into();
        match errno(error) {
            Some(errno) => Self::Refused { what, errno },
            None => Self::Failed { what, why: error.to_string() },
        }
    }

    /// The kernel's own answer.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            Some(Errno::from_raw_os_error(message.raw_code().checked_abs()?))
        }
        _ => None,
    }
}

/// A device as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// What it is, if it is that.
    pub(crate) vxlan: Option<VxlanDevice>,
}

/// A route of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KernelRoute {
    pub(crate) prefix: IpPrefix,
    /// Reached on the link itself, whatever the subnets are; `None`: the destination is the neighbour.
    pub(crate) gateway: Option<IpAddr>,
    /// The source of what the node itself sends there.
    pub(crate) source: Option<IpAddr>,
    pub(crate) table: u32,
}

/// Runs `work` with a netlink socket in a namespace; `None`: the calling thread's own.
///
/// # Errors
/// What `work` gives, or no socket could be had.
pub(crate) fn run<T: Send>(
    netns: Option<BorrowedFd<'_>>,
    work: impl AsyncFnOnce(Netlink) -> Result<T, NetlinkError> + Send,
) -> Result<T, NetlinkError> {
    match netns {
        Some(netns) => tap::netns::in_netns(netns, || run_here(work))?,
        None => run_here(work),
    }
}

fn run_here<T>(work: impl AsyncFnOnce(Netlink) -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
    let failed = |error: std::io::Error| NetlinkError::Failed {
        what: "opening a netlink socket".to_owned(),
        why: error.to_string(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        let connection = tokio::spawn(connection);
        let result = work(Netlink(handle)).await;
        connection.abort();
        result
    })
}

/// An open netlink socket.
pub(crate) struct Netlink(Handle);

impl Netlink {
    /// The device of that name, if there is one.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut found = self.0.link().get().match_name(name.to_owned()).execute();
        let message = match found.try_next().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(error) if errno(&error) == Some(Errno::NODEV) => return Ok(None),
            Err(error) => return Err(NetlinkError::from(format!("looking for interface `{name}`"), &error)),
        };
        let mut link = Link {
            index: message.header.index,
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            vxlan: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddr),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::LinkInfo(told) => {
                    link.vxlan = told.iter().find_map(|own| match own {
                        LinkInfo::Data(InfoData::Vxlan(told)) => VxlanDevice::of(told),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Ok(Some(link))
    }

    /// Sets MAC (where it differs: not every device lets it change while up) and MTU, and brings the link up.
    pub(crate) async fn set_link(&self, link: Link, mac: MacAddr, mtu: u16) -> Result<(), NetlinkError> {
        let mut message = LinkUnspec::new_with_index(link.index).mtu(mtu.into()).up();
        if link.mac != Some(mac) {
            message = message.address(mac.0.to_vec());
        }
        let result = self.0.link().set(message.build()).execute().await;
        result
            .map_err(|error| NetlinkError::from(format!("setting MAC {mac}, MTU {mtu} and link up"), &error))
    }

    /// Deletes a device.
    pub(crate) async fn delete_link(&self, link: Link) -> Result<(), NetlinkError> {
        let result = self.0.link().del(link.index).execute().await;
        result.map_err(|error| NetlinkError::from("deleting the interface", &error))
    }

    /// Gives the device an address of its own, /32 or /128, usable at once; no fault if it has it.
    pub(crate) async fn add_address(
        &self,
        link: Link,
        address: IpAddr,
        scope: AddressScope,
    ) -> Result<(), NetlinkError> {
        let prefix = IpPrefix::host(address);
        let mut request = self.0.address().add(link.index, address, prefix.len());
        request.message_mut().header.scope = scope;
        // The address is ours by the journal: duplicate detection (RFC 4862, section 5.4) would only hold it back.
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        request.message_mut().attributes.push(AddressAttribute::Flags(flags));
        match request.execute().await {
            Err(error) if errno(&error) == Some(Errno::EXIST) => Ok(()),
            result => result.map_err(|error| NetlinkError::from(format!("adding address {prefix}"), &error)),
        }
    }

    /// Adds a route by the device, or replaces one; `None`: by whatever device its gateway is on.
    pub(crate) async fn add_route(
        &self,
        link: Option<Link>,
        route: &KernelRoute,
        protocol: RouteProtocol,
        replace: bool,
    ) -> Result<(), NetlinkError> {
        let mut request = self.0.route().add(message(link, route, protocol));
        if replace {
            request = request.replace();
        }
        let result = request.execute().await;
        result.map_err(|error| NetlinkError::from(format!("adding the route to {}", route.prefix), &error))
    }

    /// Takes a route away; `None`: by whatever device.
    pub(crate) async fn delete_route(
        &self,
        link: Option<Link>,
        route: &KernelRoute,
        protocol: RouteProtocol,
    ) -> Result<(), NetlinkError> {
        let result = self.0.route().del(message(link, route, protocol)).execute().await;
        result.map_err(|error| NetlinkError::from(format!("removing the route to {}", route.prefix), &error))
    }

    /// All routes of one protocol, each with its device's number.
    pub(crate) async fn routes(
        &self,
        protocol: RouteProtocol,
    ) -> Result<Vec<(Option<u32>, KernelRoute)>, NetlinkError> {
        let mut routes = Vec::new();
        let all =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for family in all {
            let mut found = self.0.route().get(family).execute();
            loop {
                match found.try_next().await {
                    Ok(Some(message)) => routes.extend(ours(&message, protocol)),
                    Ok(None) => break,
                    Err(error) => return Err(NetlinkError::from("listing routes", &error)),
                }
            }
        }
        Ok(routes)
    }

    /// All addresses of the namespace's own.
    pub(crate) async fn addresses(&self) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        let (mut found, mut addresses) = (self.0.address().get().execute(), BTreeSet::new());
        loop {
            let message = match found.try_next().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(addresses),
                Err(error) => return Err(NetlinkError::from("listing addresses", &error)),
            };
            // On a link between two, the address that is told first is the other end's (rtnetlink(7), IFA_LOCAL).
            let (mut told, mut local) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Address(own) => told = Some(*own),
                    AddressAttribute::Local(own) => local = Some(*own),
                    _ => {}
                }
            }
            addresses.extend(local.or(told));
        }
    }

    /// The networks that the node is on by any other device than these.
    pub(crate) async fn subnets(&self, except: &[Link]) -> Result<Vec<IpPrefix>, NetlinkError> {
        let (mut found, mut subnets) = (self.0.address().get().execute(), Vec::new());
        loop {
            let message = match found.try_next().await {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => return Err(NetlinkError::from("listing addresses", &error)),
            };
            if except.iter().any(|link| link.index == message.header.index) {
                continue;
            }
            let own = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(own) => IpPrefix::containing(*own, message.header.prefix_len),
                _ => None,
            });
            subnets.extend(own.filter(|own| !own.is_host() && !own.addr().is_loopback()));
        }
        subnets.sort();
        subnets.dedup();
        Ok(subnets)
    }
}

fn message(link: Option<Link>, route: &KernelRoute, protocol: RouteProtocol) -> RouteMessage {
    let mut message = match route.prefix.addr() {
        IpAddr::V4(addr) => {
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(addr, route.prefix.len()).build()
        }
        IpAddr::V6(addr) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(addr, route.prefix.len()).build()
        }
    };
    message.header.protocol = protocol;
    // A byte has room for the first of them only.
    message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RouteAttribute::Table(route.table));
    message.attributes.extend(link.map(|link| RouteAttribute::Oif(link.index)));
    match route.gateway {
        Some(gateway) => {
            if link.is_some() {
                message.header.flags.insert(RouteFlags::Onlink);
            }
            message.attributes.push(match gateway {
                IpAddr::V6(own) if route.prefix.addr().is_ipv4() => RouteAttribute::Via(RouteVia::Inet6(own)),
                _ => RouteAttribute::Gateway(gateway.into()),
            });
        }
        None if route.prefix.addr().is_ipv4() => message.header.scope = RouteScope::Link,
        None => {}
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    message
}

/// The device's number, and the route.
fn ours(message: &RouteMessage, protocol: RouteProtocol) -> Option<(Option<u32>, KernelRoute)> {
    let header = &message.header;
    if header.protocol != protocol {
        return None;
    }
    let (mut addr, mut gateway, mut source, mut index) = (None, None, None, None);
    let mut table = u32::from(header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(own) => addr = ip(own),
            RouteAttribute::Gateway(own) => gateway = ip(own),
            RouteAttribute::Via(RouteVia::Inet6(own)) => gateway = Some(IpAddr::V6(*own)),
            RouteAttribute::Table(own) => table = *own,
            RouteAttribute::PrefSource(own) => source = ip(own),
            RouteAttribute::Oif(own) => index = Some(*own),
            _ => {}
        }
    }
    // Of a route for everything it is not told.
    let everything = || match header.address_family {
        AddressFamily::Inet => Some(IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        AddressFamily::Inet6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    };
    let addr = addr.or_else(|| everything().filter(|_| header.destination_prefix_length == 0))?;
    let prefix = IpPrefix::containing(addr, header.destination_prefix_length)?;
    Some((index, KernelRoute { prefix, gateway, source, table }))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(own) => Some((*own).into()),
        RouteAddress::Inet6(own) => Some((*own).into()),
        _ => None,
    }
}

/// Sets a switch of the calling thread's namespace, as in `net/ipv6/conf/eth0/accept_ra`; no fault if it is not there
/// (IPv6 may be absent) or stands so already (`/proc/sys` may be read-only).
pub(crate) fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/{name}");
    match std::fs::read_to_string(&path) {
        Ok(now) if now.trim() == value => {}
        Ok(_) => {
            if let Err(error) = std::fs::write(&path, value) {
                tracing::warn!("{path}: could not be set to {value}: {error}");
            }
        }
        Err(error) => tracing::debug!("{path}: {error}"),
    }
}
