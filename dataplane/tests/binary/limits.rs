//! Limits of ports: a source that plays a known number of frames at once, and buckets that hardly fill meanwhile, so that what passes is
//! known to the frame.

use proto::dataplane::{Limit, Limits, Op, PortKind, PortSpec, Request, Response};

use crate::dataplane::{Dataplane, ROUTER};
use crate::frames::{endpoint, frames_of, pcap, udp};

/// Frames played.
const FRAMES: usize = 500;

/// So slow that no test lasts until a frame's worth has come back.
fn limit(frames: usize, length: usize) -> Limit {
    Limit { rate: 1, burst: ((frames - 1) * length + 1) as u64 }
}

fn memory(name: &str, kind: PortKind, limits: Limits) -> PortSpec {
    PortSpec { name: name.into(), kind, mac: Some(ROUTER), mtu: 1500, limits }
}

#[test]
fn each_direction_of_a_port_passes_its_burst_and_names_the_rest() {
    for workers in ["0", "0,1"] {
        let mut dataplane = Dataplane::start(&["--workers", workers]);
        let path = |name: &str| dataplane.dir.path().join(name);
        let (source, sink) = (path("source"), path("sink"));
        pcap(&source, &vec![udp(1, 2, 64); FRAMES]);
        let length = udp(1, 2, 64).len();
        let egress = Limits { ingress: None, egress: Some(limit(100, length)) };
        let ingress = Limits { ingress: Some(limit(40, length)), egress: None };
        let plays = PortKind::Memory { rx_pcap: Some(source.clone()), tx_pcap: None, repeat: false };
        let writes = PortKind::Memory { rx_pcap: None, tx_pcap: Some(sink.clone()), repeat: false };
        dataplane.try_add(memory("a", plays, egress), &[]).unwrap();
        dataplane.try_add(memory("b", writes, ingress), &[]).unwrap();
        dataplane.commit(0, vec![Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "b")] }]);
        dataplane.until("all is played", |d| d.port("a").rx_packets == FRAMES as u64);
        dataplane.assert_ledger();
        let (a, b) = (dataplane.port("a"), dataplane.port("b"));
        assert_eq!((a.info.spec.limits, b.info.spec.limits), (egress, ingress));
        // What was refused has been received all the same.
        assert_eq!(a.rx_bytes, (FRAMES * length) as u64);
        assert_eq!(dataplane.dropped("a"), [("egress-rate-exceeded".to_owned(), FRAMES as u64 - 100)]);
        assert_eq!(dataplane.dropped("b"), [("ingress-rate-exceeded".to_owned(), 60)]);
        assert_eq!((b.tx_packets, b.tx_bytes), (40, 40 * length as u64));
        dataplane.commit(1, vec![Op::RemoveEndpoints { names: vec!["pod1".into(), "pod2".into()] }]);
        dataplane.remove("b");
        assert_eq!(frames_of(&sink).len(), 40);
    }
}

/// A packet of 1,400 bytes that may be fragmented.
fn long() -> Vec<u8> {
    let mut frame = udp(1, 2, 64);
    frame.resize(14 + 1_400, b'x');
    frame[16..18].copy_from_slice(&1_400_u16.to_be_bytes());
    frame[38..40].copy_from_slice(&1_380_u16.to_be_bytes());
    frame[20] = 0;
    frame[24..26].fill(0);
    let checksum = wire::checksum::internet_checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// In place, and with the next generation.
#[test]
fn an_mtu_changes_while_the_port_is_there() {
    let mut dataplane = Dataplane::start(&[]);
    let source = dataplane.dir.path().join("source");
    pcap(&source, &vec![long(); 32]);
    dataplane.add("a", PortKind::Memory { rx_pcap: Some(source), tx_pcap: None, repeat: true });
    let none = || PortKind::Memory { rx_pcap: None, tx_pcap: None, repeat: false };
    let spec = |mtu| PortSpec { mtu, ..memory("b", none(), Limits::default()) };
    let id = dataplane.try_add(spec(1_500), &[]).unwrap();
    dataplane.commit(0, vec![Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "b")] }]);
    dataplane.until("frames pass", |d| d.port("b").tx_packets > 1_000);
    let again = Op::SetEndpoints { endpoints: vec![endpoint(2, "b")] };
    for (base, mtu, pieces) in [(1, 1_300, 2), (2, 1_500, 1)] {
        assert_eq!(dataplane.try_add(spec(mtu), &[]), Ok(id));
        assert_eq!(dataplane.port("b").info.spec.mtu, mtu);
        dataplane.commit(base, vec![again.clone()]);
        // What was on its way has left by then; each of these is whole, or in two.
        let (before, now) = (dataplane.port("b"), |d: &mut Dataplane| d.port("b"));
        dataplane.until("frames pass", |d| now(d).tx_packets > before.tx_packets + 10_000);
        let after = dataplane.port("b");
        let (packets, bytes) = (after.tx_packets - before.tx_packets, after.tx_bytes - before.tx_bytes);
        let mean = bytes / packets;
        assert!(mean.abs_diff(1_400 / pieces) < 100, "{mean} bytes each with mtu {mtu}");
    }
    assert!(dataplane.try_add(spec(20_000), &[]).unwrap_err().contains("20000"));
    dataplane.commit(3, vec![Op::RemoveEndpoints { names: vec!["pod1".into(), "pod2".into()] }]);
    dataplane.remove("a");
    dataplane.assert_ledger();
}

#[test]
fn limits_change_while_the_port_is_there() {
    let mut dataplane = Dataplane::start(&[]);
    let source = dataplane.dir.path().join("source");
    pcap(&source, &vec![udp(1, 2, 64); FRAMES]);
    let length = udp(1, 2, 64).len();
    let plays = PortKind::Memory { rx_pcap: Some(source), tx_pcap: None, repeat: true };
    let spec = |limits| memory("a", plays.clone(), limits);
    let id = dataplane.try_add(spec(Limits::default()), &[]).unwrap();
    dataplane.add("b", PortKind::Memory { rx_pcap: None, tx_pcap: None, repeat: false });
    dataplane.commit(0, vec![Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "b")] }]);
    dataplane.until("frames pass", |d| d.port("b").tx_packets > 1_000);
    assert_eq!(dataplane.drops("a", "egress-rate-exceeded"), 0);

    // From one message on nothing passes but the burst, in buckets that are full: once each time that limits are others.
    let held = Limits { ingress: None, egress: Some(limit(100, length)) };
    for (limits, passes) in [(held, 100), (held, 0), (Limits { egress: Some(limit(7, length)), ..held }, 7)] {
        let before = dataplane.port("b").tx_packets;
        assert_eq!(dataplane.try_add(spec(limits), &[]), Ok(id));
        let dropped = dataplane.drops("a", "egress-rate-exceeded");
        dataplane.until("frames are dropped", |d| d.drops("a", "egress-rate-exceeded") > dropped + 1_000);
        let (now, info) = (dataplane.port("b").tx_packets, dataplane.port("a").info);
        assert_eq!(info.spec.limits, limits);
        // The first time frames passed without limit between the question and the message.
        assert!(
            if passes == 100 { now >= before + 100 } else { now == before + passes },
            "{passes}: {before} {now}"
        );
        let Response::Snapshot(snapshot) = dataplane.call(&Request::Snapshot) else { panic!() };
        assert!(snapshot.ports.contains(&info), "{snapshot:?}");
    }
    // Other differences are still refused, and change nothing.
    let other = PortSpec { mac: None, ..spec(Limits::default()) };
    assert!(dataplane.try_add(other, &[]).unwrap_err().contains("other settings"));
    assert!(!dataplane.port("a").info.spec.limits.is_none());

    let before = dataplane.port("b").tx_packets;
    assert_eq!(dataplane.try_add(spec(Limits::default()), &[]), Ok(id));
    dataplane.until("frames pass again", |d| d.port("b").tx_packets > before + 1_000);
    dataplane.commit(1, vec![Op::RemoveEndpoints { names: vec!["pod1".into(), "pod2".into()] }]);
    dataplane.remove("a");
    dataplane.assert_ledger();
}
