//! Rows that the policy step reads: who is behind an address, and what may reach an endpoint.
//!
//! An address has two identities: that of the pod that has it, by a row of its own, and that of the ranges that hold it, by the longest
//! prefix. An identity is in groups, and rules name groups: a pod that comes costs one row, whatever rules there are; a rule costs one
//! row, whatever pods there are.

use std::fmt;

use serde::{Deserialize, Serialize};
use wire::IpPrefix;

use super::large::IdentityFields;
use super::services::{PortRange, Protocol};
use crate::text;

/// What an identity is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IdentityKey {
    #[serde(default)]
    pub network: u16,
    #[serde(with = "text")]
    pub prefix: IpPrefix,
}

/// Who is behind a prefix, as a pod or as part of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "IdentityFields")]
pub struct Identity {
    #[serde(flatten)]
    pub key: IdentityKey,
    /// Above 0, which is what no row speaks of.
    pub identity: u32,
}

/// The groups that an identity is in. One that has no such row is in none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Membership {
    pub identity: u32,
    /// In any order.
    pub groups: Vec<u32>,
}

/// What may reach an endpoint and what it may reach. It may come before the endpoint and stay longer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Policy {
    /// The endpoint's name.
    pub endpoint: String,
    /// What may come in, the first rule that matches; no rule matches: nothing. `None` is no restriction.
    #[serde(default)]
    pub ingress: Option<Vec<Rule>>,
    /// What may go out, in the same way.
    #[serde(default)]
    pub egress: Option<Vec<Rule>>,
}

/// One rule of a direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// What a flow's record calls it; above 0, and no other rule of the endpoint's has it.
    pub id: u32,
    /// What people call it: the policy, and where in it the rule is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whom it speaks of, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub says: String,
    pub peer: Peer,
    /// `None` is any.
    #[serde(default, with = "text::option")]
    pub protocol: Option<Protocol>,
    /// Destination ports; a protocol without ports does not match. `None` is any.
    #[serde(default)]
    pub ports: Option<PortRange>,
    pub verdict: RuleVerdict,
}

impl fmt::Display for Rule {
    /// As `allow tcp 80-90 for groups 7, 9`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verdict {
            RuleVerdict::Allow => "allow ",
            RuleVerdict::Deny => "deny ",
        })?;
        match (self.protocol, self.ports) {
            (None, None) => f.write_str("anything")?,
            (Some(protocol), None) => protocol.fmt(f)?,
            (None, Some(ports)) => write!(f, "ports {ports}")?,
            (Some(protocol), Some(ports)) => write!(f, "{protocol} {ports}")?,
        }
        match &self.peer {
            Peer::Any => f.write_str(" for anyone"),
            Peer::Groups { .. } if !self.says.is_empty() => write!(f, " for {}", self.says),
            Peer::Groups { groups } => match groups.as_slice() {
                [] => f.write_str(" for no one"),
                [one] => write!(f, " for group {one}"),
                several => {
                    let several: Vec<String> = several.iter().map(u32::to_string).collect();
                    write!(f, " for groups {}", several.join(", "))
                }
            },
        }
    }
}

/// Whom a rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Peer {
    /// Anyone, known or not.
    Any,
    /// Whoever is in one of these.
    Groups { groups: Vec<u32> },
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleVerdict {
    Allow,
    Deny,
}

/// `podrouter show policies`, a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    #[serde(flatten)]
    pub policy: Policy,
    /// Whether the endpoint is there; otherwise the policy waits for it.
    pub present: bool,
    /// Packets to the endpoint that its policy has forbidden since its port was made, whichever port they came by. Drops count them too,
    /// where they came in.
    #[serde(default)]
    pub denied_ingress: u64,
    /// The same of packets from the endpoint, and of answers to what it may not send any more.
    #[serde(default)]
    pub denied_egress: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_in_words() {
        let words = |groups: &[u32], protocol: Option<u8>, ports: Option<(u16, u16)>| {
            let ports = ports.map(|(first, last)| PortRange { first, last });
            let peer = Peer::Groups { groups: groups.to_vec() };
            let (protocol, verdict) = (protocol.map(Protocol), RuleVerdict::Allow);
            Rule { id: 1, name: String::new(), says: String::new(), peer, protocol, ports, verdict }
                .to_string()
        };
        assert_eq!(words(&[7, 9], Some(6), Some((80, 90))), "allow tcp 80-90 for groups 7, 9");
        assert_eq!(words(&[1], None, Some((53, 53))), "allow ports 53 for group 1");
        assert_eq!(words(&[], Some(1), None), "allow icmp for no one");
        let (peer, says) = (Peer::Groups { groups: vec![7] }, "pods app=front of shop".to_owned());
        let (name, verdict) = (String::new(), RuleVerdict::Allow);
        let said = Rule { id: 1, name, says, peer, protocol: Some(Protocol(6)), ports: None, verdict };
        assert_eq!(said.to_string(), "allow tcp for pods app=front of shop");
        let (peer, verdict) = (Peer::Any, RuleVerdict::Deny);
        let all = Rule {
            id: 1,
            name: String::new(),
            says: String::new(),
            peer,
            protocol: None,
            ports: None,
            verdict,
        };
        assert_eq!(all.to_string(), "deny anything for anyone");
    }
}
