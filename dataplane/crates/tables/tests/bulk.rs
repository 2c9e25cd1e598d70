//! Many routes set at once come to what they come to one by one, or to nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use tables::{
    Endpoint, EndpointId, EndpointKind, Generation, NetworkId, PortEntry, PortId, PortRole, Rests,
    RouteTarget, TableError, Tables,
};
use wire::{IpPrefix, MacAddr};

/// Two ports; an endpoint among the addresses that routes are to, so that some are hidden.
fn start() -> Tables {
    let mut tables = Tables::empty();
    for id in 0..2 {
        let (name, mac) = (format!("port{id}"), MacAddr([2, 0, 0, 0, 0, 1]));
        tables.set_port(PortEntry { id: PortId(id), name, mac, mtu: 1500, role: PortRole::Idle }).unwrap();
    }
    for network in [0, 7] {
        tables
            .set_endpoint(Endpoint {
                id: EndpointId::default(),
                name: format!("pod{network}"),
                network: NetworkId(network),
                port: PortId(u16::from(network == 7)),
                mac: MacAddr([2, 0, 0, 0, 0, 2]),
                addresses: vec![[10, 0, 0, 1].into(), Ipv6Addr::from_bits(0xfd << 120 | 1).into()],
                routes: vec![],
                kind: EndpointKind::Pod,
            })
            .unwrap();
    }
    tables.seal(Generation(1));
    tables
}

fn prefix() -> impl Strategy<Value = IpPrefix> {
    let v4 = (0_u32..40, prop::sample::select(vec![8, 23, 24, 25, 32]))
        .prop_map(|(n, len)| (IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n % 3 + (n / 3) * 128)), len));
    let v6 = (0_u128..40, prop::sample::select(vec![0, 48, 64, 65, 128])).prop_map(|(n, len)| {
        (IpAddr::from(Ipv6Addr::from_bits((0xfd << 120) + n % 3 + ((n / 3) << 62))), len)
    });
    prop_oneof![v4, v6].prop_map(|(addr, len)| IpPrefix::containing(addr, len).unwrap())
}

/// A few are refused: the port is not there, or the family is another.
fn target(prefix: IpPrefix, choice: u16) -> RouteTarget {
    match choice {
        0..9 => RouteTarget::Blackhole,
        9..18 => RouteTarget::Unreachable,
        18..27 => RouteTarget::Connected(PortId(choice % 2)),
        27 => RouteTarget::Connected(PortId(9)),
        choice => {
            let last = u8::try_from(choice % 4 + 1).unwrap();
            let v4 = prefix.addr().is_ipv4() != (choice == 28);
            let addr =
                if v4 { [192, 0, 2, last].into() } else { Ipv6Addr::from_bits(0xfd << 120 | 77).into() };
            RouteTarget::NextHop { port: PortId(choice % 2), addr, inside: false }
        }
    }
}

/// All that tables say of routes: the list, whether ports are in use, and which decisions would be made anew.
fn all(mut tables: Tables) -> String {
    let routes: Vec<_> = tables.routes().collect();
    tables.seal(Generation(2));
    let changed: Vec<bool> = (0..120)
        .map(|n| {
            let src = IpAddr::from([10, 9, 9, 9]);
            let dst = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n * 16 + n % 3));
            let rests = Rests { network: NetworkId(0), src, dst, to: dst, dst_port: 0, protocol: 1 };
            tables.unchanged(1, &rests)
        })
        .collect();
    let ports: Vec<_> = (0..2).map(|id| tables.clone().remove_port(PortId(id)).is_ok()).collect();
    format!("{routes:?} {changed:?} {ports:?} {}", tables.route_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn at_once_equals_one_by_one(
        before in prop::collection::vec((prefix(), 0_u16..27), 0..60),
        rows in prop::collection::vec((prefix(), 0_u16..50), 0..80),
        network in prop::sample::select(vec![0, 7]),
    ) {
        let network = NetworkId(network);
        let mut single = start();
        for (prefix, choice) in before {
            single.set_route(network, prefix, target(prefix, choice)).unwrap();
        }
        single.seal(Generation(1));
        let mut bulk = single.clone();
        let untouched = all(single.clone());
        let rows: Vec<_> = rows.into_iter().map(|(prefix, choice)| (prefix, target(prefix, choice))).collect();
        let one_by_one: Result<(), TableError> =
            rows.iter().try_for_each(|&(prefix, target)| single.set_route(network, prefix, target));
        let at_once = bulk.set_routes(network, rows.into_iter().map(Ok));
        prop_assert_eq!(&at_once, &one_by_one);
        prop_assert_eq!(all(bulk), if at_once.is_ok() { all(single) } else { untouched });
    }
}
