//! Policies between real kernels: what they refuse is counted by name, what they allow is answered, and a change of mind
//! cuts a connection.

use proto::dataplane::BackendState::Serving;
use proto::dataplane::{
    Identity, IdentityKey, Membership, Op, Peer, Policy, PortRange, Protocol, Request, Response, Rule,
    RuleVerdict,
};

use crate::dataplane::Dataplane;
use crate::frames::{endpoint, service};
use crate::pod::{Pod, gateway};
use crate::talk::{addr, connect, echo, exchange, hear, listen, say, udp};

const FRIEND: u32 = 7;
const FRIENDS: u32 = 70;

/// Pod 2 takes what `ingress` allows, and begins nothing of its own.
fn policy(ingress: Vec<Rule>) -> Op {
    let policy = Policy { endpoint: "pod2".into(), ingress: Some(ingress), egress: Some(vec![]) };
    Op::SetPolicies { policies: vec![policy] }
}

/// The friend's TCP and UDP to the backend's port, which is what a policy sees.
fn allowed() -> Vec<Rule> {
    let rule = |id, protocol| Rule {
        id,
        name: format!("shop/friends ingress[{id}]"),
        says: String::new(),
        peer: Peer::Groups { groups: vec![FRIENDS] },
        protocol: Some(Protocol(protocol)),
        ports: Some(PortRange { first: 8080, last: 8080 }),
        verdict: RuleVerdict::Allow,
    };
    vec![rule(1, 6), rule(2, 17)]
}

/// What pod 2's policy has denied, into it and out of it.
fn denied(dataplane: &mut Dataplane) -> [u64; 2] {
    let Response::Policies { policies } = dataplane.call(&Request::ShowPolicies) else { panic!() };
    [policies[0].denied_ingress, policies[0].denied_egress]
}

#[test]
fn what_a_policy_forbids_is_dropped_by_name_and_a_new_one_cuts_what_the_old_one_allowed() {
    let pods = [1, 2, 3].map(Pod::new);
    let [one, two, three] = &pods;
    let mut dataplane = Dataplane::start(&["--workers", "none", "--kernel-workers", "2"]);
    let names = ["a", "b", "c"];
    for (name, pod) in names.iter().zip(&pods) {
        dataplane.tap(name, pod.fd());
    }
    let identity = |prefix: &str| Identity {
        key: IdentityKey { network: 0, prefix: prefix.parse().unwrap() },
        identity: FRIEND,
    };
    let ways = [
        ["10.0.0.1:0", "10.0.0.3:0", "10.96.0.10:80", "10.0.0.2:8080"],
        ["[fd00::1]:0", "[fd00::3]:0", "[fd00:96::10]:80", "[fd00::2]:8080"],
    ]
    .map(|way| way.map(addr));
    let mut rows = vec![
        gateway(),
        Op::SetEndpoints { endpoints: (1..).zip(names).map(|(n, name)| endpoint(n, name)).collect() },
        Op::SetIdentities { identities: vec![identity("10.0.0.1/32"), identity("fd00::1/128")] },
        Op::SetMemberships { memberships: vec![Membership { identity: FRIEND, groups: vec![FRIENDS] }] },
        policy(allowed()),
    ];
    rows.extend(ways.map(|[_, _, at, backend]| service(at, &[(backend, Serving)])));
    dataplane.commit(0, rows);

    let mut generation = 1;
    for [friend, stranger, at, backend] in ways {
        // Answers come back though pod 2 may begin nothing; and the stranger gets nowhere, by whatever address.
        let listener = listen(two, backend);
        let (client, server) = connect(one, at, &listener);
        exchange(&client, &server, 100_000);
        let (asks, answers) = (udp(one, friend), udp(two, backend));
        echo(&asks, at, &answers, 4_000);
        let [into, out] = denied(&mut dataplane);
        let before = dataplane.drops("c", "policy-ingress");
        let refused = udp(three, stranger);
        for to in [at, backend] {
            refused.send_to(b"no", to).unwrap();
        }
        dataplane.until("both are refused", |d| d.drops("c", "policy-ingress") == before + 2);
        // Dropped where it came in; the pod whose policy it is has it to its name.
        assert_eq!(denied(&mut dataplane), [into + 2, out]);
        let before = dataplane.drops("b", "policy-egress");
        let begins = udp(two, std::net::SocketAddr::new(backend.ip(), 0));
        begins.send_to(b"no", asks.local_addr().unwrap()).unwrap();
        dataplane.until("pod 2 may not begin", |d| d.drops("b", "policy-egress") == before + 1);
        assert_eq!(denied(&mut dataplane), [into + 2, out + 1]);

        // The policy changes its mind: what was said before is heard, what is said now waits for it to change it back.
        let before = dataplane.drops("a", "policy-ingress");
        dataplane.commit(generation, vec![policy(vec![])]);
        std::io::Write::write_all(&mut &client, b"more").unwrap();
        dataplane.until("the connection is cut", |d| d.drops("a", "policy-ingress") > before);
        server.set_nonblocking(true).unwrap();
        let heard = std::io::Read::read(&mut &server, &mut [0]).unwrap_err();
        assert_eq!(heard.kind(), std::io::ErrorKind::WouldBlock);
        server.set_nonblocking(false).unwrap();
        let before = dataplane.drops("a", "policy-ingress");
        asks.send_to(b"no", at).unwrap();
        dataplane.until("datagrams too", |d| d.drops("a", "policy-ingress") > before);

        dataplane.commit(generation + 1, vec![policy(allowed())]);
        generation += 2;
        hear(&mut &server);
        say(&server, &client);
        exchange(&client, &server, 100_000);
        echo(&asks, at, &answers, 100);
        answers.set_nonblocking(true).unwrap();
        assert!(answers.recv(&mut [0]).is_err(), "nothing else came");
    }
    for pod in &pods {
        assert_eq!(pod.counter("Tcp", "OutRsts"), 0);
    }
    dataplane.assert_ledger();
    assert!(dataplane.terminate().success());
}
