//! NetworkPolicies as they are written (networking.k8s.io/v1); what they mean is worked out elsewhere.

use std::fmt;

use super::{Labels, Protocol};

/// A `NetworkPolicy` object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkPolicy {
    /// `spec.podSelector`: whom of its own namespace it is for.
    pub pods: Selector,
    /// `None`: says nothing of what comes in (`spec.policyTypes`); no rule: forbids it all.
    pub ingress: Option<Vec<PolicyRule>>,
    /// The same of what goes out.
    pub egress: Option<Vec<PolicyRule>>,
}

impl NetworkPolicy {
    /// Whether other nodes' pods must be known to carry it out: it names peers by their labels, or ports by their names that
    /// only the pods with them can tell the number of.
    #[must_use]
    pub fn selects_pods(&self) -> bool {
        let ingress = self.ingress.iter().flatten();
        let mut egress = self.egress.iter().flatten();
        let by_labels =
            |rule: &PolicyRule| rule.peers.iter().any(|peer| matches!(peer, PolicyPeer::Pods { .. }));
        let by_name =
            |rule: &PolicyRule| rule.ports.iter().any(|own| matches!(own.port, Some(PortMatch::Named(_))));
        ingress.into_iter().any(by_labels) || egress.any(|rule| by_labels(rule) || by_name(rule))
    }
}

/// One of `ingress` or `egress`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyRule {
    /// `from` or `to`; empty: anybody.
    pub peers: Vec<PolicyPeer>,
    /// Empty: any port of any protocol.
    pub ports: Vec<PolicyPort>,
}

/// One of `from` or `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyPeer {
    /// Pods of the namespaces that are selected, or of the policy's own; all of those, or the selected ones.
    Pods { namespaces: Option<Selector>, pods: Option<Selector> },
    /// Addresses in `cidr` and in none of `except`.
    Block { cidr: Box<str>, except: Vec<Box<str>> },
    /// One that could not be read, and why: nobody.
    Unread(Box<str>),
}

/// One of a rule's `ports`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyPort {
    pub protocol: Protocol,
    /// `None`: any port of the protocol.
    pub port: Option<PortMatch>,
}

/// What a rule's port may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortMatch {
    /// `port` to `endPort`, or `port` alone.
    Range(u16, u16),
    /// The port of that name of the pod that is spoken to.
    Named(Box<str>),
    /// One that could not be read, with all that its entry says, and why: none.
    Unread(Box<str>),
}

/// A label selector: all of it must match; an empty one matches everything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Selector {
    pub labels: Labels,
    pub expressions: Vec<Expression>,
}

impl Selector {
    /// Whether it selects what has these labels (apimachinery, pkg/labels, Requirement.Matches); `unknown` is the answer of an
    /// expression that nobody knows the meaning of.
    pub(crate) fn matches<'a>(&'a self, label: impl Fn(&str) -> Option<&'a str>, unknown: bool) -> bool {
        let is_among = |own: &Expression| {
            label(&own.key).is_some_and(|value| own.values.iter().any(|other| **other == *value))
        };
        self.labels.iter().all(|(key, value)| label(key) == Some(value))
            && self.expressions.iter().all(|own| match own.operator {
                Operator::In => is_among(own),
                Operator::NotIn => !is_among(own),
                Operator::Exists => label(&own.key).is_some(),
                Operator::DoesNotExist => label(&own.key).is_none(),
                Operator::Other(_) | Operator::Unread(_) => unknown,
            })
    }

    /// One that could not be read.
    #[must_use]
    pub fn unread(why: &str) -> Self {
        let operator = Operator::Unread(why.into());
        let expression = Expression { key: Box::default(), operator, values: Vec::new() };
        Self { labels: Labels::default(), expressions: vec![expression] }
    }

    /// Whether it asks of any label but `known` that it is not there, or not such.
    pub(crate) fn needs_absence(&self, known: &str) -> bool {
        let absence = |own: &Expression| matches!(own.operator, Operator::NotIn | Operator::DoesNotExist);
        self.expressions.iter().any(|own| absence(own) && *own.key != *known)
    }

    /// What of it nobody knows the meaning of.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = &Expression> {
        self.expressions.iter().filter(|own| matches!(own.operator, Operator::Other(_) | Operator::Unread(_)))
    }
}

impl fmt::Display for Selector {
    /// As `kubectl` takes it: `app=db,tier in (a, b),!old`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.labels.iter().map(|(key, value)| format!("{key}={value}"));
        let expressions = self.expressions.iter().map(|own| {
            let Expression { key, operator, values } = own;
            match operator {
                Operator::In => format!("{key} in ({})", values.join(", ")),
                Operator::NotIn => format!("{key} notin ({})", values.join(", ")),
                Operator::Exists => key.to_string(),
                Operator::DoesNotExist => format!("!{key}"),
                Operator::Other(operator) => format!("{key} {operator} ({})", values.join(", ")),
                Operator::Unread(_) => "unread".to_owned(),
            }
        });
        f.write_str(&labels.chain(expressions).collect::<Vec<_>>().join(","))
    }
}

/// One of `matchExpressions`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expression {
    pub key: Box<str>,
    pub operator: Operator,
    pub values: Vec<Box<str>>,
}

/// How an expression compares.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    /// One that the API does not have yet.
    Other(Box<str>),
    /// In the place of a selector that could not be read, and why.
    Unread(Box<str>),
}

impl From<&str> for Operator {
    fn from(text: &str) -> Self {
        match text {
            "In" => Self::In,
            "NotIn" => Self::NotIn,
            "Exists" => Self::Exists,
            "DoesNotExist" => Self::DoesNotExist,
            other => Self::Other(other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_needed_where_labels_or_names_of_ports_are_selected() {
        let rule = |peers: Vec<PolicyPeer>, port: Option<PortMatch>| PolicyRule {
            peers,
            ports: vec![PolicyPort { protocol: Protocol::Tcp, port }],
        };
        let policy = |ingress, egress| NetworkPolicy { ingress, egress, ..NetworkPolicy::default() };
        let pods = || PolicyPeer::Pods { namespaces: Some(Selector::default()), pods: None };
        let block = || PolicyPeer::Block { cidr: "10.0.0.0/8".into(), except: vec![] };
        let named = || Some(PortMatch::Named("http".into()));
        for (own, expected) in [
            (policy(Some(vec![]), Some(vec![])), false),
            (policy(Some(vec![rule(vec![block()], named())]), None), false),
            (policy(None, Some(vec![rule(vec![block()], Some(PortMatch::Range(80, 90)))])), false),
            (policy(Some(vec![rule(vec![], None), rule(vec![block(), pods()], None)]), None), true),
            (policy(None, Some(vec![rule(vec![pods()], None)])), true),
            (policy(None, Some(vec![rule(vec![], named())])), true),
        ] {
            assert_eq!(own.selects_pods(), expected, "{own:?}");
        }
    }
}
