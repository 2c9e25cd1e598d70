//! What the node's kernel is to know: routes, ends of tunnels, and whom it translates for; and what of it is different from what it knew.
//!
//! A cluster's nodes are thousands, and change one by one: what is different is found without a look at the rest.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use desired::{ByKernel, Desired, End, HOST_PORT, HostPort, NodePort, Prefixes, Way};
use imbl::ordmap::DiffItem;
use imbl::{OrdSet, ordset};
use proto::dataplane::{FrontendKey, Router};
use wire::{IpPrefix, MacAddr};

use crate::netlink::{self, KernelRoute, Neighbour};

/// The number of the table for what pods send to other nodes, and of the rule that leads there.
pub(crate) const TABLE: u32 = 30_112;

/// The number of the table for what has [`MARK`]: all of it goes to the host's port.
pub(crate) const MARKED: u32 = 30_113;

/// The bit that packets to a Service's external address and port have while they are in the kernel. Others that mark packets on a node use
/// others: kube-proxy 0x4000 and 0x8000, CNI's portmap 0x2000, Cilium 0x0f00, Calico those above 0xffff.
pub(crate) const MARK: u32 = 0x1000;

/// What the kernel is to know; a copy costs next to nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Wanted {
    /// What leads to the host's port: nothing where the host has none.
    pub(crate) prefixes: Prefixes,
    /// The node's own addresses, as others see it.
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) ports: Vec<HostPort>,
    /// Services' ports on the node, which are asked at the router's addresses.
    pub(crate) node_ports: OrdSet<NodePort>,
    /// Services' ports on external addresses, which are marked: nothing where the host has no port.
    pub(crate) externals: OrdSet<FrontendKey>,
    pub(crate) routers: Vec<IpAddr>,
    pub(crate) by_kernel: ByKernel,
}

/// What a route is by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    Host,
    /// Whatever its gateway is on.
    Any,
    Tunnel,
}

/// One side of a difference.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) routes: Vec<(Device, KernelRoute)>,
    /// What the tunnel's device knows, and for which end.
    pub(crate) neighbours: BTreeMap<Neighbour, IpAddr>,
    /// Who may send into the tunnel.
    pub(crate) ends: Vec<IpAddr>,
    /// From whom, and what.
    pub(crate) sources: Vec<(IpAddr, IpPrefix)>,
    /// Whom pods reach as themselves.
    pub(crate) cluster: Vec<IpPrefix>,
    pub(crate) node_ports: Vec<NodePort>,
    pub(crate) externals: Vec<FrontendKey>,
}

/// What is no more, and what is new. What changed is in both.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) gone: Part,
    pub(crate) new: Part,
}

impl Difference {
    pub(crate) fn needs_tunnel(&self) -> bool {
        let needs = |part: &Part| part.routes.iter().any(|(device, _)| *device == Device::Tunnel);
        needs(&self.gone) || needs(&self.new)
    }
}

impl Wanted {
    pub(crate) fn of(desired: &Desired) -> Self {
        let (prefixes, externals) = match desired.ports.contains_key(HOST_PORT) {
            true => (desired.host_prefixes.clone(), desired.externals.clone()),
            false => (Prefixes::new(), OrdSet::new()),
        };
        Self {
            prefixes,
            sources: desired.host_addresses.clone(),
            ports: desired.host_ports.clone(),
            node_ports: desired.node_ports.clone(),
            externals,
            routers: desired.router_addresses.clone(),
            by_kernel: desired.by_kernel.clone(),
        }
    }

    /// The same while there must be no tunnel.
    pub(crate) fn without_tunnel(mut self) -> Self {
        let ByKernel { pods, cluster, outside, .. } = self.by_kernel;
        let native = pods.into_iter().filter(|(_, way)| matches!(way, Way::Neighbour(_)));
        self.by_kernel = ByKernel { pods: native.collect(), cluster, outside, ..ByKernel::default() };
        self
    }

    /// All of it, as new.
    pub(crate) fn whole(&self, router: &Router) -> Part {
        self.compare(&Self::default(), router).new
    }

    /// `None` where not only nodes and their ranges are different.
    pub(crate) fn since(&self, before: &Self, router: &Router) -> Option<Difference> {
        let Self { prefixes, sources, ports, node_ports, externals: _, routers, by_kernel } = self;
        let old = &before.by_kernel;
        let same = (&before.sources, &before.ports, &before.routers) == (sources, ports, routers)
            && before.node_ports.is_empty() == node_ports.is_empty()
            && [true, false].into_iter().all(|v4| before.has_externals(v4) == self.has_externals(v4))
            && (&old.tunnel, &old.outside) == (&by_kernel.tunnel, &by_kernel.outside)
            && old.cluster.is_empty() == by_kernel.cluster.is_empty()
            && before.prefixes.is_empty() == prefixes.is_empty();
        same.then(|| self.compare(before, router))
    }

    fn compare(&self, before: &Self, router: &Router) -> Difference {
        let Difference { mut gone, mut new } = Difference::default();
        let host = |prefix: &IpPrefix| (Device::Host, self.by_host(*prefix, router));
        for item in before.prefixes.diff(&self.prefixes) {
            let (old, now) = ends_of(item);
            gone.routes.extend(old.map(host));
            new.routes.extend(now.map(host));
        }
        for item in before.by_kernel.cluster.diff(&self.by_kernel.cluster) {
            let (old, now) = ends_of(item);
            gone.cluster.extend(old);
            new.cluster.extend(now);
        }
        for item in before.node_ports.diff(&self.node_ports) {
            let (old, now) = ends_of(item);
            gone.node_ports.extend(old);
            new.node_ports.extend(now);
        }
        for item in before.externals.diff(&self.externals) {
            let (old, now) = ends_of(item);
            gone.externals.extend(old);
            new.externals.extend(now);
        }
        for v4 in [true, false] {
            let route = (Device::Host, marked(v4, router));
            gone.routes.extend(before.has_externals(v4).then_some(route).filter(|_| !self.has_externals(v4)));
            new.routes.extend(self.has_externals(v4).then_some(route).filter(|_| !before.has_externals(v4)));
        }
        for item in before.by_kernel.ends.diff(&self.by_kernel.ends) {
            let (old, now) = both(item);
            gone.ends.extend(old.map(|(end, _)| *end));
            new.ends.extend(now.map(|(end, _)| *end));
        }
        for item in before.by_kernel.sources.diff(&self.by_kernel.sources) {
            let (old, now) = ends_of(item);
            gone.sources.extend(old);
            new.sources.extend(now);
        }
        for item in before.by_kernel.pods.diff(&self.by_kernel.pods) {
            let (old, now) = both(item);
            old.into_iter().for_each(|(prefix, way)| self.pods(*prefix, *way, &mut gone));
            now.into_iter().for_each(|(prefix, way)| self.pods(*prefix, *way, &mut new));
        }
        for item in before.by_kernel.stations.diff(&self.by_kernel.stations) {
            let (old, now) = both(item);
            let add = |part: &mut Part, (address, end): (&IpAddr, &End)| {
                let route = part.through(IpPrefix::host(*address), *end);
                part.routes.push((Device::Tunnel, KernelRoute { table: TABLE, ..route }));
            };
            old.into_iter().for_each(|station| add(&mut gone, station));
            now.into_iter().for_each(|station| add(&mut new, station));
        }
        // An end serves many routes.
        let used = |end: &IpAddr| self.by_kernel.ends.contains_key(end);
        gone.neighbours.retain(|own, end| !used(end) && !new.neighbours.contains_key(own));
        Difference { gone, new }
    }

    /// Whether there is an external address of the family: IPv4's come first.
    pub(crate) fn has_externals(&self, v4: bool) -> bool {
        let one = if v4 { self.externals.get_min() } else { self.externals.get_max() };
        one.is_some_and(|own| own.address.is_ipv4() == v4)
    }

    fn source(&self, v4: bool) -> Option<IpAddr> {
        self.sources.iter().copied().find(|own| own.is_ipv4() == v4)
    }

    fn by_host(&self, prefix: IpPrefix, router: &Router) -> KernelRoute {
        let v4 = prefix.addr().is_ipv4();
        KernelRoute {
            prefix,
            gateway: Some(gateway(v4, router)),
            source: self.source(v4),
            table: netlink::MAIN,
        }
    }

    fn pods(&self, prefix: IpPrefix, way: Way, part: &mut Part) {
        match way {
            Way::Neighbour(gateway) => {
                let route =
                    KernelRoute { prefix, gateway: Some(gateway), source: None, table: netlink::MAIN };
                part.routes.push((Device::Any, route));
            }
            Way::Tunnel(end) => {
                let source = self.source(prefix.addr().is_ipv4());
                let route = KernelRoute { source, ..part.through(prefix, end) };
                part.routes.push((Device::Tunnel, route));
            }
        }
    }
}

impl Part {
    /// A route through an end, with what the device has to know for it.
    fn through(&mut self, prefix: IpPrefix, end: End) -> KernelRoute {
        let same = prefix.addr().is_ipv4() && end.address.is_ipv4();
        // IPv4 needs no IPv6 on this node where both are.
        let hop = if same { end.address } else { link_local(end.mac).into() };
        let known = [Neighbour::Inside(hop, end.mac), Neighbour::Outside(end.mac, end.address)];
        self.neighbours.extend(known.map(|own| (own, end.address)));
        KernelRoute { prefix, gateway: Some(hop), source: None, table: netlink::MAIN }
    }
}

fn gateway(v4: bool, router: &Router) -> IpAddr {
    if v4 { router.gateway4.into() } else { router.gateway6.into() }
}

/// By the time that a packet is marked its source is chosen.
fn marked(v4: bool, router: &Router) -> KernelRoute {
    let all = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let prefix = IpPrefix::containing(all, 0).unwrap_or(IpPrefix::host(all));
    KernelRoute { prefix, gateway: Some(gateway(v4, router)), source: None, table: MARKED }
}

/// The address that a station has by its MAC address alone (RFC 4291, appendix A).
fn link_local(MacAddr([a, b, c, d, e, f]): MacAddr) -> Ipv6Addr {
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

type Entry<'a, K, V> = Option<(&'a K, &'a V)>;

fn both<'a, 'b, K, V>(item: DiffItem<'a, 'b, K, V>) -> (Entry<'a, K, V>, Entry<'b, K, V>) {
    match item {
        DiffItem::Add(key, new) => (None, Some((key, new))),
        DiffItem::Update { old, new } => (Some(old), Some(new)),
        DiffItem::Remove(key, old) => (Some((key, old)), None),
    }
}

fn ends_of<'a, 'b, T>(item: ordset::DiffItem<'a, 'b, T>) -> (Option<&'a T>, Option<&'b T>) {
    match item {
        ordset::DiffItem::Add(new) => (None, Some(new)),
        ordset::DiffItem::Remove(old) => (Some(old), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use desired::{ClusterView, Host, Local, Node, NodeAddress, Vxlan};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_station_has_the_address_that_its_mac_says() {
        let mac = MacAddr([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);
        assert_eq!(link_local(mac).to_string(), "fe80::11:22ff:fe33:4455");
    }

    fn router() -> Router {
        Router {
            gateway4: [169, 254, 1, 1].into(),
            gateway6: link_local(MacAddr([0; 6])),
            dns_servers: vec![],
            dns_search: vec![],
        }
    }

    /// Of a few nodes: which is there, its ranges, its end.
    fn view(nodes: &[Option<(u8, u8)>]) -> ClusterView {
        let node = |(n, look): (usize, &Option<(u8, u8)>)| {
            let (ranges, end) = (*look)?;
            let address = |address: String| NodeAddress { kind: "InternalIP".into(), address };
            let node = Node {
                pod_cidrs: vec![format!("10.{n}.{ranges}.0/24"), format!("fd00:{n}:{ranges}::/64")],
                addresses: vec![
                    address(format!("192.168.{n}.{ranges}")),
                    address(format!("fd01:{n}::{ranges}")),
                ],
                // Of its own; or one that all of that look have; or this node's.
                router_addresses: Some(match end {
                    3 => "192.168.1.3".to_owned(),
                    4 => "192.168.0.9".to_owned(),
                    end => format!("192.168.{n}.{end}"),
                }),
                ..Node::default()
            };
            Some((format!("n{n}"), node))
        };
        ClusterView { nodes: nodes.iter().enumerate().filter_map(node).collect(), ..ClusterView::default() }
    }

    fn wanted(view: &ClusterView, vxlan: Option<Vxlan>) -> Wanted {
        let local = Local {
            node: "n0".into(),
            router: router(),
            uplink: None,
            host: Some(Host { mac: MacAddr([2; 6]), mtu: 1_430 }),
            vxlan,
            subnets: vec!["192.168.1.0/24".parse().unwrap(), "192.168.2.0/24".parse().unwrap()],
            masquerade: Some(vec![]),
            node_port_addresses: vec![],
            kept: vec![],
            attachments: vec![],
        };
        Wanted::of(&Desired::build(view, &local))
    }

    /// What a kernel knows that is told of differences.
    #[derive(Debug, Default, PartialEq)]
    struct Known {
        routes: BTreeMap<(u32, IpPrefix), (String, KernelRoute)>,
        neighbours: BTreeSet<Neighbour>,
        ends: BTreeSet<IpAddr>,
        sources: BTreeSet<(IpAddr, IpPrefix)>,
        cluster: BTreeSet<IpPrefix>,
    }

    impl Known {
        fn take(&mut self, Difference { gone, new }: &Difference) {
            for (_, route) in &gone.routes {
                assert!(self.routes.remove(&(route.table, route.prefix)).is_some());
            }
            for end in &gone.ends {
                assert!(self.ends.remove(end));
            }
            for source in &gone.sources {
                assert!(self.sources.remove(source));
            }
            for prefix in &gone.cluster {
                assert!(self.cluster.remove(prefix));
            }
            self.neighbours.retain(|own| !gone.neighbours.contains_key(own));
            for (device, route) in &new.routes {
                let before = self.routes.insert((route.table, route.prefix), (format!("{device:?}"), *route));
                assert_eq!(before, None);
            }
            self.neighbours.extend(new.neighbours.keys());
            for end in &new.ends {
                assert!(self.ends.insert(*end));
            }
            for source in &new.sources {
                assert!(self.sources.insert(*source));
            }
            self.cluster.extend(&new.cluster);
        }
    }

    proptest! {
        /// Step by step a kernel comes to know what it would be told at once, save neighbours whom nothing leads to.
        #[test]
        fn differences_add_up_to_the_whole(
            steps in proptest::collection::vec(
                proptest::collection::vec(proptest::option::of((0u8..3, 1u8..5)), 4), 1..8),
            tunnelled in 0u8..3,
        ) {
            let vxlan = (tunnelled > 0).then_some(Vxlan { across_subnets: tunnelled > 1, vni: 1, udp_port: 4_789 });
            let mut own = vec![Some((9, 9))];
            own.extend(steps[0].clone());
            let mut before = wanted(&view(&own), vxlan);
            let mut known = Known::default();
            known.take(&Difference { new: before.whole(&router()), ..Difference::default() });
            for step in &steps {
                own.truncate(1);
                own.extend(step.clone());
                let now = wanted(&view(&own), vxlan);
                let difference = now.since(&before, &router()).unwrap();
                known.take(&difference);
                let mut whole = Known::default();
                whole.take(&Difference { new: now.whole(&router()), ..Difference::default() });
                prop_assert!(known.neighbours.is_superset(&whole.neighbours));
                whole.neighbours.clone_from(&known.neighbours);
                prop_assert_eq!(&known, &whole);
                before = now;
            }
            let own = before.by_kernel.tunnel.map(|tunnel| tunnel.end.address.to_string());
            prop_assert_eq!(own.as_deref(), vxlan.map(|_| "192.168.0.9"));
        }
    }
}
