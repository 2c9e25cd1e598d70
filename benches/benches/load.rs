//! A million routes on their way into force, step by step: written by control, read by the data plane, built into tables.
//!
//! Alone and with nothing else running; `cargo lab bench update-storm` times the whole way through a socket.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use proto::dataplane::{self as rows, Op, Request, Route, RouteKey, Transaction};
use tables::{Generation, NetworkId, PortEntry, PortId, PortRole, RouteTarget, TableError, Tables};
use wire::{IpPrefix, MacAddr};

const MILLION: u32 = 1_000_000;
const PODS: NetworkId = NetworkId(0);

fn prefix4(number: u32) -> IpPrefix {
    let addr = Ipv4Addr::from_bits(0x1000_0000 + (number << 8));
    IpPrefix::containing(addr.into(), 24).unwrap_or(IpPrefix::host(addr.into()))
}

fn prefix6(number: u32) -> IpPrefix {
    let addr = Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(number) << 64);
    IpPrefix::containing(addr.into(), 64).unwrap_or(IpPrefix::host(addr.into()))
}

fn next_hop(prefix: IpPrefix) -> IpAddr {
    match prefix.addr() {
        IpAddr::V4(_) => Ipv4Addr::new(192, 168, 77, 12).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x12).into(),
    }
}

fn message(prefixes: &[IpPrefix]) -> Request {
    let route = |&prefix: &IpPrefix| Route {
        key: RouteKey { network: 0, prefix },
        target: rows::RouteTarget::NextHop {
            port: "uplink".to_owned(),
            address: next_hop(prefix),
            inside: false,
        },
    };
    let routes = prefixes.iter().map(route).collect();
    Request::Transaction(Transaction { base: 1, target: 2, ops: vec![Op::SetRoutes { routes }] })
}

fn build(prefixes: &[IpPrefix]) -> Result<Tables, TableError> {
    let mut tables = Tables::empty();
    let (name, mac) = ("uplink".to_owned(), MacAddr([2, 0, 0, 0, 0, 1]));
    tables.set_port(PortEntry { id: PortId(1), name, mac, mtu: 1500, role: PortRole::Idle })?;
    let route = |&prefix| {
        Ok((prefix, RouteTarget::NextHop { port: PortId(1), addr: next_hop(prefix), inside: false }))
    };
    tables.set_routes::<TableError>(PODS, prefixes.iter().map(route))?;
    tables.seal(Generation(1));
    Ok(tables)
}

fn family(c: &mut Criterion, name: &str, prefixes: &[IpPrefix]) {
    let mut group = c.benchmark_group(format!("load/{name}"));
    group.throughput(Throughput::Elements(prefixes.len() as u64)).sample_size(10);
    let request = message(prefixes);
    group.bench_function("write", |b| b.iter(|| serde_json::to_vec(black_box(&request))));
    let text = serde_json::to_vec(&request).unwrap_or_default();
    eprintln!("load/{name}: {} bytes a row", text.len() / prefixes.len());
    drop(request);
    group.bench_function("read", |b| {
        b.iter_with_large_drop(|| serde_json::from_slice::<Request>(black_box(&text)));
    });
    group.bench_function("let go", |b| {
        b.iter_batched(|| serde_json::from_slice::<Request>(&text), drop, BatchSize::PerIteration);
    });
    drop(text);
    group.bench_function("build", |b| b.iter_with_large_drop(|| build(black_box(prefixes))));
    group.bench_function("free", |b| {
        b.iter_batched(|| build(prefixes), drop, BatchSize::PerIteration);
    });
    group.finish();
}

fn load(c: &mut Criterion) {
    family(c, "ipv4", &(0..MILLION).map(prefix4).collect::<Vec<_>>());
    // Of all lengths and in no order, so it is put in order first.
    family(c, "ipv4 as in the Internet", &benches::routes_v4(1_000_000));
    family(c, "ipv6", &(0..MILLION).map(prefix6).collect::<Vec<_>>());
}

criterion_group!(benches, load);
criterion_main!(benches);
