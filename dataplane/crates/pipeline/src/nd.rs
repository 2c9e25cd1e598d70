//! Neighbour discovery (RFC 4861): answers for the router's addresses, and learns of neighbours.
//!
//! As with ARP, on an endpoint's link it answers for the gateway and the router's other addresses alone. Router
//! solicitations of pods are answered, others heard; advertisements of other routers are not followed.

use std::net::{IpAddr, Ipv6Addr};

use tables::{Tables, Target};
use wire::{Addrs, Fragment, Icmpv6Type, NdpError, NdpMessage, build_neighbour_advertisement, parse_ndp};

use crate::address::{is_on_link, is_ours, macs};
use crate::advertise::{self, ALL_NODES};
use crate::burst::{Ingress, Side, State, Work};
use crate::icmp_error::icmp_type;
use crate::neighbour::{Heard, Learned};
use crate::{Buffer, ConsumeReason, DropReason, Fate, Offload, Output, Packet, Verdict};

const CONSUMED: State<'static> = State::Done(Verdict::Consume(ConsumeReason::Nd));

pub(crate) fn answer<B: Buffer>(
    tables: &Tables,
    packet: &mut Packet<B>,
    work: &Work<'_>,
) -> (State<'static>, Option<Learned>) {
    let (parsed, ingress) = (&work.parsed, &work.ingress);
    let Addrs::V6 { src, dst } = parsed.addrs else {
        return (DropReason::NdInvalid.into(), None);
    };
    let head = packet.buffer.head();
    let end = usize::try_from(parsed.frame_len).unwrap_or(usize::MAX);
    let message = head.get(usize::from(parsed.l4_offset)..end);
    // In one piece, and directly behind the IPv6 header: a fragment header is forbidden, be it of one alone (RFC 6980,
    // section 5), and no other extension header has business there.
    let Some(message) = message.filter(|_| parsed.fragment == Fragment::Whole && parsed.l4_offset == 54)
    else {
        return (DropReason::NdInvalid.into(), None);
    };
    let message = match parse_ndp(src, dst, parsed.ttl, message) {
        Ok(message) => message,
        // Other routers on the link, and redirects, which are for hosts.
        Err(NdpError::OtherType) => {
            let advertised = icmp_type(parsed, head) == Some(Icmpv6Type::ROUTER_ADVERTISEMENT);
            let consumed = advertised && ingress.is_uplink();
            return (if consumed { CONSUMED } else { DropReason::NdNotForUs.into() }, None);
        }
        Err(_) => return (DropReason::NdInvalid.into(), None),
    };
    let ours = |target: Ipv6Addr| match ingress.side {
        Side::Endpoint(_) => tables.lookup_v6(ingress.network, target) == Some(Target::Local),
        Side::Uplink(interface) => is_ours(interface, ingress.port.mac, IpAddr::V6(target)),
    };
    let learned = |address: Ipv6Addr, mac, heard| match ingress.side {
        Side::Uplink(interface) if is_on_link(interface, IpAddr::V6(address)) && !ours(address) => {
            Some(Learned { port: ingress.port.id, address: IpAddr::V6(address), mac, heard })
        }
        _ => None,
    };
    let unicast = |mac: Option<wire::MacAddr>| mac.filter(|mac| mac.is_unicast());
    match message {
        NdpMessage::NeighbourSolicitation { target, source_mac } if ours(target) => {
            if ours(src) {
                // Our own question come back, or a station that claims our address.
                return (DropReason::SourceInvalid.into(), None);
            }
            let mac = unicast(source_mac);
            let taught = mac.and_then(|_| learned(src, mac, Heard::Solicitation));
            let sender = macs(head).1;
            let frame = if src.is_unspecified() {
                // Someone is about to take our address: tell everyone whose it is (RFC 4861, section 7.2.4).
                let everyone = wire::MacAddr::for_ipv6_multicast(ALL_NODES);
                build_neighbour_advertisement(ingress.port.mac, target, everyone, ALL_NODES, true, false)
            } else {
                build_neighbour_advertisement(
                    ingress.port.mac,
                    target,
                    mac.unwrap_or(sender),
                    src,
                    true,
                    true,
                )
            };
            (say(packet, ingress, &frame), taught)
        }
        NdpMessage::NeighbourSolicitation { target, .. } => {
            // An endpoint that sees whether its own address is taken: it is not.
            let own = matches!(ingress.side, Side::Endpoint(e) if target.is_unicast_link_local()
                || e.addresses.contains(&IpAddr::V6(target)));
            (if own { CONSUMED } else { DropReason::NdNotForUs.into() }, None)
        }
        NdpMessage::NeighbourAdvertisement { target, target_mac, router, solicited, overrides } => {
            let heard = Heard::Advertisement { solicited, overrides, is_router: router };
            let mac = unicast(target_mac);
            // A MAC that cannot be one is not the same as none.
            let taught = if mac == target_mac { learned(target, mac, heard) } else { None };
            (CONSUMED, taught)
        }
        NdpMessage::RouterSolicitation { .. } => {
            let pod = match ingress.side {
                Side::Endpoint(endpoint) if advertise::concerns(endpoint) => endpoint,
                _ => return (CONSUMED, None),
            };
            // To whoever asks, or to all where it has no address yet (section 6.2.6): on this link that is the same station.
            let (mac, dst) = if src.is_unspecified() {
                (wire::MacAddr::for_ipv6_multicast(ALL_NODES), ALL_NODES)
            } else {
                (pod.mac, src)
            };
            (say(packet, ingress, &advertise::build(tables, ingress.port, pod, mac, dst)), None)
        }
    }
}

/// The packet's buffer gets the frame, which goes back by the port that it came by.
fn say<B: Buffer>(packet: &mut Packet<B>, ingress: &Ingress<'_>, frame: &[u8]) -> State<'static> {
    if !packet.buffer.resize(frame.len()) {
        return DropReason::NoBuffer.into();
    }
    packet.buffer.head_mut().copy_from_slice(frame);
    packet.offload = Offload::Done;
    let fate = Fate::Consumed(ConsumeReason::Nd);
    State::Done(Verdict::Answer { fate, output: Output::Port(ingress.port.id) })
}
