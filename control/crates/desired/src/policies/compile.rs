//! One policy as rules: its words first, then the numbers of the groups that they speak of.

use std::collections::{BTreeMap, BTreeSet};

use proto::dataplane::{PortRange, Protocol as Number};

use super::blocks::{Block, overlaps, range, same_family};
use super::peers::{Group, Namespaces};
use crate::objects::{
    Expression, NetworkPolicy, ObjectName, Operator, PolicyPeer, PolicyRule, PortMatch, Protocol, Selector,
};

/// What a policy says, rule by rule. What of it cannot be honoured allows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Words {
    /// `None`: it does not speak of what comes in.
    pub(crate) ingress: Option<Vec<Rule<Peer>>>,
    pub(crate) egress: Option<Vec<Rule<Peer>>>,
    /// Names of ports that other pods give numbers to.
    pub(crate) named: BTreeSet<(Box<str>, Protocol)>,
    pub(crate) problems: Vec<String>,
    /// How often a rule names a peer, once for each of its ports.
    named_peers: usize,
}

/// What one policy may come to, so that none takes up what all on a node share. Those that people write come to a hundredth of it.
mod budget {
    /// Peers that its rules name, once for each port.
    pub(super) const NAMED_PEERS: usize = 65_536;
    /// Different ones of them that are pods.
    pub(super) const GROUPS: usize = 1_024;
    /// Ranges and exceptions.
    pub(super) const BOUNDARIES: usize = 65_536;
    /// Pairs of a range or exception and another `ipBlock` that holds it.
    pub(super) const OVERLAPS: usize = 262_144;
}

/// The same in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Compiled {
    pub(crate) ingress: Option<Vec<Rule<u32>>>,
    pub(crate) egress: Option<Vec<Rule<u32>>>,
    pub(crate) named: BTreeSet<(Box<str>, Protocol)>,
    /// What the numbers are for.
    pub(crate) peers: BTreeSet<Peer>,
}

/// Whom a rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Pods(Group),
    Block(Block),
}

/// A rule that allows what matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule<P> {
    /// As `shop/front ingress[0]`.
    pub(crate) name: String,
    /// `None`: anybody.
    pub(crate) peers: Option<Vec<P>>,
    /// The same in words.
    pub(crate) says: String,
    pub(crate) protocol: Option<Number>,
    pub(crate) ports: Ports,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ports {
    Any,
    Range(PortRange),
    /// The one that the pod itself gives that name to.
    Named(Box<str>, Protocol),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl Words {
    /// `numbers` are those that the pods of a group give to a port's name.
    pub(crate) fn of(
        name: &ObjectName,
        policy: &NetworkPolicy,
        numbers: impl Fn(&Group, &str, &Protocol) -> BTreeSet<u16>,
    ) -> Self {
        let mut words = Self::default();
        for expression in policy.pods.unknown() {
            let text = unknown(expression);
            words.problems.push(format!("spec.podSelector: {text}; taken to select, so that it closes"));
        }
        let mut rules = |rules: &[PolicyRule], direction| {
            let rules = rules.iter().enumerate();
            rules.flat_map(|(i, rule)| words.rule(name, direction, i, rule, &numbers)).collect()
        };
        let ingress = policy.ingress.as_deref().map(|own| rules(own, Direction::Ingress));
        let egress = policy.egress.as_deref().map(|own| rules(own, Direction::Egress));
        (words.ingress, words.egress) = (ingress, egress);
        if let Some(excess) = words.excess() {
            let closed = |direction: &Option<Vec<_>>| direction.as_ref().map(|_| Vec::new());
            let text = "it allows nothing until it is split, or says the same in fewer words";
            words = Self {
                ingress: closed(&words.ingress),
                egress: closed(&words.egress),
                problems: vec![format!("{excess}: {text}")],
                ..Self::default()
            };
        }
        let more = words.problems.len().saturating_sub(PROBLEMS);
        words.problems.truncate(PROBLEMS);
        words.problems.extend((more > 0).then(|| format!("{more} more like these")));
        words
    }

    /// What there is too much of.
    fn excess(&self) -> Option<String> {
        let over = |found: usize, most: usize, what: &str| {
            (found > most).then(|| format!("its rules come to more than {most} {what}"))
        };
        let first = over(self.named_peers, budget::NAMED_PEERS, "peers, each counted once for each port");
        first.or_else(|| {
            let peers = self.peers();
            let groups = peers.iter().filter(|peer| matches!(peer, Peer::Pods(_))).count();
            let blocks = peers.iter().filter_map(|peer| match peer {
                Peer::Block(block) => Some(block),
                Peer::Pods(_) => None,
            });
            let (boundaries, overlaps) = overlaps(blocks, budget::BOUNDARIES, budget::OVERLAPS);
            over(groups, budget::GROUPS, "different peers that are pods")
                .or_else(|| over(boundaries, budget::BOUNDARIES, "ranges and exceptions in ipBlocks"))
                .or_else(|| over(overlaps, budget::OVERLAPS, "pairs of ipBlocks that overlap"))
        })
    }

    fn rule(
        &mut self,
        policy: &ObjectName,
        direction: Direction,
        i: usize,
        rule: &PolicyRule,
        numbers: &impl Fn(&Group, &str, &Protocol) -> BTreeSet<u16>,
    ) -> Vec<Rule<Peer>> {
        let (field, peers_field) = match direction {
            Direction::Ingress => ("ingress", "from"),
            Direction::Egress => ("egress", "to"),
        };
        let name = format!("{policy} {field}[{i}]");
        let field = format!("spec.{field}[{i}]");
        let peers = (!rule.peers.is_empty()).then(|| {
            let peers = rule.peers.iter().enumerate();
            let peers =
                peers.filter_map(|(j, own)| self.peer(policy, own, &format!("{field}.{peers_field}[{j}]")));
            peers.collect::<Vec<_>>()
        });
        let each = peers.as_ref().map_or(1, Vec::len);
        let of = |peers: &Option<Vec<Peer>>, protocol, ports| Rule {
            name: name.clone(),
            says: peers.as_deref().map(said).unwrap_or_default(),
            peers: peers.clone(),
            protocol,
            ports,
        };
        if peers.as_ref().is_some_and(Vec::is_empty) {
            return Vec::new();
        }
        if rule.ports.is_empty() {
            self.named_peers += each;
            return vec![of(&peers, None, Ports::Any)];
        }
        let mut found = Vec::new();
        for (j, port) in rule.ports.iter().enumerate() {
            self.named_peers += each;
            if self.named_peers > budget::NAMED_PEERS {
                return Vec::new();
            }
            let field = format!("{field}.ports[{j}]");
            let Some(protocol) = port.protocol.number() else {
                self.problems.push(format!("{field}.protocol `{}` is not known; left out", port.protocol));
                continue;
            };
            match &port.port {
                None => found.push(of(&peers, Some(protocol), Ports::Any)),
                Some(PortMatch::Unread(why)) => {
                    self.problems.push(format!("{field} cannot be read: {why}; left out"));
                }
                Some(PortMatch::Range(first, last)) => {
                    let ports = Ports::Range(PortRange { first: *first, last: *last });
                    found.push(of(&peers, Some(protocol), ports));
                }
                Some(PortMatch::Named(named)) if direction == Direction::Ingress => {
                    found.push(of(
                        &peers,
                        Some(protocol),
                        Ports::Named(named.clone(), port.protocol.clone()),
                    ));
                }
                Some(PortMatch::Named(named)) => {
                    self.named.insert((named.clone(), port.protocol.clone()));
                    let all = [Peer::Pods(Group::of_all())];
                    if peers.iter().flatten().any(|peer| matches!(peer, Peer::Block(_))) {
                        let text = format!("port `{named}` is a name, which an ipBlock gives no number to");
                        self.problems.push(format!("{field}: {text}; left out for the ipBlocks"));
                    }
                    let mut by_number: BTreeMap<u16, Vec<Peer>> = BTreeMap::new();
                    for peer in peers.as_deref().unwrap_or(&all) {
                        let Peer::Pods(group) = peer else { continue };
                        for number in numbers(group, named, &port.protocol) {
                            self.named_peers += 1;
                            let port = Some((named.clone(), port.protocol.clone(), number));
                            let group = Group { port, ..group.clone() };
                            by_number.entry(number).or_default().push(Peer::Pods(group));
                        }
                    }
                    found.extend(by_number.into_iter().map(|(number, peers)| {
                        let ports = Ports::Range(PortRange { first: number, last: number });
                        of(&Some(peers), Some(protocol), ports)
                    }));
                }
            }
        }
        found
    }

    /// `None` for one that stands for nobody.
    fn peer(&mut self, policy: &ObjectName, peer: &PolicyPeer, field: &str) -> Option<Peer> {
        match peer {
            PolicyPeer::Pods { namespaces, pods } => {
                let selectors = [("namespaceSelector", namespaces), ("podSelector", pods)];
                for (which, selector) in selectors {
                    for expression in selector.iter().flat_map(Selector::unknown) {
                        let text = unknown(expression);
                        self.problems.push(format!("{field}.{which}: {text}; it selects nobody"));
                    }
                }
                let namespaces = match namespaces {
                    Some(selector) => Namespaces::Selected(selector.clone()),
                    None => Namespaces::One(policy.namespace.clone()),
                };
                let pods = pods.clone().unwrap_or_default();
                Some(Peer::Pods(Group { namespaces, pods, port: None }))
            }
            PolicyPeer::Unread(why) => {
                self.problems.push(format!("{field} cannot be read: {why}; it stands for nobody"));
                None
            }
            PolicyPeer::Block { cidr, except } => {
                let mut read = |field: &str, text: &str| {
                    let mut problem = |why: &str| {
                        self.problems.push(format!("{field} `{text}`: {why}; the ipBlock is left out"));
                    };
                    range(text).map_err(|why| problem(&why)).ok()
                };
                let name = format!("{field}.ipBlock.cidr");
                let range = read(&name, cidr)?;
                let mut excepted = BTreeSet::new();
                for (k, text) in except.iter().enumerate() {
                    // What is not known to be excepted must not be let in.
                    excepted.insert(read(&format!("{field}.ipBlock.except[{k}]"), text)?);
                }
                if !excepted.iter().all(|own| same_family(*own, range)) {
                    let text = format!("{name} `{cidr}`: not all of its `except` are of its family");
                    self.problems.push(format!("{text}; the ipBlock is left out"));
                    return None;
                }
                let cidr = range;
                Some(Peer::Block(Block { cidr, except: excepted.into_iter().collect() }))
            }
        }
    }

    /// Everybody whom it speaks of.
    pub(crate) fn peers(&self) -> BTreeSet<Peer> {
        let rules = self.ingress.iter().chain(&self.egress).flatten();
        rules.flat_map(|rule| rule.peers.iter().flatten()).cloned().collect()
    }

    pub(crate) fn compiled(self, number: impl Fn(&Peer) -> Option<u32>) -> Compiled {
        let peers = self.peers();
        let rule = |Rule { name, peers, says, protocol, ports }: Rule<Peer>| {
            let numbers = |peers: Vec<Peer>| {
                let mut numbers: Vec<u32> = peers.iter().filter_map(&number).collect();
                numbers.sort_unstable();
                numbers.dedup();
                numbers
            };
            Rule { name, peers: peers.map(numbers), says, protocol, ports }
        };
        let rules = |rules: Option<Vec<_>>| rules.map(|rules| rules.into_iter().map(rule).collect());
        Compiled { ingress: rules(self.ingress), egress: rules(self.egress), named: self.named, peers }
    }
}

/// So many things about one policy are told, and how many more there are.
const PROBLEMS: usize = 16;

/// So many in words, and how many more there are.
const SAID: usize = 8;

fn said(peers: &[Peer]) -> String {
    let words = |peer: &Peer| match peer {
        Peer::Pods(group) => group.to_string(),
        Peer::Block(block) => block.to_string(),
    };
    let mut all: Vec<String> = peers.iter().take(SAID).map(words).collect();
    if peers.len() > SAID {
        all.push(format!("{} more", peers.len() - SAID));
    }
    all.join("; ")
}

fn unknown(Expression { key, operator, .. }: &Expression) -> String {
    match operator {
        Operator::Other(operator) => {
            format!("matchExpressions: operator `{operator}` of key `{key}` is not known")
        }
        Operator::Unread(why) => format!("cannot be read: {why}"),
        _ => String::new(),
    }
}
