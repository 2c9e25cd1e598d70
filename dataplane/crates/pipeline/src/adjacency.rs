//! What the link layer needs to send a packet: port, MAC addresses and MTU, named by index and changed in place.
//!
//! A flow's action names its adjacency, so that a neighbour who moves touches no flow. Below [`MAX_PORTS`] an index is a port's, and
//! leads to the endpoint behind it; the others are neighbours, in a table by open addressing. A neighbour keeps its place
//! for as long as the process lives; when the table is full, packets to others are decided one by one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use flow::Seconds;
use tables::{MAX_PORTS, PortEntry, PortId, PortRole, Tables};
use wire::MacAddr;

use crate::tunnel::path_mtu::{PathMtu, Paths};
use crate::{Output, Tick};

/// Neighbours there is room for; half as many are found without long searches.
const NEIGHBOURS: usize = 16_384;
/// Places looked at to find one.
const PROBES: usize = 16;

/// Word 1's high 16 bits: the port, and these.
const FLAGS_AT: u32 = 48;
const CLAIMED: u64 = 1 << 14;
const READY: u64 = 1 << 15;
const IS_V6: u64 = 1 << 13;
const PORT: u64 = 0x3ff;

/// Of word 0: the destination's MAC, and the beginning of the source's.
const DST: u64 = u64::from_le_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);

/// Half a cache line.
///
/// The first twelve bytes, little endian, are those of a frame's header: destination MAC (0 is unknown) and source MAC, of which word 0
/// has two bytes and word 1 four. Word 1's other half is MTU (16 bits), flags and port (16). Words 2 and 3: the neighbour's
/// address, fixed once `READY` is set. An endpoint's words are written by the table writer, before it publishes; a neighbour's by
/// whoever decides first, its destination MAC by the owner of its port, and the MTU of a tunnel's end by whoever is told of the
/// way. A port that gets another MAC while packets leave by it may send some with half of each.
#[repr(align(32))]
#[derive(Debug, Default)]
struct Slot([AtomicU64; 4]);

/// All adjacencies: shared by all workers.
#[derive(Debug)]
pub struct Adjacencies {
    slots: Box<[Slot]>,
    /// By place, which is the index less [`MAX_PORTS`].
    paths: Paths,
}

/// One of them, read at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adjacency {
    first: u64,
    second: u64,
}

impl Adjacency {
    #[inline]
    pub(crate) const fn port(self) -> PortId {
        PortId((self.second >> FLAGS_AT & PORT) as u16)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "cut to 16 bits")]
    pub(crate) const fn mtu(self) -> u16 {
        (self.second >> 32) as u16
    }

    /// Whether the destination's MAC is known.
    #[inline]
    pub(crate) const fn is_resolved(self) -> bool {
        self.first & DST != 0
    }

    /// The MACs of a frame that leaves by it, as they stand there.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    pub(crate) fn set_macs(self, frame: &mut [u8]) {
        if let Some(header) = frame.first_chunk_mut::<12>() {
            header[..8].copy_from_slice(&self.first.to_le_bytes());
            header[8..].copy_from_slice(&(self.second as u32).to_le_bytes());
        }
    }

    pub(crate) fn dst(self) -> MacAddr {
        let [mac @ .., _, _] = self.first.to_le_bytes();
        MacAddr(mac)
    }
}

/// The first two words of a header with these MACs, little endian; the second's upper half is empty.
pub(crate) const fn words(dst: MacAddr, src: MacAddr) -> [u64; 2] {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (dst.0, src.0);
    [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes([i, j, k, l, 0, 0, 0, 0])]
}

impl Default for Adjacencies {
    fn default() -> Self {
        let slots = (0..usize::from(MAX_PORTS) + NEIGHBOURS).map(|_| Slot::default()).collect();
        Self { slots, paths: Paths::new(NEIGHBOURS) }
    }
}

impl Adjacencies {
    /// To be called by the writer with tables that it is about to publish, where endpoints or ports have changed.
    pub fn sync(&self, tables: &Tables) {
        for port in tables.ports() {
            let PortRole::Endpoint(id) = port.role else { continue };
            let (Some(endpoint), Some(slot)) = (tables.endpoint(id), self.slots.get(usize::from(port.id.0)))
            else {
                continue;
            };
            let [first, second] = words(endpoint.mac, port.mac);
            let flags = u64::from(port.id.0) | READY;
            slot.0[0].store(first, Ordering::Relaxed);
            slot.0[1].store(second | u64::from(port.mtu) << 32 | flags << FLAGS_AT, Ordering::Release);
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<Adjacency> {
        let slot = self.slots.get(index as usize)?;
        // Acquire: word 0 was there before. Partners: the Release stores of word 1.
        let second = slot.0[1].load(Ordering::Acquire);
        (second >> FLAGS_AT & READY != 0)
            .then(|| Adjacency { first: slot.0[0].load(Ordering::Relaxed), second })
    }

    /// The address of a neighbour by index; `None` for an endpoint.
    pub(crate) fn next_hop(&self, index: u32) -> Option<IpAddr> {
        if index < u32::from(MAX_PORTS) {
            return None;
        }
        let slot = self.slots.get(index as usize)?;
        let bits = || {
            let [high, low] = [2, 3].map(|at| u128::from(slot.0[at].load(Ordering::Relaxed)));
            high << 64 | low
        };
        let flags = slot.0[1].load(Ordering::Acquire) >> FLAGS_AT;
        (flags & READY != 0).then(|| match u32::try_from(bits()) {
            Ok(bits) if flags & IS_V6 == 0 => IpAddr::V4(Ipv4Addr::from_bits(bits)),
            _ => IpAddr::V6(Ipv6Addr::from_bits(bits())),
        })
    }

    /// Where packets leave by it, as lists show it.
    #[must_use]
    pub fn output(&self, index: u32) -> Option<Output> {
        let port = self.get(index)?.port();
        Some(match self.next_hop(index) {
            Some(next_hop) => Output::Neighbour { port, next_hop },
            None => Output::Port(port),
        })
    }

    /// The MAC by which a neighbour is reached without asking. Makes no place for it.
    pub(crate) fn mac_of(&self, port: PortId, addr: IpAddr) -> Option<MacAddr> {
        let adjacency = self.get(u32::try_from(self.find(port, addr)?).ok()?)?;
        adjacency.is_resolved().then(|| adjacency.dst())
    }

    /// Where a neighbour is, if it has a place.
    fn find(&self, port: PortId, addr: IpAddr) -> Option<usize> {
        let key = Key::of(port, addr);
        key.places().find(|&index| {
            let flags = self.slots[index].0[1].load(Ordering::Acquire) >> FLAGS_AT;
            flags & READY != 0 && key.is(&self.slots[index], flags)
        })
    }

    /// Of the endpoint behind a port, once the writer has filled it in.
    pub(crate) fn endpoint(&self, port: PortId) -> Option<u32> {
        let index = u32::from(port.0);
        self.get(index).map(|_| index)
    }

    /// Of a neighbour on a port that has this MAC and MTU. `None` if there is no room, or another worker is just filling it in.
    pub(crate) fn neighbour(&self, port: PortId, src: MacAddr, mtu: u16, addr: IpAddr) -> Option<u32> {
        self.enter(port, src, addr, |_| mtu)
    }

    /// The same; `mtu` is asked by index, and again where another worker writes meanwhile.
    fn enter(&self, port: PortId, src: MacAddr, addr: IpAddr, mtu: impl Fn(usize) -> u16) -> Option<u32> {
        let key = Key::of(port, addr);
        let [first, second] = words(MacAddr::default(), src);
        let as_of_now = |index| second | u64::from(mtu(index)) << 32 | key.flags << FLAGS_AT;
        for index in key.places() {
            let slot = &self.slots[index];
            let mut now = slot.0[1].load(Ordering::Acquire);
            if now == 0 {
                // Acquire and Release: one worker has it from here on.
                let claimed = CLAIMED << FLAGS_AT;
                match slot.0[1].compare_exchange(0, claimed, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => {
                        slot.0[0].store(first, Ordering::Relaxed);
                        slot.0[2].store(key.high, Ordering::Relaxed);
                        slot.0[3].store(key.low, Ordering::Relaxed);
                        now = as_of_now(index);
                        // Release: partner `get`.
                        slot.0[1].store(now, Ordering::Release);
                    }
                    Err(other) => now = other,
                }
            }
            let flags = now >> FLAGS_AT;
            if flags == CLAIMED {
                return None;
            }
            if key.is(slot, flags) {
                // The port's own MAC or MTU may have changed since, or what the way to a peer carries.
                let mut next = as_of_now(index);
                while now != next {
                    // Acquire and Release: whoever writes behind another one has seen what that one's MTU rests on.
                    match slot.0[1].compare_exchange(now, next, Ordering::AcqRel, Ordering::Acquire) {
                        Ok(_) => {
                            set(&slot.0[0], !DST, first);
                            break;
                        }
                        Err(other) => (now, next) = (other, as_of_now(index)),
                    }
                }
                return u32::try_from(index).ok();
            }
        }
        None
    }

    /// Of the other end of a tunnel, which is known by this MAC within the node. Its MTU is what the way there carries, as far as that is known.
    pub(crate) fn peer(&self, port: &PortEntry, addr: IpAddr, mac: MacAddr, now: Seconds) -> Option<u32> {
        let mtu = |index| self.paths.mtu(place(index), port.mtu, now);
        let index = self.enter(port.id, port.mac, addr, mtu)?;
        self.resolve(port.id, addr, Some(mac));
        Some(index)
    }

    /// That MTU. Makes no place for the peer.
    #[inline]
    pub(crate) fn peer_mtu(&self, port: &PortEntry, addr: IpAddr, now: Seconds) -> u16 {
        let index = if self.paths.any(now) { self.find(port.id, addr) } else { None };
        index.map_or(port.mtu, |index| self.paths.mtu(place(index), port.mtu, now))
    }

    /// Has all flows to a tunnel's end follow what a router has told of the way there. One for which there is no room is told of nothing.
    pub(crate) fn narrow(&self, told: &PathMtu<'_>, now: Seconds) {
        let &PathMtu { port, addr, mac, mtu } = told;
        let index = self.peer(port, addr, mac, now);
        if index.is_some_and(|index| self.paths.lower(place(index as usize), port.mtu, mtu, now)) {
            // Once more, with the lower one.
            self.peer(port, addr, mac, now);
        }
    }

    /// The longest packet that gets to a tunnel's end, if a router on the way has told that it is less than the port's MTU.
    #[must_use]
    pub fn path_mtu(&self, port: &PortEntry, addr: IpAddr, now: Tick) -> Option<u16> {
        Some(self.peer_mtu(port, addr, now.seconds())).filter(|&mtu| mtu < port.mtu)
    }

    /// Whether there may be any such end.
    #[inline]
    #[must_use]
    pub fn any_path_mtu(&self, now: Tick) -> bool {
        self.paths.any(now.seconds())
    }

    /// The MAC by which a neighbour can be reached without asking, or none. To be called by the owner of its port alone.
    pub fn resolve(&self, port: PortId, addr: IpAddr, mac: Option<MacAddr>) {
        let key = Key::of(port, addr);
        for index in key.places() {
            let slot = &self.slots[index];
            let flags = slot.0[1].load(Ordering::Acquire) >> FLAGS_AT;
            if flags == 0 {
                return;
            }
            if flags & READY != 0 && key.is(slot, flags) {
                let [first, _] = words(mac.unwrap_or_default(), MacAddr::default());
                return set(&slot.0[0], DST, first);
            }
        }
    }
}

/// Of a neighbour among them, by index.
const fn place(index: usize) -> usize {
    index.wrapping_sub(MAX_PORTS as usize)
}

/// Makes the bits under `mask` those of `to`.
fn set(word: &AtomicU64, mask: u64, to: u64) {
    let mut old = word.load(Ordering::Relaxed);
    // Against a change of the other bits alone, which is rare.
    while let Err(now) =
        word.compare_exchange(old, old & !mask | to & mask, Ordering::Relaxed, Ordering::Relaxed)
    {
        old = now;
    }
}

/// What a neighbour is found by.
struct Key {
    flags: u64,
    high: u64,
    low: u64,
}

impl Key {
    #[expect(clippy::cast_possible_truncation, reason = "two halves of an address")]
    fn of(port: PortId, addr: IpAddr) -> Self {
        let (bits, family) = match addr {
            IpAddr::V4(addr) => (u128::from(addr.to_bits()), 0),
            IpAddr::V6(addr) => (addr.to_bits(), IS_V6),
        };
        Self { flags: u64::from(port.0) & PORT | READY | family, high: (bits >> 64) as u64, low: bits as u64 }
    }

    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let mixed =
            (self.high ^ self.low.rotate_left(29) ^ self.flags << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = (mixed >> 40) as usize;
        (0..PROBES).map(move |step| usize::from(MAX_PORTS) + (start + step) % NEIGHBOURS)
    }

    fn is(&self, slot: &Slot, flags: u64) -> bool {
        flags == self.flags
            && slot.0[2].load(Ordering::Relaxed) == self.high
            && slot.0[3].load(Ordering::Relaxed) == self.low
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn neighbours_are_told_apart_and_change_in_place() {
        let all = Adjacencies::default();
        let (src, mac) = (MacAddr([2, 0, 0, 0, 0, 9]), MacAddr([2, 1, 1, 1, 1, 1]));
        let addr = |i: u32| IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + i));
        let indexes: Vec<_> =
            (0..1000).map(|i| all.neighbour(PortId(3), src, 1500, addr(i)).unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> = indexes.iter().collect();
        assert_eq!(distinct.len(), 1000);
        let index = indexes[7];
        assert_eq!(all.neighbour(PortId(3), src, 1500, addr(7)), Some(index));
        assert_ne!(all.neighbour(PortId(4), src, 1500, addr(7)), Some(index));
        assert!(!all.get(index).unwrap().is_resolved());
        all.resolve(PortId(3), addr(7), Some(mac));
        let found = all.get(index).unwrap();
        assert_eq!((found.dst(), found.mtu(), found.port()), (mac, 1500, PortId(3)));
        let mut header = [0; 14];
        found.set_macs(&mut header);
        assert_eq!((&header[..6], &header[6..12]), (&mac.0[..], &src.0[..]));
        assert_eq!(all.neighbour(PortId(3), src, 9000, addr(7)), Some(index));
        let longer = all.get(index).unwrap();
        assert_eq!((longer.mtu(), longer.dst()), (9000, mac));
        assert_eq!(all.next_hop(index), Some(addr(7)));
        all.resolve(PortId(3), addr(7), None);
        assert!(!all.get(index).unwrap().is_resolved());
        let six: IpAddr = "::192.0.2.7".parse().unwrap();
        assert_ne!(all.neighbour(PortId(3), src, 1500, six), Some(index));
    }

    #[test]
    fn what_a_way_carries_is_not_lost_to_whoever_looked_before() {
        const NOW: Seconds = Seconds(9);
        let all = Adjacencies::default();
        let (addr, mac) = (IpAddr::V4(Ipv4Addr::from_bits(0xc000_0214)), MacAddr([2, 0x76, 0, 0, 0, 1]));
        let port = |mtu| PortEntry {
            id: PortId(3),
            name: String::new(),
            mac: MacAddr([2, 0, 0, 0, 0, 9]),
            mtu,
            role: PortRole::Idle,
        };
        let held = |index| all.get(index).map(Adjacency::mtu);
        let look = |mtu| all.peer(&port(mtu), addr, mac, NOW).unwrap();
        let narrow = |mtu| all.narrow(&PathMtu { port: &port(1_430), addr, mac, mtu }, NOW);
        assert_eq!(all.peer_mtu(&port(1_430), addr, NOW), 1_430);
        let index = look(1_430);
        assert_eq!(held(index), Some(1_430));
        // The port's MTU changes, and between this worker's look and its writing another one is told.
        let asked = Cell::new(0);
        let late = all.enter(PortId(3), port(0).mac, addr, |_| {
            asked.set(asked.get() + 1);
            if asked.get() == 1 {
                narrow(1_350);
                return 1_420;
            }
            all.peer_mtu(&port(1_420), addr, NOW)
        });
        assert_eq!((late, asked.get(), held(index)), (Some(index), 2, Some(1_350)));
        for (own, mtu) in [(1_430, 1_350), (1_300, 1_300), (1_430, 1_350)] {
            assert_eq!((look(own), held(index)), (index, Some(mtu)));
        }
        assert!(all.get(index).is_some_and(|found| found.dst() == mac));
        // A neighbour by the same address elsewhere has nothing to do with it.
        let other = all.neighbour(PortId(4), mac, 1_500, addr).unwrap();
        assert_eq!(held(other), Some(1_500));
    }
}
