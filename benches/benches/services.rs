//! What the source, service and policy steps ask of the tables, and what a change costs, from one frontend to 100,000, one policy to
//! 10,000 and one pod to ten million; a policy's decision in a cluster of 150,000 pods; and whether a decision still holds.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use benches::{Random, sizes};
use criterion::{Criterion, criterion_group, criterion_main};
use measured::Group;
use tables::{
    Asker, Backend, BackendState, Backends, Classifier, Endpoint, EndpointId, EndpointKind, Frontend,
    FrontendKey, Generation, GroupId, IdentityId, Masquerade, NetworkId, Peer, Policy, PortEntry, PortId,
    PortRole, Rests, Rule, RuleVerdict, TableError, Tables,
};
use wire::{IpPrefix, MacAddr};

mod measured;

const PODS: NetworkId = NetworkId(0);
const TCP: u8 = 6;
/// Frontends at most; a tenth as many policies, each of 20 rules. Pods are as many as there are entries.
const FRONTENDS: u32 = 100_000;
/// Endpoints, each with a policy; [`tables::MAX_PORTS`] is the most there can be.
const ENDPOINTS: u16 = 1_000;
/// Of pods that have the same labels; each is in so many groups of these, and so is each identity of ranges.
const IDENTITIES: u32 = 5_000;
const GROUPS_OF_ONE: u32 = 8;
const GROUPS: u32 = 20_000;
/// Ranges that rules name, all within one that holds every pod.
const BLOCKS: u32 = 1_000;
/// The cluster that Kubernetes is said to be good for.
const PODS_OF_CLUSTER: u32 = 150_000;

fn service(n: u32) -> FrontendKey {
    FrontendKey { network: PODS, addr: (0x0a60_0000 + n).to_be_bytes().into(), port: 443, protocol: TCP }
}

fn pod(n: u32) -> IpAddr {
    (0x0af4_0000 + n).to_be_bytes().into()
}

fn frontend(n: u32, port: u16) -> Frontend {
    let state = BackendState::Serving;
    let backends =
        (0..4).map(|i| Backend { addr: pod(n.wrapping_mul(4) % 1_000_000 + i), port, state }).collect();
    Frontend {
        key: service(n),
        name: format!("default/service-{n}:https").into(),
        backends,
        drops: false,
        sources: vec![],
        affinity: 0,
    }
}

/// As hashes are: any number.
fn group(n: u32) -> GroupId {
    GroupId((1 + n % GROUPS).wrapping_mul(0x9e37_79b1))
}

fn identity(n: u32) -> IdentityId {
    IdentityId((1 + n % IDENTITIES).wrapping_mul(0x85eb_ca6b))
}

/// Twenty rules: some of ports that all may reach, some of peers that may reach all.
fn policy(n: u32) -> Policy {
    let rule = |i: u32| Rule {
        id: i,
        name: format!("shop/policy-{n} ingress[{i}]").into(),
        says: "".into(),
        peer: if i.is_multiple_of(4) {
            Peer::Any
        } else {
            Peer::Groups((0..2).map(|k| group(n * 7 + i * 10 + k)).collect())
        },
        protocol: Some(TCP),
        ports: u16::try_from(8_000 + i).ok().map(|port| (port, port)),
        verdict: RuleVerdict::Allow,
    };
    Policy { ingress: Some(Arc::new(Classifier::new((0..20).map(rule).collect()))), egress: None }
}

fn load(size: u32) -> Result<Tables, TableError> {
    let frontends = size.min(FRONTENDS);
    let mut tables = Tables::empty();
    for n in 0..frontends {
        tables.set_frontend(frontend(n, 8_080))?;
    }
    for n in 0..size {
        tables.set_identity(PODS, IpPrefix::host(pod(n)), identity(n))?;
    }
    for n in 0..size.min(BLOCKS) {
        let range = IpPrefix::containing((0x0af4_0000 + (n << 8)).to_be_bytes().into(), 24);
        range.map_or(Ok(()), |range| tables.set_block(PODS, range, identity(n + IDENTITIES / 2)))?;
    }
    for n in 0..size.min(IDENTITIES) {
        let groups = (0..GROUPS_OF_ONE).map(|k| group_of(n, k)).collect();
        tables.set_membership(identity(n), groups)?;
    }
    for n in 0..frontends.div_ceil(10) {
        tables.set_policy(&format!("pod-{n}"), policy(n))?;
    }
    let elsewhere = (0..8).filter_map(|n| IpPrefix::containing(IpAddr::from([172, 16 + n, 0, 0]), 16));
    let source4 = Some(Ipv4Addr::new(192, 0, 2, 1));
    let masquerade = Masquerade { source4, exclude: elsewhere.collect(), ..Masquerade::default() };
    tables.set_masquerade(PODS, Some(masquerade))?;
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    for n in 0..ENDPOINTS.min(u16::try_from(size).unwrap_or(u16::MAX)) {
        tables.set_port(PortEntry {
            id: PortId(n),
            name: format!("port{n}"),
            mac,
            mtu: 1500,
            role: PortRole::Idle,
        })?;
        tables.set_endpoint(Endpoint {
            id: EndpointId::default(),
            name: format!("pod-{n}"),
            network: PODS,
            port: PortId(n),
            mac,
            addresses: vec![pod(u32::from(n))],
            routes: vec![],
            kind: EndpointKind::Pod,
        })?;
    }
    tables.seal(Generation(1));
    Ok(tables)
}

/// Choices among backends of one frontend: each is weighed up to 64, and beyond a group of them.
fn choices(group: &mut Group<'_>) {
    for size in [4, 64, 65, 1_000, 5_000] {
        let state = BackendState::Serving;
        let backends: Backends = (0..size).map(|n| Backend { addr: pod(n), port: 8_080, state }).collect();
        let mut hash = 0_u64;
        group.bench("service step: choice among backends", size, || {
            hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
            backends.choose(hash, Asker::Own)
        });
        let told = backends.to_vec();
        group.bench("backends, as told", size, || Backends::from(told.clone()));
    }
}

/// Decisions of any policy of a large cluster's about any two of its pods: all of the policy step but finding the policy.
fn decisions(group: &mut Group<'_>) -> Result<(), TableError> {
    let mut tables = load(PODS_OF_CLUSTER)?;
    let policies: Vec<Arc<Classifier>> =
        tables.policies().filter_map(|(_, policy)| policy.ingress.clone()).collect();
    let mut random = Random::new(11);
    let mut draw = |end: usize| usize::try_from(random.next_u64() % end as u64).unwrap_or(0);
    let asked: Vec<(IpAddr, &Classifier)> = (0..1 << 16)
        .map(|_| {
            let client = u32::try_from(draw(PODS_OF_CLUSTER as usize)).unwrap_or(0);
            (pod(client), &*policies[draw(policies.len())])
        })
        .collect();
    let mut next = asked.iter().cycle();
    group.bench("policy step: groups of an address, and what 20 rules say of them", PODS_OF_CLUSTER, || {
        let &(client, ingress) = next.next()?;
        Some(ingress.decide(tables.groups(PODS, client), TCP, 8_019).verdict)
    });
    let (mut number, mut joined) = (1, false);
    group.bench("an identity joins a group or leaves it, and it is sealed", PODS_OF_CLUSTER, || {
        (number, joined) = (number + 1, !joined);
        let groups = (0..GROUPS_OF_ONE - u32::from(joined)).map(|k| group_of(number / 2, k)).collect();
        let done = tables.set_membership(identity(number / 2), groups);
        tables.seal(Generation(u64::from(number)));
        done
    });
    Ok(())
}

fn group_of(identity: u32, k: u32) -> GroupId {
    group(identity % IDENTITIES * 11 + k * 997)
}

fn run(c: &mut Criterion) -> Result<(), TableError> {
    let mut group = Group::new(c, "services", 1);
    choices(&mut group);
    decisions(&mut group)?;
    for size in sizes() {
        let tables = load(size)?;
        let frontends = size.min(FRONTENDS);
        let endpoints = size.min(ENDPOINTS.into());
        let mut random = Random::new(7);
        let mut draw = |end: u32| u32::try_from(random.next_u64() % u64::from(end)).unwrap_or(0);
        // Client, Service, and the endpoint whose policy is asked.
        let flows: Vec<(IpAddr, FrontendKey, EndpointId)> = (0..1 << 16)
            .map(|_| (pod(draw(size)), service(draw(frontends)), EndpointId(draw(endpoints))))
            .collect();
        let mut next = flows.iter().cycle();
        group.bench("policy step: groups of an address", size, || {
            next.next().map(|&(client, ..)| tables.groups(PODS, client).map(<[GroupId]>::len))
        });
        group.bench("frontend, choice, groups, policy", size, || {
            let &(client, key, endpoint) = next.next()?;
            let backend = tables.frontend(&key)?.backends.choose(u64::from(endpoint.0), Asker::Own)?;
            let groups = tables.groups(PODS, client);
            let ingress = tables.policy(endpoint)?.ingress.as_ref()?;
            Some(ingress.decide(groups, TCP, backend.port).verdict)
        });
        if size == endpoints {
            group.bench("source step: endpoint and its address", size, || {
                let &(.., endpoint) = next.next()?;
                let row = tables.endpoint(endpoint)?;
                Some((tables.port(row.port)?.mac == row.mac, row.addresses.contains(&pod(endpoint.0))))
            });
            group.bench("masquerade with 8 exceptions", size, || {
                next.next().and_then(|&(client, ..)| tables.masquerade(PODS)?.source_for(client))
            });
        }
        if size > frontends {
            continue;
        }
        group.bench("service step: frontend", size, || {
            next.next().and_then(|(_, key, _)| tables.frontend(key))
        });
        group.bench("service step: frontend, choice", size, || {
            next.next().and_then(|(_, key, _)| {
                tables.frontend(key)?.backends.choose(u64::from(key.port), Asker::Own)
            })
        });
        group.bench("policy step: 20 rules", size.div_ceil(10), || {
            let &(.., endpoint) = next.next()?;
            let groups = tables.groups_of(identity(77));
            Some(tables.policy(endpoint)?.ingress.as_ref()?.decide([groups, &[]], TCP, 8_019).verdict)
        });
        let mut number = 0;
        let input = || {
            number += 1;
            let frontend = frontend(number % size, 9_090);
            (tables.clone(), Some(frontend), Generation(u64::from(number) + 1))
        };
        group.bench_with(
            "one frontend changed and sealed, old generation kept",
            size,
            input,
            |(tables, frontend, generation)| {
                let done = frontend.take().map(|frontend| tables.set_frontend(frontend));
                tables.seal(*generation);
                done
            },
        );
    }
    drop(group);

    let mut group = Group::new(c, "unchanged", 1);
    type Change = fn(&mut Tables) -> Result<(), TableError>;
    let changes: [(&str, Change); 3] = [
        ("nothing changed", |_| Ok(())),
        ("another host changed", |tables| {
            tables.set_identity(PODS, IpPrefix::host(pod(u32::MAX >> 9)), IdentityId(1))
        }),
        ("another of every class changed", |tables| {
            tables.set_frontend(frontend(0, 9_090))?;
            for len in [8, 16, 24] {
                let elsewhere = IpPrefix::containing(IpAddr::from([203, 0, 113, 0]), len);
                elsewhere
                    .map_or(Ok(()), |prefix| tables.set_identity(PODS, prefix, IdentityId(len.into())))?;
            }
            Ok(())
        }),
    ];
    for (what, change) in changes {
        let mut tables = load(10_000)?;
        change(&mut tables)?;
        tables.seal(Generation(3));
        let rests: Vec<Rests> = (0..1 << 14)
            .map(|n| {
                let (src, key) = (pod(n * 3 % 10_000), service(n % 10_000));
                Rests { network: PODS, src, dst: key.addr, to: pod(n % 10_000), dst_port: 443, protocol: TCP }
            })
            .collect();
        let mut next = rests.iter().cycle();
        group.bench(what, 10_000, || next.next().map(|rests| tables.unchanged(2, rests)));
    }
    Ok(())
}

fn services(c: &mut Criterion) {
    if let Err(error) = run(c) {
        eprintln!("services: {error}");
        std::process::exit(1);
    }
}

criterion_group!(benches, services);
criterion_main!(benches);
