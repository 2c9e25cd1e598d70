//! Which addresses a packet may bear, and which are the router's own on a link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tables::Interface;
use wire::{EthernetFrame, IpPrefix, MacAddr};

/// Can be the address of one host on a link (RFC 1812, section 5.3.7; RFC 6890).
#[inline]
pub(crate) const fn is_host_v4(addr: Ipv4Addr) -> bool {
    // 0/8 is this network, 127/8 loopback, 224/4 multicast, 240/4 reserved with broadcast at its end.
    !matches!(addr.octets()[0], 0 | 127 | 224..=255)
}

/// The same (RFC 4291, sections 2.5.2, 2.5.3, 2.5.5.2 and 2.7). Link-local addresses can.
#[inline]
pub(crate) fn is_host_v6(addr: Ipv6Addr) -> bool {
    let o = addr.octets();
    // The first 10 bytes of ::, ::1 and ::ffff:0:0/96 are zero; nothing else begins so (::/8 is reserved).
    o[0] != 0xff && o[..10] != [0; 10]
}

pub(crate) fn is_host(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => is_host_v4(addr),
        IpAddr::V6(addr) => is_host_v6(addr),
    }
}

pub(crate) const fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

/// The link-local address that goes with a MAC (RFC 4291, section 2.5.6 and appendix A): every interface has one.
pub(crate) const fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let pair = u16::from_be_bytes;
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair([a ^ 2, b]), pair([c, 0xff]), pair([0xfe, d]), pair([e, f]))
}

/// Whether `addr` is ours on this interface, whose port has `mac`.
pub(crate) fn is_ours(interface: &Interface, mac: MacAddr, addr: IpAddr) -> bool {
    addr == IpAddr::V6(link_local(mac)) || interface.addresses.iter().any(|&(own, _)| own == addr)
}

/// Whether `addr` is a neighbour's on this interface.
pub(crate) fn is_on_link(interface: &Interface, addr: IpAddr) -> bool {
    is_link_local(addr) || own_address_toward(interface, addr).is_some()
}

/// Our own address in the subnet of `addr`.
pub(crate) fn own_address_toward(interface: &Interface, addr: IpAddr) -> Option<IpAddr> {
    let holds =
        |&&(own, len): &&(IpAddr, u8)| IpPrefix::containing(own, len).is_some_and(|p| p.contains(addr));
    interface.addresses.iter().find(holds).map(|&(own, _)| own)
}

/// Whether `addr` is the broadcast address of one of the interface's subnets, in the form of all ones or the old one of all
/// zeros (RFC 1812, section 5.3.5.2). Subnets of 31 and 32 bits have none (RFC 3021).
pub(crate) fn is_subnet_broadcast(interface: &Interface, addr: Ipv4Addr) -> bool {
    interface.addresses.iter().any(|&(own, len)| {
        let IpAddr::V4(own) = own else { return false };
        if len > 30 {
            return false;
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        let (own, addr) = (u32::from(own), u32::from(addr));
        own & mask == addr & mask && (addr & !mask == !mask || addr & !mask == 0)
    })
}

/// Destination and source of a frame that parsed, and so has both.
#[inline]
pub(crate) fn macs(head: &[u8]) -> (MacAddr, MacAddr) {
    EthernetFrame::new_checked(head).map_or_else(|_| Default::default(), |frame| (frame.dst(), frame.src()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in
            ["1.0.0.1", "10.0.0.255", "169.254.1.1", "223.255.255.255", "2001:db8::1", "fe80::1", "fd00::"]
        {
            assert!(is_host(good.parse().unwrap()), "{good}");
        }
        for bad in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
            assert!(!is_host(bad.parse().unwrap()), "{bad}");
        }
        for bad in ["::", "::1", "ff02::1", "::ffff:10.0.0.1", "::10.0.0.1"] {
            assert!(!is_host(bad.parse().unwrap()), "{bad}");
        }
    }

    #[test]
    fn link_local_of_mac() {
        let mac = MacAddr([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);
        assert_eq!(link_local(mac), "fe80::11:22ff:fe33:4455".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn subnets() {
        let interface = Interface {
            port: tables::PortId(1),
            network: tables::NetworkId(0),
            addresses: vec![("192.0.2.1".parse().unwrap(), 24), ("198.51.100.0".parse().unwrap(), 31)],
        };
        let broadcast = |a: &str| is_subnet_broadcast(&interface, a.parse().unwrap());
        assert!(broadcast("192.0.2.255") && broadcast("192.0.2.0"));
        assert!(!broadcast("192.0.2.254") && !broadcast("198.51.100.1") && !broadcast("198.51.100.0"));
        assert!(is_on_link(&interface, "192.0.2.9".parse().unwrap()));
        assert!(is_on_link(&interface, "fe80::9".parse().unwrap()));
        assert!(!is_on_link(&interface, "192.0.3.9".parse().unwrap()));
    }
}
