//! Tests of the block codec: identity, limits, and damage.

use proptest::prelude::*;

use super::*;

fn reading(item: u64, clock: i64, content: Content) -> Reading {
    Reading {
        item,
        clock,
        ns: 0,
        content,
        flags: Flags::default(),
    }
}

fn unsigned(item: u64, clock: i64, number: u64) -> Reading {
    reading(item, clock, Content::Value(Value::Unsigned(number)))
}

fn text(item: u64, clock: i64, text: &str) -> Reading {
    reading(item, clock, Content::Value(Value::Text(text.to_owned())))
}

/// Equality in which a NaN equals itself: by bits.
fn same(left: &[Reading], right: &[Reading]) -> bool {
    let bits = |readings: &[Reading]| -> Vec<(Reading, u64)> {
        readings
            .iter()
            .map(|r| match r.content {
                Content::Value(Value::Float(number)) => {
                    let mut plain = r.clone();
                    plain.content = Content::Value(Value::Float(0.0));
                    (plain, number.to_bits())
                }
                Content::Value(Value::Unsigned(_) | Value::Text(_) | Value::Log(_))
                | Content::NotSupported(_) => (r.clone(), 0),
            })
            .collect()
    };
    bits(left) == bits(right)
}

fn any_content() -> impl Strategy<Value = Content> {
    prop_oneof![
        4 => any::<u64>().prop_map(|bits| Content::Value(Value::Float(f64::from_bits(bits)))),
        4 => any::<u64>().prop_map(|number| Content::Value(Value::Unsigned(number))),
        2 => ".{0,30}".prop_map(|text| Content::Value(Value::Text(text))),
        1 => ".{0,30}".prop_map(Content::NotSupported),
        1 => (".{0,30}", ".{0,8}", any::<i64>(), any::<i32>(), any::<i64>()).prop_map(
            |(text, source, timestamp, severity, event_id)| {
                Content::Value(Value::Log(LogLine { text, source, timestamp, severity, event_id }))
            }
        ),
    ]
}

fn any_reading() -> impl Strategy<Value = Reading> {
    let item = prop_oneof![0u64..20, any::<u64>()];
    let clock = prop_oneof![1_795_287_600i64..1_795_287_900, any::<i64>()];
    (item, clock, 0u32..NS_PER_SECOND, any_content(), 0u32..8).prop_map(
        |(item, clock, ns, content, flags)| Reading {
            item,
            clock,
            ns,
            content,
            flags: Flags(flags),
        },
    )
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(readings in prop::collection::vec(any_reading(), 1..120)) {
        let data = encode(&readings).unwrap();
        prop_assert!(same(&decode(&data).unwrap(), &readings));
    }

    #[test]
    fn every_proper_prefix_is_an_error(readings in prop::collection::vec(any_reading(), 1..12)) {
        let data = encode(&readings).unwrap();
        for end in 0..data.len() {
            prop_assert!(decode(&data[..end]).is_err());
        }
    }

    #[test]
    fn one_flipped_bit_is_noticed(
        readings in prop::collection::vec(any_reading(), 1..40),
        place in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut data = encode(&readings).unwrap();
        let place = place.index(data.len());
        data[place] ^= 1 << bit;
        prop_assert!(decode(&data).is_err());
    }

    /// Behind a right checksum lies anything: an error or readings, never a panic or much memory.
    #[test]
    fn damage_behind_a_right_checksum_is_survived(
        readings in prop::collection::vec(any_reading(), 1..60),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let data = encode(&readings).unwrap();
        let mut body = data[4..data.len() - 4].to_vec();
        for (place, byte) in damage {
            let place = place.index(body.len());
            body[place] = byte;
        }
        if let Ok(decoded) = decode_body(&body) {
            prop_assert!(decoded.len() <= READINGS_MAX);
        }
    }

    #[test]
    fn splitting_loses_and_adds_nothing(readings in prop::collection::vec(any_reading(), 0..200)) {
        let blocks = split(readings.clone()).unwrap();
        let mut expected = readings;
        expected.sort_by_key(|r| (r.item, r.clock, r.ns));
        let mut found = Vec::new();
        for block in &blocks {
            prop_assert!(same(&decode(&block.data).unwrap(), &block.readings));
            found.extend(block.readings.iter().cloned());
        }
        prop_assert!(same(&found, &expected));
    }
}

#[test]
fn limits_of_a_block_are_limits_of_encode() {
    assert!(matches!(
        encode::<Reading>(&[]),
        Err(BlockError::Count { declared: 0, .. })
    ));
    let many: Vec<Reading> = (0..=READINGS_MAX as u64)
        .map(|i| unsigned(i, 0, i))
        .collect();
    assert!(matches!(
        encode(&many),
        Err(BlockError::Count { declared: 8193, .. })
    ));
    assert!(encode(&many[1..]).is_ok());
    let long = text(1, 0, &"x".repeat(TEXT_BYTES_MAX + 1));
    assert!(matches!(encode(&[long]), Err(BlockError::Text { .. })));
    let mut late = unsigned(1, 0, 0);
    late.ns = NS_PER_SECOND;
    assert!(matches!(
        encode(&[late]),
        Err(BlockError::Impossible {
            what: "nanoseconds"
        })
    ));
}

#[test]
fn foreign_bytes_say_what_is_wrong() {
    let good = encode(&[unsigned(1, 2, 3)]).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = good[..good.len() - 4].to_vec();
        change(&mut body);
        let checksum = crc32fast::hash(&body);
        body.extend_from_slice(&checksum.to_le_bytes());
        decode(&body)
    };
    assert!(with(&|_| {}).is_ok());
    assert!(matches!(with(&|b| b[0] = b'X'), Err(BlockError::Header)));
    assert!(matches!(with(&|b| b[3] = 2), Err(BlockError::Header)));
    assert!(matches!(
        with(&|b| b[4] = 0),
        Err(BlockError::Count { declared: 0, .. })
    ));
    assert!(matches!(
        with(&|b| b[5] = 9),
        Err(BlockError::Column { column: "item", .. })
    ));
    assert!(matches!(
        with(&|b| b.push(0)),
        Err(BlockError::Trailing { count: 1 })
    ));
    assert!(matches!(decode(b""), Err(BlockError::Header)));
    let mut damaged = good.clone();
    damaged[8] ^= 1;
    assert!(matches!(decode(&damaged), Err(BlockError::Checksum { .. })));
    let declared = with(&|b| {
        b.truncate(4);
        varint::put(b, u64::MAX);
    });
    assert!(matches!(
        declared,
        Err(BlockError::Count {
            declared: u64::MAX,
            ..
        })
    ));
}

#[test]
fn blocks_are_split_near_their_target() {
    // Values of which each takes about eight bytes, whatever the compressor does.
    let mut state = 7u64;
    let mut noise = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state ^ (state >> 29)
    };
    let readings: Vec<Reading> = (0..20_000)
        .map(|i| unsigned(i % 50, i as i64, noise()))
        .collect();
    let blocks = split(readings).unwrap();
    assert!(blocks.len() > 5, "{}", blocks.len());
    for block in &blocks[..blocks.len() - 1] {
        let size = block.data.len();
        assert!((10_000..=24_576).contains(&size), "{size}");
    }
}

#[test]
fn texts_are_split_by_their_length_and_one_long_one_stays_whole() {
    let long: String = (0..65_536u32)
        .map(|i| char::from(b'a' + (i * i % 26) as u8))
        .collect();
    let blocks = split((0..10).map(|i| text(i, 0, &long)).collect()).unwrap();
    assert!(
        blocks
            .iter()
            .all(|b| b.readings.iter().map(Reading::text_len).sum::<usize>() <= TEXT_BYTES_MAX)
    );
    assert_eq!(blocks.iter().map(|b| b.readings.len()).sum::<usize>(), 10);
}

#[test]
fn a_usual_upload_is_small() {
    // 1,000 items, polled each second for a minute, with two decimals and random nanoseconds.
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state
    };
    let mut readings = Vec::new();
    for clock in 0..60i64 {
        for item in 0..1000u64 {
            let value = f64::from(2000 + noise() % 50) / 100.0;
            let mut r = reading(
                item,
                1_795_287_600 + clock,
                Content::Value(Value::Float(value)),
            );
            r.ns = noise() % NS_PER_SECOND;
            readings.push(r);
        }
    }
    let count = readings.len();
    let size: usize = split(readings).unwrap().iter().map(|b| b.data.len()).sum();
    assert!(size / count < 6, "{} bytes for {count} values", size);
}
