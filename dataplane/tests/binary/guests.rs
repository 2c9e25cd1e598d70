//! Guests on vhost-user ports, played by DPDK's testpmd: several queue pairs, several workers, and both ends that die.

use std::path::Path;

use proto::dataplane::{Op, PortKind};

use crate::dataplane::Dataplane;
use crate::frames::{endpoint, pcap, udp};
use crate::testpmd::Testpmd;

/// A DPDK pod that sends each datagram back to where it came from.
fn echo(socket: &Path, device: &str, queues: u16) -> Testpmd {
    let device = format!("net_virtio_user0,path={},queues={queues}{device}", socket.display());
    let queues = [format!("--rxq={queues}"), format!("--txq={queues}"), "--forward-mode=5tswap".to_owned()];
    Testpmd::start(&socket.with_extension("log"), &[device], &queues)
}

/// Datagrams of 64 flows from pod `from` to pod 1.
fn flows(dir: &Path, from: u8) -> std::path::PathBuf {
    let path = dir.join(format!("from-{from}"));
    let flow = |port: u8| {
        let mut frame = udp(from, 1, 64);
        frame[35] = port;
        frame
    };
    pcap(&path, &(0..64).map(flow).collect::<Vec<_>>());
    path
}

fn source(dataplane: &mut Dataplane, number: u8) -> String {
    let name = format!("source-{number}");
    let path = flows(dataplane.dir.path(), number);
    dataplane.add(&name, PortKind::Memory { rx_pcap: Some(path), tx_pcap: None, repeat: true });
    name
}

#[test]
fn a_guest_with_four_queue_pairs_is_served_by_two_workers() {
    for device in ["", ",packed_vq=1"] {
        let mut dataplane = Dataplane::start(&["--workers", "0,1"]);
        let socket = dataplane.dir.path().join("guest");
        dataplane.add("guest", PortKind::Vhost { path: socket.clone(), server: true, queue_pairs: 4 });
        let guest = echo(&socket, device, 4);
        dataplane.until("the guest is there", |d| d.port("guest").up);
        // One on each worker.
        let sources = [source(&mut dataplane, 2), source(&mut dataplane, 3)];
        let endpoints = vec![endpoint(1, "guest"), endpoint(2, &sources[0]), endpoint(3, &sources[1])];
        dataplane.commit(0, vec![Op::SetEndpoints { endpoints }]);
        dataplane.until("both sources are answered", |d| {
            sources.iter().all(|source| d.port(source).tx_packets > 1_000)
        });
        let ports: Vec<_> = dataplane.workers().into_iter().filter(|worker| worker.kind == "poll").collect();
        assert!(ports.iter().all(|worker| worker.ports.contains(&"guest".to_owned())), "{ports:?}");
        // Each worker gave its own source's packets to a queue of its own: nothing was handed over but answers.
        assert!(ports.iter().all(|worker| worker.ledger.rx > 1_000 && worker.ledger.tx > 1_000), "{ports:?}");

        drop(guest);
        dataplane.until("the guest is gone", |d| !d.port("guest").up);
        dataplane.commit(1, vec![Op::RemoveEndpoints { names: (1..4).map(|n| format!("pod{n}")).collect() }]);
        dataplane.assert_ledger();
        dataplane.remove("guest");
        assert!(!socket.exists());
    }
}

#[test]
fn a_guest_goes_on_when_the_data_plane_is_killed_and_started_again() {
    for device in ["", ",packed_vq=1"] {
        let mut dataplane = Dataplane::start(&[]);
        let socket = dataplane.dir.path().join("guest");
        // The guest makes the socket: the data plane comes to it, as often as it has to.
        let kind = PortKind::Vhost { path: socket.clone(), server: false, queue_pairs: 1 };
        let _guest = echo(&socket, &format!("{device},server=1"), 1);
        for _ in 0..2 {
            dataplane.add("guest", kind.clone());
            dataplane.until("the guest is there", |d| d.port("guest").up);
            let from = source(&mut dataplane, 2);
            dataplane.commit(
                0,
                vec![Op::SetEndpoints { endpoints: vec![endpoint(1, "guest"), endpoint(2, &from)] }],
            );
            dataplane.until("the source is answered", |d| d.port(&from).tx_packets > 1_000);
            dataplane.kill();
            dataplane.start_again();
        }
    }
}
