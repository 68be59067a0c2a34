//! Debian packages: which are missing, and their installation without starting a service.
//!
//! A package that conflicts with an installed one is unpacked beside the system instead.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::{output, run};

/// Asked by every package before it starts a service; exit status 101 means "do not".
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs those of `packages` that are missing.
///
/// # Errors
/// When something is missing and this is not root, or apt fails.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let user = output(Command::new("id").arg("-u")).unwrap_or_default();
    if user.trim() != "0" {
        bail!(
            "these Debian packages are missing: {0}\n  \
             next: run `apt-get install --no-install-recommends {0}` as root, then again",
            missing.join(" ")
        );
    }
    let _policy = Policy::refuse_services()?;
    run(apt().args(["update", "-qq"]))?;
    run(apt()
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&missing))
}

/// Unpacks `package` into `folder` unless that is done, without installing it: nothing of it is
/// configured, and what it depends on must be installed.
///
/// # Errors
/// When it cannot be downloaded or unpacked.
pub(crate) fn unpack(package: &str, folder: &Path) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let new = folder.with_extension(format!("new-{}", std::process::id()));
    fs::create_dir_all(&new).with_context(|| format!("creating {}", new.display()))?;
    let download = || {
        run(apt()
            .args(["-o", "APT::Sandbox::User=root", "-qq", "download"])
            .arg(package)
            .current_dir(&new))
    };
    // Without lists, as in a fresh container, there is nothing to download from.
    if download().is_err() {
        run(apt().args(["update", "-qq"]))?;
        download()?;
    }
    let archive = fs::read_dir(&new)
        .with_context(|| format!("reading {}", new.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get downloaded no {package}"))?;
    run(Command::new("dpkg").arg("-x").arg(&archive).arg(&new))?;
    fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))?;
    // The name appears with all of it, or not at all.
    fs::rename(&new, folder).with_context(|| format!("creating {}", folder.display()))
}

fn is_installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}", package]))
        .is_some_and(|status| status.starts_with("ii"))
}

/// apt that asks nothing and waits for another one to end.
fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-o", "DPkg::Lock::Timeout=300"]);
    apt
}

/// Keeps packages from starting services while it lives. One that was there before stays as it is.
struct Policy {
    ours: bool,
}

impl Policy {
    fn refuse_services() -> Result<Self> {
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY);
        match opened {
            Ok(mut file) => {
                let policy = Self { ours: true };
                file.write_all(b"#!/bin/sh\nexit 101\n")
                    .with_context(|| format!("writing {POLICY}"))?;
                Ok(policy)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(Self { ours: false })
            }
            Err(error) => Err(error).with_context(|| format!("creating {POLICY}")),
        }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours && Path::new(POLICY).exists() {
            // Left behind it would only keep services from starting by themselves; nothing to do.
            let _ = fs::remove_file(POLICY);
        }
    }
}
