//! A vxlan device of the kernel's: how it stands, whom it reaches, and who looks where for its way.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::LinkVxlan;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::InfoVxlan;
use rtnetlink::packet_route::neighbour::NeighbourFlags;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteProtocol, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rustix::io::Errno;
use wire::MacAddr;

use super::{Link, Netlink, NetlinkError, errno};

/// What of a vxlan device cannot be changed while it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VxlanDevice {
    pub(crate) vni: u32,
    pub(crate) udp_port: u16,
    /// The source of its datagrams.
    pub(crate) local: IpAddr,
    /// Whether who sends is remembered, which would be to believe anybody.
    pub(crate) learns: bool,
}

impl VxlanDevice {
    /// `None` where something is not told, as of one that has no address of its own.
    pub(super) fn of(told: &[InfoVxlan]) -> Option<Self> {
        let (mut vni, mut udp_port, mut local, mut learns) = (None, None, None, true);
        for own in told {
            match own {
                InfoVxlan::Id(own) => vni = Some(*own),
                InfoVxlan::Port(own) => udp_port = Some(*own),
                InfoVxlan::Local(own) => local = Some(IpAddr::V4(*own)),
                InfoVxlan::Local6(own) => local = Some(IpAddr::V6(*own)),
                InfoVxlan::Learning(own) => learns = *own,
                _ => {}
            }
        }
        Some(Self { vni: vni?, udp_port: udp_port?, local: local?, learns })
    }
}

/// What a vxlan device knows of another end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Neighbour {
    /// Whose an address inside is.
    Inside(IpAddr, MacAddr),
    /// Where it is outside.
    Outside(MacAddr, IpAddr),
}

impl Netlink {
    pub(crate) async fn add_vxlan(
        &self,
        name: &str,
        device: VxlanDevice,
        mac: MacAddr,
    ) -> Result<(), NetlinkError> {
        let message = LinkVxlan::new(name, device.vni).port(device.udp_port).learning(device.learns);
        let message = match device.local {
            IpAddr::V4(own) => message.local(own),
            IpAddr::V6(own) => message.local6(own),
        };
        let result = self.0.link().add(message.address(mac.0.to_vec()).build()).execute().await;
        result.map_err(|error| NetlinkError::from(format!("adding the vxlan device `{name}`"), &error))
    }

    /// All that were set, not those that the kernel found.
    pub(crate) async fn neighbours(&self, link: Link) -> Result<BTreeSet<Neighbour>, NetlinkError> {
        let mut all = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
            let mut found = self.0.neighbours().get().set_address_family(family).execute();
            loop {
                match found.try_next().await {
                    Ok(Some(message)) if message.header.ifindex == link.index => {
                        all.extend(neighbour(&message))
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => return Err(NetlinkError::from("listing neighbours", &error)),
                }
            }
        }
        Ok(all)
    }

    /// In place of what was known of the same.
    pub(crate) async fn add_neighbour(&self, link: Link, neighbour: Neighbour) -> Result<(), NetlinkError> {
        let neighbours = self.0.neighbours();
        let request = match neighbour {
            Neighbour::Inside(address, mac) => neighbours.add(link.index, address).link_layer_address(&mac.0),
            Neighbour::Outside(mac, address) => {
                neighbours.add_bridge(link.index, &mac.0).destination(address).flags(NeighbourFlags::Own)
            }
        };
        let result = request.state(NeighbourState::Permanent).replace().execute().await;
        result.map_err(|error| NetlinkError::from(format!("adding {neighbour:?}"), &error))
    }

    pub(crate) async fn delete_neighbour(
        &self,
        link: Link,
        neighbour: Neighbour,
    ) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = link.index;
        message.header.kind = RouteType::Unspec;
        let destination = |address| match address {
            IpAddr::V4(own) => NeighbourAttribute::Destination(NeighbourAddress::Inet(own)),
            IpAddr::V6(own) => NeighbourAttribute::Destination(NeighbourAddress::Inet6(own)),
        };
        match neighbour {
            Neighbour::Inside(address, _) => {
                message.header.family =
                    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
                message.attributes.push(destination(address));
            }
            Neighbour::Outside(mac, address) => {
                message.header.family = AddressFamily::Bridge;
                message.header.flags = NeighbourFlags::Own;
                message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
                message.attributes.push(destination(address));
            }
        }
        let result = self.0.neighbours().del(message).execute().await;
        result.map_err(|error| NetlinkError::from(format!("removing {neighbour:?}"), &error))
    }

    /// Whether what comes by a device asks a table of its own first, whose number is the rule's priority as well. No fault if it stands so.
    pub(crate) async fn set_rule(
        &self,
        input: &str,
        table: u32,
        protocol: RouteProtocol,
        wanted: bool,
    ) -> Result<(), NetlinkError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            message.header.action = RuleAction::ToTable;
            message.attributes = vec![
                RuleAttribute::Iifname(input.to_owned()),
                RuleAttribute::Table(table),
                RuleAttribute::Priority(table),
                RuleAttribute::Protocol(protocol),
            ];
            let result = if wanted {
                let mut request = self.0.rule().add();
                *request.message_mut() = message;
                request.execute().await
            } else {
                self.0.rule().del(message).execute().await
            };
            let Err(error) = result else { continue };
            match errno(&error) {
                Some(Errno::EXIST) if wanted => {}
                Some(Errno::NOENT) if !wanted => {}
                // IPv6 may be absent.
                Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP) => {}
                _ => return Err(NetlinkError::from(format!("the rule for what comes by `{input}`"), &error)),
            }
        }
        Ok(())
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut mac, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(MacAddr)
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet(own)) => address = Some(IpAddr::V4(*own)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(own)) => address = Some(IpAddr::V6(*own)),
            // Of a bridge's entry the family of what is in it is not told.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
                address = v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok();
            }
            _ => {}
        }
    }
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    Some(match message.header.family {
        AddressFamily::Bridge => Neighbour::Outside(mac?, address?),
        _ => Neighbour::Inside(address?, mac?),
    })
}
