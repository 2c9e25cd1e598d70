//! Pods' addresses: one a family, out of this node's podCIDRs.
//!
//! Owns which addresses are in use and where the search goes on; knows nothing of files. What always holds: no address
//! is given twice, nor a network's first two (its own and the router's) or an IPv4 network's broadcast. The search starts
//! after the address given last, so that a released one is used again as late as possible: what other nodes and
//! pods remember of it has time to go.

use std::collections::BTreeSet;
use std::net::IpAddr;

use wire::{IpPrefix, MacAddr};

/// The addresses in use.
#[derive(Debug, Default)]
pub(crate) struct Ipam {
    used: BTreeSet<IpAddr>,
    /// Given last, one a family.
    last: Vec<IpAddr>,
}

/// A family's podCIDRs are full.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("every address of {} is in use: delete pods, or give the node a larger podCIDR", list(.0))]
pub(crate) struct Exhausted(Vec<IpPrefix>);

fn list(prefixes: &[IpPrefix]) -> String {
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Ipam {
    /// Goes on where the journal ended.
    pub(crate) fn new(used: impl IntoIterator<Item = IpAddr>, last: Vec<IpAddr>) -> Self {
        Self { used: used.into_iter().collect(), last }
    }

    /// One address of each family that `cidrs` have, and none of `reserved`. The family that comes first there comes
    /// first here: it is the cluster's own first one (`status.podIP` is of it).
    ///
    /// # Errors
    /// One of the families has no free address; then none is taken.
    pub(crate) fn allocate(
        &mut self,
        cidrs: &[IpPrefix],
        reserved: &[IpAddr],
    ) -> Result<Vec<IpAddr>, Exhausted> {
        let mut found = Vec::new();
        let first = cidrs.first().is_none_or(|cidr| cidr.addr().is_ipv4());
        for v4 in [first, !first] {
            let family: Vec<IpPrefix> =
                cidrs.iter().copied().filter(|cidr| cidr.addr().is_ipv4() == v4).collect();
            if family.is_empty() {
                continue;
            }
            let free = family.iter().find_map(|cidr| self.next_free(*cidr, reserved));
            found.push(free.ok_or(Exhausted(family))?);
        }
        for &address in &found {
            self.used.insert(address);
            self.last.retain(|other| other.is_ipv4() != address.is_ipv4());
            self.last.push(address);
        }
        Ok(found)
    }

    /// Gives addresses back.
    pub(crate) fn release(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            self.used.remove(address);
        }
    }

    fn next_free(&self, cidr: IpPrefix, reserved: &[IpAddr]) -> Option<IpAddr> {
        let (first, last) = usable(cidr)?;
        let after = self.last.iter().find(|own| cidr.contains(**own)).map(|own| bits(*own).saturating_add(1));
        let start = after.filter(|n| (first..=last).contains(n)).unwrap_or(first);
        let free = |n: &u128| {
            let address = address(*n, cidr.addr().is_ipv4());
            !self.used.contains(&address) && !reserved.contains(&address)
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
/// four bytes of the first one.
pub(crate) fn mac_of(addresses: &[IpAddr]) -> MacAddr {
    let n = addresses.first().map_or(0, |own| bits(*own));
    let [.., a, b, c, d] = n.to_be_bytes();
    MacAddr([0x0a, 0x58, a, b, c, d])
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
        let mut ipam = Ipam::default();
        let cidrs = [prefix("10.244.1.0/24"), prefix("fd00:10:244:1::/64")];
        let first = ipam.allocate(&cidrs, &[]).unwrap();
        assert_eq!(texts(&first), ["10.244.1.2", "fd00:10:244:1::2"]);
        let turned = [cidrs[1], cidrs[0]];
        assert_eq!(
            texts(&Ipam::default().allocate(&turned, &[]).unwrap()),
            ["fd00:10:244:1::2", "10.244.1.2"]
        );
        let node = ["10.244.1.3".parse().unwrap()];
        assert_eq!(texts(&ipam.allocate(&cidrs, &node).unwrap()), ["10.244.1.4", "fd00:10:244:1::3"]);
        assert_eq!(mac_of(&first).to_string(), "0a:58:0a:f4:01:02");
    }

    #[test]
    fn a_released_address_is_used_last() {
        let mut ipam = Ipam::default();
        let cidr = [prefix("10.0.0.0/29")];
        let all: Vec<_> = (0..5).map(|_| ipam.allocate(&cidr, &[]).unwrap()[0]).collect();
        assert_eq!(texts(&all), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        let full = ipam.allocate(&cidr, &[]).unwrap_err();
        assert!(full.to_string().contains("10.0.0.0/29"), "{full}");
        ipam.release(&all[..2]);
        let mut again = Ipam::new(all[2..].iter().copied(), vec![all[1]]);
        assert_eq!(texts(&ipam.allocate(&cidr, &[]).unwrap()), ["10.0.0.2"]);
        ipam.release(&[all[0]]);
        assert_eq!(texts(&ipam.allocate(&cidr, &[]).unwrap()), ["10.0.0.3"]);
        // After a restart, the search goes on after the last one given.
        assert_eq!(texts(&again.allocate(&cidr, &[]).unwrap()), ["10.0.0.2"]);
    }

    #[test]
    fn the_smallest_and_the_last_networks() {
        assert_eq!(usable(prefix("10.0.0.0/31")), None);
        assert_eq!(usable(prefix("10.0.0.0/32")), None);
        assert_eq!(usable(prefix("fd00::/128")), None);
        assert_eq!(usable(prefix("fd00::/127")), None);
        let mut ipam = Ipam::default();
        assert_eq!(texts(&ipam.allocate(&[prefix("10.0.0.0/30")], &[]).unwrap()), ["10.0.0.2"]);
        let top = prefix("fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126");
        assert_eq!(texts(&ipam.allocate(&[top], &[]).unwrap())[0], "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffe");
        assert_eq!(texts(&ipam.allocate(&[top], &[]).unwrap())[0], "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert!(ipam.allocate(&[top], &[]).is_err());
    }

    proptest! {
        /// Against the plainest bookkeeping: unique, inside, never reserved; refused only when full.
        #[test]
        fn no_address_is_given_twice(len in 24u8..=30, steps in proptest::collection::vec((any::<bool>(), any::<u8>()), 1..300)) {
            let cidr = IpPrefix::containing("10.9.8.0".parse().unwrap(), len).unwrap();
            let mut ipam = Ipam::default();
            let mut held: Vec<IpAddr> = vec![];
            for (take, which) in steps {
                if take {
                    match ipam.allocate(&[cidr], &[]) {
                        Ok(got) => {
                            prop_assert!(!held.contains(&got[0]) && cidr.contains(got[0]));
                            let low = bits(got[0]) & 0xff;
                            prop_assert!(low >= 2 && low < (1 << (32 - len)) - 1);
                            held.push(got[0]);
                        }
                        Err(_) => prop_assert_eq!(held.len(), (1 << (32 - len)) - 3),
                    }
                } else if !held.is_empty() {
                    let gone = held.swap_remove(usize::from(which) % held.len());
                    ipam.release(&[gone]);
                }
            }
        }
    }
}
