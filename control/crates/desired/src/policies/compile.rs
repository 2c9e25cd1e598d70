//! One policy as rules: its words first, then the numbers of the groups that they speak of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    /// Numbers that pods gave to names of ports so far.
    numbers: usize,
}

/// What one policy may come to, so that none takes up what all on a node share. Those that people write come to a hundredth of it.
mod budget {
    /// Rules, one for each port that they name.
    pub(super) const RULES: usize = 1_024;
    /// What its peers say, once for each port: themselves, their exceptions, their selectors' terms and values.
    pub(super) const WORDS: usize = 65_536;
    /// Different peers that are pods.
    pub(super) const GROUPS: usize = 1_024;
    /// Pairs of a range or exception and another `ipBlock` that holds it.
    pub(super) const OVERLAPS: usize = 262_144;
    /// Numbers that its peers' pods give to names of egress ports.
    pub(super) const NUMBERS: usize = 1_024;
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
    pub(crate) peers: Option<Arc<[P]>>,
    /// The same in words.
    pub(crate) says: Arc<str>,
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
        if let Some(excess) = weighed(policy) {
            return Self::closed(policy, vec![excess]);
        }
        let unread = policy
            .pods
            .unknown()
            .map(|own| format!("spec.podSelector: {}; taken to select, and to allow nothing", unknown(own)));
        let unread: Vec<String> = unread.collect();
        if !unread.is_empty() {
            return Self::closed(policy, unread);
        }
        let of = |rules: &Option<Vec<PolicyRule>>, words: &mut Self, direction: Direction| {
            let rules = rules.iter().flatten().enumerate();
            rules.map(|(i, rule)| words.peers_of(name, direction, i, rule)).collect::<Vec<_>>()
        };
        let coming = of(&policy.ingress, &mut words, Direction::Ingress);
        let going = of(&policy.egress, &mut words, Direction::Egress);
        if let Some(excess) = excess(coming.iter().chain(&going).flatten().flat_map(|own| own.iter())) {
            return Self::closed(policy, vec![excess]);
        }
        let mut rules = |rules: &[PolicyRule], peers: Vec<Option<Arc<[Peer]>>>, direction| {
            let rules = rules.iter().zip(peers).enumerate();
            rules.flat_map(|(i, rule)| words.rule(name, direction, i, rule, &numbers)).collect()
        };
        let ingress = policy.ingress.as_deref().map(|own| rules(own, coming, Direction::Ingress));
        let egress = policy.egress.as_deref().map(|own| rules(own, going, Direction::Egress));
        Self { ingress, egress, problems: few(words.problems), ..words }
    }

    /// Allows nothing.
    fn closed(policy: &NetworkPolicy, problems: Vec<String>) -> Self {
        let closed = |direction: &Option<Vec<PolicyRule>>| direction.as_ref().map(|_| Vec::new());
        let (ingress, egress) = (closed(&policy.ingress), closed(&policy.egress));
        Self { ingress, egress, problems: few(problems), ..Self::default() }
    }

    /// Whom a rule speaks of, each once; `None`: anybody.
    fn peers_of(
        &mut self,
        policy: &ObjectName,
        direction: Direction,
        i: usize,
        rule: &PolicyRule,
    ) -> Option<Arc<[Peer]>> {
        if rule.peers.is_empty() {
            return None;
        }
        let (field, peers) = direction.fields();
        let mut known = BTreeSet::new();
        let all = rule.peers.iter().enumerate();
        let all =
            all.filter_map(|(j, own)| self.peer(policy, own, &format!("spec.{field}[{i}].{peers}[{j}]")));
        Some(all.filter(|own| known.insert(own.clone())).collect())
    }

    fn rule(
        &mut self,
        policy: &ObjectName,
        direction: Direction,
        i: usize,
        (rule, peers): (&PolicyRule, Option<Arc<[Peer]>>),
        numbers: &impl Fn(&Group, &str, &Protocol) -> BTreeSet<u16>,
    ) -> Vec<Rule<Peer>> {
        let (field, _) = direction.fields();
        let name = format!("{policy} {field}[{i}]");
        let field = format!("spec.{field}[{i}]");
        let words = |peers: &Option<Arc<[Peer]>>| peers.as_deref().map(said).unwrap_or_default().into();
        let says: Arc<str> = words(&peers);
        let of = |protocol, ports| Rule {
            name: name.clone(),
            says: Arc::clone(&says),
            peers: peers.clone(),
            protocol,
            ports,
        };
        if peers.as_ref().is_some_and(|own| own.is_empty()) {
            return Vec::new();
        }
        if rule.ports.is_empty() {
            return vec![of(None, Ports::Any)];
        }
        let mut found = Vec::new();
        for (j, port) in rule.ports.iter().enumerate() {
            let field = format!("{field}.ports[{j}]");
            let Some(protocol) = port.protocol.number() else {
                self.problems.push(format!("{field}.protocol `{}` is not known; left out", port.protocol));
                continue;
            };
            match &port.port {
                None => found.push(of(Some(protocol), Ports::Any)),
                Some(PortMatch::Unread(why)) => {
                    self.problems.push(format!("{field} cannot be read: {why}; left out"));
                }
                Some(PortMatch::Range(first, last)) => {
                    let ports = Ports::Range(PortRange { first: *first, last: *last });
                    found.push(of(Some(protocol), ports));
                }
                Some(PortMatch::Named(named)) if direction == Direction::Ingress => {
                    found.push(of(Some(protocol), Ports::Named(named.clone(), port.protocol.clone())));
                }
                Some(PortMatch::Named(named)) => {
                    self.named.insert((named.clone(), port.protocol.clone()));
                    let all = [Peer::Pods(Group::of_all())];
                    if peers.iter().flat_map(|own| own.iter()).any(|peer| matches!(peer, Peer::Block(_))) {
                        let text = format!("port `{named}` is a name, which an ipBlock gives no number to");
                        self.problems.push(format!("{field}: {text}; left out for the ipBlocks"));
                    }
                    let mut by_number: BTreeMap<u16, Vec<Peer>> = BTreeMap::new();
                    for peer in peers.as_deref().unwrap_or(&all) {
                        let Peer::Pods(group) = peer else { continue };
                        let own = numbers(group, named, &port.protocol);
                        self.numbers += own.len();
                        if self.numbers > budget::NUMBERS {
                            break;
                        }
                        for number in own {
                            let port = Some((named.clone(), port.protocol.clone(), number));
                            let group = Group { port, ..group.clone() };
                            by_number.entry(number).or_default().push(Peer::Pods(group));
                        }
                    }
                    if self.numbers > budget::NUMBERS {
                        let most = budget::NUMBERS;
                        let text =
                            format!("port `{named}`: pods give the names of ports more than {most} numbers");
                        self.problems.push(format!("{field}: {text}; left out"));
                        continue;
                    }
                    found.extend(by_number.into_iter().map(|(number, peers)| {
                        let ports = Ports::Range(PortRange { first: number, last: number });
                        let peers = Some(Arc::from(peers));
                        Rule { says: words(&peers), peers, ..of(Some(protocol), ports) }
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
        let all: BTreeSet<&Peer> =
            rules.flat_map(|rule| rule.peers.iter().flat_map(|own| own.iter())).collect();
        all.into_iter().cloned().collect()
    }

    pub(crate) fn compiled(self, number: impl Fn(&Peer) -> Option<u32>) -> Compiled {
        let peers = self.peers();
        let rule = |Rule { name, peers, says, protocol, ports }: Rule<Peer>| {
            let numbers = |peers: Arc<[Peer]>| {
                let mut numbers: Vec<u32> = peers.iter().filter_map(&number).collect();
                numbers.sort_unstable();
                numbers.dedup();
                Arc::from(numbers)
            };
            Rule { name, peers: peers.map(numbers), says, protocol, ports }
        };
        let rules = |rules: Option<Vec<_>>| rules.map(|rules| rules.into_iter().map(rule).collect());
        Compiled { ingress: rules(self.ingress), egress: rules(self.egress), named: self.named, peers }
    }
}

impl Direction {
    /// Its field, and that of its rules' peers.
    const fn fields(self) -> (&'static str, &'static str) {
        match self {
            Self::Ingress => ("ingress", "from"),
            Self::Egress => ("egress", "to"),
        }
    }
}

/// What a policy says too much of, as it is written: nothing is made of it before.
fn weighed(policy: &NetworkPolicy) -> Option<String> {
    let (mut rules, mut words) = (0, 0);
    for rule in policy.ingress.iter().chain(&policy.egress).flatten() {
        let ports = rule.ports.len().max(1);
        rules += ports;
        words += ports * rule.peers.iter().map(weight).sum::<usize>();
    }
    too_much(rules, budget::RULES, "rules, one for each port").or_else(|| {
        too_much(words, budget::WORDS, "peers, exceptions and terms of selectors, once for each port")
    })
}

fn weight(peer: &PolicyPeer) -> usize {
    match peer {
        PolicyPeer::Block { except, .. } => 1 + except.len(),
        PolicyPeer::Pods { namespaces, pods } => {
            let terms = |own: &Selector| {
                let values = own.expressions.iter().map(|own| 1 + own.values.len());
                own.labels.iter().count() + values.sum::<usize>()
            };
            1 + namespaces.iter().chain(pods).map(terms).sum::<usize>()
        }
        PolicyPeer::Unread(_) => 1,
    }
}

/// What there is too much of in all its peers together.
fn excess<'a>(peers: impl Iterator<Item = &'a Peer>) -> Option<String> {
    let peers: BTreeSet<&Peer> = peers.collect();
    let groups = peers.iter().filter(|peer| matches!(peer, Peer::Pods(_))).count();
    let blocks = peers.iter().filter_map(|peer| match peer {
        Peer::Block(block) => Some(block),
        Peer::Pods(_) => None,
    });
    let overlaps = overlaps(blocks, budget::OVERLAPS);
    too_much(groups, budget::GROUPS, "different peers that are pods")
        .or_else(|| too_much(overlaps, budget::OVERLAPS, "pairs of ipBlocks that overlap"))
}

fn too_much(found: usize, most: usize, what: &str) -> Option<String> {
    let text = "it allows nothing until it is split, or says the same in fewer words";
    (found > most).then(|| format!("it comes to more than {most} {what}: {text}"))
}

/// So many things about one policy are told, and how many more there are.
const PROBLEMS: usize = 16;

fn few(mut problems: Vec<String>) -> Vec<String> {
    let more = problems.len().saturating_sub(PROBLEMS);
    problems.truncate(PROBLEMS);
    problems.extend((more > 0).then(|| format!("{more} more like these")));
    problems
}

/// So many in words, and how many more there are.
const SAID: usize = 8;

/// Longest text of all of them, in bytes.
const LENGTH: usize = 512;

fn said(peers: &[Peer]) -> String {
    let mut text = String::new();
    for (i, peer) in peers.iter().enumerate() {
        let own = match peer {
            Peer::Pods(group) => group.to_string(),
            Peer::Block(block) => block.to_string(),
        };
        if i == SAID || text.len() + own.len() > LENGTH {
            let more = peers.len() - i;
            return if i == 0 {
                format!("{more} peers of many words")
            } else {
                format!("{text}; {more} more")
            };
        }
        text += if i == 0 { "" } else { "; " };
        text += &own;
    }
    text
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
