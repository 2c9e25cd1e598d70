//! Services from wherever they are asked: by which backend a client is served, and with which source, so that the answers come back.

use pipeline::{DropReason, Verdict};
use tables::{BackendState, Frontend, Masquerade, PortId, RouteTarget};

use crate::body::{HOST, NARROW, POD_A, POD_B, UPLINK};
use crate::flows::{NET, SERVING, SYN, SYN_ACK, becomes, frame, frontend, with_frontend};
use crate::frames::*;

/// One family: a client by the uplink, one by the node's kernel, the node, pod A, pod B; the router; pods elsewhere by the uplink and by the
/// kernel, and a server beyond the cluster; the uplink's own address, and a Service's.
struct World {
    far: &'static str,
    by_kernel: &'static str,
    node: &'static str,
    a: &'static str,
    b: &'static str,
    router: &'static str,
    elsewhere: &'static str,
    elsewhere_by_kernel: &'static str,
    outside: &'static str,
    uplink: &'static str,
    service: &'static str,
}

const V4: World = World {
    far: "198.51.100.7:40000",
    by_kernel: "100.64.3.7:40000",
    node: "10.0.0.10:40000",
    a: "10.244.1.2:40000",
    b: "10.244.1.3:8080",
    router: "10.244.1.1:40000",
    elsewhere: "10.244.9.9:8080",
    elsewhere_by_kernel: "100.64.0.9:8080",
    outside: "198.51.100.99:8080",
    uplink: "192.0.2.1:40000",
    service: "192.0.2.1:30080",
};

const V6: World = World {
    far: "[2001:db8:100::7]:40000",
    by_kernel: "[2001:db8:64::7]:40000",
    node: "[fd00:a::10]:40000",
    a: "[fd00:1::2]:40000",
    b: "[fd00:1::3]:8080",
    router: "[fd00:1::1]:40000",
    elsewhere: "[fd00:9::9]:8080",
    elsewhere_by_kernel: "[2001:db8:64::9]:8080",
    outside: "[2001:db8:100::99]:8080",
    uplink: "[2001:db8:2::1]:40000",
    service: "[2001:db8:2::1]:30080",
};

/// Who asks, by which port, and as whom the backend sees him.
type Client<'a> = (&'a str, PortId, &'a str);

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.change(|tables| {
        let masquerade = Masquerade {
            source4: Some("192.0.2.1".parse().unwrap()),
            source6: Some("2001:db8:2::1".parse().unwrap()),
            service4: Some("10.244.1.1".parse().unwrap()),
            service6: Some("fd00:1::1".parse().unwrap()),
            ..Masquerade::default()
        };
        tables.set_masquerade(NET, Some(masquerade)).unwrap();
        let inside =
            |addr: &str| RouteTarget::NextHop { port: UPLINK, addr: addr.parse().unwrap(), inside: true };
        let host = RouteTarget::Endpoint(tables.endpoint_by_name("endpoint-3").unwrap().id);
        for (prefix, target) in [
            ("10.244.9.0/24", inside("192.0.2.9")),
            ("fd00:9::/64", inside("2001:db8:2::9")),
            ("2001:db8:64::/48", host),
        ] {
            tables.set_route(NET, prefix.parse().unwrap(), target).unwrap();
        }
    });
    bench
}

/// Whoever asks, at whatever backend: it is seen as itself where its answers come by the router anyway, and they do.
#[test]
fn a_backend_that_would_answer_by_another_way_is_asked_by_the_router() {
    for world in [V4, V6] {
        let World {
            far,
            by_kernel,
            node,
            a,
            b,
            router,
            elsewhere,
            elsewhere_by_kernel,
            outside,
            uplink,
            service,
        } = world;
        let at_node = node.replace(":40000", ":8080");
        let cases: [(&str, PortId, [Client<'_>; 4]); 6] = [
            // A pod here answers by us.
            (b, POD_B, [(far, UPLINK, far), (by_kernel, HOST, by_kernel), (node, HOST, node), (a, POD_A, a)]),
            // Who asks for itself by another node, too.
            (
                elsewhere,
                UPLINK,
                [(elsewhere, UPLINK, router), (by_kernel, HOST, router), (node, HOST, router), (a, POD_A, a)],
            ),
            (
                elsewhere,
                UPLINK,
                [(far, UPLINK, router), (by_kernel, HOST, router), (node, HOST, router), (a, POD_A, a)],
            ),
            (
                elsewhere_by_kernel,
                HOST,
                [(far, UPLINK, router), (by_kernel, HOST, router), (node, HOST, router), (a, POD_A, a)],
            ),
            (
                &at_node,
                HOST,
                [(far, UPLINK, router), (by_kernel, HOST, router), (b, POD_B, b), (a, POD_A, a)],
            ),
            // Beyond the cluster nobody knows a pod, nor the router.
            (
                outside,
                UPLINK,
                [(far, UPLINK, uplink), (by_kernel, HOST, uplink), (node, HOST, uplink), (a, POD_A, uplink)],
            ),
        ];
        for (backend, way, clients) in cases {
            for protocol in [TCP, UDP] {
                let mut bench = bench();
                with_frontend(&mut bench, service, protocol, &[(backend, SERVING)]);
                for (client, ingress, seen) in clients {
                    let ask = frame(ingress, client, service, protocol, SYN);
                    let (_, after) = bench.send(ingress, &ask);
                    let source = format!("{}", read(&after).src);
                    assert!(seen.contains(&source), "{client} at {backend}: seen as {source}, not {seen}");
                    // Of two with one source, each has a port of its own.
                    let port = u16::from_be_bytes([read(&after).payload[0], read(&after).payload[1]]);
                    let seen = std::net::SocketAddr::new(source.parse().unwrap(), port).to_string();
                    becomes(&mut bench, ingress, &ask, way, &seen, backend);
                    let answer = frame(way, backend, &seen, protocol, SYN_ACK);
                    becomes(&mut bench, way, &answer, ingress, service, client);
                }
            }
        }
    }
}

/// Not by the gateway's link-local address where there is a better one: a pod may answer that from a link-local address of its own.
#[test]
fn who_asks_for_itself_sees_the_router() {
    for World { a, router, service, .. } in [V4, V6] {
        let mut bench = bench();
        let own = a.replace(":40000", ":8080");
        with_frontend(&mut bench, service, UDP, &[(&own, SERVING)]);
        becomes(&mut bench, POD_A, &frame(POD_A, a, service, UDP, 0), POD_A, router, &own);
        becomes(&mut bench, POD_A, &frame(POD_A, &own, router, UDP, 0), POD_A, service, a);
    }
}

#[test]
fn without_a_source_to_come_back_to_a_backend_elsewhere_is_not_asked() {
    let mut bench = bench();
    bench.change(|tables| tables.set_masquerade(NET, None).unwrap());
    with_frontend(&mut bench, V4.service, TCP, &[(V4.elsewhere, SERVING)]);
    let ask = frame(UPLINK, V4.far, V4.service, TCP, SYN);
    assert_eq!(bench.send(UPLINK, &ask).0, Verdict::Drop(DropReason::ServiceSourceUnknown));
    let own = frame(POD_A, V4.a, V4.service, TCP, SYN);
    becomes(&mut bench, POD_A, &own, UPLINK, V4.a, V4.elsewhere);
}

#[test]
fn this_nodes_own_are_served_by_other_backends_than_the_world() {
    for World { far, by_kernel, node, a, b, service, .. } in [V4, V6] {
        let mut bench = bench();
        let narrow = if b.contains('[') { "[fd00:1::5]:8080" } else { "10.244.1.5:8080" };
        let backends = [(b, BackendState::ServingOthers), (narrow, BackendState::ServingOwn)];
        with_frontend(&mut bench, service, TCP, &backends);
        for (client, ingress, backend, way) in [
            (a, POD_A, narrow, NARROW),
            (node, HOST, narrow, NARROW),
            (far, UPLINK, b, POD_B),
            (by_kernel, HOST, b, POD_B),
        ] {
            becomes(&mut bench, ingress, &frame(ingress, client, service, TCP, SYN), way, client, backend);
        }
        // With none for the world, it hears nothing; our own go on.
        let own = Frontend { drops: true, ..frontend(service, TCP, &backends[1..]) };
        bench.change(|tables| tables.set_frontend(own).unwrap());
        let other = far.replace("40000", "40001");
        let ask = frame(UPLINK, &other, service, TCP, SYN);
        assert_eq!(bench.send(UPLINK, &ask).0, Verdict::Drop(DropReason::NoLocalBackend));
        let own = a.replace("40000", "40001");
        becomes(&mut bench, POD_A, &frame(POD_A, &own, service, TCP, SYN), NARROW, &own, narrow);
    }
}

#[test]
fn only_who_is_in_the_source_ranges_may_ask() {
    let mut bench = bench();
    let sources = vec!["198.51.100.0/29".parse().unwrap(), "10.244.1.2/32".parse().unwrap()];
    let guarded = Frontend { sources, ..frontend(V4.service, TCP, &[(V4.b, SERVING)]) };
    bench.change(|tables| tables.set_frontend(guarded).unwrap());
    for (client, ingress) in [(V4.far, UPLINK), (V4.a, POD_A)] {
        becomes(&mut bench, ingress, &frame(ingress, client, V4.service, TCP, SYN), POD_B, client, V4.b);
    }
    for (client, ingress) in [("198.51.100.8:40000", UPLINK), (V4.node, HOST), ("10.244.1.5:40000", NARROW)] {
        let verdict = bench.send(ingress, &frame(ingress, client, V4.service, TCP, SYN)).0;
        assert_eq!(verdict, Verdict::Drop(DropReason::ServiceSourceDenied), "{client}");
    }
}

/// By the client's address alone; and where others come that weigh more for it, as its last one for as long as is said.
#[test]
fn a_client_stays_with_its_backend_for_its_time_after_its_last_flow() {
    for World { a, far, service, .. } in [V4, V6] {
        for protocol in [TCP, UDP] {
            let mut bench = bench();
            let backend = |n: usize| ["10.244.1.3:8080", "10.244.1.5:8080", "10.244.9.9:8080"][n];
            let v6 = ["[fd00:1::3]:8080", "[fd00:1::5]:8080", "[fd00:9::9]:8080"];
            let backend = |n: usize| if a.contains('[') { v6[n] } else { backend(n) };
            let sticky = |backends: &[(usize, BackendState)]| {
                let backends: Vec<_> = backends.iter().map(|&(n, state)| (backend(n), state)).collect();
                Frontend { affinity: 60, ..frontend(service, protocol, &backends) }
            };
            let set = |bench: &mut Bench, backends: &[(usize, BackendState)]| {
                let row = sticky(backends);
                bench.change(|tables| tables.set_frontend(row).unwrap());
            };
            // Each ask is a connection of its own.
            let mut port = 40_000;
            let mut ask = |bench: &mut Bench, client: &str, ingress: PortId| {
                port += 1;
                let client = client.replace(":40000", &format!(":{port}"));
                let (verdict, after) = bench.send(ingress, &frame(ingress, &client, service, protocol, SYN));
                assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?}");
                let to = read(&after).dst.to_string();
                (0..3).find(|n| backend(*n).contains(&to)).unwrap()
            };
            let all = [0, 1, 2].map(|n| (n, SERVING));
            set(&mut bench, &all);
            let best = ask(&mut bench, a, POD_A);
            let rest: Vec<_> = all.into_iter().filter(|(n, _)| *n != best).collect();
            // Without its best it goes to another one, and stays there when that comes back, while it goes on asking.
            set(&mut bench, &rest);
            let second = ask(&mut bench, a, POD_A);
            assert_ne!(second, best);
            set(&mut bench, &all);
            for _ in 0..4 {
                assert_eq!(ask(&mut bench, a, POD_A), second);
                bench.now = bench.now.after_ms(50_000);
            }
            // After its time it is as new.
            bench.now = bench.now.after_ms(30_000);
            assert_eq!(ask(&mut bench, a, POD_A), best);
            // One that takes no new flows is left, for good.
            let drains = all.map(|(n, _)| (n, if n == best { BackendState::Draining } else { SERVING }));
            set(&mut bench, &drains);
            let third = ask(&mut bench, a, POD_A);
            assert_ne!(third, best);
            set(&mut bench, &all);
            assert_eq!(ask(&mut bench, a, POD_A), third);
            // Others are others; and a hundred connections of one client are one client's.
            let other = ask(&mut bench, far, UPLINK);
            for _ in 0..100 {
                assert_eq!(ask(&mut bench, far, UPLINK), other);
                assert_eq!(ask(&mut bench, a, POD_A), third);
            }
        }
    }
}
