//! The gate and the chores of the repository.
//!
//! `cargo xtask ci` is the whole gate: it installs what the gate needs on a bare Debian 12, starts
//! a PostgreSQL of its own, and runs every check. `cargo xtask ci PART` runs one part alone. What
//! is checked sits in [`gate`]; this file only reads the command line.

#![expect(
    clippy::print_stderr,
    reason = "the gate talks to a person or a log on stderr"
)]

mod debian;
mod gate;
mod postgres;
mod run;
mod soak;
mod tools;

use clap::{Parser, Subcommand};
use gate::Part;

/// Debian packages that the build with `psk` and the tests with real peers need.
///
/// A name here is installed by the gate when it runs as root and the package is missing. Nothing
/// that a package would start is started: a `policy-rc.d` refuses it during the installation.
pub(crate) const DEBIAN_PACKAGES: &[&str] = &[
    // The `psk` feature links the system's OpenSSL.
    "gcc",
    "libssl-dev",
    "pkg-config",
    // Both databases of the store tests; `sqlite3` looks into those of real peers.
    "postgresql-15",
    "sqlite3",
    // The real FusionInventory agent with its network task; the libraries decide what it can scan.
    "fusioninventory-agent",
    "fusioninventory-agent-task-network",
    "libcrypt-des-perl",
    "libcrypt-rijndael-perl",
    "libdigest-hmac-perl",
    "libnet-nbname-perl",
    "net-tools",
    "nmap",
    // Devices for it to find.
    "snmp",
    "snmpd",
    "snmpsim",
    // The real Zabbix proxy and agent; `zabbix_sender` comes with the agent.
    "fping",
    "zabbix-agent",
    "zabbix-proxy-sqlite3",
    // Network namespaces for the real peers, `runuser` and `setpriv`; fingerprints; the list of files.
    "git",
    "iproute2",
    "openssl",
    "procps",
    "util-linux",
];

#[derive(Parser)]
#[command(about = "The gate and the chores of the repository")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the whole gate, or the named parts of it in the order given.
    Ci {
        /// The parts to run; all of them when none is named.
        parts: Vec<Part>,
    },
    /// Installs the Debian packages and cargo tools that the gate needs, and stops.
    Setup,
    /// Fuzzes every decoder with cargo-fuzz (nightly Rust) and plays many seeds of the simulator.
    Soak(soak::Soak),
    /// Starts a PostgreSQL for the store tests and keeps it until standard input ends.
    Postgres,
}

fn main() {
    let outcome = match Cli::parse().command {
        Command::Ci { parts } => gate::run_gate(&parts),
        Command::Setup => gate::setup(),
        Command::Postgres => postgres::serve(),
        Command::Soak(wanted) => soak::soak(&wanted),
    };
    if let Err(error) = outcome {
        eprintln!("error: {error:#}");
        std::process::exit(1);
    }
}
