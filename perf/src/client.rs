//! A client of the data plane's socket, for programs that bring a data plane up by themselves, without control.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use proto::Connection;
use proto::dataplane::{Op, PortInfo, PortSpec, Request, Response, Transaction, WorkerStatus};
use serde_json::{Value, json};

use crate::wait::{PATIENCE, wait_until};

/// Longest wait for an answer: a million routes in one transaction take a second or two.
const ANSWER: Duration = Duration::from_secs(120);

/// A connection, and the generation that it made last.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    generation: u64,
}

impl Client {
    /// Connects and says hello, as soon as the data plane listens. `alive` fails once there is no use in waiting.
    ///
    /// # Errors
    /// That of `alive`, or after a while.
    pub fn connect(path: &Path, mut alive: impl FnMut() -> Result<()>) -> Result<Self> {
        let connection = loop {
            alive()?;
            let tried = wait_until("the data plane listens", Duration::from_secs(1), || {
                Connection::connect(path).with_context(|| format!("{} refuses", path.display()))
            });
            match tried {
                Ok(connection) => break connection,
                Err(_) => crate::signals::check()?,
            }
        };
        connection.set_timeout(Some(ANSWER))?;
        let mut client = Self { connection, generation: 0 };
        let hello = Request::Hello { version: proto::VERSION, program: "lab".to_owned() };
        match client.call(&hello)? {
            Response::Hello(hello) => client.generation = hello.generation,
            other => bail!("the data plane answered hello with {other:?}"),
        }
        Ok(client)
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// When the data plane is gone.
    pub fn call(&mut self, request: &Request) -> Result<Response> {
        let (answer, _) = self.connection.call(request, &[]).context("asking the data plane")?;
        Ok(answer)
    }

    /// Makes a port.
    ///
    /// # Errors
    /// With the data plane's reason.
    pub fn add_port(&mut self, spec: PortSpec) -> Result<PortInfo> {
        match self.call(&Request::AddPort(spec))? {
            Response::Port(info) => Ok(info),
            other => bail!("no port was made: {other:?}"),
        }
    }

    /// Commits `ops` as the next generation.
    ///
    /// # Errors
    /// With the data plane's reason.
    pub fn commit(&mut self, ops: Vec<Op>) -> Result<()> {
        let (base, target) = (self.generation, self.generation + 1);
        let answer = self.call(&Request::Transaction(Transaction { base, target, ops }))?;
        self.committed(target, answer)
    }

    /// Commits `ops` as the next generation and says how long that took, from the first byte on the socket to the answer.
    ///
    /// # Errors
    /// With the data plane's reason.
    pub fn commit_timed(&mut self, ops: Vec<Op>) -> Result<Duration> {
        let (base, target) = (self.generation, self.generation + 1);
        let body = serde_json::to_vec(&Request::Transaction(Transaction { base, target, ops }))?;
        let mut frame = u32::try_from(body.len()).context("too long for one frame")?.to_be_bytes().to_vec();
        frame.extend(body);
        let start = Instant::now();
        self.connection.stream().write_all(&frame).context("asking the data plane")?;
        let (answer, _) = self.connection.receive().context("asking the data plane")?;
        let took = start.elapsed();
        self.committed(target, answer).map(|()| took)
    }

    /// Commits ops of kinds that not every data plane has. `false`, and nothing done, if this one does not know them.
    ///
    /// # Errors
    /// With the data plane's reason for any other refusal.
    pub fn try_commit(&mut self, ops: &[Value]) -> Result<bool> {
        let (base, target) = (self.generation, self.generation + 1);
        let request = json!({ "type": "transaction", "base": base, "target": target, "ops": ops });
        let (answer, _) = self.connection.call(&request, &[]).context("asking the data plane")?;
        match answer {
            Response::Failed { reason } if reason.contains("unknown variant") => Ok(false),
            answer => self.committed(target, answer).map(|()| true),
        }
    }

    fn committed(&mut self, target: u64, answer: Response) -> Result<()> {
        match answer {
            Response::Committed { generation } => {
                ensure!(generation == target, "generation {generation} was committed instead of {target}");
                self.generation = generation;
                Ok(())
            }
            Response::Rejected { reason, .. } | Response::Failed { reason } => {
                bail!("generation {target} was refused: {reason}")
            }
            other => bail!("the data plane answered a transaction with {other:?}"),
        }
    }

    /// `show workers`.
    ///
    /// # Errors
    /// When the data plane is gone.
    pub fn workers(&mut self) -> Result<Vec<WorkerStatus>> {
        match self.call(&Request::ShowWorkers)? {
            Response::Workers { workers } => Ok(workers),
            other => bail!("the data plane answered with {other:?}"),
        }
    }

    /// What was dropped so far, in words; empty if nothing.
    ///
    /// # Errors
    /// When the data plane is gone.
    pub fn drops(&mut self) -> Result<Vec<(String, u64)>> {
        match self.call(&Request::ShowDrops)? {
            Response::Drops { drops } => {
                let named = |row: proto::dataplane::DropStatus| (row.reason, row.packets);
                Ok(drops.into_iter().map(named).filter(|(_, packets)| *packets > 0).collect())
            }
            other => bail!("the data plane answered with {other:?}"),
        }
    }

    /// Waits until every worker has done something since it was asked first: what was stopped by a signal runs again.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_for_packets(&mut self) -> Result<()> {
        let sent = |workers: Vec<WorkerStatus>| workers.iter().map(|worker| worker.ledger.tx).sum::<u64>();
        let before = sent(self.workers()?);
        wait_until("packets leave the data plane", PATIENCE, || {
            let now = sent(self.workers()?);
            ensure!(now > before, "none so far; dropped: {:?}", self.drops()?);
            Ok(())
        })
    }
}
