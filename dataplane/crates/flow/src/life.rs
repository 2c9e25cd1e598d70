//! The words of a record that say whether it is in use, by whom, and how far its connection has come.

use crate::state::{Direction, Signal, State, next_of};

/// Time in whole seconds of whichever clock the caller has, as long as it outlasts the process where the storage does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seconds(pub u32);

/// Where a record is in its course. What is not `Live` when a process starts is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// On a free list, or on its way there.
    Free = 0,
    /// One worker writes its keys.
    Claimed = 1,
    /// Packets find it.
    Live = 2,
    /// Found no more; somebody may still be reading it.
    Dead = 3,
}

/// Phase (8 bits), state (8), calm (2, see [`Life::is_settled`]), spare (14), last use in seconds (32). Written by whoever sees a
/// packet of the flow, by compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life(pub(crate) u64);

/// Where the calm bits begin, one a direction.
const CALM_AT: u32 = 16;

/// Which directions' data leave the state as it is.
const fn calm(state: State) -> u64 {
    let number = state as u8;
    let forward = next_of(number, Direction::Forward, Signal::Data) == number;
    let reply = next_of(number, Direction::Reply, Signal::Data) == number;
    forward as u64 | (reply as u64) << 1
}

impl Life {
    pub(crate) const FREE: Self = Self(0);

    pub(crate) const fn new(phase: Phase, state: State, seen: Seconds) -> Self {
        Self(phase as u64 | (state as u64) << 8 | calm(state) << CALM_AT | (seen.0 as u64) << 32)
    }

    #[inline]
    pub(crate) const fn phase(self) -> Phase {
        match self.0 & 3 {
            0 => Phase::Free,
            1 => Phase::Claimed,
            2 => Phase::Live,
            _ => Phase::Dead,
        }
    }

    /// Of a flow that was just made.
    #[must_use]
    pub const fn live(state: State, seen: Seconds) -> Self {
        Self::new(Phase::Live, state, seen)
    }

    /// Whether packets may use it.
    #[inline]
    #[must_use]
    pub const fn is_live(self) -> bool {
        self.0 & 0xff == Phase::Live as u64
    }

    /// Whether a packet of this direction that only carries data finds all as it leaves it: live, of a state that does not change,
    /// and seen in this second. One compare for what most packets are.
    #[inline]
    #[must_use]
    pub const fn is_settled(self, direction: Direction, now: Seconds) -> bool {
        let wanted = Phase::Live as u64 | (now.0 as u64) << 32;
        (self.0 ^ wanted) & (0xff | 0xffff_ffff << 32) == 0 && self.0 >> CALM_AT >> direction as u32 & 1 != 0
    }

    /// How far the connection has come.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "cut to 8 bits")]
    pub const fn state(self) -> State {
        State::of_bits((self.0 >> 8) as u8)
    }

    /// Whether a packet makes it another state.
    #[inline]
    pub(crate) const fn changes(self, direction: Direction, signal: Signal) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "cut to 8 bits")]
        let state = (self.0 >> 8) as u8;
        next_of(state, direction, signal) != state
    }

    /// When a packet was seen last.
    #[inline]
    #[must_use]
    pub const fn seen(self) -> Seconds {
        Seconds((self.0 >> 32) as u32)
    }

    pub(crate) const fn with_phase(self, phase: Phase) -> Self {
        Self(self.0 & !0xff | phase as u64)
    }
}

/// Whose flow it is and how it came to its addresses. Written while claimed, then fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Binding {
    /// The port by which its first packet came: whom it counts against.
    pub owner: u16,
    /// Its destination was chosen among a frontend's backends.
    pub service: bool,
    /// Its source is one of the router's own addresses.
    pub masqueraded: bool,
    /// It was known only when it had begun already: which side opened it is a guess.
    pub joined: bool,
    /// When it began.
    pub since: Seconds,
}

impl Binding {
    pub(crate) const fn word(self) -> u64 {
        (self.since.0 as u64) << 32
            | (self.owner as u64) << 16
            | self.service as u64
            | (self.masqueraded as u64) << 1
            | (self.joined as u64) << 2
    }

    #[expect(clippy::cast_possible_truncation, reason = "each field is cut out of the word")]
    pub(crate) const fn of_word(word: u64) -> Self {
        Self {
            owner: (word >> 16) as u16,
            service: word & 1 != 0,
            masqueraded: word & 2 != 0,
            joined: word & 4 != 0,
            since: Seconds((word >> 32) as u32),
        }
    }

    /// Whether packets change on their way.
    #[must_use]
    pub const fn is_translated(self) -> bool {
        self.service || self.masqueraded
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_settled_record_is_one_that_data_does_not_change() {
        let (now, other) = (Seconds(7), Seconds(8));
        for (state, direction) in State::ALL
            .into_iter()
            .flat_map(|state| [Direction::Forward, Direction::Reply].map(|direction| (state, direction)))
        {
            let life = Life::live(state, now);
            assert_eq!(life.is_settled(direction, now), state.next(direction, Signal::Data) == state);
            assert!(!life.is_settled(direction, other));
            for phase in [Phase::Free, Phase::Claimed, Phase::Dead] {
                assert!(!life.with_phase(phase).is_settled(direction, now));
            }
        }
        assert!(Life::live(State::Established, now).is_settled(Direction::Reply, now));
    }
}
