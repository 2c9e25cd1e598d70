//! Connections as they are shown, and what a trace says of packets that have passed.

use std::net::SocketAddr;

use proto::dataplane::{
    Backend, BackendState, FlowFilter, FlowQuery, FlowStatus, Frontend, FrontendKey, Op, Peer, Policy,
    PortKind, PortRange, Protocol, Request, Response, Route, RouteKey, RouteTarget, Rule, RuleVerdict,
    TraceQuestion, TraceVerdict,
};

use crate::dataplane::Dataplane;
use crate::frames::{endpoint, pcap, udp};

const UDP: Protocol = Protocol(17);

/// From pod 1, by which port ever.
fn datagram(dst: [u8; 4], src_port: u16, dst_port: u16) -> Vec<u8> {
    let mut frame = udp(1, 2, 64);
    frame[30..34].copy_from_slice(&dst);
    frame[34..36].copy_from_slice(&src_port.to_be_bytes());
    frame[36..38].copy_from_slice(&dst_port.to_be_bytes());
    frame[24..26].copy_from_slice(&[0, 0]);
    let checksum = wire::checksum::internet_checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn frontend(last: u8, backends: &[u8]) -> Frontend {
    let address = [10, 96, 0, last].into();
    let backend =
        |&pod: &u8| Backend { address: [10, 0, 0, pod].into(), port: 53, state: BackendState::Serving };
    Frontend {
        key: FrontendKey { network: 0, address, port: 53, protocol: UDP },
        name: format!("shop/dns-{last}:udp").into(),
        backends: backends.iter().map(backend).collect(),
        drops: false,
        sources: vec![],
        affinity_seconds: None,
    }
}

fn all_flows(dataplane: &mut Dataplane, filter: &FlowFilter) -> Vec<FlowStatus> {
    let (mut all, mut from, mut pages) = (Vec::new(), 0, 0);
    loop {
        let query = FlowQuery { filter: filter.clone(), from, limit: Some(3) };
        match dataplane.call(&Request::ShowFlows(query)) {
            Response::Flows { flows, next } => {
                assert!(flows.len() <= 3);
                all.extend(flows);
                pages += 1;
                match next {
                    Some(next) => {
                        assert!(next > from && pages < 10_000);
                        from = next;
                    }
                    None => return all,
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn flows_are_shown_and_a_trace_says_what_happened_to_each_packet() {
    let packets: Vec<([u8; 4], u16, u16)> = [
        [10, 0, 0, 2],
        [10, 0, 0, 3],
        [10, 96, 0, 10],
        [10, 96, 0, 11],
        [10, 0, 0, 77],
        [203, 0, 113, 9],
        [8, 8, 8, 8],
        [10, 0, 0, 1],
        [224, 0, 0, 1],
        [169, 254, 1, 1],
    ]
    .into_iter()
    .flat_map(|dst| [53, 54].into_iter().flat_map(move |to| [1000, 2000].map(|from| (dst, from, to))))
    .collect();
    let mut dataplane = Dataplane::start(&[]);
    let input = dataplane.dir.path().join("in");
    pcap(&input, &packets.iter().map(|&(dst, from, to)| datagram(dst, from, to)).collect::<Vec<_>>());
    dataplane.add("a", PortKind::Memory { rx_pcap: Some(input), tx_pcap: None, repeat: false });
    for name in ["b", "c"] {
        dataplane.add(name, PortKind::Memory { rx_pcap: None, tx_pcap: None, repeat: false });
    }
    let ports = Some(PortRange { first: 53, last: 53 });
    let (name, verdict) = ("shop/dns ingress[1]".into(), RuleVerdict::Allow);
    let rule = Rule { id: 9, name, says: "".into(), peer: Peer::Any, protocol: Some(UDP), ports, verdict };
    let policy = Policy { endpoint: "pod2".into(), ingress: Some(vec![rule]), egress: None };
    let route = |prefix: &str, target| Route {
        key: RouteKey { network: 0, prefix: prefix.parse().unwrap() },
        target,
    };
    dataplane.commit(
        0,
        vec![
            Op::SetFrontends { frontends: vec![frontend(10, &[2, 3]).into(), frontend(11, &[]).into()] },
            Op::SetPolicies { policies: vec![policy] },
            Op::SetRoutes {
                routes: vec![
                    route("10.0.0.0/24", RouteTarget::Unreachable),
                    route("203.0.113.0/24", RouteTarget::Blackhole),
                ],
            },
            Op::SetEndpoints { endpoints: vec![endpoint(2, "b"), endpoint(3, "c"), endpoint(1, "a")] },
        ],
    );
    let count = packets.len() as u64;
    dataplane.until("all frames are played", |d| d.port("a").rx_packets == count);
    dataplane.assert_ledger();

    let (mut out, mut dropped) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
    for &(dst, source_port, destination_port) in &packets {
        let question = TraceQuestion {
            network: 0,
            source: [10, 0, 0, 1].into(),
            destination: dst.into(),
            protocol: UDP,
            source_port,
            destination_port,
            input: None,
            length: 46,
        };
        let Response::Trace(trace) = dataplane.call(&Request::Trace(question)) else { panic!() };
        assert_eq!((trace.generation, trace.steps.last().unwrap().step.as_str()), (1, "verdict"));
        match trace.verdict {
            TraceVerdict::Forward { output, next_hop: None } => *out.entry(output).or_insert(0) += 1,
            TraceVerdict::Drop { reason, .. } => *dropped.entry(reason).or_insert(0) += 1,
            other => panic!("{other:?}"),
        }
    }
    for port in ["b", "c"] {
        assert_eq!(dataplane.port(port).tx_packets, out[port], "{port}");
    }
    for (reason, &packets) in &dropped {
        assert_eq!(dataplane.drops("a", reason), packets, "{reason}");
    }
    assert_eq!(dataplane.port("a").rx_drops, dropped.values().sum::<u64>());
    assert!(dropped.len() >= 6, "{dropped:?}");

    let flows = all_flows(&mut dataplane, &FlowFilter::default());
    assert_eq!(flows.len() as u64, out.values().sum::<u64>());
    for flow in &flows {
        assert_eq!((flow.owner.as_str(), flow.state.as_str()), ("a", "new"));
        // Where the same two talk directly too, the Service's connection gets another source port.
        let own = |source: SocketAddr| flow.service.is_some() && source.ip() == flow.client.ip();
        assert!(flow.masqueraded.is_none_or(own), "{flow:?}");
        let way = flow.forward.as_ref().unwrap();
        let pod: SocketAddr = flow.destination;
        let to = if pod.ip().to_string() == "10.0.0.2" { "b" } else { "c" };
        assert_eq!((way.input.as_str(), way.output.as_str(), way.generation), ("a", to, 1));
        assert_eq!((flow.ingress_rule, flow.egress_rule), ((to == "b").then_some(9), None));
        let name = flow.ingress_rule_name.as_deref();
        assert_eq!((name, &flow.egress_rule_name), ((to == "b").then_some("shop/dns ingress[1]"), &None));
        assert!(flow.left_seconds <= 32 && flow.reply.is_none());
    }
    let services: Vec<_> = flows.iter().filter_map(|flow| flow.service).collect();
    assert_eq!(services, vec!["10.96.0.10:53".parse::<SocketAddr>().unwrap(); 2]);
    let of = |dataplane: &mut Dataplane, filter| all_flows(dataplane, &filter).len();
    let none = FlowFilter::default;
    let prefix = Some("10.96.0.0/16".parse().unwrap());
    assert_eq!(of(&mut dataplane, FlowFilter { prefix, ..none() }), 2);
    assert_eq!(of(&mut dataplane, FlowFilter { endpoint: Some("pod1".into()), ..none() }), flows.len());
    let third = flows.iter().filter(|flow| flow.destination.ip().to_string() == "10.0.0.3").count();
    assert_eq!(of(&mut dataplane, FlowFilter { endpoint: Some("pod3".into()), ..none() }), third);
    assert_eq!(of(&mut dataplane, FlowFilter { state: Some("replied".into()), ..none() }), 0);
    let query = FlowQuery {
        filter: FlowFilter { endpoint: Some("nobody".into()), ..none() },
        ..FlowQuery::default()
    };
    let answer = dataplane.call(&Request::ShowFlows(query));
    assert!(matches!(answer, Response::Failed { reason } if reason.contains("`nobody`")));

    let Response::Status(status) = dataplane.call(&Request::ShowStatus) else { panic!() };
    assert_eq!((u64::from(status.flows4.used), status.flows6.used), (flows.len() as u64, 0));
    assert!(status.flows4.capacity > 0 && status.flows6.capacity > 0);
    // Told every half second by a worker at rest.
    let made = flows.len() as u64;
    dataplane.until("workers tell of their flows", |d| {
        d.workers().iter().map(|worker| worker.flows.made).sum::<u64>() == made
    });
}
