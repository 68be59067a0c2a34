//! Cargo tools of the gate, at the versions it was written against.

use std::process::Command;

use anyhow::Result;

use crate::run::{cargo, output, run};

/// A cargo subcommand that is installed from the registry when it is missing.
pub(crate) struct Tool {
    /// Name of the crate and of the program.
    name: &'static str,
    /// The subcommand, as `cargo` takes it.
    subcommand: &'static str,
    /// Installed when the tool is missing; one that is there is used whatever its version.
    version: &'static str,
}

/// Runs the tests.
pub(crate) const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    subcommand: "nextest",
    version: "0.9.143",
};

/// Checks licences, bans and sources of the dependencies.
pub(crate) const DENY: Tool = Tool {
    name: "cargo-deny",
    subcommand: "deny",
    version: "0.20.2",
};

/// Explores the fuzz targets; only the soak needs it.
pub(crate) const FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    subcommand: "fuzz",
    version: "0.13.1",
};

impl Tool {
    /// Installs the tool unless it is there.
    pub(crate) fn ensure(&self) -> Result<()> {
        let there = output(Command::new(self.name).args([self.subcommand, "--version"])).is_some()
            || output(cargo().args([self.subcommand, "--version"])).is_some();
        if there {
            return Ok(());
        }
        // Not into the target folder of the workspace: its lock is held by nobody else there.
        run(cargo().args(["install", "--locked", "--version", self.version, self.name]))
    }
}
