//! What is outside of a node: a router on its uplink, and a host behind that router.
//!
//! ```text
//! data plane ── af_packet on `uplink` ══ `eth0` router `eth1` ══ `eth0` far
//! (node)        192.0.2.1, fd00:78::1    .9, ::9                 203.0.113.7, 2001:db8::7
//! ```
//! Nobody there knows a way to pods: they see the node's own address, or nothing.

use proto::dataplane::{
    Interface, InterfaceAddress, Masquerade, Op, PortRange, Route, RouteKey, RouteTarget,
};

use crate::dataplane::Dataplane;
use crate::namespace::Namespace;

/// The node's own addresses on the uplink, which pods leave with.
pub(crate) const NODE: [&str; 2] = ["192.0.2.1", "fd00:78::1"];
/// The router's on the uplink.
pub(crate) const ROUTER: [&str; 2] = ["192.0.2.9", "fd00:78::9"];
/// The host behind it.
pub(crate) const FAR: [&str; 2] = ["203.0.113.7", "2001:db8::7"];
/// The ports that pods leave with: none that a kernel would choose by itself.
pub(crate) const PORTS: PortRange = PortRange { first: 20_000, last: 20_999 };

pub(crate) struct Outside {
    pub(crate) node: Namespace,
    pub(crate) router: Namespace,
    pub(crate) far: Namespace,
}

impl Outside {
    pub(crate) fn new() -> Self {
        let [node, router, far] = std::array::from_fn(|_| Namespace::new());
        node.veth("uplink", &router, "eth0");
        router.veth("eth1", &far, "eth0");
        node.set("ipv6/conf/uplink/disable_ipv6", "1");
        router.ip("addr add 192.0.2.9/24 dev eth0");
        router.ip("addr add fd00:78::9/64 dev eth0 nodad");
        router.ip("addr add 203.0.113.1/24 dev eth1");
        router.ip("addr add 2001:db8::1/64 dev eth1 nodad");
        // Neighbours are asked from the link's own address, for what is forwarded (RFC 4861, section 7.2.2).
        for (host, device, own) in
            [(&router, "eth0", "fe80::9"), (&router, "eth1", "fe80::1"), (&far, "eth0", "fe80::7")]
        {
            host.ip(&format!("addr add {own}/64 dev {device} nodad"));
        }
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            router.set(setting, "1");
        }
        far.ip("addr add 203.0.113.7/24 dev eth0");
        far.ip("addr add 2001:db8::7/64 dev eth0 nodad");
        far.ip("route add 192.0.2.0/24 via 203.0.113.1");
        far.ip("-6 route add fd00:78::/64 via 2001:db8::1");
        Self { node, router, far }
    }

    /// A data plane with the uplink for a device of its own.
    pub(crate) fn start(&self, args: &[&str]) -> Dataplane {
        let mut all = vec!["--vdev", "net_af_packet0,iface=uplink"];
        all.extend(args);
        self.node.run(|| Dataplane::start(&all))
    }

    /// Starts it again after it was killed.
    pub(crate) fn start_again(&self, dataplane: &mut Dataplane) {
        self.node.run(|| dataplane.start_again());
    }

    /// The rows of the uplink. What goes to `excluded` keeps its source.
    pub(crate) fn rows(excluded: &str) -> Vec<Op> {
        let addresses = NODE
            .iter()
            .zip([24, 64])
            .map(|(address, prefix_len)| InterfaceAddress { address: address.parse().unwrap(), prefix_len });
        let interface = Interface { port: "uplink".into(), network: 0, addresses: addresses.collect() };
        let routes = ["0.0.0.0/0", "::/0"].iter().zip(ROUTER).map(|(prefix, router)| Route {
            key: RouteKey { network: 0, prefix: prefix.parse().unwrap() },
            target: RouteTarget::NextHop {
                port: "uplink".into(),
                address: router.parse().unwrap(),
                inside: false,
            },
        });
        let masquerade = Masquerade {
            network: 0,
            source4: Some(NODE[0].parse().unwrap()),
            source6: Some(NODE[1].parse().unwrap()),
            exclude: vec![excluded.parse().unwrap()],
            link_local: false,
            service4: None,
            service6: None,
            ports: PORTS,
        };
        vec![
            Op::SetInterfaces { interfaces: vec![interface] },
            Op::SetRoutes { routes: routes.collect() },
            Op::SetMasquerades { masquerades: vec![masquerade] },
        ]
    }
}
