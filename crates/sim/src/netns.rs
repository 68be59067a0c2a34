//! Network namespaces for tests that need addresses, ports or links of their own.
//!
//! Making one needs root; a test that cannot says so loudly, and fails in CI.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A network namespace, at first with loopback only; gone when dropped.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    /// A new one, or `None` without root, which is said loudly.
    ///
    /// # Panics
    /// When `CI` is set and this is not root; when the system refuses.
    #[expect(
        clippy::print_stderr,
        reason = "a test that does not run must not look like one that did"
    )]
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            assert!(
                std::env::var_os("CI").is_none(),
                "a network namespace needs root"
            );
            eprintln!("\n*** NOT RUN: a network namespace needs root ***\n");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("muster-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let made = Self(name);
        run(Command::new("ip").args(["-n", &made.0, "link", "set", "lo", "up"]));
        Some(made)
    }

    /// Joins two by a wire of their own; `ours` and `theirs` are the addresses of its ends, with the
    /// length of their prefix.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn join(&self, ours: &str, other: &Self, theirs: &str) {
        let pair = ["link", "add", "wire", "type", "veth", "peer", "name"];
        run(Command::new("ip")
            .args(["-n", &self.0])
            .args(pair)
            .args(["wire", "netns", &other.0]));
        for (namespace, address) in [(self, ours), (other, theirs)] {
            let ip = || {
                let mut ip = Command::new("ip");
                ip.args(["-n", &namespace.0]);
                ip
            };
            run(ip().args(["address", "add", address, "dev", "wire"]));
            run(ip().args(["link", "set", "wire", "up"]));
        }
    }

    /// A command inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is left of it goes with the machine; there is nobody to tell.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Runs `command` to its end.
///
/// # Panics
/// When it cannot be run or fails, with what it said.
pub fn run(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => panic!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Err(error) => panic!("{command:?} cannot be run: {error}"),
    }
}
