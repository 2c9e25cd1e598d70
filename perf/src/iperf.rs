//! `iperf3` between two namespaces.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::netns::Netns;
use crate::process::{Process, finish};
use crate::run::Run;
use crate::wait::{PATIENCE, wait_until};

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// As fast as TCP goes.
    Tcp,
    /// Datagrams of 1,200 bytes at this rate.
    Udp { megabits: u32 },
    /// Datagrams of so many bytes, as many as the sender can.
    Flood { bytes: u16 },
}

/// What the receiver got.
#[derive(Debug, Clone, Copy)]
pub struct Transferred {
    pub bytes: u64,
    pub megabits_per_second: f64,
    /// How long the sender sent.
    pub seconds: f64,
    /// Datagrams that did not arrive, and how many were sent; 0 and 0 for TCP.
    pub lost: u64,
    pub sent: u64,
}

/// Sends from `client` to `address`, which is `server`'s, for `seconds`.
///
/// # Errors
/// When either end fails or they never meet.
pub fn transfer(
    run: &Arc<Run>,
    server: &Netns,
    client: &Netns,
    address: &str,
    load: Load,
    seconds: u32,
) -> Result<Transferred> {
    let _server = serve(run, server)?;
    let mut command: Command = client.command("iperf3");
    command.args(["-J", "-c", address, "-t", &seconds.to_string()]);
    match load {
        Load::Tcp => {}
        Load::Udp { megabits } => {
            command.args(["-u", "-l", "1200", "-b", &format!("{megabits}M")]);
        }
        Load::Flood { bytes } => {
            command.args(["-u", "-l", &bytes.to_string(), "-b", "0"]);
        }
    }
    let finished = finish(&mut command, Duration::from_secs(seconds.into()) + PATIENCE)?;
    let report: Value =
        serde_json::from_str(&finished.stdout).with_context(|| format!("iperf3: {}", finished.stderr))?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3 from {} to {address}: {error}", client.name());
    }
    parse(&report).ok_or_else(|| anyhow!("iperf3's report lacks its sums: {}", finished.stdout))
}

/// A server for one client, listening on port 5201.
///
/// # Errors
/// When it does not come to listen.
pub fn serve(run: &Arc<Run>, netns: &Netns) -> Result<Process> {
    let name = format!("iperf{}", run.number());
    let mut server = Process::spawn(run, &name, netns.command("iperf3").args(["-s", "-1"]))?;
    wait_until("iperf3 listens", PATIENCE, || {
        server.check()?;
        let sockets = netns.succeed("ss", &["-Hltn", "sport", "=", ":5201"])?;
        if sockets.is_empty() { Err(anyhow!("nothing on port 5201")) } else { Ok(()) }
    })?;
    Ok(server)
}

fn parse(report: &Value) -> Option<Transferred> {
    let end = &report["end"];
    // UDP has one sum with the loss in it; TCP has one for each side, and only the receiver's is delivery.
    let sum = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
    Some(Transferred {
        bytes: sum["bytes"].as_u64()?,
        megabits_per_second: sum["bits_per_second"].as_f64()? / 1e6,
        seconds: sum["seconds"].as_f64()?,
        lost: end["sum"]["lost_packets"].as_u64().unwrap_or(0),
        sent: end["sum"]["packets"].as_u64().unwrap_or(0),
    })
}
