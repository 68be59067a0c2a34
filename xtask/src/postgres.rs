//! A PostgreSQL for the tests: its own folder, a free loopback port, gone at the end.
//!
//! PostgreSQL refuses to run as root, so as root its programs run as the user `postgres` that the
//! package made. `fsync` is off: the tests kill our processes, not this server's machine.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::{output, run};

/// Where Debian puts the programs, by major version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// A running server; dropping it stops it and removes its folder.
pub(crate) struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
}

impl Postgres {
    /// Initialises a cluster in a new folder and starts it.
    ///
    /// # Errors
    /// When no PostgreSQL is installed, or it does not start.
    pub(crate) fn start() -> Result<Self> {
        let programs = programs()?;
        let folder = std::env::temp_dir().join(format!("muster-postgres-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let server = Self {
            programs,
            folder,
            port: free_port()?,
        };
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(&server.folder))?;
        }
        run(server
            .program("initdb")
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .args(["--no-sync", "--no-instructions", "--pgdata"])
            .arg(server.data())
            .stdout(std::process::Stdio::null()))?;
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={} -c fsync=off \
             -c max_connections=200",
            server.port,
            server.folder.display(),
        );
        run(server
            .program("pg_ctl")
            .args(["start", "--wait", "--silent", "--pgdata"])
            .arg(server.data())
            .arg("--log")
            .arg(server.folder.join("log"))
            .arg("--options")
            .arg(options))?;
        Ok(server)
    }

    /// The address of the `postgres` database, for the superuser and without a password.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let path = self.programs.join(name);
        let mut command = if is_root() {
            let mut runuser = Command::new("runuser");
            runuser.args(["-u", "postgres", "--"]).arg(path);
            runuser
        } else {
            Command::new(path)
        };
        command.current_dir("/");
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let stopped = run(self
            .program("pg_ctl")
            .args(["stop", "--mode=immediate", "--silent", "--pgdata"])
            .arg(self.data()));
        if let Err(error) = stopped {
            eprintln!("warning: {error:#}");
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("warning: removing {}: {error}", self.folder.display());
        }
    }
}

/// Starts a server, prints its address, and keeps it until standard input ends.
pub(crate) fn serve() -> Result<()> {
    let server = Postgres::start()?;
    eprintln!("MUSTER_TEST_POSTGRES={}", server.url());
    eprintln!("it stops when standard input ends");
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .context("reading standard input")?;
    Ok(())
}

/// The programs of the newest version installed.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir(PROGRAMS).with_context(|| format!("reading {PROGRAMS}"))?;
    let newest = versions
        .filter_map(|entry| entry.ok())
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max();
    let Some(newest) = newest else {
        bail!("no PostgreSQL under {PROGRAMS}")
    };
    Ok(Path::new(PROGRAMS).join(newest.to_string()).join("bin"))
}

/// A port that was free a moment ago; the server fails to start should it be taken meanwhile.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("asking for a free port")?;
    Ok(listener.local_addr().context("reading the port")?.port())
}

fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}
