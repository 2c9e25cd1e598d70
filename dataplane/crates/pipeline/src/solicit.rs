//! Frames that ask for a neighbour: ARP requests and neighbour solicitations.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use tables::Tables;
use wire::{MacAddr, build_arp_request, build_neighbour_solicitation};

use crate::address::{is_link_local, link_local, own_address_toward};
use crate::neighbour::Solicit;

/// The question of `solicit` as a frame, from our address in the neighbour's subnet, or any other of its family on that port.
/// `None` if the port is gone, or has no address to ask with.
#[must_use]
pub fn solicit_frame(tables: &Tables, solicit: &Solicit) -> Option<ArrayVec<u8, 96>> {
    let port = tables.port(solicit.port)?;
    let interface = tables.interface(solicit.port)?;
    let toward = own_address_toward(interface, solicit.address);
    let of_family = || {
        let mut addresses = interface.addresses.iter().map(|&(own, _)| own);
        addresses.find(|own| own.is_ipv4() == solicit.address.is_ipv4() && !is_link_local(*own))
    };
    let mut frame = ArrayVec::new();
    match solicit.address {
        IpAddr::V4(target) => {
            let Some(IpAddr::V4(own)) = toward.or_else(of_family) else { return None };
            let dst = solicit.unicast_to.unwrap_or(MacAddr::BROADCAST);
            frame.try_extend_from_slice(&build_arp_request(dst, port.mac, own, target)).ok()?;
        }
        IpAddr::V6(target) => {
            let own = match toward.or_else(|| if target.is_unicast_link_local() { None } else { of_family() })
            {
                Some(IpAddr::V6(own)) => own,
                _ => link_local(port.mac),
            };
            let bytes = build_neighbour_solicitation(port.mac, own, target, solicit.unicast_to);
            frame.try_extend_from_slice(&bytes).ok()?;
        }
    }
    Some(frame)
}
