//! The SMBIOS structure table, as far as memory needs it (DMTF DSP0134).

/// Physical memory array.
pub(super) const MEMORY_ARRAY: u8 = 16;
/// Memory device: one slot.
pub(super) const MEMORY_DEVICE: u8 = 17;
/// End of the table.
const END: u8 = 127;

/// One structure of the table.
#[derive(Debug)]
pub(super) struct Structure<'a> {
    pub(super) kind: u8,
    formatted: &'a [u8],
    strings: Vec<&'a [u8]>,
}

impl Structure<'_> {
    pub(super) fn byte(&self, offset: usize) -> Option<u8> {
        self.formatted.get(offset).copied()
    }

    pub(super) fn word(&self, offset: usize) -> Option<u16> {
        let bytes = self.formatted.get(offset..offset.checked_add(2)?)?;
        Some(u16::from_le_bytes(bytes.try_into().ok()?))
    }

    fn double(&self, offset: usize) -> Option<u32> {
        let bytes = self.formatted.get(offset..offset.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The text that the byte at `offset` numbers, unless it is a placeholder.
    pub(super) fn string(&self, offset: usize) -> Option<String> {
        let number = usize::from(self.byte(offset)?).checked_sub(1)?;
        let text = String::from_utf8_lossy(self.strings.get(number)?).into_owned();
        super::tree::clean(&text).filter(|text| {
            !["Not Specified", "NO DIMM", "Unknown", "None"].contains(&text.as_str())
        })
    }
}

/// Splits the table; stops at the first structure that is cut off.
pub(super) fn structures(table: &[u8]) -> Vec<Structure<'_>> {
    let mut found = Vec::new();
    let mut rest = table;
    while let [kind, length, ..] = rest {
        let Some((formatted, tail)) = rest.split_at_checked(usize::from(*length)) else {
            break;
        };
        if *length < 4 || *kind == END {
            break;
        }
        // Strings end with NUL each, and the list with one more; an empty list is two NULs.
        let Some(end) = tail.windows(2).position(|pair| pair == [0, 0]) else {
            break;
        };
        let (list, after) = tail.split_at(end);
        let strings = if list.is_empty() {
            Vec::new()
        } else {
            list.split(|b| *b == 0).collect()
        };
        found.push(Structure {
            kind: *kind,
            formatted,
            strings,
        });
        rest = after.get(2..).unwrap_or_default();
    }
    found
}

/// Size of the module in a slot, in MiB; `None` when it is empty or unknown.
pub(super) fn megabytes(slot: &Structure<'_>) -> Option<i64> {
    match slot.word(0x0c)? {
        0 | 0xffff => None,
        0x7fff => slot.double(0x1c).map(|size| i64::from(size & 0x7fff_ffff)),
        size if size & 0x8000 != 0 => Some(i64::from(size & 0x7fff) / 1024),
        size => Some(i64::from(size)),
    }
}

pub(super) fn correction(code: u8) -> Option<&'static str> {
    named(
        code,
        &[
            "",
            "Other",
            "Unknown",
            "None",
            "Parity",
            "Single-bit ECC",
            "Multi-bit ECC",
            "CRC",
        ],
    )
}

pub(super) fn form_factor(code: u8) -> Option<&'static str> {
    named(
        code,
        &[
            "",
            "Other",
            "Unknown",
            "SIMM",
            "SIP",
            "Chip",
            "DIP",
            "ZIP",
            "Proprietary Card",
            "DIMM",
            "TSOP",
            "Row Of Chips",
            "RIMM",
            "SODIMM",
            "SRIMM",
            "FB-DIMM",
            "Die",
        ],
    )
}

pub(super) fn memory_type(code: u8) -> Option<&'static str> {
    Some(match code {
        0x01 => "Other",
        0x03 => "DRAM",
        0x07 => "RAM",
        0x0f => "SDRAM",
        0x12 => "DDR",
        0x13 => "DDR2",
        0x14 => "DDR2 FB-DIMM",
        0x18 => "DDR3",
        0x1a => "DDR4",
        0x1b => "LPDDR",
        0x1c => "LPDDR2",
        0x1d => "LPDDR3",
        0x1e => "LPDDR4",
        0x20 => "HBM",
        0x21 => "HBM2",
        0x22 => "DDR5",
        0x23 => "LPDDR5",
        _ => return None,
    })
}

fn named(code: u8, words: &[&'static str]) -> Option<&'static str> {
    words
        .get(usize::from(code))
        .copied()
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(size: [u8; 2], extended: u32, strings: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 0x28];
        bytes[0] = MEMORY_DEVICE;
        bytes[1] = 0x28;
        bytes[0x0c..0x0e].copy_from_slice(&size);
        bytes[0x0e] = 9;
        bytes[0x10] = 1;
        bytes[0x12] = 0x1a;
        bytes[0x17] = 2;
        bytes[0x1c..0x20].copy_from_slice(&extended.to_le_bytes());
        bytes.extend_from_slice(strings);
        bytes
    }

    #[test]
    fn slots_are_read() {
        let mut table = device([0x00, 0x20], 0, b"DIMM 0\0Maker\0\0");
        table.extend(device([0xff, 0x7f], 65_536, b"DIMM 1\0Not Specified\0\0"));
        table.extend(device([0, 0], 0, b"\0\0"));
        table.extend([END, 4, 0, 0, 0, 0]);
        let found = structures(&table);
        assert_eq!(
            found.iter().map(megabytes).collect::<Vec<_>>(),
            [Some(8192), Some(65_536), None]
        );
        assert_eq!(found[0].string(0x10).as_deref(), Some("DIMM 0"));
        assert_eq!(found[0].string(0x17).as_deref(), Some("Maker"));
        assert_eq!(found[1].string(0x17), None, "a placeholder says nothing");
        assert_eq!(found[2].string(0x10), None);
        assert_eq!(found[0].byte(0x0e).and_then(form_factor), Some("DIMM"));
        assert_eq!(found[0].byte(0x12).and_then(memory_type), Some("DDR4"));
    }

    #[test]
    fn cut_and_senseless_tables_end_the_walk() {
        let table = device([0, 4], 0, b"a\0\0");
        for length in 0..table.len() {
            assert!(structures(&table[..length]).is_empty(), "{length}");
        }
        assert!(structures(&[17, 0, 0, 0, 0, 0]).is_empty());
        assert!(structures(&[17, 255]).is_empty());
    }
}
