//! What a trace says, in words, and that it is what happens. [`Bench`] asks for a trace before every packet of every test here, and
//! compares verdict and bytes; here the packets are random ones among changing tables.

use std::sync::Arc;

use pipeline::{Question, Verdict, trace};
use proptest::prelude::*;
use tables::{
    Backend, BackendState, Classifier, Frontend, FrontendKey, GroupId, IdentityId, Masquerade, NetworkId,
    Peer, Policy, PortId, Rule, RuleVerdict,
};

use crate::body::{HOST, POD_A, POD_B, UPLINK};
use crate::frames::*;

const NET: NetworkId = NetworkId(0);

fn question(src: &str, dst: &str, protocol: u8, dst_port: u16) -> Question {
    let (src, dst) = (ip(src), ip(dst));
    Question { network: NET, src, dst, protocol, src_port: 40_000, dst_port, in_port: None, length: 0 }
}

/// The steps, a line each.
fn told(bench: &Bench, question: &Question) -> Vec<String> {
    let steps = trace(&bench.ground(), question);
    steps.iter().map(|step| format!("{}: {}", step.name, step.outcome)).collect()
}

fn frontend(backends: &[(&str, BackendState)]) -> Frontend {
    Frontend {
        key: FrontendKey { network: NET, addr: ip("10.96.0.10"), port: 80, protocol: TCP },
        name: "shop/front:http".into(),
        backends: backends
            .iter()
            .map(|&(addr, state)| Backend { addr: ip(addr), port: 8080, state })
            .collect(),
        drops: false,
        sources: vec![],
        affinity: 0,
    }
}

fn allow(group: u32, id: u32) -> Option<Arc<Classifier>> {
    let peer = Peer::Groups([GroupId(group)].into());
    let (name, ports, verdict) = ("shop/web ingress[1]".into(), Some((8080, 8080)), RuleVerdict::Allow);
    let rule = Rule { id, name, says: "".into(), peer, protocol: Some(TCP), ports, verdict };
    Some(Arc::new(Classifier::new(vec![rule])))
}

fn masquerade(ports: (u16, u16)) -> Masquerade {
    Masquerade { source4: Some(v4("192.0.2.1")), ports, ..Masquerade::default() }
}

#[test]
fn a_service_among_policies() {
    let mut bench = Bench::new();
    let (serving, draining) = (BackendState::Serving, BackendState::Draining);
    bench.change(|tables| {
        tables.set_frontend(frontend(&[("10.244.1.3", serving), ("10.244.1.5", draining)])).unwrap();
        tables.set_identity(NET, "10.244.1.2/32".parse().unwrap(), IdentityId(5)).unwrap();
        tables.set_membership(IdentityId(5), vec![GroupId(50)]).unwrap();
        let policy = Policy { ingress: allow(50, 7), egress: None };
        tables.set_policy("endpoint-2", policy).unwrap();
    });
    let asked = question("10.244.1.2", "10.96.0.10", TCP, 80);
    let first = [
        "port: by port port-1, from endpoint endpoint-1",
        "flow: not known: it is decided",
        "source: the sender may have this MAC and address",
        "service: shop/front:http: to backend 10.244.1.3:8080, one of 1 that take it (1 do not)",
        "route: 10.244.1.3 by 10.244.1.3/32 (endpoint): endpoint endpoint-2 dev port-2",
        "egress: nothing restricts endpoint-1",
        "ingress: allowed by shop/web ingress[1] (rule 7) of endpoint-2",
        "link: 40 bytes to port-2, whose MTU is 1500",
        "masquerade: it keeps its source",
        "translation: from 10.244.1.2:40000 to 10.244.1.3:8080",
        "neighbour: the endpoint itself, 02:aa:00:00:00:02",
        "verdict: forwarded by port port-2",
    ];
    assert_eq!(told(&bench, &asked), first);
    // Asking makes no flow.
    assert_eq!(told(&bench, &asked), first);

    let mut syn = tcp(2, &[]);
    syn[..4].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    let frame = from(POD_A, "10.244.1.2", "10.96.0.10", TCP, &syn);
    assert!(matches!(bench.send(POD_A, &frame).0, Verdict::Forward(_)));
    assert_eq!(
        told(&bench, &asked)[1..],
        [
            "flow: known, the packets of a connection that is opening; decided in this generation, 1",
            "translation: from 10.244.1.2:40000 to 10.244.1.3:8080",
            "neighbour: the endpoint itself, 02:aa:00:00:00:02",
            "verdict: forwarded by port port-2",
        ]
    );
    bench.change(|t| t.set_identity(NET, "10.244.9.0/24".parse().unwrap(), IdentityId(6)).unwrap());
    assert!(told(&bench, &asked)[1].ends_with("in generation 1, and nothing has changed that it rests on"));
    bench.change(|t| t.set_policy("endpoint-2", Policy { ingress: allow(6, 8), egress: None }).unwrap());
    let denied = told(&bench, &asked);
    assert!(denied[1].contains("decided anew: something has changed"), "{denied:?}");
    assert_eq!(
        denied[2..],
        [
            "source: the sender may have this MAC and address",
            "service: the connection keeps its backend 10.244.1.3:8080",
            "egress: nothing restricts endpoint-1",
            "ingress: denied: the one rule of endpoint-2 does not match (shop/web)",
            "verdict: dropped as policy-ingress: The receiver's policy does not allow it",
        ]
    );
    bench.change(|tables| tables.set_frontend(frontend(&[("10.244.1.3", draining)])).unwrap());
    let asked = Question { src_port: 40_001, ..asked };
    let none = told(&bench, &asked);
    assert_eq!(
        none[3..],
        [
            "service: shop/front:http: none of its 1 backends takes it",
            "verdict: dropped as no-backend: A Service without an endpoint that takes new connections; its source is told by port port-1",
        ]
    );
    assert!(
        told(&bench, &question("10.244.1.2", "10.96.0.10", UDP, 80))[3].contains("not with this port and")
    );
}

#[test]
fn out_by_the_routers_address_and_back_in() {
    let mut bench = Bench::new();
    bench.change(|tables| tables.set_masquerade(NET, Some(masquerade((50_000, 50_000)))).unwrap());
    let asked = question("10.244.1.2", "198.51.100.7", UDP, 53);
    assert_eq!(
        told(&bench, &asked)[3..],
        [
            "service: no Service has this address",
            "route: 198.51.100.7 by 198.51.100.0/24 (configured): via 192.0.2.254 dev port-4",
            "egress: nothing restricts endpoint-1",
            "ingress: no endpoint of this node: not judged here",
            "link: 28 bytes to port-4, whose MTU is 1500",
            "masquerade: it leaves the cluster: source 192.0.2.1, port 50000 of 50000-50000",
            "translation: from 192.0.2.1:50000 to 198.51.100.7:53",
            "neighbour: 192.0.2.254 is asked for its MAC, and the packet waits",
            "verdict: forwarded by port port-4 to 192.0.2.254",
        ]
    );
    let frame = from(POD_A, "10.244.1.2", "198.51.100.7", UDP, &udp(40_000, 53, b"x"));
    assert!(matches!(bench.send(POD_A, &frame).0, Verdict::Forward(_)));
    let exhausted = told(&bench, &Question { src_port: 40_001, ..asked });
    assert!(exhausted.last().unwrap().contains("source-ports-exhausted"), "{exhausted:?}");
    let reply = Question { src_port: 53, ..question("198.51.100.7", "192.0.2.1", UDP, 50_000) };
    let back = told(&bench, &reply);
    assert_eq!(back[0], "port: by port port-4, an uplink");
    assert!(
        back[1].starts_with("flow: known, the answers of a connection that is new; decided anew:"),
        "{back:?}"
    );
    assert_eq!(back.last().unwrap(), "verdict: forwarded by port port-1");
}

#[test]
fn what_goes_nowhere() {
    let bench = Bench::new();
    let last = |question: &Question| told(&bench, question).last().unwrap().clone();
    let asked = question("10.244.1.2", "10.244.1.3", TCP, 80);
    assert!(last(&Question { dst: ip("10.244.1.77"), ..asked }).contains("unreachable"));
    assert!(last(&Question { dst: ip("203.0.113.1"), ..asked }).contains("blackhole"));
    assert!(last(&Question { dst: ip("9.9.9.9"), ..asked }).contains("no-route"));
    assert!(last(&Question { dst: ip("224.0.0.1"), ..asked }).contains("multicast"));
    assert!(last(&Question { length: 1501, ..asked }).contains("packet-too-big"));
    let spoofed = told(&bench, &Question { in_port: Some(POD_B), ..asked });
    assert!(spoofed[2].contains("source-address-spoofed"), "{spoofed:?}");
    assert!(told(&bench, &Question { in_port: Some(PortId(99)), ..asked })[0].contains("port-idle"));
    let ping = Question { dst: ip("169.254.1.1"), protocol: ICMP, ..asked };
    assert_eq!(last(&ping), "verdict: answered by the router as echo, by port port-1");
    assert!(told(&bench, &Question { dst: ip("fd00:1::3"), ..asked }).is_empty());
    let nowhere = told(&bench, &Question { network: NetworkId(9), ..asked });
    assert_eq!(nowhere[0], "port: no port leads to 10.244.1.2, and there is no uplink");
}

const PODS: [&str; 3] = ["10.244.1.2", "10.244.1.3", "10.244.1.5"];

/// What the next packet, or change, of a random walk is.
#[derive(Debug, Clone)]
enum Event {
    Packet { port: usize, dst: usize, protocol: u8, ports: (u16, u16), flags: u8 },
    Backends([Option<bool>; 3]),
    Policy(usize, Option<u32>, Option<u32>),
    Masquerade(Option<u16>),
    Route(bool),
}

fn event() -> impl Strategy<Value = Event> {
    let port = prop_oneof![Just(1000_u16), Just(1001), Just(80), Just(8080)];
    let packet = (
        0..5_usize,
        0..7_usize,
        prop_oneof![Just(TCP), Just(UDP), Just(ICMP)],
        (port.clone(), port),
        0..6_u8,
    )
        .prop_map(|(port, dst, protocol, ports, flags)| Event::Packet {
            port,
            dst,
            protocol,
            ports,
            flags: [2, 0x12, 0x10, 0x11, 4, 0x18][usize::from(flags)],
        });
    prop_oneof![
        12 => packet,
        1 => any::<[Option<bool>; 3]>().prop_map(Event::Backends),
        1 => (0..3_usize, proptest::option::of(1..4_u32), proptest::option::of(1..4_u32))
            .prop_map(|(pod, into, out)| Event::Policy(pod, into, out)),
        1 => proptest::option::of(1000..1003_u16).prop_map(Event::Masquerade),
        1 => any::<bool>().prop_map(Event::Route),
    ]
}

fn happen(bench: &mut Bench, event: &Event) {
    match *event {
        Event::Packet { port, dst, protocol, ports: (src_port, dst_port), flags } => {
            let (port, src) = [
                (POD_A, PODS[0]),
                (POD_B, PODS[1]),
                (PortId(5), PODS[2]),
                (HOST, "10.0.0.10"),
                (UPLINK, "198.51.100.7"),
            ][port];
            let dst =
                [PODS[0], PODS[1], PODS[2], "10.96.0.10", "198.51.100.7", "10.0.0.10", "192.0.2.1"][dst];
            let payload = match protocol {
                TCP => {
                    let mut header = tcp(flags, b"x");
                    header[..2].copy_from_slice(&src_port.to_be_bytes());
                    header[2..4].copy_from_slice(&dst_port.to_be_bytes());
                    header
                }
                UDP => udp(src_port, dst_port, b"x"),
                _ => {
                    let [a, b] = src_port.to_be_bytes();
                    icmp4(if flags & 2 == 2 { 8 } else { 0 }, 0, &[a, b, 0, 1])
                }
            };
            // The comparison is in it.
            bench.send(port, &from(port, src, dst, protocol, &payload));
        }
        Event::Backends(states) => bench.change(|tables| {
            let backends: Vec<_> = PODS
                .iter()
                .zip(states)
                .filter_map(|(addr, serves)| {
                    let state = if serves? { BackendState::Serving } else { BackendState::Draining };
                    Some((*addr, state))
                })
                .collect();
            let frontend = frontend(&backends);
            for protocol in [TCP, UDP] {
                let key = FrontendKey { protocol, ..frontend.key };
                tables.set_frontend(Frontend { key, ..frontend.clone() }).unwrap();
            }
        }),
        Event::Policy(pod, into, out) => bench.change(|tables| {
            let prefix = format!("{}/32", PODS[pod]).parse().unwrap();
            tables.set_identity(NET, prefix, IdentityId(into.unwrap_or(1))).unwrap();
            (1..4).for_each(|n| tables.set_membership(IdentityId(n), vec![GroupId(n)]).unwrap());
            let name = ["endpoint-1", "endpoint-2", "endpoint-5"][pod];
            let of = |group: Option<u32>| group.and_then(|group| allow(group, 3));
            tables.set_policy(name, Policy { ingress: of(into), egress: of(out) }).unwrap();
        }),
        Event::Masquerade(last) => bench.change(|tables| {
            tables.set_masquerade(NET, last.map(|last| masquerade((1000, last)))).unwrap();
        }),
        Event::Route(there) => bench.change(|tables| {
            let prefix = "198.51.100.7/32".parse().unwrap();
            if there {
                tables.set_route(NET, prefix, tables::RouteTarget::Blackhole).unwrap();
            } else {
                let _ = tables.remove_route(NET, prefix);
            }
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_trace_says_what_then_happens(events in proptest::collection::vec(event(), 1..60)) {
        let mut bench = Bench::new();
        for event in &events {
            happen(&mut bench, event);
        }
    }
}
