//! The parts of the gate and their order.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::postgres::Postgres;
use crate::run::{cargo, run};
use crate::{DEBIAN_PACKAGES, debian, tools};

/// Names the address of the PostgreSQL that every store test runs on beside SQLite.
const POSTGRES_VARIABLE: &str = "MUSTER_TEST_POSTGRES";

/// Names the folder that the Debian package [`ZABBIX_SERVER`] is unpacked in.
const ZABBIX_SERVER_VARIABLE: &str = "MUSTER_TEST_ZABBIX_SERVER";

/// Conflicts with the proxy that other tests need, so it is unpacked and not installed. What it needs
/// comes with that proxy and with PostgreSQL.
const ZABBIX_SERVER: &str = "zabbix-server-pgsql";

/// Tests that start real peers live in test binaries named `peers_…` and `real_…`.
const PEERS: &str = "binary(/^(peers|real)_/)";

/// One part of the gate. The whole gate runs them in this order: what fails fast comes first, and
/// the tests last, so that their summary ends the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The sources are formatted.
    Fmt,
    /// Licences, bans and sources of the dependencies follow `deny.toml`.
    Deny,
    /// No lint fires with the `psk` feature, and the workspace builds without it.
    Clippy,
    /// The documentation builds without a broken link.
    Doc,
    /// All tests pass: doctests, unit and integration tests, those with real peers among them.
    Test,
    /// Only the tests with real peers; in the whole gate they are a share of `test`.
    Peers,
}

/// Runs `parts`, or the whole gate when none is named.
pub(crate) fn run_gate(parts: &[Part]) -> Result<()> {
    if parts.is_empty() {
        setup()?;
        for part in [Part::Fmt, Part::Deny, Part::Clippy, Part::Doc, Part::Test] {
            part.run()?;
        }
        return Ok(());
    }
    parts.iter().try_for_each(|part| part.run())
}

/// Installs everything that the gate needs.
pub(crate) fn setup() -> Result<()> {
    debian::install(DEBIAN_PACKAGES)?;
    zabbix_server()?;
    tools::NEXTEST.ensure()?;
    tools::DENY.ensure()
}

/// The folder of a real Zabbix server, unpacked into the target folder once.
fn zabbix_server() -> Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let peers = target.join("peers");
    fs::create_dir_all(&peers).with_context(|| format!("creating {}", peers.display()))?;
    let folder = fs::canonicalize(&peers)
        .with_context(|| format!("finding {}", peers.display()))?
        .join(ZABBIX_SERVER);
    debian::unpack(ZABBIX_SERVER, &folder)?;
    Ok(folder)
}

impl Part {
    fn run(self) -> Result<()> {
        match self {
            Self::Fmt => run(cargo().args(["fmt", "--all", "--check"])),
            Self::Deny => {
                tools::DENY.ensure()?;
                run(cargo().args(["deny", "--locked", "check", "licenses", "bans", "sources"]))
            }
            Self::Clippy => clippy(),
            Self::Doc => run(cargo()
                .args(["doc", "--workspace", "--no-deps", "--locked"])
                .args(["--features", "muster/psk"])
                .env("RUSTDOCFLAGS", "-D warnings")),
            Self::Test => {
                run(cargo()
                    .args(["test", "--doc", "--workspace", "--locked"])
                    .args(["--features", "muster/psk"]))?;
                nextest(&[])
            }
            Self::Peers => nextest(&["-E", PEERS]),
        }
    }
}

/// Lints with `psk`, then builds without it: a bare machine has no libssl.
fn clippy() -> Result<()> {
    run(cargo()
        .args(["clippy", "--workspace", "--all-targets", "--locked"])
        .args(["--features", "muster/psk", "--", "-D", "warnings"]))?;
    run(cargo().args(["check", "--package", "muster", "--locked"]))
}

/// Runs the tests beside a PostgreSQL that lives as long as they do.
fn nextest(filter: &[&str]) -> Result<()> {
    debian::install(DEBIAN_PACKAGES)?;
    tools::NEXTEST.ensure()?;
    let mut command = cargo();
    command
        .args(["nextest", "run", "--workspace", "--locked"])
        .args(["--features", "muster/psk", "--profile", "ci"])
        .args(filter)
        .env(ZABBIX_SERVER_VARIABLE, zabbix_server()?);
    if env::var_os(POSTGRES_VARIABLE).is_some() {
        return run(&mut command);
    }
    let postgres = Postgres::start()?;
    run(command.env(POSTGRES_VARIABLE, postgres.url()))
}
