//! The facts of a machine, from `/proc` and `/sys`.
//!
//! Every reader takes the root, so that tests stand on fixture trees. Files are read up to a bound;
//! a file that is not there, cannot be read, or says nothing is `null` in the report.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::smbios;

/// Longest file that is read: `/proc/cpuinfo` of a machine with a thousand threads.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most entries of one directory: more devices than any machine has.
const ENTRIES_MAX: usize = 4096;

/// Collects all facts. Blocks on the file system.
#[must_use]
pub fn collect(root: &Path) -> Value {
    let pci = pci(root);
    let gpus: Vec<&Value> = pci
        .iter()
        .filter(|d| d["class"].as_str().is_some_and(|c| c.starts_with("0x03")))
        .collect();
    json!({
        "cpu": cpu(root),
        "memory": memory(root),
        "disks": disks(root),
        "nics": nics(root),
        "gpus": gpus,
        "pci": pci,
        "bmc": {
            "present": exists(root, "dev/ipmi0") || exists(root, "sys/class/ipmi/ipmi0"),
            "address": null,
            "mac": null,
        },
        "system": system(root),
        "boot": boot(root),
        "tpm": tpm(root),
        "numa": numa(root),
        "ecc": ecc(root),
        "kernel": {
            "release": text(root, "proc/sys/kernel/osrelease"),
            "hostname": text(root, "proc/sys/kernel/hostname"),
            "boot_id": text(root, "proc/sys/kernel/random/boot_id"),
        },
    })
}

fn cpu(root: &Path) -> Value {
    let info = text(root, "proc/cpuinfo").unwrap_or_default();
    let mut sockets = BTreeSet::new();
    let mut cores = BTreeSet::new();
    let mut threads = 0_u64;
    let mut mhz: Option<f64> = None;
    let mut first = Map::new();
    for block in info.split("\n\n") {
        let field = |name: &str| {
            block
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
        };
        if field("processor").is_none() {
            continue;
        }
        threads += 1;
        let socket = field("physical id");
        if let (Some(socket), Some(core)) = (&socket, field("core id")) {
            cores.insert((socket.clone(), core));
        }
        sockets.extend(socket);
        if let Some(now) = field("cpu MHz").and_then(|mhz| mhz.parse::<f64>().ok()) {
            mhz = Some(mhz.map_or(now, |most| most.max(now)));
        }
        if first.is_empty() {
            let flags = field("flags").or_else(|| field("Features"));
            let flags = flags.map(|flags| {
                let set: BTreeSet<&str> = flags.split_ascii_whitespace().collect();
                json!(set)
            });
            first.insert("model".to_owned(), json!(field("model name")));
            first.insert("vendor".to_owned(), json!(field("vendor_id")));
            first.insert("microcode".to_owned(), json!(field("microcode")));
            first.insert("flags".to_owned(), flags.unwrap_or_default());
        }
    }
    let known = |count: usize| (count > 0).then_some(count);
    first.insert("sockets".to_owned(), json!(known(sockets.len())));
    first.insert("cores".to_owned(), json!(known(cores.len())));
    first.insert(
        "threads".to_owned(),
        json!((threads > 0).then_some(threads)),
    );
    first.insert("mhz".to_owned(), json!(mhz));
    Value::Object(first)
}

fn memory(root: &Path) -> Value {
    let info = text(root, "proc/meminfo").unwrap_or_default();
    let total = kib_of(&info, "MemTotal:");
    let table = read(root, "sys/firmware/dmi/tables/DMI");
    let dimms = table
        .map(|table| smbios::memory_devices(&table))
        .filter(|dimms| !dimms.is_empty());
    let physical = dimms.as_ref().map(|dimms| {
        dimms
            .iter()
            .filter_map(|dimm| dimm["size_bytes"].as_u64())
            .fold(0, u64::saturating_add)
    });
    json!({ "total_bytes": total, "physical_bytes": physical, "dimms": dimms })
}

/// `MemTotal:  16384 kB` in bytes.
fn kib_of(info: &str, name: &str) -> Option<u64> {
    let line = info
        .lines()
        .find_map(|line| line.split_once(name).map(|(_, rest)| rest))?;
    line.split_ascii_whitespace()
        .next()?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// Disks that could be erased or installed on: not virtual, not empty, not RAM, loop or optical
/// (teeth contract, section 11.1).
fn disks(root: &Path) -> Vec<Value> {
    entries(root, "sys/block")
        .into_iter()
        .filter_map(|(name, path)| {
            let real = path.canonicalize().ok()?;
            let place = real.to_string_lossy().into_owned();
            let hidden = name.starts_with("nvme") && name.contains('c');
            let optical = text(&path, "device/type").as_deref() == Some("5");
            let sectors: u64 = text(&path, "size")?.parse().ok()?;
            if place.contains("/devices/virtual/") || hidden || optical || sectors == 0 {
                return None;
            }
            let flag = |file: &str| text(&path, file).map(|value| value == "1");
            let number = |file: &str| text(&path, file).and_then(|v| v.parse::<u64>().ok());
            let controller = real.parent().map(Path::to_path_buf).unwrap_or_default();
            let first = |files: &[&str]| files.iter().find_map(|file| text(&path, file));
            let partitions: Vec<String> = entries(&path, "")
                .into_iter()
                .filter(|(_, entry)| entry.join("partition").exists())
                .map(|(name, _)| name)
                .collect();
            let names = |dir: &str| -> Vec<String> {
                entries(&path, dir)
                    .into_iter()
                    .map(|(name, _)| name)
                    .collect()
            };
            Some(json!({
                "name": name,
                "size_bytes": sectors.checked_mul(512),
                "logical_block_bytes": number("queue/logical_block_size"),
                "physical_block_bytes": number("queue/physical_block_size"),
                "rotational": flag("queue/rotational"),
                "read_only": flag("ro"),
                "removable": flag("removable"),
                "model": first(&["device/model"]),
                "vendor": first(&["device/vendor"]),
                "serial": first(&["device/serial", "serial"])
                    .or_else(|| vpd_serial(&path))
                    .or_else(|| text(&controller, "serial")),
                "wwid": first(&["wwid", "device/wwid"]),
                "firmware": first(&["device/firmware_rev", "device/rev"]),
                "transport": transport(&place),
                "partitions": partitions,
                "holders": names("holders"),
                "slaves": names("slaves"),
                "smart": null,
            }))
        })
        .collect()
}

/// Serial number of a SCSI disk: VPD page 0x80.
fn vpd_serial(disk: &Path) -> Option<String> {
    let page = read(disk, "device/vpd_pg80")?;
    let text = String::from_utf8_lossy(page.get(4..)?)
        .trim_matches(['\0', ' '])
        .to_owned();
    (!text.is_empty()).then_some(text)
}

fn transport(place: &str) -> Option<&'static str> {
    let has = |part: &str| place.contains(part);
    Some(match () {
        () if has("/usb") => "usb",
        () if has("/nvme") => "nvme",
        () if has("/ata") => "ata",
        () if has("/virtio") => "virtio",
        () if has("/mmc") => "mmc",
        () if has("/end_device") || has("/host") => "scsi",
        () => return None,
    })
}

/// Network interfaces with hardware behind them.
fn nics(root: &Path) -> Vec<Value> {
    entries(root, "sys/class/net")
        .into_iter()
        .filter(|(_, path)| path.join("device").exists())
        .map(|(name, path)| {
            let carrier = text(&path, "carrier").map(|value| value == "1");
            let speed = text(&path, "speed").and_then(|v| v.parse::<i64>().ok());
            json!({
                "name": name,
                "mac": text(&path, "address"),
                "driver": link_name(&path, "device/driver"),
                "device": link_name(&path, "device"),
                "vendor_id": text(&path, "device/vendor"),
                "device_id": text(&path, "device/device"),
                "speed_mbps": speed.filter(|speed| *speed > 0),
                "carrier": carrier,
                "mtu": text(&path, "mtu").and_then(|v| v.parse::<u64>().ok()),
                "lldp": null,
                "firmware": null,
            })
        })
        .collect()
}

fn pci(root: &Path) -> Vec<Value> {
    entries(root, "sys/bus/pci/devices")
        .into_iter()
        .map(|(slot, path)| {
            json!({
                "slot": slot,
                "vendor_id": text(&path, "vendor"),
                "device_id": text(&path, "device"),
                "subsystem_vendor_id": text(&path, "subsystem_vendor"),
                "subsystem_device_id": text(&path, "subsystem_device"),
                "class": text(&path, "class"),
                "driver": link_name(&path, "driver"),
                "numa_node": text(&path, "numa_node")
                    .and_then(|node| node.parse::<i64>().ok())
                    .filter(|node| *node >= 0),
            })
        })
        .collect()
}

fn system(root: &Path) -> Value {
    let id = |file: &str| text(root, &format!("sys/class/dmi/id/{file}"));
    json!({
        "vendor": id("sys_vendor"),
        "product": id("product_name"),
        "version": id("product_version"),
        "serial": id("product_serial"),
        "uuid": id("product_uuid").map(|uuid| uuid.to_ascii_lowercase()),
        "chassis_serial": id("chassis_serial"),
        "board": {"vendor": id("board_vendor"), "name": id("board_name"), "serial": id("board_serial")},
        "bios": {
            "vendor": id("bios_vendor"), "version": id("bios_version"), "date": id("bios_date"),
        },
    })
}

fn boot(root: &Path) -> Value {
    let uefi = exists(root, "sys/firmware/efi");
    // An EFI variable has four bytes of attributes before its value.
    let secure = read(
        root,
        "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
    )
    .and_then(|variable| variable.get(4).map(|value| *value == 1));
    json!({ "mode": if uefi { "uefi" } else { "bios" }, "secure_boot": secure })
}

fn tpm(root: &Path) -> Value {
    let present = exists(root, "sys/class/tpm/tpm0");
    let version = text(root, "sys/class/tpm/tpm0/tpm_version_major");
    json!({ "present": present, "version": version })
}

fn numa(root: &Path) -> Vec<Value> {
    entries(root, "sys/devices/system/node")
        .into_iter()
        .filter_map(|(name, path)| {
            let node: u64 = name.strip_prefix("node")?.parse().ok()?;
            let info = text(&path, "meminfo").unwrap_or_default();
            Some(json!({
                "node": node,
                "cpus": text(&path, "cpulist"),
                "memory_bytes": kib_of(&info, "MemTotal:"),
            }))
        })
        .collect()
}

/// Counts of memory errors by controller.
fn ecc(root: &Path) -> Vec<Value> {
    entries(root, "sys/devices/system/edac/mc")
        .into_iter()
        .filter(|(name, _)| name.starts_with("mc"))
        .map(|(name, path)| {
            let count = |file: &str| text(&path, file).and_then(|v| v.parse::<u64>().ok());
            json!({
                "controller": name,
                "corrected": count("ce_count"),
                "uncorrected": count("ue_count"),
            })
        })
        .collect()
}

/// Entries of a directory with their names, sorted.
fn entries(root: &Path, dir: &str) -> Vec<(String, PathBuf)> {
    let Ok(listing) = std::fs::read_dir(root.join(dir)) else {
        return Vec::new();
    };
    let mut found: Vec<(String, PathBuf)> = listing
        .filter_map(Result::ok)
        .take(ENTRIES_MAX)
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .collect();
    found.sort();
    found
}

fn exists(root: &Path, path: &str) -> bool {
    root.join(path).exists()
}

/// Last part of where a symbolic link leads.
fn link_name(root: &Path, path: &str) -> Option<String> {
    let target = std::fs::read_link(root.join(path)).ok()?;
    target
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
}

fn read(root: &Path, path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(root.join(path))
        .ok()?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

/// The trimmed text of a file; `None` when it is empty.
fn text(root: &Path, path: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&read(root, path)?)
        .trim()
        .to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn put(root: &Path, path: &str, content: impl AsRef<[u8]>) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn link(root: &Path, path: &str, target: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let thread = |n: u32, core: u32| {
            format!(
                "processor\t: {n}\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon X\nmicrocode\t: 0x2b\n\
                 cpu MHz\t\t: 2{n}00.5\nphysical id\t: 0\ncore id\t\t: {core}\nflags\t\t: sse fpu aes\n\n"
            )
        };
        put(
            root,
            "proc/cpuinfo",
            [thread(0, 0), thread(1, 0), thread(2, 1), thread(3, 1)].concat(),
        );
        put(
            root,
            "proc/meminfo",
            "MemTotal:       16384 kB\nMemFree: 1 kB\n",
        );
        put(root, "sys/firmware/dmi/tables/DMI", smbios::tests::table());
        let sda = "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda";
        for (file, content) in [
            ("size", "2048\n"),
            ("ro", "0\n"),
            ("removable", "0\n"),
            ("queue/logical_block_size", "512\n"),
            ("queue/rotational", "1\n"),
            ("device/model", "DISK ONE   \n"),
            ("device/vpd_pg80", "\0\u{1}\0\u{8}SERIAL-1"),
            ("sda1/partition", "1\n"),
        ] {
            put(root, &format!("{sda}/{file}"), content);
        }
        std::fs::create_dir_all(root.join("sys/block")).unwrap();
        link(root, "sys/block/sda", &format!("../../{sda}"));
        put(root, "sys/devices/virtual/block/loop0/size", "100\n");
        link(root, "sys/block/loop0", "../devices/virtual/block/loop0");
        let sr = "sys/devices/pci0000:00/ata2/block/sr0";
        put(root, &format!("{sr}/size"), "100\n");
        put(root, &format!("{sr}/device/type"), "5\n");
        link(root, "sys/block/sr0", &format!("../../{sr}"));
        put(root, "sys/bus/pci/drivers/e1000/x", "");
        put(
            root,
            "sys/devices/pci0000:00/0000:00:03.0/vendor",
            "0x8086\n",
        );
        put(
            root,
            "sys/devices/pci0000:00/0000:00:03.0/class",
            "0x020000\n",
        );
        put(
            root,
            "sys/devices/pci0000:00/0000:00:03.0/numa_node",
            "-1\n",
        );
        link(
            root,
            "sys/devices/pci0000:00/0000:00:03.0/driver",
            "../../../bus/pci/drivers/e1000",
        );
        link(
            root,
            "sys/bus/pci/devices/0000:00:03.0",
            "../../../devices/pci0000:00/0000:00:03.0",
        );
        put(
            root,
            "sys/devices/pci0000:00/0000:00:02.0/class",
            "0x030000\n",
        );
        link(
            root,
            "sys/bus/pci/devices/0000:00:02.0",
            "../../../devices/pci0000:00/0000:00:02.0",
        );
        put(root, "sys/class/net/eth0/address", "52:54:00:12:34:56\n");
        put(root, "sys/class/net/eth0/speed", "1000\n");
        put(root, "sys/class/net/eth0/carrier", "1\n");
        link(
            root,
            "sys/class/net/eth0/device",
            "../../../devices/pci0000:00/0000:00:03.0",
        );
        put(root, "sys/class/net/lo/address", "00:00:00:00:00:00\n");
        put(root, "sys/class/dmi/id/product_serial", "CHASSIS-9\n");
        put(root, "sys/class/dmi/id/product_uuid", "ABCD\n");
        put(
            root,
            "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
            [6, 0, 0, 0, 1],
        );
        put(root, "sys/devices/system/node/node0/cpulist", "0-3\n");
        put(
            root,
            "sys/devices/system/node/node0/meminfo",
            "Node 0 MemTotal:       16384 kB\n",
        );
        put(root, "sys/devices/system/edac/mc/mc0/ce_count", "7\n");
        dir
    }

    #[test]
    fn a_machine_is_described() {
        let dir = machine();
        let facts = collect(dir.path());
        assert_eq!(facts["cpu"]["model"], "Xeon X");
        assert_eq!(
            (
                &facts["cpu"]["sockets"],
                &facts["cpu"]["cores"],
                &facts["cpu"]["threads"]
            ),
            (&json!(1), &json!(2), &json!(4))
        );
        assert_eq!(facts["cpu"]["flags"], json!(["aes", "fpu", "sse"]));
        assert_eq!(facts["cpu"]["mhz"], 2300.5);
        assert_eq!(facts["memory"]["total_bytes"], 16_384 * 1024);
        assert_eq!(facts["memory"]["physical_bytes"], 56_u64 << 30);
        let disks = facts["disks"].as_array().unwrap();
        assert_eq!(disks.len(), 1, "loop and optical are no disks: {disks:?}");
        assert_eq!(disks[0]["name"], "sda");
        assert_eq!(disks[0]["size_bytes"], 2048 * 512);
        assert_eq!(disks[0]["serial"], "SERIAL-1");
        assert_eq!(disks[0]["model"], "DISK ONE");
        assert_eq!(disks[0]["transport"], "ata");
        assert_eq!(disks[0]["partitions"], json!(["sda1"]));
        assert_eq!(disks[0]["rotational"], true);
        let nics = facts["nics"].as_array().unwrap();
        assert_eq!(nics.len(), 1, "loopback has no hardware");
        assert_eq!(nics[0]["driver"], "e1000");
        assert_eq!(nics[0]["device"], "0000:00:03.0");
        assert_eq!(nics[0]["speed_mbps"], 1000);
        assert_eq!(facts["gpus"].as_array().unwrap().len(), 1);
        assert_eq!(facts["system"]["serial"], "CHASSIS-9");
        assert_eq!(facts["boot"], json!({"mode": "uefi", "secure_boot": true}));
        assert_eq!(facts["numa"][0]["memory_bytes"], 16_384 * 1024);
        assert_eq!(facts["ecc"][0]["corrected"], 7);
    }

    #[test]
    fn an_empty_tree_is_unknown_and_not_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let facts = collect(dir.path());
        assert_eq!(facts["cpu"]["model"], Value::Null);
        assert_eq!(facts["cpu"]["threads"], Value::Null);
        assert_eq!(facts["memory"]["dimms"], Value::Null);
        assert_eq!(facts["disks"], json!([]));
        assert_eq!(facts["boot"]["secure_boot"], Value::Null);
        assert_eq!(facts["tpm"]["present"], false);
    }

    #[test]
    fn this_machine_can_be_read() {
        let facts = collect(Path::new("/"));
        assert!(
            facts["cpu"]["threads"]
                .as_u64()
                .is_some_and(|threads| threads > 0)
        );
        assert!(facts["memory"]["total_bytes"].as_u64().is_some());
    }
}
