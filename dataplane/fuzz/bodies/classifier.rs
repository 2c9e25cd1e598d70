//! Rules and packets from any bytes: each decision of a classifier is that of the rules as they are written, one after the other.

use tables::{Classifier, GroupId, Peer, Rule, RuleVerdict};

/// Few of each, so that they meet often.
const PROTOCOLS: [u8; 6] = [6, 17, 132, 1, 0, 255];
/// Among them, and past them, where the steps of one protocol end and those of the next begin.
const PORTS: [u16; 8] = [0, 1, 79, 80, 81, 32_768, 65_534, 65_535];

pub(crate) fn body(data: &[u8]) {
    let mut bytes = data.iter().copied();
    let mut next = || bytes.next().unwrap_or(0);
    let port = |byte: u8| PORTS[usize::from(byte) % PORTS.len()];
    let rules: Vec<Rule> = (1..=u32::from(next() % 24))
        .map(|id| {
            let what = next();
            let groups = (0..what % 4).map(|_| GroupId(u32::from(next() % 40))).collect();
            Rule {
                id,
                name: "".into(),
                says: "".into(),
                peer: if what & 0x10 == 0 { Peer::Groups(groups) } else { Peer::Any },
                protocol: (what & 0x20 != 0).then(|| PROTOCOLS[usize::from(next()) % PROTOCOLS.len()]),
                ports: (what & 0x40 != 0).then(|| (port(next()), port(next()))),
                verdict: if what & 0x80 == 0 { RuleVerdict::Allow } else { RuleVerdict::Deny },
            }
        })
        .collect();
    let classifier = Classifier::new(rules.clone());
    for _ in 0..16 {
        let [pod, ranges] = [next(), next()].map(|count| {
            let mut groups: Vec<GroupId> = (0..count % 8).map(|_| GroupId(u32::from(next() % 40))).collect();
            groups.sort_unstable();
            groups.dedup();
            groups
        });
        let (protocol, port) = (PROTOCOLS[usize::from(next()) % PROTOCOLS.len()], port(next()));
        let matches = |rule: &&Rule| {
            let is_peer = match &rule.peer {
                Peer::Any => true,
                Peer::Groups(named) => named.iter().any(|own| pod.contains(own) || ranges.contains(own)),
            };
            let is_port = |(first, last): (u16, u16)| {
                matches!(protocol, 6 | 17 | 132) && (first..=last).contains(&port)
            };
            is_peer && rule.protocol.is_none_or(|own| own == protocol) && rule.ports.is_none_or(is_port)
        };
        let expected = rules.iter().find(matches);
        let found = classifier.decide([&pod, &ranges], protocol, port);
        assert_eq!(found.rule, expected, "{pod:?} {ranges:?} {protocol} {port}");
        assert_eq!(found.verdict, expected.map_or(RuleVerdict::Deny, |rule| rule.verdict));
    }
}
