//! A DPDK pod: testpmd's virtio-user on the socket that the CNI plug-in reported. It answers ARP and IPv4 pings.

use std::process::Command;

use anyhow::anyhow;
use lab::node::{Node, OUTSIDE, Options};
use lab::ping::reaches;
use lab::pod::{Family, Kind, Pod};
use lab::process::Process;
use lab::wait::{PATIENCE, wait_until};

use crate::Bed;

/// testpmd as the pod's application.
fn testpmd(node: &Node, pod: &Pod) -> Process {
    let mut command: Command = pod.netns.command("dpdk-testpmd");
    let socket = pod.socket.as_ref().unwrap();
    let prefix = node.run.name(&format!("testpmd{}", node.run.number()));
    command.args(["--no-huge", "--no-pci", "-m", "256", "-l", "0,1", &format!("--file-prefix={prefix}")]);
    command.arg(format!("--vdev=net_virtio_user0,path={},mac={}", socket.display(), pod.mac));
    // Without a period for statistics it would wait for a key, and find the end of its input.
    command.args(["--", "--forward-mode=icmpecho", "--auto-start", "--no-mlockall", "--stats-period=3600"]);
    command.arg("--total-num-mbufs=4096");
    Process::spawn(&node.run, "testpmd", &mut command).unwrap()
}

fn up(node: &Node, pod: &Pod, testpmd: &mut Process) {
    let role = format!("default/{}", pod.name);
    wait_until("the vhost-user port is up", PATIENCE, || {
        testpmd.check()?;
        let ports = node.query().ports()?;
        let port = ports.iter().find(|port| port.role == role).ok_or_else(|| anyhow!("no port of {role}"))?;
        if port.up { Ok(()) } else { Err(anyhow!("{port:?}")) }
    })
    .unwrap();
}

#[test]
fn testpmd_answers_pods_host_and_outside() {
    let bed = Bed::new(Options::default());
    let pod = Pod::attach(&bed.node, "vm", Kind::VhostUser).unwrap();
    let address = pod.address(Family::V4);
    let mut application = testpmd(&bed.node, &pod);
    up(&bed.node, &pod, &mut application);
    for from in [&bed.a.netns, &bed.b.netns, &bed.node.host, &bed.node.outside] {
        reaches(from, &address).unwrap();
    }

    // The application dies and comes again; the data plane serves the same socket.
    application.kill().unwrap();
    let mut application = testpmd(&bed.node, &pod);
    up(&bed.node, &pod, &mut application);
    wait_until("pings through the new connection", PATIENCE, || reaches(&bed.a.netns, &address)).unwrap();
    bed.talk();
    bed.node.query().ledger().unwrap();
}

#[test]
fn a_dpdk_pod_outlives_the_data_plane() {
    let mut bed = Bed::new(Options::default());
    let pod = Pod::attach(&bed.node, "vm", Kind::VhostUser).unwrap();
    let mut application = testpmd(&bed.node, &pod);
    up(&bed.node, &pod, &mut application);
    let socket = pod.socket.clone();
    bed.node.restart_dataplane().unwrap();
    // testpmd's virtio-user is the client and does not connect again by itself; a new one finds the same socket.
    application.kill().unwrap();
    assert!(socket.unwrap().exists());
    let mut application = testpmd(&bed.node, &pod);
    up(&bed.node, &pod, &mut application);
    reaches(&bed.a.netns, &pod.address(Family::V4)).unwrap();
    reaches(&bed.node.outside, &pod.address(Family::V4)).unwrap();
    assert!(reaches(&bed.a.netns, OUTSIDE[0]).is_ok());
    bed.node.query().ledger().unwrap();
}
