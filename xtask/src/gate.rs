//! The parts of the gate and their order.

use std::env;

use anyhow::Result;
use clap::ValueEnum;

use crate::postgres::Postgres;
use crate::run::{cargo, run};
use crate::{DEBIAN_PACKAGES, debian, tools};

/// Names the address of the PostgreSQL that every store test runs on beside SQLite.
const POSTGRES_VARIABLE: &str = "MUSTER_TEST_POSTGRES";

/// Tests that start real peers live in test binaries named `peers_…` and `real_…` or `real_…`.
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
    tools::NEXTEST.ensure()?;
    tools::DENY.ensure()
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
        .args(filter);
    if env::var_os(POSTGRES_VARIABLE).is_some() {
        return run(&mut command);
    }
    let postgres = Postgres::start()?;
    run(command.env(POSTGRES_VARIABLE, postgres.url()))
}
