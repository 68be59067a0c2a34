//! What the owner of this machine lets a server ask of it.
//!
//! The policy is a local file, never changeable over any protocol: `/etc/muster/policy.toml` where
//! there is one, else `policy.toml` in the agent's state folder, which the very first start writes
//! with the defaults. From then on a file that is missing, unreadable, garbled or writable by
//! group or others denies everything (threat model, section 3). The file is read anew for every
//! job, so that an edit takes effect at once.
//!
//! This module decides; it executes nothing, and it writes no audit line ([`crate::audit`] does).
//!
//! ```toml
//! [observe]
//! allow = true
//! [scan]
//! allow = true
//! networks = ["127.0.0.0/8", "::1/128"]
//! [measure]
//! allow = true
//! networks = ["127.0.0.0/8", "::1/128"]
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
pub use muster_core::kind::ActionClass;
use serde::Deserialize;

/// Where a machine's own policy is looked for first.
pub const SYSTEM_POLICY: &str = "/etc/muster/policy.toml";

/// Longest policy file that is read, in bytes: far above any list of networks a person keeps.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// What the first start writes.
pub const DEFAULT_POLICY: &str = r#"# What a server may ask of this machine. Only this file decides, and no protocol can change it.
# While it is missing, unreadable, garbled, or writable by group or others, everything is denied.
# command, deploy, image and destroy count only while the file belongs to root.

[observe]                 # inventory, status, item collection from the built-in list
allow = true

[scan]                    # network discovery and inventory
allow = true
networks = ["127.0.0.0/8", "::1/128"]

[measure]                 # round trips, clocks and other tests
allow = true
networks = ["127.0.0.0/8", "::1/128"]

[command]                 # programs of the server's choosing
allow = false

[deploy]                  # files and packages
allow = false

[image]                   # disk images and booting them
allow = false

[destroy]                 # erasing disks; needs arming on this host as well
allow = false
"#;

/// Whether work of the class changes nothing on this machine: it observes, scans or measures.
#[must_use]
pub const fn is_harmless(class: ActionClass) -> bool {
    match class {
        ActionClass::Observe | ActionClass::Scan | ActionClass::Measure => true,
        ActionClass::Command | ActionClass::Deploy | ActionClass::Image | ActionClass::Destroy => {
            false
        }
    }
}

/// Whether the class counts only in a file that belongs to root.
#[must_use]
pub const fn needs_root_file(class: ActionClass) -> bool {
    !is_harmless(class)
}

/// Whether doing such work twice harms nobody, so that a job cut off by a restart may begin again
/// when the server offers it again.
#[must_use]
pub const fn may_repeat(class: ActionClass) -> bool {
    is_harmless(class)
}

/// Whether at most one job of such classes may be under way at a time (teeth contract, section 7,
/// rule 7).
#[must_use]
pub const fn is_exclusive(class: ActionClass) -> bool {
    match class {
        ActionClass::Observe
        | ActionClass::Scan
        | ActionClass::Measure
        | ActionClass::Command
        | ActionClass::Deploy => false,
        ActionClass::Image | ActionClass::Destroy => true,
    }
}

/// What an allowed job may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    reach: Reach,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reach {
    /// Everywhere: the person at this machine's terminal asked.
    Everywhere,
    /// These networks only.
    Networks(Vec<IpNet>),
}

impl Permit {
    /// The permission of the person at this machine's terminal.
    #[must_use]
    pub fn operator() -> Self {
        Self {
            reach: Reach::Everywhere,
        }
    }

    /// A permit for these networks.
    #[must_use]
    pub fn networks(networks: Vec<IpNet>) -> Self {
        Self {
            reach: Reach::Networks(networks),
        }
    }

    /// Whether packets may be sent to an address.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        match &self.reach {
            Reach::Everywhere => true,
            Reach::Networks(networks) => {
                let address = address.to_canonical();
                networks.iter().any(|network| network.contains(&address))
            }
        }
    }

    /// Whether packets may be sent to every address from `first` to `last`.
    #[must_use]
    pub fn allows_range(&self, first: IpAddr, last: IpAddr) -> bool {
        match &self.reach {
            Reach::Everywhere => true,
            Reach::Networks(networks) => covered(networks, first, last),
        }
    }
}

/// Whether the union of the networks covers the whole range.
fn covered(networks: &[IpNet], first: IpAddr, last: IpAddr) -> bool {
    let (Some(mut next), Some(end)) = (number(first), number(last)) else {
        return false;
    };
    if first.is_ipv4() != last.is_ipv4() || next > end {
        return false;
    }
    let same_family = || {
        networks
            .iter()
            .filter(|network| network.addr().is_ipv4() == first.is_ipv4())
    };
    loop {
        let reached = same_family()
            .filter_map(|network| Some((number(network.network())?, number(network.broadcast())?)))
            .filter(|(low, high)| *low <= next && next <= *high)
            .map(|(_, high)| high)
            .max();
        match reached {
            None => return false,
            Some(high) if high >= end => return true,
            Some(high) => next = high.saturating_add(1),
        }
    }
}

fn number(address: IpAddr) -> Option<u128> {
    Some(match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    })
}

/// What the policy says about one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed, within the permit.
    Allow(Permit),
    /// Denied, with the reason for the audit trail and the server.
    Deny(String),
}

/// The policy as it was read at one moment.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `Err` holds why everything is denied.
    rules: Result<Rules, String>,
    extra_scan: Vec<IpNet>,
}

#[derive(Clone, Debug)]
struct Rules {
    file: PolicyFile,
    owned_by_root: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    observe: Option<PlainRule>,
    scan: Option<NetworkRule>,
    measure: Option<NetworkRule>,
    command: Option<PlainRule>,
    deploy: Option<PlainRule>,
    image: Option<PlainRule>,
    destroy: Option<PlainRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainRule {
    allow: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkRule {
    allow: bool,
    #[serde(default = "loopback", deserialize_with = "networks")]
    networks: Vec<IpNet>,
}

/// Networks in CIDR form, or single addresses.
fn networks<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Vec<IpNet>, D::Error> {
    let parse = |text: String| {
        let network = text.parse::<IpNet>().ok();
        network
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            .ok_or_else(|| {
                serde::de::Error::custom(format!("{text:?} is not a network such as 10.0.0.0/24"))
            })
    };
    Vec::<String>::deserialize(source)?
        .into_iter()
        .map(parse)
        .collect()
}

fn loopback() -> Vec<IpNet> {
    [
        IpNet::new(IpAddr::from([127, 0, 0, 0]), 8),
        IpNet::new(IpAddr::from(std::net::Ipv6Addr::LOCALHOST), 128),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Policy {
    /// Reads the text of a policy file.
    ///
    /// # Errors
    /// [`PolicyError::Garbled`] when it is not a policy.
    pub fn parse(text: &str, owned_by_root: bool) -> Result<Self, PolicyError> {
        let file = toml::from_str::<PolicyFile>(text).map_err(PolicyError::Garbled)?;
        Ok(Self {
            rules: Ok(Rules {
                file,
                owned_by_root,
            }),
            extra_scan: Vec::new(),
        })
    }

    /// The policy that denies everything for one reason.
    #[must_use]
    pub fn deny_all(reason: impl Into<String>) -> Self {
        Self {
            rules: Err(reason.into()),
            extra_scan: Vec::new(),
        }
    }

    /// What it says about a class.
    #[must_use]
    pub fn verdict(&self, class: ActionClass) -> Verdict {
        let word = class.word();
        let rules = match &self.rules {
            Ok(rules) => rules,
            Err(reason) => {
                // The operator's own word at the terminal stands beside the file, not under it.
                if class == ActionClass::Scan && !self.extra_scan.is_empty() {
                    return Verdict::Allow(Permit::networks(self.extra_scan.clone()));
                }
                return Verdict::Deny(format!("{reason}; everything is denied"));
            }
        };
        if needs_root_file(class) && !rules.owned_by_root {
            return Verdict::Deny(format!("{word} counts only in a policy file owned by root"));
        }
        let file = &rules.file;
        let plain = |rule: &Option<PlainRule>| match rule {
            Some(PlainRule { allow: true }) => Verdict::Allow(Permit::networks(Vec::new())),
            Some(PlainRule { allow: false }) | None => {
                Verdict::Deny(format!("the local policy does not allow {word}"))
            }
        };
        let networked = |rule: &Option<NetworkRule>, extra: &[IpNet]| match rule {
            Some(NetworkRule {
                allow: true,
                networks,
            }) => Verdict::Allow(Permit::networks([networks.as_slice(), extra].concat())),
            Some(NetworkRule { allow: false, .. }) | None if !extra.is_empty() => {
                Verdict::Allow(Permit::networks(extra.to_vec()))
            }
            Some(NetworkRule { allow: false, .. }) | None => {
                Verdict::Deny(format!("the local policy does not allow {word}"))
            }
        };
        match class {
            ActionClass::Observe => plain(&file.observe),
            ActionClass::Scan => networked(&file.scan, &self.extra_scan),
            ActionClass::Measure => networked(&file.measure, &[]),
            ActionClass::Command => plain(&file.command),
            ActionClass::Deploy => plain(&file.deploy),
            ActionClass::Image => plain(&file.image),
            ActionClass::Destroy => plain(&file.destroy),
        }
    }
}

/// Where the policy of one agent is read from.
#[derive(Clone, Debug)]
pub struct PolicySource {
    system: PathBuf,
    own: PathBuf,
    extra_scan: Vec<IpNet>,
}

impl PolicySource {
    /// The file of the machine, and the one in the agent's state folder (`STATE/agent`).
    #[must_use]
    pub fn new(system: impl Into<PathBuf>, agent_state: &Path) -> Self {
        Self {
            system: system.into(),
            own: agent_state.join("policy.toml"),
            extra_scan: Vec::new(),
        }
    }

    /// The same source with networks that the person at the terminal allowed to scan for the life
    /// of this process (`up --discover RANGE`). Nothing of it is written down.
    #[must_use]
    pub fn with_operator_scan(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.extra_scan.extend(networks);
        self
    }

    /// The file that decides at this moment.
    #[must_use]
    pub fn path(&self) -> &Path {
        // Anything but a clear "there is none" counts as there: an unreadable system policy must
        // not fall back to one that an unprivileged process may own.
        match std::fs::symlink_metadata(&self.system) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => &self.own,
            Ok(_) | Err(_) => &self.system,
        }
    }

    /// Reads the policy. Never fails: what cannot be read denies everything. Blocks on the file.
    #[must_use]
    pub fn load(&self) -> Policy {
        let path = self.path();
        let mut policy = match read_policy(path) {
            Ok(policy) => policy,
            Err(error) => Policy::deny_all(format!("policy {}: {}", path.display(), chain(&error))),
        };
        policy.extra_scan.clone_from(&self.extra_scan);
        policy
    }

    /// Writes the defaults into the state folder, for an agent that starts for the first time and
    /// has no system policy. An existing file is left alone. Blocks on the file.
    ///
    /// # Errors
    /// [`PolicyError::Write`] when the file cannot be made durable.
    pub fn write_defaults(&self) -> Result<(), PolicyError> {
        if self.path() != self.own {
            return Ok(());
        }
        let write = |path: &Path| -> io::Result<()> {
            let mut file = match std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
            {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                other => other?,
            };
            file.write_all(DEFAULT_POLICY.as_bytes())?;
            file.sync_all()
        };
        write(&self.own).map_err(|source| PolicyError::Write {
            path: self.own.clone(),
            source,
        })
    }
}

/// Why a policy file does not count.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It could not be opened or read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It is not a regular file.
    #[error("is not a regular file")]
    NotAFile,
    /// Somebody besides its owner could change it.
    #[error("is writable by group or others (mode {mode:04o})")]
    Writable {
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs neither to root nor to the agent's own user.
    #[error("belongs to user {uid}, neither root nor the agent's own")]
    Owner {
        /// Its owner.
        uid: u32,
    },
    /// It is longer than any policy.
    #[error("has {bytes} bytes; the limit is {FILE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// It is not UTF-8.
    #[error("is not UTF-8 text")]
    NotText(#[source] std::string::FromUtf8Error),
    /// It does not parse.
    #[error("is not a policy")]
    Garbled(#[source] toml::de::Error),
    /// The defaults could not be written.
    #[error("cannot write the default policy {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn read_policy(path: &Path) -> Result<Policy, PolicyError> {
    // Opened once and judged by the descriptor, so that it cannot be swapped in between.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(
            (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK)
                .bits()
                .cast_signed(),
        )
        .open(path)
        .map_err(PolicyError::Read)?;
    let meta = file.metadata().map_err(PolicyError::Read)?;
    if !meta.is_file() {
        return Err(PolicyError::NotAFile);
    }
    if meta.mode() & 0o022 != 0 {
        return Err(PolicyError::Writable {
            mode: meta.mode() & 0o7777,
        });
    }
    let own_uid = rustix::process::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != own_uid {
        return Err(PolicyError::Owner { uid: meta.uid() });
    }
    let bytes = read_capped(&file, meta.len())?;
    let text = String::from_utf8(bytes).map_err(PolicyError::NotText)?;
    Policy::parse(&text, meta.uid() == 0)
}

fn read_capped(file: &File, declared: u64) -> Result<Vec<u8>, PolicyError> {
    if declared > FILE_BYTES_MAX {
        return Err(PolicyError::TooLong { bytes: declared });
    }
    let mut bytes = Vec::new();
    let read = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(PolicyError::Read)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(PolicyError::TooLong { bytes: read as u64 });
    }
    Ok(bytes)
}

/// An error with everything under it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(cause.to_string().trim_end());
        next = cause.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn source(dir: &Path) -> PolicySource {
        PolicySource::new(dir.join("etc-policy.toml"), dir)
    }

    fn put(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn allowed(policy: &Policy) -> Vec<&'static str> {
        ActionClass::ALL
            .into_iter()
            .filter(|class| matches!(policy.verdict(*class), Verdict::Allow(_)))
            .map(ActionClass::word)
            .collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const ALL_ON: &str = "[observe]\nallow=true\n[scan]\nallow=true\n[measure]\nallow=true\n\
        [command]\nallow=true\n[deploy]\nallow=true\n[image]\nallow=true\n[destroy]\nallow=true\n";

    #[test]
    fn defaults_allow_looking_and_deny_changing() {
        let policy = Policy::parse(DEFAULT_POLICY, true).unwrap();
        assert_eq!(allowed(&policy), ["observe", "scan", "measure"]);
        for class in [ActionClass::Scan, ActionClass::Measure] {
            let Verdict::Allow(permit) = policy.verdict(class) else {
                panic!("denied")
            };
            assert!(permit.allows(ip("127.9.0.1")) && permit.allows(ip("::1")));
            assert!(
                permit.allows(ip("::ffff:127.0.0.1")),
                "v4-mapped is judged as v4"
            );
            assert!(!permit.allows(ip("10.0.0.1")) && !permit.allows(ip("::2")));
        }
    }

    /// A name, what puts the file there, and the classes then allowed.
    type Case<'a> = (&'a str, &'a dyn Fn(), &'a [&'a str]);

    /// Every class against every state of the file.
    #[test]
    fn matrix_of_file_states_and_classes() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("policy.toml");
        let all = [
            "observe", "scan", "measure", "command", "deploy", "image", "destroy",
        ];
        let root = rustix::process::geteuid().is_root();
        let cases: &[Case<'_>] = &[
            ("missing", &|| (), &[]),
            (
                "good",
                &|| put(&own, ALL_ON, 0o644),
                if root { &all } else { &all[..3] },
            ),
            (
                "private",
                &|| put(&own, ALL_ON, 0o600),
                if root { &all } else { &all[..3] },
            ),
            ("group-writable", &|| put(&own, ALL_ON, 0o664), &[]),
            ("world-writable", &|| put(&own, ALL_ON, 0o646), &[]),
            ("garbled", &|| put(&own, "[observe\nallow=true", 0o644), &[]),
            (
                "unknown class",
                &|| put(&own, "[fly]\nallow=true\n[observe]\nallow=true", 0o644),
                &[],
            ),
            (
                "unknown key",
                &|| put(&own, "[observe]\nallow=true\nalow=true", 0o644),
                &[],
            ),
            (
                "wrong type",
                &|| put(&own, "[observe]\nallow=\"yes\"", 0o644),
                &[],
            ),
            (
                "bad network",
                &|| put(&own, "[scan]\nallow=true\nnetworks=[\"10.0.0/8\"]", 0o644),
                &[],
            ),
            ("empty", &|| put(&own, "", 0o644), &[]),
            (
                "one class",
                &|| put(&own, "[measure]\nallow=true", 0o644),
                &["measure"],
            ),
            (
                "not text",
                &|| {
                    std::fs::write(&own, [0xff, 0xfe, 0x00]).unwrap();
                    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o644)).unwrap();
                },
                &[],
            ),
            ("too long", &|| put(&own, &"#".repeat(300_000), 0o644), &[]),
            ("directory", &|| std::fs::create_dir(&own).unwrap(), &[]),
            (
                "symbolic link",
                &|| {
                    put(&dir.path().join("elsewhere"), ALL_ON, 0o644);
                    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &own).unwrap();
                },
                &[],
            ),
        ];
        for (name, prepare, expected) in cases {
            let _ = std::fs::remove_file(&own);
            let _ = std::fs::remove_dir(&own);
            prepare();
            assert_eq!(allowed(&source(dir.path()).load()), *expected, "{name}");
        }
    }

    #[test]
    fn a_file_of_another_user_decides_nothing() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("policy.toml");
        put(&own, ALL_ON, 0o644);
        std::os::unix::fs::chown(&own, Some(12345), None).unwrap();
        assert_eq!(allowed(&source(dir.path()).load()), Vec::<&str>::new());
    }

    #[test]
    fn dangerous_classes_need_a_file_of_root() {
        let policy = Policy::parse(ALL_ON, false).unwrap();
        assert_eq!(allowed(&policy), ["observe", "scan", "measure"]);
        let Verdict::Deny(reason) = policy.verdict(ActionClass::Destroy) else {
            panic!("allowed")
        };
        assert_eq!(reason, "destroy counts only in a policy file owned by root");
    }

    #[test]
    fn the_manual_shows_the_defaults_as_they_are() {
        let manual = include_str!("../../../docs/agent-policy.md");
        let tables = DEFAULT_POLICY.find("[observe]").unwrap();
        assert!(manual.contains(&DEFAULT_POLICY[tables..]));
    }

    #[test]
    fn the_system_file_wins_even_when_it_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("policy.toml"), ALL_ON, 0o644);
        put(
            &dir.path().join("etc-policy.toml"),
            "[observe]\nallow=false",
            0o644,
        );
        assert_eq!(allowed(&source(dir.path()).load()), Vec::<&str>::new());
        put(&dir.path().join("etc-policy.toml"), "gar bled", 0o644);
        assert_eq!(allowed(&source(dir.path()).load()), Vec::<&str>::new());
        std::fs::remove_file(dir.path().join("etc-policy.toml")).unwrap();
        assert!(allowed(&source(dir.path()).load()).contains(&"observe"));
    }

    #[test]
    fn first_start_writes_defaults_once() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("policy.toml");
        source(dir.path()).write_defaults().unwrap();
        assert_eq!(std::fs::read_to_string(&own).unwrap(), DEFAULT_POLICY);
        assert_eq!(std::fs::metadata(&own).unwrap().mode() & 0o777, 0o600);
        put(&own, "[observe]\nallow=false", 0o600);
        source(dir.path()).write_defaults().unwrap();
        assert_eq!(
            std::fs::read_to_string(&own).unwrap(),
            "[observe]\nallow=false"
        );
        std::fs::remove_file(&own).unwrap();
        put(&dir.path().join("etc-policy.toml"), "", 0o644);
        source(dir.path()).write_defaults().unwrap();
        assert!(
            !own.exists(),
            "a machine with a system policy needs none of ours"
        );
    }

    #[test]
    fn the_operators_word_adds_networks_to_scan_only() {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("policy.toml"), DEFAULT_POLICY, 0o600);
        let spoken = source(dir.path()).with_operator_scan(["10.9.0.0/24".parse().unwrap()]);
        let reaches = |class| match spoken.load().verdict(class) {
            Verdict::Allow(permit) => permit.allows(ip("10.9.0.7")),
            Verdict::Deny(_) => false,
        };
        assert!(reaches(ActionClass::Scan));
        assert!(!reaches(ActionClass::Measure));
        assert!(
            !std::fs::read_to_string(dir.path().join("policy.toml"))
                .unwrap()
                .contains("10.9")
        );
        std::fs::remove_file(dir.path().join("policy.toml")).unwrap();
        assert!(reaches(ActionClass::Scan), "the word stands without a file");
        let Verdict::Allow(permit) = spoken.load().verdict(ActionClass::Scan) else {
            panic!()
        };
        assert!(!permit.allows(ip("127.0.0.1")));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_policy_or_none(text in "(?s)[\\[\\]a-z0-9=\"./#\n ]{0,200}|.{0,100}") {
            if let Ok(policy) = Policy::parse(&text, true) {
                for class in ActionClass::ALL {
                    // Nothing is allowed that the text does not name.
                    if matches!(policy.verdict(class), Verdict::Allow(_)) {
                        proptest::prop_assert!(text.contains(class.word()));
                    }
                }
            }
        }
    }

    #[test]
    fn ranges_must_be_covered_whole() {
        let nets = |list: &[&str]| {
            Permit::networks(list.iter().map(|text| text.parse().unwrap()).collect())
        };
        let cases: &[(&[&str], &str, &str, bool)] = &[
            (&["127.0.0.0/8"], "127.0.0.1", "127.0.0.9", true),
            (&["127.0.0.0/8"], "127.255.255.255", "128.0.0.0", false),
            (
                &["10.0.0.0/25", "10.0.0.128/25"],
                "10.0.0.0",
                "10.0.0.255",
                true,
            ),
            (
                &["10.0.0.128/25", "10.0.0.0/25"],
                "10.0.0.5",
                "10.0.0.200",
                true,
            ),
            (
                &["10.0.0.0/25", "10.0.0.129/32"],
                "10.0.0.0",
                "10.0.0.129",
                false,
            ),
            (&["0.0.0.0/0"], "0.0.0.0", "255.255.255.255", true),
            (&["::/0"], "10.0.0.1", "10.0.0.1", false),
            (&["::1/128"], "::1", "::1", true),
            (
                &["::/0"],
                "::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                true,
            ),
            (&["0.0.0.0/0"], "10.0.0.9", "10.0.0.1", false),
            (&[], "127.0.0.1", "127.0.0.1", false),
        ];
        for (list, first, last, expected) in cases {
            assert_eq!(
                nets(list).allows_range(ip(first), ip(last)),
                *expected,
                "{list:?} {first}-{last}"
            );
        }
        assert!(Permit::operator().allows_range(ip("0.0.0.0"), ip("9.9.9.9")));
    }
}
