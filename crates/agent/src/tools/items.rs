//! Values of this machine by item key, in the syntax and with the answers of Zabbix agents.
//!
//! The keys are a built-in list of what looks and never acts: no file is read that a key names,
//! no program is run. Values have the type the original gives them; texts of errors are the
//! original's, as operators search for them.

mod cpu;
mod key;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use muster_core::sample::{Value, ValueType};
use serde_json::json;

pub use key::{BadKey, Key};

/// Why an item has no value: what becomes its error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// The key is none.
    #[error(transparent)]
    BadKey(#[from] BadKey),
    /// No item of that name.
    #[error("Unsupported item key.")]
    Unknown,
    /// The item exists but not so, or not here.
    #[error("{0}")]
    NotSupported(String),
}

impl ItemError {
    fn new(text: impl Into<String>) -> Self {
        Self::NotSupported(text.into())
    }

    fn invalid(position: usize) -> Self {
        const WORDS: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];
        let word = WORDS.get(position).unwrap_or(&"last");
        Self::new(format!("Invalid {word} parameter."))
    }
}

type Answer = Result<Value, ItemError>;

/// An item worth watching on any machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// Its key.
    pub key: String,
    /// A name for people.
    pub name: String,
    /// The type of its values.
    pub value_type: ValueType,
    /// Unit of its values.
    pub unit: &'static str,
}

/// The items of one machine.
#[derive(Debug)]
pub struct Items {
    root: PathBuf,
    hostname: String,
    cpu: Arc<Mutex<cpu::History>>,
}

impl Items {
    /// Items of the machine below `root`, for an agent that calls itself `hostname`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, hostname: impl Into<String>) -> Self {
        Self {
            root: root.into(),
            hostname: hostname.into(),
            cpu: Arc::default(),
        }
    }

    /// The same items for who knows this machine by another name.
    #[must_use]
    pub fn named(&self, hostname: impl Into<String>) -> Self {
        Self {
            root: self.root.clone(),
            hostname: hostname.into(),
            cpu: Arc::clone(&self.cpu),
        }
    }

    /// A few items of processor, memory, disk and network that exist on this machine.
    #[must_use]
    pub fn suggestions(&self) -> Vec<Suggestion> {
        let suggest = |key: &str, name: &str, value_type, unit| Suggestion {
            key: key.to_owned(),
            name: name.to_owned(),
            value_type,
            unit,
        };
        let mut list = vec![
            suggest(
                "system.cpu.load[all,avg1]",
                "Processor load",
                ValueType::Float,
                "",
            ),
            suggest(
                "system.cpu.util[,user]",
                "Processor time of users",
                ValueType::Float,
                "%",
            ),
            suggest(
                "vm.memory.size[available]",
                "Available memory",
                ValueType::Unsigned,
                "B",
            ),
            suggest(
                "vfs.fs.size[/,pused]",
                "Space used on /",
                ValueType::Float,
                "%",
            ),
        ];
        if let Some(interface) = self.main_interface() {
            let key = format!("net.if.in[{interface}]");
            let name = format!("Bytes received on {interface}");
            list.push(suggest(&key, &name, ValueType::Unsigned, "B"));
        }
        list
    }

    /// The interface of the default route, else the first one.
    fn main_interface(&self) -> Option<String> {
        let routes = self.read("proc/net/route").unwrap_or_default();
        let routed = routes.lines().skip(1).find_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            (words.next()? == "00000000").then(|| name.to_owned())
        });
        routed.or_else(|| {
            let table = self.read("proc/net/dev").ok()?;
            table
                .lines()
                .skip(2)
                .find_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        })
    }

    /// Takes a sample of the counters that windows are made of; to be called each second.
    pub fn tick(&self, now: Instant) {
        if let Ok(text) = self.read("proc/stat") {
            self.history().add(now, cpu::Stat::parse(&text));
        }
    }

    /// The value of an item. Blocks on small files of the kernel.
    ///
    /// # Errors
    /// [`ItemError`], whose text is what a server is told.
    pub fn read_item(&self, key: &str, now: Timestamp) -> Answer {
        let key = Key::parse(key)?;
        let unsigned = |number: Result<u64, ItemError>| number.map(Value::Unsigned);
        let text = |text: Result<String, ItemError>| text.map(Value::Text);
        match key.name.as_str() {
            "agent.ping" => limited(&key, 0).map(|()| Value::Unsigned(1)),
            "agent.hostname" => limited(&key, 0).map(|()| Value::Text(self.hostname.clone())),
            "agent.variant" => limited(&key, 0).map(|()| Value::Unsigned(1)),
            "agent.version" => {
                limited(&key, 0).map(|()| Value::Text(env!("CARGO_PKG_VERSION").into()))
            }
            "kernel.maxfiles" => unsigned(self.plain(&key, "proc/sys/fs/file-max")),
            "kernel.maxproc" => unsigned(self.plain(&key, "proc/sys/kernel/pid_max")),
            "net.if.discovery" => text(self.interfaces(&key)),
            "net.if.in" => unsigned(self.traffic(&key, &[IN])),
            "net.if.out" => unsigned(self.traffic(&key, &[OUT])),
            "net.if.total" => unsigned(self.traffic(&key, &[IN, OUT])),
            "proc.num" => unsigned(self.processes(&key)),
            "system.boottime" => unsigned(limited(&key, 0).and_then(|()| self.stat_line("btime"))),
            "system.cpu.intr" => unsigned(limited(&key, 0).and_then(|()| self.stat_line("intr"))),
            "system.cpu.load" => self.load(&key),
            "system.cpu.num" => unsigned(self.processors(&key)),
            "system.cpu.switches" => {
                unsigned(limited(&key, 0).and_then(|()| self.stat_line("ctxt")))
            }
            "system.cpu.util" => self.utilisation(&key),
            "system.hostname" => text(limited(&key, 2).and_then(|()| self.kernel("hostname"))),
            "system.localtime" => local_time(&key, now),
            "system.sw.arch" => text(limited(&key, 0).map(|()| self.arch())),
            "system.swap.size" => self.swap(&key),
            "system.uname" => text(self.uname(&key)),
            "system.uptime" => unsigned(self.uptime(&key)),
            "vfs.fs.discovery" => text(self.file_systems(&key)),
            "vfs.fs.inode" => self.inodes(&key),
            "vfs.fs.size" => self.space(&key),
            "vm.memory.size" => self.memory(&key),
            _ => Err(ItemError::Unknown),
        }
    }

    fn history(&self) -> MutexGuard<'_, cpu::History> {
        match self.cpu.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    fn read(&self, path: &str) -> Result<String, ItemError> {
        std::fs::read_to_string(self.root.join(path))
            .map_err(|error| ItemError::new(format!("Cannot open /{path}: {}", code(&error))))
    }

    fn kernel(&self, name: &str) -> Result<String, ItemError> {
        Ok(self
            .read(&format!("proc/sys/kernel/{name}"))?
            .trim()
            .to_owned())
    }

    fn arch(&self) -> String {
        self.kernel("arch")
            .unwrap_or_else(|_| std::env::consts::ARCH.to_owned())
    }

    /// A file that holds one number.
    fn plain(&self, key: &Key, path: &str) -> Result<u64, ItemError> {
        limited(key, 0)?;
        let text = self.read(path)?;
        // The kernel's "no limit" may exceed what the original can say.
        text.trim()
            .parse()
            .map_err(|_| ItemError::new(format!("Cannot obtain data from /{path}.")))
    }

    fn stat_line(&self, name: &str) -> Result<u64, ItemError> {
        let text = self.read("proc/stat")?;
        let found = text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
        });
        found
            .ok_or_else(|| ItemError::new(format!("Cannot find a line with {name} in /proc/stat.")))
    }

    fn uptime(&self, key: &Key) -> Result<u64, ItemError> {
        limited(key, 0)?;
        let text = self.read("proc/uptime")?;
        let whole = text
            .split('.')
            .next()
            .and_then(|seconds| seconds.parse().ok());
        whole.ok_or_else(|| ItemError::new("Cannot obtain system information."))
    }

    fn uname(&self, key: &Key) -> Result<String, ItemError> {
        limited(key, 0)?;
        let (host, release) = (self.kernel("hostname")?, self.kernel("osrelease")?);
        Ok(format!(
            "Linux {host} {release} {} {}",
            self.kernel("version")?,
            self.arch()
        ))
    }

    fn processors(&self, key: &Key) -> Result<u64, ItemError> {
        limited(key, 1)?;
        let file = match key.parameter(0).unwrap_or("online") {
            "online" => "sys/devices/system/cpu/online",
            "max" => "sys/devices/system/cpu/present",
            _ => return Err(ItemError::invalid(0)),
        };
        let listed = self
            .read(file)
            .ok()
            .and_then(|text| count_list(text.trim()));
        let counted = || {
            let text = self.read("proc/cpuinfo")?;
            Ok(text
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count() as u64)
        };
        listed.map_or_else(counted, Ok)
    }

    fn load(&self, key: &Key) -> Answer {
        limited(key, 2)?;
        let position = match key.parameter(1).unwrap_or("avg1") {
            "avg1" => 0,
            "avg5" => 1,
            "avg15" => 2,
            _ => return Err(ItemError::invalid(1)),
        };
        let divisor = match key.parameter(0).unwrap_or("all") {
            "all" => 1.0,
            "percpu" => {
                let all = Key {
                    name: String::new(),
                    parameters: Vec::new(),
                };
                self.processors(&all)?.max(1) as f64
            }
            _ => return Err(ItemError::invalid(0)),
        };
        let text = self.read("proc/loadavg")?;
        let load = text
            .split_whitespace()
            .nth(position)
            .and_then(|word| word.parse::<f64>().ok());
        let load = load.ok_or_else(|| ItemError::new("Cannot obtain load average."))?;
        Ok(Value::Float(load / divisor))
    }

    fn utilisation(&self, key: &Key) -> Answer {
        limited(key, 4)?;
        let row = match key.parameter(0).unwrap_or("all") {
            "all" => 0,
            number => number
                .parse::<usize>()
                .map_err(|_| ItemError::invalid(0))?
                .saturating_add(1),
        };
        let state = key.parameter(1).unwrap_or("user");
        let state = cpu::STATES
            .iter()
            .position(|name| *name == state)
            .ok_or(ItemError::invalid(1))?;
        let minutes = match key.parameter(2).unwrap_or("avg1") {
            "avg1" => 1,
            "avg5" => 5,
            "avg15" => 15,
            _ => return Err(ItemError::invalid(2)),
        };
        if !["logical"].contains(&key.parameter(3).unwrap_or("logical")) {
            return Err(ItemError::invalid(3));
        }
        let percent = self
            .history()
            .percent(row, state, Duration::from_secs(60 * minutes));
        percent.map(Value::Float).ok_or_else(|| match row {
            0 => ItemError::new("Collector is not started."),
            _ => ItemError::new("Cannot obtain CPU information."),
        })
    }

    /// A line of `/proc/meminfo`, in bytes.
    fn memory_line(text: &str, name: &str) -> Result<u64, ItemError> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes =
            line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kilobytes
            .and_then(|kilobytes| kilobytes.checked_mul(1024))
            .ok_or_else(|| ItemError::new("Cannot obtain the value from /proc/meminfo."))
    }

    fn memory(&self, key: &Key) -> Answer {
        limited(key, 1)?;
        let text = self.read("proc/meminfo")?;
        let line = |name| Self::memory_line(&text, name);
        let percent = |part: u64, total: u64| match total {
            0 => Err(ItemError::new(
                "Cannot calculate percentage because total is zero.",
            )),
            total => Ok(Value::Float(part as f64 / total as f64 * 100.0)),
        };
        let bytes = |bytes: Result<u64, ItemError>| bytes.map(Value::Unsigned);
        let used = || Ok::<_, ItemError>(line("MemTotal")?.saturating_sub(line("MemFree")?));
        match key.parameter(0).unwrap_or("total") {
            "total" => bytes(line("MemTotal")),
            "free" => bytes(line("MemFree")),
            "buffers" => bytes(line("Buffers")),
            "cached" => bytes(line("Cached")),
            "active" => bytes(line("Active")),
            "inactive" => bytes(line("Inactive")),
            "anon" => bytes(line("AnonPages")),
            "slab" => bytes(line("Slab")),
            "used" => bytes(used()),
            "pused" => percent(used()?, line("MemTotal")?),
            "available" => bytes(line("MemAvailable")),
            "pavailable" => percent(line("MemAvailable")?, line("MemTotal")?),
            _ => Err(ItemError::invalid(0)),
        }
    }

    fn swap(&self, key: &Key) -> Answer {
        limited(key, 2)?;
        if key.parameter(0).is_some_and(|device| device != "all") {
            return Err(ItemError::invalid(0));
        }
        let text = self.read("proc/meminfo")?;
        let (total, free) = (
            Self::memory_line(&text, "SwapTotal")?,
            Self::memory_line(&text, "SwapFree")?,
        );
        let percent = |part: u64| {
            Value::Float(if total == 0 {
                0.0
            } else {
                part as f64 / total as f64 * 100.0
            })
        };
        Ok(match key.parameter(1).unwrap_or("free") {
            "free" => Value::Unsigned(free),
            "total" => Value::Unsigned(total),
            "used" => Value::Unsigned(total.saturating_sub(free)),
            "pfree" if total == 0 => Value::Float(100.0),
            "pfree" => percent(free),
            "pused" => percent(total.saturating_sub(free)),
            _ => return Err(ItemError::invalid(1)),
        })
    }

    fn statvfs(&self, key: &Key) -> Result<rustix::fs::StatVfs, ItemError> {
        limited(key, 2)?;
        let path = key
            .parameter(0)
            .ok_or_else(|| ItemError::new("Filesystem name cannot be empty."))?;
        rustix::fs::statvfs(self.root.join(path.trim_start_matches('/'))).map_err(|error| {
            let error = std::io::Error::from(error);
            ItemError::new(format!(
                "Cannot obtain filesystem information: {}",
                code(&error)
            ))
        })
    }

    fn space(&self, key: &Key) -> Answer {
        let stat = self.statvfs(key)?;
        let bytes = |blocks: u64| Value::Unsigned(blocks.saturating_mul(stat.f_frsize));
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let for_users = used.saturating_add(stat.f_bavail);
        let percent = |part: u64| match for_users {
            0 => Err(ItemError::new(
                "Cannot be calculated because file system size is zero.",
            )),
            whole => Ok(Value::Float(100.0 * part as f64 / whole as f64)),
        };
        Ok(match key.parameter(1).unwrap_or("total") {
            "total" => bytes(stat.f_blocks),
            "free" => bytes(stat.f_bavail),
            "used" => bytes(used),
            "pfree" => percent(stat.f_bavail)?,
            "pused" => percent(used)?,
            _ => return Err(ItemError::invalid(1)),
        })
    }

    fn inodes(&self, key: &Key) -> Answer {
        let stat = self.statvfs(key)?;
        let used = stat.f_files.saturating_sub(stat.f_ffree);
        let for_users = used.saturating_add(stat.f_favail);
        let percent = |part: u64| match for_users {
            0 => Err(ItemError::new(
                "Cannot be calculated because the number of inodes is zero.",
            )),
            whole => Ok(Value::Float(100.0 * part as f64 / whole as f64)),
        };
        Ok(match key.parameter(1).unwrap_or("total") {
            "total" => Value::Unsigned(stat.f_files),
            "free" => Value::Unsigned(stat.f_favail),
            "used" => Value::Unsigned(used),
            "pfree" => percent(stat.f_favail)?,
            "pused" => percent(used)?,
            _ => return Err(ItemError::invalid(1)),
        })
    }

    fn file_systems(&self, key: &Key) -> Result<String, ItemError> {
        limited(key, 0)?;
        let mounts = self.read("proc/mounts")?;
        let rows = mounts.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (name, kind) = (words.next()?.replace("\\040", " "), words.next()?);
            Some(json!({"{#FSNAME}": name, "{#FSTYPE}": kind}))
        });
        Ok(serde_json::Value::Array(rows.collect()).to_string())
    }

    fn interfaces(&self, key: &Key) -> Result<String, ItemError> {
        limited(key, 0)?;
        let table = self.read("proc/net/dev")?;
        let rows = table.lines().skip(2).filter_map(|line| {
            let (name, _) = line.split_once(':')?;
            Some(json!({"{#IFNAME}": name.trim()}))
        });
        Ok(serde_json::Value::Array(rows.collect()).to_string())
    }

    /// The sum of counters of one interface; each direction has its columns by mode.
    fn traffic(&self, key: &Key, directions: &[&[(&str, usize)]]) -> Result<u64, ItemError> {
        limited(key, 2)?;
        let interface = key
            .parameter(0)
            .ok_or_else(|| ItemError::new("Network interface name cannot be empty."))?;
        let mode = key.parameter(1).unwrap_or("bytes");
        let columns = directions
            .iter()
            .map(|columns| {
                columns
                    .iter()
                    .find(|(name, _)| *name == mode)
                    .map(|(_, at)| *at)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(ItemError::invalid(1))?;
        let table = self.read("proc/net/dev")?;
        let counters = table.lines().find_map(|line| {
            let (name, counters) = line.split_once(':')?;
            (name.trim() == interface).then_some(counters)
        });
        let counters = counters.ok_or_else(|| {
            ItemError::new("Cannot find information for this network interface in /proc/net/dev.")
        })?;
        let counters = counters.split_whitespace().collect::<Vec<_>>();
        columns
            .iter()
            .map(|at| counters.get(*at)?.parse::<u64>().ok())
            .try_fold(0_u64, |sum, counter| sum.checked_add(counter?))
            .ok_or_else(|| ItemError::new("Cannot read /proc/net/dev."))
    }

    fn processes(&self, key: &Key) -> Result<u64, ItemError> {
        limited(key, 4)?;
        let name = key.parameter(0);
        let user = match key.parameter(1) {
            None => None,
            Some(user) => match self.user_id(user) {
                Some(id) => Some(id),
                // A user that does not exist has no processes.
                None => return Ok(0),
            },
        };
        let states = match key.parameter(2).unwrap_or("all") {
            "all" => "",
            "disk" => "D",
            "run" => "R",
            "sleep" => "S",
            "trace" => "Tt",
            "zomb" => "Z",
            _ => return Err(ItemError::invalid(2)),
        };
        if key.parameter(3).is_some() {
            return Err(ItemError::new("Searching command lines is not supported."));
        }
        let entries = std::fs::read_dir(self.root.join("proc"))
            .map_err(|error| ItemError::new(format!("Cannot open /proc: {}", code(&error))))?;
        let count = entries
            .flatten()
            .filter(|entry| {
                entry
                    .file_name()
                    .as_encoded_bytes()
                    .iter()
                    .all(u8::is_ascii_digit)
            })
            .filter(|entry| is_counted(&entry.path(), name, user, states))
            .count();
        Ok(count as u64)
    }

    fn user_id(&self, name: &str) -> Option<u32> {
        let passwd = self.read("etc/passwd").ok()?;
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
        })
    }
}

/// The text of a value as Zabbix agents write it.
#[must_use]
pub fn wire_text(value: &Value) -> String {
    match value {
        Value::Float(number) => format!("{number:.6}"),
        Value::Log(_) | Value::Text(_) | Value::Unsigned(_) => value.to_string(),
    }
}

/// Columns of `/proc/net/dev` for what came in, by mode.
const IN: &[(&str, usize)] = &[
    ("bytes", 0),
    ("packets", 1),
    ("errors", 2),
    ("dropped", 3),
    ("overruns", 4),
    ("frame", 5),
    ("compressed", 6),
    ("multicast", 7),
];
/// Columns for what went out.
const OUT: &[(&str, usize)] = &[
    ("bytes", 8),
    ("packets", 9),
    ("errors", 10),
    ("dropped", 11),
    ("overruns", 12),
    ("collisions", 13),
    ("carrier", 14),
    ("compressed", 15),
];

fn limited(key: &Key, most: usize) -> Result<(), ItemError> {
    if key.parameters.len() <= most {
        return Ok(());
    }
    let text = if most == 0 {
        "Item does not allow parameters."
    } else {
        "Too many parameters."
    };
    Err(ItemError::new(text))
}

fn local_time(key: &Key, now: Timestamp) -> Answer {
    limited(key, 1)?;
    match key.parameter(0).unwrap_or("utc") {
        "utc" => Ok(Value::Unsigned(now.as_second().try_into().unwrap_or(0))),
        "local" => {
            let zone = now.to_zoned(jiff::tz::TimeZone::system());
            Ok(Value::Text(
                zone.strftime("%Y-%m-%d,%H:%M:%S.%3f,%:z").to_string(),
            ))
        }
        _ => Err(ItemError::invalid(0)),
    }
}

/// How many numbers a kernel list such as `0-3,8` holds.
fn count_list(text: &str) -> Option<u64> {
    text.split(',').try_fold(0_u64, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// An error of the system in the original's form: `[2] No such file or directory`.
fn code(error: &std::io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    match error.raw_os_error() {
        Some(number) => format!("[{number}] {words}"),
        None => words.to_owned(),
    }
}

fn is_counted(path: &Path, name: Option<&str>, user: Option<u32>, states: &str) -> bool {
    let Ok(status) = std::fs::read_to_string(path.join("status")) else {
        return false;
    };
    let field = |wanted: &str| {
        status
            .lines()
            .find_map(|line| Some(line.strip_prefix(wanted)?.strip_prefix(':')?.trim()))
    };
    let is_named = name.is_none_or(|name| {
        // The kernel cuts names at 15 bytes; the command line has the whole one.
        field("Name") == Some(name)
            || std::fs::read_to_string(path.join("cmdline")).is_ok_and(|line| {
                let program = line.split('\0').next().unwrap_or_default();
                program.rsplit('/').next() == Some(name)
            })
    });
    let is_owned = user.is_none_or(|user| {
        field("Uid").and_then(|ids| ids.split_whitespace().next()) == Some(&user.to_string())
    });
    let state = field("State")
        .and_then(|state| state.chars().next())
        .unwrap_or('?');
    is_named && is_owned && (states.is_empty() || states.contains(state))
}

#[cfg(test)]
mod tests;
