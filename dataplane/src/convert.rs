//! Rows of the socket as values of the tables, and back, where neither knows ports. Whatever was set comes back as it was.

use std::num::NonZeroU32;
use std::sync::Arc;

use proto::dataplane as rows;
use tables::{
    Backend, BackendState, Classifier, Frontend, FrontendKey, GroupId, IdentityId, Masquerade, NetworkId,
    Peer, Policy, Rule, RuleVerdict,
};
use wire::IpPrefix;

pub(crate) fn frontend_key(row: rows::FrontendKey) -> FrontendKey {
    let rows::FrontendKey { network, address, port, protocol } = row;
    FrontendKey { network: NetworkId(network), addr: address, port, protocol: protocol.0 }
}

pub(crate) fn frontend(row: &rows::Frontend) -> Frontend {
    let backend = |row: &rows::Backend| Backend {
        addr: row.address,
        port: row.port,
        state: match row.state {
            rows::BackendState::Serving => BackendState::Serving,
            rows::BackendState::ServingOwn => BackendState::ServingOwn,
            rows::BackendState::ServingOthers => BackendState::ServingOthers,
            rows::BackendState::Draining => BackendState::Draining,
        },
    };
    Frontend {
        key: frontend_key(row.key),
        name: row.name.clone(),
        backends: row.backends.iter().map(backend).collect(),
        drops: row.drops,
        sources: row.sources.clone(),
        affinity: row.affinity_seconds.map_or(0, NonZeroU32::get),
    }
}

pub(crate) fn frontend_row(frontend: &Frontend) -> rows::Frontend {
    let FrontendKey { network, addr, port, protocol } = frontend.key;
    let backend = |backend: &Backend| rows::Backend {
        address: backend.addr,
        port: backend.port,
        state: match backend.state {
            BackendState::Serving => rows::BackendState::Serving,
            BackendState::ServingOwn => rows::BackendState::ServingOwn,
            BackendState::ServingOthers => rows::BackendState::ServingOthers,
            BackendState::Draining => rows::BackendState::Draining,
        },
    };
    rows::Frontend {
        key: rows::FrontendKey {
            network: network.0,
            address: addr,
            port,
            protocol: rows::Protocol(protocol),
        },
        name: frontend.name.clone(),
        backends: frontend.backends.iter().map(backend).collect(),
        drops: frontend.drops,
        sources: frontend.sources.clone(),
        affinity_seconds: NonZeroU32::new(frontend.affinity),
    }
}

pub(crate) fn identity_row((network, prefix, identity): (NetworkId, IpPrefix, IdentityId)) -> rows::Identity {
    rows::Identity { key: rows::IdentityKey { network: network.0, prefix }, identity: identity.0 }
}

pub(crate) fn groups(row: &rows::Membership) -> Vec<GroupId> {
    row.groups.iter().copied().map(GroupId).collect()
}

pub(crate) fn membership_row((identity, groups): (IdentityId, &[GroupId])) -> rows::Membership {
    rows::Membership { identity: identity.0, groups: numbers(groups) }
}

fn numbers(groups: &[GroupId]) -> Vec<u32> {
    groups.iter().map(|group| group.0).collect()
}

pub(crate) fn policy(row: &rows::Policy) -> Policy {
    let classifier = |rules: &Vec<rows::Rule>| Arc::new(Classifier::new(rules.iter().map(rule).collect()));
    Policy { ingress: row.ingress.as_ref().map(classifier), egress: row.egress.as_ref().map(classifier) }
}

pub(crate) fn policy_row(endpoint: &str, policy: &Policy) -> rows::Policy {
    let rules = |classifier: &Arc<Classifier>| classifier.rules().iter().map(rule_row).collect();
    rows::Policy {
        endpoint: endpoint.to_owned(),
        ingress: policy.ingress.as_ref().map(rules),
        egress: policy.egress.as_ref().map(rules),
    }
}

fn rule(row: &rows::Rule) -> Rule {
    Rule {
        id: row.id,
        name: row.name.as_str().into(),
        says: row.says.as_str().into(),
        peer: match &row.peer {
            rows::Peer::Any => Peer::Any,
            rows::Peer::Groups { groups } => Peer::Groups(groups.iter().copied().map(GroupId).collect()),
        },
        protocol: row.protocol.map(|protocol| protocol.0),
        ports: row.ports.map(|range| (range.first, range.last)),
        verdict: match row.verdict {
            rows::RuleVerdict::Allow => RuleVerdict::Allow,
            rows::RuleVerdict::Deny => RuleVerdict::Deny,
        },
    }
}

fn rule_row(rule: &Rule) -> rows::Rule {
    rows::Rule {
        id: rule.id,
        name: rule.name.to_string(),
        says: rule.says.to_string(),
        peer: match &rule.peer {
            Peer::Any => rows::Peer::Any,
            Peer::Groups(groups) => rows::Peer::Groups { groups: numbers(groups) },
        },
        protocol: rule.protocol.map(rows::Protocol),
        ports: rule.ports.map(|(first, last)| rows::PortRange { first, last }),
        verdict: match rule.verdict {
            RuleVerdict::Allow => rows::RuleVerdict::Allow,
            RuleVerdict::Deny => rows::RuleVerdict::Deny,
        },
    }
}

pub(crate) fn masquerade(row: &rows::Masquerade) -> Masquerade {
    let rows::Masquerade { network: _, source4, source6, exclude, link_local, service4, service6, ports } =
        row;
    Masquerade {
        source4: *source4,
        source6: *source6,
        exclude: exclude.clone(),
        link_local: *link_local,
        service4: *service4,
        service6: *service6,
        ports: (ports.first, ports.last),
    }
}

pub(crate) fn masquerade_row(network: NetworkId, masquerade: &Masquerade) -> rows::Masquerade {
    let Masquerade { source4, source6, exclude, link_local, service4, service6, ports: (first, last) } =
        masquerade;
    rows::Masquerade {
        network: network.0,
        source4: *source4,
        source6: *source6,
        exclude: exclude.clone(),
        link_local: *link_local,
        service4: *service4,
        service6: *service6,
        ports: rows::PortRange { first: *first, last: *last },
    }
}
