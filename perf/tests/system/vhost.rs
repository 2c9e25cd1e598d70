//! DPDK pods, on the sockets that the CNI plug-in reported: testpmd's virtio-user, which answers ARP and IPv4 pings, and
//! pktgen's, which does so in both families and sends UDP back.

use std::process::Command;
use std::time::Duration;

use anyhow::anyhow;
use lab::node::{Node, OUTSIDE, Options};
use lab::ping::Ping;
use lab::pktgen::{measure, reflector, virtio_user};
use lab::pod::{Family, Kind, Pod};
use lab::process::Process;
use lab::wait::{PATIENCE, wait_until};

use crate::{Bed, reach};

/// testpmd as the pod's application.
fn testpmd(node: &Node, pod: &Pod) -> Process {
    let mut command: Command = pod.netns.command("dpdk-testpmd");
    let socket = pod.socket.as_ref().unwrap();
    let prefix = node.run.name(&format!("testpmd{}", node.run.number()));
    command.args(["--no-huge", "--no-pci", "-m", "256", "-l", "0,1", &format!("--file-prefix={prefix}")]);
    command.arg(format!("--vdev=net_virtio_user0,path={},mac={}", socket.display(), pod.mac));
    // Without a period for statistics it would wait for a key, and find the end of its input; and it would throw away
    // what arrived before it began to forward.
    command.args([
        "--",
        "--forward-mode=icmpecho",
        "--auto-start",
        "--no-mlockall",
        "--stats-period=3600",
        "--no-flush-rx",
    ]);
    command.arg("--total-num-mbufs=4096");
    Process::spawn(&node.run, "testpmd", &mut command).unwrap()
}

/// Waits until the application answers. That its rings are enabled is not enough: it fills them later.
fn up(bed: &Bed, pod: &Pod, testpmd: &mut Process) {
    pod.wait_for(&bed.node, testpmd).unwrap();
    let once = Ping { count: 1, patience: Duration::from_secs(1), ..Ping::default() };
    wait_until("testpmd answers", PATIENCE, || {
        let pinged = once.run(&bed.a.netns, &pod.address(Family::V4))?;
        if pinged.complete() { Ok(()) } else { Err(anyhow!("{}", pinged.text)) }
    })
    .unwrap();
}

#[test]
fn testpmd_answers_pods_host_and_outside() {
    let bed = Bed::new(Options::default());
    let pod = Pod::attach(&bed.node, "vm", Kind::VhostUser).unwrap();
    let address = pod.address(Family::V4);
    let mut application = testpmd(&bed.node, &pod);
    up(&bed, &pod, &mut application);
    for from in [&bed.a.netns, &bed.b.netns, &bed.node.host, &bed.node.outside] {
        reach(&bed.node, from, &address);
    }

    // The application dies and comes again; the data plane serves the same socket.
    application.kill().unwrap();
    let mut application = testpmd(&bed.node, &pod);
    up(&bed, &pod, &mut application);
    reach(&bed.node, &bed.a.netns, &address);
    bed.talk();
    bed.node.query().ledger().unwrap();
}

#[test]
fn a_dpdk_pod_outlives_the_data_plane() {
    let mut bed = Bed::new(Options::default());
    let pod = Pod::attach(&bed.node, "vm", Kind::VhostUser).unwrap();
    let mut application = testpmd(&bed.node, &pod);
    up(&bed, &pod, &mut application);
    let socket = pod.socket.clone();
    bed.node.restart_dataplane().unwrap();
    // testpmd's virtio-user is the client and does not connect again by itself; a new one finds the same socket.
    application.kill().unwrap();
    assert!(socket.unwrap().exists());
    let mut application = testpmd(&bed.node, &pod);
    up(&bed, &pod, &mut application);
    reach(&bed.node, &bed.a.netns, &pod.address(Family::V4));
    reach(&bed.node, &bed.node.outside, &pod.address(Family::V4));
    reach(&bed.node, &bed.a.netns, OUTSIDE[0]);
    bed.node.query().ledger().unwrap();
}

#[test]
fn dpdk_pods_answer_in_both_families_and_lose_nothing_they_can_carry() {
    let bed = Bed::new(Options::default());
    let [echo, sender] =
        ["echo", "sender"].map(|name| Pod::attach(&bed.node, name, Kind::VhostUser).unwrap());
    let mut reflector = reflector(&bed.node, &echo).unwrap();
    for family in Family::BOTH {
        for from in [&bed.a.netns, &bed.node.host, &bed.node.outside] {
            reach(&bed.node, from, &echo.address(family));
        }
        modest(&bed, &sender, &echo, family);
    }
    reflector.check().unwrap();
    bed.node.query().ledger().unwrap();
}

/// More than any port carries: what is dropped is dropped by name, and nothing is lost track of.
#[test]
fn a_flood_between_dpdk_pods_is_accounted_for() {
    let bed = Bed::new(Options::default());
    let [echo, sender] =
        ["echo", "sender"].map(|name| Pod::attach(&bed.node, name, Kind::VhostUser).unwrap());
    let _reflector = reflector(&bed.node, &echo).unwrap();
    let device = virtio_user(&sender).unwrap();
    for family in Family::BOTH {
        let (own, address) = (sender.address(family), echo.address(family));
        let options =
            ["--vdev", &device, "--address", &own, "--dst", &address, "--flows", "256", "--rate", "max"];
        let found = measure(&bed.node, &sender.netns, &options, 1).unwrap();
        for field in ["duplicates", "corrupt"] {
            assert_eq!(found[field], 0, "{field}: {found}");
        }
        // It goes on as if nothing had been.
        modest(&bed, &sender, &echo, family);
    }
    bed.talk();
    bed.node.query().ledger().unwrap();
}

/// A hundred a second is a rest for any machine, and the rings hold more than a second of it, should a core be away for
/// that long: what is lost then is lost by a mistake.
fn modest(bed: &Bed, sender: &Pod, echo: &Pod, family: Family) {
    let (device, own, address) = (virtio_user(sender).unwrap(), sender.address(family), echo.address(family));
    let options = ["--vdev", &device, "--address", &own, "--dst", &address, "--flows", "16"];
    let rate = ["--rate", "100", "--drain", "5"];
    let found = measure(&bed.node, &sender.netns, &[options.as_slice(), &rate].concat(), 3).unwrap();
    for field in ["lost", "reordered", "duplicates", "corrupt"] {
        let drops = bed.node.query().text(&["show", "drops"]).unwrap();
        assert_eq!(found[field], 0, "{field}: {found}\n{drops}");
    }
    assert!(found["sent"].as_u64().unwrap() >= 200, "{found}");
}
