//! Several nodes on this machine, each with its own processes, on one network: a cluster whose manifests all of them read.

use std::sync::Arc;

use anyhow::{Result, bail};

use crate::artefacts::Artefacts;
use crate::lan::Lan;
use crate::manifests::{Manifests, NodeObject};
use crate::node::{Node, Options, Uplink};
use crate::pod::Family;
use crate::run::Run;
use crate::site::Site;

/// Nodes that run. Dropping it ends them.
#[derive(Debug)]
pub struct Cluster {
    /// By number.
    pub nodes: Vec<Node>,
    pub lan: Lan,
    manifests: Manifests,
    uplink: Uplink,
    underlay: Option<Family>,
}

impl Cluster {
    /// Builds the first `count` nodes, and waits until each forwards and knows the way to all others.
    ///
    /// # Errors
    /// As [`Node::start`]; or they are more than there are addresses for.
    pub fn start(run: &Arc<Run>, artefacts: &Artefacts, options: &Options, count: u8) -> Result<Self> {
        if !(1..=Site::MOST).contains(&count) {
            bail!("a cluster here has 1 to {} nodes, not {count}", Site::MOST);
        }
        let lan = Lan::create(run, options)?;
        let manifests = Manifests::create(&run.dir().join("manifests"))?;
        let Options { uplink, underlay, .. } = *options;
        let mut cluster = Self { nodes: Vec::new(), lan, manifests, uplink, underlay };
        let sites: Vec<Site> = Site::first(count).collect();
        cluster.tell(&sites)?;
        for &site in &sites {
            cluster.join(run, artefacts, options.clone(), site)?;
        }
        Ok(cluster)
    }

    /// Builds one more node; what the cluster says of it is another matter ([`Self::tell`]).
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn join(
        &mut self,
        run: &Arc<Run>,
        artefacts: &Artefacts,
        options: Options,
        site: Site,
    ) -> Result<()> {
        self.nodes.push(Node::join(run, artefacts, options, &self.lan, &self.manifests, site)?);
        Ok(())
    }

    /// Has the cluster consist of these nodes, as their Node objects say.
    ///
    /// # Errors
    /// As [`Manifests::write`].
    pub fn tell(&self, sites: &[Site]) -> Result<()> {
        let all: Vec<_> = sites
            .iter()
            .map(|site| {
                let routers = if self.uplink == Uplink::Kernel { site.host() } else { site.router() };
                let routers = match self.underlay {
                    None => routers.join(","),
                    Some(Family::V4) => routers[0].clone(),
                    Some(Family::V6) => routers[1].clone(),
                };
                (site.name(), site.pod_cidrs(), site.host(), routers)
            })
            .collect();
        let objects: Vec<NodeObject<'_>> = all
            .iter()
            .map(|(name, pod_cidrs, addresses, router)| NodeObject {
                name,
                pod_cidrs: pod_cidrs.each_ref().map(String::as_str),
                addresses: addresses.each_ref().map(String::as_str),
                router_addresses: Some(router),
            })
            .collect();
        self.manifests.write_nodes(&objects)
    }

    /// Has the cluster have these objects, as one file of that name, in place of those that it had.
    ///
    /// # Errors
    /// As [`Manifests::write`].
    pub fn set(&self, file: &str, objects: &[serde_json::Value]) -> Result<()> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.manifests.write(file, &list.to_string())
    }

    /// Whether every packet is accounted for, on each node.
    ///
    /// # Errors
    /// Which node's ledger does not add up.
    pub fn ledgers(&self) -> Result<()> {
        for node in &self.nodes {
            node.query().ledger().map_err(|error| error.context(node.site.name()))?;
        }
        Ok(())
    }

    /// Adds the ends of all logs to an error.
    ///
    /// # Errors
    /// That of `result`.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        self.nodes.iter().fold(result, |result, node| node.explain(result))
    }
}
