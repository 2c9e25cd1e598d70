//! What policies forbid and what they let pass, on the path: each rule of Kubernetes' that is decided here by name.

use std::sync::Arc;

use pipeline::{DropReason, Fate, Verdict};
use tables::{Classifier, GroupId, IdentityId, Masquerade, Peer, Policy, PortId, Rule, RuleVerdict, Tables};

use crate::body::{HOST, POD_A, POD_B, TUNNEL, UPLINK, mac};
use crate::flows::{ACK, FIN, NET, SERVING, SYN, SYN_ACK, becomes, frame, frontend, with_frontend};
use crate::frames::*;
use crate::links::{solicitation, who_has};
use crate::tunnels::{datagram, open};

const A: [&str; 2] = ["10.244.1.2", "fd00:1::2"];
const B: [&str; 2] = ["10.244.1.3", "fd00:1::3"];
const NODE: [&str; 2] = ["10.0.0.10", "fd00:a::10"];
const SCTP: u8 = 132;

fn rule(peer: Peer, protocol: Option<u8>, ports: Option<(u16, u16)>) -> Option<Arc<Classifier>> {
    let (name, verdict) = ("shop/web ingress[1]".into(), RuleVerdict::Allow);
    Some(Arc::new(Classifier::new(vec![Rule {
        id: 7,
        name,
        says: "".into(),
        peer,
        protocol,
        ports,
        verdict,
    }])))
}

/// TCP of this group alone.
pub(crate) fn only_from(group: u32, ports: Option<(u16, u16)>) -> Option<Arc<Classifier>> {
    rule(Peer::Groups([GroupId(group)].into()), Some(TCP), ports)
}

/// What a pod is under that is selected, and to which nothing is allowed.
fn nothing() -> Option<Arc<Classifier>> {
    Some(Arc::new(Classifier::new(Vec::new())))
}

fn isolated() -> Policy {
    Policy { ingress: nothing(), egress: nothing() }
}

fn restrict(tables: &mut Tables, port: PortId, policy: Policy) {
    tables.set_policy(&format!("endpoint-{port}"), policy).unwrap();
}

/// The pod with this address has the identity of this number.
fn is(tables: &mut Tables, addr: &str, identity: u32) {
    let prefix = wire::IpPrefix::host(ip(addr));
    tables.set_identity(NET, prefix, IdentityId(identity)).unwrap();
}

fn joins(tables: &mut Tables, identity: u32, groups: &[u32]) {
    let groups = groups.iter().copied().map(GroupId).collect();
    tables.set_membership(IdentityId(identity), groups).unwrap();
}

fn socket(addr: &str, port: u16) -> String {
    std::net::SocketAddr::new(ip(addr), port).to_string()
}

/// What pod B's policy does not let in, or out, whichever port it came by.
const INTO_B: Verdict = Verdict::Denied { reason: DropReason::PolicyIngress, port: POD_B };
const INTO_A: Verdict = Verdict::Denied { reason: DropReason::PolicyIngress, port: POD_A };
const FROM_B: Verdict = Verdict::Denied { reason: DropReason::PolicyEgress, port: POD_B };

#[test]
fn a_policy_lets_in_what_it_names_and_answers_pass() {
    let mut bench = Bench::new();
    bench.change(|tables| {
        let policy = Policy { ingress: only_from(50, Some((80, 90))), egress: only_from(99, Some((1, 1))) };
        restrict(tables, POD_B, policy);
        joins(tables, 5, &[50]);
    });
    let syn = |port| frame(POD_A, "10.244.1.2:40000", &format!("10.244.1.3:{port}"), TCP, SYN);
    assert_eq!(bench.send(POD_A, &syn(80)).0, INTO_B);
    bench.change(|tables| is(tables, "10.244.1.2", 5));
    assert_eq!(bench.send(POD_A, &syn(91)).0, INTO_B);
    let (a, b) = ("10.244.1.2:40000", "10.244.1.3:80");
    becomes(&mut bench, POD_A, &syn(80), POD_B, a, b);
    // B may open nothing but answers.
    becomes(&mut bench, POD_B, &frame(POD_B, b, a, TCP, SYN_ACK), POD_A, b, a);
    assert_eq!(bench.send(POD_B, &frame(POD_B, "10.244.1.3:555", a, TCP, SYN)).0, FROM_B);
}

#[test]
fn policy_sees_the_backend_and_not_the_service() {
    let mut bench = Bench::new();
    with_frontend(&mut bench, "10.96.0.10:80", TCP, &[("10.244.1.3:8080", SERVING)]);
    bench.change(|tables| {
        is(tables, "10.244.1.3", 9);
        joins(tables, 9, &[90]);
        restrict(tables, POD_A, Policy { ingress: None, egress: only_from(90, Some((8080, 8080))) });
    });
    let syn = frame(POD_A, "10.244.1.2:40000", "10.96.0.10:80", TCP, SYN);
    becomes(&mut bench, POD_A, &syn, POD_B, "10.244.1.2:40000", "10.244.1.3:8080");
}

#[test]
fn policy_sees_the_client_and_not_the_source_that_it_gets() {
    let mut bench = Bench::new();
    with_frontend(&mut bench, "10.96.0.10:80", TCP, &[("198.51.100.9:8080", SERVING)]);
    bench.change(|tables| {
        let source4 = Some(v4("192.0.2.1"));
        tables.set_masquerade(NET, Some(Masquerade { source4, ..Masquerade::default() })).unwrap();
        tables.set_block(NET, "198.51.100.0/24".parse().unwrap(), IdentityId(4)).unwrap();
        tables.set_block(NET, "192.0.2.1/32".parse().unwrap(), IdentityId(5)).unwrap();
        joins(tables, 4, &[40]);
        restrict(tables, POD_A, Policy { ingress: only_from(40, None), egress: only_from(40, None) });
    });
    // Out by the router's address, to a Service as well: what its rules name is the other end.
    for to in ["198.51.100.9:443", "10.96.0.10:80"] {
        let (verdict, _) = bench.send(POD_A, &frame(POD_A, "10.244.1.2:40000", to, TCP, SYN));
        assert!(matches!(verdict, Verdict::Forward(out) if out.port() == UPLINK), "{to}: {verdict:?}");
    }
    // And in: a client by the uplink is itself, to a Service whose backend is here too.
    with_frontend(&mut bench, "10.96.0.11:80", TCP, &[("10.244.1.2:8080", SERVING)]);
    let syn = |from: &str| frame(UPLINK, from, "10.96.0.11:80", TCP, SYN);
    becomes(&mut bench, UPLINK, &syn("198.51.100.7:999"), POD_A, "198.51.100.7:999", "10.244.1.2:8080");
    let denied = Verdict::Denied { reason: DropReason::PolicyIngress, port: POD_A };
    assert_eq!(bench.send(UPLINK, &syn("203.0.113.7:999")).0, denied);
}

#[test]
fn a_range_holds_pods_too_and_what_one_rule_excepts_another_may_allow() {
    let mut bench = Bench::new();
    let syn = |port| frame(POD_A, "10.244.1.2:40000", &format!("10.244.1.3:{port}"), TCP, SYN);
    bench.change(|tables| {
        // 10.244.0.0/16 but 10.244.1.0/30: the range is in group 1, the exception in none; 10.244.1.2/31 is in group 2.
        for (prefix, identity) in [("10.244.0.0/16", 1), ("10.244.1.0/30", 2), ("10.244.1.2/31", 3)] {
            tables.set_block(NET, prefix.parse().unwrap(), IdentityId(identity)).unwrap();
        }
        joins(tables, 1, &[1]);
        joins(tables, 3, &[2]);
        is(tables, "10.244.1.2", 9);
        restrict(tables, POD_B, Policy { ingress: only_from(1, None), egress: None });
    });
    assert_eq!(bench.send(POD_A, &syn(80)).0, INTO_B);
    let other = frame(PortId(5), "10.244.1.5:40000", "10.244.1.3:80", TCP, SYN);
    becomes(&mut bench, PortId(5), &other, POD_B, "10.244.1.5:40000", "10.244.1.3:80");
    bench.change(|tables| {
        let both = Peer::Groups([1, 2].map(GroupId).into());
        restrict(tables, POD_B, Policy { ingress: rule(both, None, None), egress: None });
    });
    becomes(&mut bench, POD_A, &syn(80), POD_B, "10.244.1.2:40000", "10.244.1.3:80");
}

#[test]
fn the_node_reaches_its_pods_by_its_own_port_and_nobody_else_in_its_name() {
    for (node, pod) in NODE.into_iter().zip(B) {
        let mut bench = Bench::new();
        bench.change(|tables| restrict(tables, POD_B, isolated()));
        let (own, to) = (socket(node, 1234), socket(pod, 9999));
        let said = |port| frame(port, &own, &to, TCP, SYN);
        // A neighbour's word, another pod's, and what another node sends in its tunnel.
        assert_eq!(bench.send(UPLINK, &said(UPLINK)).0, INTO_B);
        assert_eq!(bench.send(POD_A, &said(POD_A)).0, Verdict::Drop(DropReason::SourceAddressSpoofed));
        let inner = said(TUNNEL);
        let outer = datagram("192.0.2.20", 0x1234, &inner);
        assert_eq!(open(&bench.tables, &outer), Some(Err(DropReason::TunnelSourceSpoofed)));
        assert_eq!(bench.send(TUNNEL, &inner).0, INTO_B);
        // What the node forwards for others is theirs.
        let far = if ip(node).is_ipv4() { "198.51.100.7" } else { "2001:db8:100::7" };
        let theirs = frame(HOST, &socket(far, 1234), &to, TCP, SYN);
        assert_eq!(bench.send(HOST, &theirs).0, INTO_B);

        // Its probes pass, and so do the answers.
        becomes(&mut bench, HOST, &said(HOST), POD_B, &own, &to);
        becomes(&mut bench, POD_B, &frame(POD_B, &to, &own, TCP, SYN_ACK), HOST, &to, &own);
        // Nor does a neighbour get into that connection, or end it.
        let data = |port| frame(port, &own, &to, TCP, ACK);
        becomes(&mut bench, HOST, &data(HOST), POD_B, &own, &to);
        assert_eq!(bench.send(UPLINK, &data(UPLINK)).0, INTO_B);
        bench.change(|tables| is(tables, pod, 3));
        becomes(&mut bench, POD_B, &frame(POD_B, &to, &own, TCP, ACK), HOST, &to, &own);
        becomes(&mut bench, HOST, &data(HOST), POD_B, &own, &to);
        // Though nobody remembers it: what the pod says to the node may be the answer.
        let mut bench = Bench::new();
        bench.change(|tables| restrict(tables, POD_B, isolated()));
        becomes(&mut bench, POD_B, &frame(POD_B, &to, &own, TCP, ACK), HOST, &to, &own);
        becomes(&mut bench, HOST, &data(HOST), POD_B, &own, &to);
        let own_idea = frame(POD_B, &socket(pod, 555), &own, TCP, SYN);
        assert_eq!(bench.send(POD_B, &own_idea).0, FROM_B);
    }
}

/// That the port of `quoted`'s destination is closed, from there to where it came from.
fn closed(port: PortId, src: &str, dst: &str, quoted: &[u8]) -> Vec<u8> {
    let quote = [&[0; 4][..], &quoted[14..]].concat();
    if ip(src).is_ipv4() {
        from(port, src, dst, ICMP, &icmp4(3, 3, &quote))
    } else {
        from(port, src, dst, ICMPV6, &icmp6(src, dst, 1, 4, &quote))
    }
}

#[test]
fn errors_about_known_connections_pass_and_others_are_judged() {
    for (a, b) in A.into_iter().zip(B) {
        let mut bench = Bench::new();
        bench.change(|tables| {
            restrict(tables, POD_A, Policy { ingress: nothing(), egress: None });
            restrict(tables, POD_B, Policy { ingress: None, egress: nothing() });
        });
        let asked = frame(POD_A, &socket(a, 40_000), &socket(b, 53), UDP, 0);
        let error = |quoted: &[u8]| closed(POD_B, b, a, quoted);
        assert_eq!(bench.send(POD_B, &error(&asked)).0, FROM_B);
        becomes(&mut bench, POD_A, &asked, POD_B, &socket(a, 40_000), &socket(b, 53));
        assert_eq!(bench.send(POD_B, &error(&asked)).0, Verdict::Forward(by(POD_A)));
        let never = frame(POD_A, &socket(a, 40_001), &socket(b, 53), UDP, 0);
        assert_eq!(bench.send(POD_B, &error(&never)).0, FROM_B);
    }
}

/// Neither messages that are about nothing, nor such as quote a flow of the sender's own, are a way around.
#[test]
fn messages_of_no_flow_are_judged_by_themselves() {
    for (n, (a, b)) in A.into_iter().zip(B).enumerate() {
        let (redirect, short): ([u8; 2], [u8; 2]) =
            if n == 0 { ([5, 1], [3, 3]) } else { ([100, 0], [1, 4]) };
        let message = |src: &str, dst: &str, [kind, code]: [u8; 2]| match n {
            0 => from(POD_B, src, dst, ICMP, &icmp4(kind, code, b"anything")),
            _ => from(POD_B, src, dst, ICMPV6, &icmp6(src, dst, kind, code, b"anything")),
        };
        let mut bench = Bench::new();
        for kind in [redirect, short] {
            assert_eq!(bench.send(POD_B, &message(b, a, kind)).0, Verdict::Forward(by(POD_A)), "{kind:?}");
        }
        bench.change(|tables| restrict(tables, POD_A, Policy { ingress: nothing(), egress: None }));
        for kind in [redirect, short] {
            assert_eq!(bench.send(POD_B, &message(b, a, kind)).0, INTO_A, "{kind:?}");
        }
        // Of a flow with somebody else, and to a pod that has no part in it.
        let other = ["198.51.100.9", "2001:db8::9"][n];
        let asked = frame(UPLINK, &socket(other, 40_000), &socket(b, 53), UDP, 0);
        assert_eq!(bench.send(UPLINK, &asked).0, Verdict::Forward(by(POD_B)));
        assert_eq!(bench.send(POD_B, &closed(POD_B, b, a, &asked)).0, INTO_A);
    }
}

#[test]
fn an_isolated_pod_finds_its_gateway() {
    let mut bench = Bench::new();
    bench.change(|tables| restrict(tables, POD_A, isolated()));
    let answered = |verdict| matches!(verdict, Verdict::Answer { fate: Fate::Consumed(_), output } if output == by(POD_A));
    assert!(answered(bench.send(POD_A, &who_has(mac(POD_A), A[0], "169.254.1.1")).0));
    for src in [A[1], "fe80::77", "::"] {
        assert!(answered(bench.send(POD_A, &solicitation(POD_A, mac(POD_A), src, "fe80::1")).0), "{src}");
    }
    for (own, gateway) in A.into_iter().zip(["169.254.1.1", "fe80::1"]) {
        assert!(answered(bench.send(POD_A, &ping(POD_A, own, gateway, b"x")).0));
    }
}

#[test]
fn an_isolated_pod_reaches_itself_by_a_service() {
    let mut bench = Bench::new();
    bench.change(|tables| restrict(tables, POD_A, isolated()));
    for (a, vip, gateway) in
        [("10.244.1.2", "10.96.0.10:80", "169.254.1.1"), ("fd00:1::2", "[fd00:96::10]:80", "fe80::1")]
    {
        let (own, server, router) = (socket(a, 40_000), socket(a, 8080), socket(gateway, 40_000));
        for protocol in [TCP, UDP] {
            bench.change(|tables| {
                tables.set_frontend(frontend(vip, protocol, &[(&server, SERVING)])).unwrap()
            });
            let ask = frame(POD_A, &own, vip, protocol, SYN);
            becomes(&mut bench, POD_A, &ask, POD_A, &router, &server);
            let answer = frame(POD_A, &server, &router, protocol, SYN_ACK);
            becomes(&mut bench, POD_A, &answer, POD_A, vip, &own);
            // Decided anew, too.
            bench.change(|tables| is(tables, a, u32::from(protocol)));
            becomes(&mut bench, POD_A, &frame(POD_A, &own, vip, protocol, ACK), POD_A, &router, &server);
        }
    }
}

/// The first packet of a connection by this protocol, to port 80 where it has such.
fn first(protocol: u8, n: usize) -> Vec<u8> {
    let (a, b) = (A[n], B[n]);
    match protocol {
        TCP | UDP => frame(POD_A, &socket(a, 40_000), &socket(b, 80), protocol, SYN),
        // INIT (RFC 9260, section 3.3.2).
        SCTP => {
            let chunk = [[1, 0, 0, 20, 0, 0, 0, 1], [0, 1, 0, 0, 0, 1, 0, 1]].concat();
            let init = [&[0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0][..], &chunk, &[0, 0, 0, 1]].concat();
            from(POD_A, a, b, protocol, &init)
        }
        ICMP | ICMPV6 => ping(POD_A, a, b, b"x"),
        // GRE.
        _ => from(POD_A, a, b, protocol, &[0; 8]),
    }
}

#[test]
fn a_rule_without_ports_covers_every_protocol_and_one_of_a_protocol_no_other() {
    for (n, icmp) in [ICMP, ICMPV6].into_iter().enumerate() {
        let protocols = [TCP, UDP, SCTP, icmp, 47];
        let passes = |only: Option<u8>, ports: Option<(u16, u16)>| {
            protocols.map(|protocol| {
                let mut bench = Bench::new();
                bench.change(|tables| {
                    restrict(tables, POD_B, Policy { ingress: rule(Peer::Any, only, ports), egress: None });
                });
                match bench.send(POD_A, &first(protocol, n)).0 {
                    Verdict::Forward(_) => true,
                    other => {
                        assert_eq!(other, INTO_B);
                        false
                    }
                }
            })
        };
        assert_eq!(passes(None, None), [true; 5]);
        for (at, only) in protocols.into_iter().enumerate() {
            let mut expected = [false; 5];
            expected[at] = true;
            assert_eq!(passes(Some(only), None), expected, "{only}");
            // With ports it is those that have some.
            expected[at] = at < 3;
            assert_eq!(passes(Some(only), Some((80, 90))), expected, "{only}");
            assert_eq!(passes(Some(only), Some((81, 90))), [false; 5], "{only}");
        }
    }
}

#[test]
fn what_is_forbidden_later_ends_with_its_next_packet_in_both_directions() {
    const FROM_A: Verdict = Verdict::Denied { reason: DropReason::PolicyEgress, port: POD_A };
    type Change = fn(&mut Tables);
    let changes: [(&str, Change, Verdict); 5] = [
        ("a label of the client's", |t| is(t, A[0], 6), INTO_B),
        ("a namespace's label", |t| joins(t, 5, &[51]), INTO_B),
        (
            "the policy",
            |t| restrict(t, POD_B, Policy { ingress: only_from(50, Some((81, 81))), egress: nothing() }),
            INTO_B,
        ),
        ("a first policy", |t| restrict(t, POD_A, Policy { ingress: None, egress: nothing() }), FROM_A),
        (
            "a range that has less in it",
            |t| t.remove_block(NET, "10.244.0.0/16".parse().unwrap()).unwrap(),
            FROM_A,
        ),
    ];
    for (what, change, denied) in changes {
        for (protocol, answer_first) in [(TCP, false), (TCP, true), (UDP, false), (UDP, true)] {
            let mut bench = Bench::new();
            bench.change(|tables| {
                is(tables, A[0], 5);
                joins(tables, 5, &[50]);
                tables.set_block(NET, "10.244.0.0/16".parse().unwrap(), IdentityId(8)).unwrap();
                joins(tables, 8, &[80]);
                let from = Peer::Groups([GroupId(50)].into());
                restrict(tables, POD_B, Policy { ingress: rule(from, None, None), egress: nothing() });
                let to = Peer::Groups([GroupId(80)].into());
                restrict(tables, POD_A, Policy { ingress: None, egress: rule(to, None, None) });
            });
            let (a, b) = ("10.244.1.2:40000", "10.244.1.3:80");
            becomes(&mut bench, POD_A, &frame(POD_A, a, b, protocol, SYN), POD_B, a, b);
            becomes(&mut bench, POD_B, &frame(POD_B, b, a, protocol, SYN_ACK), POD_A, b, a);
            becomes(&mut bench, POD_A, &frame(POD_A, a, b, protocol, ACK), POD_B, a, b);
            let before = bench.router.flow_counts();
            bench.change(change);
            let ways = [(POD_A, a, b), (POD_B, b, a)];
            let order = if answer_first { [1, 0] } else { [0, 1] };
            let said = order.map(|way| {
                let (port, src, dst) = ways[way];
                bench.send(port, &frame(port, src, dst, protocol, ACK)).0
            });
            // The other way's datagram finds no flow any more: B's is its own idea, then. A connection is known, and judged as what it is.
            let other = if answer_first || protocol == TCP { denied } else { FROM_B };
            assert_eq!(said, [denied, other], "{what}");
            assert_eq!(bench.router.flow_counts().replayed, before.replayed, "{what}");
        }
    }
}

/// Though its ends might open one in the other direction, and nobody would know which it is had its record gone.
#[test]
fn a_connection_that_a_policy_ends_does_not_go_on_in_the_other_direction() {
    let mut bench = Bench::new();
    let (a, b) = ("10.244.1.2:40000", "10.244.1.3:80");
    becomes(&mut bench, POD_A, &frame(POD_A, a, b, TCP, SYN), POD_B, a, b);
    becomes(&mut bench, POD_B, &frame(POD_B, b, a, TCP, SYN_ACK), POD_A, b, a);
    let (asks, answers) = (frame(POD_A, a, b, TCP, ACK), frame(POD_B, b, a, TCP, ACK));
    becomes(&mut bench, POD_A, &asks, POD_B, a, b);
    bench.change(|tables| restrict(tables, POD_B, Policy { ingress: only_from(5, None), egress: None }));
    for _ in 0..3 {
        assert_eq!(bench.send(POD_A, &asks).0, INTO_B);
        assert_eq!(bench.send(POD_B, &answers).0, INTO_B);
    }
    // What would open it is no way around that.
    assert_eq!(bench.send(POD_A, &frame(POD_A, a, b, TCP, SYN)).0, INTO_B);
    assert_eq!(bench.send(POD_A, &asks).0, INTO_B);
    assert_eq!(bench.send(POD_B, &answers).0, INTO_B);
    // The other direction is another connection.
    let opens = frame(POD_B, "10.244.1.3:40000", "10.244.1.2:80", TCP, SYN);
    becomes(&mut bench, POD_B, &opens, POD_A, "10.244.1.3:40000", "10.244.1.2:80");
}

#[test]
fn a_connection_that_nobody_remembers_goes_on_if_either_end_might_have_opened_it() {
    let mut bench = Bench::new();
    bench.change(|tables| {
        is(tables, A[0], 5);
        joins(tables, 5, &[50]);
        restrict(tables, POD_B, Policy { ingress: only_from(50, Some((80, 80))), egress: nothing() });
    });
    let (a, b) = ("10.244.1.2:40000", "10.244.1.3:80");
    // B's answer, as the first that is seen of it; and A's packets then.
    becomes(&mut bench, POD_B, &frame(POD_B, b, a, TCP, ACK), POD_A, b, a);
    becomes(&mut bench, POD_A, &frame(POD_A, a, b, TCP, ACK), POD_B, a, b);
    // Neither might have opened this; nor is what opens one an answer, or a datagram.
    let (c, d) = ("10.244.1.2:40001", "10.244.1.3:81");
    for flags in [ACK, FIN, SYN_ACK] {
        assert_eq!(bench.send(POD_B, &frame(POD_B, d, c, TCP, flags)).0, FROM_B);
    }
    let e = "10.244.1.2:40002";
    assert_eq!(bench.send(POD_B, &frame(POD_B, b, e, TCP, SYN)).0, FROM_B);
    assert_eq!(bench.send(POD_B, &frame(POD_B, b, e, UDP, 0)).0, FROM_B);
    // It ends as any other once neither may; what is said of it is said of the way that was seen first.
    bench.change(|tables| joins(tables, 5, &[]));
    assert_eq!(bench.send(POD_A, &frame(POD_A, a, b, TCP, ACK)).0, FROM_B);
    assert_eq!(bench.send(POD_A, &frame(POD_A, a, b, TCP, ACK)).0, FROM_B);
}
