//! Any bytes on any port: the fuzz target's body, on random frames and on edited good ones.

use proptest::prelude::*;
use proptest::sample::Index;

use crate::body::{HOST, OVER, POD_A, TUNNEL, UPLINK, UPLINK2, body, port_mac};
use crate::frames::*;
use crate::tunnels::datagram;

/// Frames of all kinds from all kinds of port, with the number of that.
fn good() -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    for (port, src4, src6) in [
        (POD_A, "10.244.1.2", "fd00:1::2"),
        (HOST, "10.0.0.10", "fd00:a::10"),
        (UPLINK, "198.51.100.1", "2001:db8:100::1"),
        (UPLINK2, "172.16.0.9", "fe80::9"),
    ] {
        let mut add = |frame| all.push((u8::try_from(port.0).unwrap(), frame));
        for dst in
            ["10.244.1.3", "10.244.1.5", "10.244.1.77", "192.0.2.1", "169.254.1.1", "192.0.2.7", "8.8.8.8"]
        {
            let plain = from(port, src4, dst, UDP, &udp(1, 2, &[1; 64]));
            add(edited_v4(&plain, 2, 0, &[148, 4, 0, 0]));
            add(edited_v4(&plain, 1, 0x2000, &[]));
            add(edited_v4(&plain, 9, 0x2005, &[]));
            add(plain);
            add(from(port, src4, dst, TCP, &tcp(2, &[3; 2000])));
            add(from(port, src4, dst, ICMP, &icmp4(3, 1, &[0; 64])));
            add(ping(port, src4, dst, b"data"));
        }
        for dst in [
            "fd00:1::3",
            "fd00:1::5",
            "fd00:1::77",
            "2001:db8:2::1",
            "fe80::1",
            "2001:db8:2::7",
            "ff02::1:ff00:1",
        ] {
            let plain = from(port, src6, dst, UDP, &udp(1, 2, &[1; 64]));
            add(extended_v6(&plain, 0, [0, 0, 5, 2, 0, 0, 1, 0]));
            add(extended_v6(&plain, 44, [0, 0, 0, 9, 0, 0, 0, 7]));
            add(plain);
            add(from(port, src6, dst, TCP, &tcp(2, &[3; 2000])));
            add(ping(port, src6, dst, b"data"));
            let target = [&[0; 4], &v6("fe80::1").octets()[..], &[1, 1, 2, 0, 0, 0, 0, 9]].concat();
            for kind in [133, 134, 135, 136, 137, 143] {
                add(with_hop_limit(from(port, src6, dst, ICMPV6, &icmp6(src6, dst, kind, 0, &target)), 255));
            }
        }
        // A DHCPv6 client's request: DUIDs, and an IA with an address.
        let asks = [
            &[
                3, 1, 2, 3, 0, 1, 0, 10, 0, 3, 0, 1, 2, 0xaa, 0, 0, 0, 1, 0, 2, 0, 10, 0, 3, 0, 1, 2, 0, 0,
                0, 0, 1,
            ][..],
            &[0, 3, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 24],
            &v6(src6).octets(),
            &[0; 8],
        ]
        .concat();
        add(from(port, src6, "ff02::1:2", UDP, &udp(546, 547, &asks)));
        let asks = [
            &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0xbb, 0, 0, 0, 9],
            &v4(src4).octets()[..],
            &[0; 6],
            &[192, 0, 2, 1],
        ]
        .concat();
        add(ethernet(port_mac(port), NEIGHBOUR, 0x0806, &asks));
    }
    for (from, inner) in good_inner() {
        for vni in [OVER.vni, 0] {
            all.push((4, datagram(from, vni, &inner)));
        }
    }
    all
}

/// Frames of other nodes' pods, and where they come from.
fn good_inner() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = Vec::new();
    for (from, src4, src6) in
        [("192.0.2.20", "10.244.2.5", "fd00:2::5"), ("2001:db8:2::30", "10.244.3.5", "fd00:3::5")]
    {
        let mut add = |frame| all.push((from, frame));
        for (src, dst) in
            [(src4, "10.244.1.2"), (src6, "fd00:1::2"), (src4, "10.244.4.1"), (src4, "10.0.0.10")]
        {
            add(crate::frames::from(TUNNEL, src, dst, UDP, &udp(1, 2, &[1; 64])));
            add(crate::frames::from(TUNNEL, src, dst, TCP, &tcp(2, &[3; 200])));
            add(ping(TUNNEL, src, dst, b"data"));
        }
    }
    all
}

#[test]
fn good_frames() {
    for (port, frame) in good() {
        for offload in 0..8 {
            body(&[&[port, offload, 160, 40], &frame[..]].concat());
        }
    }
}

#[test]
fn seeds() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/pipeline");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        body(&std::fs::read(entry.unwrap().path()).unwrap());
        seen += 1;
    }
    assert!(seen > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        body(&bytes);
    }

    #[test]
    fn edited_frames(
        pick: Index,
        front: [u8; 3],
        edits in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        cut: Option<Index>,
    ) {
        let all = good();
        let (port, mut frame) = all[pick.index(all.len())].clone();
        for (at, value) in edits {
            // Headers are where it matters.
            let at = at.index(frame.len().min(120));
            frame[at] = value;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        body(&[&[port][..], &front, &frame].concat());
    }
}
