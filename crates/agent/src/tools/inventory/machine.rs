//! Sections about the machine itself: `hardware`, `bios`, `operatingsystem`, `cpus`, `memories`.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::tree::{Entry, Tree, assignment, clean, colon_value};
use super::{accounts, smbios};

/// A time as the inventory format writes it: local in the machine's own zone, without one.
pub(super) fn stamp(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

/// The machine's time zone: its name and rules, from the machine's own files.
pub(super) fn zone(tree: Tree<'_>) -> (String, TimeZone) {
    let linked = std::fs::read_link(tree.path("etc/localtime"))
        .ok()
        .and_then(|target| {
            let target = target.to_string_lossy().into_owned();
            target
                .split_once("zoneinfo/")
                .map(|(_, name)| name.to_owned())
        });
    let is_name = |name: &String| {
        !name.contains("..")
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b))
    };
    let name = linked
        .or_else(|| tree.value("etc/timezone"))
        .filter(is_name)
        .unwrap_or_else(|| "UTC".to_owned());
    let rules = tree
        .bytes(&format!("usr/share/zoneinfo/{name}"))
        .or_else(|| tree.bytes("etc/localtime"))
        .and_then(|rules| TimeZone::tzif(&name, &rules).ok());
    match rules {
        Some(zone) => (name.trim_start_matches("Etc/").to_owned(), zone),
        None => ("UTC".to_owned(), TimeZone::UTC),
    }
}

/// The host's name, as it was set.
pub(super) fn hostname(tree: Tree<'_>) -> Option<String> {
    tree.value("proc/sys/kernel/hostname")
        .or_else(|| tree.value("etc/hostname"))
}

pub(super) fn hardware(tree: Tree<'_>, zone: &TimeZone) -> Value {
    let mut entry = Entry::default();
    let meminfo = tree.text("proc/meminfo").unwrap_or_default();
    let megabytes = |key| {
        let kilobytes = colon_value(&meminfo, key)?
            .strip_suffix("kB")?
            .trim()
            .parse::<i64>()
            .ok()?;
        Some(kilobytes / 1024)
    };
    let chassis = tree
        .number("sys/class/dmi/id/chassis_type")
        .and_then(|number| usize::try_from(number).ok())
        .and_then(|number| CHASSIS.get(number).copied());
    let resolv = tree.text("etc/resolv.conf").unwrap_or_default();
    let resolver = |key: &'static str| {
        resolv.lines().filter_map(move |line| {
            let mut words = line.split_whitespace();
            if words.next() == Some(key) {
                words.next()
            } else {
                None
            }
        })
    };
    let servers = resolver("nameserver").collect::<Vec<_>>().join("/");
    entry
        .maybe("name", hostname(tree).map(|name| short_name(&name)))
        .maybe(
            "uuid",
            dmi(tree, "product_uuid").map(|uuid| uuid.to_uppercase()),
        )
        .maybe("memory", megabytes("MemTotal"))
        .maybe("swap", megabytes("SwapTotal"))
        .maybe("chassis_type", chassis)
        .put("vmsystem", vm_system(tree))
        .maybe("dns", clean(&servers))
        .maybe(
            "workgroup",
            resolver("search").chain(resolver("domain")).next(),
        )
        .maybe("defaultgateway", default_gateway(tree));
    if let Some(login) = accounts::last_login(tree) {
        entry
            .put("lastloggeduser", login.user)
            .put("datelastloggeduser", stamp(login.at, zone));
    }
    entry.done()
}

/// A host's name without its domain.
fn short_name(name: &str) -> String {
    name.split('.').next().unwrap_or(name).to_owned()
}

fn default_gateway(tree: Tree<'_>) -> Option<String> {
    tree.text("proc/net/route")?
        .lines()
        .skip(1)
        .find_map(|line| {
            let words = line.split_whitespace().collect::<Vec<_>>();
            let (destination, gateway) = (words.get(1)?, words.get(2)?);
            if *destination != "00000000" || *gateway == "00000000" {
                return None;
            }
            let number = u32::from_str_radix(gateway, 16).ok()?;
            Some(std::net::Ipv4Addr::from(number.swap_bytes()).to_string())
        })
}

/// A DMI value that says something: vendors leave placeholders.
fn dmi(tree: Tree<'_>, name: &str) -> Option<String> {
    const PLACEHOLDERS: [&str; 10] = [
        "default string",
        "none",
        "not applicable",
        "not available",
        "not present",
        "not specified",
        "o.e.m.",
        "system serial number",
        "to be filled by o.e.m.",
        "unknown",
    ];
    let value = tree.value(&format!("sys/class/dmi/id/{name}"))?;
    let lower = value.to_lowercase();
    (!PLACEHOLDERS.contains(&lower.as_str())).then_some(value)
}

fn vm_system(tree: Tree<'_>) -> &'static str {
    if tree.exists(".dockerenv") {
        return "Docker";
    }
    if tree.exists("run/.containerenv") {
        return "podman";
    }
    let init = tree.text("proc/1/environ").unwrap_or_default();
    if init.split('\0').any(|variable| variable == "container=lxc") {
        return "lxc";
    }
    let hypervisor = tree.value("sys/hypervisor/type");
    if hypervisor.as_deref() == Some("xen") {
        return "Xen";
    }
    let told = ["sys_vendor", "product_name", "bios_vendor"]
        .iter()
        .filter_map(|name| dmi(tree, name))
        .collect::<Vec<_>>()
        .join(" ");
    for (word, system) in [
        ("VMware", "VMware"),
        ("VirtualBox", "VirtualBox"),
        ("innotek", "VirtualBox"),
        ("Microsoft Corporation Virtual Machine", "Hyper-V"),
        ("QEMU", "QEMU"),
        ("KVM", "QEMU"),
        ("Bochs", "QEMU"),
        ("Xen", "Xen"),
        ("Parallels", "Parallels"),
        ("Amazon EC2", "Virtual Machine"),
        ("Google Compute Engine", "Virtual Machine"),
    ] {
        if told.contains(word) {
            return system;
        }
    }
    let cpuinfo = tree.text("proc/cpuinfo").unwrap_or_default();
    let flags = colon_value(&cpuinfo, "flags").unwrap_or_default();
    if flags.split_whitespace().any(|flag| flag == "hypervisor") {
        "Virtual Machine"
    } else {
        "Physical"
    }
}

pub(super) fn bios(tree: Tree<'_>) -> Value {
    let mut entry = Entry::default();
    let tree_value = |name: &str| tree.value(&format!("proc/device-tree/{name}"));
    entry
        .maybe("smanufacturer", dmi(tree, "sys_vendor"))
        .maybe(
            "smodel",
            dmi(tree, "product_name").or_else(|| tree_value("model")),
        )
        .maybe(
            "ssn",
            dmi(tree, "product_serial").or_else(|| tree_value("serial-number")),
        )
        .maybe("skunumber", dmi(tree, "product_sku"))
        .maybe("mmanufacturer", dmi(tree, "board_vendor"))
        .maybe("mmodel", dmi(tree, "board_name"))
        .maybe("msn", dmi(tree, "board_serial"))
        .maybe("bmanufacturer", dmi(tree, "bios_vendor"))
        .maybe("bversion", dmi(tree, "bios_version"))
        .maybe("bdate", dmi(tree, "bios_date"))
        .maybe("assettag", dmi(tree, "chassis_asset_tag"))
        .maybe("enclosureserial", dmi(tree, "chassis_serial"));
    if tree.exists("sys/firmware/efi") {
        const VARIABLE: &str =
            "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        let state = match tree.bytes(VARIABLE).as_deref().and_then(<[u8]>::last) {
            Some(1) => "enabled",
            Some(_) => "disabled",
            None => "unsupported",
        };
        entry.put("secure_boot", state);
    }
    entry.done()
}

/// SMBIOS system enclosure types, by number.
const CHASSIS: [&str; 37] = [
    "",
    "Other",
    "Unknown",
    "Desktop",
    "Low Profile Desktop",
    "Pizza Box",
    "Mini Tower",
    "Tower",
    "Portable",
    "Laptop",
    "Notebook",
    "Hand Held",
    "Docking Station",
    "All in One",
    "Sub Notebook",
    "Space-Saving",
    "Lunch Box",
    "Main System Chassis",
    "Expansion Chassis",
    "Sub Chassis",
    "Bus Expansion Chassis",
    "Peripheral Chassis",
    "RAID Chassis",
    "Rack Mount Chassis",
    "Sealed-Case PC",
    "Multi-system Chassis",
    "Compact PCI",
    "Advanced TCA",
    "Blade",
    "Blade Enclosure",
    "Tablet",
    "Convertible",
    "Detachable",
    "IoT Gateway",
    "Embedded PC",
    "Mini PC",
    "Stick PC",
];

pub(super) fn operating_system(tree: Tree<'_>, zone: &(String, TimeZone), now: Timestamp) -> Value {
    let release = tree
        .text("etc/os-release")
        .or_else(|| tree.text("usr/lib/os-release"))
        .unwrap_or_default();
    let read = |key| assignment(&release, key);
    // Debian's own release file knows the point release.
    let version = match read("ID").as_deref() {
        Some("debian") => tree
            .value("etc/debian_version")
            .or_else(|| read("VERSION_ID")),
        Some(_) | None => read("VERSION_ID").or_else(|| read("BUILD_ID")),
    };
    let host = hostname(tree).unwrap_or_default();
    let hosts = tree.text("etc/hosts").unwrap_or_default();
    let (fqdn, domain) = full_name(&host, &hosts);
    let stat = tree.text("proc/stat").unwrap_or_default();
    let boot = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok())
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    let offset = zone.1.to_offset(now).seconds();
    let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
    let mut clock = Entry::default();
    clock.put("name", zone.0.clone()).put(
        "offset",
        format!("{sign}{:02}{:02}", minutes / 60, minutes % 60),
    );
    let mut entry = Entry::default();
    entry
        .maybe("name", read("NAME"))
        .maybe("full_name", read("PRETTY_NAME"))
        .maybe("version", version)
        .put("kernel_name", "linux")
        .maybe("kernel_version", tree.value("proc/sys/kernel/osrelease"))
        .put("arch", arch(tree))
        .maybe("fqdn", clean(&fqdn))
        .maybe("dns_domain", domain)
        .maybe("hostid", host_id(tree, &host, &hosts))
        .maybe("boot_time", boot.map(|time| stamp(time, &zone.1)))
        .maybe("ssh_key", ssh_key(tree))
        .maybe("install_date", install_date(tree, &zone.1))
        .put("timezone", clock.done());
    entry.done()
}

/// The machine's architecture in the kernel's words.
fn arch(tree: Tree<'_>) -> String {
    tree.value("proc/sys/kernel/arch")
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The host's name with its domain, and the domain, as the `hosts` file knows them.
fn full_name(host: &str, hosts: &str) -> (String, Option<String>) {
    if let Some((_, domain)) = host.split_once('.') {
        return (host.to_owned(), Some(domain.to_owned()));
    }
    let prefix = format!("{host}.");
    let full = hosts
        .lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(|line| line.split_whitespace().skip(1))
        .find(|name| !host.is_empty() && name.starts_with(&prefix));
    match full.and_then(|name| Some((name, name.split_once('.')?.1))) {
        Some((name, domain)) => (name.to_owned(), Some(domain.to_owned())),
        None => (host.to_owned(), None),
    }
}

/// As `hostid(1)`: the file, else the host's IPv4 address with its halves swapped.
fn host_id(tree: Tree<'_>, host: &str, hosts: &str) -> Option<String> {
    if let Some(Ok(bytes)) = tree.bytes("etc/hostid").map(<[u8; 4]>::try_from) {
        return Some(format!("{:08x}", u32::from_ne_bytes(bytes)));
    }
    let address = hosts
        .lines()
        .filter_map(|line| line.split('#').next())
        .find_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?.parse::<std::net::Ipv4Addr>().ok()?;
            words.any(|name| name == host).then_some(address)
        })?;
    let number = u32::from_le_bytes(address.octets());
    Some(format!("{:08x}", number.rotate_left(16)))
}

fn ssh_key(tree: Tree<'_>) -> Option<String> {
    ["rsa", "ecdsa", "ed25519"].iter().find_map(|kind| {
        let line = tree.value(&format!("etc/ssh/ssh_host_{kind}_key.pub"))?;
        let mut words = line.split_whitespace();
        Some(format!("{} {}", words.next()?, words.next()?))
    })
}

/// When the base system's package list was born.
fn install_date(tree: Tree<'_>, zone: &TimeZone) -> Option<String> {
    let list = tree.path("var/lib/dpkg/info/base-files.list");
    let born = Timestamp::try_from(std::fs::metadata(list).ok()?.created().ok()?).ok()?;
    // File systems that keep no birth time say the epoch.
    Some(born)
        .filter(|born| born.as_second() > 0)
        .map(|born| stamp(born, zone))
}

/// One entry for each socket.
pub(super) fn cpus(tree: Tree<'_>) -> Value {
    let cpuinfo = tree.text("proc/cpuinfo").unwrap_or_default();
    let arch = arch(tree);
    let mut sockets: Vec<(Option<&str>, &str, i64)> = Vec::new();
    for block in cpuinfo
        .split("\n\n")
        .filter(|block| colon_value(block, "processor").is_some())
    {
        let socket = colon_value(block, "physical id");
        match sockets.iter_mut().find(|(known, _, _)| *known == socket) {
            Some((_, _, threads)) => *threads += 1,
            None => sockets.push((socket, block, 1)),
        }
    }
    let entries = sockets.iter().map(|(_, block, threads)| {
        let read = |key: &str| colon_value(block, key).and_then(clean);
        let whole = |key: &str| read(key)?.parse::<i64>().ok();
        let manufacturer = read("vendor_id")
            .or_else(|| read("CPU implementer"))
            .map(|vendor| match vendor.as_str() {
                "AuthenticAMD" => "AMD".to_owned(),
                "GenuineIntel" => "Intel".to_owned(),
                "HygonGenuine" => "Hygon".to_owned(),
                "0x41" => "ARM".to_owned(),
                "0xc0" => "Ampere".to_owned(),
                _ => vendor,
            });
        let cores = whole("cpu cores").unwrap_or(*threads);
        let name = read("model name").or_else(|| {
            colon_value(&cpuinfo, "Hardware")
                .or_else(|| colon_value(&cpuinfo, "Model"))
                .and_then(clean)
        });
        let mut entry = Entry::default();
        entry
            .maybe("speed", speed(tree, name.as_deref()))
            .maybe("name", name)
            .maybe("manufacturer", manufacturer)
            .put("core", cores)
            .put("thread", *threads)
            .maybe("familynumber", read("cpu family"))
            .maybe("model", read("model"))
            .maybe("stepping", whole("stepping"))
            .put("arch", arch.clone());
        entry.done()
    });
    Value::Array(entries.collect())
}

/// Nominal speed in MHz: what the name says, else the highest of frequency scaling.
fn speed(tree: Tree<'_>, name: Option<&str>) -> Option<i64> {
    let named = name.and_then(|name| {
        let text = name.rsplit_once('@')?.1.trim();
        let ghz = text.strip_suffix("GHz")?.trim().parse::<f64>().ok()?;
        Some((ghz * 1000.0).round() as i64)
    });
    let highest =
        || Some(tree.number("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")? / 1000);
    named.or_else(highest)
}

/// One entry for each memory slot, from the SMBIOS table where the machine has one.
pub(super) fn memories(tree: Tree<'_>) -> Value {
    let table = tree
        .bytes("sys/firmware/dmi/tables/DMI")
        .unwrap_or_default();
    let structures = smbios::structures(&table);
    let correction = structures
        .iter()
        .find(|structure| structure.kind == smbios::MEMORY_ARRAY)
        .and_then(|array| smbios::correction(array.byte(0x06)?));
    let slots = structures
        .iter()
        .filter(|structure| structure.kind == smbios::MEMORY_DEVICE);
    let entries = slots.enumerate().map(|(index, slot)| {
        let mut entry = Entry::default();
        let megabytes = smbios::megabytes(slot);
        entry
            .put("numslots", index + 1)
            .maybe("caption", slot.string(0x10))
            .maybe("description", slot.byte(0x0e).and_then(smbios::form_factor))
            .maybe("type", slot.byte(0x12).and_then(smbios::memory_type));
        if let Some(size) = megabytes {
            entry
                .put("capacity", size)
                .maybe(
                    "speed",
                    slot.word(0x15)
                        .filter(|mhz| *mhz > 0)
                        .map(|mhz| mhz.to_string()),
                )
                .maybe("manufacturer", slot.string(0x17))
                .maybe("serialnumber", slot.string(0x18))
                .maybe("model", slot.string(0x1a))
                .maybe("memorycorrection", correction);
        }
        entry.done()
    });
    Value::Array(entries.collect())
}
