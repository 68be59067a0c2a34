//! A set of 64-bit ids as intervals: which ids of an upload session were accepted.
//!
//! A maximum would not do: uploads come twice, late and out of order (threats, section 5), and a value that
//! is taken for a duplicate is lost. Ids that come in order are one interval, whatever their number.
//!
//! Encoded: version byte, number of intervals, then for each the distance from the previous one's end
//! (less the two that distinct intervals are always apart) and its length less one, all as varints. Equal
//! sets have equal bytes.

use std::collections::BTreeMap;

use crate::varint;

/// Intervals of ids, none touching another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdSet {
    /// First to last id, both included.
    intervals: BTreeMap<u64, u64>,
}

/// Bytes that are no encoded set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdSetError {
    /// An interval ends beyond 64 bits.
    #[error("an interval ends beyond 64 bits")]
    Overflow,
    /// More intervals than are ever written.
    #[error("set declares {declared} intervals; the limit is {limit}")]
    TooMany {
        /// How many it declares.
        declared: u64,
        /// How many there may be.
        limit: usize,
    },
    /// It ends too early, or a number in it is malformed.
    #[error("set ends too early or holds a malformed number")]
    Truncated,
    /// Something follows its end.
    #[error("{count} bytes follow the end of the set")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// Written by a build we do not know.
    #[error("set has format version {found}")]
    Version {
        /// The version found.
        found: u8,
    },
}

/// Intervals of one set. A real session has one, and a few more while packets overtake each other; a peer
/// that leaves more holes than this is refused further uploads in that session (a hole that were closed
/// would swallow a value). At 2 to 20 bytes each the set stays under 1.3 MiB.
pub const INTERVALS_MAX: usize = 65_536;

const VERSION: u8 = 1;

impl IdSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an id; says whether it is new.
    pub fn insert(&mut self, id: u64) -> bool {
        let before = self
            .intervals
            .range(..=id)
            .next_back()
            .map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| end >= id) {
            return false;
        }
        let joins_before = before.filter(|(_, end)| end.checked_add(1) == Some(id));
        let after = id
            .checked_add(1)
            .and_then(|next| self.intervals.remove(&next));
        let start = joins_before.map_or(id, |(start, _)| start);
        self.intervals.insert(start, after.unwrap_or(id));
        true
    }

    /// Whether the id is in the set.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.intervals
            .range(..=id)
            .next_back()
            .is_some_and(|(_, end)| *end >= id)
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// How many intervals it takes.
    #[must_use]
    pub fn interval_count(&self) -> usize {
        self.intervals.len()
    }

    /// How many ids are in it.
    #[must_use]
    pub fn len(&self) -> u128 {
        self.intervals
            .iter()
            .map(|(start, end)| u128::from(end - start) + 1)
            .sum()
    }

    /// Its intervals, first to last id, both included.
    pub fn intervals(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.intervals.iter().map(|(start, end)| (*start, *end))
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 4 * self.intervals.len());
        out.push(VERSION);
        varint::put(&mut out, self.intervals.len() as u64);
        let mut floor = 0;
        for (start, end) in &self.intervals {
            varint::put(&mut out, start - floor);
            varint::put(&mut out, end - start);
            // The last interval may end at the last id; then nothing follows.
            floor = end.saturating_add(2);
        }
        out
    }

    /// Reads what [`IdSet::encode`] wrote.
    ///
    /// # Errors
    /// [`IdSetError`] for anything else; memory stays in proportion to the input.
    pub fn decode(mut input: &[u8]) -> Result<Self, IdSetError> {
        let (version, rest) = input.split_first().ok_or(IdSetError::Truncated)?;
        if *version != VERSION {
            return Err(IdSetError::Version { found: *version });
        }
        input = rest;
        let declared = varint::take(&mut input).ok_or(IdSetError::Truncated)?;
        if declared > INTERVALS_MAX as u64 {
            return Err(IdSetError::TooMany {
                declared,
                limit: INTERVALS_MAX,
            });
        }
        let mut intervals = BTreeMap::new();
        let mut floor = Some(0u64);
        for _ in 0..declared {
            let gap = varint::take(&mut input).ok_or(IdSetError::Truncated)?;
            let length = varint::take(&mut input).ok_or(IdSetError::Truncated)?;
            let start = floor
                .and_then(|floor| floor.checked_add(gap))
                .ok_or(IdSetError::Overflow)?;
            let end = start.checked_add(length).ok_or(IdSetError::Overflow)?;
            intervals.insert(start, end);
            floor = end.checked_add(2);
        }
        if !input.is_empty() {
            return Err(IdSetError::Trailing { count: input.len() });
        }
        Ok(Self { intervals })
    }
}

impl FromIterator<u64> for IdSet {
    fn from_iter<I: IntoIterator<Item = u64>>(ids: I) -> Self {
        let mut set = Self::new();
        for id in ids {
            set.insert(id);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(ids: &[u64]) -> IdSet {
        ids.iter().copied().collect()
    }

    #[test]
    fn ids_in_any_order_join_into_intervals() {
        type Case<'c> = (&'c [u64], &'c [(u64, u64)]);
        let cases: [Case<'_>; 6] = [
            (&[1, 2, 3], &[(1, 3)]),
            (&[3, 1, 2], &[(1, 3)]),
            (&[1, 3, 5], &[(1, 1), (3, 3), (5, 5)]),
            (&[1, 3, 5, 4, 2], &[(1, 5)]),
            (
                &[u64::MAX, 0, u64::MAX - 1],
                &[(0, 0), (u64::MAX - 1, u64::MAX)],
            ),
            (&[], &[]),
        ];
        for (ids, expected) in cases {
            assert_eq!(
                set(ids).intervals().collect::<Vec<_>>(),
                expected,
                "{ids:?}"
            );
        }
    }

    #[test]
    fn a_session_in_order_takes_a_few_bytes() {
        let set: IdSet = (1_000_000..2_000_000).collect();
        assert_eq!(set.len(), 1_000_000);
        assert!(set.encode().len() <= 8);
    }

    #[test]
    fn malformed_sets_are_refused() {
        let mut too_many = vec![1];
        varint::put(&mut too_many, INTERVALS_MAX as u64 + 1);
        let mut beyond = vec![1, 1];
        varint::put(&mut beyond, u64::MAX);
        beyond.push(1);
        let mut after_last = set(&[u64::MAX]).encode();
        after_last[1] = 2;
        after_last.extend([0, 0]);
        let cases: [(&[u8], IdSetError); 8] = [
            (&[], IdSetError::Truncated),
            (&[2, 0], IdSetError::Version { found: 2 }),
            (&[1], IdSetError::Truncated),
            (&[1, 1, 5], IdSetError::Truncated),
            (&[1, 1, 5, 0, 9], IdSetError::Trailing { count: 1 }),
            (
                &too_many,
                IdSetError::TooMany {
                    declared: 65_537,
                    limit: INTERVALS_MAX,
                },
            ),
            (&beyond, IdSetError::Overflow),
            (&after_last, IdSetError::Overflow),
        ];
        for (bytes, expected) in cases {
            assert_eq!(IdSet::decode(bytes), Err(expected), "{bytes:?}");
        }
    }

    fn ids() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(
            prop_oneof![
                0u64..40,
                1000u64..1010,
                (u64::MAX - 5)..=u64::MAX,
                any::<u64>()
            ],
            0..80,
        )
    }

    proptest! {
        #[test]
        fn behaves_as_a_plain_set(ids in ids(), asked in ids()) {
            let mut set = IdSet::new();
            let mut plain = BTreeSet::new();
            for id in ids {
                prop_assert_eq!(set.insert(id), plain.insert(id));
            }
            prop_assert_eq!(set.len(), plain.len() as u128);
            for id in asked {
                prop_assert_eq!(set.contains(id), plain.contains(&id));
            }
            let mut last: Option<u64> = None;
            for (start, end) in set.intervals() {
                prop_assert!(start <= end && last.is_none_or(|last| start - last > 1));
                last = Some(end);
            }
        }

        #[test]
        fn decoding_undoes_encoding(ids in ids()) {
            let set: IdSet = ids.into_iter().collect();
            prop_assert_eq!(IdSet::decode(&set.encode()), Ok(set));
        }

        #[test]
        fn every_proper_prefix_is_an_error(ids in ids()) {
            let bytes = ids.into_iter().collect::<IdSet>().encode();
            for end in 0..bytes.len() {
                prop_assert!(IdSet::decode(&bytes[..end]).is_err());
            }
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(
            bytes in prop::collection::vec(prop_oneof![3 => 0u8..6, 1 => any::<u8>()], 0..40)
        ) {
            if let Ok(set) = IdSet::decode(&bytes) {
                prop_assert_eq!(set.encode(), bytes);
            }
        }
    }
}
