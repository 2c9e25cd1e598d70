//! Numbers for what the data plane knows by a number alone.

use std::hash::{DefaultHasher, Hash, Hasher};

use imbl::{OrdMap, OrdSet};

/// Those that are given. What a number is for says which it is, so that a control process that starts anew gives the same ones, and has
/// nothing to tell the data plane; only where two are for the same number, the later one has the next that is free.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Numbers(OrdSet<u32>);

impl Numbers {
    /// One above 0 that nothing else has.
    pub(crate) fn give(&mut self, of: &impl Hash) -> u32 {
        let mut hasher = DefaultHasher::new();
        of.hash(&mut hasher);
        self.give_from(u32::try_from(hasher.finish() >> 32).unwrap_or(0))
    }

    fn give_from(&mut self, first: u32) -> u32 {
        let mut number = first.max(1);
        while self.0.insert(number).is_some() {
            number = number.checked_add(1).unwrap_or(1);
        }
        number
    }

    pub(crate) fn take_back(&mut self, number: u32) {
        self.0.remove(&number);
    }
}

/// A number, and how many use what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) number: u32,
    pub(crate) users: u32,
}

/// Uses what has a number once less; gives the number if nobody does any more.
pub(crate) fn use_less<K: Ord + Clone>(all: &mut OrdMap<K, Used>, own: &K) -> Option<u32> {
    let used = all.get_mut(own)?;
    used.users -= 1;
    let Used { number, users } = *used;
    (users == 0).then(|| {
        all.remove(own);
        number
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_given_twice() {
        let mut numbers = Numbers::default();
        let first = numbers.give(&"a");
        assert_eq!(numbers.clone().give_from(first), first + 1);
        numbers.take_back(first);
        assert_eq!(numbers.give(&"a"), first);
        let mut numbers = Numbers::default();
        assert_eq!([0, 1, u32::MAX, u32::MAX].map(|n| numbers.give_from(n)), [1, 2, u32::MAX, 3]);
    }
}
