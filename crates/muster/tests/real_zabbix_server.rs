//! Our agent against a real `zabbix_server` 6.0 of Debian with PostgreSQL, in every role and mode of a
//! `zabbix://` URL.
//!
//! One server knows four peers, and one `muster agent run` is all of them: an agent that asks it, an agent
//! that it asks, a proxy that comes to it and a proxy that it comes to. What counts is what arrives in its
//! database. The proxies poll a real `zabbix_agentd`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use muster_sim::peers::{Peer, free_low_port, program, wait_until};

/// No step takes longer, unless something has hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names the folder that the package `zabbix-server-pgsql` is unpacked in.
const SERVER_VARIABLE: &str = "MUSTER_TEST_ZABBIX_SERVER";
/// Names the PostgreSQL of the tests.
const POSTGRES_VARIABLE: &str = "MUSTER_TEST_POSTGRES";

/// What the gate sets, or `None`, said loudly.
#[expect(
    clippy::print_stderr,
    reason = "a test that does not run must not look like one that did"
)]
fn from_gate(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{variable} is not set");
        eprintln!("\n*** NOT RUN: {variable} is not set; `cargo xtask ci peers` sets it ***\n");
    }
    value
}

/// A database of its own for the real server.
struct Database {
    host: String,
    port: String,
    user: String,
    name: String,
}

impl Database {
    /// Creates it where `url` (`postgres://USER@HOST:PORT/NAME`) says, with the schema of the package.
    fn create(url: &str, schema: &Path) -> Self {
        let rest = url.strip_prefix("postgres://").unwrap();
        let (user, rest) = rest.split_once('@').unwrap();
        let (place, _) = rest.split_once('/').unwrap();
        let (host, port) = place.split_once(':').unwrap();
        let database = Self {
            host: host.to_owned(),
            port: port.to_owned(),
            user: user.to_owned(),
            name: format!("zabbix_{}", std::process::id()),
        };
        database.psql("postgres", &format!("create database {}", database.name));
        let unzipped = Command::new("gunzip")
            .arg("-c")
            .arg(schema)
            .output()
            .unwrap();
        assert!(unzipped.status.success());
        database.run(&String::from_utf8(unzipped.stdout).unwrap());
        database
    }

    fn run(&self, sql: &str) -> String {
        self.psql(&self.name, sql)
    }

    /// What `psql` prints for `sql`, which is one transaction.
    fn psql(&self, database: &str, sql: &str) -> String {
        use std::io::Write as _;
        let mut command = Command::new("psql");
        command
            .args(["-h", &self.host, "-p", &self.port, "-U", &self.user])
            .args(["-d", database, "-AtqX", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(sql.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// How many values of `item` lie in a table of history, each time counted once.
    fn count(&self, table: &str, item: u64) -> usize {
        let sql = format!("select count(distinct (clock, ns)) from {table} where itemid = {item}");
        self.run(&sql).parse().unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("drop database if exists {} with (force)", self.name);
        self.psql("postgres", &sql);
    }
}

/// The real server, its database, a real agent, and where their files are. Fields end in this order.
struct World {
    server: Option<Peer>,
    _agent: Peer,
    database: Database,
    folder: tempfile::TempDir,
    program: PathBuf,
    port: u16,
    passive_agent: u16,
    passive_proxy: u16,
}

impl World {
    fn start() -> Option<Self> {
        let unpacked = PathBuf::from(from_gate(SERVER_VARIABLE)?);
        let postgres = from_gate(POSTGRES_VARIABLE)?;
        let agentd = program("zabbix_agentd", "zabbix-agent")?;
        let folder = tempfile::tempdir().unwrap();
        let agent_port = free_low_port();
        let schema = unpacked.join("usr/share/zabbix-server-pgsql/schema.sql.gz");
        let mut world = Self {
            server: None,
            _agent: start_agent(folder.path(), &agentd, agent_port),
            database: Database::create(&postgres, &schema),
            folder,
            program: unpacked.join("usr/sbin/zabbix_server"),
            port: free_low_port(),
            passive_agent: free_low_port(),
            passive_proxy: free_low_port(),
        };
        let seed = include_str!("zabbix_server/seed.sql")
            .replace("@REAL_AGENT@", &agent_port.to_string())
            .replace("@PASSIVE_AGENT@", &world.passive_agent.to_string())
            .replace("@PASSIVE_PROXY@", &world.passive_proxy.to_string());
        world.database.run(&seed);
        world.start_server();
        Some(world)
    }

    fn start_server(&mut self) {
        let dir = self.folder.path().display();
        let database = &self.database;
        let config = [
            "ListenIP=127.0.0.1".to_owned(),
            format!("ListenPort={}", self.port),
            "LogType=file".to_owned(),
            format!("LogFile={dir}/server.log"),
            "LogFileSize=0".to_owned(),
            format!("PidFile={dir}/server.pid"),
            format!("SocketDir={dir}"),
            format!("DBHost={}", database.host),
            format!("DBPort={}", database.port),
            format!("DBName={}", database.name),
            format!("DBUser={}", database.user),
            "AllowRoot=1".to_owned(),
            "CacheUpdateFrequency=1".to_owned(),
            "ProxyConfigFrequency=1".to_owned(),
            "ProxyDataFrequency=1".to_owned(),
            "StartPollers=1".to_owned(),
            "StartPollersUnreachable=1".to_owned(),
            "StartTrappers=2".to_owned(),
            "StartProxyPollers=1".to_owned(),
            "StartPingers=0".to_owned(),
            "StartHTTPPollers=0".to_owned(),
            "StartDiscoverers=0".to_owned(),
            "StartDBSyncers=1".to_owned(),
            "StartAlerters=1".to_owned(),
            "StartEscalators=1".to_owned(),
            "StartLLDProcessors=1".to_owned(),
            "StartPreprocessors=1".to_owned(),
            "StartTimers=1".to_owned(),
            "UnavailableDelay=1".to_owned(),
            "UnreachableDelay=1".to_owned(),
        ];
        let path = self.folder.path().join("server.conf");
        fs::write(&path, config.join("\n") + "\n").unwrap();
        let mut command = Command::new(&self.program);
        command.arg("-f").arg("-c").arg(path);
        let out = self.folder.path().join("server.out");
        self.server = Some(Peer::start(&mut command, &out));
        let ready = wait_until(PATIENCE, || {
            self.log("server.log").contains("server #0 started")
        });
        assert!(ready, "{}", self.logs());
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// The last lines of every log.
    fn logs(&self) -> String {
        let mut out = String::new();
        for name in ["server.log", "server.out", "muster.log", "agent.log"] {
            let text = self.log(name);
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(30);
            out.push_str(&format!("--- {name}\n{}\n", lines[from..].join("\n")));
        }
        out
    }

    /// `muster agent run` with a link for each of `servers`.
    fn start_muster(&self, servers: &[String]) -> Peer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.args(["agent", "run", "--state"]);
        command.arg(self.folder.path().join("state"));
        for server in servers {
            command.arg("--server").arg(server);
        }
        Peer::start(&mut command, &self.folder.path().join("muster.log"))
    }

    fn until(&self, what: &str, done: impl FnMut() -> bool) {
        assert!(wait_until(PATIENCE, done), "never: {what}\n{}", self.logs());
    }

    /// Waits until an item has so many values.
    fn has(&self, what: &str, table: &str, item: u64, count: usize) {
        self.until(what, || self.database.count(table, item) >= count);
    }

    /// Waits until an item is not supported, for this reason.
    fn is_unsupported(&self, what: &str, item: u64, why: &str) {
        let sql = format!("select state, error from item_rtdata where itemid = {item}");
        self.until(what, || self.database.run(&sql) == format!("1|{why}"));
    }
}

fn start_agent(folder: &Path, program: &Path, port: u16) -> Peer {
    let dir = folder.display();
    let config = [
        "Server=127.0.0.1".to_owned(),
        "Hostname=mon-a".to_owned(),
        "ListenIP=127.0.0.1".to_owned(),
        format!("ListenPort={port}"),
        "StartAgents=2".to_owned(),
        "AllowRoot=1".to_owned(),
        "LogType=file".to_owned(),
        format!("LogFile={dir}/agent.log"),
        "LogFileSize=0".to_owned(),
        format!("PidFile={dir}/agent.pid"),
    ];
    let path = folder.join("agent.conf");
    fs::write(&path, config.join("\n") + "\n").unwrap();
    let mut command = Command::new(program);
    command.arg("-f").arg("-c").arg(path);
    Peer::start(&mut command, &folder.join("agent.out"))
}

#[test]
fn a_real_server_stores_what_we_collect() {
    let Some(mut world) = World::start() else {
        return;
    };
    let url = |port: u16, rest: &str| format!("zabbix://127.0.0.1:{port}?{rest}");
    let servers = [
        url(world.port, "role=agent&mode=active&name=lab-active"),
        url(
            world.passive_agent,
            "role=agent&mode=passive&name=lab-passive",
        ),
        url(world.port, "role=proxy&mode=active&name=px-active"),
        url(
            world.passive_proxy,
            "role=proxy&mode=passive&name=px-passive",
        ),
    ];
    let muster = world.start_muster(&servers);

    // The agent that asks.
    world.has("agent.ping of the active agent", "history_uint", 932_001, 3);
    world.has("system.cpu.load of the active agent", "history", 932_002, 1);
    world.is_unsupported("a bad key", 932_003, "Unsupported item key.");

    // The agent that is asked.
    world.has(
        "agent.ping of the passive agent",
        "history_uint",
        933_001,
        3,
    );
    world.has(
        "agent.hostname of the passive agent",
        "history_str",
        933_002,
        1,
    );
    world.is_unsupported("a bad key", 933_003, "Unsupported item key.");
    let name = "select distinct value from history_str where itemid = 933002";
    assert_eq!(world.database.run(name), "lab-passive");

    // The proxy that is come to.
    world.has(
        "agent.ping by the passive proxy",
        "history_uint",
        931_001,
        3,
    );

    // The proxy that comes.
    world.has("agent.ping by the active proxy", "history_uint", 930_001, 3);
    world.has(
        "agent.version by the active proxy",
        "history_str",
        930_003,
        1,
    );
    world.is_unsupported("a bad key", 930_002, "Unsupported item key.");
    let version = "select distinct value from history_str where itemid = 930003";
    assert_eq!(world.database.run(version), "6.0.14");
    let available = "select count(*) from interface where type = 1 and available = 1 \
        and interfaceid in (20010, 20020, 20040)";
    world.until("availability", || world.database.run(available) == "3");
    let seen = "select count(*) from hosts where status in (5, 6) and lastaccess > 0";
    assert_eq!(world.database.run(seen), "2");

    // What the server wants done is refused in words it understands.
    let tasks: String = [(101, 20_001, 20_010), (102, 20_002, 20_020)]
        .into_iter()
        .map(|(task, proxy, host)| {
            format!(
                "insert into task (taskid,type,status,clock,ttl,proxy_hostid)
                   values ({task},2,1,extract(epoch from now()),600,{proxy});
                 insert into task_remote_command (taskid,command_type,execute_on,port,authtype,username,
                     password,publickey,privatekey,command,alertid,parent_taskid,hostid)
                   values ({task},0,2,0,0,'','','','','id',null,{task},{host});\n"
            )
        })
        .collect();
    world.database.run(&tasks);
    let refused = "select count(*) from task_remote_command_result where parent_taskid in (101, 102) \
        and info = 'Remote commands are not enabled'";
    world.until("refusals", || world.database.run(refused) == "2");

    // The server goes away and comes back: what was collected meanwhile arrives.
    let pinged = [930_001, 931_001, 932_001];
    let before = pinged.map(|item| world.database.count("history_uint", item));
    world.server = None;
    world.until("the outage", || {
        world.log("muster.log").contains("values were not taken")
    });
    world.start_server();
    for (item, before) in pinged.into_iter().zip(before) {
        world.has("values after the outage", "history_uint", item, before + 4);
    }
    drop(muster);
    let twice = "select count(*) - count(distinct (itemid, clock, ns)) from history_uint";
    assert_eq!(world.database.run(twice), "0", "no value is there twice");
    // A real server complains of nothing that we sent.
    let log = world.log("server.log");
    for complaint in [
        "cannot parse",
        "invalid",
        "is less than last id",
        "failed to",
    ] {
        assert!(!log.contains(complaint), "{complaint}: {}", world.logs());
    }
    assert!(!world.log("muster.log").contains("panicked"));
}
