//! What the socket's threads share: the current tables, the ports, and the handles on the workers. Workers never see it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use dpdk::Eal;
use flow::Flows;
use pipeline::Adjacencies;
use publish::Publisher;
use tables::Tables;

use crate::frame::Pools;
use crate::handover::{PortOwners, WorkerShared};
use crate::ports::Ports;

/// One at a time has it: changes are made in turn.
pub(crate) struct Core {
    pub(crate) eal: Eal,
    pub(crate) pools: Pools,
    pub(crate) publisher: Publisher<Tables>,
    /// What the next transaction starts from: the published tables, and ports added since.
    pub(crate) tables: Tables,
    pub(crate) ports: Ports,
    pub(crate) workers: Arc<[Arc<WorkerShared>]>,
    pub(crate) owners: Arc<PortOwners>,
    pub(crate) flows: Arc<Flows>,
    pub(crate) adjacencies: Arc<Adjacencies>,
    /// DPDK's arguments for the devices named at start, by device name.
    pub(crate) devices: BTreeMap<String, String>,
    /// The file that keeps connections; what else is to outlast the process lies beside it.
    pub(crate) state: Option<PathBuf>,
    /// Made anew at each start.
    pub(crate) instance: String,
    pub(crate) started: Instant,
    /// Said once at start and in every status: what runs slower or with less than it might.
    pub(crate) warnings: Vec<String>,
}
