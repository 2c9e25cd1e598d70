//! A node of ours: kernel pods, with control on an API server.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use apiserver::ApiServer;
use lab::api;
use lab::artefacts::Artefacts;
use lab::client::Client;
use lab::netns::Netns;
use lab::node::{self, Options};
use lab::pod::{Kind, Pod};
use lab::process::Process;
use lab::run::Run;
use proto::dataplane::{Request, Response};
use rustix::process::Signal;

use super::objects::{self, Service};
use super::{MTU, Node};
use crate::bench::cluster::{generation, in_force};
use crate::bench::machine::megabytes_of;

/// A node whose control follows an API server in this process.
pub(super) struct Podrouter {
    node: node::Node,
    server: ApiServer,
    pods: [Pod; 3],
    /// Ports of Services, in all.
    frontends: usize,
}

impl Podrouter {
    /// Starts one with its pods.
    pub(super) fn start(run: &Arc<Run>, artefacts: &Artefacts) -> Result<Self> {
        let options = Options { pod_mtu: Some(MTU), ..Options::default() };
        let mut node = node::Node::start(run, artefacts, options)?;
        let [a, b, c] = ["a", "b", "c"].map(|name| Pod::attach(&node, name, Kind::Kernel));
        let pods = [a?, b?, c?];
        let server = api::serve(&node)?;
        server.set(objects::node());
        for pod in &pods {
            server.set(objects::pod(&pod.name, &pod.addresses));
        }
        api::follow(&mut node, &server)?;
        Ok(Self { node, server, pods, frontends: 0 })
    }

    fn client(&self) -> Result<Client> {
        Client::connect(&self.node.query().dataplane, || Ok(()))
    }

    /// Starts control on what the API server has by now; from its start to its first generation in force.
    fn restart(&mut self) -> Result<Duration> {
        self.node.control.stop()?;
        let mut client = self.client()?;
        let before = generation(&mut client)?;
        let began = Instant::now();
        let watching = thread::spawn(move || in_force(&mut client, before, began, Duration::from_millis(1)));
        let restarted = self.node.restart_control();
        let took = watching.join().map_err(|_| anyhow!("a thread panicked"))?;
        restarted?;
        self.node.explain(took)
    }

    fn verify_frontends(&self) -> Result<()> {
        match self.client()?.call(&Request::ShowServices)? {
            Response::Services { services } => {
                let (found, told) = (services.len(), self.frontends);
                ensure!(
                    found == told,
                    "the data plane has {found} frontends of {told} that control was told of"
                );
                Ok(())
            }
            other => bail!("the data plane answered with {other:?}"),
        }
    }
}

impl Node for Podrouter {
    fn name(&self) -> &'static str {
        "podrouter"
    }

    fn pod(&self, n: usize) -> (&Netns, Ipv4Addr) {
        let pod = &self.pods[n];
        let mut addresses = pod.addresses.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        (&pod.netns, addresses.next().unwrap_or(Ipv4Addr::UNSPECIFIED))
    }

    fn add(&mut self, services: &[Service]) -> Result<Duration> {
        for object in services.iter().flat_map(Service::objects) {
            self.server.set(object);
        }
        self.frontends += services.iter().map(|service| service.ports.len()).sum::<usize>();
        let took = self.restart().context("control on an API server with the Services")?;
        self.verify_frontends()?;
        Ok(took)
    }

    fn change(&mut self, _before: &Service, after: &Service) -> Result<Duration> {
        let mut client = self.client()?;
        let before = generation(&mut client)?;
        let slices: Vec<_> = after.objects().into_iter().skip(1).collect();
        let began = Instant::now();
        for slice in slices {
            self.server.set(slice);
        }
        in_force(&mut client, before, began, Duration::from_micros(100))
    }

    fn resume(&self) -> Result<()> {
        self.node.dataplane.signal(Signal::CONT)
    }

    fn pause(&self) -> Result<()> {
        self.node.dataplane.signal(Signal::STOP)
    }

    fn trouble(&self) -> String {
        let drops = self.node.query().drops_by_reason().unwrap_or_default();
        format!(", which has dropped {drops:?}\n{}\n", self.node.logs(15))
    }

    fn verify(&self) -> Result<()> {
        self.node.query().ledger().map(drop)
    }

    fn memory(&self) -> Result<Vec<(&'static str, f64)>> {
        let Self { node: node::Node { control, dataplane, .. }, .. } = self;
        let named = |what, process: &Process| anyhow::Ok((what, megabytes_of(process.pid(), "VmRSS")?));
        Ok(vec![named("control", control)?, named("data plane", dataplane)?])
    }
}
