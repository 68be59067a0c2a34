//! Items beside those of a real Zabbix agent on the same machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_agent::tools::items::{Items, wire_text};
use muster_net::Clock;

struct RealAgent {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        // It ends its workers itself when asked to.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

impl RealAgent {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // It takes ports below 32768 only, which the system hands nobody by itself.
        let first = 20_000 + std::process::id() % 10_000;
        let port = (first..first + 1_000)
            .filter_map(|port| u16::try_from(port).ok())
            .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
            .unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "Server=127.0.0.1\nListenIP=127.0.0.1\nListenPort={port}\nHostname=agent-1\n\
             AllowRoot=1\nStartAgents=1\nLogFile={}\nPidFile={}\n",
            path("log"),
            path("pid"),
        );
        std::fs::write(path("conf"), config).unwrap();
        let child = Command::new("zabbix_agentd")
            .args(["-f", "-c", &path("conf")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("zabbix_agentd runs; `cargo xtask setup` installs it");
        Self {
            child,
            port,
            _dir: dir,
        }
    }

    /// Asks for a key the way a server does; `None` while nobody listens yet.
    fn ask(&self, key: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        let length = u32::try_from(key.len()).unwrap().to_le_bytes();
        let frame = [b"ZBXD\x01", &length[..], &[0; 4], key.as_bytes()].concat();
        stream.write_all(&frame).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let body = String::from_utf8_lossy(answer.get(13..)?).into_owned();
        Some(
            body.strip_prefix("ZBX_NOTSUPPORTED\0")
                .unwrap_or(&body)
                .to_owned(),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_agree_with_the_original() {
    let real = RealAgent::start();
    let clock = Clock::system();
    let ready = async {
        while real.ask("agent.ping").is_none_or(|pong| pong != "1") {
            clock.sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready)
        .await
        .expect("it starts");
    let items = Items::new("/", "agent-1");
    items.tick(clock.instant());
    let ours = |key: &str| match items.read_item(key, clock.now()) {
        Ok(value) => wire_text(&value),
        Err(error) => error.to_string(),
    };
    let mut apart = Vec::new();
    for key in [
        "agent.ping",
        "agent.hostname",
        "agent.variant",
        "kernel.maxproc",
        "net.if.discovery",
        "system.boottime",
        "system.cpu.num",
        "system.cpu.num[max]",
        "system.hostname",
        "system.sw.arch",
        "system.swap.size[,total]",
        "system.uname",
        "vfs.fs.inode[/,total]",
        "vfs.fs.size[/,total]",
        "vm.memory.size",
        "vm.memory.size[total]",
        // The words of refusals as well.
        "agent.ping[",
        "agent.ping[x]",
        "net.if.in",
        "net.if.in[eth99]",
        "net.if.in[lo,x]",
        "no.such.key",
        "system.cpu.load[all,avg2]",
        "system.cpu.load[x]",
        "system.cpu.load[all,avg1,x]",
        "system.cpu.util[,x]",
        "vfs.fs.size",
        "vfs.fs.size[/nosuch]",
        "vfs.fs.size[/,x]",
        "vm.memory.size[x]",
    ] {
        let (ours, theirs) = (ours(key), real.ask(key).unwrap());
        if ours != theirs {
            apart.push((key, ours, theirs));
        }
    }
    assert!(apart.is_empty(), "{apart:#?}");
    // What moves on is close, and of the same form: both whole, or both with six digits.
    for (key, slack) in [
        ("net.if.in[lo]", 1e6),
        ("net.if.out[lo,packets]", 1e4),
        ("system.cpu.intr", 1e7),
        ("system.cpu.load[all,avg15]", 1.0),
        ("system.cpu.load[percpu,avg1]", 4.0),
        ("system.localtime", 3.0),
        ("system.swap.size[,free]", 1e9),
        ("system.uptime", 3.0),
        ("vfs.fs.size[/,free]", 1e9),
        ("vfs.fs.size[/,pused]", 1.0),
        ("vfs.fs.size[/,used]", 1e9),
        ("vm.memory.size[available]", 4e9),
        ("vm.memory.size[pavailable]", 20.0),
        ("vm.memory.size[used]", 4e9),
    ] {
        let (ours, theirs) = (ours(key), real.ask(key).unwrap());
        let fraction = |text: &str| text.split_once('.').map_or(0, |(_, digits)| digits.len());
        assert_eq!(
            fraction(&ours),
            fraction(&theirs),
            "{key}: {ours} and {theirs}"
        );
        let apart = (ours.parse::<f64>().unwrap() - theirs.parse::<f64>().unwrap()).abs();
        assert!(apart <= slack, "{key}: {ours} and {theirs}");
    }
}
