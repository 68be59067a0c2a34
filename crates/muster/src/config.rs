//! The configuration: defaults, the file, variables, flags, in rising order (surface, section 3).
//!
//! Every key is read here once into a type that cannot be wrong; an error names the key and where its
//! value came from. clap has merged flags and variables by the time they get here.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use jiff::SignedDuration;
use muster_core::time::parse_duration;
use muster_net::tls::PskKey;
use muster_net::{Egress, ListenSpec};
use muster_server::control::EnrolPolicy;
use muster_store::StoreUrl;
use toml::de::{DeTable, DeValue};

use crate::cli::args::{AgentConfigArgs, ConfigArgs};
use crate::cli::error::{CliError, Code};

/// Name of the file in the state folder.
pub(crate) const FILE: &str = "muster.toml";

/// What the server is told.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Where to listen.
    pub(crate) listen: Listen,
    /// Which database; `None` for `STATE/muster.db`.
    pub(crate) database: Option<StoreUrl>,
    /// For who comes without an enrolment key.
    pub(crate) enrol_policy: EnrolPolicy,
    /// Networks treated as loopback is when enrolling.
    pub(crate) enrol_addresses: Vec<IpNet>,
    /// Next contact of a pulling agent with nothing due.
    pub(crate) contact_interval: SignedDuration,
    /// Whether a silent teeth connection is closed.
    pub(crate) teeth_close_without_ping: bool,
    /// Whether pScheduler writes are open to everyone.
    pub(crate) pscheduler_open: bool,
    /// Networks the server may dial for what peers name.
    pub(crate) egress_allow: Vec<IpNet>,
    /// Networks without the limits per address.
    pub(crate) limits_exempt: Vec<IpNet>,
    /// How long ended runs are kept; `None`: for ever.
    pub(crate) retain_runs: Option<SignedDuration>,
    /// How long values are kept; `None`: for ever.
    pub(crate) retain_values: Option<SignedDuration>,
    /// Keys of Zabbix peers, by identity.
    pub(crate) zabbix_psk: Vec<(String, PskKey)>,
}

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen {
    /// Plain HTTP.
    pub(crate) http: ListenSpec,
    /// HTTPS.
    pub(crate) https: ListenSpec,
    /// Plain teeth lines.
    pub(crate) teeth: ListenSpec,
    /// teeth over TLS.
    pub(crate) teeths: ListenSpec,
    /// Zabbix, plain or TLS.
    pub(crate) zabbix: ListenSpec,
    /// Whether `http` and `teeth` may have other than loopback addresses.
    pub(crate) insecure: bool,
}

/// Who reads the configuration: `up` is for trying things on one machine, a server is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `muster server run`.
    Server,
    /// `muster up`.
    Up,
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Flag,
    List,
    Text,
}

/// Every key of the file. Its flag is `--SECTION-KEY`, its variable `MUSTER_SECTION_KEY`.
///
/// `agent` is the part of `muster agent run`, the rest that of the server; both may be in one file.
const KEYS: &[(&str, &str, Shape)] = &[
    ("agent", "insecure", Shape::Flag),
    ("database", "url", Shape::Text),
    ("egress", "allow", Shape::List),
    ("enrol", "addresses", Shape::List),
    ("enrol", "policy", Shape::Text),
    ("fusion", "contact_interval", Shape::Text),
    ("limits", "exempt", Shape::List),
    ("listen", "http", Shape::Text),
    ("listen", "https", Shape::Text),
    ("listen", "insecure", Shape::Flag),
    ("listen", "teeth", Shape::Text),
    ("listen", "teeths", Shape::Text),
    ("listen", "zabbix", Shape::Text),
    ("pscheduler", "open", Shape::Flag),
    ("retain", "runs", Shape::Text),
    ("retain", "values", Shape::Text),
    ("teeth", "bridge", Shape::Flag),
    ("teeth", "idle_without_ping", Shape::Text),
    ("zabbix", "psk", Shape::List),
];

/// A value and where it came from.
#[derive(Debug, Clone)]
struct Given {
    value: Value,
    source: Source,
}

#[derive(Debug, Clone)]
enum Value {
    Flag(bool),
    List(Vec<String>),
    Text(String),
}

#[derive(Debug, Clone)]
enum Source {
    /// A flag or its variable; clap does not say which.
    CommandLine {
        section: &'static str,
        key: &'static str,
    },
    File {
        path: PathBuf,
        line: usize,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine { section, key } => {
                let dashed = key.replace('_', "-");
                let (upper_section, upper_key) = (section.to_uppercase(), key.to_uppercase());
                write!(
                    f,
                    "--{section}-{dashed} or MUSTER_{upper_section}_{upper_key}"
                )
            }
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
        }
    }
}

/// What was given, by section and key.
type AllGiven = BTreeMap<Key, Given>;

impl Config {
    /// Reads the file that `args` name, or the one in `state` if there is one, and puts flags and
    /// variables over it.
    ///
    /// # Errors
    /// An unknown key, a value that makes no sense, a file that cannot be read; with the place and, for a
    /// key, the nearest one that exists.
    pub(crate) fn load(
        args: &ConfigArgs,
        state: &Path,
        purpose: Purpose,
    ) -> Result<Self, CliError> {
        let mut given = from_file(args.config.as_deref(), state)?;
        given.extend(command_line(args));
        Self::from_given(&given, purpose)
    }

    fn from_given(given: &AllGiven, purpose: Purpose) -> Result<Self, CliError> {
        let up = purpose == Purpose::Up;
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let listen = |key, default: ListenSpec| {
            parsed(given, ("listen", key), |text| text.parse::<ListenSpec>())
                .map(|spec| spec.unwrap_or(default))
        };
        let listen = Listen {
            http: listen("http", ListenSpec::At(at(8080)))?,
            https: listen("https", ListenSpec::At(at(8443)))?,
            teeth: listen("teeth", ListenSpec::At(at(8081)))?,
            teeths: listen("teeths", ListenSpec::Off)?,
            zabbix: listen("zabbix", ListenSpec::At(at(10051)))?,
            insecure: flag(given, ("listen", "insecure")),
        };
        let database = parsed(given, ("database", "url"), |text| {
            StoreUrl::parse(text).ok_or(
                "not a database: postgres://USER@HOST/NAME, or sqlite:PATH (the password is not shown)",
            )
        })?;
        let policy = parsed(given, ("enrol", "policy"), |text| match text {
            "approve" => Ok(EnrolPolicy::Approve),
            "key" => Ok(EnrolPolicy::Key),
            "loopback" => Ok(EnrolPolicy::Loopback),
            _ => Err(format!("`{text}` is none of approve, loopback, key")),
        })?;
        let interval = parsed(given, ("fusion", "contact_interval"), parse_duration)?;
        let close = parsed(given, ("teeth", "idle_without_ping"), |text| match text {
            "close" => Ok(true),
            "keepalive" => Ok(false),
            _ => Err(format!("`{text}` is none of close, keepalive")),
        })?;
        let config = Self {
            listen,
            database,
            enrol_policy: policy.unwrap_or(if up {
                EnrolPolicy::Loopback
            } else {
                EnrolPolicy::Approve
            }),
            enrol_addresses: networks(given, ("enrol", "addresses"))?,
            contact_interval: interval.unwrap_or(if up {
                SignedDuration::from_secs(10)
            } else {
                SignedDuration::from_hours(1)
            }),
            teeth_close_without_ping: close.unwrap_or(true),
            pscheduler_open: flag(given, ("pscheduler", "open")),
            egress_allow: networks(given, ("egress", "allow"))?,
            limits_exempt: networks(given, ("limits", "exempt"))?,
            retain_runs: parsed(given, ("retain", "runs"), kept_for)?.flatten(),
            retain_values: parsed(given, ("retain", "values"), kept_for)?.flatten(),
            zabbix_psk: listed(given, ("zabbix", "psk"), psk)?,
        };
        config.check(given)?;
        if flag(given, ("teeth", "bridge")) {
            return Err(CliError::failed(
                Code::CONFIG_INVALID,
                "this build cannot honour teeth.bridge: it has no REST bridge to teeth agents",
            )
            .next("take the key out; `muster task create` reaches teeth agents"));
        }
        Ok(config)
    }

    /// What only several keys together can get wrong.
    fn check(&self, given: &AllGiven) -> Result<(), CliError> {
        for (key, spec) in self.plain_listeners() {
            let Some(address) = spec.address() else {
                continue;
            };
            if !address.ip().to_canonical().is_loopback() && !self.listen.insecure {
                let place = given
                    .get(&("listen", key))
                    .map(|given| given.source.to_string());
                return Err(CliError::failed(
                    Code::CONFIG_INVALID,
                    format!(
                        "{key} may not listen on {address}: it carries everything in the clear"
                    ),
                )
                .line(place.unwrap_or_default())
                .next(format!(
                    "use the TLS listener (listen.{key}s), a loopback address, or \
                     listen.insecure = true"
                )));
            }
        }
        if !self.zabbix_psk.is_empty() && !cfg!(feature = "psk") {
            return Err(CliError::failed(
                Code::CONFIG_INVALID,
                "this build cannot honour zabbix.psk: it was made without the feature `psk`",
            )
            .next("build with `--features psk`, or take the key out"));
        }
        Ok(())
    }

    /// Warnings for each start.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let plain = self.plain_listeners().into_iter();
        plain
            .filter_map(|(key, spec)| Some((key, spec.address()?)))
            .filter(|(_, address)| !address.ip().to_canonical().is_loopback())
            .map(|(key, address)| {
                format!("listen.insecure: {key} listens on {address}, everything in the clear")
            })
            .collect()
    }

    /// Where the server may go for what peers name: as configured, and to this machine as long as only
    /// this machine reaches its listeners (threat model, section 5).
    pub(crate) fn egress(&self) -> Egress {
        let listen = self.listen;
        let all = [
            listen.http,
            listen.https,
            listen.teeth,
            listen.teeths,
            listen.zabbix,
        ];
        let loopback = all
            .into_iter()
            .filter_map(ListenSpec::address)
            .all(|address| address.ip().to_canonical().is_loopback());
        Egress {
            allow: self.egress_allow.clone(),
            loopback,
        }
    }

    fn plain_listeners(&self) -> [(&'static str, ListenSpec); 2] {
        [("http", self.listen.http), ("teeth", self.listen.teeth)]
    }
}

/// How long something is kept: a length of at least a day, or `off` for as long as the database.
fn kept_for(text: &str) -> Result<Option<SignedDuration>, String> {
    if text == "off" {
        return Ok(None);
    }
    let keep = parse_duration(text).map_err(|error| error.to_string())?;
    if keep < SignedDuration::from_hours(24) {
        return Err(format!(
            "`{text}` is less than a day; `off` keeps everything"
        ));
    }
    Ok(Some(keep))
}

/// What `muster agent run` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AgentSettings {
    /// Plain `http` may leave this machine, for servers that are believed in harmless things only.
    pub(crate) insecure: bool,
}

impl AgentSettings {
    /// Reads the same file as [`Config::load`], and puts flag and variable over it.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn load(args: &AgentConfigArgs, state: &Path) -> Result<Self, CliError> {
        let mut given = from_file(args.config.as_deref(), state)?;
        let said = [(("agent", "insecure"), args.agent_insecure.map(Value::Flag))];
        given.extend(from_command_line(said));
        Ok(Self {
            insecure: flag(&given, ("agent", "insecure")),
        })
    }
}

/// What the file says that was named, or the one in `state` if there is one.
fn from_file(named: Option<&Path>, state: &Path) -> Result<AllGiven, CliError> {
    if let Some(path) = named {
        return read_file(path, &read(path)?);
    }
    let path = state.join(FILE);
    match path.exists() {
        true => read_file(&path, &read(&path)?),
        false => Ok(AllGiven::new()),
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|error| {
        CliError::failed(Code::FILE, format!("cannot read {}", path.display())).cause(&error)
    })
}

fn read_file(path: &Path, text: &str) -> Result<AllGiven, CliError> {
    let line_of = |offset: usize| {
        1 + text
            .bytes()
            .take(offset)
            .filter(|&byte| byte == b'\n')
            .count()
    };
    let document = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(0, |span| line_of(span.start));
        CliError::failed(
            Code::CONFIG_INVALID,
            format!("{} is no TOML", path.display()),
        )
        .line(format!("line {line}: {}", error.message()))
    })?;
    let mut all = AllGiven::new();
    for (section, table) in document.get_ref() {
        let name = section.get_ref().as_ref();
        let place = |offset| format!("{}, line {}", path.display(), line_of(offset));
        let known: Vec<&str> = KEYS.iter().map(|key| key.0).collect();
        let Some(known_section) = known.iter().find(|known| **known == name) else {
            return Err(unknown(name, &place(section.span().start), &known, ""));
        };
        let Some(table) = table.get_ref().as_table() else {
            return Err(CliError::failed(
                Code::CONFIG_INVALID,
                format!("`{name}` is a section, not a key"),
            )
            .line(place(section.span().start))
            .next(format!(
                "write `[{name}]` on a line of its own, its keys under it"
            )));
        };
        for (key, value) in table {
            let line = line_of(key.span().start);
            let here = place(key.span().start);
            let known: Vec<&str> = KEYS
                .iter()
                .filter(|known| known.0 == *known_section)
                .map(|key| key.1)
                .collect();
            let word = key.get_ref().as_ref();
            let Some(&(section, key, shape)) = KEYS
                .iter()
                .find(|known| known.0 == *known_section && known.1 == word)
            else {
                return Err(unknown(word, &here, &known, name));
            };
            let value = shaped(value.get_ref(), shape).ok_or_else(|| {
                CliError::failed(
                    Code::CONFIG_INVALID,
                    format!(
                        "`{section}.{key}` takes {}, not {}",
                        shape,
                        value.get_ref().type_str()
                    ),
                )
                .line(here.clone())
            })?;
            all.insert(
                (section, key),
                Given {
                    value,
                    source: Source::File {
                        path: path.to_owned(),
                        line,
                    },
                },
            );
        }
    }
    Ok(all)
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "true or false",
            Self::List => "a list of texts",
            Self::Text => "a text in quotes",
        })
    }
}

fn shaped(value: &DeValue<'_>, shape: Shape) -> Option<Value> {
    match shape {
        Shape::Flag => value.as_bool().map(Value::Flag),
        Shape::Text => value.as_str().map(|text| Value::Text(text.to_owned())),
        Shape::List => {
            let texts = value.as_array()?.iter().map(|item| item.get_ref().as_str());
            texts
                .map(|text| text.map(str::to_owned))
                .collect::<Option<_>>()
                .map(Value::List)
        }
    }
}

fn unknown(word: &str, place: &str, known: &[&str], section: &str) -> CliError {
    let what = if section.is_empty() {
        format!("unknown section `[{word}]`")
    } else {
        format!("unknown key `{section}.{word}`")
    };
    let error = CliError::failed(Code::CONFIG_INVALID, what).line(place.to_owned());
    match nearest(word, known) {
        Some(near) => error.next(format!("did you mean `{near}`?")),
        None => {
            let mut names = known.to_vec();
            names.dedup();
            error.next(format!("what there is: {}", names.join(", ")))
        }
    }
}

/// The known word that takes the fewest changes, when it takes no more than a third of the word.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let (changes, near) = known
        .iter()
        .map(|near| (distance(word, near), *near))
        .min()?;
    (changes <= 1 + word.chars().count() / 3).then_some(near)
}

/// Insertions, deletions and substitutions between two words.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, from) in from.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(&to) {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = *cell;
            left = substituted.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// What the server's flags and variables say.
fn command_line(args: &ConfigArgs) -> AllGiven {
    let text = |value: &Option<String>| value.clone().map(Value::Text);
    let flag = |value: Option<bool>| value.map(Value::Flag);
    // An empty variable is an empty list.
    let list = |value: &Option<Vec<String>>| {
        let items = value
            .as_ref()?
            .iter()
            .filter(|item| !item.is_empty())
            .cloned();
        Some(Value::List(items.collect()))
    };
    from_command_line([
        (("database", "url"), text(&args.database_url)),
        (("egress", "allow"), list(&args.egress_allow)),
        (("enrol", "addresses"), list(&args.enrol_addresses)),
        (("enrol", "policy"), text(&args.enrol_policy)),
        (
            ("fusion", "contact_interval"),
            text(&args.fusion_contact_interval),
        ),
        (("limits", "exempt"), list(&args.limits_exempt)),
        (("listen", "http"), text(&args.listen_http)),
        (("listen", "https"), text(&args.listen_https)),
        (("listen", "insecure"), flag(args.listen_insecure)),
        (("listen", "teeth"), text(&args.listen_teeth)),
        (("listen", "teeths"), text(&args.listen_teeths)),
        (("listen", "zabbix"), text(&args.listen_zabbix)),
        (("pscheduler", "open"), flag(args.pscheduler_open)),
        (("retain", "runs"), text(&args.retain_runs)),
        (("retain", "values"), text(&args.retain_values)),
        (("teeth", "bridge"), flag(args.teeth_bridge)),
        (
            ("teeth", "idle_without_ping"),
            text(&args.teeth_idle_without_ping),
        ),
        (("zabbix", "psk"), list(&args.zabbix_psk)),
    ])
}

fn from_command_line(said: impl IntoIterator<Item = (Key, Option<Value>)>) -> AllGiven {
    said.into_iter()
        .filter_map(|((section, key), value)| {
            let source = Source::CommandLine { section, key };
            Some((
                (section, key),
                Given {
                    value: value?,
                    source,
                },
            ))
        })
        .collect()
}

type Key = (&'static str, &'static str);

fn flag(given: &AllGiven, key: Key) -> bool {
    matches!(
        given.get(&key),
        Some(Given {
            value: Value::Flag(true),
            ..
        })
    )
}

fn parsed<T, E: fmt::Display>(
    given: &AllGiven,
    key: Key,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, CliError> {
    let Some(Given {
        value: Value::Text(text),
        source,
    }) = given.get(&key)
    else {
        return Ok(None);
    };
    parse(text)
        .map(Some)
        .map_err(|error| senseless(key, &error.to_string(), source))
}

fn listed<T, E: fmt::Display>(
    given: &AllGiven,
    key: Key,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, CliError> {
    let Some(Given {
        value: Value::List(items),
        source,
    }) = given.get(&key)
    else {
        return Ok(Vec::new());
    };
    let parsed = items
        .iter()
        .map(|item| parse(item.trim()).map_err(|error| senseless(key, &error.to_string(), source)));
    parsed.collect()
}

/// Networks; a bare address is a network of one.
fn networks(given: &AllGiven, key: Key) -> Result<Vec<IpNet>, CliError> {
    listed(given, key, |text| {
        let address = text
            .parse()
            .map(|address: std::net::IpAddr| IpNet::from(address));
        address
            .or_else(|_| text.parse::<IpNet>().map(|network| network.trunc()))
            .map_err(|_| format!("`{text}` is no network like 10.0.0.0/8 and no address"))
    })
}

/// `IDENTITY=FILE`; the file holds the key in hex, as Zabbix keeps it.
fn psk(text: &str) -> Result<(String, PskKey), String> {
    let (identity, file) = text
        .rsplit_once('=')
        .filter(|(identity, file)| !identity.is_empty() && !file.is_empty())
        .ok_or("not IDENTITY=FILE, where FILE holds the key in hexadecimal digits")?;
    let digits =
        fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let key = PskKey::from_hex(&digits).map_err(|error| format!("{file}: {error}"))?;
    Ok((identity.to_owned(), key))
}

fn senseless((section, key): Key, error: &str, source: &Source) -> CliError {
    CliError::failed(
        Code::CONFIG_INVALID,
        format!("`{section}.{key}` makes no sense: {error}"),
    )
    .line(source.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, args: &ConfigArgs, purpose: Purpose) -> Result<Config, CliError> {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FILE), text).unwrap();
        Config::load(args, state.path(), purpose)
    }

    fn refused(text: &str) -> String {
        let error = load(text, &ConfigArgs::default(), Purpose::Server).unwrap_err();
        format!(
            "{} | {} | {}",
            error.title,
            error.detail.join("; "),
            error.hint.unwrap_or_default()
        )
    }

    #[test]
    fn defaults_are_those_of_the_surface_page() {
        let state = tempfile::tempdir().unwrap();
        let server = Config::load(&ConfigArgs::default(), state.path(), Purpose::Server).unwrap();
        let shown = |spec: ListenSpec| spec.to_string();
        assert_eq!(shown(server.listen.http), "127.0.0.1:8080");
        assert_eq!(shown(server.listen.https), "127.0.0.1:8443");
        assert_eq!(shown(server.listen.teeth), "127.0.0.1:8081");
        assert_eq!(shown(server.listen.teeths), "off");
        assert_eq!(shown(server.listen.zabbix), "127.0.0.1:10051");
        assert_eq!(server.enrol_policy, EnrolPolicy::Approve);
        assert_eq!(server.contact_interval, SignedDuration::from_hours(1));
        assert!(server.database.is_none() && server.teeth_close_without_ping);
        assert!(!server.pscheduler_open && !server.listen.insecure);
        let up = Config::load(&ConfigArgs::default(), state.path(), Purpose::Up).unwrap();
        assert_eq!(up.enrol_policy, EnrolPolicy::Loopback);
        assert_eq!(up.contact_interval, SignedDuration::from_secs(10));
    }

    #[test]
    fn this_machine_may_be_reached_for_peers_while_only_it_asks() {
        let egress = |text: &str| {
            let config = load(text, &ConfigArgs::default(), Purpose::Server).unwrap();
            let egress = config.egress();
            (egress.allow.len(), egress.loopback)
        };
        assert_eq!(egress(""), (0, true));
        assert_eq!(egress("[egress]\nallow = [\"10.0.0.0/8\"]"), (1, true));
        assert_eq!(egress("[listen]\nhttps = \"0.0.0.0:0\""), (0, false));
        assert_eq!(egress("[listen]\nzabbix = \"192.0.2.7:0\""), (0, false));
        assert_eq!(
            egress("[listen]\nteeths = \"[::1]:0\"\nhttps = \"off\""),
            (0, true)
        );
    }

    #[test]
    fn every_key_can_be_in_the_file() {
        let text = r#"
            [listen]
            http = "127.0.0.1:0"
            https = "0.0.0.0:443"
            teeth = "off"
            teeths = "[::]:8082"
            zabbix = "off"
            insecure = true
            [database]
            url = "postgres://muster:secret@db/muster"
            [enrol]
            policy = "key"
            addresses = ["10.0.0.0/8", "192.0.2.1"]
            [fusion]
            contact_interval = "PT5M"
            [retain]
            runs = "90d"
            values = "off"
            [teeth]
            bridge = false
            idle_without_ping = "keepalive"
            [pscheduler]
            open = true
            [egress]
            allow = ["10.1.2.3/16"]
            [limits]
            exempt = ["2001:db8::/32"]
            [zabbix]
            psk = []
            [agent]
            insecure = true
        "#;
        let config = load(text, &ConfigArgs::default(), Purpose::Up).unwrap();
        assert_eq!(config.enrol_policy, EnrolPolicy::Key);
        assert_eq!(config.enrol_addresses.len(), 2);
        assert_eq!(config.contact_interval, SignedDuration::from_mins(5));
        assert_eq!(
            config.retain_runs,
            Some(SignedDuration::from_hours(24 * 90))
        );
        assert_eq!(config.retain_values, None);
        assert!(!config.teeth_close_without_ping && config.pscheduler_open);
        assert_eq!(config.egress_allow[0].to_string(), "10.1.0.0/16");
        assert_eq!(config.listen.teeth, ListenSpec::Off);
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let text = "[listen]\nhttp = \"127.0.0.1:1\"\nzabbix = \"off\"\n[enrol]\naddresses = [\"10.0.0.0/8\"]\n";
        let args = ConfigArgs {
            listen_http: Some("127.0.0.1:2".to_owned()),
            enrol_addresses: Some(vec![String::new()]),
            ..ConfigArgs::default()
        };
        let config = load(text, &args, Purpose::Server).unwrap();
        assert_eq!(config.listen.http.to_string(), "127.0.0.1:2");
        assert_eq!(config.listen.zabbix, ListenSpec::Off);
        assert!(config.enrol_addresses.is_empty());
    }

    #[test]
    fn unknown_keys_are_errors_with_a_suggestion() {
        for (text, expected) in [
            (
                "[listen]\n\nhtp = \"off\"\n",
                ["unknown key `listen.htp`", "line 3", "did you mean `http`?"],
            ),
            (
                "[enroll]\n",
                [
                    "unknown section `[enroll]`",
                    "line 1",
                    "did you mean `enrol`?",
                ],
            ),
            (
                "[fusion]\nwrong = 1\n",
                [
                    "unknown key `fusion.wrong`",
                    "line 2",
                    "what there is: contact_interval",
                ],
            ),
            (
                "listen = \"off\"\n",
                ["`listen` is a section", "line 1", "[listen]"],
            ),
            (
                "[listen]\nhttp = 8080\n",
                [
                    "`listen.http` takes a text in quotes, not integer",
                    "line 2",
                    "",
                ],
            ),
            (
                "[listen]\ninsecure = \"yes\"\n",
                ["`listen.insecure` takes true or false", "line 2", ""],
            ),
            (
                "[enrol]\naddresses = [1]\n",
                ["takes a list of texts", "line 2", ""],
            ),
            ("[listen\n", ["is no TOML", "line 1", ""]),
        ] {
            let error = refused(text);
            for part in expected {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
    }

    #[test]
    fn senseless_values_name_their_key_and_place() {
        for (text, expected) in [
            (
                "[listen]\nhttp = \"8080\"\n",
                "`listen.http` makes no sense: `8080` is neither `off`",
            ),
            (
                "[enrol]\npolicy = \"open\"\n",
                "none of approve, loopback, key",
            ),
            (
                "[enrol]\naddresses = [\"10.0.0.0/33\"]\n",
                "`10.0.0.0/33` is no network",
            ),
            (
                "[retain]\nvalues = \"12h\"\n",
                "less than a day; `off` keeps everything",
            ),
            (
                "[fusion]\ncontact_interval = \"soon\"\n",
                "`fusion.contact_interval` makes no sense",
            ),
            (
                "[teeth]\nidle_without_ping = \"wait\"\n",
                "none of close, keepalive",
            ),
            ("[zabbix]\npsk = [\"nothing\"]\n", "not IDENTITY=FILE"),
            (
                "[zabbix]\npsk = [\"a=/does/not/exist\"]\n",
                "cannot read /does/not/exist",
            ),
        ] {
            let error = refused(text);
            assert!(
                error.contains(expected) && error.contains("line 2"),
                "{expected}: {error}"
            );
        }
        let error = refused("[database]\nurl = \"mysql://root:hunter2@db\"\n");
        assert!(
            error.contains("not a database") && !error.contains("hunter2"),
            "{error}"
        );
        let args = ConfigArgs {
            listen_teeth: Some("x".to_owned()),
            ..ConfigArgs::default()
        };
        let error = load("", &args, Purpose::Up).unwrap_err();
        assert_eq!(error.detail, ["--listen-teeth or MUSTER_LISTEN_TEETH"]);
    }

    #[test]
    fn the_agents_own_word_on_plain_http() {
        let insecure = |text: &str, flag| {
            let state = tempfile::tempdir().unwrap();
            fs::write(state.path().join(FILE), text).unwrap();
            let args = AgentConfigArgs {
                config: None,
                agent_insecure: flag,
            };
            AgentSettings::load(&args, state.path())
        };
        let yes = "[agent]\ninsecure = true\n";
        assert!(!insecure("", None).unwrap().insecure);
        let listen = "[listen]\ninsecure = true\n";
        assert!(!insecure(listen, None).unwrap().insecure);
        assert!(insecure(yes, None).unwrap().insecure);
        let flag_wins = insecure(yes, Some(false)).unwrap();
        assert!(!flag_wins.insecure);
        assert!(insecure("", Some(true)).unwrap().insecure);
        let error = insecure("[agent]\ninsecur = true\n", None).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("did you mean `insecure`?"));
    }

    #[test]
    fn plain_listeners_stay_on_the_machine_unless_told_otherwise() {
        for key in ["http", "teeth"] {
            let text = format!("[listen]\n{key} = \"0.0.0.0:1\"\n");
            let error = refused(&text);
            assert!(error.contains(&format!("listen.{key}s")), "{error}");
            let text = format!("{text}insecure = true\n");
            let config = load(&text, &ConfigArgs::default(), Purpose::Server).unwrap();
            let warnings = config.warnings();
            assert!(
                warnings[0].contains(&format!("{key} listens on 0.0.0.0:1")),
                "{warnings:?}"
            );
        }
        let https = "[listen]\nhttps = \"0.0.0.0:1\"\nzabbix = \"0.0.0.0:2\"\n";
        let config = load(https, &ConfigArgs::default(), Purpose::Server).unwrap();
        assert!(config.warnings().is_empty());
    }

    #[test]
    fn keys_of_zabbix_peers_need_a_build_that_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "ab".repeat(16)).unwrap();
        let text = format!("[zabbix]\npsk = [\"proxy 1={}\"]\n", file.display());
        let outcome = load(&text, &ConfigArgs::default(), Purpose::Server);
        if cfg!(feature = "psk") {
            let config = outcome.unwrap();
            assert_eq!(config.zabbix_psk[0].0, "proxy 1");
            assert!(!format!("{config:?}").contains("abab"), "{config:?}");
        } else {
            assert!(
                outcome
                    .unwrap_err()
                    .title
                    .contains("without the feature `psk`")
            );
        }
    }

    #[test]
    fn every_key_is_in_the_manual_with_its_flag_and_variable() {
        let page = include_str!("../../../docs/configuration.md");
        for (section, key, _) in KEYS {
            let source = Source::CommandLine { section, key }.to_string();
            let (flag, variable) = source.split_once(" or ").unwrap();
            let row = format!("| `{section}.{key}` | `{flag}`, `{variable}` |");
            assert!(page.contains(&row), "{row}");
        }
    }

    #[test]
    fn words_have_distances() {
        for (from, to, changes) in [
            ("", "", 0),
            ("a", "", 1),
            ("htp", "http", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from, to), changes, "{from} {to}");
        }
    }
}
