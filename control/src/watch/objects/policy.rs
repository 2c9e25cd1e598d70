//! `NetworkPolicies`.

use desired::{
    Change, Expression, NetworkPolicy, ObjectName, PolicyPeer, PolicyPort, PolicyRule, PortMatch, Selector,
    ViewChange,
};
use serde::Deserialize;

use super::Trimmed;
use super::spelling::{AllLabels, Field, Metadata, Prefix, Spelled, Spelling, labels, texts};

impl Trimmed for NetworkPolicy {
    const KIND: &'static str = "NetworkPolicy";
    const PLURAL: &'static str = "networkpolicies";
    const GROUP: &'static str = "networking.k8s.io";
    type Key = ObjectName;
    type Fields<S: Spelling> = Fields<S>;

    fn change(change: Change<ObjectName, Self>) -> ViewChange {
        ViewChange::NetworkPolicy(change)
    }
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
pub(crate) struct Fields<S> {
    metadata: Metadata,
    /// A policy that lost it would select every pod, or none: neither is for us to guess.
    spec: Spec<S>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", rename_all = "camelCase")]
struct Spec<S> {
    pod_selector: Option<RawSelector>,
    ingress: Option<Vec<Ingress<S>>>,
    egress: Option<Vec<Egress<S>>>,
    policy_types: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct Ingress<S> {
    from: Option<Vec<Peer<S>>>,
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct Egress<S> {
    to: Option<Vec<Peer<S>>>,
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", try_from = "RawPeer<S>")]
struct Peer<S> {
    raw: RawPeer<S>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", rename_all = "camelCase")]
struct RawPeer<S> {
    pod_selector: Option<RawSelector>,
    namespace_selector: Option<RawSelector>,
    ip_block: Option<Block<S>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct Block<S> {
    cidr: Spelled<Cidr, S>,
    except: Option<Vec<Spelled<Except, S>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", try_from = "RawPort")]
struct Port(PolicyPort);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    protocol: Option<String>,
    port: Option<NumberOrName>,
    end_port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrName {
    Number(u16),
    Name(Box<str>),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct RawSelector {
    match_labels: Option<AllLabels>,
    match_expressions: Option<Vec<RawExpression>>,
}

#[derive(Deserialize)]
struct RawExpression {
    key: Box<str>,
    operator: String,
    values: Option<Vec<Box<str>>>,
}

/// `ipBlock.cidr`.
struct Cidr;

impl Field for Cidr {
    const NAME: &'static str = "cidr";
    type Value = Prefix;
}

/// `ipBlock.except`.
struct Except;

impl Field for Except {
    const NAME: &'static str = "except";
    type Value = Prefix;
}

impl<S> TryFrom<RawPeer<S>> for Peer<S> {
    type Error = &'static str;

    /// What is not known of a peer must not make it anybody.
    fn try_from(raw: RawPeer<S>) -> Result<Self, Self::Error> {
        match (&raw.ip_block, raw.pod_selector.is_some() || raw.namespace_selector.is_some()) {
            (None, false) => Err("a peer with neither ipBlock, podSelector nor namespaceSelector"),
            (Some(_), true) => Err("a peer with both ipBlock and a selector"),
            _ => Ok(Self { raw }),
        }
    }
}

impl TryFrom<RawPort> for Port {
    type Error = &'static str;

    fn try_from(raw: RawPort) -> Result<Self, Self::Error> {
        let port = match (raw.port, raw.end_port) {
            (None, None) => None,
            (Some(NumberOrName::Name(name)), None) => Some(PortMatch::Named(name)),
            (Some(NumberOrName::Number(port)), None) => Some(PortMatch::Range(port, port)),
            (Some(NumberOrName::Number(port)), Some(end)) if port <= end => Some(PortMatch::Range(port, end)),
            (Some(NumberOrName::Number(_)), Some(_)) => return Err("endPort is less than port"),
            (_, Some(_)) => return Err("endPort without a port that is a number"),
        };
        Ok(Self(PolicyPort { protocol: raw.protocol.as_deref().unwrap_or_default().into(), port }))
    }
}

fn selector(raw: RawSelector) -> Selector {
    let expression = |own: RawExpression| Expression {
        key: own.key,
        operator: own.operator.as_str().into(),
        values: own.values.unwrap_or_default(),
    };
    Selector {
        labels: labels(raw.match_labels),
        expressions: raw.match_expressions.into_iter().flatten().map(expression).collect(),
    }
}

fn peer<S>(Peer { raw }: Peer<S>) -> PolicyPeer {
    match raw.ip_block {
        Some(block) => PolicyPeer::Block { cidr: block.cidr.into(), except: texts(block.except) },
        None => PolicyPeer::Pods {
            namespaces: raw.namespace_selector.map(selector),
            pods: raw.pod_selector.map(selector),
        },
    }
}

fn rule<S>(peers: Option<Vec<Peer<S>>>, ports: Option<Vec<Port>>) -> PolicyRule {
    PolicyRule {
        peers: peers.into_iter().flatten().map(peer).collect(),
        ports: ports.into_iter().flatten().map(|Port(port)| port).collect(),
    }
}

impl<S> From<Fields<S>> for (ObjectName, NetworkPolicy) {
    fn from(Fields { metadata, spec }: Fields<S>) -> Self {
        let ingress: Vec<_> =
            spec.ingress.into_iter().flatten().map(|own| rule(own.from, own.ports)).collect();
        let egress: Vec<_> = spec.egress.into_iter().flatten().map(|own| rule(own.to, own.ports)).collect();
        // Without types it is always for what comes in, and for what goes out if it has such rules.
        let is_for = |direction: &str, default: bool| match &spec.policy_types {
            Some(types) if !types.is_empty() => types.iter().any(|own| own == direction),
            _ => default,
        };
        let (for_ingress, for_egress) = (is_for("Ingress", true), is_for("Egress", !egress.is_empty()));
        let policy = NetworkPolicy {
            pods: spec.pod_selector.map(selector).unwrap_or_default(),
            ingress: for_ingress.then_some(ingress),
            egress: for_egress.then_some(egress),
        };
        (metadata.name(), policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use desired::{Operator, Protocol};

    fn read(spec: &str) -> Result<NetworkPolicy, String> {
        NetworkPolicy::read(&format!(r#"{{"metadata": {{"name": "p"}}, "spec": {spec}}}"#))
    }

    #[test]
    fn everything_that_is_written_is_read() {
        let policy = read(
            r#"{"podSelector": {"matchLabels": {"app": "db"}, "matchExpressions": [{"key": "k", "operator": "NotIn", "values": ["a"]}]},
                "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"x": "y"}}}, {"podSelector": {}}],
                             "ports": [{"port": "sql"}, {"protocol": "SCTP", "port": 5, "endPort": 9}, {"protocol": "UDP"}, {"port": 7}]}],
                "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}, {}],
                "policyTypes": ["Ingress", "Egress"]}"#,
        )
        .unwrap();
        let labels = |key: &str, value: &str| [(key, value)].into_iter().collect();
        let port = |protocol, port| PolicyPort { protocol, port };
        assert_eq!(policy.pods.labels, labels("app", "db"));
        let expression = Expression { key: "k".into(), operator: Operator::NotIn, values: vec!["a".into()] };
        assert_eq!(policy.pods.expressions, [expression]);
        let selected = Selector { labels: labels("x", "y"), ..Selector::default() };
        assert_eq!(
            policy.ingress.unwrap(),
            [PolicyRule {
                peers: vec![
                    PolicyPeer::Pods { namespaces: Some(Selector::default()), pods: Some(selected) },
                    PolicyPeer::Pods { namespaces: None, pods: Some(Selector::default()) },
                ],
                ports: vec![
                    port(Protocol::Tcp, Some(PortMatch::Named("sql".into()))),
                    port(Protocol::Sctp, Some(PortMatch::Range(5, 9))),
                    port(Protocol::Udp, None),
                    port(Protocol::Tcp, Some(PortMatch::Range(7, 7))),
                ],
            }]
        );
        let block = PolicyPeer::Block { cidr: "10.0.0.0/8".into(), except: vec!["10.1.0.0/16".into()] };
        let to_block = PolicyRule { peers: vec![block], ports: vec![] };
        assert_eq!(policy.egress.unwrap(), [to_block, PolicyRule::default()]);
    }

    #[test]
    fn types_that_are_not_written_follow_from_the_rules() {
        for (spec, ingress, egress) in [
            ("{}", true, false),
            (r#"{"egress": [{}]}"#, true, true),
            (r#"{"egress": []}"#, true, false),
            (r#"{"policyTypes": ["Egress"]}"#, false, true),
            (r#"{"policyTypes": [], "ingress": [{}]}"#, true, false),
            (r#"{"policyTypes": ["Ingress"], "egress": [{}]}"#, true, false),
        ] {
            let policy = read(spec).unwrap();
            assert_eq!((policy.ingress.is_some(), policy.egress.is_some()), (ingress, egress), "{spec}");
        }
    }

    #[test]
    fn nothing_is_guessed() {
        for (spec, named) in [
            (r#"{"ingress": [{"from": [{}]}]}"#, "neither ipBlock"),
            (
                r#"{"ingress": [{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]}"#,
                "both ipBlock",
            ),
            (r#"{"egress": [{"ports": [{"port": 9, "endPort": 5}]}]}"#, "less than port"),
            (r#"{"egress": [{"ports": [{"port": "http", "endPort": 5}]}]}"#, "endPort without"),
            (r#"{"egress": [{"ports": [{"port": 70000}]}]}"#, "egress[0].ports[0]"),
            (r#"{"podSelector": {"matchLabels": {"a": 7}}}"#, "spec.podSelector.matchLabels.a"),
        ] {
            let message = read(spec).unwrap_err();
            assert!(message.contains(named), "{spec}: {message}");
        }
        assert!(NetworkPolicy::read(r#"{"metadata": {"name": "p"}}"#).unwrap_err().contains("spec"));
    }
}
