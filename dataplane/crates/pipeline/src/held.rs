//! Packets that wait, in queues by what they wait for, all in one place of fixed size.
//!
//! Nothing is allocated after [`Held::new`]: a queue is a chain of slots, first in, first out.

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// One queue: only [`Held`] can look inside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue {
    first: u32,
    last: u32,
    len: u32,
}

impl Queue {
    pub(crate) const EMPTY: Self = Self { first: NONE, last: NONE, len: 0 };

    pub(crate) const fn len(self) -> u32 {
        self.len
    }
}

#[derive(Debug)]
struct Slot<P> {
    packet: Option<P>,
    next: u32,
}

/// The slots of all queues.
#[derive(Debug)]
pub(crate) struct Held<P> {
    slots: Box<[Slot<P>]>,
    free: u32,
    len: usize,
}

impl<P> Held<P> {
    pub(crate) fn new(slots: u32) -> Self {
        let next = |i: u32| if i + 1 < slots { i + 1 } else { NONE };
        let free = if slots == 0 { NONE } else { 0 };
        Self { slots: (0..slots).map(|i| Slot { packet: None, next: next(i) }).collect(), free, len: 0 }
    }

    /// Packets in all queues.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Puts `packet` last, or gives it back if all slots are taken.
    pub(crate) fn push(&mut self, queue: &mut Queue, packet: P) -> Result<(), P> {
        let at = self.free;
        let Some(slot) = self.slots.get_mut(index(at)) else {
            return Err(packet);
        };
        self.free = slot.next;
        *slot = Slot { packet: Some(packet), next: NONE };
        match self.slots.get_mut(index(queue.last)) {
            Some(last) => last.next = at,
            None => queue.first = at,
        }
        queue.last = at;
        queue.len += 1;
        self.len += 1;
        Ok(())
    }

    /// Takes the first.
    pub(crate) fn pop(&mut self, queue: &mut Queue) -> Option<P> {
        let at = queue.first;
        let slot = self.slots.get_mut(index(at))?;
        let packet = slot.packet.take()?;
        queue.first = slot.next;
        if queue.first == NONE {
            queue.last = NONE;
        }
        slot.next = self.free;
        self.free = at;
        queue.len -= 1;
        self.len -= 1;
        Some(packet)
    }

    /// Moves all of `from` behind what is in `to`.
    pub(crate) fn append(&mut self, to: &mut Queue, from: &mut Queue) {
        match self.slots.get_mut(index(to.last)) {
            Some(last) => last.next = from.first,
            None => to.first = from.first,
        }
        if from.last != NONE {
            to.last = from.last;
        }
        to.len += from.len;
        *from = Queue::EMPTY;
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn as_so_many_deques(slots in 0u32..12, steps in prop::collection::vec((0usize..3, 0u8..5), 0..200)) {
            let mut held = Held::new(slots);
            let mut queues = [Queue::EMPTY; 3];
            let mut model: [VecDeque<usize>; 3] = Default::default();
            for (number, (q, step)) in steps.into_iter().enumerate() {
                let total: usize = model.iter().map(VecDeque::len).sum();
                if step == 0 {
                    let mut from = std::mem::replace(&mut queues[q], Queue::EMPTY);
                    held.append(&mut queues[(q + 1) % 3], &mut from);
                    let moved = std::mem::take(&mut model[q]);
                    model[(q + 1) % 3].extend(moved);
                    prop_assert_eq!(from.len(), 0);
                } else if step < 3 {
                    let full = total == slots as usize;
                    prop_assert_eq!(held.push(&mut queues[q], number), if full { Err(number) } else { Ok(()) });
                    if !full {
                        model[q].push_back(number);
                    }
                } else {
                    prop_assert_eq!(held.pop(&mut queues[q]), model[q].pop_front());
                }
                prop_assert_eq!(held.len(), model.iter().map(VecDeque::len).sum::<usize>());
                prop_assert_eq!(queues[q].len() as usize, model[q].len());
            }
        }
    }
}
