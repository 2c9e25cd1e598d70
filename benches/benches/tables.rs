//! The tables as the writer and the workers use them: a million routes loaded, one more, one pod, and a lookup with its target.

use std::net::{IpAddr, Ipv4Addr};

use benches::{hits, routes_v4, sizes};
use criterion::{Criterion, criterion_group, criterion_main};
use measured::Group;
use tables::{
    Endpoint, EndpointId, EndpointKind, NetworkId, PortEntry, PortId, PortRole, RouteTarget, TableError,
    Tables,
};
use wire::{IpPrefix, MacAddr};

mod measured;

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
        tables.set_route(PODS, prefix, RouteTarget::NextHop { port: PortId(1), addr, inside: false })?;
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
        routes: vec![],
        kind: EndpointKind::Pod,
    }
}

fn run(c: &mut Criterion) -> Result<(), TableError> {
    let most = sizes().into_iter().max().unwrap_or(1);
    let prefixes = routes_v4(most as usize);
    let mut group = Group::new(c, "tables", 32);
    for size in sizes() {
        let routes = &prefixes[..size as usize];
        let mut tables = empty()?;
        load(&mut tables, routes)?;
        let to_v4 = |addr| if let IpAddr::V4(addr) = addr { addr } else { Ipv4Addr::UNSPECIFIED };
        let probes: Vec<Ipv4Addr> = hits(routes, 1 << 16).into_iter().map(to_v4).collect();
        let mut bursts = probes.chunks(32).cycle();
        group.bench("route step: lookup_v4", size, || {
            bursts.next().map(|burst| burst.iter().filter_map(|&addr| tables.lookup_v4(PODS, addr)).count())
        });
    }

    group.elements(100_000);
    group.slow();
    group.bench("load routes", 100_000, || {
        let mut tables = empty()?;
        load(&mut tables, &prefixes[..100_000])?;
        Ok::<_, TableError>(tables)
    });
    drop(group);

    let mut group = Group::new(c, "tables", 1);
    let (old, fresh) = prefixes[..1_000_000].split_at(999_000);
    let mut full = empty()?;
    load(&mut full, old)?;
    eprintln!("tables: {} routes, {} bytes a route", old.len(), full.route_bytes() / old.len());
    let mut next = fresh.chunks(1).cycle();
    let input = || (full.clone(), next.next().unwrap_or_default());
    group.bench_with("one more route, old generation kept", 1_000_000, input, |(tables, prefix)| {
        load(tables, prefix)
    });
    let input = || (full.clone(), Some(pod()));
    group.bench_with("one more pod, old generation kept", 1_000_000, input, |(tables, pod)| {
        pod.take().map(|pod| tables.set_endpoint(pod))
    });
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
