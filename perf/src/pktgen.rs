//! `pktgen` as a DPDK pod's application: one that answers, and one that sends and measures.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::netns::Netns;
use crate::node::Node;
use crate::pod::Pod;
use crate::process::{Process, finish};
use crate::wait::{PATIENCE, wait_until};

/// Starts one that answers ARP, neighbour discovery and pings, and sends UDP back; waits until it does.
///
/// # Errors
/// When it ends, or does not come up.
pub fn reflector(node: &Node, pod: &Pod) -> Result<Process> {
    let mut command = command(node, &pod.netns);
    command.args(["--vdev", &virtio_user(pod)?, "--reflect"]);
    for address in &pod.addresses {
        command.args(["--address", &address.to_string()]);
    }
    let mut process = Process::spawn(&node.run, &format!("pktgen-{}", pod.name), &mut command)?;
    pod.wait_for(node, &mut process)?;
    wait_until("pktgen is ready", PATIENCE, || {
        process.check()?;
        let log = process.tail(5);
        if log.contains("ready") { Ok(()) } else { bail!("its log ends: {log}") }
    })?;
    Ok(process)
}

/// Runs one to its end, for `seconds`, and gives its own report.
///
/// # Errors
/// When it fails or prints no JSON.
pub fn measure(node: &Node, netns: &Netns, options: &[&str], seconds: u32) -> Result<Value> {
    let mut command = command(node, netns);
    command.args(options).args(["--duration", &seconds.to_string(), "--warmup", "0.5", "--json"]);
    let finished = finish(&mut command, Duration::from_secs(seconds.into()) + 2 * PATIENCE)?;
    if !finished.status.success() {
        bail!("pktgen {} failed ({}): {}", options.join(" "), finished.status, finished.stderr.trim());
    }
    serde_json::from_str(&finished.stdout).with_context(|| format!("pktgen printed: {}", finished.stdout))
}

/// The DPDK device that is this pod's end of its vhost-user socket.
///
/// # Errors
/// When the pod is of another kind.
pub fn virtio_user(pod: &Pod) -> Result<String> {
    let socket = pod.socket.as_ref().with_context(|| format!("pod {} has no vhost-user socket", pod.name))?;
    Ok(format!("net_virtio_user0,path={},mac={}", socket.display(), pod.mac))
}

fn command(node: &Node, netns: &Netns) -> Command {
    let mut command = netns.command(node.artefacts.path("pktgen"));
    command.args(["--file-prefix", &node.run.name(&format!("pktgen{}", node.run.number()))]);
    command
}
