//! What the service and policy steps ask of the tables, and what a change costs, from one frontend to 100,000 and one policy
//! to 10,000; and whether a decision still holds.

use std::net::IpAddr;
use std::sync::Arc;

use benches::Random;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tables::{
    Backend, BackendState, Classifier, Endpoint, EndpointId, EndpointKind, Frontend, FrontendKey, Generation,
    IdentityId, NetworkId, Peer, Policy, PortEntry, PortId, PortRole, Rests, Rule, RuleVerdict, TableError,
    Tables,
};
use wire::{IpPrefix, MacAddr};

const PODS: NetworkId = NetworkId(0);
const TCP: u8 = 6;
/// Frontends; a tenth as many policies, each of 20 rules; ten times as many identities.
const SIZES: [u32; 4] = [1, 1_000, 10_000, 100_000];
/// Endpoints, each with a policy; [`tables::MAX_PORTS`] is the most there can be.
const ENDPOINTS: u16 = 1_000;

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
    Frontend { key: service(n), name: format!("default/service-{n}:https"), backends }
}

/// Twenty rules: some of ports that all may reach, some of peers that may reach all.
fn policy(n: u32) -> Policy {
    let rule = |i: u32| Rule {
        id: i,
        peer: if i.is_multiple_of(4) {
            Peer::Any
        } else {
            Peer::Identities((0..10).map(|k| IdentityId(1 + (n * 7 + i * 10 + k) % 1_000_000)).collect())
        },
        protocol: Some(TCP),
        ports: u16::try_from(8_000 + i).ok().map(|port| (port, port)),
        verdict: RuleVerdict::Allow,
    };
    Policy { ingress: Some(Arc::new(Classifier::new((0..20).map(rule).collect()))), egress: None }
}

fn load(size: u32) -> Result<Tables, TableError> {
    let mut tables = Tables::empty();
    for n in 0..size {
        tables.set_frontend(frontend(n, 8_080))?;
    }
    for n in 0..size.saturating_mul(10).min(1_000_000) {
        tables.set_identity(PODS, IpPrefix::host(pod(n)), IdentityId(n + 1))?;
    }
    for n in 0..size.div_ceil(10) {
        tables.set_policy(&format!("pod-{n}"), policy(n))?;
    }
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
            kind: EndpointKind::Pod,
        })?;
    }
    tables.seal(Generation(1));
    Ok(tables)
}

fn run(c: &mut Criterion) -> Result<(), TableError> {
    let mut group = c.benchmark_group("services");
    for size in SIZES {
        let tables = load(size)?;
        let mut random = Random::new(7);
        let mut draw = |end: u32| u32::try_from(random.next_u64() % u64::from(end)).unwrap_or(0);
        // Client, Service, and the endpoint whose policy is asked.
        let flows: Vec<(IpAddr, FrontendKey, EndpointId)> = (0..1 << 16)
            .map(|_| (pod(draw(size)), service(draw(size)), EndpointId(draw(size.min(ENDPOINTS.into())))))
            .collect();
        let mut next = flows.iter().cycle();
        let name = |what| BenchmarkId::new(what, size);
        group.throughput(Throughput::Elements(1));
        group.bench_function(name("frontend"), |b| {
            b.iter(|| next.next().and_then(|(_, key, _)| tables.frontend(key)));
        });
        group.bench_function(name("identity"), |b| {
            b.iter(|| next.next().map(|&(client, ..)| tables.identity(PODS, client)));
        });
        group.bench_function(name("policy"), |b| {
            b.iter(|| {
                let &(.., endpoint) = next.next()?;
                Some(tables.policy(endpoint)?.ingress.as_ref()?.decide(IdentityId(77), TCP, 8_019))
            });
        });
        group.bench_function(name("frontend, choice, identity, policy"), |b| {
            b.iter(|| {
                let &(client, key, endpoint) = next.next()?;
                let backend = tables.frontend(&key)?.choose(u64::from(endpoint.0))?;
                let identity = tables.identity(PODS, client);
                let ingress = tables.policy(endpoint)?.ingress.as_ref()?;
                Some(ingress.decide(identity, TCP, backend.port).verdict)
            });
        });
        let mut number = 0;
        group.bench_function(name("one frontend changed and sealed, old generation kept"), |b| {
            b.iter_batched(
                || {
                    number += 1;
                    (tables.clone(), frontend(number % size, 9_090), Generation(u64::from(number) + 1))
                },
                |(mut tables, frontend, generation)| {
                    let done = tables.set_frontend(frontend);
                    tables.seal(generation);
                    (tables, done)
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();

    let mut group = c.benchmark_group("unchanged");
    group.throughput(Throughput::Elements(1));
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
        group.bench_function(what, |b| {
            b.iter(|| next.next().map(|rests| tables.unchanged(2, rests)));
        });
    }
    group.finish();
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
