//! Inventories of machines that are only trees of files.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let fixture = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (path, text) in files {
            fixture.put(path, text.as_bytes());
        }
        fixture
    }

    fn at(&self, path: &str) -> PathBuf {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        std::fs::write(self.at(path), bytes).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        symlink(target, self.at(path)).unwrap();
    }

    fn collect(&self, addresses: &[(&str, &str)]) -> Value {
        let addresses = addresses
            .iter()
            .map(|(interface, network)| InterfaceAddress {
                interface: (*interface).to_owned(),
                network: network.parse().unwrap(),
            })
            .collect::<Vec<_>>();
        collect(
            self.dir.path(),
            &addresses,
            "2026-11-24T13:00:00Z".parse().unwrap(),
            &[],
        )
    }
}

/// A time zone file of version 2 whose rules are all in its footer.
fn berlin() -> Vec<u8> {
    let block = |version: &[u8]| {
        let mut bytes = [b"TZif", version, &[0; 15]].concat();
        for count in [0_u32, 0, 0, 0, 1, 4] {
            bytes.extend(count.to_be_bytes());
        }
        bytes.extend([&3600_i32.to_be_bytes()[..], &[0, 0], b"CET\0"].concat());
        bytes
    };
    [
        block(b"2"),
        block(b"2"),
        b"\nCET-1CEST,M3.5.0,M10.5.0/3\n".to_vec(),
    ]
    .concat()
}

/// A rack server with DMI, two sockets, a SATA and an NVMe disk, a bond, and a logged-in user.
fn server() -> Fixture {
    let cpu = |number: u32, socket: u32| {
        format!(
            "processor\t: {number}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n\
             model name\t: Intel(R) Xeon(R) Silver 4210 CPU @ 2.20GHz\nstepping\t: 7\n\
             physical id\t: {socket}\nsiblings\t: 2\ncpu cores\t: 1\nflags\t\t: fpu vme\n\n"
        )
    };
    let cpuinfo = (0..4).map(|n| cpu(n, n / 2)).collect::<String>();
    let fixture = Fixture::new(&[
        ("proc/sys/kernel/hostname", "rack-7.lab.example\n"),
        ("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
        ("proc/sys/kernel/arch", "x86_64\n"),
        (
            "proc/meminfo",
            "MemTotal:       32768000 kB\nSwapTotal:       1048576 kB\n",
        ),
        ("proc/cpuinfo", &cpuinfo),
        ("proc/stat", "cpu 1 2 3\nbtime 1795522121\n"),
        (
            "proc/net/route",
            "Iface\tDestination\tGateway\nbond0\t00000000\t0102000A\t0003\nbond0\t0002000A\t00000000\n",
        ),
        (
            "proc/mounts",
            "/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n/dev/sda1 /mnt/again ext4 rw 0 0\n\
             nas:/export /srv/my\\040data nfs4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n",
        ),
        ("sys/class/dmi/id/sys_vendor", "Dell Inc.\n"),
        ("sys/class/dmi/id/product_name", "PowerEdge R440\n"),
        ("sys/class/dmi/id/product_serial", "ABC1234\n"),
        (
            "sys/class/dmi/id/product_uuid",
            "4c4c4544-0042-4310-8031-b9c04f303132\n",
        ),
        ("sys/class/dmi/id/chassis_type", "23\n"),
        ("sys/class/dmi/id/chassis_asset_tag", "Not Specified\n"),
        ("sys/class/dmi/id/bios_date", "08/10/2023\n"),
        (
            "etc/os-release",
            "ID=debian\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
        ),
        ("etc/debian_version", "12.11\n"),
        ("etc/timezone", "Europe/Berlin\n"),
        (
            "etc/resolv.conf",
            "search lab.example\nnameserver 10.0.2.53\nnameserver 10.0.3.53\n",
        ),
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000:Ann,,,:/home/ann:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\nadm:x:4:ann,root\n"),
        ("etc/dpkg/origins/default", "Vendor: Debian\n"),
        (
            "var/lib/dpkg/status",
            "Package: bash\nStatus: install ok installed\nSection: shells\nInstalled-Size: 7164\n\
             Version: 5.2.15-2+b7\nArchitecture: amd64\nDescription: GNU Bourne Again SHell\n\n\
             Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n",
        ),
        ("sys/class/net/lo/type", "772\n"),
        ("sys/class/net/lo/flags", "0x9\n"),
        ("sys/class/net/lo/address", "00:00:00:00:00:00\n"),
        ("sys/class/net/eno1/type", "1\n"),
        ("sys/class/net/eno1/flags", "0x1803\n"),
        ("sys/class/net/eno1/address", "02:AA:00:00:00:01\n"),
        ("sys/class/net/eno1/speed", "10000\n"),
        ("sys/class/net/eno2/type", "1\n"),
        ("sys/class/net/eno2/flags", "0x1002\n"),
        ("sys/class/net/eno2/speed", "-1\n"),
        ("sys/class/net/bond0/type", "1\n"),
        ("sys/class/net/bond0/flags", "0x1403\n"),
        ("sys/class/net/bond0/address", "02:aa:00:00:00:01\n"),
        ("sys/class/net/bond0/mtu", "9000\n"),
        ("sys/class/net/bond0/bonding/slaves", "eno1 eno2\n"),
        ("sys/class/net/bonding_masters", "bond0\n"),
        ("sys/block/loop0/size", "8\n"),
        ("sys/block/nvme0n1/size", "3907029168\n"),
        (
            "sys/block/nvme0n1/device/model",
            "Samsung SSD 980 PRO 2TB\n",
        ),
        ("sys/block/nvme0n1/device/serial", "S6B0NL0T\n"),
        ("sys/block/nvme0n1/device/firmware_rev", "5B2QGXA7\n"),
        (
            "proc/1/status",
            "Name:\tsystemd\nUid:\t0\t0\t0\t0\nVmRSS:\t  327680 kB\n",
        ),
        (
            "proc/1/stat",
            "1 (sys (temd)) S 0 1 1 0 -1 4194560 1 2 3 4 100 300 5 6 20 0 1 0 10 171000000 9",
        ),
        ("proc/1/cmdline", "/sbin/init\0splash\0"),
        ("proc/22/status", "Name:\tkworker\nUid:\t1000\t0\t0\t0\n"),
        (
            "proc/22/stat",
            "22 (kworker) S 2 0 0 34816 -1 1 1 2 3 4 0 0 5 6 20 0 1 0 500 0 0",
        ),
        ("proc/22/cmdline", ""),
    ]);
    std::fs::create_dir_all(fixture.at("sys/devices/pci0/ata1/host0/block/sda/device")).unwrap();
    fixture.put(
        "sys/devices/pci0/ata1/host0/block/sda/size",
        b"1953525168\n",
    );
    fixture.put(
        "sys/devices/pci0/ata1/host0/block/sda/device/vendor",
        b"ATA     \n",
    );
    fixture.put(
        "sys/devices/pci0/ata1/host0/block/sda/device/model",
        b"ST1000NM0008\n",
    );
    fixture.put(
        "sys/devices/pci0/ata1/host0/block/sda/device/vpd_pg80",
        b"\0\x80\0\x14            ZA1B2C3D",
    );
    fixture.link("sys/block/sda", "../devices/pci0/ata1/host0/block/sda");
    std::fs::create_dir_all(fixture.at("sys/devices/0000:01:00.0/x")).unwrap();
    fixture.link("sys/class/net/eno1/device", "../../../devices/0000:01:00.0");
    fixture.link(
        "sys/devices/0000:01:00.0/driver",
        "../../bus/pci/drivers/ixgbe",
    );
    fixture.put("usr/share/zoneinfo/Europe/Berlin", &berlin());
    fixture.link("dev/disk/by-uuid/11-22", "../../sda1");
    fixture.link("dev/disk/by-label/root", "../../sda1");
    fixture
}

#[test]
fn a_rack_server_is_described() {
    let found = server().collect(&[
        ("bond0", "10.0.2.7/24"),
        ("bond0", "fd00::7/64"),
        ("lo", "127.0.0.1/8"),
    ]);
    assert_eq!(
        found["hardware"],
        json!({
            "name": "rack-7", "uuid": "4C4C4544-0042-4310-8031-B9C04F303132", "memory": 32000,
            "swap": 1024, "chassis_type": "Rack Mount Chassis", "vmsystem": "Physical",
            "dns": "10.0.2.53/10.0.3.53", "workgroup": "lab.example", "defaultgateway": "10.0.2.1",
        })
    );
    assert_eq!(
        found["bios"],
        json!({
            "smanufacturer": "Dell Inc.", "smodel": "PowerEdge R440", "ssn": "ABC1234",
            "bdate": "08/10/2023",
        }),
        "placeholders are none"
    );
    assert_eq!(
        found["operatingsystem"],
        json!({
            "name": "Debian GNU/Linux", "full_name": "Debian GNU/Linux 12 (bookworm)",
            "version": "12.11", "kernel_name": "linux", "kernel_version": "6.1.0-18-amd64",
            "arch": "x86_64", "fqdn": "rack-7.lab.example", "dns_domain": "lab.example",
            "boot_time": "2026-11-24 13:08:41",
            "timezone": {"name": "Europe/Berlin", "offset": "+0100"},
        })
    );
    let cpu = json!({
        "name": "Intel(R) Xeon(R) Silver 4210 CPU @ 2.20GHz", "manufacturer": "Intel", "core": 1,
        "thread": 2, "speed": 2200, "familynumber": "6", "model": "85", "stepping": 7,
        "arch": "x86_64",
    });
    assert_eq!(found["cpus"], json!([cpu, cpu]));
    assert_eq!(
        found["storages"],
        json!([
            {"name": "nvme0n1", "description": "NVMe", "type": "disk", "disksize": 2_000_398,
             "model": "Samsung SSD 980 PRO 2TB", "manufacturer": "Samsung", "serial": "S6B0NL0T",
             "firmware": "5B2QGXA7"},
            {"name": "sda", "description": "SATA", "type": "disk", "interface": "SATA",
             "model": "ST1000NM0008", "manufacturer": "Seagate", "disksize": 1_000_204,
             "serial": "ZA1B2C3D"},
        ])
    );
    let drives = found["drives"].as_array().unwrap();
    assert_eq!(
        drives.len(),
        2,
        "each device once, no pseudo file systems: {drives:?}"
    );
    assert_eq!(
        (&drives[0]["label"], &drives[0]["serial"]),
        (&json!("root"), &json!("11-22"))
    );
    assert!(drives[0]["total"].is_i64());
    assert_eq!(
        drives[1],
        json!({"volumn": "nas:/export", "type": "/srv/my data", "filesystem": "nfs4"})
    );
    assert_eq!(found["softwares"].as_array().unwrap().len(), 1);
    assert_eq!(
        found["softwares"][0],
        json!({
            "name": "bash", "version": "5.2.15-2+b7", "arch": "amd64", "from": "deb",
            "publisher": "Debian", "filesize": 7_335_936, "system_category": "shells",
            "comments": "GNU Bourne Again SHell",
        })
    );
    assert_eq!(found["local_users"][1]["name"], "Ann,,,");
    assert_eq!(
        found["local_groups"],
        json!([{"id": "4", "name": "adm", "members": ["ann", "root"]}])
    );
    assert_eq!(found["versionclient"], CLIENT);
}

#[test]
fn interfaces_have_an_entry_for_each_address() {
    let found = server().collect(&[
        ("bond0", "10.0.2.7/24"),
        ("bond0", "fd00::7/64"),
        ("lo", "127.0.0.1/8"),
    ]);
    let bond = json!({
        "description": "bond0", "type": "aggregate", "status": "up", "mac": "02:aa:00:00:00:01",
        "mtu": 9000, "virtualdev": true, "slaves": "eno1,eno2", "ipaddress": "10.0.2.7",
        "ipmask": "255.255.255.0", "ipsubnet": "10.0.2.0", "ipgateway": "10.0.2.1",
    });
    let networks = found["networks"].as_array().unwrap();
    assert_eq!(networks[0], bond);
    assert_eq!(networks[1]["ipaddress6"], "fd00::7");
    assert_eq!(networks[1]["ipmask6"], "ffff:ffff:ffff:ffff::");
    assert_eq!(networks[1]["ipsubnet6"], "fd00::");
    assert_eq!(
        networks[2],
        json!({
            "description": "eno1", "type": "ethernet", "status": "up", "mac": "02:aa:00:00:00:01",
            "speed": "10000", "virtualdev": false, "driver": "ixgbe", "pcislot": "0000:01:00.0",
        })
    );
    assert_eq!(
        networks[3],
        json!({
            "description": "eno2", "type": "ethernet", "status": "down", "virtualdev": true,
        })
    );
    assert_eq!(networks[4]["type"], "loopback");
    assert_eq!(networks.len(), 5);
}

#[test]
fn processes_have_their_owners_and_shares() {
    let found = server().collect(&[]);
    assert_eq!(
        found["processes"],
        json!([
            {"cmd": "/sbin/init splash", "pid": 1, "user": "root", "cpuusage": "0.1", "mem": "1.0",
             "virtualmemory": 166_992, "tty": "?", "started": "2026-11-24 13:08:41"},
            {"cmd": "[kworker]", "pid": 22, "user": "ann", "cpuusage": "0.0", "mem": "0.0",
             "virtualmemory": 0, "tty": "pts/0", "started": "2026-11-24 13:08:46"},
        ])
    );
}

#[test]
fn an_empty_tree_is_a_machine_that_tells_nothing() {
    let found = Fixture::new(&[]).collect(&[]);
    assert_eq!(found["hardware"], json!({"vmsystem": "Physical"}));
    for section in [
        "bios",
        "cpus",
        "networks",
        "softwares",
        "drives",
        "storages",
        "users",
    ] {
        assert!(found.get(section).is_none(), "{section}");
    }
}

#[test]
fn virtual_machines_and_containers_are_told_apart() {
    for (files, expected) in [
        (vec![(".dockerenv", "")], "Docker"),
        (vec![("proc/1/environ", "a=b\0container=lxc\0")], "lxc"),
        (vec![("sys/class/dmi/id/sys_vendor", "QEMU")], "QEMU"),
        (
            vec![("sys/class/dmi/id/sys_vendor", "VMware, Inc.")],
            "VMware",
        ),
        (
            vec![("sys/class/dmi/id/product_name", "VirtualBox")],
            "VirtualBox",
        ),
        (
            vec![("proc/cpuinfo", "processor: 0\nflags : fpu hypervisor")],
            "Virtual Machine",
        ),
        (
            vec![("proc/cpuinfo", "processor: 0\nflags : fpu")],
            "Physical",
        ),
    ] {
        assert_eq!(
            Fixture::new(&files).collect(&[])["hardware"]["vmsystem"],
            expected,
            "{files:?}"
        );
    }
}

#[test]
fn an_arm_board_is_described_by_its_device_tree() {
    let found = Fixture::new(&[
        ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
        ("proc/device-tree/serial-number", "10000000abcdef01\0"),
        ("proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\n\nprocessor\t: 1\nCPU implementer\t: 0x41\n\nModel\t\t: Raspberry Pi 4\n"),
        ("proc/sys/kernel/arch", "aarch64"),
    ])
    .collect(&[]);
    assert_eq!(found["bios"]["smodel"], "Raspberry Pi 4 Model B Rev 1.4");
    assert_eq!(found["bios"]["ssn"], "10000000abcdef01");
    assert_eq!(
        found["cpus"],
        json!([{"name": "Raspberry Pi 4", "manufacturer": "ARM", "core": 2, "thread": 2,
                "arch": "aarch64"}])
    );
}

#[test]
fn categories_can_be_left_out() {
    let fixture = server();
    let now = "2026-11-24T13:00:00Z".parse().unwrap();
    let left = left_out(&json!({"no-category": "software, Process"})).unwrap();
    let found = collect(fixture.dir.path(), &[], now, &left);
    assert!(found.get("softwares").is_none() && found.get("processes").is_none());
    assert!(found.get("hardware").is_some());
    assert_eq!(
        left_out(&json!({"no-category": ["os", "user"]})).unwrap(),
        ["os", "user"]
    );
    assert!(left_out(&json!({"no-category": [1]})).is_err());
    assert!(left_out(&json!([])).is_err());
}

/// Whatever stands in the files, the answer is an inventory and no panic.
#[test]
fn garbage_in_the_files_is_survived() {
    let fixture = server();
    for (path, bytes) in [
        ("proc/cpuinfo", &b"processor\n\n:::\nprocessor :\n\n"[..]),
        ("proc/meminfo", b"MemTotal: many kB\nSwapTotal:"),
        ("proc/net/route", b"x\ny\tzz\t\n\xff\xff\n"),
        ("proc/mounts", b"one\ntwo words\n\xff \xfe ext4\n"),
        ("proc/stat", b"btime 99999999999999999999\n"),
        ("proc/1/stat", b"1 (x"),
        ("proc/22/stat", b"22 () S"),
        ("etc/os-release", b"NAME\n=\nID='debian"),
        ("etc/passwd", b":::::::::\n\n::\n"),
        ("etc/group", b":\n:::,,\n"),
        ("etc/timezone", b"../../etc/shadow"),
        (
            "var/lib/dpkg/status",
            b"\n\n\n:\nStatus: install ok installed\nPackage\n",
        ),
        ("var/log/wtmp", &[7; 1000]),
        ("sys/class/dmi/id/chassis_type", b"999"),
        ("sys/firmware/dmi/tables/DMI", &[17, 40, 0, 0, 1]),
        ("sys/block/nvme0n1/size", b"-1"),
    ] {
        fixture.put(path, bytes);
    }
    let found = fixture.collect(&[]);
    assert_eq!(found["operatingsystem"]["timezone"]["name"], "UTC");
    assert_eq!(found["versionclient"], CLIENT);
}
