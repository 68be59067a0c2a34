//! Finding and keeping real peers: programs of other people that tests run Muster against.
//!
//! A test whose peer is not installed says loudly that it did not run; in CI, where the gate has
//! installed everything, that is a failure. A running peer is ended with its guard.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Where Debian puts programs, whatever the caller's `PATH` says.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The program `name`, or `None` when it is not here, which is said loudly.
///
/// # Panics
/// When it is not here and `CI` is set: the gate installs `package`.
#[expect(
    clippy::print_stderr,
    reason = "a test that does not run must not look like one that did"
)]
pub fn program(name: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(FOLDERS.iter().map(PathBuf::from));
    let found = folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{name} is not installed, and CI is set: apt-get install {package}"
        );
        eprintln!(
            "\n*** NOT RUN: {name} is not installed; `apt-get install {package}` and run this again ***\n"
        );
    }
    found
}

/// A port on loopback that nobody had a moment ago.
///
/// # Panics
/// When the system has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map_or_else(
        |error| panic!("no free port: {error}"),
        |address| address.port(),
    )
}

/// A port on loopback between 20000 and 32767 that nobody had a moment ago: Zabbix daemons listen on no
/// higher one.
///
/// # Panics
/// When there is none.
pub fn free_low_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_768;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that look at the same time begin in different places.
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start.wrapping_add(step) % COUNT);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} to {} is free", FIRST + COUNT - 1);
}

/// A running peer; dropped, it is asked to end, and killed when it does not within ten seconds.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    what: String,
}

impl Peer {
    /// Starts `command` with its output in `log`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let what = command.get_program().to_string_lossy().into_owned();
        let started = fs::File::create(log)
            .and_then(|out| Ok((out.try_clone()?, out)))
            .and_then(|(out, err)| command.stdin(Stdio::null()).stdout(out).stderr(err).spawn());
        match started {
            Ok(child) => Self { child, what },
            Err(error) => panic!("{what} does not start: {error}"),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it at once, as a power cut would, and waits for its end.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        let asked = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let patience = if asked.is_ok() {
            Duration::from_secs(10)
        } else {
            Duration::ZERO
        };
        let ended = wait_until(patience, || !self.is_running());
        if !ended && self.kill().is_err() && !thread::panicking() {
            panic!("{} cannot be ended", self.what);
        }
    }
}

/// Looks every few milliseconds whether `done`, for at most `patience`; whether it was.
#[expect(clippy::disallowed_methods, reason = "real peers live in real time")]
pub fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    // Nothing is ever sent: this is a pause that the sender's end would cut short.
    let (_keep, pause) = mpsc::channel::<()>();
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        let _ = pause.recv_timeout(Duration::from_millis(50));
    }
}

/// Waits until something accepts connections there.
pub fn listens(address: SocketAddr, patience: Duration) -> bool {
    wait_until(patience, || TcpStream::connect(address).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_found_and_nonsense_is_not() {
        assert!(program("sh", "dash").is_some());
        if std::env::var_os("CI").is_none() {
            assert!(program("no-such-program-of-muster", "nothing").is_none());
        }
    }

    #[test]
    fn a_peer_ends_with_its_guard() {
        let folder = std::env::temp_dir().join(format!("muster-peers-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let mut peer = Peer::start(Command::new("sleep").arg("1000"), &folder.join("log"));
        assert!(peer.is_running());
        let proc = PathBuf::from(format!("/proc/{}", peer.pid()));
        assert!(proc.exists());
        drop(peer);
        assert!(!proc.exists());
        fs::remove_dir_all(&folder).expect("removable");
    }
}
