//! A DPDK pod's application that hands everything to the kernel of its namespace: a vhost-user port with real clients behind it.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::netns::Netns;
use crate::node::{GATEWAY, Node};
use crate::ping::Ping;
use crate::pktgen::virtio_user;
use crate::pod::{INTERFACE, Pod};
use crate::process::Process;
use crate::wait::{PATIENCE, wait_until};

/// Starts testpmd between the pod's socket and a TAP of its own, gives that the pod's addresses, and waits until it is reached.
///
/// # Errors
/// When it ends, or does not come up.
pub fn bridge(node: &Node, pod: &Pod) -> Result<Process> {
    // It polls without a pause: whoever has something to do goes first.
    let mut command = pod.netns.command("nice");
    let prefix = node.run.name(&format!("bridge{}", node.run.number()));
    command.args(["-n", "19", "dpdk-testpmd", "--no-huge", "--no-pci", "-m", "128", "-l", "0,1"]);
    command.arg(format!("--file-prefix={prefix}"));
    command.arg(format!("--vdev={}", virtio_user(pod)?));
    command.arg(format!("--vdev=net_tap0,iface={INTERFACE},mac={}", pod.mac));
    // Without a period for statistics it would wait for a key, and find the end of its input.
    command.args(["--", "--forward-mode=io", "--auto-start", "--no-mlockall", "--stats-period=3600"]);
    command.args(["--no-flush-rx", "--total-num-mbufs=4096"]);
    let mut process = Process::spawn(&node.run, &format!("bridge-{}", pod.name), &mut command)?;
    pod.wait_for(node, &mut process)?;
    wait_until("the bridge has its device", PATIENCE, || {
        process.check()?;
        configure(&pod.netns, pod)
    })?;
    for address in &pod.addresses {
        wait_until("the bridge is reached", PATIENCE, || {
            process.check()?;
            let once = Ping { count: 1, patience: Duration::from_secs(1), ..Ping::default() };
            let pinged = once.run(&node.host, &address.to_string())?;
            if pinged.complete() { Ok(()) } else { bail!("{}", pinged.text) }
        })?;
    }
    Ok(process)
}

/// As the plug-in sets up a kernel pod's interface.
fn configure(netns: &Netns, pod: &Pod) -> Result<()> {
    netns.ip(&["link", "set", INTERFACE, "up"])?;
    for (address, gateway) in pod.addresses.iter().zip(GATEWAY) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        let given = format!("{address}/{length}");
        netns.ip(&[family, "address", "replace", &given, "dev", INTERFACE, "nodad"])?;
        netns.ip(&[family, "route", "replace", "default", "via", gateway, "dev", INTERFACE, "onlink"])?;
    }
    Ok(())
}
