//! How messages that may hold a million rows are read: as they come, no row kept twice (see [`crate::tagged`]).
//!
//! Rows that have their key's fields among their own are read by a type that has all of them, since serde would keep a flattened
//! row as a tree first too. They are written as the types say.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use serde::de::MapAccess;
use serde::{Deserialize, Deserializer};
use wire::IpPrefix;

use super::{
    Backend, Frontend, FrontendKey, Identity, IdentityKey, Op, Protocol, Request, Response, Route, RouteKey,
    RouteTarget,
};
use crate::tagged::{Fields, Tagged, tagged};
use crate::text;

tagged!(Request);
tagged!(Response);
tagged!(Op);
tagged!(RouteTarget);

impl Tagged for Request {
    const TAG: &'static str = "type";

    fn read<'de, A: MapAccess<'de>>(fields: Fields<'de, A>) -> Result<Self, A::Error> {
        match fields.tag.as_ref() {
            "transaction" => fields.all().map(Self::Transaction),
            _ => fields.kept(),
        }
    }

    fn derived<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::deserialize(from)
    }
}

impl Tagged for Response {
    const TAG: &'static str = "type";

    fn read<'de, A: MapAccess<'de>>(fields: Fields<'de, A>) -> Result<Self, A::Error> {
        match fields.tag.as_ref() {
            "snapshot" => fields.all().map(Self::Snapshot),
            _ => fields.kept(),
        }
    }

    fn derived<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::deserialize(from)
    }
}

impl Tagged for Op {
    const TAG: &'static str = "op";

    fn read<'de, A: MapAccess<'de>>(fields: Fields<'de, A>) -> Result<Self, A::Error> {
        Ok(match fields.tag.as_ref() {
            "set-endpoints" => Self::SetEndpoints { endpoints: fields.only("endpoints")? },
            "set-routes" => Self::SetRoutes { routes: fields.only("routes")? },
            "remove-routes" => Self::RemoveRoutes { routes: fields.only("routes")? },
            "set-frontends" => Self::SetFrontends { frontends: fields.only("frontends")? },
            "remove-frontends" => Self::RemoveFrontends { keys: fields.only("keys")? },
            "set-identities" => Self::SetIdentities { identities: fields.only("identities")? },
            "remove-identities" => Self::RemoveIdentities { identities: fields.only("identities")? },
            "set-blocks" => Self::SetBlocks { blocks: fields.only("blocks")? },
            "remove-blocks" => Self::RemoveBlocks { blocks: fields.only("blocks")? },
            "set-memberships" => Self::SetMemberships { memberships: fields.only("memberships")? },
            "set-policies" => Self::SetPolicies { policies: fields.only("policies")? },
            _ => fields.kept()?,
        })
    }

    fn derived<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::deserialize(from)
    }
}

impl Tagged for RouteTarget {
    const TAG: &'static str = "via";

    fn read<'de, A: MapAccess<'de>>(fields: Fields<'de, A>) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        struct NextHop {
            port: String,
            address: IpAddr,
            #[serde(default)]
            inside: bool,
        }
        Ok(match fields.tag.as_ref() {
            "next-hop" => {
                let NextHop { port, address, inside } = fields.all()?;
                Self::NextHop { port, address, inside }
            }
            "connected" => Self::Connected { port: fields.only("port")? },
            "endpoint" => Self::Endpoint { name: fields.only("name")? },
            "blackhole" => fields.none().map(|()| Self::Blackhole)?,
            "unreachable" => fields.none().map(|()| Self::Unreachable)?,
            _ => fields.kept()?,
        })
    }

    fn derived<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::deserialize(from)
    }
}

#[derive(Deserialize)]
pub(super) struct RouteFields {
    #[serde(default)]
    network: u16,
    #[serde(with = "text")]
    prefix: IpPrefix,
    target: RouteTarget,
}

impl From<RouteFields> for Route {
    fn from(RouteFields { network, prefix, target }: RouteFields) -> Self {
        Self { key: RouteKey { network, prefix }, target }
    }
}

#[derive(Deserialize)]
pub(super) struct IdentityFields {
    #[serde(default)]
    network: u16,
    #[serde(with = "text")]
    prefix: IpPrefix,
    identity: u32,
}

impl From<IdentityFields> for Identity {
    fn from(IdentityFields { network, prefix, identity }: IdentityFields) -> Self {
        Self { key: IdentityKey { network, prefix }, identity }
    }
}

#[derive(Deserialize)]
pub(super) struct FrontendFields {
    #[serde(default)]
    network: u16,
    address: IpAddr,
    port: u16,
    #[serde(with = "text")]
    protocol: Protocol,
    name: Arc<str>,
    backends: Arc<[Backend]>,
    #[serde(default)]
    drops: bool,
    #[serde(default, with = "text::list")]
    sources: Vec<IpPrefix>,
    #[serde(default)]
    affinity_seconds: Option<NonZeroU32>,
}

impl From<FrontendFields> for Frontend {
    fn from(row: FrontendFields) -> Self {
        let FrontendFields {
            network,
            address,
            port,
            protocol,
            name,
            backends,
            drops,
            sources,
            affinity_seconds,
        } = row;
        Self {
            key: FrontendKey { network, address, port, protocol },
            name,
            backends,
            drops,
            sources,
            affinity_seconds,
        }
    }
}
