//! What is done with the packets of one direction: one word, read and written as a whole.

/// Adjacencies that an action can name.
pub const MAX_ADJACENCIES: u32 = 1 << 18;

/// From the high end: the generation by which it was decided (32 bits), the adjacency (18), the port that such packets come in
/// by (10), and whether they are translated (1).
///
/// It is good while that generation is the worker's, or while nothing has changed that it rests on. Zero is no decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Action(pub(crate) u64);

const ADJACENCY_AT: u32 = 14;
const PORT_AT: u32 = 4;
const TRANSLATED: u64 = 1;
const DECIDED: u64 = 2;

impl Action {
    /// Nothing decided.
    pub const NONE: Self = Self(0);

    /// `adjacency` is below [`MAX_ADJACENCIES`] and `in_port` below 1,024; bits beyond are cut.
    #[inline]
    #[must_use]
    pub const fn new(generation: u32, adjacency: u32, in_port: u16, translated: bool) -> Self {
        Self(
            (generation as u64) << 32
                | ((adjacency & (MAX_ADJACENCIES - 1)) as u64) << ADJACENCY_AT
                | ((in_port & 0x3ff) as u64) << PORT_AT
                | translated as u64
                | DECIDED,
        )
    }

    /// Whether it was decided by this generation of tables, for packets that come by this port.
    #[inline]
    #[must_use]
    pub const fn is_current(self, generation: u32, in_port: u16) -> bool {
        let wanted = (generation as u64) << 32 | ((in_port & 0x3ff) as u64) << PORT_AT | DECIDED;
        (self.0 ^ wanted) & (0xffff_ffff << 32 | 0x3ff << PORT_AT | DECIDED) == 0
    }

    /// Whether it says what to do with packets that come by this port.
    #[inline]
    #[must_use]
    pub const fn is_for(self, in_port: u16) -> bool {
        let wanted = ((in_port & 0x3ff) as u64) << PORT_AT | DECIDED;
        self.0 & (0x3ff << PORT_AT | DECIDED) == wanted
    }

    /// Whether anything is decided.
    #[inline]
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 & DECIDED != 0
    }

    /// The low 32 bits of the generation by which it was decided, or last found to hold.
    #[inline]
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Where packets leave.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "cut to 18 bits")]
    pub const fn adjacency(self) -> u32 {
        (self.0 >> ADJACENCY_AT) as u32 & (MAX_ADJACENCIES - 1)
    }

    /// Where they come in. By another port they are decided anew: their source is not checked otherwise.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "cut to 10 bits")]
    pub const fn in_port(self) -> u16 {
        (self.0 >> PORT_AT) as u16 & 0x3ff
    }

    /// Whether the tuple changes: to the other direction's, turned round.
    #[inline]
    #[must_use]
    pub const fn is_translated(self) -> bool {
        self.0 & TRANSLATED != 0
    }

    /// The same, found to hold in a later generation.
    #[inline]
    #[must_use]
    pub const fn at(self, generation: u32) -> Self {
        Self(self.0 & 0xffff_ffff | (generation as u64) << 32)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch() {
        for (generation, adjacency, port, translated) in [
            (u32::MAX, 0, 0, false),
            (0, MAX_ADJACENCIES - 1, 0, false),
            (0, 0, 1023, true),
            (7, 77, 777, true),
        ] {
            let action = Action::new(generation, adjacency, port, translated);
            assert!(action.is_some());
            assert_eq!(
                (action.generation(), action.adjacency(), action.in_port(), action.is_translated()),
                (generation, adjacency, port, translated)
            );
            assert!(action.is_for(port) && action.is_current(generation, port));
            assert!(!action.is_for(port ^ 1) && !action.is_current(generation, port ^ 1));
            assert!(!action.is_current(generation ^ 1, port));
            assert_eq!(action.at(9), Action::new(9, adjacency, port, translated));
        }
        assert!(!Action::NONE.is_some());
    }
}
