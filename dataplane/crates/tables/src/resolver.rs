//! Who answers questions about names, as pods are told: servers, and the domains that short names are sought in.
//!
//! What is here fits every message that carries it: few servers, and a list that is one option of DHCPv4.

use std::net::IpAddr;
use std::sync::Arc;

use crate::entry::{Endpoint, is_unicast};
use crate::error::TableError;
use crate::tables::Tables;

/// Servers of both families together, more than a resolver asks (resolv.conf(5): three).
const MOST_SERVERS: usize = 6;
/// Bytes of the encoded list: one option of DHCPv4 (RFC 3397, section 2).
const LONGEST_SEARCH: usize = 255;
/// Bytes of a label (RFC 1035, section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// Servers and search list; the default has none, and then nothing is said of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolver {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    names: Vec<u8>,
}

impl Resolver {
    /// Servers in the order in which they are to be asked, domains in the order of search.
    ///
    /// # Errors
    /// An address that is not one station's, a name that DNS does not have (RFC 1035, section 2.3.4), or too many of either.
    pub fn new(servers: Vec<IpAddr>, search: Vec<String>) -> Result<Self, TableError> {
        if let Some(&address) = servers.iter().find(|&&address| !is_unicast(address)) {
            let why = "a DNS server needs a unicast address";
            return Err(TableError::Address { item: "router".to_owned(), address, why });
        }
        if servers.len() > MOST_SERVERS {
            let value = format!("{} DNS servers", servers.len());
            return Err(TableError::Resolver { value, why: "a pod is told of six at most" });
        }
        let mut names = Vec::new();
        for domain in &search {
            for label in domain.split('.') {
                // Any byte may be in a label, but these would not come through a resolv.conf.
                let plain = label.bytes().all(|byte| byte.is_ascii_graphic());
                let length =
                    u8::try_from(label.len()).ok().filter(|&length| usize::from(length) <= LONGEST_LABEL);
                let Some(length) = length.filter(|&length| length > 0 && plain) else {
                    let value = format!("search domain `{domain}`");
                    let why = "a name is labels of 1 to 63 bytes with dots between (RFC 1035, section 2.3.4)";
                    return Err(TableError::Resolver { value, why });
                };
                names.push(length);
                names.extend(label.as_bytes());
            }
            names.push(0);
        }
        if names.len() > LONGEST_SEARCH {
            let value = format!("a list of {} search domains", search.len());
            return Err(TableError::Resolver { value, why: "encoded it takes 255 bytes at most (RFC 3397)" });
        }
        Ok(Self { servers, search, names })
    }

    /// In the order in which they are to be asked, of both families.
    #[must_use]
    pub fn servers(&self) -> &[IpAddr] {
        &self.servers
    }

    /// As in `cluster.local`, in the order of search.
    #[must_use]
    pub fn search(&self) -> &[String] {
        &self.search
    }

    /// The same one after another as DNS has names (RFC 1035, section 3.1), none of them compressed; at most 255 bytes.
    #[must_use]
    pub fn names(&self) -> &[u8] {
        &self.names
    }
}

impl Tables {
    /// What pods are told of names.
    #[must_use]
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// What an endpoint is told of names: nothing, where it reaches routes of its own alone; the servers are elsewhere.
    #[must_use]
    pub fn resolver_of(&self, endpoint: &Endpoint) -> &Resolver {
        static NOBODY: Resolver = Resolver { servers: Vec::new(), search: Vec::new(), names: Vec::new() };
        if endpoint.routes.is_empty() { &self.resolver } else { &NOBODY }
    }

    /// Sets it. No decision rests on it.
    pub fn set_resolver(&mut self, resolver: Resolver) {
        if *self.resolver != resolver {
            self.resolver = Arc::new(resolver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(servers: &[&str], search: &[&str]) -> Result<Resolver, String> {
        let servers = servers.iter().map(|text| text.parse().unwrap()).collect();
        Resolver::new(servers, search.iter().map(|&name| name.to_owned()).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_encoded_one_after_another() {
        let made = resolver(&["10.96.0.10", "fd00::10"], &["svc.a", "b"]).unwrap();
        assert_eq!(made.names(), b"\x03svc\x01a\0\x01b\0");
        assert_eq!(resolver(&[], &[]).unwrap(), Resolver::default());
    }

    #[test]
    fn what_no_pod_could_use_is_refused() {
        let long = "a".repeat(64);
        let many = vec!["abcdefghijklmnop.example"; 11];
        for (made, named) in [
            (resolver(&["224.0.0.1"], &[]), "224.0.0.1"),
            (resolver(&["10.0.0.1"; 7], &[]), "7 DNS servers"),
            (resolver(&[], &["a..b"]), "`a..b`"),
            (resolver(&[], &[""]), "``"),
            (resolver(&[], &["a b"]), "`a b`"),
            (resolver(&[], &[&long]), "labels of 1 to 63 bytes"),
            (resolver(&[], &many), "11 search domains"),
        ] {
            let error = made.unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
