//! Fifth step, of packets to the router itself: which of its protocols answers.
//!
//! The router has no service beyond ARP, ND, ping, and DHCP in both families for pods; and as the end of tunnels it is told what the way
//! to the others carries. It puts no fragments together.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use tables::Tables;
use wire::{Fragment, MacAddr, PacketKind, protocol};

use crate::address::is_link_local;
use crate::burst::{Halt, Hop, Ingress, Side, State, Station, Work, Works};
use crate::decide::Desk;
use crate::icmp_error::{Complaint, icmp_type};
use crate::neighbour::Learned;
use crate::tunnel::path_mtu::{self, PathMtu};
use crate::{BURST, Buffer, ConsumeReason, DropReason, Packet, Verdict, arp, dhcp, dhcp6, echo, nd, route};

pub(crate) fn burst<B: Buffer>(
    desk: &Desk<'_, '_>,
    packets: &mut [Packet<B>],
    works: &mut Works<'_>,
    learned: &mut ArrayVec<Learned, BURST>,
    told: &mut impl FnMut(&PathMtu<'_>),
) {
    for work in works.iter_mut().filter(|work| matches!(work.state, State::ForRouter)) {
        let (state, taught) = answer(desk, &mut packets[work.at], work, told);
        work.state = state;
        if let Some(taught) = taught {
            // One a packet at most, and as many as packets fit.
            let _ = learned.try_push(taught);
        }
    }
}

fn answer<B: Buffer>(
    desk: &Desk<'_, '_>,
    packet: &mut Packet<B>,
    work: &Work<'_>,
    told: &mut impl FnMut(&PathMtu<'_>),
) -> (State<'static>, Option<Learned>) {
    let (tables, parsed) = (desk.tables, &work.parsed);
    let kind = icmp_type(parsed, packet.buffer.head());
    let state = match (parsed.kind, kind) {
        (PacketKind::Arp, _) => return arp::answer(tables, packet, &work.ingress),
        (PacketKind::Ipv6, Some(133..=137)) => return nd::answer(tables, packet, work),
        (PacketKind::Ipv6, Some(130..=132 | 143)) => State::Done(Verdict::Consume(ConsumeReason::Mld)),
        _ if parsed.fragment != Fragment::Whole => DropReason::FragmentToRouter.into(),
        (_, Some(_)) => match path_mtu::told(tables, packet, work) {
            Some(path) => {
                told(&path);
                State::Done(Verdict::Consume(ConsumeReason::PathMtu))
            }
            None => echo::answer(desk, packet, work),
        },
        (PacketKind::Ipv4, _) if parsed.protocol == protocol::UDP && parsed.dst_port == dhcp::SERVER => {
            dhcp::answer(tables, packet, work)
        }
        (PacketKind::Ipv6, _) if dhcp6::is_for_server(parsed, &work.ingress) => {
            dhcp6::answer(tables, packet, work)
        }
        _ if parsed.protocol == protocol::UDP => {
            State::Refused(DropReason::NoService, Complaint::PortUnreachable)
        }
        _ => DropReason::NoService.into(),
    };
    (state, None)
}

/// The way to `to` for a packet of the router's own that answers one from `sender`.
///
/// # Errors
/// What becomes of the packet that came, where none leads there: that reason, and no further answer.
pub(crate) fn way_back<'t>(
    tables: &'t Tables,
    ingress: &Ingress<'t>,
    to: IpAddr,
    sender: MacAddr,
) -> Result<Hop<'t>, DropReason> {
    let straight = |to| Ok(Hop { port: ingress.port, to, inside: true });
    match ingress.side {
        Side::Endpoint(endpoint) if is_link_local(to) || endpoint.addresses.contains(&to) => {
            straight(Station::Endpoint(endpoint))
        }
        Side::Uplink(_) if is_link_local(to) => straight(Station::Sender(sender)),
        _ => route::hop_to(tables, ingress, to).map_err(|state| match state {
            Halt::Refused(reason, _) | Halt::Done(Verdict::Drop(reason) | Verdict::Denied { reason, .. }) => {
                reason
            }
            // Our own address: nobody else has it.
            _ => DropReason::SourceInvalid,
        }),
    }
}
