//! Second step: may this station say this?
//!
//! A pod speaks with its own MAC and addresses; the host with its own MAC; a neighbour on an uplink with any address that a
//! host may have. Link-local addresses and `::` pass here, and the next step keeps them on their link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tables::{Endpoint, EndpointKind};
use wire::{Addrs, ArpPacket, Icmpv6Type, Parsed, protocol};

use crate::address::{is_host_v4, is_host_v6, is_link_local, macs};
use crate::burst::{Halt, Ingress, Side, State, Works};
use crate::icmp_error::icmp_type;
use crate::{Buffer, ConsumeReason, DropReason, Packet, Verdict, dhcp};

/// Checks the packets that nothing is decided of.
#[inline]
pub(crate) fn burst<B: Buffer>(packets: &[Packet<B>], works: &mut Works<'_>) {
    for work in works.iter_mut().filter(|work| matches!(work.state, State::Live)) {
        if let Err(stop) = check(&work.ingress, &work.parsed, packets[work.at].buffer.head()) {
            work.state = stop.into();
        }
    }
}

#[inline]
pub(crate) fn check(ingress: &Ingress<'_>, parsed: &Parsed, head: &[u8]) -> Result<(), Halt> {
    let endpoint = match ingress.side {
        Side::Endpoint(endpoint) if macs(head).1 != endpoint.mac => {
            return Err(DropReason::SourceMacSpoofed.into());
        }
        Side::Endpoint(endpoint) => Some(endpoint),
        Side::Uplink(_) => None,
    };
    match parsed.addrs {
        Addrs::V4 { src, dst } => check_v4(endpoint, parsed, src, dst),
        Addrs::V6 { src, .. } => check_v6(endpoint, parsed, src, head),
        Addrs::None => check_arp(endpoint, head),
    }
}

#[inline]
fn check_v4(endpoint: Option<&Endpoint>, parsed: &Parsed, src: Ipv4Addr, dst: Ipv4Addr) -> Result<(), Halt> {
    let dhcp = || dst.is_broadcast() && parsed.protocol == protocol::UDP && parsed.dst_port == dhcp::SERVER;
    if let Some(pod) = endpoint.filter(|e| e.kind == EndpointKind::Pod) {
        // One that asks for its address has none; one that asks whether it may keep it, and gets no answer, asks everybody
        // (RFC 2131, sections 4.1 and 4.4.5).
        return match pod.addresses.contains(&IpAddr::V4(src)) {
            true if dhcp() => Err(Halt::ForRouter),
            true => Ok(()),
            false if src.is_unspecified() && dhcp() => Err(Halt::ForRouter),
            false => Err(wrong(endpoint).into()),
        };
    }
    if is_host_v4(src) {
        return Ok(());
    }
    let heard = src.is_unspecified() && dhcp();
    Err(if heard { Halt::Done(Verdict::Consume(ConsumeReason::Dhcp)) } else { wrong(endpoint).into() })
}

#[inline]
fn check_v6(endpoint: Option<&Endpoint>, parsed: &Parsed, src: Ipv6Addr, head: &[u8]) -> Result<(), Halt> {
    if let Some(pod) = endpoint.filter(|e| e.kind == EndpointKind::Pod) {
        if pod.addresses.contains(&IpAddr::V6(src)) || is_link_local(IpAddr::V6(src)) {
            return Ok(());
        }
    } else if is_host_v6(src) {
        return Ok(());
    }
    // Before a host has an address: duplicate address detection, router solicitation, and reports for the groups of its
    // addresses (RFC 4862, section 5.4.2; RFC 4861, section 4.1; RFC 3590).
    let nameless = matches!(
        icmp_type(parsed, head),
        Some(Icmpv6Type::NEIGHBOUR_SOLICITATION | Icmpv6Type::ROUTER_SOLICITATION | 131 | 132 | 143)
    );
    if src.is_unspecified() && parsed.protocol == protocol::ICMPV6 && nameless {
        Ok(())
    } else {
        Err(wrong(endpoint).into())
    }
}

/// What an endpoint says in ARP is of itself; 0.0.0.0 is a probe (RFC 5227, section 2.1.1). What a neighbour says is looked
/// at where it is answered.
fn check_arp(endpoint: Option<&Endpoint>, head: &[u8]) -> Result<(), Halt> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    let arp =
        ArpPacket::new_checked(head.get(14..).unwrap_or_default()).map_err(|_| DropReason::ArpInvalid)?;
    if arp.sender_mac() != endpoint.mac {
        return Err(DropReason::SourceMacSpoofed.into());
    }
    let sender = arp.sender_ip();
    let own = match endpoint.kind {
        EndpointKind::Pod => endpoint.addresses.contains(&IpAddr::V4(sender)),
        EndpointKind::Host => is_host_v4(sender),
    };
    if own || sender.is_unspecified() { Ok(()) } else { Err(wrong(Some(endpoint)).into()) }
}

/// What it is called depends on who said it: a pod has addresses of its own, others just cannot have this one.
const fn wrong(endpoint: Option<&Endpoint>) -> DropReason {
    match endpoint {
        Some(Endpoint { kind: EndpointKind::Pod, .. }) => DropReason::SourceAddressSpoofed,
        _ => DropReason::SourceInvalid,
    }
}
