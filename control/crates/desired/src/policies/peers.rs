//! Who pods are to policies: the kinds of pods there are, the addresses of each, and the groups of peers that each is in.
//!
//! A pod that comes is of a kind that is known already, mostly, and is one row; where no rule speaks of its kind, none. A group that comes
//! is told of each kind that is in it, not of each pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use proto::dataplane::IdentityKey;
use wire::IpPrefix;

use super::numbers::{Numbers, Used, use_less};
use crate::objects::{Labels, NamedPort, Namespace, Protocol, Selector};
use crate::rows::Rows;

/// The label that every namespace has: its name.
const NAME: &str = "kubernetes.io/metadata.name";

/// All that rules tell a pod by. Those of one template are of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Kind(Arc<Traits>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Traits {
    namespace: Arc<str>,
    labels: Labels,
    ports: Arc<[NamedPort]>,
}

impl Kind {
    pub(crate) fn new(namespace: Arc<str>, labels: Labels, ports: Arc<[NamedPort]>) -> Self {
        Self(Arc::new(Traits { namespace, labels, ports }))
    }

    /// What of all the kinds of a namespace would come first.
    fn first_of(namespace: Arc<str>) -> Self {
        Self::new(namespace, Labels::default(), Arc::from([]))
    }

    /// Whether a selector of its own namespace's selects it; `unknown` as [`Selector::matches`] has it.
    pub(crate) fn is_selected_by(&self, selector: &Selector, unknown: bool) -> bool {
        selector.matches(|key| self.0.labels.get(key), unknown)
    }

    pub(crate) fn ports(&self) -> &[NamedPort] {
        &self.0.ports
    }

    /// The number of its port of that name.
    pub(crate) fn port(&self, name: &str, protocol: &Protocol) -> Option<u16> {
        let named = |own: &&NamedPort| *own.name == *name && own.protocol == *protocol;
        self.0.ports.iter().find(named).map(|own| own.port)
    }
}

/// The pods that a peer of a rule's stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Group {
    pub(crate) namespaces: Namespaces,
    pub(crate) pods: Selector,
    /// Of these, those whose port of that name has this number.
    pub(crate) port: Option<(Box<str>, Protocol, u16)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Namespaces {
    One(Arc<str>),
    Selected(Selector),
}

impl Group {
    /// All pods of all namespaces.
    pub(crate) fn of_all() -> Self {
        Self { namespaces: Namespaces::Selected(Selector::default()), pods: Selector::default(), port: None }
    }

    fn first_of(namespaces: Namespaces) -> Self {
        Self { namespaces, pods: Selector::default(), port: None }
    }

    /// Whether it has a kind of a namespace that it speaks of.
    fn has_there(&self, kind: &Kind) -> bool {
        let port = |(name, protocol, number): &(Box<str>, Protocol, u16)| {
            kind.port(name, protocol).is_some_and(|own| own == *number)
        };
        kind.is_selected_by(&self.pods, false) && self.port.as_ref().is_none_or(port)
    }
}

impl fmt::Display for Group {
    /// As `pods app=db of shop`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pods")?;
        if self.pods != Selector::default() {
            write!(f, " {}", self.pods)?;
        }
        match &self.namespaces {
            Namespaces::One(own) => write!(f, " of {own}")?,
            Namespaces::Selected(all) if *all == Selector::default() => f.write_str(" of all namespaces")?,
            Namespaces::Selected(own) => write!(f, " of namespaces {own}")?,
        }
        match &self.port {
            Some((name, _, number)) => write!(f, " whose port {name} is {number}"),
            None => Ok(()),
        }
    }
}

impl Namespaces {
    fn have(&self, namespace: &str, namespaces: &OrdMap<String, Namespace>) -> bool {
        match self {
            Self::One(own) => **own == *namespace,
            Self::Selected(selector) => {
                // The API server sees to it; where there is none, it is as if it had.
                let name = |key: &str| (key == NAME).then_some(namespace);
                match namespaces.get(namespace) {
                    Some(own) => selector.matches(|key| own.labels.get(key).or_else(|| name(key)), false),
                    // Of one that is not known yet nobody can tell what labels it does not have.
                    None => !selector.needs_absence(NAME) && selector.matches(name, false),
                }
            }
        }
    }
}

/// What its methods read and write beside.
pub(crate) struct Around<'a> {
    pub(crate) rows: &'a mut Rows,
    pub(crate) namespaces: &'a OrdMap<String, Namespace>,
    pub(crate) identities: Numbers,
    pub(crate) groups: Numbers,
    /// Names of ports that have come or gone with kinds of pods, or whose kinds are in other groups now.
    pub(crate) named: BTreeSet<(Box<str>, Protocol)>,
    /// Groups that kinds come into (`true`) or leave, until [`Peers::settle`].
    pub(crate) moving: BTreeMap<Kind, BTreeMap<u32, bool>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Peers {
    kinds: OrdMap<Kind, Members>,
    holders: OrdMap<IpAddr, Kind>,
    /// Addresses that several pods claim.
    pub(crate) contested: OrdSet<IpAddr>,
    groups: OrdMap<Group, Used>,
}

/// The pods of a kind. There is one at least.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Members {
    identity: u32,
    /// In their order.
    addresses: Arc<Vec<IpAddr>>,
    /// In their order.
    groups: Arc<[u32]>,
}

impl Peers {
    /// Whether somebody has the address.
    pub(crate) fn is_held(&self, address: IpAddr) -> bool {
        self.holders.contains_key(&address)
    }

    /// The number of a group that is used.
    pub(crate) fn number(&self, group: &Group) -> Option<u32> {
        self.groups.get(group).map(|own| own.number)
    }

    /// Gives an address that nobody has to a pod of a kind.
    pub(crate) fn hold(&mut self, address: IpAddr, kind: &Kind, around: &mut Around<'_>) {
        if !self.kinds.contains_key(kind) {
            let groups: Arc<[u32]> = self.groups_of(kind, around.namespaces).into();
            let identity = around.identities.give(kind);
            if !groups.is_empty() {
                around.rows.memberships.insert(identity, Arc::clone(&groups));
            }
            self.kinds.insert(kind.clone(), Members { identity, addresses: Arc::default(), groups });
            around.note_ports(kind);
        }
        // The one that is kept, so that an address costs no more than a pointer.
        let Some((kind, _)) = self.kinds.get_key_value(kind) else { return };
        let kind = kind.clone();
        let Some(members) = self.kinds.get_mut(&kind) else { return };
        let addresses = Arc::make_mut(&mut members.addresses);
        if let Err(at) = addresses.binary_search(&address) {
            addresses.insert(at, address);
        }
        if !members.groups.is_empty() {
            around.rows.identities.insert(key(address), members.identity);
        }
        self.holders.insert(address, kind);
    }

    /// Takes an address away from who has it.
    pub(crate) fn release(&mut self, address: IpAddr, around: &mut Around<'_>) {
        let Some(kind) = self.holders.remove(&address) else { return };
        around.rows.identities.remove(&key(address));
        let Some(members) = self.kinds.get_mut(&kind) else { return };
        let addresses = Arc::make_mut(&mut members.addresses);
        if let Ok(at) = addresses.binary_search(&address) {
            addresses.remove(at);
        }
        if addresses.is_empty() {
            let identity = members.identity;
            self.kinds.remove(&kind);
            around.rows.memberships.remove(&identity);
            around.identities.take_back(identity);
            around.note_ports(&kind);
        }
    }

    /// Uses a group once more.
    pub(crate) fn join(&mut self, group: &Group, around: &mut Around<'_>) {
        if let Some(used) = self.groups.get_mut(group) {
            used.users += 1;
            return;
        }
        let number = around.groups.give(group);
        self.groups.insert(group.clone(), Used { number, users: 1 });
        for kind in self.kinds_in(group, around.namespaces) {
            around.moving.entry(kind).or_default().insert(number, true);
        }
    }

    /// Uses a group once less.
    pub(crate) fn leave(&mut self, group: &Group, around: &mut Around<'_>) {
        let Some(number) = use_less(&mut self.groups, group) else { return };
        around.groups.take_back(number);
        let moving = &around.moving;
        let is_in = |(kind, members): &(&Kind, &Members)| {
            members.groups.binary_search(&number).is_ok()
                || moving.get(*kind).is_some_and(|own| own.contains_key(&number))
        };
        let kinds: Vec<Kind> = match &group.namespaces {
            Namespaces::One(namespace) => {
                self.kinds_of(namespace).filter(is_in).map(|(kind, _)| kind.clone()).collect()
            }
            Namespaces::Selected(_) => {
                self.kinds.iter().filter(is_in).map(|(kind, _)| kind.clone()).collect()
            }
        };
        for kind in kinds {
            around.moving.entry(kind).or_default().insert(number, false);
        }
    }

    /// Has kinds be in the groups that came, and in those no more that went: in all of them at once, for a policy may have a thousand.
    pub(crate) fn settle(&mut self, around: &mut Around<'_>) {
        for (kind, moves) in std::mem::take(&mut around.moving) {
            self.regroup(&kind, around.rows, |groups| {
                groups.retain(|own| !moves.contains_key(own));
                groups.extend(moves.iter().filter(|(_, comes)| **comes).map(|(number, _)| *number));
                groups.sort_unstable();
            });
        }
    }

    /// A namespace has other labels now.
    pub(crate) fn relabel(&mut self, namespace: &str, around: &mut Around<'_>) {
        let kinds: Vec<Kind> = self.kinds_of(&namespace.into()).map(|(kind, _)| kind.clone()).collect();
        for kind in kinds {
            let groups = self.groups_of(&kind, around.namespaces);
            around.note_ports(&kind);
            self.regroup(&kind, around.rows, |own| *own = groups);
        }
    }

    /// The numbers that a group's pods give to a port's name, in their order.
    pub(crate) fn ports(
        &self,
        group: &Group,
        name: &str,
        protocol: &Protocol,
        namespaces: &OrdMap<String, Namespace>,
    ) -> BTreeSet<u16> {
        self.kinds_in(group, namespaces).filter_map(|kind| kind.port(name, protocol)).collect()
    }

    /// The groups of a kind, in the order of their numbers.
    fn groups_of(&self, kind: &Kind, namespaces: &OrdMap<String, Namespace>) -> Vec<u32> {
        let one = Namespaces::One(Arc::clone(&kind.0.namespace));
        let own = self.groups.range(Group::first_of(one.clone())..);
        let own = own.take_while(|(group, _)| group.namespaces == one);
        let first = Group::first_of(Namespaces::Selected(Selector::default()));
        // Those of one selector follow each other.
        let mut last: Option<(&Namespaces, bool)> = None;
        let others = self.groups.range(first..).filter(|(group, _)| match last {
            Some((asked, have)) if *asked == group.namespaces => have,
            _ => {
                let have = group.namespaces.have(&kind.0.namespace, namespaces);
                last = Some((&group.namespaces, have));
                have
            }
        });
        let mut found: Vec<u32> = own
            .chain(others)
            .filter(|(group, _)| group.has_there(kind))
            .map(|(_, used)| used.number)
            .collect();
        found.sort_unstable();
        found
    }

    fn kinds_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = (&Kind, &Members)> {
        let namespace = Arc::clone(namespace);
        let from = self.kinds.range(Kind::first_of(Arc::clone(&namespace))..);
        from.take_while(move |(kind, _)| kind.0.namespace == namespace)
    }

    /// The kinds that are in a group.
    fn kinds_in(
        &self,
        group: &Group,
        namespaces: &OrdMap<String, Namespace>,
    ) -> impl Iterator<Item = Kind> + use<> {
        let found: Vec<Kind> = match &group.namespaces {
            Namespaces::One(namespace) => {
                let own = self.kinds_of(namespace).map(|(kind, _)| kind);
                own.filter(|kind| group.has_there(kind)).cloned().collect()
            }
            Namespaces::Selected(_) => {
                // Those of one namespace follow each other.
                let mut last: Option<(&Arc<str>, bool)> = None;
                let mut have = |kind: &Kind, namespace| match last {
                    Some((asked, have)) if asked == namespace => have,
                    _ => {
                        let have = group.namespaces.have(&kind.0.namespace, namespaces);
                        last = Some((namespace, have));
                        have
                    }
                };
                let kinds = self.kinds.keys();
                kinds.filter(|kind| have(kind, &kind.0.namespace) && group.has_there(kind)).cloned().collect()
            }
        };
        found.into_iter()
    }

    /// Has a kind be in other groups. Where it was in none, its addresses have no rows.
    fn regroup(&mut self, kind: &Kind, rows: &mut Rows, change: impl FnOnce(&mut Vec<u32>)) {
        let Some(members) = self.kinds.get_mut(kind) else { return };
        let mut groups = members.groups.to_vec();
        change(&mut groups);
        if *groups == *members.groups {
            return;
        }
        let had = !members.groups.is_empty();
        members.groups = groups.into();
        if members.groups.is_empty() {
            rows.memberships.remove(&members.identity);
            for address in &*members.addresses {
                rows.identities.remove(&key(*address));
            }
            return;
        }
        rows.memberships.insert(members.identity, Arc::clone(&members.groups));
        if !had {
            for &address in &*members.addresses {
                rows.identities.insert(key(address), members.identity);
            }
        }
    }
}

impl Around<'_> {
    fn note_ports(&mut self, kind: &Kind) {
        self.named.extend(kind.ports().iter().map(|own| (own.name.clone(), own.protocol.clone())));
    }
}

fn key(address: IpAddr) -> IdentityKey {
    IdentityKey { network: 0, prefix: IpPrefix::host(address) }
}
