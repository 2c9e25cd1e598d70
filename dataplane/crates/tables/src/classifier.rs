//! A list of rules, made ready to be asked: the first that matches wins, and where none does the answer is no.
//!
//! Rules are sorted out by whom they speak of, into *lanes*: one of those that speak of anyone, and one for each identity that is named
//! (identities which the same rules name share theirs). A lane is a step function of protocol and port: which of its rules is
//! the first to match. So a question is one search by identity and two by port, and the earlier of two answers; no rule
//! is looked at but the one that decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wire::protocol::{SCTP, TCP, UDP};

use crate::identities::IdentityId;

/// One rule. What it does not restrict matches anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What to call it in a trace.
    pub id: u32,
    /// Who is at the other end.
    pub peer: Peer,
    /// The IP protocol.
    pub protocol: Option<u8>,
    /// The first and last destination port. A protocol that has none does not match.
    pub ports: Option<(u16, u16)>,
    /// What becomes of a packet that matches.
    pub verdict: RuleVerdict,
}

/// Whom a rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Anyone, known or not.
    Any,
    /// These alone; [`IdentityId::WORLD`] may be among them.
    Identities(Vec<IdentityId>),
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleVerdict {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
}

/// An answer, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the packet.
    pub verdict: RuleVerdict,
    /// The rule that says so; [`None`]: no rule matches.
    pub rule: Option<u32>,
}

/// The rules of one direction of an endpoint.
#[derive(Debug, Clone)]
pub struct Classifier {
    rules: Box<[Rule]>,
    anyone: Lane,
    /// Sorted. The lane of each identity that is named is at the same place in `lane_of`.
    identities: Box<[IdentityId]>,
    lane_of: Box<[u32]>,
    lanes: Box<[Lane]>,
}

/// The first rule to match, by protocol and port.
#[derive(Debug, Clone, Default)]
struct Lane {
    /// Where a new answer begins: protocol and port in one number, ascending; the first is 0.
    starts: Box<[u32]>,
    /// The answers: positions of rules, [`NONE`] for none.
    firsts: Box<[u32]>,
}

/// No rule: later than any.
const NONE: u32 = u32::MAX;

/// Two are equal if their rules are: all else follows.
impl PartialEq for Classifier {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl Eq for Classifier {}

/// Whether packets of the protocol have ports.
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

#[inline]
fn point(protocol: u8, port: u16) -> u32 {
    u32::from(protocol) << 16 | u32::from(port)
}

impl Classifier {
    /// Makes rules ready. Takes time and room in proportion to the identities that they name.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut anyone = Vec::new();
        let mut named: BTreeMap<IdentityId, Vec<u32>> = BTreeMap::new();
        for (rule, position) in rules.iter().zip(0..) {
            match &rule.peer {
                Peer::Any => anyone.push(position),
                Peer::Identities(identities) => {
                    for identity in identities {
                        let rules = named.entry(*identity).or_default();
                        if rules.last() != Some(&position) {
                            rules.push(position);
                        }
                    }
                }
            }
        }
        let mut lanes = Vec::new();
        let mut known: HashMap<&[u32], u32> = HashMap::new();
        let lane_of = named
            .values()
            .map(|positions| {
                *known.entry(positions).or_insert_with(|| {
                    lanes.push(Lane::new(&rules, positions));
                    u32::try_from(lanes.len() - 1).unwrap_or(NONE)
                })
            })
            .collect();
        Self {
            anyone: Lane::new(&rules, &anyone),
            identities: named.keys().copied().collect(),
            lane_of,
            lanes: lanes.into(),
            rules: rules.into(),
        }
    }

    /// The rules, in their order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What becomes of a packet from or to `peer`. `port` is its destination port, 0 where the protocol has none.
    #[must_use]
    pub fn decide(&self, peer: IdentityId, protocol: u8, port: u16) -> Decision {
        let point = point(protocol, port);
        let of_peer = || {
            let place = self.identities.binary_search(&peer).ok()?;
            Some(self.lanes.get(*self.lane_of.get(place)? as usize)?.first(point))
        };
        let first = self.anyone.first(point).min(of_peer().unwrap_or(NONE));
        match self.rules.get(first as usize) {
            Some(rule) => Decision { verdict: rule.verdict, rule: Some(rule.id) },
            None => Decision { verdict: RuleVerdict::Deny, rule: None },
        }
    }
}

impl Lane {
    /// `positions` are those of the lane's rules, ascending.
    fn new(rules: &[Rule], positions: &[u32]) -> Self {
        let rules: Vec<(&Rule, u32)> = positions
            .iter()
            .filter_map(|&position| Some((rules.get(position as usize)?, position)))
            .collect();
        let named: BTreeSet<u8> = rules.iter().filter_map(|(rule, _)| rule.protocol).collect();
        let other = rules.iter().find(|(rule, _)| rule.protocol.is_none() && rule.ports.is_none());
        let mut steps: Vec<(u32, u32)> = Vec::new();
        for protocol in 0..=u8::MAX {
            if has_ports(protocol) || named.contains(&protocol) {
                steps_of(protocol, &rules, &mut steps);
            } else {
                steps.push((point(protocol, 0), other.map_or(NONE, |&(_, position)| position)));
            }
        }
        // Where the answer is that of the step before, no step is.
        steps.dedup_by_key(|&mut (_, first)| first);
        let (starts, firsts): (Vec<u32>, Vec<u32>) = steps.into_iter().unzip();
        Self { starts: starts.into(), firsts: firsts.into() }
    }

    #[inline]
    fn first(&self, point: u32) -> u32 {
        let step = self.starts.partition_point(|&start| start <= point);
        self.firsts.get(step.wrapping_sub(1)).copied().unwrap_or(NONE)
    }
}

/// The steps of one protocol: at each port where a rule begins or ends, the first of those that hold.
fn steps_of(protocol: u8, rules: &[(&Rule, u32)], steps: &mut Vec<(u32, u32)>) {
    let spans = || {
        rules.iter().filter_map(move |&(rule, position)| match rule.ports {
            _ if rule.protocol.is_some_and(|named| named != protocol) => None,
            Some(_) if !has_ports(protocol) => None,
            Some((first, last)) => {
                (first <= last).then_some((u32::from(first), u32::from(last) + 1, position))
            }
            None => Some((0, 1 << 16, position)),
        })
    };
    let mut edges: Vec<(u32, u32)> =
        spans().flat_map(|(from, to, position)| [(from, position), (to, position)]).collect();
    edges.sort_unstable();
    let mut holding = BTreeSet::new();
    let mut edges = edges.into_iter().peekable();
    let base = point(protocol, 0);
    steps.push((base, NONE));
    while let Some((port, position)) = edges.next() {
        // A rule begins at its first edge and ends at its second.
        if !holding.remove(&position) {
            holding.insert(position);
        }
        if edges.peek().is_none_or(|&(next, _)| next != port) && port < 1 << 16 {
            let first = holding.first().copied().unwrap_or(NONE);
            match steps.last_mut() {
                Some(last) if last.0 == base + port => last.1 = first,
                _ => steps.push((base + port, first)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(
        id: u32,
        peer: Peer,
        protocol: Option<u8>,
        ports: Option<(u16, u16)>,
        verdict: RuleVerdict,
    ) -> Rule {
        Rule { id, peer, protocol, ports, verdict }
    }

    /// The rules as they are written, one after the other.
    fn naive(rules: &[Rule], peer: IdentityId, protocol: u8, port: u16) -> Decision {
        let matches = |rule: &&Rule| {
            let peers = match &rule.peer {
                Peer::Any => true,
                Peer::Identities(identities) => identities.contains(&peer),
            };
            let ports = rule.ports.is_none_or(|(first, last)| {
                matches!(protocol, 6 | 17 | 132) && first <= port && port <= last
            });
            peers && rule.protocol.is_none_or(|named| named == protocol) && ports
        };
        match rules.iter().find(matches) {
            Some(rule) => Decision { verdict: rule.verdict, rule: Some(rule.id) },
            None => Decision { verdict: RuleVerdict::Deny, rule: None },
        }
    }

    fn peer() -> impl Strategy<Value = Peer> {
        prop_oneof![
            Just(Peer::Any),
            prop::collection::btree_set((0_u32..5).prop_map(IdentityId), 0..4)
                .prop_map(|set| Peer::Identities(set.into_iter().collect())),
        ]
    }

    fn port() -> impl Strategy<Value = u16> {
        prop_oneof![Just(0), Just(u16::MAX), 75_u16..90, 65_530_u16..]
    }

    fn protocol() -> impl Strategy<Value = u8> {
        prop_oneof![Just(0), Just(1), Just(6), Just(17), Just(58), Just(132), Just(255)]
    }

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let verdict = prop_oneof![Just(RuleVerdict::Allow), Just(RuleVerdict::Deny)];
        let ports = prop::option::of((port(), port()));
        let row = (peer(), prop::option::of(protocol()), ports, verdict);
        prop::collection::vec(row, 0..12).prop_map(|rows| {
            (100..)
                .zip(rows)
                .map(|(id, (peer, protocol, ports, verdict))| rule(id, peer, protocol, ports, verdict))
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn decides_as_the_rules_read(
            rules in rules(),
            packets in prop::collection::vec((0_u32..6, protocol(), port()), 40),
        ) {
            let classifier = Classifier::new(rules.clone());
            for (peer, protocol, port) in packets {
                let peer = IdentityId(peer);
                prop_assert_eq!(classifier.decide(peer, protocol, port), naive(&rules, peer, protocol, port));
            }
        }
    }

    #[test]
    fn nothing_is_allowed_where_nothing_says_so() {
        let decision = Classifier::new(Vec::new()).decide(IdentityId::WORLD, TCP, 80);
        assert_eq!(decision, Decision { verdict: RuleVerdict::Deny, rule: None });
    }

    #[test]
    fn identities_of_the_same_rules_share_a_lane() {
        let all = Peer::Identities((1..=1_000).map(IdentityId).collect());
        let some = Peer::Identities(vec![IdentityId(7)]);
        let rules = vec![
            rule(1, all, Some(TCP), Some((80, 80)), RuleVerdict::Allow),
            rule(2, some, Some(TCP), None, RuleVerdict::Allow),
        ];
        let classifier = Classifier::new(rules);
        assert_eq!((classifier.identities.len(), classifier.lanes.len()), (1_000, 2));
        assert_eq!(classifier.decide(IdentityId(7), TCP, 81).rule, Some(2));
        assert_eq!(classifier.decide(IdentityId(8), TCP, 81).rule, None);
    }
}
