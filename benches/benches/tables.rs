//! The tables as the writer and the workers use them: a million routes loaded, one more, one pod, and a lookup with its target.

use std::net::{IpAddr, Ipv4Addr};

use benches::{SIZES, hits, routes_v4};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tables::{
    Endpoint, EndpointId, EndpointKind, NetworkId, PortEntry, PortId, PortRole, RouteTarget, TableError,
    Tables,
};
use wire::{IpPrefix, MacAddr};

const PODS: NetworkId = NetworkId(0);

/// Two ports: 0 for a pod, 1 with 16 next hops behind it.
fn empty() -> Result<Tables, TableError> {
    let mut tables = Tables::empty();
    for id in 0..2 {
        let (name, mac) = (format!("port{id}"), MacAddr([2, 0, 0, 0, 0, 1]));
        tables.set_port(PortEntry { id: PortId(id), name, mac, mtu: 1500, role: PortRole::Idle })?;
    }
    Ok(tables)
}

fn load(tables: &mut Tables, prefixes: &[IpPrefix]) -> Result<(), TableError> {
    for (&prefix, hop) in prefixes.iter().zip((1..=16).cycle()) {
        let addr = IpAddr::from([192, 0, 2, hop]);
        tables.set_route(PODS, prefix, RouteTarget::NextHop { port: PortId(1), addr })?;
    }
    Ok(())
}

fn pod() -> Endpoint {
    Endpoint {
        id: EndpointId::default(),
        name: "default/a/eth0".to_owned(),
        network: PODS,
        port: PortId(0),
        mac: MacAddr([2, 0, 0, 0, 0, 2]),
        addresses: vec![IpAddr::from([240, 1, 2, 3])],
        kind: EndpointKind::Pod,
    }
}

fn run(c: &mut Criterion) -> Result<(), TableError> {
    let prefixes = routes_v4(1_000_000);
    let mut group = c.benchmark_group("tables");
    for size in SIZES {
        let mut tables = empty()?;
        load(&mut tables, &prefixes[..size])?;
        let to_v4 = |addr| if let IpAddr::V4(addr) = addr { addr } else { Ipv4Addr::UNSPECIFIED };
        let probes: Vec<Ipv4Addr> = hits(&prefixes[..size], 1 << 16).into_iter().map(to_v4).collect();
        group.throughput(Throughput::Elements(32));
        group.bench_function(BenchmarkId::new("lookup_v4, 32", size), |b| {
            let mut bursts = probes.chunks(32).cycle();
            b.iter(|| {
                bursts
                    .next()
                    .map(|burst| burst.iter().filter_map(|&addr| tables.lookup_v4(PODS, addr)).count())
            });
        });
    }

    group.throughput(Throughput::Elements(100_000));
    group.sample_size(10);
    group.bench_function("load 100,000 routes", |b| {
        b.iter(|| {
            let mut tables = empty()?;
            load(&mut tables, &prefixes[..100_000])?;
            Ok::<_, TableError>(tables)
        });
    });
    group.sample_size(100);

    let mut full = empty()?;
    load(&mut full, &prefixes[..999_000])?;
    eprintln!("tables: 999000 routes, {} bytes a route", full.route_bytes() / 999_000);
    group.throughput(Throughput::Elements(1));
    let mut next = prefixes[999_000..].iter().cycle();
    group.bench_function("one more route among 1 M, old generation kept", |b| {
        b.iter_batched(
            || (full.clone(), next.next().copied()),
            |(mut tables, prefix)| {
                let done = load(&mut tables, prefix.as_slice());
                (tables, done)
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("one more pod among 1 M routes, old generation kept", |b| {
        b.iter_batched(
            || (full.clone(), pod()),
            |(mut tables, pod)| {
                let done = tables.set_endpoint(pod);
                (tables, done)
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
    Ok(())
}

fn tables(c: &mut Criterion) {
    if let Err(error) = run(c) {
        eprintln!("tables: {error}");
        std::process::exit(1);
    }
}

criterion_group!(benches, tables);
criterion_main!(benches);
