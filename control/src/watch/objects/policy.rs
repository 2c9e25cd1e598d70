//! `NetworkPolicies`.
//!
//! What of one cannot be read, as what a later API has come to know, allows nothing: the rest of it stays what it is.

use std::str::FromStr;

use desired::{
    Change, Expression, NetworkPolicy, ObjectName, PolicyPeer, PolicyPort, PolicyRule, PortMatch, Protocol,
    Selector, ViewChange,
};
use serde::Deserialize;

use super::Trimmed;
use super::spelling::{AllLabels, Field, Metadata, Part, Prefix, Spelled, Spelling, labels, texts};

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
    pod_selector: Option<Part<RawSelector, S>>,
    ingress: Option<Parts<Ingress<S>, S>>,
    egress: Option<Parts<Egress<S>, S>>,
    policy_types: Option<Part<Vec<Spelled<PolicyType, S>>, S>>,
}

/// A list, any of which may be unread.
type Parts<T, S> = Part<Vec<Part<T, S>>, S>;

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", deny_unknown_fields)]
struct Ingress<S> {
    from: Option<Parts<Peer<S>, S>>,
    ports: Option<Parts<Port, S>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", deny_unknown_fields)]
struct Egress<S> {
    to: Option<Parts<Peer<S>, S>>,
    ports: Option<Parts<Port, S>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", try_from = "RawPeer<S>")]
struct Peer<S> {
    raw: RawPeer<S>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", rename_all = "camelCase", deny_unknown_fields)]
struct RawPeer<S> {
    pod_selector: Option<RawSelector>,
    namespace_selector: Option<RawSelector>,
    ip_block: Option<Block<S>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", deny_unknown_fields)]
struct Block<S> {
    cidr: Spelled<Cidr, S>,
    except: Option<Vec<Spelled<Except, S>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", try_from = "RawPort")]
struct Port(PolicyPort);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPort {
    protocol: Option<String>,
    port: Option<NumberOrName>,
    end_port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a port is a number up to 65535, or a name")]
enum NumberOrName {
    Number(u16),
    Name(Box<str>),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawSelector {
    match_labels: Option<AllLabels>,
    match_expressions: Option<Vec<RawExpression>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpression {
    key: Box<str>,
    operator: String,
    values: Option<Vec<Box<str>>>,
}

/// One of `policyTypes`.
struct PolicyType;

impl Field for PolicyType {
    const NAME: &'static str = "policyTypes";
    type Value = Self;
}

impl FromStr for PolicyType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if matches!(text, "Ingress" | "Egress") { Ok(Self) } else { Err("it is neither Ingress nor Egress") }
    }
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

fn rule<S>(peers: Option<Parts<Peer<S>, S>>, ports: Option<Parts<Port, S>>) -> PolicyRule {
    let unread =
        |why: String| PolicyPort { protocol: Protocol::Tcp, port: Some(PortMatch::Unread(why.into())) };
    PolicyRule {
        peers: parts(peers, peer, |why| PolicyPeer::Unread(why.into())).unwrap_or_default(),
        ports: parts(ports, |Port(port)| port, unread).unwrap_or_default(),
    }
}

/// Each as what it is; what is unread, one or all of them, as what stands for that.
fn parts<T, U, S>(
    all: Option<Parts<T, S>>,
    read: impl Fn(T) -> U,
    unread: impl Fn(String) -> U,
) -> Option<Vec<U>> {
    let one = |part| match part {
        Part::Read(own) => read(own),
        Part::Unread(why, _) => unread(why),
    };
    Some(match all? {
        Part::Read(all) => all.into_iter().map(one).collect(),
        Part::Unread(why, _) => vec![unread(why)],
    })
}

impl<S> From<Fields<S>> for (ObjectName, NetworkPolicy) {
    fn from(Fields { metadata, spec }: Fields<S>) -> Self {
        let nobody = |why: String| PolicyRule { peers: vec![PolicyPeer::Unread(why.into())], ports: vec![] };
        let mut ingress = parts(spec.ingress, |own| rule(own.from, own.ports), nobody).unwrap_or_default();
        let egress = parts(spec.egress, |own| rule(own.to, own.ports), nobody).unwrap_or_default();
        // Without types it is always for what comes in, and for what goes out if it has such rules.
        let (mut for_ingress, mut for_egress) = (true, !egress.is_empty());
        let unread = match spec.policy_types {
            Some(Part::Read(types)) if !types.is_empty() => {
                let types: Vec<String> = types.into_iter().map(String::from).collect();
                let is_for = |direction: &str| types.iter().any(|own| own == direction);
                (for_ingress, for_egress) = (is_for("Ingress"), is_for("Egress"));
                let unknown = types.iter().find(|own| own.parse::<PolicyType>().is_err());
                unknown.map(|own| format!("policyTypes: `{own}` is not known"))
            }
            Some(Part::Unread(why, _)) => Some(format!("policyTypes: {why}")),
            _ => None,
        };
        if let Some(why) = unread {
            // For all that it may be for.
            (for_ingress, for_egress) = (true, true);
            ingress.push(nobody(why));
        }
        let pods = match spec.pod_selector {
            Some(Part::Read(own)) => selector(own),
            Some(Part::Unread(why, _)) => Selector::unread(&why),
            None => Selector::default(),
        };
        let policy = NetworkPolicy {
            pods,
            ingress: for_ingress.then_some(ingress),
            egress: for_egress.then_some(egress),
        };
        (metadata.name(), policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use desired::Operator;

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
    fn what_cannot_be_read_allows_nothing_and_is_told() {
        let (neither, both) = ("neither ipBlock", "both ipBlock");
        let mut seen = 0;
        for (spec, named) in [
            (r#"{"ingress": [{"from": [{}]}]}"#, neither),
            (r#"{"ingress": [{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]}"#, both),
            (r#"{"ingress": [{"from": [{"podSelector": {}, "domainNames": ["example"]}]}]}"#, "domainNames"),
            (r#"{"ingress": [{"from": [{"podSelector": {"matchLabels": {"a": 7}}}]}]}"#, "matchLabels.a"),
            (r#"{"ingress": [{"from": [{"podSelector": {"matchFields": {}}}]}]}"#, "matchFields"),
            (r#"{"ingress": [{"from": {"podSelector": {}}}]}"#, "sequence"),
            (r#"{"ingress": [{"from": [{"podSelector": {}}], "until": "noon"}]}"#, "until"),
            (r#"{"ingress": {"from": []}}"#, "sequence"),
        ] {
            let policy = read(spec).unwrap();
            let [PolicyRule { peers, .. }] = &policy.ingress.unwrap()[..] else { panic!("{spec}") };
            let [PolicyPeer::Unread(why)] = &peers[..] else { panic!("{spec}: {peers:?}") };
            assert!(why.contains(named), "{spec}: {why}");
            seen += 1;
        }
        for (spec, named) in [
            (r#"{"egress": [{"ports": [{"port": 9, "endPort": 5}]}]}"#, "less than port"),
            (r#"{"egress": [{"ports": [{"port": "http", "endPort": 5}]}]}"#, "endPort without"),
            (r#"{"egress": [{"ports": [{"port": 70000}]}]}"#, "up to 65535"),
            (r#"{"egress": [{"ports": [{"port": 7, "appProtocol": "h2"}]}]}"#, "appProtocol"),
            (r#"{"egress": [{"ports": 7}]}"#, "sequence"),
        ] {
            let policy = read(spec).unwrap();
            let [PolicyRule { ports, .. }] = &policy.egress.unwrap()[..] else { panic!("{spec}") };
            let [PolicyPort { port: Some(PortMatch::Unread(why)), .. }] = &ports[..] else {
                panic!("{spec}: {ports:?}")
            };
            assert!(why.contains(named), "{spec}: {why}");
            seen += 1;
        }
        assert_eq!(seen, 13);
        let policy = read(r#"{"podSelector": {"matchLabels": {"a": 7}}, "policyTypes": 1}"#).unwrap();
        let [Expression { operator: Operator::Unread(why), .. }] = &policy.pods.expressions[..] else {
            panic!()
        };
        assert!(why.contains("matchLabels.a"), "{why}");
        let nobody = |policy: NetworkPolicy| {
            let ingress = policy.ingress.unwrap();
            matches!(&ingress[..], [PolicyRule { peers, .. }] if matches!(&peers[..], [PolicyPeer::Unread(_)]))
                && policy.egress == Some(vec![])
        };
        assert!(nobody(policy));
        assert!(nobody(read(r#"{"policyTypes": ["egress"]}"#).unwrap()));
        // One without a spec selects nobody knows whom; and what is beside a part that is unread is read.
        assert!(NetworkPolicy::read(r#"{"metadata": {"name": "p"}}"#).unwrap_err().contains("spec"));
        let policy = read(r#"{"ingress": [{"from": [{}, {"podSelector": {}}]}, {}]}"#).unwrap();
        let [first, second] = &policy.ingress.unwrap()[..] else { panic!() };
        let all = PolicyPeer::Pods { namespaces: None, pods: Some(Selector::default()) };
        assert_eq!((&first.peers[1..], second), (&[all][..], &PolicyRule::default()));
    }

    #[test]
    fn in_a_file_that_is_an_error() {
        for (spec, named) in [
            (r#"{"ingress": [{"from": [{}]}]}"#, "neither ipBlock"),
            (
                r#"{"ingress": [{"from": [{"podSelector": {}, "namespaceSelecter": {}}]}]}"#,
                "namespaceSelecter",
            ),
            (r#"{"egress": [{"ports": [{"port": 9, "endPort": 5}]}]}"#, "less than port"),
            (r#"{"podSelector": {"matchLabels": {"a": 7}}}"#, "invalid type"),
            (r#"{"policyTypes": ["egress"]}"#, "neither Ingress nor Egress"),
        ] {
            let json = format!(r#"{{"metadata": {{"name": "p"}}, "spec": {spec}}}"#);
            let read = serde_json::from_str::<Fields<super::super::spelling::Strict>>(&json);
            let message = read.map(drop).unwrap_err().to_string();
            assert!(message.contains(named), "{spec}: {message}");
        }
    }
}
