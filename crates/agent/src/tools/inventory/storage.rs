//! Sections `storages` (devices) and `drives` (mounted file systems).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::tree::{Entry, Tree, clean};

/// File systems on other machines: named without sizes, as asking a dead server would hang.
const REMOTE: [&str; 9] = [
    "9p",
    "afs",
    "ceph",
    "cifs",
    "fuse.glusterfs",
    "fuse.sshfs",
    "nfs",
    "nfs4",
    "smb3",
];
/// File systems that hold data of this machine.
const LOCAL: [&str; 18] = [
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "hfsplus", "jfs",
    "msdos", "ntfs", "ntfs3", "reiserfs", "ubifs", "vfat", "xfs", "zfs",
];

pub(super) fn storages(tree: Tree<'_>) -> Value {
    let names = tree.names("sys/block");
    let real = names.iter().filter(|name| {
        ![
            "dm-", "drbd", "loop", "md", "nbd", "ram", "rbd", "zd", "zram",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
    });
    Value::Array(real.map(|name| storage(tree, name)).collect())
}

fn storage(tree: Tree<'_>, name: &str) -> Value {
    let base = format!("sys/block/{name}");
    let read = |file: &str| tree.value(&format!("{base}/{file}"));
    let link = std::fs::canonicalize(tree.path(&base)).unwrap_or_default();
    let link = link.to_string_lossy();
    let is_nvme = name.starts_with("nvme");
    let is_virtual = name.starts_with("vd") || name.starts_with("xvd");
    let interface = if link.contains("/usb") {
        Some("USB")
    } else if link.contains("/ata") {
        Some("SATA")
    } else if name.starts_with("sd") {
        Some("SCSI")
    } else {
        // NVMe has no word that every server takes.
        None
    };
    let description = match (is_nvme, is_virtual) {
        (true, _) => Some("NVMe"),
        (_, true) => Some("Virtual"),
        (false, false) => interface,
    };
    let model = read("device/model");
    let manufacturer = match read("device/vendor") {
        Some(vendor) if vendor == "0x1af4" => Some("Red Hat, Inc.".to_owned()),
        Some(vendor) if vendor != "ATA" && !vendor.starts_with("0x") => Some(vendor),
        Some(_) | None => model.as_deref().and_then(maker).map(ToOwned::to_owned),
    };
    let is_optical = name.starts_with("sr");
    let size = tree.number(&format!("{base}/size")).filter(|_| !is_optical);
    let mut entry = Entry::default();
    entry
        .put("name", name)
        .maybe("description", description)
        .put("type", if is_optical { "cd" } else { "disk" })
        .maybe("interface", interface)
        .maybe("model", model)
        .maybe("manufacturer", manufacturer)
        .maybe("disksize", size.map(|sectors| sectors * 512 / 1_000_000))
        .maybe("serial", serial(tree, &base))
        .maybe(
            "firmware",
            read("device/firmware_rev").or_else(|| read("device/rev")),
        )
        .maybe("wwn", read("wwid").or_else(|| read("device/wwid")));
    entry.done()
}

fn serial(tree: Tree<'_>, base: &str) -> Option<String> {
    let plain = ["serial", "device/serial"]
        .iter()
        .find_map(|file| tree.value(&format!("{base}/{file}")));
    plain.or_else(|| {
        // SCSI vital product data, page 0x80: four bytes of header, then the number.
        let page = tree.bytes(&format!("{base}/device/vpd_pg80"))?;
        clean(&String::from_utf8_lossy(page.get(4..)?))
    })
}

/// Who makes disks whose model begins like this.
fn maker(model: &str) -> Option<&'static str> {
    const MAKERS: [(&str, &str); 12] = [
        ("CT", "Crucial"),
        ("HGST", "HGST"),
        ("Hitachi", "Hitachi"),
        ("INTEL", "Intel"),
        ("KINGSTON", "Kingston"),
        ("MTFD", "Micron"),
        ("Micron", "Micron"),
        ("SAMSUNG", "Samsung"),
        ("ST", "Seagate"),
        ("Samsung", "Samsung"),
        ("TOSHIBA", "Toshiba"),
        ("WDC", "Western Digital"),
    ];
    if model.starts_with("QEMU") {
        return Some("QEMU");
    }
    MAKERS
        .iter()
        .find(|(prefix, _)| model.starts_with(prefix))
        .map(|(_, maker)| *maker)
}

pub(super) fn drives(tree: Tree<'_>) -> Value {
    let mounts = tree.text("proc/mounts").unwrap_or_default();
    let labels = device_names(tree, "dev/disk/by-label");
    let uuids = device_names(tree, "dev/disk/by-uuid");
    let mut seen = Vec::new();
    let mut entries = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split_whitespace().map(unescape);
        let (Some(device), Some(point), Some(kind)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let is_remote = REMOTE.contains(&kind.as_str());
        if !is_remote && !LOCAL.contains(&kind.as_str()) || seen.contains(&device) {
            continue;
        }
        let short = Path::new(&device)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let name_in = |names: &BTreeMap<String, String>| names.get(short.as_ref()?).cloned();
        let mut entry = Entry::default();
        entry
            .put("volumn", device.clone())
            .put("type", point.clone())
            .put("filesystem", kind)
            .maybe("label", name_in(&labels))
            .maybe("serial", name_in(&uuids));
        if !is_remote && let Ok(stat) = rustix::fs::statvfs(tree.path(&point)) {
            let megabytes = |blocks: u64| {
                i64::try_from(u128::from(blocks) * u128::from(stat.f_frsize) / (1 << 20)).ok()
            };
            entry
                .maybe("total", megabytes(stat.f_blocks))
                .maybe("free", megabytes(stat.f_bavail));
        }
        entries.push(entry.done());
        seen.push(device);
    }
    Value::Array(entries)
}

/// Octal escapes of `/proc/mounts`.
fn unescape(word: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(word.to_owned(), |text, (code, plain)| {
            text.replace(code, plain)
        })
}

/// What udev calls devices, by their kernel names.
fn device_names(tree: Tree<'_>, directory: &str) -> BTreeMap<String, String> {
    let names = tree.names(directory).into_iter();
    names
        .filter_map(|name| Some((tree.link_name(&format!("{directory}/{name}"))?, name)))
        .collect()
}
