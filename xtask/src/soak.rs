//! What takes hours and is run by hand: coverage-guided fuzzing and many seeds of the simulator.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::run::{cargo, output, run};
use crate::tools;

/// How long, and how much.
#[derive(Args)]
pub(crate) struct Soak {
    /// Seconds for each fuzz target
    #[arg(long, default_value_t = 600)]
    fuzz_seconds: u32,
    /// Fuzz only these targets
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
    /// Seeds of the simulated fleet
    #[arg(long, default_value_t = 1_000_000)]
    seeds: u64,
}

/// An input that needs more memory or time than this is a finding.
const LIMITS: [&str; 3] = ["-rss_limit_mb=2048", "-malloc_limit_mb=256", "-timeout=1"];

/// Fuzzes every target, then plays the seeds; stops at the first finding.
pub(crate) fn soak(soak: &Soak) -> Result<()> {
    if output(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])).is_none() {
        bail!("fuzzing needs nightly Rust; next: rustup toolchain install nightly");
    }
    tools::FUZZ.ensure()?;
    let known = targets()?;
    for name in &soak.targets {
        if !known.contains(name) {
            bail!("no fuzz target {name:?}; there are: {}", known.join(", "));
        }
    }
    for target in &known {
        if soak.targets.is_empty() || soak.targets.contains(target) {
            // What it finds goes beside the corpus, so that the stored one changes by hand only.
            let found = format!("fuzz/target/found/{target}");
            fs::create_dir_all(&found).with_context(|| format!("creating {found}"))?;
            run(Command::new("cargo")
                .args(["+nightly", "fuzz", "run", target.as_str(), found.as_str()])
                .arg(format!("fuzz/corpus/{target}"))
                .arg("--")
                .arg(format!("-max_total_time={}", soak.fuzz_seconds))
                .args(LIMITS)
                .env_remove("CARGO")
                .env_remove("RUSTUP_TOOLCHAIN"))?;
        }
    }
    if soak.seeds == 0 {
        return Ok(());
    }
    tools::NEXTEST.ensure()?;
    run(cargo()
        .args([
            "nextest",
            "run",
            "--release",
            "--locked",
            "--profile",
            "soak",
        ])
        .args(["-p", "muster-sim", "--test", "fleet"])
        .env("MUSTER_SIM_SEEDS", soak.seeds.to_string()))
}

/// The fuzz targets, by name.
fn targets() -> Result<Vec<String>> {
    let folder = Path::new("fuzz/fuzz_targets");
    let entries = fs::read_dir(folder)
        .with_context(|| format!("reading {}; run this in the repository", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        if let Some(name) = entry?.path().file_stem().and_then(|name| name.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
