//! A pod that sends rubbish: nothing ends the process, holds its neighbours up, or escapes the ledger.

use std::io::IoSlice;

use proto::dataplane::{Op, PortKind};
use tap::VirtioNetHeader;
use tap::vnet::SHORT_LEN;

use crate::dataplane::Dataplane;
use crate::frames::{endpoint, udp};
use crate::pod::{Pod, gateway};

/// xorshift64: the same at each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }
}

/// A vnet header that is often nearly right: the kernel refuses most of those that are all random.
fn header(random: &mut Random) -> VirtioNetHeader {
    let small =
        |random: &mut Random| if random.below(8) == 0 { random.short() } else { random.short() % 128 };
    VirtioNetHeader {
        flags: u8::from(random.below(4) != 0),
        gso_type: [0, 1, 4, 5, 0x81, random.byte()][random.below(6)],
        hdr_len: small(random),
        gso_size: [1, 8, 64, 536, 1448, random.short()][random.below(6)],
        csum_start: if random.below(2) == 0 { 34 } else { small(random) },
        csum_offset: [6, 16, small(random)][random.below(3)],
        num_buffers: 0,
    }
}

fn frame(random: &mut Random) -> Vec<u8> {
    let length = match random.below(4) {
        0 => 14 + random.below(60),
        1 | 2 => 60 + random.below(3_000),
        _ => 60 + random.below(64_000),
    };
    let mut frame: Vec<u8> = (0..length).map(|_| random.byte()).collect();
    if random.below(8) > 0 {
        // A plausible beginning, bent in a few places.
        let mut start = udp(1, 2, 64);
        start[23] = [6, 17, 1, random.byte()][random.below(4)];
        let total = u16::try_from(length.saturating_sub(14)).unwrap();
        start[16..18].copy_from_slice(&total.to_be_bytes());
        start[24..26].fill(0);
        let sum = wire::checksum::internet_checksum(&start[14..34]);
        start[24..26].copy_from_slice(&sum.to_be_bytes());
        start[46] = random.byte();
        for _ in 0..random.below(3) {
            let at = random.below(start.len());
            start[at] = random.byte();
        }
        let n = start.len().min(length);
        frame[..n].copy_from_slice(&start[..n]);
    }
    frame
}

#[test]
fn rubbish_with_random_vnet_headers_is_dropped_by_name_and_the_ledger_adds_up() {
    let (pod, peer) = (Pod::bare(1), Pod::new(2));
    // What we write to x0 reaches the data plane through a bridge, with the vnet header that the kernel keeps of it.
    let injector = pod.second_tap("x0");
    pod.ip("link set eth0 mtu 65000");
    pod.ip("link set x0 mtu 65000 addrgenmode none up");
    pod.ip("link add br0 type bridge mcast_snooping 0");
    pod.ip("link set br0 addrgenmode none up");
    pod.ip("link set x0 master br0");
    pod.ip("link set eth0 master br0");
    let mut dataplane = Dataplane::start(&["--kernel-workers", "2"]);
    dataplane.tap("a", pod.fd());
    dataplane.tap("b", peer.fd());
    dataplane.add("m", PortKind::Memory { rx_pcap: None, tx_pcap: None, repeat: false });
    dataplane
        .commit(0, vec![gateway(), Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "b")] }]);

    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (generation, port) in (1..).zip(["b", "m"]) {
        // Once to a TAP, which takes segments whole, once to a port for which they are cut up.
        dataplane.commit(generation, vec![Op::SetEndpoints { endpoints: vec![endpoint(2, port)] }]);
        let before = dataplane.port("a").rx_packets;
        let mut accepted: u64 = 0;
        while accepted < 5_000 {
            let (frame, header) = (frame(&mut random), header(&mut random).encode());
            accepted += u64::from(
                injector.write_vectored(&[IoSlice::new(&header[..SHORT_LEN]), IoSlice::new(&frame)]).is_ok(),
            );
        }
        // One that is in order comes out behind them, if not at once: the kernel's queue may have been full.
        let marker = "one in order gets through";
        let sent = dataplane.port(port).tx_packets;
        dataplane.until(marker, |dataplane| {
            let plain = VirtioNetHeader::default().encode();
            drop(injector.write_vectored(&[IoSlice::new(&plain[..SHORT_LEN]), IoSlice::new(&udp(1, 2, 64))]));
            dataplane.port(port).tx_packets > sent
        });
        let received = dataplane.port("a").rx_packets - before;
        assert!(received > 100, "{received} of {accepted} reached the data plane");
        dataplane.assert_ledger();
    }
    let drops = dataplane.port("a").rx_drops;
    assert!(drops > 100, "{drops} were dropped");
    let split: u64 = dataplane.ledgers().iter().map(|ledger| ledger.split_extra).sum();
    assert!(split > 0, "no segment was cut up");
    assert!(dataplane.terminate().success());
}
