//! Which bytes of a packet its fragments have brought, and how long it is.

use crate::DropReason;

/// Pieces that do not touch, at most: a packet of 65,535 bytes over the least MTU of IPv6 has 54 fragments, which leave at most 27
/// such pieces in whatever order they come.
const MOST: usize = 32;

/// Ranges of bytes, in order, none of which touches another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    ranges: [(u16, u16); MOST],
    len: usize,
    /// Known from the last fragment.
    total: Option<u16>,
}

impl Pieces {
    pub(super) const NONE: Self = Self { ranges: [(0, 0); MOST], len: 0, total: None };

    /// Every byte has come.
    pub(super) fn is_complete(&self) -> bool {
        self.total.is_some_and(|total| self.ranges() == [(0, total)])
    }

    fn ranges(&self) -> &[(u16, u16)] {
        &self.ranges[..self.len]
    }

    /// Takes in `len` bytes from `begin` on, behind which there are `more`, or not.
    pub(super) fn add(&mut self, begin: u16, len: u16, more: bool) -> Result<(), DropReason> {
        let end = begin.checked_add(len).ok_or(DropReason::FragmentInconsistent)?;
        let furthest = self.ranges().last().map_or(0, |range| range.1);
        let fits = match self.total {
            Some(total) if more => end < total,
            Some(total) => end == total,
            None => more || furthest <= end,
        };
        if !fits {
            return Err(DropReason::FragmentInconsistent);
        }
        let at = self.ranges().partition_point(|range| range.0 < begin);
        let (before, after) = self.ranges().split_at(at);
        let (before, after) = (before.last(), after.first());
        if before.is_some_and(|range| range.1 > begin) || after.is_some_and(|range| range.0 < end) {
            return Err(DropReason::FragmentOverlap);
        }
        let touches_before = before.is_some_and(|range| range.1 == begin);
        let touches_after = after.is_some_and(|range| range.0 == end);
        match (touches_before, touches_after) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.copy_within(at + 1..self.len, at);
                self.len -= 1;
            }
            (true, false) => self.ranges[at - 1].1 = end,
            (false, true) => self.ranges[at].0 = begin,
            (false, false) if self.len == MOST => return Err(DropReason::FragmentQueueFull),
            (false, false) => {
                self.ranges.copy_within(at..self.len, at + 1);
                self.ranges[at] = (begin, end);
                self.len += 1;
            }
        }
        if !more {
            self.total = Some(end);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn any_order_of_the_longest_packet() {
        // Every second first: as many pieces as there can be.
        let fragments: Vec<u16> = (0..54).collect();
        let (even, odd): (Vec<u16>, Vec<u16>) = fragments.iter().partition(|n| *n % 2 == 0);
        let mut pieces = Pieces::NONE;
        for n in even.into_iter().chain(odd) {
            assert!(!pieces.is_complete());
            let len = if n == 53 { 65_535 - 53 * 1232 } else { 1232 };
            pieces.add(n * 1232, len, n < 53).unwrap();
        }
        assert!(pieces.is_complete());
    }

    #[test]
    fn too_many_pieces() {
        let mut pieces = Pieces::NONE;
        for n in 0..32 {
            pieces.add(n * 16, 8, true).unwrap();
        }
        assert_eq!(pieces.add(32 * 16, 8, true), Err(DropReason::FragmentQueueFull));
        pieces.add(8, 8, true).unwrap();
        pieces.add(32 * 16, 8, true).unwrap();
        assert_eq!(pieces.add(65_528, 8, false), Err(DropReason::FragmentInconsistent));
    }

    proptest! {
        /// Against a bit for each 8 bytes.
        #[test]
        fn as_a_bitmap(fragments in prop::collection::vec((0u16..40, 1u16..6, prop::bool::weighted(0.9)), 0..80)) {
            let (mut pieces, mut seen, mut total) = (Pieces::NONE, [false; 48], None);
            for (begin, len, more) in fragments {
                let end = begin + len;
                let beyond = seen.iter().rposition(|&s| s).map_or(0, |last| last + 1);
                let consistent = match total {
                    Some(total) => if more { end < total } else { end == total },
                    None => more || beyond <= usize::from(end),
                };
                let range = usize::from(begin)..usize::from(end);
                let expected = if !consistent {
                    Err(DropReason::FragmentInconsistent)
                } else if seen[range.clone()].contains(&true) {
                    Err(DropReason::FragmentOverlap)
                } else {
                    Ok(())
                };
                prop_assert_eq!(pieces.add(begin * 8, len * 8, more), expected);
                if expected.is_ok() {
                    seen[range].fill(true);
                    if !more {
                        total = Some(end);
                    }
                }
                let complete = total.is_some_and(|total| seen[..usize::from(total)].iter().all(|&s| s));
                prop_assert_eq!(pieces.is_complete(), complete);
            }
        }
    }
}
