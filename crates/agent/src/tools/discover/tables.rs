//! Who makes what: IANA enterprise numbers, a few models, and first words of descriptions.
//!
//! Enterprise numbers are IANA's public registry; the types are what such a vendor's devices
//! mostly are. An operator's `sysobject.ids` in the agent's state folder goes before all of it.

/// A vendor, by what stands below `1.3.6.1.4.1.`.
#[derive(Debug)]
pub(super) struct Vendor {
    pub(super) oid: &'static [u32],
    pub(super) name: &'static str,
    pub(super) kind: Option<&'static str>,
}

/// A vendor, by the first word of its descriptions.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) word: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: Option<&'static str>,
}

const fn vendor(oid: &'static [u32], name: &'static str, kind: Option<&'static str>) -> Vendor {
    Vendor { oid, name, kind }
}

const fn word(word: &'static str, name: &'static str, kind: Option<&'static str>) -> Word {
    Word { word, name, kind }
}

const COMPUTER: Option<&str> = Some("computer");
const KVM: Option<&str> = Some("kvm");
const NETWORKING: Option<&str> = Some("networking");
const PHONE: Option<&str> = Some("phone");
const POWER: Option<&str> = Some("power");
const PRINTER: Option<&str> = Some("printer");
const STORAGE: Option<&str> = Some("storage");
const VIDEO: Option<&str> = Some("video");

/// Sorted by OID; the longest that fits counts.
pub(super) const VENDORS: &[Vendor] = &[
    vendor(&[2], "IBM", COMPUTER),
    vendor(&[9], "Cisco", NETWORKING),
    vendor(&[11], "Hewlett-Packard", None),
    vendor(&[11, 2, 3, 7], "Hewlett-Packard", NETWORKING),
    vendor(&[11, 2, 3, 9], "Hewlett-Packard", PRINTER),
    vendor(&[42], "Sun Microsystems", COMPUTER),
    vendor(&[43], "3Com", NETWORKING),
    vendor(&[45], "Nortel", NETWORKING),
    vendor(&[52], "Cabletron", NETWORKING),
    vendor(&[171], "D-Link", NETWORKING),
    vendor(&[207], "Allied Telesis", NETWORKING),
    vendor(&[232], "Hewlett-Packard", COMPUTER),
    vendor(&[253], "Xerox", PRINTER),
    vendor(&[297], "Fuji Xerox", PRINTER),
    vendor(&[311], "Microsoft", COMPUTER),
    vendor(&[318], "APC", POWER),
    vendor(&[343], "Intel", COMPUTER),
    vendor(&[367], "Ricoh", PRINTER),
    vendor(&[368], "Axis", VIDEO),
    vendor(&[476], "Liebert", POWER),
    vendor(&[534], "Eaton", POWER),
    vendor(&[641], "Lexmark", PRINTER),
    vendor(&[674], "Dell", None),
    vendor(&[674, 10892], "Dell", COMPUTER),
    vendor(&[674, 10895], "Dell", NETWORKING),
    vendor(&[705], "MGE", POWER),
    vendor(&[789], "NetApp", STORAGE),
    vendor(&[850], "Tripp Lite", POWER),
    vendor(&[890], "Zyxel", NETWORKING),
    vendor(&[1248], "Epson", PRINTER),
    vendor(&[1347], "Kyocera", PRINTER),
    vendor(&[1588], "Brocade", NETWORKING),
    vendor(&[1602], "Canon", PRINTER),
    vendor(&[1916], "Extreme Networks", NETWORKING),
    vendor(&[1991], "Foundry", NETWORKING),
    vendor(&[2001], "Oki", PRINTER),
    vendor(&[2011], "Huawei", NETWORKING),
    vendor(&[2021], "Net-SNMP", COMPUTER),
    vendor(&[2385], "Sharp", PRINTER),
    vendor(&[2435], "Brother", PRINTER),
    vendor(&[2604], "Sophos", NETWORKING),
    vendor(&[2636], "Juniper", NETWORKING),
    vendor(&[3224], "Juniper", NETWORKING),
    vendor(&[3375], "F5", NETWORKING),
    vendor(&[3808], "CyberPower", POWER),
    vendor(&[4526], "Netgear", NETWORKING),
    vendor(&[5624], "Enterasys", NETWORKING),
    vendor(&[5951], "Citrix", NETWORKING),
    vendor(&[6027], "Force10", NETWORKING),
    vendor(&[6486], "Alcatel-Lucent", NETWORKING),
    vendor(&[6574], "Synology", STORAGE),
    vendor(&[6876], "VMware", COMPUTER),
    vendor(&[7779], "Infoblox", NETWORKING),
    vendor(&[8072], "Net-SNMP", COMPUTER),
    vendor(&[8741], "SonicWall", NETWORKING),
    vendor(&[10418], "Avocent", KVM),
    vendor(&[10642], "Zebra", PRINTER),
    vendor(&[12356], "Fortinet", NETWORKING),
    vendor(&[13742], "Raritan", POWER),
    vendor(&[14179], "Cisco", NETWORKING),
    vendor(&[14823], "Aruba", NETWORKING),
    vendor(&[14988], "MikroTik", NETWORKING),
    vendor(&[17163], "Riverbed", NETWORKING),
    vendor(&[18334], "Konica Minolta", PRINTER),
    vendor(&[20632], "Barracuda", NETWORKING),
    vendor(&[24681], "Qnap", STORAGE),
    vendor(&[25053], "Ruckus", NETWORKING),
    vendor(&[25461], "Palo Alto Networks", NETWORKING),
    vendor(&[25506], "H3C", NETWORKING),
    vendor(&[29671], "Cisco Meraki", NETWORKING),
    vendor(&[30065], "Arista", NETWORKING),
    vendor(&[41112], "Ubiquiti", NETWORKING),
    vendor(&[47196], "Hewlett Packard Enterprise", NETWORKING),
];

/// Models whose own agents do not name them well.
pub(super) const MODELS: &[(&[u32], &str)] = &[
    (&[9, 1, 516], "Catalyst 3750 stack"),
    (&[9, 1, 576], "2811"),
    (&[9, 1, 577], "2821"),
    (&[9, 1, 578], "2851"),
    (&[9, 1, 620], "1841"),
    (&[11, 2, 3, 7, 11, 76], "ProCurve 2610-24"),
    (&[8072, 3, 2, 8], "FreeBSD"),
    (&[8072, 3, 2, 10], "Linux"),
    (&[8072, 3, 2, 12], "OpenBSD"),
    (&[8072, 3, 2, 16], "macOS"),
];

/// Sorted by word.
pub(super) const WORDS: &[Word] = &[
    word("3com", "3Com", NETWORKING),
    word("alcatel-lucent", "Alcatel-Lucent", NETWORKING),
    word("allied", "Allied Telesis", NETWORKING),
    word("apc", "APC", NETWORKING),
    word("arista", "Arista", NETWORKING),
    word("aruba", "Aruba", NETWORKING),
    word("avaya", "Avaya", PHONE),
    word("axis", "Axis", VIDEO),
    word("brocade", "Brocade", NETWORKING),
    word("brother", "Brother", PRINTER),
    word("canon", "Canon", PRINTER),
    word("cisco", "Cisco", NETWORKING),
    word("d-link", "D-Link", NETWORKING),
    word("dell", "Dell", None),
    word("eaton", "Eaton", POWER),
    word("epson", "Epson", PRINTER),
    word("extreme", "Extreme Networks", NETWORKING),
    word("extremexos", "Extreme Networks", NETWORKING),
    word("foundry", "Foundry", NETWORKING),
    word("fortinet", "Fortinet", NETWORKING),
    word("h3c", "H3C", NETWORKING),
    word("hp", "Hewlett-Packard", None),
    word("huawei", "Huawei", NETWORKING),
    word("ibm", "IBM", COMPUTER),
    word("juniper", "Juniper", NETWORKING),
    word("konica", "Konica Minolta", PRINTER),
    word("kyocera", "Kyocera", PRINTER),
    word("lexmark", "Lexmark", PRINTER),
    word("mikrotik", "MikroTik", NETWORKING),
    word("netapp", "NetApp", STORAGE),
    word("netgear", "Netgear", NETWORKING),
    word("nortel", "Nortel", NETWORKING),
    word("oki", "Oki", PRINTER),
    word("palo", "Palo Alto Networks", NETWORKING),
    word("procurve", "Hewlett-Packard", NETWORKING),
    word("ricoh", "Ricoh", PRINTER),
    word("routeros", "MikroTik", NETWORKING),
    word("samsung", "Samsung", PRINTER),
    word("sharp", "Sharp", PRINTER),
    word("synology", "Synology", STORAGE),
    word("ubiquiti", "Ubiquiti", NETWORKING),
    word("xerox", "Xerox", PRINTER),
    word("zebra", "Zebra", PRINTER),
    word("zyxel", "Zyxel", NETWORKING),
];

/// QNAP's boxes call themselves `Linux TS-453A …`.
pub(super) fn is_qnap(description: &str) -> bool {
    description
        .split_once("Linux TS-")
        .is_some_and(|(_, rest)| rest.chars().next().is_some_and(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_speak_the_vocabulary() {
        assert!(VENDORS.is_sorted_by_key(|vendor| vendor.oid));
        let kinds = [
            "computer",
            "kvm",
            "networking",
            "phone",
            "power",
            "printer",
            "storage",
            "video",
        ];
        let used = VENDORS.iter().filter_map(|vendor| vendor.kind);
        for kind in used.chain(WORDS.iter().filter_map(|word| word.kind)) {
            assert!(kinds.contains(&kind), "{kind}");
        }
        assert!(
            WORDS
                .iter()
                .all(|word| word.word == word.word.to_lowercase())
        );
    }
}
