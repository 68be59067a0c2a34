//! Items of a machine that is a tree of files.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const DEV: &str = "Inter-|   Receive                                                |  Transmit\n \
    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0\n  \
    eth0: 5000000000  20    1    2    3     4          5         6     7000      30    8    9   10    11      12         13\n";

fn machine() -> (tempfile::TempDir, Items) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("proc/sys/kernel/hostname", "node-1\n"),
        ("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
        ("proc/sys/kernel/version", "#1 SMP Debian\n"),
        ("proc/sys/kernel/arch", "x86_64\n"),
        ("proc/sys/kernel/pid_max", "32768\n"),
        ("proc/sys/fs/file-max", "9223372036854775807\n"),
        ("proc/uptime", "12345.67 100.00\n"),
        ("proc/loadavg", "0.50 1.25 2.00 1/100 999\n"),
        (
            "proc/stat",
            "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0\nintr 77 1 2\nctxt 88\nbtime 1795522121\n",
        ),
        (
            "proc/meminfo",
            "MemTotal:        1000 kB\nMemFree:          200 kB\nMemAvailable:     500 kB\nBuffers:           10 kB\nCached:            20 kB\nSwapTotal:          0 kB\nSwapFree:           0 kB\n",
        ),
        ("proc/net/dev", DEV),
        (
            "proc/net/route",
            "Iface\tDestination\neth0\t0000A8C0\neth0\t00000000\n",
        ),
        (
            "proc/mounts",
            "/dev/vda / ext4 rw 0 0\nproc /proc proc rw 0 0\n",
        ),
        (
            "proc/1/status",
            "Name:\tinit\nState:\tS (sleeping)\nUid:\t0\t0\t0\t0\n",
        ),
        ("proc/1/cmdline", "/sbin/init\0"),
        (
            "proc/20/status",
            "Name:\ta-very-long-nam\nState:\tR (running)\nUid:\t1000\t0\t0\t0\n",
        ),
        ("proc/20/cmdline", "/opt/a-very-long-name\0-x\0"),
        (
            "proc/21/status",
            "Name:\tzombie\nState:\tZ (zombie)\nUid:\t0\t0\t0\t0\n",
        ),
        (
            "etc/passwd",
            "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n",
        ),
        ("sys/devices/system/cpu/online", "0-1,3\n"),
        ("sys/devices/system/cpu/present", "0-7\n"),
    ] {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let items = Items::new(dir.path(), "agent-1");
    (dir, items)
}

fn now() -> Timestamp {
    "2026-11-24T13:00:00Z".parse().unwrap()
}

#[test]
fn values_have_the_originals_types() {
    let (_dir, items) = machine();
    items.tick(muster_net::clock::Clock::system().instant());
    for (key, expected) in [
        ("agent.ping", Value::Unsigned(1)),
        ("agent.hostname", Value::Text("agent-1".into())),
        ("agent.variant", Value::Unsigned(1)),
        ("agent.version", Value::Text(env!("CARGO_PKG_VERSION").into())),
        ("kernel.maxproc", Value::Unsigned(32_768)),
        ("kernel.maxfiles", Value::Unsigned(9_223_372_036_854_775_807)),
        ("net.if.in[eth0]", Value::Unsigned(5_000_000_000)),
        ("net.if.in[eth0,packets]", Value::Unsigned(20)),
        ("net.if.in[eth0,multicast]", Value::Unsigned(6)),
        ("net.if.out[\"eth0\",errors]", Value::Unsigned(8)),
        ("net.if.out[eth0,collisions]", Value::Unsigned(11)),
        ("net.if.total[eth0,bytes]", Value::Unsigned(5_000_007_000)),
        ("net.if.discovery", Value::Text(r#"[{"{#IFNAME}":"lo"},{"{#IFNAME}":"eth0"}]"#.into())),
        ("proc.num", Value::Unsigned(3)),
        ("proc.num[]", Value::Unsigned(3)),
        ("proc.num[init]", Value::Unsigned(1)),
        ("proc.num[a-very-long-name]", Value::Unsigned(1)),
        ("proc.num[,ann]", Value::Unsigned(1)),
        ("proc.num[,root]", Value::Unsigned(2)),
        ("proc.num[,nobody-here]", Value::Unsigned(0)),
        ("proc.num[,,run]", Value::Unsigned(1)),
        ("proc.num[,,zomb]", Value::Unsigned(1)),
        ("system.boottime", Value::Unsigned(1_795_522_121)),
        ("system.cpu.intr", Value::Unsigned(77)),
        ("system.cpu.switches", Value::Unsigned(88)),
        ("system.cpu.load", Value::Float(0.5)),
        ("system.cpu.load[all,avg15]", Value::Float(2.0)),
        ("system.cpu.load[percpu,avg5]", Value::Float(1.25 / 3.0)),
        ("system.cpu.num", Value::Unsigned(3)),
        ("system.cpu.num[max]", Value::Unsigned(8)),
        ("system.cpu.util", Value::Float(10.0)),
        ("system.cpu.util[,idle,avg5]", Value::Float(80.0)),
        ("system.cpu.util[0,system,avg15,logical]", Value::Float(10.0)),
        ("system.hostname", Value::Text("node-1".into())),
        ("system.localtime", Value::Unsigned(1_795_525_200)),
        ("system.swap.size", Value::Unsigned(0)),
        ("system.swap.size[,pfree]", Value::Float(100.0)),
        ("system.sw.arch", Value::Text("x86_64".into())),
        ("system.uname", Value::Text("Linux node-1 6.1.0-18-amd64 #1 SMP Debian x86_64".into())),
        ("system.uptime", Value::Unsigned(12_345)),
        ("vfs.fs.discovery", Value::Text(
            r##"[{"{#FSNAME}":"/","{#FSTYPE}":"ext4"},{"{#FSNAME}":"/proc","{#FSTYPE}":"proc"}]"##.into(),
        )),
        ("vm.memory.size", Value::Unsigned(1_024_000)),
        ("vm.memory.size[available]", Value::Unsigned(512_000)),
        ("vm.memory.size[used]", Value::Unsigned(819_200)),
        ("vm.memory.size[pused]", Value::Float(80.0)),
        ("vm.memory.size[pavailable]", Value::Float(50.0)),
    ] {
        assert_eq!(items.read_item(key, now()), Ok(expected), "{key}");
    }
    for key in [
        "vfs.fs.size[/]",
        "vfs.fs.size[/,used]",
        "vfs.fs.inode[/,free]",
    ] {
        assert!(
            matches!(items.read_item(key, now()), Ok(Value::Unsigned(_))),
            "{key}"
        );
    }
    let Ok(Value::Float(used)) = items.read_item("vfs.fs.size[/,pused]", now()) else {
        panic!()
    };
    let Ok(Value::Float(free)) = items.read_item("vfs.fs.size[/,pfree]", now()) else {
        panic!()
    };
    assert!((used + free - 100.0).abs() < 1.0, "{used} {free}");
}

#[test]
fn refusals_have_the_originals_words() {
    let (_dir, items) = machine();
    for (key, expected) in [
        ("nosuch.key", "Unsupported item key."),
        ("agent.ping[", "Invalid item key format."),
        ("agent.ping[x]", "Item does not allow parameters."),
        ("system.run[id]", "Unsupported item key."),
        ("vfs.file.contents[/etc/shadow]", "Unsupported item key."),
        ("system.cpu.load[all,avg2]", "Invalid second parameter."),
        ("system.cpu.load[x]", "Invalid first parameter."),
        ("system.cpu.load[all,avg1,x]", "Too many parameters."),
        ("system.cpu.util", "Collector is not started."),
        ("system.cpu.util[,x]", "Invalid second parameter."),
        ("system.cpu.util[,,x]", "Invalid third parameter."),
        ("net.if.in", "Network interface name cannot be empty."),
        ("net.if.in[eth0,x]", "Invalid second parameter."),
        (
            "net.if.in[eth9]",
            "Cannot find information for this network interface in /proc/net/dev.",
        ),
        ("vfs.fs.size", "Filesystem name cannot be empty."),
        (
            "vfs.fs.size[/nosuch]",
            "Cannot obtain filesystem information: [2] No such file or directory",
        ),
        ("vfs.fs.size[/,x]", "Invalid second parameter."),
        ("vm.memory.size[x]", "Invalid first parameter."),
        ("system.swap.size[sda1]", "Invalid first parameter."),
        ("proc.num[,,x]", "Invalid third parameter."),
    ] {
        assert_eq!(
            items.read_item(key, now()).unwrap_err().to_string(),
            expected,
            "{key}"
        );
    }
}

#[test]
fn values_are_written_as_the_original_writes_them() {
    assert_eq!(wire_text(&Value::Float(0.5)), "0.500000");
    assert_eq!(wire_text(&Value::Float(1.25 / 3.0)), "0.416667");
    assert_eq!(
        wire_text(&Value::Unsigned(u64::MAX)),
        "18446744073709551615"
    );
    assert_eq!(wire_text(&Value::Text("a b".into())), "a b");
}

#[test]
fn suggestions_exist_on_the_machine() {
    let (_dir, items) = machine();
    items.tick(muster_net::clock::Clock::system().instant());
    let list = items.suggestions();
    assert_eq!(list.last().unwrap().key, "net.if.in[eth0]");
    for suggestion in list {
        let value = items.read_item(&suggestion.key, now()).unwrap();
        let fits = match value {
            Value::Float(_) => suggestion.value_type == ValueType::Float,
            Value::Unsigned(_) => suggestion.value_type == ValueType::Unsigned,
            Value::Log(_) | Value::Text(_) => false,
        };
        assert!(fits, "{suggestion:?} is {value:?}");
    }
}

#[test]
fn an_empty_machine_has_errors_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let items = Items::new(dir.path(), "x");
    items.tick(muster_net::clock::Clock::system().instant());
    let error = items
        .read_item("system.uptime", now())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "Cannot open /proc/uptime: [2] No such file or directory"
    );
    for key in [
        "system.cpu.num",
        "vm.memory.size",
        "net.if.in[lo]",
        "system.uname",
        "proc.num",
    ] {
        assert!(items.read_item(key, now()).is_err(), "{key}");
    }
}
