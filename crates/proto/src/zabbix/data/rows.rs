//! Sections of rows: the good ones are kept, the bad ones counted.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::super::json::BadField;

/// The rows of one section, and how many could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    /// The good rows, in order.
    pub rows: Vec<T>,
    /// Rows that are no object or lack what a row must have.
    pub bad: u64,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            bad: 0,
        }
    }
}

impl<T> From<Vec<T>> for Rows<T> {
    fn from(rows: Vec<T>) -> Self {
        Self { rows, bad: 0 }
    }
}

impl<T> Rows<T> {
    /// Whether the section told nothing at all.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.bad == 0
    }

    pub(super) fn append(&mut self, mut other: Self) {
        self.rows.append(&mut other.rows);
        self.bad = self.bad.saturating_add(other.bad);
    }
}

impl<T: Serialize> Serialize for Rows<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.rows.serialize(serializer)
    }
}

/// A row as decoded field by field, before it is known to make sense.
pub(in super::super) trait Raw<'de>: Deserialize<'de> {
    type Row;

    fn check(self) -> Result<Self::Row, BadField>;
}

pub(in super::super) struct RowsOf<R>(PhantomData<R>);

impl<'de, R: Raw<'de>> RowsOf<R> {
    pub(in super::super) fn deserialize<D: Deserializer<'de>>(
        d: D,
    ) -> Result<Rows<R::Row>, D::Error> {
        d.deserialize_any(Self(PhantomData))
    }
}

impl<'de, R: Raw<'de>> Visitor<'de> for RowsOf<R> {
    type Value = Rows<R::Row>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut rows = Rows::default();
        while let Some(Maybe(row)) = seq.next_element::<Maybe<R>>()? {
            match row.ok_or(BadField).and_then(R::check) {
                Ok(row) => {
                    // A doubling vector would hold twice what the text can justify.
                    if rows.rows.len() == rows.rows.capacity() {
                        rows.rows.reserve_exact((rows.rows.len() / 4).max(16));
                    }
                    rows.rows.push(row);
                }
                Err(BadField) => rows.bad = rows.bad.saturating_add(1),
            }
        }
        Ok(rows)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Rows::default())
    }
}

/// An object decoded as `R`, or anything else decoded as `None`.
struct Maybe<R>(Option<R>);

impl<'de, R: Deserialize<'de>> Deserialize<'de> for Maybe<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MaybeVisitor(PhantomData))
    }
}

struct MaybeVisitor<R>(PhantomData<R>);

impl<'de, R: Deserialize<'de>> Visitor<'de> for MaybeVisitor<R> {
    type Value = Maybe<R>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Maybe<R>, A::Error> {
        R::deserialize(MapAccessDeserializer::new(map)).map(|row| Maybe(Some(row)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Maybe<R>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Maybe(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }

    fn visit_unit<E>(self) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }
}

struct SectionSeed<R>(PhantomData<R>);

impl<'de, R: Raw<'de>> DeserializeSeed<'de> for SectionSeed<R> {
    type Value = Rows<R::Row>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        RowsOf::<R>::deserialize(deserializer)
    }
}

/// The rows of a section, read from the message as it is gone through.
pub(super) fn section<'de, R: Raw<'de>, A: MapAccess<'de>>(
    map: &mut A,
) -> Result<Rows<R::Row>, A::Error> {
    map.next_value_seed(SectionSeed::<R>(PhantomData))
}

/// Writes a member that has a value.
pub(in super::super) fn entry<M: SerializeMap, T: Serialize + ?Sized>(
    map: &mut M,
    key: &'static str,
    value: Option<&T>,
) -> Result<(), M::Error> {
    match value {
        Some(value) => map.serialize_entry(key, value),
        None => Ok(()),
    }
}

/// Writes a section that has rows.
pub(super) fn rows<M: SerializeMap, T: Serialize>(
    map: &mut M,
    key: &'static str,
    rows: &Rows<T>,
) -> Result<(), M::Error> {
    if rows.rows.is_empty() {
        Ok(())
    } else {
        map.serialize_entry(key, rows)
    }
}
