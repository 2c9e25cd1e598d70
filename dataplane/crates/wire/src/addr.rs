//! MAC addresses and IP prefixes, with the spellings people and Kubernetes use.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A 48-bit IEEE 802 address, in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The group bit (IEEE 802, section 8.2): multicast and broadcast.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// All zero: no station has this address.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// Usable as the address of one station.
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }

    /// Where IPv6 multicast to `group` goes on Ethernet (RFC 2464, section 7).
    #[must_use]
    pub const fn for_ipv6_multicast(group: Ipv6Addr) -> Self {
        let o = group.octets();
        Self([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no address or prefix. The message carries the text itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// Not six two-digit groups.
    #[error("`{0}` is no MAC address: write six hexadecimal pairs, as in 02:00:00:00:00:01")]
    Mac(String),
    /// The part before the slash.
    #[error("`{0}` is no prefix: write an address and a length, as in 10.244.1.0/24 or fd00:10:244:1::/64")]
    Prefix(String),
    /// More bits than the family has.
    #[error("`{0}` is no prefix: its length exceeds {1}")]
    Length(String, u8),
    /// A prefix names a network, so the bits past its length are zero.
    #[error("`{0}` has bits set past its length: did you mean {1}?")]
    HostBits(String, IpPrefix),
}

impl FromStr for MacAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let bad = || AddrError::Mac(text.to_owned());
        let mut out = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut out {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(out)) }
    }
}

/// A network: an address whose bits past `len` are zero. The fields are private so that this always holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    addr: IpAddr,
    len: u8,
}

impl IpPrefix {
    /// The network of `len` bits that holds `addr`; `None` if the family has fewer bits.
    #[must_use]
    pub fn containing(addr: IpAddr, len: u8) -> Option<Self> {
        let addr = match addr {
            IpAddr::V4(a) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
            }
            IpAddr::V6(a) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
            }
            _ => return None,
        };
        Some(Self { addr, len })
    }

    /// The prefix of one address: /32 or /128.
    #[must_use]
    pub const fn host(addr: IpAddr) -> Self {
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// The network's address.
    #[must_use]
    pub const fn addr(self) -> IpAddr {
        self.addr
    }

    /// The prefix length, in bits.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a length in bits; no prefix is empty")]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// /32 or /128.
    #[must_use]
    pub const fn is_host(self) -> bool {
        self.len == if self.addr.is_ipv4() { 32 } else { 128 }
    }

    /// Whether `addr` is of this network (and of its family).
    #[must_use]
    pub fn contains(self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4() && Self::containing(addr, self.len) == Some(self)
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for IpPrefix {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let bad = || AddrError::Prefix(text.to_owned());
        let (addr, len) = text.split_once('/').ok_or_else(bad)?;
        let addr: IpAddr = addr.parse().map_err(|_| bad())?;
        if len.is_empty() || len.len() > 3 || !len.bytes().all(|c| c.is_ascii_digit()) {
            return Err(bad());
        }
        let len: u8 = len.parse().map_err(|_| bad())?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = Self::containing(addr, len).ok_or_else(|| AddrError::Length(text.to_owned(), most))?;
        if prefix.addr != addr {
            return Err(AddrError::HostBits(text.to_owned(), prefix));
        }
        Ok(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mac_spelling() {
        assert_eq!("02:00:00:00:00:aB".parse(), Ok(MacAddr([2, 0, 0, 0, 0, 0xab])));
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "02-00-00-00-00-00",
            "02:00:00:00:00:+1",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn prefix_spelling() {
        assert_eq!("10.244.1.0/24".parse::<IpPrefix>().map(|p| p.to_string()), Ok("10.244.1.0/24".into()));
        assert!(matches!("10.244.1.1/24".parse::<IpPrefix>(), Err(AddrError::HostBits(..))));
        assert!(matches!("10.0.0.0/33".parse::<IpPrefix>(), Err(AddrError::Length(..))));
        for bad in ["10.0.0.0", "/8", "10.0.0.0/", "10.0.0.0/+8", "x/8", "10.0.0.0/8/8"] {
            assert!(bad.parse::<IpPrefix>().is_err(), "{bad}");
        }
        assert_eq!("::/0".parse::<IpPrefix>().map(IpPrefix::len), Ok(0));
    }

    proptest! {
        #[test]
        fn mac_round_trips(bytes: [u8; 6]) {
            prop_assert_eq!(MacAddr(bytes).to_string().parse(), Ok(MacAddr(bytes)));
        }

        #[test]
        fn prefix_round_trips_and_contains(addr: u128, v4: bool, len in 0u8..=128) {
            let addr = if v4 { IpAddr::V4(Ipv4Addr::from((addr >> 96) as u32)) } else { IpAddr::V6(addr.into()) };
            if let Some(p) = IpPrefix::containing(addr, len) {
                prop_assert!(p.contains(addr));
                prop_assert_eq!(p.to_string().parse(), Ok(p));
            } else {
                prop_assert!(v4 && len > 32);
            }
        }
    }
}
