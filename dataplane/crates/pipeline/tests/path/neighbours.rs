//! The neighbours of the uplinks: what is asked, believed, held, and given up.

use std::net::{IpAddr, Ipv4Addr};

use pipeline::{
    DropReason, Heard, Learned, NeighbourConfig, NeighbourEvent, NeighbourState, Neighbours, Resolution,
    Solicit, Tick,
};
use proptest::prelude::*;
use tables::PortId;
use wire::MacAddr;

use crate::body::{UPLINK, UPLINK2};
use crate::frames::ip;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const HOP: &str = "192.0.2.9";

type Event = NeighbourEvent<u32>;

fn at_ms(ms: u64) -> Tick {
    Tick(0).after_ms(ms)
}

struct Table(Neighbours<u32>);

impl Table {
    fn new() -> Self {
        Self(Neighbours::new(NeighbourConfig::default()))
    }

    fn resolve(&mut self, ms: u64, packet: u32) -> Resolution<u32> {
        self.0.resolve(at_ms(ms), UPLINK, ip(HOP), packet)
    }

    fn learn(&mut self, ms: u64, mac: Option<MacAddr>, heard: Heard) -> Vec<(MacAddr, u32)> {
        let mut released = Vec::new();
        let learned = Learned { port: UPLINK, address: ip(HOP), mac, heard };
        self.0.learn(at_ms(ms), &learned, &mut |mac, packet| released.push((mac, packet)));
        released
    }

    fn tick(&mut self, ms: u64) -> Vec<Event> {
        let mut events = Vec::new();
        self.0.tick(at_ms(ms), 1000, |event| events.push(event));
        events
    }

    #[track_caller]
    fn is(&self, state: NeighbourState, mac: Option<MacAddr>) {
        let row = self.0.iter().find(|row| row.address == ip(HOP)).unwrap();
        assert_eq!((row.state, row.mac), (state, mac));
    }

    /// Resolved and just proven.
    fn reachable() -> Self {
        let mut table = Self::new();
        assert_eq!(table.resolve(0, 1), Resolution::Held);
        table.tick(0);
        assert_eq!(table.learn(1, Some(A), SOLICITED), [(A, 1)]);
        table.is(NeighbourState::Reachable, Some(A));
        table
    }

    fn stale() -> Self {
        let mut table = Self::reachable();
        assert_eq!(table.tick(46_000), []);
        table.is(NeighbourState::Stale, Some(A));
        table
    }
}

const SOLICITED: Heard = Heard::Advertisement { solicited: true, overrides: true, is_router: false };
const UNSOLICITED: Heard = Heard::Advertisement { solicited: false, overrides: true, is_router: false };
const TIMID: Heard = Heard::Advertisement { solicited: true, overrides: false, is_router: false };
const TIMID_UNSOLICITED: Heard = Heard::Advertisement { solicited: false, overrides: false, is_router: true };

fn ask(unicast_to: Option<MacAddr>) -> Event {
    NeighbourEvent::Solicit(Solicit { port: UPLINK, address: ip(HOP), unicast_to })
}

fn give_up(packet: u32) -> Event {
    NeighbourEvent::GiveUp { port: UPLINK, address: ip(HOP), packet }
}

#[test]
fn asks_holds_and_releases_in_order() {
    let mut table = Table::new();
    assert_eq!(table.0.next_tick(), None);
    for packet in 1..=3 {
        assert_eq!(table.resolve(5, packet), Resolution::Held);
    }
    assert_eq!((table.0.held(), table.0.next_tick()), (3, Some(at_ms(5))));
    assert_eq!(table.tick(5), [ask(None)]);
    assert_eq!((table.tick(6), table.0.next_tick()), (vec![], Some(at_ms(1005))));
    assert_eq!(table.tick(1005), [ask(None)]);
    assert_eq!(table.learn(1100, Some(A), SOLICITED), [(A, 1), (A, 2), (A, 3)]);
    assert_eq!(table.0.held(), 0);
    assert_eq!(table.resolve(1101, 4), Resolution::Known(A, 4));
    // The same address on another port is another neighbour.
    assert_eq!(table.0.resolve(at_ms(1101), UPLINK2, ip(HOP), 5), Resolution::Held);
    assert_eq!(table.0.len(), 2);
}

#[test]
fn gives_up_after_three_questions_and_starts_anew() {
    let mut table = Table::new();
    table.resolve(0, 1);
    table.resolve(0, 2);
    for ms in [0, 1000, 2000] {
        assert_eq!(table.tick(ms), [ask(None)]);
    }
    assert_eq!(table.tick(2999), []);
    assert_eq!(table.tick(3000), [give_up(1), give_up(2)]);
    assert_eq!(table.0.held(), 0);
    table.is(NeighbourState::Failed, None);
    // The next packet asks again at once.
    assert_eq!(table.resolve(3500, 3), Resolution::Held);
    assert_eq!(table.tick(3500), [ask(None)]);
    assert_eq!(table.tick(4500), [ask(None)]);
    assert_eq!(table.tick(5500), [ask(None)]);
    assert_eq!(table.tick(6500), [give_up(3)]);
    // Unused, it is forgotten.
    assert_eq!(table.tick(26_500), []);
    assert!(table.0.is_empty() && table.0.next_tick().is_none());
}

#[test]
fn trust_ends_between_half_and_one_and_a_half_times_the_configured() {
    let mut ends = Vec::new();
    let mut table = Table::new();
    for n in 0..200u8 {
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, n));
        let learned = Learned { port: UPLINK, address, mac: Some(A), heard: SOLICITED };
        table.0.resolve(Tick(0), UPLINK, address, 0);
        table.0.learn(Tick(0), &learned, &mut |_, _| {});
    }
    let mut now = Tick(0);
    while let Some(next) = table.0.next_tick() {
        if table.0.iter().all(|row| row.state == NeighbourState::Stale) {
            break;
        }
        assert!(next >= now);
        now = next;
        ends.push(next);
        table.0.tick(next, 1, |event| panic!("{event:?}"));
    }
    assert_eq!(ends.len(), 200);
    assert!(ends.iter().all(|end| (at_ms(15_000)..=at_ms(45_000)).contains(end)));
    let distinct: std::collections::BTreeSet<_> = ends.iter().collect();
    assert!(distinct.len() > 150);
}

#[test]
fn a_stale_neighbour_in_use_is_probed_and_kept() {
    let mut table = Table::stale();
    assert_eq!(table.resolve(50_000, 2), Resolution::Known(A, 2));
    table.is(NeighbourState::Delay, Some(A));
    assert_eq!(table.tick(54_999), []);
    assert_eq!(table.tick(55_000), [ask(Some(A))]);
    table.is(NeighbourState::Probe, Some(A));
    // Packets go on meanwhile.
    assert_eq!(table.resolve(55_500, 3), Resolution::Known(A, 3));
    assert_eq!(table.tick(56_000), [ask(Some(A))]);
    assert_eq!(table.learn(56_100, Some(A), SOLICITED), []);
    table.is(NeighbourState::Reachable, Some(A));
    assert_eq!(table.tick(57_100), []);
}

#[test]
fn a_neighbour_that_is_gone_is_asked_for_by_all_means() {
    let mut table = Table::stale();
    table.resolve(50_000, 2);
    for ms in [55_000, 56_000, 57_000] {
        assert_eq!(table.tick(ms), [ask(Some(A))]);
    }
    assert_eq!(table.tick(58_000), []);
    table.is(NeighbourState::Failed, Some(A));
    // Its old MAC is not believed any more.
    assert_eq!(table.resolve(58_001, 3), Resolution::Held);
    assert_eq!(table.tick(58_001), [ask(None)]);
    assert_eq!(table.learn(58_002, Some(B), SOLICITED), [(B, 3)]);
}

#[test]
fn what_nobody_uses_is_forgotten() {
    let mut table = Table::stale();
    assert_eq!(table.tick(1_000_000), []);
    assert!(table.0.is_empty());
    assert_eq!(table.learn(1_000_001, Some(A), SOLICITED), []);
    assert!(table.0.is_empty(), "an advertisement makes no entry (RFC 4861, section 7.2.5)");
}

#[test]
fn who_asks_for_us_is_known_and_unproven() {
    let mut table = Table::new();
    table.learn(0, Some(A), Heard::Solicitation);
    table.is(NeighbourState::Stale, Some(A));
    assert_eq!(table.resolve(1, 1), Resolution::Known(A, 1));
    table.is(NeighbourState::Delay, Some(A));
    // The same again proves nothing; another MAC is taken, and is to be proven.
    table.learn(2, Some(A), Heard::Solicitation);
    table.is(NeighbourState::Delay, Some(A));
    table.learn(3, Some(B), Heard::Solicitation);
    table.is(NeighbourState::Stale, Some(B));
    // While it is being asked for, its own question tells where it is.
    let mut table = Table::new();
    table.resolve(0, 7);
    assert_eq!(table.learn(1, Some(A), Heard::Solicitation), [(A, 7)]);
    table.is(NeighbourState::Stale, Some(A));
}

#[test]
fn advertisements_as_the_rfc_has_them() {
    // RFC 4861, section 7.2.5 and appendix C: for an entry that is being resolved.
    let incomplete = || {
        let mut table = Table::new();
        table.resolve(0, 1);
        table.tick(0);
        table
    };
    let mut table = incomplete();
    assert_eq!(table.learn(1, None, SOLICITED), []);
    table.is(NeighbourState::Incomplete, None);
    assert_eq!(table.learn(2, Some(A), TIMID_UNSOLICITED), [(A, 1)]);
    table.is(NeighbourState::Stale, Some(A));
    assert!(table.0.iter().all(|row| row.is_router));
    let mut table = incomplete();
    table.learn(1, Some(A), TIMID);
    table.is(NeighbourState::Reachable, Some(A));

    // And for one that is known: state and MAC before, what is heard, state and MAC after.
    use NeighbourState::{Reachable, Stale};
    for (from, mac, heard, state, then) in [
        (Reachable, Some(A), TIMID, Reachable, A),
        (Reachable, Some(B), TIMID, Stale, A),
        (Reachable, Some(B), TIMID_UNSOLICITED, Stale, A),
        (Reachable, Some(B), SOLICITED, Reachable, B),
        (Reachable, Some(B), UNSOLICITED, Stale, B),
        (Reachable, Some(A), UNSOLICITED, Reachable, A),
        (Reachable, None, SOLICITED, Reachable, A),
        (Reachable, None, UNSOLICITED, Reachable, A),
        (Stale, Some(A), SOLICITED, Reachable, A),
        (Stale, Some(A), TIMID, Reachable, A),
        (Stale, Some(B), TIMID, Stale, A),
        (Stale, Some(B), SOLICITED, Reachable, B),
        (Stale, Some(B), UNSOLICITED, Stale, B),
        (Stale, None, SOLICITED, Reachable, A),
        (Stale, None, TIMID, Reachable, A),
    ] {
        let mut table = if from == Reachable { Table::reachable() } else { Table::stale() };
        assert_eq!(table.learn(46_001, mac, heard), []);
        table.is(state, Some(then));
    }
}

#[test]
fn a_mac_that_flaps_is_followed_and_piles_nothing_up() {
    let mut table = Table::reachable();
    for n in 0..1000 {
        let mac = if n % 2 == 0 { B } else { A };
        table.learn(10 + n, Some(mac), UNSOLICITED);
        assert_eq!(table.resolve(10 + n, 1), Resolution::Known(mac, 1));
        assert_eq!(table.tick(10 + n), []);
    }
    assert_eq!((table.0.len(), table.0.held()), (1, 0));
    // One thing is due, and one only: the probe of the last.
    assert_eq!(table.tick(1009 + 5000), [ask(Some(A))]);
    assert_eq!(table.tick(1009 + 5999), []);
}

#[test]
fn queues_are_bounded() {
    let mut table = Table(Neighbours::new(NeighbourConfig {
        held_per_neighbour: 2,
        held_total: 3,
        ..NeighbourConfig::default()
    }));
    let full = |packet| Resolution::Refused(DropReason::NeighbourQueueFull, packet);
    assert_eq!(table.resolve(0, 1), Resolution::Held);
    assert_eq!(table.resolve(0, 2), Resolution::Held);
    // The oldest makes room.
    assert_eq!(table.resolve(0, 3), full(1));
    let mut other = |packet| table.0.resolve(at_ms(0), UPLINK, ip("192.0.2.10"), packet);
    assert_eq!(other(4), Resolution::Held);
    // All places are taken.
    assert_eq!(other(5), full(5));
    assert_eq!(table.0.held(), 3);
    assert_eq!(table.learn(1, Some(A), SOLICITED), [(A, 2), (A, 3)]);
    assert_eq!(table.0.held(), 1);
}

#[test]
fn the_table_is_bounded_and_a_scan_leaves_room() {
    let mut table: Neighbours<u32> =
        Neighbours::new(NeighbourConfig { capacity: 8, ..NeighbourConfig::default() });
    let address = |n: u8| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n));
    let full = |packet| Resolution::Refused(DropReason::NeighbourTableFull, packet);
    for n in 0..4 {
        assert_eq!(table.resolve(Tick(0), UPLINK, address(n), 0), Resolution::Held);
    }
    assert_eq!(table.resolve(Tick(0), UPLINK, address(4), 9), full(9));
    // Those who ask for us find room, and push out one another when there is none.
    for n in 100..200 {
        let learned = Learned { port: UPLINK, address: address(n), mac: Some(A), heard: Heard::Solicitation };
        table.learn(Tick(0), &learned, &mut |_, _| panic!("nobody waits for it"));
        assert_eq!(table.len(), usize::from(n - 95).min(8));
        assert!(table.iter().any(|row| row.address == address(n)));
    }
    // Those being asked for stay.
    assert_eq!(table.iter().filter(|row| row.state == NeighbourState::Incomplete).count(), 4);
    // Proven ones give no room.
    for row in table.iter().collect::<Vec<_>>() {
        let learned = Learned { port: UPLINK, address: row.address, mac: Some(A), heard: SOLICITED };
        table.learn(Tick(1), &learned, &mut |_, _| {});
    }
    assert_eq!(table.resolve(Tick(2), UPLINK, address(50), 7), full(7));
    assert_eq!(table.len(), 8);
}

#[test]
fn a_port_that_goes_takes_its_neighbours_along() {
    let mut table = Table::new();
    table.resolve(0, 1);
    table.resolve(0, 2);
    table.0.resolve(Tick(0), UPLINK2, ip(HOP), 3);
    let mut back = Vec::new();
    table.0.forget_port(UPLINK, |packet| back.push(packet));
    assert_eq!((back, table.0.held(), table.0.len()), (vec![1, 2], 1, 1));
    let mut events = Vec::new();
    table.0.tick(Tick(0), 10, |event| events.push(event));
    let solicit = Solicit { port: UPLINK2, address: ip(HOP), unicast_to: None };
    assert_eq!(events, [NeighbourEvent::Solicit(solicit)]);
}

#[test]
fn a_tick_does_no_more_than_its_budget() {
    let mut table = Table::new();
    for n in 0..10 {
        table.0.resolve(Tick(0), UPLINK, IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)), 0);
    }
    let mut asked = 0;
    table.0.tick(Tick(0), 4, |_| asked += 1);
    assert_eq!((asked, table.0.next_tick()), (4, Some(Tick(0))));
    table.0.tick(Tick(0), 100, |_| asked += 1);
    assert_eq!((asked, table.0.next_tick()), (10, Some(at_ms(1000))));
}

proptest! {
    /// Whatever happens in whatever order, every packet comes back exactly once, and all stays within bounds.
    #[test]
    fn no_packet_is_lost_or_doubled(
        steps in prop::collection::vec((0u8..5, 0u8..6, 0u64..3_000, any::<bool>()), 1..300),
    ) {
        let config = NeighbourConfig { capacity: 4, held_per_neighbour: 3, held_total: 5, stale_ms: 5_000, ..NeighbourConfig::default() };
        let mut table = Neighbours::new(config);
        let (mut now, mut given, mut back) = (Tick(0), 0u32, Vec::new());
        for (what, who, ms, flag) in steps {
            now = now.after_ms(ms);
            let port = PortId(u16::from(who % 2));
            let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, who / 2));
            match what {
                0 | 1 => {
                    given += 1;
                    match table.resolve(now, port, address, given) {
                        Resolution::Held => {}
                        Resolution::Known(_, packet) | Resolution::Refused(_, packet) => back.push(packet),
                    }
                }
                2 => {
                    let heard = Heard::Advertisement { solicited: flag, overrides: ms % 2 == 0, is_router: false };
                    let learned = Learned { port, address, mac: flag.then_some(A), heard };
                    table.learn(now, &learned, &mut |_, packet| back.push(packet));
                }
                3 => {
                    let learned = Learned { port, address, mac: Some(B), heard: Heard::Solicitation };
                    table.learn(now, &learned, &mut |_, packet| back.push(packet));
                }
                _ if ms < 50 => table.forget_port(port, |packet| back.push(packet)),
                _ => table.tick(now, 3, |event| {
                    if let NeighbourEvent::GiveUp { packet, .. } = event {
                        back.push(packet);
                    }
                }),
            }
            prop_assert!(table.len() <= 4 && table.held() <= 5);
            prop_assert_eq!(table.held(), table.iter().map(|row| row.held as usize).sum::<usize>());
            prop_assert_eq!(back.len() + table.held(), given as usize);
            let incomplete = table.iter().filter(|row| row.state == NeighbourState::Incomplete).count();
            prop_assert!(incomplete <= 2);
            prop_assert!(table.iter().all(|row| row.held == 0 || row.state == NeighbourState::Incomplete));
            prop_assert_eq!(table.next_tick().is_some(), !table.is_empty());
        }
        for port in [PortId(0), PortId(1)] {
            table.forget_port(port, |packet| back.push(packet));
        }
        back.sort_unstable();
        prop_assert_eq!(back, (1..=given).collect::<Vec<_>>());
        prop_assert!(table.is_empty() && table.next_tick().is_none());
    }
}
