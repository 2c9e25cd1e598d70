//! NetworkPolicies: what this node's pods may be sent and may send.
//!
//! A policy counts here once it selects a pod of this node: then its peers are *groups* of pods ([`peers`]) and *blocks* of addresses
//! ([`blocks`]), and each pod that it selects has its rules among its own. Nothing else of the cluster's policies reaches the data plane.
//! A change takes the time of what it touches: a pod elsewhere, that of its row, if any rule here speaks of it; a policy, that of the kinds of
//! pods that are its peers.

mod blocks;
mod compile;
mod numbers;
mod peers;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use proto::dataplane::{self as rows, PortRange, RuleVerdict};

use crate::build::{About, Desired, changed, parts};
use crate::objects::{NetworkPolicy, ObjectName, Pod};
use crate::prefixes::station;
use crate::rows::Rows;
use crate::view::{AttachedPod, Attachment, ClusterView, Local};
use blocks::Blocks;
use compile::{Compiled, Peer, Ports, Rule, Words};
use numbers::Numbers;
use peers::{Around, Kind, Peers};

/// What belongs to policies. A copy costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Policies {
    /// This node's pods, by their endpoints. An interface of another network than the pods' own is none.
    here: OrdMap<String, Arc<Here>>,
    /// Those that select any of these.
    in_force: OrdMap<ObjectName, InForce>,
    peers: Peers,
    blocks: Blocks,
    identities: Numbers,
    groups: Numbers,
}

/// A pod of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Here {
    pod: ObjectName,
    kind: Kind,
    addresses: BTreeSet<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct InForce {
    /// Of the pods that it selects here. There is one at least.
    endpoints: Arc<BTreeSet<String>>,
    compiled: Arc<Compiled>,
}

/// What a pod of this node was, and what it is.
type Moved = (Option<Arc<Here>>, Option<Arc<Here>>);

/// What a step has to see to at its end.
#[derive(Default)]
struct Touched {
    /// Policies whose words may be others, or that select others here.
    policies: BTreeSet<ObjectName>,
    /// Endpoints whose rules may be others.
    endpoints: BTreeSet<String>,
}

/// Who has an address that several claim, the greatest: a pod that is attached here; else one that stays before one that goes; else the
/// newer one, which would not have it if the older one had not given it up.
type Rank<'a> = (bool, bool, Option<i64>, Reverse<&'a ObjectName>);

impl Desired {
    /// What policies come to, made from what they came to `before`.
    pub(crate) fn police(&mut self, before: (&ClusterView, &Local), view: &ClusterView, local: &Local) {
        let problems = self.policies.follow(before, (view, local), &mut self.rows);
        for (name, problems) in problems {
            let about = About::Policy(name.clone());
            self.take_back(&about);
            for problem in problems {
                self.warn(about.clone(), format!("NetworkPolicy {name}: {problem}"));
            }
        }
    }

    /// Takes over what policies came to in another one.
    pub(crate) fn police_as(&mut self, other: &Self) {
        self.policies = other.policies.clone();
        let Rows { identities, blocks, memberships, policies, .. } = other.rows.clone();
        self.rows = Rows { identities, blocks, memberships, policies, ..std::mem::take(&mut self.rows) };
        for name in other.policies.in_force.keys() {
            let about = About::Policy(name.clone());
            for warning in other.warnings_about(&about) {
                self.warn(about.clone(), warning.to_owned());
            }
        }
    }
}

impl Policies {
    /// Gives, for each policy that was looked at, what of it cannot be honoured.
    fn follow(
        &mut self,
        (old_view, old_local): (&ClusterView, &Local),
        (view, local): (&ClusterView, &Local),
        rows: &mut Rows,
    ) -> Vec<(ObjectName, Vec<String>)> {
        let mut around = Around {
            rows,
            namespaces: &view.namespaces,
            identities: std::mem::take(&mut self.identities),
            groups: std::mem::take(&mut self.groups),
            named: BTreeSet::new(),
            moving: BTreeMap::new(),
        };
        let mut touched = Touched::default();
        let moved = self.settle_in((old_view, old_local), (view, local), &mut touched);
        self.hold_addresses((old_view, view), local, moved, &mut around);
        for (name, _) in old_view.namespaces.diff(&view.namespaces).map(changed) {
            self.peers.relabel(name, &mut around);
        }
        for (name, policy) in old_view.policies.diff(&view.policies).map(changed) {
            self.select(name, policy, &mut touched);
        }
        let named = std::mem::take(&mut around.named);
        if !named.is_empty() {
            let speaks = |own: &InForce| own.compiled.named.iter().any(|port| named.contains(port));
            let renamed = self.in_force.iter().filter(|(_, own)| speaks(own)).map(|(name, _)| name.clone());
            touched.policies.extend(renamed);
        }
        let problems = self.compile(&mut touched, view, &mut around);
        for endpoint in &touched.endpoints {
            match self.rules_of(endpoint) {
                Some(row) => drop(around.rows.policies.insert(endpoint.clone(), row)),
                None => drop(around.rows.policies.remove(endpoint)),
            }
        }
        let Around { identities, groups, .. } = around;
        (self.identities, self.groups) = (identities, groups);
        problems
    }

    /// This node's pods as they are now; gives what each that is another was and is.
    fn settle_in(
        &mut self,
        (old_view, old_local): (&ClusterView, &Local),
        (view, local): (&ClusterView, &Local),
        touched: &mut Touched,
    ) -> Vec<Moved> {
        let own = |attachment: &&Attachment| attachment.network == 0;
        let mut pods = BTreeSet::new();
        pods.extend(old_view.pods.diff(&view.pods).map(|item| changed(item).0));
        let same = old_local.attachments == local.attachments;
        if same && pods.is_empty() {
            return Vec::new();
        }
        let mut moved = Vec::new();
        let mut gone: BTreeSet<&String> = if same { BTreeSet::new() } else { self.here.keys().collect() };
        let mut come = Vec::new();
        for attachment in local.attachments.iter().filter(own) {
            let Some(pod) = &attachment.pod else { continue };
            gone.remove(&attachment.endpoint);
            if same && !pods.contains(&pod.name) {
                continue;
            }
            let new = Here::of(attachment, pod, view);
            let old = self.here.get(&attachment.endpoint);
            if old.is_none_or(|old| **old != new) {
                come.push((attachment.endpoint.clone(), old.cloned(), Arc::new(new)));
            }
        }
        let gone: Vec<String> = gone.into_iter().cloned().collect();
        for endpoint in gone {
            let old = self.here.remove(&endpoint);
            self.deselect(&endpoint, old.as_deref(), touched);
            moved.push((old, None));
        }
        for (endpoint, old, new) in come {
            self.deselect(&endpoint, old.as_deref(), touched);
            for (name, policy) in policies_of(&new.pod.namespace, view) {
                if new.kind.is_selected_by(&policy.pods, true) {
                    let own = self.in_force.entry(name.clone()).or_default();
                    Arc::make_mut(&mut own.endpoints).insert(endpoint.clone());
                    touched.policies.insert(name.clone());
                }
            }
            touched.endpoints.insert(endpoint.clone());
            self.here.insert(endpoint, Arc::clone(&new));
            moved.push((old, Some(new)));
        }
        moved
    }

    /// A pod is here no more, or another than it was.
    fn deselect(&mut self, endpoint: &str, old: Option<&Here>, touched: &mut Touched) {
        touched.endpoints.insert(endpoint.to_owned());
        let Some(old) = old else { return };
        let first = ObjectName { namespace: Arc::clone(&old.pod.namespace), name: "".into() };
        let own = self.in_force.range(first..).take_while(|(name, _)| name.namespace == old.pod.namespace);
        let own: Vec<ObjectName> =
            own.filter(|(_, own)| own.endpoints.contains(endpoint)).map(|(name, _)| name.clone()).collect();
        for name in own {
            if let Some(own) = self.in_force.get_mut(&name) {
                Arc::make_mut(&mut own.endpoints).remove(endpoint);
            }
            touched.policies.insert(name);
        }
    }

    /// Whom a policy selects that is new, another than it was, or gone.
    fn select(&mut self, name: &ObjectName, policy: Option<&NetworkPolicy>, touched: &mut Touched) {
        let selects = |own: &Here| {
            policy.is_some_and(|policy| {
                own.pod.namespace == name.namespace && own.kind.is_selected_by(&policy.pods, true)
            })
        };
        let here = self.here.iter().filter(|(_, own)| selects(own));
        let endpoints: BTreeSet<String> = here.map(|(endpoint, _)| endpoint.clone()).collect();
        let before = self.in_force.get(name);
        if before.is_none() && endpoints.is_empty() {
            return;
        }
        touched.endpoints.extend(before.iter().flat_map(|own| own.endpoints.iter()).cloned());
        touched.endpoints.extend(endpoints.iter().cloned());
        touched.policies.insert(name.clone());
        self.in_force.entry(name.clone()).or_default().endpoints = Arc::new(endpoints);
    }

    /// Addresses of pods that came, went, or are of another kind. An address is first given up and then taken, so that one that moves
    /// is not taken for one that two claim.
    fn hold_addresses(
        &mut self,
        (old_view, view): (&ClusterView, &ClusterView),
        local: &Local,
        moved: Vec<Moved>,
        around: &mut Around<'_>,
    ) {
        let (mut given_up, mut taken) = (Vec::new(), Vec::new());
        for (old, new) in moved {
            let of = |own: Arc<Here>| own.addresses.iter().copied().collect::<Vec<_>>();
            given_up.extend(old.into_iter().flat_map(of));
            let of = |own: Arc<Here>| {
                let kind = own.kind.clone();
                own.addresses.iter().map(move |&own| (own, kind.clone())).collect::<Vec<_>>()
            };
            taken.extend(new.into_iter().flat_map(of));
        }
        let pods = old_view.pods.diff(&view.pods).chain(old_view.other_pods.diff(&view.other_pods));
        for (name, old, new) in pods.map(parts) {
            let (old, new) = (old.map(|own| &**own), new.map(|own| &**own));
            let rank = |own: Option<&Pod>| own.map(|own| (own.terminating, own.created));
            let same = rank(old) == rank(new);
            let ((old, was), (new, is)) = (peer(name, old, local), peer(name, new, local));
            if same && old == new && was == is {
                continue;
            }
            given_up.extend(old);
            taken.extend(is.into_iter().flat_map(|kind| new.iter().map(move |&own| (own, kind.clone()))));
        }
        let mut doubtful = BTreeSet::new();
        for address in given_up {
            if self.peers.contested.contains(&address) {
                doubtful.insert(address);
            }
            self.peers.release(address, around);
        }
        for (address, kind) in taken {
            if self.peers.contested.contains(&address) || self.peers.is_held(address) {
                doubtful.insert(address);
            } else {
                self.peers.hold(address, &kind, around);
            }
        }
        if !doubtful.is_empty() {
            self.decide(&doubtful, view, local, around);
        }
    }

    /// Gives each of these addresses to whoever of those that claim it has it.
    fn decide(
        &mut self,
        doubtful: &BTreeSet<IpAddr>,
        view: &ClusterView,
        local: &Local,
        around: &mut Around<'_>,
    ) {
        let mut claims: BTreeMap<IpAddr, Vec<(Rank<'_>, Kind)>> = BTreeMap::new();
        // Of two of these the data plane has the first.
        for (place, attachment) in (0..).zip(&local.attachments) {
            let Some(own) = self.here.get(&attachment.endpoint) else { continue };
            for address in own.addresses.intersection(doubtful) {
                let rank = (true, true, Some(-place), Reverse(&own.pod));
                claims.entry(*address).or_default().push((rank, own.kind.clone()));
            }
        }
        for (name, pod) in view.all_pods() {
            let claimed = pod.pod_ips.iter().filter_map(|own| station(own).ok());
            if !claimed.into_iter().any(|own| doubtful.contains(&own)) {
                continue;
            }
            let (addresses, Some(kind)) = peer(name, Some(pod), local) else { continue };
            for address in addresses.intersection(doubtful) {
                let rank = (false, !pod.terminating, pod.created, Reverse(name));
                claims.entry(*address).or_default().push((rank, kind.clone()));
            }
        }
        for &address in doubtful {
            self.peers.release(address, around);
            let claims = claims.remove(&address).unwrap_or_default();
            match claims.len() {
                0 | 1 => drop(self.peers.contested.remove(&address)),
                _ => drop(self.peers.contested.insert(address)),
            }
            if let Some((_, kind)) = claims.into_iter().max_by(|a, b| a.0.cmp(&b.0)) {
                self.peers.hold(address, &kind, around);
            }
        }
    }

    /// Makes the rules of policies anew; those that select nobody here any more go.
    fn compile(
        &mut self,
        touched: &mut Touched,
        view: &ClusterView,
        around: &mut Around<'_>,
    ) -> Vec<(ObjectName, Vec<String>)> {
        let mut problems = Vec::new();
        let mut ranges = BTreeSet::new();
        for name in &touched.policies {
            let Some(own) = self.in_force.get(name).cloned() else { continue };
            let policy = view.policies.get(name).filter(|_| !own.endpoints.is_empty());
            let numbers = |group: &_, name: &str, protocol: &_| {
                self.peers.ports(group, name, protocol, around.namespaces)
            };
            let mut words = policy.map(|policy| Words::of(name, policy, numbers)).unwrap_or_default();
            problems.push((name.clone(), std::mem::take(&mut words.problems)));
            for peer in words.peers() {
                match &peer {
                    Peer::Pods(group) => self.peers.join(group, around),
                    Peer::Block(block) => self.blocks.join(block, &mut around.groups, &mut ranges),
                }
            }
            let compiled = words.compiled(|peer| match peer {
                Peer::Pods(group) => self.peers.number(group),
                Peer::Block(block) => self.blocks.number(block),
            });
            for peer in &own.compiled.peers {
                match peer {
                    Peer::Pods(group) => self.peers.leave(group, around),
                    Peer::Block(block) => self.blocks.leave(block, &mut around.groups, &mut ranges),
                }
            }
            let is_other = compiled != *own.compiled;
            if is_other {
                touched.endpoints.extend(own.endpoints.iter().cloned());
            }
            match policy {
                None => drop(self.in_force.remove(name)),
                Some(_) if is_other => {
                    let new = InForce { compiled: Arc::new(compiled), ..own };
                    self.in_force.insert(name.clone(), new);
                }
                Some(_) => {}
            }
        }
        self.peers.settle(around);
        self.blocks.settle(&ranges, &mut around.identities, around.rows);
        problems
    }

    /// All that the policies which select an endpoint's pod say of it; `None`: none does.
    fn rules_of(&self, endpoint: &str) -> Option<rows::Policy> {
        let here = self.here.get(endpoint)?;
        let first = ObjectName { namespace: Arc::clone(&here.pod.namespace), name: "".into() };
        let own = self.in_force.range(first..).take_while(|(name, _)| name.namespace == here.pod.namespace);
        let mut row = rows::Policy { endpoint: endpoint.to_owned(), ingress: None, egress: None };
        for (_, own) in own.filter(|(_, own)| own.endpoints.contains(endpoint)) {
            let Compiled { ingress, egress, .. } = &*own.compiled;
            for (own, all) in [(ingress, &mut row.ingress), (egress, &mut row.egress)] {
                if let Some(own) = own {
                    let all = all.get_or_insert_default();
                    all.extend(own.iter().filter_map(|rule| rule.row(&here.kind)));
                }
            }
        }
        let rules = row.ingress.iter_mut().chain(&mut row.egress).flatten();
        (1..).zip(rules).for_each(|(id, rule)| rule.id = id);
        (row.ingress.is_some() || row.egress.is_some()).then_some(row)
    }
}

impl Rule<u32> {
    /// As one of a pod's own; `None` where it has no port of that name.
    fn row(&self, kind: &Kind) -> Option<rows::Rule> {
        let one = |port| PortRange { first: port, last: port };
        let ports = match &self.ports {
            Ports::Any => None,
            Ports::Range(range) => Some(*range),
            Ports::Named(name, protocol) => Some(one(kind.port(name, protocol)?)),
        };
        let peer = match &self.peers {
            None => rows::Peer::Any,
            Some(groups) => rows::Peer::Groups { groups: groups.to_vec() },
        };
        let (name, says) = (self.name.clone(), self.says.to_string());
        let (protocol, verdict) = (self.protocol, RuleVerdict::Allow);
        Some(rows::Rule { id: 0, name, says, peer, protocol, ports, verdict })
    }
}

impl Here {
    /// As the cluster has the pod; where it has none, or another one of its name, as it was when it was attached, or when the cluster lost it.
    fn of(attachment: &Attachment, pod: &AttachedPod, view: &ClusterView) -> Self {
        let is_meant = |own: &&Arc<Pod>| own.uid == pod.uid || own.uid == 0 || pod.uid == 0;
        let known = view.pods.get(&pod.name).filter(is_meant);
        let (labels, ports) =
            known.map_or((&pod.labels, &pod.named_ports), |own| (&own.labels, &own.named_ports));
        let kind = Kind::new(Arc::clone(&pod.name.namespace), labels.clone(), Arc::clone(ports));
        Self { pod: pod.name.clone(), kind, addresses: attachment.addresses.iter().copied().collect() }
    }
}

/// A pod of another node as a peer: its addresses, and its kind if it has any. A host's are its node's, and those of one that has finished may
/// be another's; this node's are those of their attachments.
fn peer(name: &ObjectName, pod: Option<&Pod>, local: &Local) -> (BTreeSet<IpAddr>, Option<Kind>) {
    let is_peer = |own: &&Pod| !own.host_network && !own.finished && *own.node != *local.node;
    let Some(pod) = pod.filter(is_peer) else { return Default::default() };
    let addresses: BTreeSet<IpAddr> = pod.pod_ips.iter().filter_map(|own| station(own).ok()).collect();
    let kind = || Kind::new(Arc::clone(&name.namespace), pod.labels.clone(), Arc::clone(&pod.named_ports));
    let kind = (!addresses.is_empty()).then(kind);
    (addresses, kind)
}

fn policies_of<'a>(
    namespace: &Arc<str>,
    view: &'a ClusterView,
) -> impl Iterator<Item = (&'a ObjectName, &'a NetworkPolicy)> {
    let namespace = Arc::clone(namespace);
    let first = ObjectName { namespace: Arc::clone(&namespace), name: "".into() };
    view.policies.range(first..).take_while(move |(name, _)| name.namespace == namespace)
}
