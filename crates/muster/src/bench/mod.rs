//! Load generators: put work on a server and say what it did, honestly.
//!
//! They speak to loopback unless told otherwise, one file for each wire. What is shared is counting.

pub(crate) mod fusion;
pub(crate) mod pscheduler;
pub(crate) mod teeth;
pub(crate) mod zabbix;

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::cli::args::Global;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::Output;

/// Times of single operations.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    micros: Vec<u64>,
}

impl Latencies {
    /// Takes one.
    pub(crate) fn add(&mut self, time: Duration) {
        self.micros
            .push(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Takes all of another.
    pub(crate) fn merge(&mut self, other: Self) {
        self.micros.extend(other.micros);
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.micros.len()
    }

    /// The time in milliseconds that `percent` of them did not exceed; nearest rank.
    pub(crate) fn percentile_ms(&mut self, percent: u32) -> Option<f64> {
        self.micros.sort_unstable();
        let rank = (self.micros.len() * percent as usize).div_ceil(100).max(1) - 1;
        self.micros
            .get(rank)
            .map(|micros| round(*micros as f64 / 1000.0))
    }
}

/// Takes the agents of a load, whose names begin with `prefix`, out of the server's list again.
pub(crate) async fn remove_agents(global: &Global, out: Output, prefix: &str) {
    let removed = async {
        let client = Client::find(global)?;
        let agents = client.list("agents", &[]).await?;
        for agent in &agents {
            let name = agent
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let id = agent.get("id").and_then(Value::as_str).unwrap_or_default();
            if name.starts_with(prefix) {
                client.delete(&format!("agents/{id}")).await?;
            }
        }
        Ok::<(), CliError>(())
    };
    if let Err(error) = removed.await {
        out.say(&format!(
            "the agents {prefix}* stay in the server's list: {error}"
        ));
    }
}

/// Three digits behind the point are more than such a figure is good for.
pub(crate) fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// Lets this process open as many files as it may; returns how many.
pub(crate) fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = if setrlimit(Resource::Nofile, wanted).is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    current.unwrap_or(u64::MAX)
}

/// Memory that a process on this machine holds, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_ms(95), None);
        for ms in (1..=100).rev() {
            latencies.add(Duration::from_millis(ms));
        }
        assert_eq!(latencies.percentile_ms(50), Some(50.0));
        assert_eq!(latencies.percentile_ms(95), Some(95.0));
        assert_eq!(latencies.percentile_ms(100), Some(100.0));
    }

    #[test]
    fn this_process_holds_memory() {
        assert!(resident_bytes(std::process::id()).unwrap() > 100_000);
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
