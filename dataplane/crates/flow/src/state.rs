//! How far a connection has come, by what its packets show: TCP flags, SCTP chunks, or that there was an answer.
//!
//! Windows and sequence numbers are not followed. A FIN or a RST only shortens the time-out, so that one which the receiver
//! refuses does no harm to a connection that goes on.

/// Which way a packet goes: as the connection's first did, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// As the first packet.
    Forward = 0,
    /// As its answer.
    Reply = 1,
}

impl Direction {
    /// The other one.
    #[inline]
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Forward => Self::Reply,
            Self::Reply => Self::Forward,
        }
    }

    #[inline]
    pub(crate) const fn of_bit(bit: u32) -> Self {
        if bit & 1 == 0 { Self::Forward } else { Self::Reply }
    }
}

/// What a packet says of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Signal {
    /// It is there. All of UDP and ICMP.
    Data = 0,
    /// TCP SYN, SCTP INIT.
    Open = 1,
    /// TCP SYN with ACK, SCTP INIT ACK.
    Accept = 2,
    /// TCP FIN, SCTP SHUTDOWN and what follows it.
    Finish = 3,
    /// TCP RST, SCTP ABORT.
    Reset = 4,
}

impl Signal {
    /// Of a TCP header's flags (RFC 9293, section 3.1).
    #[inline]
    #[must_use]
    pub const fn of_tcp(flags: u8) -> Self {
        // FIN 1, SYN 2, RST 4, ACK 16; a reset outweighs what else is claimed.
        match flags & 0x17 {
            f if f & 4 != 0 => Self::Reset,
            f if f & 0x12 == 2 => Self::Open,
            f if f & 2 != 0 => Self::Accept,
            f if f & 1 != 0 => Self::Finish,
            _ => Self::Data,
        }
    }

    /// Of an SCTP packet's first chunk type (RFC 9260, section 3.2).
    #[inline]
    #[must_use]
    pub const fn of_sctp(chunk: u8) -> Self {
        match chunk {
            1 => Self::Open,
            2 => Self::Accept,
            6 => Self::Reset,
            7 | 8 | 14 => Self::Finish,
            _ => Self::Data,
        }
    }
}

/// States of a connection. What has none of its own uses `New` and `Replied`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Packets one way only.
    New = 0,
    /// Packets both ways.
    Replied = 1,
    /// Opened, not accepted.
    Opening = 2,
    /// Accepted, not confirmed.
    Accepted = 3,
    /// Data flows.
    Established = 4,
    /// The opener has finished.
    FinishedForward = 5,
    /// The other side has finished.
    FinishedReply = 6,
    /// Both have.
    Finished = 7,
    /// One side has reset it.
    Reset = 8,
}

impl State {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::New,
        Self::Replied,
        Self::Opening,
        Self::Accepted,
        Self::Established,
        Self::FinishedForward,
        Self::FinishedReply,
        Self::Finished,
        Self::Reset,
    ];

    #[inline]
    pub(crate) const fn of_bits(bits: u8) -> Self {
        Self::ALL[if bits < 9 { bits as usize } else { 0 }]
    }

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Replied => "replied",
            Self::Opening => "opening",
            Self::Accepted => "accepted",
            Self::Established => "established",
            Self::FinishedForward => "finished-forward",
            Self::FinishedReply => "finished-reply",
            Self::Finished => "finished",
            Self::Reset => "reset",
        }
    }

    /// Of a connection whose first packet, as far as we know, says `signal`. One that opens nothing belongs to a connection that began
    /// before: it is as good as established, whichever way its packet goes.
    #[must_use]
    pub const fn first(with_states: bool, signal: Signal) -> Self {
        if !with_states {
            return Self::New;
        }
        match signal {
            Signal::Open => Self::Opening,
            Signal::Accept => Self::Accepted,
            Signal::Data => Self::Established,
            Signal::Finish => Self::FinishedForward,
            Signal::Reset => Self::Reset,
        }
    }

    /// The state after a packet.
    #[inline]
    #[must_use]
    pub const fn next(self, direction: Direction, signal: Signal) -> Self {
        Self::of_bits(next_of(self as u8, direction, signal))
    }

    /// Whether a packet that opens a connection on this tuple begins a new one: the old one is over (RFC 9293, section 3.6.1).
    #[inline]
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Reset | Self::FinishedForward | Self::FinishedReply)
    }
}

/// One look-up a packet: four bits of state, one of direction, three of signal.
static NEXT: [u8; 256] = next();

/// The number of the state after a packet.
#[inline]
pub(crate) const fn next_of(state: u8, direction: Direction, signal: Signal) -> u8 {
    NEXT[((state & 0xf) << 4 | (direction as u8) << 3 | signal as u8) as usize]
}

const fn next() -> [u8; 256] {
    let mut table = [0; 256];
    let mut state = 0;
    while state < State::ALL.len() {
        let mut signal = 0_u8;
        while signal < 5 {
            let at = state << 4 | signal as usize;
            table[at] = step(State::ALL[state], true, signal) as u8;
            table[at | 8] = step(State::ALL[state], false, signal) as u8;
            signal += 1;
        }
        state += 1;
    }
    table
}

const fn step(state: State, forward: bool, signal: u8) -> State {
    use State as S;
    const DATA: u8 = Signal::Data as u8;
    const ACCEPT: u8 = Signal::Accept as u8;
    const FINISH: u8 = Signal::Finish as u8;
    const RESET: u8 = Signal::Reset as u8;
    match (state, signal) {
        (S::New, _) => {
            if forward {
                S::New
            } else {
                S::Replied
            }
        }
        (S::Replied, _) => S::Replied,
        (S::Reset, _) | (_, RESET) => S::Reset,
        (S::Opening, ACCEPT) => {
            if forward {
                S::Opening
            } else {
                S::Accepted
            }
        }
        // Data before the answer was seen: the answer went another way, or was lost to us.
        (S::Opening, DATA) => {
            if forward {
                S::Opening
            } else {
                S::Established
            }
        }
        (S::Accepted, DATA) => {
            if forward {
                S::Established
            } else {
                S::Accepted
            }
        }
        (S::Opening | S::Accepted | S::Established, FINISH) => {
            if forward {
                S::FinishedForward
            } else {
                S::FinishedReply
            }
        }
        (S::FinishedForward, FINISH) => {
            if forward {
                S::FinishedForward
            } else {
                S::Finished
            }
        }
        (S::FinishedReply, FINISH) => {
            if forward {
                S::Finished
            } else {
                S::FinishedReply
            }
        }
        _ => state,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Each step: direction, signal, and the state it leads to.
    fn walk(first: Signal, steps: &[(Direction, Signal, State)]) {
        let mut state = State::first(true, first);
        for (i, &(direction, signal, want)) in steps.iter().enumerate() {
            state = state.next(direction, signal);
            assert_eq!(state, want, "step {i}");
        }
    }

    use Direction::{Forward as F, Reply as R};
    use Signal::{Accept, Data, Finish, Open, Reset};

    #[test]
    fn a_connection_opens_and_closes() {
        walk(
            Open,
            &[
                (F, Open, State::Opening),
                (R, Accept, State::Accepted),
                (F, Data, State::Established),
                (R, Data, State::Established),
                (R, Finish, State::FinishedReply),
                (F, Data, State::FinishedReply),
                (F, Finish, State::Finished),
                (R, Data, State::Finished),
            ],
        );
        walk(Open, &[(R, Reset, State::Reset), (F, Data, State::Reset)]);
        walk(Data, &[(R, Data, State::Established), (F, Finish, State::FinishedForward)]);
    }

    #[test]
    fn without_states_an_answer_is_all_that_counts() {
        let new = State::first(false, Signal::Data);
        assert_eq!(new.next(F, Data), State::New);
        assert_eq!(new.next(R, Data), State::Replied);
        assert_eq!(State::Replied.next(F, Data), State::Replied);
    }

    #[test]
    fn flags_and_chunks() {
        assert_eq!(Signal::of_tcp(0x02), Open);
        assert_eq!(Signal::of_tcp(0x12), Accept);
        assert_eq!(Signal::of_tcp(0x10), Data);
        assert_eq!(Signal::of_tcp(0x11), Finish);
        assert_eq!(Signal::of_tcp(0x14), Reset);
        assert_eq!(Signal::of_tcp(0xff), Reset);
        assert_eq!([1, 2, 6, 7, 0].map(Signal::of_sctp), [Open, Accept, Reset, Finish, Data]);
    }
}
