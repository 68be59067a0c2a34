//! Section `processes`, from `/proc`.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::accounts;
use super::tree::{Entry, Tree, clean, colon_value};

/// Clock ticks a second in what the kernel tells user space; fixed on Linux.
const TICKS: f64 = 100.0;
/// Longest command line that is reported, in bytes.
const COMMAND_BYTES_MAX: usize = 4096;

pub(super) fn processes(tree: Tree<'_>, zone: &TimeZone, now: Timestamp) -> Value {
    let names = accounts::names(tree);
    let stat = tree.text("proc/stat").unwrap_or_default();
    let boot = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let meminfo = tree.text("proc/meminfo").unwrap_or_default();
    let total = colon_value(&meminfo, "MemTotal").and_then(kilobytes);
    let mut ids = tree
        .names("proc")
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect::<Vec<u32>>();
    ids.sort_unstable();
    let entries = ids.iter().filter_map(|id| {
        let status = tree.text(&format!("proc/{id}/status"))?;
        let stat = tree.text(&format!("proc/{id}/stat"))?;
        // The name stands in parentheses and may hold anything, so the fields begin after the last.
        let (before, after) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1;
        let fields = after.split_whitespace().collect::<Vec<_>>();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let command = tree.text(&format!("proc/{id}/cmdline")).unwrap_or_default();
        let command = clean(&command.replace('\0', " ")).unwrap_or_else(|| format!("[{name}]"));
        let user = colon_value(&status, "Uid")?
            .split_whitespace()
            .next()?
            .parse::<u32>()
            .ok()?;
        let started = boot? + field(22)? / TICKS;
        let lived = now.as_second() as f64 - started;
        let busy = (field(14)? + field(15)?) / TICKS;
        let percent = if lived > 0.0 {
            100.0 * busy / lived
        } else {
            0.0
        };
        let resident = colon_value(&status, "VmRSS")
            .and_then(kilobytes)
            .unwrap_or(0.0);
        let share = total.map_or(0.0, |total| 100.0 * resident / total);
        let mut entry = Entry::default();
        entry
            .put("cmd", cut(&command))
            .put("pid", *id)
            .put(
                "user",
                names
                    .get(&user)
                    .cloned()
                    .unwrap_or_else(|| user.to_string()),
            )
            .put("cpuusage", format!("{percent:.1}"))
            .put("mem", format!("{share:.1}"))
            .put(
                "virtualmemory",
                field(23).map_or(0, |bytes| (bytes / 1024.0) as i64),
            )
            .put("tty", terminal(field(7).unwrap_or(0.0) as u32))
            .maybe(
                "started",
                Timestamp::from_second(started as i64)
                    .ok()
                    .map(|time| super::machine::stamp(time, zone)),
            );
        Some(entry.done())
    });
    Value::Array(entries.collect())
}

fn kilobytes(text: &str) -> Option<f64> {
    text.strip_suffix("kB")?.trim().parse().ok()
}

fn cut(command: &str) -> &str {
    command
        .get(..command.floor_char_boundary(COMMAND_BYTES_MAX))
        .unwrap_or_default()
}

/// A controlling terminal by its device number.
fn terminal(device: u32) -> String {
    let (major, minor) = (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xfff00),
    );
    match major {
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        _ => "?".to_owned(),
    }
}
