//! Something of each network. That of the pods' own is at hand; those of others cost three loads more.

use crate::chunked::Chunked;
use crate::id::NetworkId;

#[derive(Clone, Default)]
pub(crate) struct ByNetwork<T> {
    primary: T,
    others: Chunked<T>,
}

/// What a network has before anything is set.
pub(crate) trait Vacant: Clone + Default {
    /// Whether it is as it was then, and need not be kept.
    fn is_vacant(&self) -> bool;
}

impl<T: Vacant> ByNetwork<T> {
    #[inline]
    pub(crate) fn get(&self, id: NetworkId) -> Option<&T> {
        if id.0 == 0 { Some(&self.primary) } else { self.others.get(u32::from(id.0)) }
    }

    /// Changes what a network has; what is vacant afterwards is let go.
    pub(crate) fn change<R>(&mut self, id: NetworkId, change: impl FnOnce(&mut T) -> R) -> R {
        if id.0 == 0 {
            return change(&mut self.primary);
        }
        let row = u32::from(id.0);
        if let Some(row) = self.others.get_mut(row) {
            let result = change(row);
            if row.is_vacant() {
                self.others.remove(u32::from(id.0));
            }
            return result;
        }
        let mut new = T::default();
        let result = change(&mut new);
        if !new.is_vacant() {
            self.others.set(row, new);
        }
        result
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NetworkId, &T)> + '_ {
        let others =
            self.others.iter().filter_map(|(id, row)| Some((NetworkId(u16::try_from(id).ok()?), row)));
        std::iter::once((NetworkId(0), &self.primary)).chain(others)
    }
}
