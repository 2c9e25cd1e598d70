//! Pods' addresses on one network: one a family, out of this node's podCIDRs or the network's subnets.
//!
//! Owns which addresses are in use and where the search goes on; knows nothing of files. What always holds: no address
//! is given twice, nor a network's first two (its own and the router's) or an IPv4 network's broadcast, nor one that was
//! released within [`HOLD`]. The search starts after the address given last, so that a released one is used again as
//! late as possible: what other nodes and pods remember of it has time to go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use wire::{IpPrefix, MacAddr};

/// The addresses in use.
#[derive(Debug, Default)]
pub(crate) struct Ipam {
    used: BTreeSet<IpAddr>,
    /// Given last, one a family.
    last: Vec<IpAddr>,
    /// Released, and until when nobody else gets them.
    held: BTreeMap<IpAddr, Instant>,
}

/// How long a released address is nobody's.
pub(crate) const HOLD: Duration = Duration::from_secs(60);

/// Why there is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IpamError {
    #[error(
        "every address of {} is in use, or was less than {HOLD:?} ago: delete pods, or give the node a larger podCIDR, the network a larger subnet",
        list(.0)
    )]
    Exhausted(Vec<IpPrefix>),
    #[error("{0} is in use on this node: delete the pod that has it")]
    Taken(IpAddr),
    #[error("{0} was released less than {HOLD:?} ago, and is held back")]
    Held(IpAddr),
    #[error(
        "{0} is in none of the ranges that there are for pods here ({ranges}), or is a network's own, its router's or broadcast address",
        ranges = list(.1)
    )]
    Outside(IpAddr, Vec<IpPrefix>),
    #[error("{0} is a second address of its family; a pod has one a family")]
    Second(IpAddr),
}

impl IpamError {
    /// Whether it may be otherwise later, though the same is asked.
    pub(crate) const fn may_pass(&self) -> bool {
        matches!(self, Self::Exhausted(_) | Self::Taken(_) | Self::Held(_))
    }
}

fn list(prefixes: &[IpPrefix]) -> String {
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Ipam {
    /// Goes on where the journal ended: with what is in use, was given last, and is held back.
    pub(crate) fn new(
        used: impl IntoIterator<Item = IpAddr>,
        last: Vec<IpAddr>,
        held: BTreeMap<IpAddr, Instant>,
    ) -> Self {
        Self { used: used.into_iter().collect(), last, held }
    }

    /// One address of each family that `cidrs` have, and none of `reserved`; that of `wanted`, where it names one. The family
    /// that comes first there comes first here: it is the cluster's own first one (`status.podIP` is of it).
    ///
    /// # Errors
    /// One of the families has no free address, or a wanted one cannot be had; then none is taken.
    pub(crate) fn allocate(
        &mut self,
        wanted: &[IpAddr],
        cidrs: &[IpPrefix],
        reserved: &[IpAddr],
        now: Instant,
    ) -> Result<Vec<IpAddr>, IpamError> {
        self.held.retain(|_, until| *until > now);
        for (i, address) in wanted.iter().enumerate() {
            if wanted[..i].iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                return Err(IpamError::Second(*address));
            }
            self.is_to_be_had(*address, cidrs, reserved)?;
        }
        let mut found = Vec::new();
        let first = cidrs.first().is_none_or(|cidr| cidr.addr().is_ipv4());
        for v4 in [first, !first] {
            if let Some(address) = wanted.iter().find(|address| address.is_ipv4() == v4) {
                found.push(*address);
                continue;
            }
            let family: Vec<IpPrefix> =
                cidrs.iter().copied().filter(|cidr| cidr.addr().is_ipv4() == v4).collect();
            if family.is_empty() {
                continue;
            }
            let free = family.iter().find_map(|cidr| self.next_free(*cidr, reserved));
            found.push(free.ok_or(IpamError::Exhausted(family))?);
        }
        self.used.extend(&found);
        for &address in found.iter().filter(|address| !wanted.contains(address)) {
            self.last.retain(|other| other.is_ipv4() != address.is_ipv4());
            self.last.push(address);
        }
        Ok(found)
    }

    /// Whether [`Self::allocate`] would fail for want of addresses.
    pub(crate) fn exhausted(
        &self,
        cidrs: &[IpPrefix],
        reserved: &[IpAddr],
        now: Instant,
    ) -> Option<IpamError> {
        let held =
            self.held.iter().filter(|(_, until)| **until > now).map(|(own, until)| (*own, *until)).collect();
        let mut trial = Self { used: self.used.clone(), last: self.last.clone(), held };
        trial.allocate(&[], cidrs, reserved, now).err()
    }

    /// Takes addresses that somebody else keeps account of.
    ///
    /// # Errors
    /// One of them is in use here; then none is taken.
    pub(crate) fn take(&mut self, addresses: &[IpAddr]) -> Result<(), IpamError> {
        match addresses.iter().find(|address| self.used.contains(address)) {
            Some(address) => Err(IpamError::Taken(*address)),
            None => {
                self.used.extend(addresses);
                Ok(())
            }
        }
    }

    /// Gives addresses back that somebody may have heard of.
    pub(crate) fn release(&mut self, addresses: &[IpAddr], now: Instant) {
        for address in addresses {
            if self.used.remove(address) {
                self.held.insert(*address, now + HOLD);
            }
        }
    }

    /// Gives addresses back that nobody ever had.
    pub(crate) fn free(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            self.used.remove(address);
        }
    }

    fn is_to_be_had(&self, own: IpAddr, cidrs: &[IpPrefix], reserved: &[IpAddr]) -> Result<(), IpamError> {
        let usable = |cidr: &&IpPrefix| {
            cidr.contains(own)
                && usable(**cidr).is_some_and(|(first, last)| (first..=last).contains(&bits(own)))
        };
        if cidrs.iter().find(usable).is_none() || reserved.contains(&own) {
            Err(IpamError::Outside(own, cidrs.to_vec()))
        } else if self.used.contains(&own) {
            Err(IpamError::Taken(own))
        } else if self.held.contains_key(&own) {
            Err(IpamError::Held(own))
        } else {
            Ok(())
        }
    }

    fn next_free(&self, cidr: IpPrefix, reserved: &[IpAddr]) -> Option<IpAddr> {
        let (first, last) = usable(cidr)?;
        let after = self.last.iter().find(|own| cidr.contains(**own)).map(|own| bits(*own).saturating_add(1));
        let start = after.filter(|n| (first..=last).contains(n)).unwrap_or(first);
        let free = |n: &u128| {
            let address = address(*n, cidr.addr().is_ipv4());
            !self.used.contains(&address) && !self.held.contains_key(&address) && !reserved.contains(&address)
        };
        let found = (start..=last).find(free).or_else(|| (first..start).find(free));
        found.map(|n| address(n, cidr.addr().is_ipv4()))
    }
}

/// First and last address that a pod may have; `None` where there is none.
fn usable(cidr: IpPrefix) -> Option<(u128, u128)> {
    let v4 = cidr.addr().is_ipv4();
    let host_bits = if v4 { 32 } else { 128 } - u32::from(cidr.len());
    let network = bits(cidr.addr());
    let size_less_one = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
    // The network's own address (in IPv6 the subnet-router anycast, RFC 4291, section 2.6.1) and the router's.
    let first = network.checked_add(2)?;
    let last = network.checked_add(size_less_one)?.checked_sub(u128::from(v4))?;
    (first <= last).then_some((first, last))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(own) => u128::from(u32::from(own)),
        IpAddr::V6(own) => u128::from(own),
    }
}

fn address(n: u128, v4: bool) -> IpAddr {
    match u32::try_from(n) {
        Ok(n) if v4 => IpAddr::V4(n.into()),
        _ => IpAddr::V6(n.into()),
    }
}

/// A pod's MAC: locally administered, and different for different addresses of one node, since it holds the last
/// four bytes of the first one. On two networks of the same addresses a pod has two all the same.
pub(crate) fn mac_of(network_id: u16, addresses: &[IpAddr]) -> MacAddr {
    let n = addresses.first().map_or(0, |own| bits(*own));
    let [.., a, b, c, d] = n.to_be_bytes();
    let [high, low] = network_id.to_be_bytes();
    // The first byte's last two bits tell a station's own address from a group's and from a vendor's.
    MacAddr([0x0a ^ (high << 2), 0x58 ^ low, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> IpPrefix {
        text.parse().unwrap()
    }

    fn texts(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn both_families_start_after_the_routers_address() {
        let (mut ipam, now) = (Ipam::default(), Instant::now());
        let cidrs = [prefix("10.244.1.0/24"), prefix("fd00:10:244:1::/64")];
        let first = ipam.allocate(&[], &cidrs, &[], now).unwrap();
        assert_eq!(texts(&first), ["10.244.1.2", "fd00:10:244:1::2"]);
        let turned = [cidrs[1], cidrs[0]];
        assert_eq!(
            texts(&Ipam::default().allocate(&[], &turned, &[], now).unwrap()),
            ["fd00:10:244:1::2", "10.244.1.2"]
        );
        let node = ["10.244.1.3".parse().unwrap()];
        assert_eq!(
            texts(&ipam.allocate(&[], &cidrs, &node, now).unwrap()),
            ["10.244.1.4", "fd00:10:244:1::3"]
        );
        assert_eq!(mac_of(0, &first).to_string(), "0a:58:0a:f4:01:02");
        assert_eq!(mac_of(7, &first).to_string(), "0a:5f:0a:f4:01:02");
        assert_eq!(mac_of(0x3fff, &first).to_string(), "f6:a7:0a:f4:01:02");
    }

    #[test]
    fn a_released_address_is_used_last_and_not_within_a_minute() {
        let (mut ipam, now) = (Ipam::default(), Instant::now());
        let cidr = [prefix("10.0.0.0/29")];
        let all: Vec<_> = (0..5).map(|_| ipam.allocate(&[], &cidr, &[], now).unwrap()[0]).collect();
        assert_eq!(texts(&all), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        let full = ipam.allocate(&[], &cidr, &[], now).unwrap_err();
        assert!(full.to_string().contains("10.0.0.0/29") && full.may_pass(), "{full}");
        ipam.release(&all[..2], now);
        let soon = now + HOLD - Duration::from_secs(1);
        assert_eq!(ipam.allocate(&[], &cidr, &[], soon), Err(IpamError::Exhausted(cidr.to_vec())));
        // After a restart it is held as long, and the search goes on after the last one given.
        let mut again = Ipam::new(all[2..].iter().copied(), vec![all[1]], [(all[0], now + HOLD)].into());
        assert_eq!(texts(&again.allocate(&[], &cidr, &[], soon).unwrap()), ["10.0.0.3"]);
        assert!(again.allocate(&[], &cidr, &[], soon).is_err());
        assert_eq!(texts(&again.allocate(&[], &cidr, &[], now + HOLD).unwrap()), ["10.0.0.2"]);
        assert_eq!(texts(&ipam.allocate(&[], &cidr, &[], now + HOLD).unwrap()), ["10.0.0.2"]);
        // One that nobody ever had is free at once.
        ipam.free(&[all[0]]);
        assert_eq!(texts(&ipam.allocate(&[], &cidr, &[], now + HOLD).unwrap()), ["10.0.0.3"]);
        assert_eq!(texts(&ipam.allocate(&[], &cidr, &[], now + HOLD).unwrap()), ["10.0.0.2"]);
    }

    #[test]
    fn a_wanted_address_is_had_or_said_why_not() {
        let (mut ipam, now) = (Ipam::default(), Instant::now());
        let cidrs = [prefix("10.244.1.0/24"), prefix("fd00:10:244:1::/64")];
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut ask = |wanted: &[&str], now| {
            let wanted: Vec<IpAddr> = wanted.iter().map(|text| ip(text)).collect();
            ipam.allocate(&wanted, &cidrs, &[ip("10.244.1.7")], now).map(|got| texts(&got))
        };
        assert_eq!(ask(&["10.244.1.9"], now).unwrap(), ["10.244.1.9", "fd00:10:244:1::2"]);
        assert_eq!(
            ask(&["fd00:10:244:1::9", "10.244.1.20"], now).unwrap(),
            ["10.244.1.20", "fd00:10:244:1::9"]
        );
        // The search goes on where it was.
        assert_eq!(ask(&[], now).unwrap(), ["10.244.1.2", "fd00:10:244:1::3"]);
        assert_eq!(ask(&["10.244.1.9"], now), Err(IpamError::Taken(ip("10.244.1.9"))));
        for outside in ["10.244.2.9", "10.244.1.0", "10.244.1.1", "10.244.1.255", "10.244.1.7", "fd01::1"] {
            let error = ask(&[outside], now).unwrap_err();
            assert!(error.to_string().contains(outside) && !error.may_pass(), "{error}");
        }
        assert_eq!(ask(&["10.244.1.30", "10.244.1.31"], now), Err(IpamError::Second(ip("10.244.1.31"))));
        ipam.release(&[ip("10.244.1.9")], now);
        let wanted = [ip("10.244.1.9")];
        assert_eq!(ipam.allocate(&wanted, &cidrs, &[], now), Err(IpamError::Held(wanted[0])));
        assert!(ipam.allocate(&wanted, &cidrs, &[], now + HOLD).is_ok());
        // Somebody else's are outside, and no less one's own.
        assert_eq!(ipam.take(&[ip("192.0.2.1"), wanted[0]]), Err(IpamError::Taken(wanted[0])));
        assert_eq!(ipam.take(&[ip("192.0.2.1")]), Ok(()));
        assert_eq!(ipam.take(&[ip("192.0.2.1")]), Err(IpamError::Taken(ip("192.0.2.1"))));
    }

    #[test]
    fn the_smallest_and_the_last_networks() {
        assert_eq!(usable(prefix("10.0.0.0/31")), None);
        assert_eq!(usable(prefix("10.0.0.0/32")), None);
        assert_eq!(usable(prefix("fd00::/128")), None);
        assert_eq!(usable(prefix("fd00::/127")), None);
        let (mut ipam, now) = (Ipam::default(), Instant::now());
        assert_eq!(texts(&ipam.allocate(&[], &[prefix("10.0.0.0/30")], &[], now).unwrap()), ["10.0.0.2"]);
        let top = prefix("fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126");
        assert_eq!(
            texts(&ipam.allocate(&[], &[top], &[], now).unwrap())[0],
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"
        );
        assert_eq!(
            texts(&ipam.allocate(&[], &[top], &[], now).unwrap())[0],
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
        assert!(ipam.allocate(&[], &[top], &[], now).is_err());
    }

    proptest! {
        /// Against the plainest bookkeeping: unique, inside, never reserved or held; refused only when none is left.
        #[test]
        fn no_address_is_given_twice(len in 24u8..=30, steps in proptest::collection::vec((any::<bool>(), any::<u8>()), 1..300)) {
            let mut now = Instant::now();
            let mut released: Vec<(IpAddr, Instant)> = vec![];
            let cidr = IpPrefix::containing("10.9.8.0".parse().unwrap(), len).unwrap();
            let mut ipam = Ipam::default();
            let mut held: Vec<IpAddr> = vec![];
            for (take, which) in steps {
                now += Duration::from_millis(700);
                released.retain(|(_, at)| now - *at < HOLD);
                if take {
                    match ipam.allocate(&[], &[cidr], &[], now) {
                        Ok(got) => {
                            prop_assert!(!held.contains(&got[0]) && cidr.contains(got[0]));
                            prop_assert!(released.iter().all(|(other, _)| *other != got[0]));
                            let low = bits(got[0]) & 0xff;
                            prop_assert!(low >= 2 && low < (1 << (32 - len)) - 1);
                            held.push(got[0]);
                        }
                        Err(_) => prop_assert_eq!(held.len() + released.len(), (1 << (32 - len)) - 3),
                    }
                } else if !held.is_empty() {
                    let gone = held.swap_remove(usize::from(which) % held.len());
                    ipam.release(&[gone], now);
                    released.push((gone, now));
                }
            }
        }
    }
}
