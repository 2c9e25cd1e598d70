//! What the router says of itself, through its own command line, and whether its ledger adds up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use proto::dataplane::{DropStatus, Ledger, NeighbourStatus, PortStatus, WorkerStatus};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::process::succeed;
use crate::wait::{PATIENCE, wait_until};

/// The `podrouter` command and the sockets it asks.
#[derive(Debug, Clone)]
pub struct Query {
    pub program: PathBuf,
    pub dataplane: PathBuf,
    pub control: PathBuf,
}

impl Query {
    /// Runs `podrouter --json ARGUMENTS`.
    ///
    /// # Errors
    /// When it fails or prints something else than JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = succeed(self.command().arg("--json").args(arguments), PATIENCE)?;
        serde_json::from_str(&text).with_context(|| format!("podrouter {}: {text}", arguments.join(" ")))
    }

    /// Runs `podrouter ARGUMENTS`, for people.
    ///
    /// # Errors
    /// When it fails.
    pub fn text(&self, arguments: &[&str]) -> Result<String> {
        succeed(self.command().args(arguments), PATIENCE)
    }

    /// `podrouter` with the sockets named.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--dataplane").arg(&self.dataplane).arg("--control").arg(&self.control);
        command
    }

    fn rows<T: DeserializeOwned>(&self, what: &str) -> Result<Vec<T>> {
        let mut answer = self.json(&["show", what])?;
        let rows = if answer.is_array() { answer } else { answer[what].take() };
        serde_json::from_value(rows).with_context(|| format!("podrouter show {what}"))
    }

    /// `show ports`.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn ports(&self) -> Result<Vec<PortStatus>> {
        self.rows("ports")
    }

    /// `show workers`.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn workers(&self) -> Result<Vec<WorkerStatus>> {
        self.rows("workers")
    }

    /// `show neighbours`.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn neighbours(&self) -> Result<Vec<NeighbourStatus>> {
        self.rows("neighbours")
    }

    /// `show drops`.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn drops(&self) -> Result<Vec<DropStatus>> {
        self.rows("drops")
    }

    /// Drops by reason, over all ports and directions.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn drops_by_reason(&self) -> Result<BTreeMap<String, u64>> {
        let mut sums = BTreeMap::new();
        for row in self.drops()? {
            *sums.entry(row.reason).or_insert(0) += row.packets;
        }
        Ok(sums)
    }

    /// How often a reason has been counted.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        Ok(self.drops_by_reason()?.get(reason).copied().unwrap_or(0))
    }

    /// Whether control has read everything, is connected, and its last generation is committed.
    ///
    /// # Errors
    /// With what is missing.
    pub fn in_sync(&self) -> Result<()> {
        let status = self.json(&["status"])?;
        let (control, dataplane) = (&status["control"], &status["dataplane"]);
        ensure!(control["synced"] == true, "control is not in sync: {status}");
        ensure!(control["connected"] == true, "control is not connected: {status}");
        let committed = control["committed"].as_u64().unwrap_or(0);
        ensure!(committed > 0, "nothing is committed: {status}");
        ensure!(dataplane["committed"] == committed, "the data plane has another generation: {status}");
        Ok(())
    }

    /// What control cannot honour.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn warnings(&self) -> Result<Vec<String>> {
        let mut status = self.json(&["status"])?;
        serde_json::from_value(status["control"]["warnings"].take()).context("podrouter status: warnings")
    }

    /// Waits until the router is at rest, and checks that every packet went somewhere: for each worker what came in
    /// is what went out, and over all of them what was handed over has arrived. Returns the sum.
    ///
    /// # Errors
    /// When it does not add up.
    pub fn ledger(&self) -> Result<Ledger> {
        let mut before: Option<Vec<Ledger>> = None;
        wait_until("the ledger adds up", PATIENCE, || {
            let now: Vec<Ledger> = self.workers()?.iter().map(|worker| worker.ledger).collect();
            let rest = before.as_ref() == Some(&now);
            before = Some(now.clone());
            if !rest {
                bail!("packets are on their way");
            }
            balanced(&now)
        })
    }
}

/// The sum of the workers' ledgers, if they balance.
fn balanced(workers: &[Ledger]) -> Result<Ledger> {
    if workers.is_empty() {
        return Err(anyhow!("there are no workers"));
    }
    let mut sum = Ledger::default();
    for (worker, ledger) in workers.iter().enumerate() {
        ensure!(ledger.imbalance() == 0, "worker {worker} is off by {}: {ledger:?}", ledger.imbalance());
        sum.rx += ledger.rx;
        sum.handed_in += ledger.handed_in;
        sum.originated += ledger.originated;
        sum.split_extra += ledger.split_extra;
        sum.tx += ledger.tx;
        sum.drops += ledger.drops;
        sum.punts += ledger.punts;
        sum.handed_out += ledger.handed_out;
        sum.held += ledger.held;
        sum.consumed += ledger.consumed;
    }
    let (sent, got) = (sum.handed_out, sum.handed_in);
    ensure!(sent == got, "{sent} packets were handed to other workers, {got} arrived");
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_is_lost_shows() {
        let good = Ledger { rx: 5, tx: 3, handed_out: 2, ..Ledger::default() };
        let other = Ledger { handed_in: 2, tx: 2, ..Ledger::default() };
        assert_eq!(balanced(&[good, other]).unwrap().tx, 5);
        assert!(balanced(&[good]).is_err(), "handed out, and nobody has them");
        assert!(balanced(&[Ledger { rx: 1, ..Ledger::default() }]).is_err());
        assert!(balanced(&[]).is_err());
    }
}
