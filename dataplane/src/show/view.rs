//! Flows and traces: read by the client's own thread while workers write and others change the tables, with nothing locked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, bail};
use flow::{AFFINITY, Action, Flows, Row, Seconds, State, Tuple};
use pipeline::{Adjacencies, Fate, Ground, Outcome, Output, Question, Verdict};
use proto::dataplane as rows;
use tables::{Classifier, NetworkId, Policy, PortId, Tables, Target};
use wire::IpPrefix;

use crate::clock;
use crate::core::Core;
use crate::worker::FRAGMENT;

/// Records looked at for one answer.
const LOOKED_AT: u64 = 65_536;
/// Rows in one answer: a few megabytes.
const ROWS: usize = 8_192;

/// What is true at this moment, to be looked at for as long as it takes.
pub(crate) struct View {
    tables: Tables,
    flows: Arc<Flows>,
    adjacencies: Arc<Adjacencies>,
}

impl Core {
    pub(crate) fn view(&self) -> View {
        View {
            tables: self.tables.clone(),
            flows: Arc::clone(&self.flows),
            adjacencies: Arc::clone(&self.adjacencies),
        }
    }
}

impl View {
    /// A page: IPv4 by record, then IPv6.
    pub(crate) fn flows(&self, query: &rows::FlowQuery) -> anyhow::Result<rows::Response> {
        let wanted = Wanted::of(&self.tables, &query.filter)?;
        let Flows { v4, v6, .. } = &*self.flows;
        let four = u64::from(v4.capacity());
        let all = four + u64::from(v6.capacity());
        let most = query.limit.map_or(ROWS, |limit| usize::try_from(limit).unwrap_or(ROWS)).min(ROWS);
        let mut at = query.from;
        let end = at.saturating_add(LOOKED_AT).min(all);
        let now = clock::now().seconds();
        let mut flows = Vec::new();
        while at < end && flows.len() < most {
            let record = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
            let row = match at.checked_sub(four) {
                None => v4.row(record(at)).map(widen),
                Some(at) => v6.row(record(at)).map(widen),
            };
            at += 1;
            flows.extend(row.filter(|row| wanted.is(row)).map(|row| self.flow(&row, now)));
        }
        Ok(rows::Response::Flows { flows, next: (at < all).then_some(at) })
    }

    fn flow(&self, row: &Row<IpAddr>, now: Seconds) -> rows::FlowStatus {
        let Row { forward, life, binding, actions, rules: [egress, ingress], .. } = row;
        let ends = Ends::of(row);
        let idle = now.0.saturating_sub(life.seen().0);
        let is_flow = forward.protocol != AFFINITY;
        let time_out = match is_flow {
            true => self.flows.timeouts().of(forward.protocol, life.state()).0,
            false => *egress,
        };
        let rule = |number: u32| (is_flow && number != 0).then_some(number);
        // Policies are about the client as it is, and the destination that was chosen; the names are those that the rules have now.
        let policy = |addr| policy_of(&self.tables, NetworkId(forward.network), addr);
        let named = |rules: Option<&Arc<Classifier>>, number: u32| {
            let rules = rule(number).and(rules)?.rules();
            let name = rules.iter().find(|own| own.id == number).map(|own| own.name.to_string());
            name.filter(|name| !name.is_empty())
        };
        let egress_rule_name = policy(forward.src).and_then(|policy| named(policy.egress.as_ref(), *egress));
        let ingress_rule_name =
            policy(ends.destination.ip()).and_then(|policy| named(policy.ingress.as_ref(), *ingress));
        rows::FlowStatus {
            network: forward.network,
            protocol: rows::Protocol(protocol_of(row)),
            client: ends.client,
            service: binding.service.then_some(ends.asked),
            destination: ends.destination,
            masqueraded: (ends.source != ends.client).then_some(ends.source),
            state: state_of(row).to_owned(),
            joined: binding.joined,
            age_seconds: real(now.0.saturating_sub(binding.since.0)),
            idle_seconds: real(idle),
            left_seconds: real(time_out.saturating_sub(idle)),
            owner: self.port_name(binding.owner),
            forward: self.way(actions[0]),
            reply: self.way(actions[1]),
            egress_rule: rule(*egress),
            ingress_rule: rule(*ingress),
            egress_rule_name,
            ingress_rule_name,
        }
    }

    fn way(&self, action: Action) -> Option<rows::FlowWay> {
        if !action.is_some() {
            return None;
        }
        let output = self.adjacencies.output(action.adjacency())?;
        Some(rows::FlowWay {
            input: self.port_name(action.in_port()),
            output: self.port_name(output.port().0),
            next_hop: next_hop(output),
            generation: action.generation(),
        })
    }

    /// What would become of a packet.
    pub(crate) fn trace(&self, question: &rows::TraceQuestion) -> anyhow::Result<rows::Response> {
        let rows::TraceQuestion { network, source: src, destination: dst, protocol, .. } = *question;
        let tables = &self.tables;
        if src.is_ipv4() != dst.is_ipv4() {
            bail!("{src} and {dst} are of two address families: no packet is from one to the other");
        }
        let named = |name: &String| {
            let port = (0..tables::MAX_PORTS).find_map(|id| {
                let port = tables.port(PortId(id))?;
                (port.name == *name).then_some(port.id)
            });
            port.with_context(|| format!("there is no port `{name}`"))
        };
        let asked = Question {
            network: NetworkId(network),
            src,
            dst,
            protocol: protocol.0,
            src_port: question.source_port,
            dst_port: question.destination_port,
            in_port: question.input.as_ref().map(named).transpose()?,
            length: question.length,
        };
        let Self { flows, adjacencies, .. } = self;
        let ground = Ground { tables, flows, adjacencies, now: clock::now(), fragment: FRAGMENT };
        let steps = pipeline::trace(&ground, &asked);
        let verdict = match steps.last().map(|step| &step.outcome) {
            Some(Outcome::Verdict { verdict, .. }) => self.verdict(*verdict),
            _ => bail!("such a packet cannot be followed"),
        };
        let step = |step: &pipeline::Step| rows::TraceStep {
            step: step.name.to_owned(),
            says: step.outcome.to_string(),
        };
        Ok(rows::Response::Trace(rows::Trace {
            generation: tables.generation().0,
            steps: steps.iter().map(step).collect(),
            verdict,
        }))
    }

    fn verdict(&self, verdict: Verdict) -> rows::TraceVerdict {
        let dropped = |reason: pipeline::DropReason, told| rows::TraceVerdict::Drop {
            reason: reason.name().to_owned(),
            description: reason.description().to_owned(),
            told,
        };
        let taken =
            |reason: &str, answered| rows::TraceVerdict::Consume { reason: reason.to_owned(), answered };
        match verdict {
            Verdict::Forward(output) => rows::TraceVerdict::Forward {
                output: self.port_name(output.port().0),
                next_hop: next_hop(output),
            },
            Verdict::Drop(reason) | Verdict::Denied { reason, .. } => dropped(reason, false),
            Verdict::Answer { fate: Fate::Dropped(reason), .. } => dropped(reason, true),
            Verdict::Consume(reason) => taken(reason.name(), false),
            Verdict::Answer { fate: Fate::Consumed(reason), .. } => taken(reason.name(), true),
            // The packet in question is no fragment.
            Verdict::Hold(_) => taken("fragment", false),
        }
    }

    fn port_name(&self, id: u16) -> String {
        self.tables.port(PortId(id)).map_or_else(|| format!("#{id}"), |port| port.name.clone())
    }
}

/// The policy of the endpoint of this node that has the address.
fn policy_of(tables: &Tables, network: NetworkId, addr: IpAddr) -> Option<&Policy> {
    match tables.lookup(network, addr)? {
        Target::Endpoint(id) => {
            tables.policy(tables.endpoint(id).filter(|own| own.addresses.contains(&addr))?.id)
        }
        _ => None,
    }
}

const fn next_hop(output: Output) -> Option<IpAddr> {
    match output {
        Output::Port(_) => None,
        Output::Neighbour { next_hop, .. } => Some(next_hop),
    }
}

/// What lists call the entries by which clients stay with their backends.
const STAYS: &str = "affinity";

fn state_of(row: &Row<IpAddr>) -> &'static str {
    if row.forward.protocol == AFFINITY { STAYS } else { row.life.state().name() }
}

/// Such an entry has its flows' where they have the client's port.
fn protocol_of(row: &Row<IpAddr>) -> u8 {
    let Tuple { protocol, src_port, .. } = row.forward;
    if protocol == AFFINITY { u8::try_from(src_port).unwrap_or(AFFINITY) } else { protocol }
}

/// The flow table's seconds are of 2^20 microseconds.
fn real(seconds: u32) -> u64 {
    (u64::from(seconds) << 20) / 1_000_000
}

fn widen<A: Into<IpAddr>>(row: Row<A>) -> Row<IpAddr> {
    let tuple = |tuple: Tuple<A>| {
        let Tuple { src, dst, src_port, dst_port, network, protocol } = tuple;
        Tuple { src: src.into(), dst: dst.into(), src_port, dst_port, network, protocol }
    };
    let Row { forward, reply, life, binding, actions, rules } = row;
    Row { forward: tuple(forward), reply: tuple(reply), life, binding, actions, rules }
}

/// A flow's addresses, with their ports.
struct Ends {
    client: SocketAddr,
    /// What the client sends to.
    asked: SocketAddr,
    /// Where that goes, and the source it has there.
    destination: SocketAddr,
    source: SocketAddr,
}

impl Ends {
    fn of(row: &Row<IpAddr>) -> Self {
        let Row { forward, reply, .. } = row;
        if forward.protocol == AFFINITY {
            let client = SocketAddr::new(forward.src, 0);
            let asked = SocketAddr::new(forward.dst, forward.dst_port);
            return Self {
                client,
                asked,
                destination: SocketAddr::new(reply.src, reply.src_port),
                source: client,
            };
        }
        Self {
            client: SocketAddr::new(forward.src, forward.src_port),
            asked: SocketAddr::new(forward.dst, forward.dst_port),
            destination: SocketAddr::new(reply.src, reply.src_port),
            source: SocketAddr::new(reply.dst, reply.dst_port),
        }
    }

    const fn all(&self) -> [SocketAddr; 4] {
        [self.client, self.asked, self.destination, self.source]
    }
}

/// A filter, understood.
struct Wanted {
    endpoint: Option<(u16, Vec<IpAddr>)>,
    prefix: Option<IpPrefix>,
    port: Option<u16>,
    protocol: Option<u8>,
    state: Option<&'static str>,
}

impl Wanted {
    fn of(tables: &Tables, filter: &rows::FlowFilter) -> anyhow::Result<Self> {
        let rows::FlowFilter { endpoint, prefix, port, protocol, state } = filter;
        let endpoint = endpoint.as_ref().map(|name| {
            let found =
                tables.endpoint_by_name(name).with_context(|| format!("there is no endpoint `{name}`"));
            found.map(|endpoint| (endpoint.network.0, endpoint.addresses.clone()))
        });
        let state =
            state.as_ref().map(|name| {
                let names: Vec<&str> = State::ALL.map(State::name).into_iter().chain([STAYS]).collect();
                names.iter().copied().find(|own| own == name).with_context(|| {
                    format!("`{name}` is no state of a flow; there are {}", names.join(", "))
                })
            });
        Ok(Self {
            endpoint: endpoint.transpose()?,
            prefix: *prefix,
            port: *port,
            protocol: protocol.map(|protocol| protocol.0),
            state: state.transpose()?,
        })
    }

    fn is(&self, row: &Row<IpAddr>) -> bool {
        let ends = Ends::of(row).all();
        let Self { endpoint, prefix, port, protocol, state } = self;
        protocol.is_none_or(|wanted| wanted == protocol_of(row))
            && state.is_none_or(|wanted| wanted == state_of(row))
            && port.is_none_or(|wanted| ends.iter().any(|end| end.port() == wanted))
            && prefix.is_none_or(|wanted| ends.iter().any(|end| wanted.contains(end.ip())))
            && endpoint.as_ref().is_none_or(|(network, addresses)| {
                *network == row.forward.network && ends.iter().any(|end| addresses.contains(&end.ip()))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::{Binding, Life};

    fn row(binding: Binding, reply: (&str, &str)) -> Row<IpAddr> {
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let tuple = |src: SocketAddr, dst: SocketAddr| Tuple {
            src: src.ip(),
            dst: dst.ip(),
            src_port: src.port(),
            dst_port: dst.port(),
            network: 0,
            protocol: 6,
        };
        Row {
            forward: tuple(socket("10.0.0.1:4000"), socket("10.96.0.1:80")),
            reply: tuple(socket(reply.0), socket(reply.1)),
            life: Life::live(State::Opening, Seconds(7)),
            binding,
            actions: [Action::NONE; 2],
            rules: [0, 0],
        }
    }

    #[test]
    fn a_filter_looks_at_every_address_of_a_flow() {
        let row = row(Binding::default(), ("10.0.0.2:8080", "192.0.2.1:50000"));
        let fits = |filter: rows::FlowFilter| Wanted::of(&Tables::empty(), &filter).unwrap().is(&row);
        let none = rows::FlowFilter::default;
        assert!(fits(none()));
        for text in ["10.0.0.1/32", "10.96.0.0/16", "10.0.0.2/31", "192.0.2.1/32"] {
            assert!(fits(rows::FlowFilter { prefix: Some(text.parse().unwrap()), ..none() }), "{text}");
        }
        for port in [4000, 80, 8080, 50000] {
            assert!(fits(rows::FlowFilter { port: Some(port), ..none() }), "{port}");
        }
        assert!(!fits(rows::FlowFilter { prefix: Some("10.0.1.0/24".parse().unwrap()), ..none() }));
        assert!(!fits(rows::FlowFilter { port: Some(81), ..none() }));
        assert!(!fits(rows::FlowFilter { protocol: Some(rows::Protocol(17)), ..none() }));
        assert!(fits(rows::FlowFilter { state: Some("opening".into()), ..none() }));
        assert!(!fits(rows::FlowFilter { state: Some("reset".into()), ..none() }));
        let refused =
            |filter: rows::FlowFilter| Wanted::of(&Tables::empty(), &filter).err().unwrap().to_string();
        assert!(
            refused(rows::FlowFilter { state: Some("open".into()), ..none() }).contains("finished-reply")
        );
        assert!(refused(rows::FlowFilter { endpoint: Some("a/b".into()), ..none() }).contains("`a/b`"));
    }
}
