//! Memory modules out of the firmware's SMBIOS table.

use serde_json::{Value, json};

/// Type of a memory device structure.
const MEMORY_DEVICE: u8 = 17;
/// Type of the structure that ends the table.
const END: u8 = 127;

/// The memory modules (type 17), empty sockets included with size 0.
pub(super) fn memory_devices(table: &[u8]) -> Vec<Value> {
    structures(table)
        .filter(|(kind, ..)| *kind == MEMORY_DEVICE)
        .map(|(_, data, strings)| memory_device(data, &strings))
        .collect()
}

/// Walks the structures: (type, formatted area, strings). Ends at the first that does not fit.
fn structures(table: &[u8]) -> impl Iterator<Item = (u8, &[u8], Vec<String>)> {
    let mut rest = table;
    std::iter::from_fn(move || {
        let [kind, length, ..] = *rest else {
            return None;
        };
        let length = usize::from(length);
        if length < 4 || kind == END {
            return None;
        }
        let (data, after) = rest.split_at_checked(length)?;
        // Strings end in NUL each, the set in one more; an empty set is two NULs.
        let end = after.windows(2).position(|pair| pair == [0, 0])?;
        let strings = after
            .get(..end)?
            .split(|byte| *byte == 0)
            .map(|text| String::from_utf8_lossy(text).trim().to_owned())
            .collect();
        rest = after.get(end + 2..)?;
        Some((kind, data, strings))
    })
}

fn memory_device(data: &[u8], strings: &[String]) -> Value {
    let byte = |at: usize| data.get(at).copied();
    let word = |at: usize| Some(u16::from_le_bytes([byte(at)?, byte(at + 1)?]));
    let text = |at: usize| {
        let number = usize::from(byte(at)?);
        strings
            .get(number.checked_sub(1)?)
            .filter(|text| !text.is_empty())
    };
    // Bit 15: the size is in KiB, not MiB; 0x7FFF: see the extended size; 0xFFFF: unknown.
    let size_bytes = match word(0x0C) {
        None | Some(0xFFFF) => None,
        Some(0x7FFF) => match data.get(0x1C..0x20) {
            Some(&[a, b, c, d]) => Some(u64::from(u32::from_le_bytes([a, b, c, d])) << 20),
            _ => None,
        },
        Some(size) if size & 0x8000 != 0 => Some(u64::from(size & 0x7FFF) << 10),
        Some(size) => Some(u64::from(size) << 20),
    };
    json!({
        "locator": text(0x10),
        "size_bytes": size_bytes,
        "type": byte(0x12).and_then(memory_type),
        "speed_mts": word(0x15).filter(|speed| !matches!(speed, 0 | 0xFFFF)),
        "manufacturer": text(0x17),
        "serial": text(0x18),
        "part": text(0x1A),
    })
}

fn memory_type(code: u8) -> Option<&'static str> {
    Some(match code {
        0x07 => "RAM",
        0x0F => "SDRAM",
        0x12 => "DDR",
        0x13 => "DDR2",
        0x18 => "DDR3",
        0x1A => "DDR4",
        0x1E => "LPDDR4",
        0x22 => "DDR5",
        0x23 => "LPDDR5",
        _ => return None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A table with one 16 GiB module, one empty socket, one module of 40 GiB.
    pub(in super::super) fn table() -> Vec<u8> {
        let device = |size: u16, extended: u32| {
            let mut data = vec![0_u8; 0x22];
            data[0] = MEMORY_DEVICE;
            data[1] = 0x22;
            data[0x0C..0x0E].copy_from_slice(&size.to_le_bytes());
            data[0x10] = 1;
            data[0x12] = 0x1A;
            data[0x15..0x17].copy_from_slice(&3200_u16.to_le_bytes());
            data[0x17] = 2;
            data[0x18] = 3;
            data[0x1A] = 4;
            data[0x1C..0x20].copy_from_slice(&extended.to_le_bytes());
            data.extend_from_slice(b"DIMM_A1\0Maker\0S123\0P-1 \0\0");
            data
        };
        let mut table = vec![0, 4, 0, 0, 0, 0];
        table.extend(device(16_384, 0));
        table.extend(device(0, 0));
        table.extend(device(0x7FFF, 40_960));
        table.extend([END, 4, 0, 0, 0, 0]);
        table
    }

    #[test]
    fn modules_are_read() {
        let devices = memory_devices(&table());
        let sizes: Vec<_> = devices
            .iter()
            .map(|device| device["size_bytes"].as_u64())
            .collect();
        assert_eq!(sizes, [Some(16 << 30), Some(0), Some(40 << 30)]);
        assert_eq!(devices[0]["locator"], "DIMM_A1");
        assert_eq!(devices[0]["part"], "P-1");
        assert_eq!(devices[0]["type"], "DDR4");
        assert_eq!(devices[0]["speed_mts"], 3200);
    }

    #[test]
    fn damaged_tables_end_early() {
        let whole = table();
        for cut in 0..whole.len() {
            assert!(memory_devices(&whole[..cut]).len() <= 3);
        }
        for noise in [
            &[17_u8, 0, 0, 0][..],
            &[17, 255, 1],
            &[17, 4, 1, 1, 65],
            &[],
        ] {
            assert!(memory_devices(noise).is_empty());
        }
    }
}
