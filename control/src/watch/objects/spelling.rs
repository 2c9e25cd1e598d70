//! What becomes of a text that does not spell what its field is for; and the fields that all objects have.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;

use desired::{Address, Labels, ObjectName};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IgnoredAny};
use wire::IpPrefix;

/// What becomes of a text that does not spell what its field is for.
pub(crate) trait Spelling: Sized {
    const CHECKED: bool;
}

/// It is an error here, which has file and line, so that the file's last good content stays in force.
pub(crate) struct Strict;

impl Spelling for Strict {
    const CHECKED: bool = true;
}

/// It is kept for whoever uses it to quote: an object of an API server's has no other content to fall back on after a
/// start, and its other fields are not to be lost for it.
pub(crate) struct Lenient;

impl Spelling for Lenient {
    const CHECKED: bool = false;
}

/// A field whose text must spell something.
pub(super) trait Field {
    /// As errors name it: not every reader's path leads to the last name.
    const NAME: &'static str;
    type Value: FromStr<Err: fmt::Display>;
}

/// The text of a field that spells what it should, or nothing at all, as where it is not filled in yet.
pub(super) struct Spelled<F, S> {
    text: String,
    field: PhantomData<(F, S)>,
}

impl<'de, F: Field, S: Spelling> Deserialize<'de> for Spelled<F, S> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if S::CHECKED
            && !text.is_empty()
            && let Err(error) = text.parse::<F::Value>()
        {
            return Err(D::Error::custom(format!("{}: `{text}`: {error}", F::NAME)));
        }
        Ok(Self { text, field: PhantomData })
    }
}

impl<F, S> From<Spelled<F, S>> for String {
    fn from(spelled: Spelled<F, S>) -> Self {
        spelled.text
    }
}

impl<F, S> From<Spelled<F, S>> for Box<str> {
    fn from(spelled: Spelled<F, S>) -> Self {
        spelled.text.into()
    }
}

impl<F, S> From<Spelled<F, S>> for Address {
    fn from(spelled: Spelled<F, S>) -> Self {
        spelled.text.as_str().into()
    }
}

/// The texts of a list that may be missing.
pub(super) fn texts<F, S, T: From<Spelled<F, S>>>(list: Option<Vec<Spelled<F, S>>>) -> Vec<T> {
    list.unwrap_or_default().into_iter().map(T::from).collect()
}

/// The plural field counts; the singular one, which it repeats, only where an old object lacks it.
pub(super) fn plural<F, S, T: From<Spelled<F, S>>>(
    many: Option<Vec<Spelled<F, S>>>,
    one: Option<Spelled<F, S>>,
) -> Vec<T> {
    let many = many.filter(|many| !many.is_empty());
    texts(many.or_else(|| one.filter(|one| !one.text.is_empty()).map(|one| vec![one])))
}

/// A part of an object, or why it is none. As with texts, in a file that is an error.
pub(super) enum Part<T, S> {
    Read(T),
    Unread(String, PhantomData<S>),
}

impl<'de, T: DeserializeOwned, S: Spelling> Deserialize<'de> for Part<T, S> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if S::CHECKED {
            return T::deserialize(from).map(Self::Read);
        }
        let value = serde_json::Value::deserialize(from)?;
        let why = |error: serde_path_to_error::Error<serde_json::Error>| error.to_string();
        let read = serde_path_to_error::deserialize(value).map_err(why);
        Ok(read.map_or_else(|why| Self::Unread(why, PhantomData), Self::Read))
    }
}

/// An address, or `None`, which says that there is to be none.
pub(super) struct AddressOrNone;

impl FromStr for AddressOrNone {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text != "None" {
            text.parse::<IpAddr>()?;
        }
        Ok(Self)
    }
}

/// A prefix of addresses. Bits behind its length are no error here: the API takes them, and means the prefix.
pub(super) struct Prefix;

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = text.split_once('/').ok_or("a prefix is written as 10.0.0.0/8")?;
        let address: IpAddr = address.parse().map_err(|error| format!("{error}"))?;
        let length = length.parse().map_err(|error| format!("length `{length}`: {error}"))?;
        IpPrefix::containing(address, length)
            .map(|_| Self)
            .ok_or_else(|| format!("length {length} is too long"))
    }
}

/// `metadata`, with labels and annotations of the kinds that are read of an object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata<L = IgnoredAny, A = IgnoredAny> {
    name: String,
    namespace: Option<String>,
    pub(super) uid: Option<String>,
    creation_timestamp: Option<String>,
    pub(super) deletion_timestamp: Option<String>,
    #[serde(default = "Option::default")]
    pub(super) labels: Option<L>,
    #[serde(default = "Option::default")]
    pub(super) annotations: Option<A>,
}

impl<L, A> Metadata<L, A> {
    /// The name of an object that is in a namespace.
    pub(super) fn name(&self) -> ObjectName {
        let namespace = self.namespace.clone().unwrap_or_else(|| "default".to_owned());
        ObjectName { namespace: namespace.into(), name: self.name.as_str().into() }
    }

    /// `creationTimestamp`, in seconds since 1970; `None` also where it cannot be read.
    pub(super) fn created(&self) -> Option<i64> {
        self.creation_timestamp.as_ref()?.parse().ok().map(Timestamp::as_second)
    }
}

/// All labels.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct AllLabels(BTreeMap<Box<str>, Box<str>>);

/// The labels of an object that may have none.
pub(super) fn labels(labels: Option<AllLabels>) -> Labels {
    labels.map(|AllLabels(pairs)| pairs.into_iter().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_spelt_as_the_api_takes_them() {
        for good in ["10.0.0.0/8", "10.1.2.3/8", "::/0", "fd00::1/128"] {
            assert!(good.parse::<Prefix>().is_ok(), "{good}");
        }
        for bad in ["10.0.0.0", "10.0.0/8", "10.0.0.0/33", "fd00::/129", "fd00::/x", ""] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
