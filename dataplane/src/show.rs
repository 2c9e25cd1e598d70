//! Read-only answers: snapshot, status, ports, routes, services, policies, neighbours, workers, drops; flows and traces in `view`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use crossbeam::channel;
use dpdk::Eal;
use pipeline::DropReason;
use proto::dataplane as rows;
use tables::{EndpointKind, Origin, PortId, PortRole, Target, TunnelPeer};

use crate::clock;
use crate::convert;
use crate::core::Core;
use crate::counters::Direction;
use crate::frame::Pools;
use crate::handover::{Command, WorkerShared};

mod view;

/// Longest wait for a worker to tell of its neighbours.
const ANSWER: Duration = Duration::from_secs(2);

/// One direction of a port, over all workers.
#[derive(Clone, Debug)]
pub(crate) struct Total {
    packets: u64,
    bytes: u64,
    drops: [u64; DropReason::COUNT],
}

impl Default for Total {
    fn default() -> Self {
        Self { packets: 0, bytes: 0, drops: [0; DropReason::COUNT] }
    }
}

impl Total {
    fn add(&mut self, direction: &Direction) {
        self.packets += direction.packets.get();
        self.bytes += direction.bytes.get();
        for (sum, counter) in self.drops.iter_mut().zip(&direction.drops) {
            *sum += counter.get();
        }
    }

    fn less(mut self, earlier: &Self) -> Self {
        self.packets -= earlier.packets;
        self.bytes -= earlier.bytes;
        for (sum, before) in self.drops.iter_mut().zip(&earlier.drops) {
            *sum -= before;
        }
        self
    }
}

/// Both directions of a port, over all workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    rx: Total,
    tx: Total,
    /// What the policy of the endpoint behind it forbids, in and out.
    denied: [u64; 2],
}

impl Totals {
    /// What all workers have counted for this id.
    pub(crate) fn of(workers: &[Arc<WorkerShared>], port: PortId) -> Self {
        let mut totals = Self::default();
        for worker in workers {
            let counters = worker.counters.port(port);
            totals.rx.add(&counters.rx);
            totals.tx.add(&counters.tx);
            for (sum, counter) in totals.denied.iter_mut().zip(&counters.denied) {
                *sum += counter.get();
            }
        }
        totals
    }

    fn since(self, earlier: &Self) -> Self {
        let [into, out] = self.denied;
        let [into_before, out_before] = earlier.denied;
        Self {
            rx: self.rx.less(&earlier.rx),
            tx: self.tx.less(&earlier.tx),
            denied: [into - into_before, out - out_before],
        }
    }
}

impl Core {
    pub(crate) fn snapshot(&self) -> rows::Snapshot {
        let router = self.tables.router();
        rows::Snapshot {
            generation: self.publisher.generation(),
            ports: self.ports.iter().map(|record| record.info.clone()).collect(),
            router: Some(rows::Router {
                gateway4: router.gateway4,
                gateway6: router.gateway6,
                dns_servers: self.tables.resolver().servers().to_vec(),
                dns_search: self.tables.resolver().search().to_vec(),
            }),
            interfaces: self
                .tables
                .interfaces()
                .map(|interface| rows::Interface {
                    port: self.port_name(interface.port),
                    network: interface.network.0,
                    addresses: interface
                        .addresses
                        .iter()
                        .map(|&(address, prefix_len)| rows::InterfaceAddress { address, prefix_len })
                        .collect(),
                })
                .collect(),
            endpoints: self
                .tables
                .endpoints()
                .map(|endpoint| rows::Endpoint {
                    name: endpoint.name.clone(),
                    port: self.port_name(endpoint.port),
                    network: endpoint.network.0,
                    mac: endpoint.mac,
                    addresses: endpoint.addresses.clone(),
                    routes: endpoint.routes.clone(),
                    kind: match endpoint.kind {
                        EndpointKind::Pod => rows::EndpointKind::Pod,
                        EndpointKind::Host => rows::EndpointKind::Host,
                    },
                })
                .collect(),
            routes: self
                .tables
                .routes()
                .filter(|route| route.origin == Origin::Configured)
                .filter_map(|route| {
                    let key = rows::RouteKey { network: route.network.0, prefix: route.prefix };
                    self.route_target(route.target).map(|target| rows::Route { key, target })
                })
                .collect(),
            frontends: self.show_services().into_iter().map(Arc::new).collect(),
            identities: self.tables.identities().map(convert::identity_row).collect(),
            blocks: self.tables.blocks().map(convert::identity_row).collect(),
            memberships: self.memberships(),
            policies: self.policies(),
            masquerades: self
                .tables
                .masquerades()
                .map(|(network, masquerade)| convert::masquerade_row(network, masquerade))
                .collect(),
            tunnel_peers: self
                .tables
                .tunnel_peers()
                .map(|peer| rows::TunnelPeer {
                    key: rows::TunnelPeerKey { port: self.port_name(peer.port), address: peer.addr },
                    mac: peer.mac,
                })
                .collect(),
        }
    }

    pub(crate) fn status(&self) -> rows::Status {
        let pools = &self.pools;
        rows::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: self.publisher.generation(),
            committed: self.publisher.committed(),
            dpdk: Eal::version(),
            hugepages: self.eal.hugepages(),
            mbufs: pools.small.size() + pools.large.size(),
            mbufs_in_use: pools.small.in_use() + pools.large.in_use(),
            ports: count(self.ports.len()),
            endpoints: count(self.tables.endpoints().count()),
            routes: self.tables.routes().count() as u64,
            workers: count(self.workers.len()),
            flows4: rows::FlowUse { used: self.flows.v4.len(), capacity: self.flows.v4.capacity() },
            flows6: rows::FlowUse { used: self.flows.v6.len(), capacity: self.flows.v6.capacity() },
            warnings: self.warnings.iter().cloned().chain(short(pools)).collect(),
        }
    }

    pub(crate) fn show_ports(&self) -> Vec<rows::PortStatus> {
        self.ports
            .iter()
            .map(|record| {
                let id = PortId(record.info.id);
                let totals = Totals::of(&self.workers, id).since(&record.baseline);
                let role = self.tables.port(id).map_or(PortRole::Idle, |entry| entry.role);
                rows::PortStatus {
                    info: record.info.clone(),
                    worker: record.workers.first().map_or(0, |&worker| u32::from(worker)),
                    up: record.handle.is_up(),
                    role: match role {
                        PortRole::Idle => String::new(),
                        PortRole::Uplink => "uplink".to_owned(),
                        PortRole::Tunnel { .. } => "tunnel".to_owned(),
                        PortRole::Endpoint(id) => {
                            self.tables.endpoint(id).map(|endpoint| endpoint.name.clone()).unwrap_or_default()
                        }
                    },
                    rx_packets: totals.rx.packets,
                    rx_bytes: totals.rx.bytes,
                    rx_drops: totals.rx.drops.iter().sum(),
                    tx_packets: totals.tx.packets,
                    tx_bytes: totals.tx.bytes,
                    tx_drops: totals.tx.drops.iter().sum(),
                    device: record.handle.device(),
                }
            })
            .collect()
    }

    pub(crate) fn show_routes(&self) -> rows::Response {
        let routes = self
            .tables
            .routes()
            .map(|route| rows::RouteStatus {
                network: route.network.0,
                prefix: route.prefix,
                origin: match route.origin {
                    Origin::Local => "local",
                    Origin::Endpoint => "endpoint",
                    Origin::Connected => "connected",
                    Origin::Configured => "configured",
                }
                .to_owned(),
                target: match route.target {
                    Target::Endpoint(id) => self.tables.endpoint(id).map_or_else(String::new, |endpoint| {
                        format!("endpoint {} dev {}", endpoint.name, self.port_name(endpoint.port))
                    }),
                    Target::NextHop { port, addr, .. } => format!("via {addr} dev {}", self.port_name(port)),
                    Target::Connected(port) => format!("connected dev {}", self.port_name(port)),
                    Target::Local => "local".to_owned(),
                    Target::Blackhole => "blackhole".to_owned(),
                    Target::Unreachable => "unreachable".to_owned(),
                },
            })
            .collect();
        rows::Response::Routes { generation: self.publisher.generation(), routes }
    }

    /// By key, which the tables do not keep them by.
    pub(crate) fn show_services(&self) -> Vec<rows::Frontend> {
        let mut all: Vec<_> = self.tables.frontends().map(convert::frontend_row).collect();
        all.sort_unstable_by_key(|frontend| frontend.key);
        all
    }

    /// By identity.
    fn memberships(&self) -> Vec<rows::Membership> {
        let mut all: Vec<_> = self.tables.memberships().map(convert::membership_row).collect();
        all.sort_unstable_by_key(|row| row.identity);
        all
    }

    /// By the name of the endpoint.
    fn policies(&self) -> Vec<rows::Policy> {
        let rows = self.tables.policies();
        let mut all: Vec<_> = rows.map(|(endpoint, policy)| convert::policy_row(endpoint, policy)).collect();
        all.sort_unstable_by(|a, b| a.endpoint.cmp(&b.endpoint));
        all
    }

    pub(crate) fn show_policies(&self) -> Vec<rows::PolicyStatus> {
        let status = |policy: rows::Policy| {
            let endpoint = self.tables.endpoint_by_name(&policy.endpoint);
            let record = |id: PortId| self.ports.iter().find(|record| record.info.id == id.0);
            let [denied_ingress, denied_egress] =
                endpoint.and_then(|endpoint| record(endpoint.port)).map_or([0, 0], |record| {
                    Totals::of(&self.workers, PortId(record.info.id)).since(&record.baseline).denied
                });
            rows::PolicyStatus { present: endpoint.is_some(), policy, denied_ingress, denied_egress }
        };
        self.policies().into_iter().map(status).collect()
    }

    /// Asks every worker; none stops for it.
    pub(crate) fn show_neighbours(&self) -> anyhow::Result<Vec<rows::NeighbourStatus>> {
        let (reply, answers) = channel::bounded(self.workers.len());
        for worker in self.workers.iter() {
            worker.command(Command::Neighbours(reply.clone()));
        }
        drop(reply);
        let mut all = Vec::new();
        for _ in 0..self.workers.len() {
            let answer = answers.recv_timeout(ANSWER);
            let (now, neighbours) =
                answer.with_context(|| format!("a worker does not answer within {ANSWER:?}"))?;
            all.extend(neighbours.into_iter().map(|row| rows::NeighbourStatus {
                port: self.port_name(row.port),
                address: row.address,
                mac: row.mac,
                state: row.state.name().to_owned(),
                age_ms: now.since(row.since) / 1_000,
                held: row.held,
                path_mtu: None,
            }));
        }
        let path_mtu = |peer: &TunnelPeer| {
            let port = self.tables.port(peer.port)?;
            self.adjacencies.path_mtu(port, peer.addr, clock::now())
        };
        all.extend(self.tables.tunnel_peers().map(|peer| rows::NeighbourStatus {
            port: self.port_name(peer.port),
            address: peer.addr,
            mac: Some(peer.mac),
            state: "permanent".to_owned(),
            age_ms: 0,
            held: 0,
            path_mtu: path_mtu(peer),
        }));
        all.sort_by(|a, b| (&a.port, a.address).cmp(&(&b.port, b.address)));
        Ok(all)
    }

    pub(crate) fn show_workers(&self) -> Vec<rows::WorkerStatus> {
        self.workers
            .iter()
            .map(|worker| rows::WorkerStatus {
                id: u32::from(worker.id),
                kind: worker.kind.name().to_owned(),
                core: worker.core.map(count),
                ports: self
                    .ports
                    .iter()
                    .filter(|record| record.workers.contains(&worker.id))
                    .map(|record| record.info.spec.name.clone())
                    .collect(),
                generation: worker.counters.generation.get(),
                icmp_errors_suppressed: worker.counters.icmp_suppressed.get(),
                handed_waiting: count(worker.inbox.len()),
                handover_full: worker.counters.drops_of(DropReason::HandoverFull),
                parked: worker.doorbell.is_parked(),
                busy_permille: worker.counters.busy_permille.load(Ordering::Relaxed),
                ledger: worker.counters.ledger(),
                flows: worker.counters.flows.row(),
                load: worker.counters.load(dpdk::cycles_hz(&self.eal)),
            })
            .collect()
    }

    /// Every reason on every port, zeros too: a monitor wants to know what there could be.
    pub(crate) fn show_drops(&self) -> Vec<rows::DropStatus> {
        let mut all = Vec::new();
        for record in self.ports.iter() {
            let totals = Totals::of(&self.workers, PortId(record.info.id)).since(&record.baseline);
            for (direction, total) in [("rx", &totals.rx), ("tx", &totals.tx)] {
                all.extend(DropReason::ALL.iter().zip(&total.drops).map(|(reason, &packets)| {
                    rows::DropStatus {
                        port: record.info.spec.name.clone(),
                        direction: direction.to_owned(),
                        reason: reason.name().to_owned(),
                        description: reason.description().to_owned(),
                        packets,
                    }
                }));
            }
        }
        all
    }

    /// `None` for targets that no transaction can set.
    fn route_target(&self, target: Target) -> Option<rows::RouteTarget> {
        Some(match target {
            Target::NextHop { port, addr, inside } => {
                rows::RouteTarget::NextHop { port: self.port_name(port), address: addr, inside }
            }
            Target::Connected(port) => rows::RouteTarget::Connected { port: self.port_name(port) },
            Target::Blackhole => rows::RouteTarget::Blackhole,
            Target::Unreachable => rows::RouteTarget::Unreachable,
            Target::Endpoint(id) => {
                rows::RouteTarget::Endpoint { name: self.tables.endpoint(id)?.name.clone() }
            }
            Target::Local => return None,
        })
    }

    fn port_name(&self, id: PortId) -> String {
        self.tables.port(id).map_or_else(|| format!("#{id}"), |entry| entry.name.clone())
    }
}

/// Says which pools are nearly empty, and so who waits or loses packets for it.
fn short(pools: &Pools) -> impl Iterator<Item = String> {
    let pools = [
        (&pools.small, "--mbufs", "what NICs and guests send is dropped (no-buffer)"),
        (&pools.large, "--large-mbufs", "kernel pods wait"),
    ];
    pools.into_iter().filter(|(pool, ..)| pool.available() < pool.size() / 20).map(|(pool, flag, what)| {
        format!(
            "{} of {} packet buffers are in use: {what}; start with more {flag}",
            pool.in_use(),
            pool.size()
        )
    })
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
