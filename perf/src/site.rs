//! Where a node of a cluster stands: its name and addresses, which follow from its number.

/// A node's number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site(u8);

impl Site {
    /// The one that stands where [`HOST`](crate::node::HOST), [`POD_CIDRS`](crate::node::POD_CIDRS) and
    /// [`ROUTER`](crate::node::ROUTER) say.
    pub const FIRST: Self = Self(1);
    /// As many as addresses are written for, and names have letters.
    pub const MOST: u8 = 9;

    /// The first ones, at most [`Self::MOST`].
    pub fn first(count: u8) -> impl Iterator<Item = Self> {
        (1..=count.min(Self::MOST)).map(Self)
    }

    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// As its Node object has it: `node-a` for the first.
    #[must_use]
    pub fn name(self) -> String {
        format!("node-{}", char::from(b'a' + self.0 - 1))
    }

    /// Its own addresses, those of kubelet and the host's agents.
    #[must_use]
    pub fn host(self) -> [String; 2] {
        ["192.168.77.1", "fd00:77::1"].map(|start| format!("{start}{}", self.0))
    }

    /// Where its pods get theirs.
    #[must_use]
    pub fn pod_cidrs(self) -> [String; 2] {
        [format!("10.244.{}.0/24", self.0), format!("fd00:10:244:{}::/64", self.0)]
    }

    /// Its router's addresses on the network between nodes.
    #[must_use]
    pub fn router(self) -> [String; 2] {
        ["192.168.78.1", "fd00:78::1"].map(|start| format!("{start}{}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::{NODE, OTHER_NODE};
    use crate::node::{HOST, POD_CIDRS, ROUTER};

    #[test]
    fn the_first_one_stands_where_the_lab_has_always_had_its_node() {
        let first = Site::FIRST;
        assert_eq!((first.host(), first.router()), (HOST.map(str::to_owned), ROUTER.map(str::to_owned)));
        assert_eq!(first.pod_cidrs(), POD_CIDRS);
        let names: Vec<String> = Site::first(3).map(Site::name).collect();
        assert_eq!(names, [NODE, OTHER_NODE, "node-c"]);
        assert_eq!(Site::first(200).count(), usize::from(Site::MOST));
    }
}
