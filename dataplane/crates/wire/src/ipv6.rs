//! IPv6 headers (RFC 8200) and the walk along extension headers to the transport.
//!
//! The view needs only the fixed header to be contiguous. The walk is bounded by [`MAX_EXTENSIONS`], reads no option, and
//! stops where the transport begins, at ESP, at "no next header", and behind the fragment header of a later fragment.

use std::net::Ipv6Addr;

use crate::Malformed;
use crate::bytes::{put, u16_at, u32_at, v6_at};
use crate::protocol;

/// Bytes of the fixed header.
pub const IPV6_HEADER: usize = 40;

/// How many extension headers are followed: each once, destination options twice (RFC 8200, section 4.1).
pub const MAX_EXTENSIONS: usize = 8;

/// A view of a packet whose fixed header is whole.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Packet<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv6Packet<T> {
    /// # Errors
    /// `Ipv6HeaderInvalid` unless version is 6 and the fixed header within `bytes`.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if b.len() < IPV6_HEADER || b[0] >> 4 != 6 {
            return Err(Malformed::Ipv6HeaderInvalid);
        }
        Ok(Self { bytes })
    }

    /// Differentiated services and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        let [class, ..] = (u32_at(self.bytes.as_ref(), 0) << 4).to_be_bytes();
        class
    }

    /// The flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        u32_at(self.bytes.as_ref(), 0) & 0xf_ffff
    }

    /// Bytes behind the fixed header: extension headers, transport and its payload.
    #[inline]
    pub fn payload_len(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 4)
    }

    /// The first extension header, or the transport: see [`protocol`](crate::protocol).
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.bytes.as_ref()[6]
    }

    /// Hops left.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.bytes.as_ref()[7]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        v6_at(self.bytes.as_ref(), 8)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        v6_at(self.bytes.as_ref(), 24)
    }

    /// As much of the payload as lies in the view's bytes; padding behind it is left out.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let b = self.bytes.as_ref();
        &b[IPV6_HEADER..b.len().min(IPV6_HEADER + usize::from(self.payload_len()))]
    }

    /// Walks the extension headers of this packet; offsets count from the end of the fixed header.
    ///
    /// # Errors
    /// As [`walk_extensions`].
    pub fn extensions(&self) -> Result<ExtensionChain, Malformed> {
        walk_extensions(self.next_header(), self.payload(), usize::from(self.payload_len()))
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6Packet<T> {
    /// Sets DSCP and ECN.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let rest = u32_at(self.bytes.as_ref(), 0) & 0xf00f_ffff;
        put(self.bytes.as_mut(), 0, (rest | u32::from(class) << 20).to_be_bytes());
    }

    /// Sets the flow label's 20 bits; higher ones are left out.
    #[inline]
    pub fn set_flow_label(&mut self, label: u32) {
        let rest = u32_at(self.bytes.as_ref(), 0) & 0xfff0_0000;
        put(self.bytes.as_mut(), 0, (rest | label & 0xf_ffff).to_be_bytes());
    }

    /// Sets the bytes behind the fixed header.
    #[inline]
    pub fn set_payload_len(&mut self, bytes: u16) {
        put(self.bytes.as_mut(), 4, bytes.to_be_bytes());
    }

    /// Sets what follows the fixed header.
    #[inline]
    pub fn set_next_header(&mut self, protocol: u8) {
        self.bytes.as_mut()[6] = protocol;
    }

    /// Sets the hops left.
    #[inline]
    pub fn set_hop_limit(&mut self, hops: u8) {
        self.bytes.as_mut()[7] = hops;
    }

    /// Takes one hop off; nothing at zero. Answers with the hops left: a router that forwards sends time exceeded instead
    /// where that is zero (RFC 8200, section 3).
    #[inline]
    pub fn decrement_hop_limit(&mut self) -> u8 {
        let hops = self.hop_limit().saturating_sub(1);
        self.set_hop_limit(hops);
        hops
    }

    /// Sets the source address. The transport's checksum is the caller's.
    #[inline]
    pub fn set_src(&mut self, addr: Ipv6Addr) {
        put(self.bytes.as_mut(), 8, addr.octets());
    }

    /// Sets the destination address. The transport's checksum is the caller's.
    #[inline]
    pub fn set_dst(&mut self, addr: Ipv6Addr) {
        put(self.bytes.as_mut(), 24, addr.octets());
    }

    /// As much of the payload as lies in the view's bytes.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let end = IPV6_HEADER + usize::from(self.payload_len());
        let b = self.bytes.as_mut();
        let end = b.len().min(end);
        &mut b[IPV6_HEADER..end]
    }
}

/// What a fragment header says (RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Fragment {
    /// Where the fragment header begins, counted as the walk's other offsets.
    pub header: usize,
    /// Where this fragment begins in the fragmentable part, in bytes, a multiple of 8.
    pub offset: u16,
    /// The M bit.
    pub more: bool,
    /// What the fragments of one packet have in common.
    pub ident: u32,
}

impl Ipv6Fragment {
    /// Offset 0 and nothing more: a whole packet that only bears the header (RFC 6946).
    #[must_use]
    pub const fn is_atomic(self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// Where a walk along extension headers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionChain {
    /// The last next-header: the transport, ESP, "no next header", or whatever a later fragment began with.
    pub protocol: u8,
    /// Bytes of extension headers before it.
    pub len: usize,
    /// The fragment header, if there was one.
    pub fragment: Option<Ipv6Fragment>,
}

/// Follows extension headers from `first`, in a payload of `len` bytes of which `head` has the contiguous first.
///
/// # Errors
/// `Ipv6ExtensionInvalid` for a header past `len`, hop-by-hop options that are not first, a second fragment header,
/// an authentication header below 12 bytes (RFC 4302, section 2), or more than [`MAX_EXTENSIONS`];
/// `ExtensionsTooLong` for a header within `len` that `head` does not have.
#[inline]
pub fn walk_extensions(first: u8, head: &[u8], len: usize) -> Result<ExtensionChain, Malformed> {
    let mut chain = ExtensionChain { protocol: first, len: 0, fragment: None };
    for walked in 0..=MAX_EXTENSIONS {
        let at = chain.len;
        match chain.protocol {
            protocol::HOP_BY_HOP if walked > 0 => return Err(Malformed::Ipv6ExtensionInvalid),
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6
            | protocol::FRAGMENT
            | protocol::AH => {}
            _ => return Ok(chain),
        }
        if walked == MAX_EXTENSIONS {
            return Err(Malformed::Ipv6ExtensionInvalid);
        }
        // Each is a multiple of 4 bytes and at least 8 long, but the authentication header of 12 or more.
        if at + 8 > len {
            return Err(Malformed::Ipv6ExtensionInvalid);
        }
        let Some(header) = head.get(at..at + 8) else {
            return Err(Malformed::ExtensionsTooLong);
        };
        let size = match chain.protocol {
            protocol::FRAGMENT => 8,
            protocol::AH if header[1] == 0 => return Err(Malformed::Ipv6ExtensionInvalid),
            protocol::AH => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if at + size > len {
            return Err(Malformed::Ipv6ExtensionInvalid);
        }
        let was = chain.protocol;
        chain.protocol = header[0];
        chain.len = at + size;
        if was == protocol::FRAGMENT {
            if chain.fragment.is_some() {
                return Err(Malformed::Ipv6ExtensionInvalid);
            }
            let field = u16_at(header, 2);
            let offset = field & 0xfff8;
            chain.fragment =
                Some(Ipv6Fragment { header: at, offset, more: field & 1 == 1, ident: u32_at(header, 4) });
            if offset != 0 {
                return Ok(chain);
            }
        }
    }
    Err(Malformed::Ipv6ExtensionInvalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; 48] = [
        0x6a, 0xb1, 0x23, 0x45, 0, 8, 58, 64, // version, class, label, length, next, hops
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // source
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, // destination
        128, 0, 0, 0, 0, 1, 0, 2,
    ];

    #[test]
    fn reads_and_writes() {
        let mut bytes = HEADER;
        let mut p = Ipv6Packet::new_checked(&mut bytes[..]).unwrap();
        assert_eq!((p.traffic_class(), p.flow_label(), p.payload_len()), (0xab, 0x1_2345, 8));
        assert_eq!((p.next_header(), p.hop_limit()), (58, 64));
        assert_eq!(p.src().to_string(), "2001:db8::1");
        assert_eq!(p.dst().to_string(), "2001:db8::2");
        assert_eq!(p.payload().len(), 8);
        assert_eq!(p.extensions(), Ok(ExtensionChain { protocol: 58, len: 0, fragment: None }));
        p.set_traffic_class(0x12);
        p.set_flow_label(0xfff6_789a);
        p.set_payload_len(7);
        p.set_next_header(17);
        assert_eq!(p.decrement_hop_limit(), 63);
        p.set_src("::3".parse().unwrap());
        p.set_dst("::4".parse().unwrap());
        assert_eq!((p.payload().len(), p.payload_mut().len()), (7, 7));
        p.set_hop_limit(0);
        assert_eq!(p.decrement_hop_limit(), 0);
        assert_eq!(bytes[..8], [0x61, 0x26, 0x78, 0x9a, 0, 7, 17, 0]);
        assert_eq!((bytes[23], bytes[39], bytes[40]), (3, 4, 128));
    }

    #[test]
    fn refuses() {
        assert_eq!(Ipv6Packet::new_checked(&HEADER[..39]).unwrap_err(), Malformed::Ipv6HeaderInvalid);
        let mut bytes = HEADER;
        bytes[0] = 0x45;
        assert_eq!(Ipv6Packet::new_checked(bytes).unwrap_err(), Malformed::Ipv6HeaderInvalid);
    }

    /// Extension headers, each with the number of what follows it.
    const ALL: [u8; 68] = [
        43, 0, 1, 4, 0, 0, 0, 0, // hop-by-hop, PadN
        60, 0, 0, 0, 0, 0, 0, 0, // routing, nothing left
        44, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // destination options, 16 bytes
        51, 0, 0, 0, 1, 2, 3, 4, // fragment, atomic
        135, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, // authentication, 12 bytes
        6, 0, 0, 0, 0, 0, 0, 0, // mobility
        0, 80, 0, 80, 0, 0, 0, 0, // ports
    ];

    #[test]
    fn walks_all() {
        let fragment = Ipv6Fragment { header: 32, offset: 0, more: false, ident: 0x0102_0304 };
        let chain = ExtensionChain { protocol: 6, len: 60, fragment: Some(fragment) };
        assert_eq!(walk_extensions(0, &ALL, ALL.len()), Ok(chain));
        assert!(fragment.is_atomic());
        // Every cut within the chain is seen, and told from a head that is merely short.
        for cut in 0..60 {
            assert_eq!(walk_extensions(0, &ALL[..cut], cut), Err(Malformed::Ipv6ExtensionInvalid), "{cut}");
            let short = walk_extensions(0, &ALL[..cut], ALL.len());
            // The last header's first 8 bytes are all of it.
            assert_eq!(short, Err(Malformed::ExtensionsTooLong), "{cut}");
        }
    }

    #[test]
    fn stops_where_nothing_can_be_read() {
        for end in [protocol::ESP, protocol::NO_NEXT, protocol::TCP, 253] {
            let chain = ExtensionChain { protocol: end, len: 0, fragment: None };
            assert_eq!(walk_extensions(end, &[], 0), Ok(chain));
        }
        // A later fragment: what it begins with is data, even if it is numbered as a header.
        let later = [60, 0, 0x05, 0xc9, 0, 0, 0, 9, 0xff, 0xff];
        let fragment = Some(Ipv6Fragment { header: 0, offset: 0x5c8, more: true, ident: 9 });
        assert_eq!(walk_extensions(44, &later, 10), Ok(ExtensionChain { protocol: 60, len: 8, fragment }));
    }

    #[test]
    fn refuses_bad_chains() {
        let bad = Err(Malformed::Ipv6ExtensionInvalid);
        // Hop-by-hop options behind destination options.
        assert_eq!(walk_extensions(60, &[0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0], 16), bad);
        // Two fragment headers, both atomic.
        assert_eq!(walk_extensions(44, &[44, 0, 0, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0, 1], 16), bad);
        // An authentication header of 8 bytes.
        assert_eq!(walk_extensions(51, &[6, 0, 0, 0, 0, 0, 0, 0], 8), bad);
        // Longer than the packet.
        assert_eq!(walk_extensions(60, &[6, 1, 1, 4, 0, 0, 0, 0], 8), bad);
    }

    #[test]
    fn follows_a_bounded_number() {
        let option = [60, 0, 1, 4, 0, 0, 0, 0];
        for n in 1..12 {
            let mut bytes = option.repeat(n);
            bytes[8 * (n - 1)] = 6;
            let walked = walk_extensions(60, &bytes, bytes.len());
            if n <= MAX_EXTENSIONS {
                assert_eq!(walked, Ok(ExtensionChain { protocol: 6, len: 8 * n, fragment: None }));
            } else {
                assert_eq!(walked, Err(Malformed::Ipv6ExtensionInvalid));
            }
        }
    }
}
