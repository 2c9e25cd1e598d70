//! A list of rules, made ready to be asked: the first that matches wins, and where none does the answer is no.
//!
//! Rules are sorted out by whom they speak of, into *lanes*: one of those that speak of anyone, and one for each group that is named
//! (groups which the same rules name share theirs). A lane is a step function of protocol and port: which of its rules is the first to
//! match. So a question is a look-up of each group that the peer is in, or for a peer in very many of each that the rules name; a search
//! by port in the lanes that are found; and the earliest of their answers. No rule is looked at but the one that decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wire::protocol::{SCTP, TCP, UDP};

use crate::memberships::{GroupId, Groups};

/// One rule. What it does not restrict matches anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What a flow's record calls it.
    pub id: u32,
    /// What people call it.
    pub name: Box<str>,
    /// Whom it speaks of, in words, for people as well.
    pub says: Box<str>,
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
    /// Whoever is in one of these.
    Groups(Box<[GroupId]>),
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
pub struct Decision<'c> {
    /// What becomes of the packet.
    pub verdict: RuleVerdict,
    /// The rule that says so; [`None`]: no rule matches.
    pub rule: Option<&'c Rule>,
}

/// The rules of one direction of an endpoint.
#[derive(Debug, Clone)]
pub struct Classifier {
    rules: Box<[Rule]>,
    /// The steps of all lanes, each lane's in one piece.
    steps: Box<[Step]>,
    anyone: Lane,
    /// The lanes of the groups that are named, each at the first place from its own on that was free ([`home`]). At least half
    /// of the places are.
    peers: Box<[(GroupId, Lane)]>,
    /// How many groups are named.
    named: usize,
    /// A bit for each that is named, where [`mark`] puts it. Most groups of a peer's are none of these, and the places to look for them
    /// would be a line of memory each.
    marks: [u64; MARKS / 64],
}

/// A line of memory: of thirty groups that are named, one in seventeen others is looked for in vain.
const MARKS: usize = 512;

/// The word and the bit of a group's mark.
#[inline]
fn mark(group: GroupId) -> (usize, u64) {
    let mixed = group.0.wrapping_mul(0x9e37_79b1) >> 16;
    (mixed as usize / 64 % (MARKS / 64), 1 << (mixed % 64))
}

/// From this point on, up to the next step of the lane, the same rule is the first to match.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// Protocol and port in one number. A lane's first is 0.
    start: u32,
    /// The rule's position, or [`NONE`].
    first: u32,
}

/// Which steps are a lane's: from, and to before.
#[derive(Debug, Clone, Copy)]
struct Lane(u32, u32);

impl Lane {
    /// That of a free place: a lane has one step at least.
    const NONE: Self = Self(0, 0);

    #[inline]
    const fn is_none(self) -> bool {
        self.1 == 0
    }
}

/// Where to look for a group first, among so many places, a power of two.
#[inline]
fn home(group: GroupId, places: usize) -> usize {
    let mixed = u64::from(group.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed).unwrap_or(0) & (places - 1)
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
    /// Makes rules ready. Takes time and room in proportion to the groups that they name.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut anyone = Vec::new();
        let mut named: BTreeMap<GroupId, Vec<u32>> = BTreeMap::new();
        for (rule, position) in rules.iter().zip(0..) {
            match &rule.peer {
                Peer::Any => anyone.push(position),
                Peer::Groups(groups) => {
                    for group in groups {
                        let rules = named.entry(*group).or_default();
                        if rules.last() != Some(&position) {
                            rules.push(position);
                        }
                    }
                }
            }
        }
        let mut steps = Vec::new();
        let mut lane = |positions: &[u32]| {
            let from = steps.len();
            lane_steps(&rules, positions, &mut steps);
            // 2^32 steps would be 32 GB; a lane that lay beyond them would have none, and so allow nothing.
            let [from, to] = [from, steps.len()].map(|n| u32::try_from(n).unwrap_or(NONE));
            Lane(from, to)
        };
        let anyone = lane(&anyone);
        let mut known: HashMap<&[u32], Lane> = HashMap::new();
        let places = (2 * named.len()).next_power_of_two();
        let mut peers = vec![(GroupId::default(), Lane::NONE); places].into_boxed_slice();
        let mut marks = [0; MARKS / 64];
        for (&group, rules) in &named {
            let (word, bit) = mark(group);
            marks[word] |= bit;
            let mut place = home(group, places);
            while !peers[place].1.is_none() {
                place = (place + 1) & (places - 1);
            }
            peers[place] = (group, *known.entry(rules).or_insert_with(|| lane(rules)));
        }
        Self { steps: steps.into(), anyone, peers, named: named.len(), marks, rules: rules.into() }
    }

    /// The rules, in their order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The groups that the rules name, each once.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.lanes().map(|(group, _)| group)
    }

    /// What becomes of a packet from or to a peer in these groups, ascending both. `port` is its destination port, 0 where the protocol has
    /// none.
    #[must_use]
    pub fn decide(&self, groups: Groups<'_>, protocol: u8, port: u16) -> Decision<'_> {
        let point = point(protocol, port);
        let mut first = self.first(self.anyone, point);
        let [pod, ranges] = groups;
        if pod.len() + ranges.len() <= self.named {
            for own in groups {
                for &group in own {
                    if self.may_name(group) {
                        first = first.min(self.first(self.lane(group), point));
                    }
                }
            }
        } else {
            for (group, lane) in self.lanes() {
                if groups.iter().any(|own| own.binary_search(&group).is_ok()) {
                    first = first.min(self.first(lane, point));
                }
            }
        }
        match self.rules.get(first as usize) {
            Some(rule) => Decision { verdict: rule.verdict, rule: Some(rule) },
            None => Decision { verdict: RuleVerdict::Deny, rule: None },
        }
    }

    /// Whether a group may be among those that are named.
    #[inline]
    fn may_name(&self, group: GroupId) -> bool {
        let (word, bit) = mark(group);
        self.marks[word] & bit != 0
    }

    /// The groups that are named, and their lanes.
    fn lanes(&self) -> impl Iterator<Item = (GroupId, Lane)> + '_ {
        self.peers.iter().copied().filter(|(_, lane)| !lane.is_none())
    }

    /// The lane of a group; none if no rule names it.
    #[inline]
    fn lane(&self, sought: GroupId) -> Lane {
        let mut place = home(sought, self.peers.len());
        while let Some(&(group, lane)) = self.peers.get(place)
            && !lane.is_none()
        {
            if group == sought {
                return lane;
            }
            place = (place + 1) & (self.peers.len() - 1);
        }
        Lane::NONE
    }

    /// The first rule of a lane to match.
    #[inline]
    fn first(&self, Lane(from, to): Lane, point: u32) -> u32 {
        match self.steps.get(from as usize..to as usize).unwrap_or_default() {
            [] => NONE,
            [one] => one.first,
            steps => {
                let step = steps.partition_point(|step| step.start <= point);
                steps.get(step.wrapping_sub(1)).map_or(NONE, |step| step.first)
            }
        }
    }
}

/// Adds the steps of a lane, whose rules are at these positions, ascending.
fn lane_steps(rules: &[Rule], positions: &[u32], steps: &mut Vec<Step>) {
    let at = |&position: &u32| Some((rules.get(position as usize)?, position));
    let rules: Vec<(&Rule, u32)> = positions.iter().filter_map(at).collect();
    let named: BTreeSet<u8> = rules.iter().filter_map(|(rule, _)| rule.protocol).collect();
    let other = rules.iter().find(|(rule, _)| rule.protocol.is_none() && rule.ports.is_none());
    let other = other.map_or(NONE, |&(_, position)| position);
    let mut all: Vec<Step> = Vec::new();
    for protocol in 0..=u8::MAX {
        if has_ports(protocol) || named.contains(&protocol) {
            protocol_steps(protocol, &rules, &mut all);
        } else {
            all.push(Step { start: point(protocol, 0), first: other });
        }
    }
    // Where the answer is that of the step before, no step is.
    all.dedup_by_key(|step| step.first);
    steps.extend(all);
}

/// The steps of one protocol: at each port where a rule begins or ends, the first of those that hold.
fn protocol_steps(protocol: u8, rules: &[(&Rule, u32)], steps: &mut Vec<Step>) {
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
    steps.push(Step { start: base, first: NONE });
    while let Some((port, position)) = edges.next() {
        // A rule begins at its first edge and ends at its second.
        if !holding.remove(&position) {
            holding.insert(position);
        }
        if edges.peek().is_none_or(|&(next, _)| next != port) && port < 1 << 16 {
            let first = holding.first().copied().unwrap_or(NONE);
            match steps.last_mut() {
                Some(last) if last.start == base + port => last.first = first,
                _ => steps.push(Step { start: base + port, first }),
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
        Rule { id, name: format!("rule {id}").into(), says: "".into(), peer, protocol, ports, verdict }
    }

    /// The rules as they are written, one after the other.
    fn naive<'c>(rules: &'c [Rule], groups: [&[GroupId]; 2], protocol: u8, port: u16) -> Decision<'c> {
        let own = groups.concat();
        let matches = |rule: &&Rule| {
            let peers = match &rule.peer {
                Peer::Any => true,
                Peer::Groups(named) => named.iter().any(|named| own.contains(named)),
            };
            let ports = rule.ports.is_none_or(|(first, last)| {
                matches!(protocol, 6 | 17 | 132) && first <= port && port <= last
            });
            peers && rule.protocol.is_none_or(|named| named == protocol) && ports
        };
        match rules.iter().find(matches) {
            Some(rule) => Decision { verdict: rule.verdict, rule: Some(rule) },
            None => Decision { verdict: RuleVerdict::Deny, rule: None },
        }
    }

    /// Groups of an identity: few of few, so that rules meet them, or more than rules name.
    fn groups() -> impl Strategy<Value = Vec<GroupId>> {
        let some = |most| prop::collection::btree_set(group(), 0..most);
        prop_oneof![some(4), some(12)].prop_map(|set| set.into_iter().collect())
    }

    /// Numbers are hashes: any, and as large as there are.
    fn group() -> impl Strategy<Value = GroupId> {
        prop_oneof![1_u32..7, (1_u32..7).prop_map(|n| u32::MAX - n), Just(1 << 31)].prop_map(GroupId)
    }

    fn peer() -> impl Strategy<Value = Peer> {
        prop_oneof![
            Just(Peer::Any),
            prop::collection::vec(group(), 0..4).prop_map(|named| Peer::Groups(named.into())),
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
            packets in prop::collection::vec((groups(), groups(), protocol(), port()), 40),
        ) {
            let classifier = Classifier::new(rules.clone());
            for (pod, ranges, protocol, port) in packets {
                let groups = [&pod[..], &ranges];
                prop_assert_eq!(
                    classifier.decide(groups, protocol, port),
                    naive(&rules, groups, protocol, port)
                );
            }
        }
    }

    #[test]
    fn nothing_is_allowed_where_nothing_says_so() {
        let nothing = Classifier::new(Vec::new());
        let decision = nothing.decide([&[], &[GroupId(1)]], TCP, 80);
        assert_eq!(decision, Decision { verdict: RuleVerdict::Deny, rule: None });
    }

    #[test]
    fn groups_of_the_same_rules_share_a_lane() {
        let all = Peer::Groups((1..=1_000).map(GroupId).collect());
        let some = Peer::Groups([GroupId(7)].into());
        let rules = vec![
            rule(1, all, Some(TCP), Some((80, 80)), RuleVerdict::Allow),
            rule(2, some, Some(TCP), None, RuleVerdict::Allow),
        ];
        let classifier = Classifier::new(rules);
        assert_eq!((classifier.groups().count(), classifier.steps.len()), (1_000, 1 + 3 + 5));
        let id = |group| classifier.decide([&[GroupId(group)], &[]], TCP, 81).rule.map(|rule| rule.id);
        assert_eq!((id(7), id(8)), (Some(2), None));
    }

    #[test]
    fn an_address_in_a_rules_exception_is_allowed_where_another_rule_allows_it() {
        // A range but for a part of it is a group that the part's identity is not in.
        let [but_a_part, part, pods] = [1, 2, 3].map(GroupId);
        let to = |id, group: GroupId| rule(id, Peer::Groups([group].into()), None, None, RuleVerdict::Allow);
        let excepts = Classifier::new(vec![to(1, but_a_part)]);
        let allows = Classifier::new(vec![to(1, but_a_part), to(2, part)]);
        let pod_in_part = [&[pods][..], &[part]];
        assert_eq!(excepts.decide(pod_in_part, TCP, 80).verdict, RuleVerdict::Deny);
        assert_eq!(allows.decide(pod_in_part, TCP, 80).rule.map(|rule| rule.id), Some(2));
        // And a pod is in ranges, too.
        assert_eq!(excepts.decide([&[pods], &[but_a_part]], TCP, 80).rule.map(|rule| rule.id), Some(1));
    }
}
