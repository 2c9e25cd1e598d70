//! ARP (RFC 826): answers for the router's addresses, and learns of neighbours.
//!
//! On an endpoint's link the router answers for the gateway and its other addresses, for nothing else: the link has no
//! third station, and duplicate address detection must find none. On an uplink it answers for that interface's addresses.

use std::net::IpAddr;

use tables::{Interface, Tables, Target};
use wire::{ArpOperation, ArpPacket, MacAddr, write_arp_reply};

use crate::address::{is_host_v4, is_on_link, is_ours};
use crate::burst::{Ingress, Side, State};
use crate::neighbour::{Heard, Learned};
use crate::{Buffer, ConsumeReason, DropReason, Fate, Offload, Output, Packet, Verdict};

const CONSUMED: State<'static> = State::Done(Verdict::Consume(ConsumeReason::Arp));

pub(crate) fn answer<B: Buffer>(
    tables: &Tables,
    packet: &mut Packet<B>,
    ingress: &Ingress<'_>,
) -> (State<'static>, Option<Learned>) {
    let Ok(arp) = ArpPacket::new_checked(packet.buffer.head().get(14..).unwrap_or_default()) else {
        return (DropReason::ArpInvalid.into(), None);
    };
    let said = Said {
        operation: arp.operation(),
        mac: arp.sender_mac(),
        sender: IpAddr::V4(arp.sender_ip()),
        probe: arp.sender_ip().is_unspecified(),
        valid: arp.sender_mac().is_unicast()
            && (is_host_v4(arp.sender_ip()) || arp.sender_ip().is_unspecified()),
        target: IpAddr::V4(arp.target_ip()),
    };
    match ingress.side {
        Side::Endpoint(endpoint) => {
            let ours = tables.lookup(ingress.network, said.target) == Some(Target::Local);
            let own = endpoint.addresses.contains(&said.target);
            let state = match said.operation {
                ArpOperation::Request if ours => reply(packet, ingress),
                _ if ours || own || said.sender == said.target => CONSUMED,
                _ => DropReason::ArpNotForUs.into(),
            };
            (state, None)
        }
        Side::Uplink(interface) => on_uplink(packet, ingress, interface, &said),
    }
}

struct Said {
    operation: ArpOperation,
    mac: MacAddr,
    sender: IpAddr,
    probe: bool,
    valid: bool,
    target: IpAddr,
}

fn on_uplink<B: Buffer>(
    packet: &mut Packet<B>,
    ingress: &Ingress<'_>,
    interface: &Interface,
    said: &Said,
) -> (State<'static>, Option<Learned>) {
    // A station that claims our address is not believed; its requests would be answered to ourselves.
    if !said.valid || is_ours(interface, ingress.port.mac, said.sender) {
        return (DropReason::SourceInvalid.into(), None);
    }
    let ours = is_ours(interface, ingress.port.mac, said.target);
    let gratuitous = said.sender == said.target;
    let heard = match said.operation {
        ArpOperation::Request if ours => Heard::Solicitation,
        ArpOperation::Reply if ours => {
            Heard::Advertisement { solicited: true, overrides: true, is_router: false }
        }
        // A neighbour tells all that it has moved (RFC 5944, section 4.6).
        _ if gratuitous => Heard::Advertisement { solicited: false, overrides: true, is_router: false },
        _ => return (DropReason::ArpNotForUs.into(), None),
    };
    let learned = Learned { port: ingress.port.id, address: said.sender, mac: Some(said.mac), heard };
    let taught = (!said.probe && is_on_link(interface, said.sender)).then_some(learned);
    let state = if heard == Heard::Solicitation { reply(packet, ingress) } else { CONSUMED };
    (state, taught)
}

fn reply<B: Buffer>(packet: &mut Packet<B>, ingress: &Ingress<'_>) -> State<'static> {
    if write_arp_reply(packet.buffer.head_mut(), ingress.port.mac).is_err() {
        return DropReason::ArpInvalid.into();
    }
    packet.offload = Offload::Done;
    State::Done(Verdict::Answer {
        fate: Fate::Consumed(ConsumeReason::Arp),
        output: Output::Port(ingress.port.id),
    })
}
