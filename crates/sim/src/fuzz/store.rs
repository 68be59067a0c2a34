//! The store's own formats: blocks of samples, and sets of ids.

use muster_store::IdSet;
use muster_store::block;

/// The columns of a block, as they lie behind a right checksum; and the bytes as a whole block.
///
/// # Panics
/// When what was decoded does not encode to bytes that decode to the same.
pub fn block(data: &[u8]) {
    let _ = block::decode(data);
    let Ok(readings) = block::decode_body(data) else {
        return;
    };
    assert!(readings.len() <= block::READINGS_MAX);
    // Texts and log sources are bounded one by one on the way in and together on the way out.
    let Ok(encoded) = block::encode(&readings) else {
        return;
    };
    let Ok(again) = block::decode(&encoded) else {
        panic!("an encoded block does not decode");
    };
    // By bytes, as a NaN is not equal to itself.
    assert_eq!(block::encode(&again).ok(), Some(encoded));
}

/// A set of ids.
///
/// # Panics
/// When a set that decodes is not the one that was encoded.
pub fn id_set(data: &[u8]) {
    if let Ok(set) = IdSet::decode(data) {
        assert_eq!(set.encode(), data);
        let mut last = None;
        for (start, end) in set.intervals() {
            assert!(start <= end);
            assert!(last.is_none_or(|last: u64| start > last && start - last > 1));
            last = Some(end);
        }
    }
}
