//! Enums that are told apart by a field beside their others, read as they come.
//!
//! serde's own reading of such an enum keeps all fields as a tree until it has found the tag, wherever that is; for a million
//! routes that tree is most of the time and of the memory. Peers write the tag first, so what follows it can be read at once as what it is. A tag
//! further on is still understood, in serde's own way.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// An enum with a tag. Its own `serialize` and `deserialize` are those that serde derives with `remote = "Self"`.
pub(crate) trait Tagged: Sized {
    /// The field's name.
    const TAG: &'static str;

    /// Reads what is beside the tag. What is never large can be left to [`Fields::kept`].
    fn read<'de, A: MapAccess<'de>>(fields: Fields<'de, A>) -> Result<Self, A::Error>;

    /// Reads it in serde's own way.
    fn derived<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>;
}

/// Gives an enum that serde derives for `remote = "Self"` the traits.
macro_rules! tagged {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                // What the type itself has comes before what its traits have.
                Self::serialize(self, to)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::tagged::deserialize(from)
            }
        }
    };
}
pub(crate) use tagged;

/// Reads an enum with a tag.
pub(crate) fn deserialize<'de, T: Tagged, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_map(First(PhantomData))
}

struct First<T>(PhantomData<T>);

impl<'de, T: Tagged> Visitor<'de> for First<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with a field `{}`", T::TAG)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let Some(Text(key)) = map.next_key()? else {
            return Err(A::Error::missing_field(T::TAG));
        };
        if key == T::TAG {
            let Text(tag) = map.next_value()?;
            T::read(Fields { tag, map })
        } else {
            T::derived(MapAccessDeserializer::new(Again { key: Some(key), value: None, map }))
        }
    }
}

/// What is beside the tag, yet to be read.
pub(crate) struct Fields<'de, A> {
    pub(crate) tag: Cow<'de, str>,
    map: A,
}

impl<'de, A: MapAccess<'de>> Fields<'de, A> {
    /// All fields of a variant.
    pub(crate) fn all<T: Deserialize<'de>>(self) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(self.map))
    }

    /// The field of a variant that has no other; those that a newer peer adds are passed over.
    pub(crate) fn only<T: Deserialize<'de>>(mut self, name: &'static str) -> Result<T, A::Error> {
        let mut found = None;
        while let Some(Text(key)) = self.map.next_key()? {
            if key != name {
                self.map.next_value::<IgnoredAny>()?;
            } else if found.replace(self.map.next_value()?).is_some() {
                return Err(A::Error::duplicate_field(name));
            }
        }
        found.ok_or_else(|| A::Error::missing_field(name))
    }

    /// A variant without fields.
    pub(crate) fn none(mut self) -> Result<(), A::Error> {
        while self.map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }

    /// Reads it in serde's own way: all fields are kept first.
    pub(crate) fn kept<T: Tagged>(self) -> Result<T, A::Error> {
        let (key, value) = (Some(Cow::Borrowed(T::TAG)), Some(self.tag));
        T::derived(MapAccessDeserializer::new(Again { key, value, map: self.map }))
    }
}

/// A map of which a key, or a key and its value, have been read already: gives them again.
struct Again<'de, A> {
    key: Option<Cow<'de, str>>,
    value: Option<Cow<'de, str>>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Again<'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.key.take() {
            Some(key) => seed.deserialize(key.into_deserializer()).map(Some),
            None => self.map.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        match self.value.take() {
            Some(value) => seed.deserialize(value.into_deserializer()),
            None => self.map.next_value_seed(seed),
        }
    }
}

/// A text, of the message itself where it is there without escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
