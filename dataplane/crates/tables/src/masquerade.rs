//! Source translation: of what leaves the cluster, and of what would not be answered by this router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::IpPrefix;

use crate::by_network::Vacant;
use crate::entry::{is_link_local6, is_unicast};
use crate::error::TableError;
use crate::id::NetworkId;
use crate::stamp::Place;
use crate::tables::Tables;

/// The sources that packets get instead of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    /// The source that pods' IPv4 packets to the outside get; [`None`] leaves them as they are.
    pub source4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub source6: Option<Ipv6Addr>,
    /// Destinations that see the pod's own address.
    pub exclude: Vec<IpPrefix>,
    /// Whether link-local destinations (169.254.0.0/16, fe80::/10) see the translated source.
    pub link_local: bool,
    /// The router's own address among the pods' of this network: the source of what goes to a Service's backend whose answers, which are to
    /// be translated, would go to the client by another way. [`None`]: such packets are dropped.
    pub service4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub service6: Option<Ipv6Addr>,
    /// The source ports to choose from, first and last.
    pub ports: (u16, u16),
}

impl Masquerade {
    /// Above the NodePorts (30000 to 32767), which the source address may serve too.
    pub const PORTS: (u16, u16) = (32_768, 65_535);

    /// The source for a packet to `dst`; [`None`] if it keeps its own.
    #[must_use]
    pub fn source_for(&self, dst: IpAddr) -> Option<IpAddr> {
        let source = match dst {
            IpAddr::V4(_) => self.source4.map(IpAddr::V4),
            IpAddr::V6(_) => self.source6.map(IpAddr::V6),
        };
        let own = || {
            !self.link_local && is_link_local(dst) || self.exclude.iter().any(|prefix| prefix.contains(dst))
        };
        source.filter(|_| !own())
    }
}

impl Masquerade {
    /// The source for a packet to a backend, so that it is answered by this router.
    #[must_use]
    pub fn service_source_for(&self, backend: IpAddr) -> Option<IpAddr> {
        match backend {
            IpAddr::V4(_) => self.service4.map(IpAddr::V4),
            IpAddr::V6(_) => self.service6.map(IpAddr::V6),
        }
    }

    /// Whether packets have this source instead of their own.
    #[must_use]
    pub fn is_source(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => [self.source4, self.service4].contains(&Some(addr)),
            IpAddr::V6(addr) => [self.source6, self.service6].contains(&Some(addr)),
        }
    }
}

impl Default for Masquerade {
    /// No source yet; no exceptions but link-local destinations.
    fn default() -> Self {
        let (source4, source6, exclude) = (None, None, Vec::new());
        let (service4, service6) = (None, None);
        Self { source4, source6, exclude, link_local: false, service4, service6, ports: Self::PORTS }
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    is_link_local6(addr) || matches!(addr, IpAddr::V4(addr) if addr.is_link_local())
}

impl Vacant for Option<Masquerade> {
    fn is_vacant(&self) -> bool {
        self.is_none()
    }
}

impl Tables {
    /// How packets leave this network; [`None`]: with the source they have.
    #[inline]
    #[must_use]
    pub fn masquerade(&self, network: NetworkId) -> Option<&Masquerade> {
        self.masquerades.get(network)?.as_ref()
    }

    /// All networks whose packets get another source.
    pub fn masquerades(&self) -> impl Iterator<Item = (NetworkId, &Masquerade)> + '_ {
        self.masquerades.iter().filter_map(|(network, row)| Some((network, row.as_ref()?)))
    }

    /// Says how packets leave this network.
    ///
    /// # Errors
    /// A source that is not one node's address, no ports to choose from.
    pub fn set_masquerade(
        &mut self,
        network: NetworkId,
        masquerade: Option<Masquerade>,
    ) -> Result<(), TableError> {
        if self.masquerade(network) == masquerade.as_ref() {
            return Ok(());
        }
        if let Some(masquerade) = &masquerade {
            check_masquerade(network, masquerade)?;
        }
        self.masquerades.change(network, |row| *row = masquerade);
        // Whatever leaves rests on it, or on that there was none.
        self.touch(Place::Everything);
        Ok(())
    }
}

fn check_masquerade(network: NetworkId, masquerade: &Masquerade) -> Result<(), TableError> {
    let item = || format!("masquerade of network {network}");
    let Masquerade { source4, source6, exclude: _, link_local: _, service4, service6, ports: (first, last) } =
        masquerade;
    let sources4 = [source4, service4].into_iter().flatten().map(|own| IpAddr::V4(*own));
    let sources6 = [source6, service6].into_iter().flatten().map(|own| IpAddr::V6(*own));
    for address in sources4.chain(sources6) {
        if !is_unicast(address) {
            let why = "a source needs to be a unicast address";
            return Err(TableError::Address { item: item(), address, why });
        }
    }
    if *first == 0 || first > last {
        return Err(TableError::PortRangeEmpty { item: item(), first: *first, last: *last });
    }
    Ok(())
}
