//! `muster agent run`, and the links that `up` shares with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use muster_agent::agent::{Agent, AgentConfig, AgentError, Link};
use muster_agent::identity::{IdentityError, enrol_key};
use muster_agent::links::{fusion, teeth, zabbix};
use muster_agent::policy::{PolicySource, SYSTEM_POLICY};
use muster_core::credential::Secret;
use muster_net::tls::{Fingerprint, Trust};
use muster_net::{Clock, Endpoint, Entropy, Protection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cli::args::{AgentRunArgs, Global, WireName};
use crate::cli::error::{CliError, Code};
use crate::cli::output::Output;
use crate::config::AgentSettings;
use crate::signals;

/// The agent's own state in the state folder.
const FOLDER: &str = "agent";
/// Port of teeth where a URL names none.
const TEETH_PORT: u16 = 8081;
/// Kinds that go over the fusion wire, where their results have a form of their own, rather than as
/// reports of a teeth task.
const FUSION_KINDS: [&str; 3] = ["inventory", "netdiscovery", "netinventory"];

/// Runs until a signal comes.
pub(crate) async fn run(global: &Global, out: Output, args: AgentRunArgs) -> Result<(), CliError> {
    let servers = args.server.iter().map(|url| ServerUrl::parse(url));
    let servers: Vec<ServerUrl> = servers.collect::<Result<_, _>>()?;
    let servers: Vec<ServerUrl> = servers
        .into_iter()
        .filter(|server| args.wire.is_empty() || args.wire.contains(&server.wire()))
        .collect();
    if servers.is_empty() {
        return Err(CliError::usage(
            "no --server is of a wire that --wire names",
        ));
    }
    let trust = match &args.pin {
        Some(pin) => Trust::Pinned(
            pin.parse::<Fingerprint>()
                .map_err(|error| CliError::usage(format!("--pin: {error}")))?,
        ),
        None => Trust::System,
    };
    let key = args
        .enrol_key
        .as_deref()
        .map(enrol_key)
        .transpose()
        .map_err(|error| CliError::usage("--enrol-key makes no sense").cause(&error))?;
    let drain = signals::drain_on_signal()?;
    let folder = crate::cli::state::folder(global);
    let settings = AgentSettings::load(&args.config, &folder)?;
    let agent = LocalAgent::open(&folder, key, Vec::new()).await?;
    let links = agent.links(&servers, &trust, settings.insecure)?;
    tracing::info!(
        agent.id = %agent.id(), agent.name = agent.name(),
        servers = ?servers.iter().map(ServerUrl::to_string).collect::<Vec<_>>(),
        "the agent works"
    );
    out.say(&format!(
        "agent {} ({}) works for {}",
        agent.name(),
        agent.id(),
        args.server.join(", ")
    ));
    agent.run(links, drain).await;
    Ok(())
}

/// One `--server`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerUrl {
    /// `http(s)://HOST[:PORT]/PATH`.
    Fusion(fusion::ServerUrl),
    /// `teeth://HOST:PORT`, or `teeths://` over TLS.
    Teeth {
        /// Where it listens.
        endpoint: Endpoint,
        /// Whether over TLS.
        tls: bool,
    },
    /// `zabbix://HOST:PORT?...`.
    Zabbix(zabbix::ServerUrl),
}

impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fusion(url) => url.fmt(f),
            Self::Teeth {
                endpoint,
                tls: false,
            } => write!(f, "teeth://{endpoint}"),
            Self::Teeth {
                endpoint,
                tls: true,
            } => write!(f, "teeths://{endpoint}"),
            Self::Zabbix(url) => url.fmt(f),
        }
    }
}

impl ServerUrl {
    /// Reads a URL; the scheme says the wire.
    ///
    /// # Errors
    /// A usage error that says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        let wrong = |error: &dyn std::fmt::Display| {
            CliError::usage(format!("--server: {error}"))
                .next("http(s)://HOST[:PORT]/PATH, teeth(s)://HOST:PORT or zabbix://HOST:PORT")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong(&"no URL"))?;
        match scheme {
            "http" | "https" => text
                .parse()
                .map(Self::Fusion)
                .map_err(|error| wrong(&error)),
            "teeth" | "teeths" => {
                let place = rest.trim_end_matches('/');
                let endpoint = place
                    .parse()
                    .or_else(|_| format!("{place}:{TEETH_PORT}").parse())
                    .map_err(|error: muster_net::dial::BadEndpoint| wrong(&error))?;
                Ok(Self::Teeth {
                    endpoint,
                    tls: scheme == "teeths",
                })
            }
            "zabbix" => text
                .parse()
                .map(Self::Zabbix)
                .map_err(|error| wrong(&error)),
            "pscheduler" => Err(wrong(&"this build has no pscheduler:// link")),
            other => Err(wrong(&format!("no wire goes by the scheme {other:?}"))),
        }
    }

    fn wire(&self) -> WireName {
        match self {
            Self::Fusion(_) => WireName::Fusion,
            Self::Teeth { .. } => WireName::Teeth,
            Self::Zabbix(_) => WireName::Zabbix,
        }
    }
}

/// The agent of this machine.
#[derive(Debug)]
pub(crate) struct LocalAgent {
    agent: Agent,
    policy: PolicySource,
    clock: Clock,
    entropy: Entropy,
    /// Wakers of the links that pull, filled when they begin.
    pulling: Arc<Mutex<BTreeMap<String, Arc<Notify>>>>,
}

impl LocalAgent {
    /// Opens the agent's state in `folder`. `scan` are networks that the person at the terminal named.
    pub(crate) async fn open(
        folder: &Path,
        key: Option<Secret>,
        scan: Vec<IpNet>,
    ) -> Result<Self, CliError> {
        let path: PathBuf = folder.join(FOLDER);
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let policy = PolicySource::new(SYSTEM_POLICY, &path).with_operator_scan(scan.clone());
        let config = AgentConfig {
            key,
            operator_scan: scan,
            ..AgentConfig::local(&path)
        };
        let agent = Agent::open(config, clock.clone(), entropy.clone())
            .await
            .map_err(|error| not_opened(&error, &path))?;
        Ok(Self {
            agent,
            policy,
            clock,
            entropy,
            pulling: Arc::default(),
        })
    }

    /// Its id, the same on every wire.
    pub(crate) fn id(&self) -> muster_core::AgentId {
        self.agent.identity().id
    }

    /// The name people know it by.
    pub(crate) fn name(&self) -> &str {
        &self.agent.identity().name
    }

    /// What this machine has to sample.
    pub(crate) fn items(&self) -> &muster_agent::tools::items::Items {
        self.agent.items()
    }

    /// A link to each of `servers`. Where one server is reached over fusion and teeth, each kind of work
    /// goes over one of them. `insecure`: plain `http` may leave this machine.
    pub(crate) fn links(
        &self,
        servers: &[ServerUrl],
        trust: &Trust,
        insecure: bool,
    ) -> Result<Vec<Link>, CliError> {
        let has = |wire| servers.iter().any(|server| server.wire() == wire);
        let both = has(WireName::Fusion) && has(WireName::Teeth);
        let kinds = self
            .agent
            .crew()
            .registry()
            .capabilities()
            .map(|(kind, _)| kind.to_owned());
        let (over_fusion, over_teeth): (Vec<String>, Vec<String>) =
            kinds.partition(|kind| FUSION_KINDS.contains(&kind.as_str()));
        let all = || {
            over_fusion
                .iter()
                .chain(&over_teeth)
                .cloned()
                .collect::<Vec<_>>()
        };
        let over_fusion_only = if both { over_fusion.clone() } else { all() };
        servers
            .iter()
            .map(|server| match server {
                ServerUrl::Fusion(url) => {
                    self.fusion(url, trust, insecure, over_fusion_only.clone())
                }
                ServerUrl::Teeth { endpoint, tls } => {
                    let kinds = over_teeth.clone();
                    Ok(self.teeth(server.to_string(), endpoint, tls.then_some(trust), kinds))
                }
                ServerUrl::Zabbix(url) => Ok(self.zabbix(url)),
            })
            .collect()
    }

    fn fusion(
        &self,
        url: &fusion::ServerUrl,
        trust: &Trust,
        insecure: bool,
        kinds: Vec<String>,
    ) -> Result<Link, CliError> {
        if insecure && url.is_unproven() {
            tracing::warn!(
                server = %url,
                "agent.insecure: plain http to another machine; whoever is on the way reads the \
                 enrolment key and can be the server, which may only observe, scan and measure"
            );
        }
        let config = fusion::Config {
            url: url.clone(),
            agent_id: self.id(),
            name: self.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            key: self.agent.token().cloned(),
            trust: trust.clone(),
            insecure,
            first_retry: fusion::FIRST_RETRY,
            kinds: Some(kinds),
        };
        let (crew, clock, entropy) = (
            self.agent.crew().clone(),
            self.clock.clone(),
            self.entropy.clone(),
        );
        let make = move || {
            fusion::FusionLink::new(config.clone(), crew.clone(), clock.clone(), entropy.clone())
        };
        // What cannot be made once can never be.
        make().map_err(|error| {
            CliError::failed(Code::TLS_UNTRUSTED, format!("cannot work for {url}"))
                .cause(&error)
                .next(
                    "use https:// with --pin SHA256 (`muster up` and `server run` print it), a loopback \
                     address, or agent.insecure = true (--agent-insecure)",
                )
        })?;
        let server = url.to_string();
        let pulling = Arc::clone(&self.pulling);
        Ok(Link::new(server.clone(), move |cancel| {
            let link = make();
            let (server, pulling) = (server.clone(), Arc::clone(&pulling));
            async move {
                match link {
                    Ok(link) => {
                        lock(&pulling).insert(server, link.waker());
                        link.run(cancel).await;
                    }
                    Err(error) => tracing::error!(server, %error, "the link cannot be made"),
                }
            }
        }))
    }

    fn teeth(
        &self,
        url: String,
        endpoint: &Endpoint,
        tls: Option<&Trust>,
        kinds: Vec<String>,
    ) -> Link {
        let root = PathBuf::from("/");
        let server = endpoint.host.parse().ok();
        // A machine without an interface still has to go by something, and an id is always there.
        let mac = teeth::primary_mac(&root, server).unwrap_or_else(|| self.id().to_string());
        let config = teeth::Config {
            peer: url.clone(),
            endpoint: endpoint.clone(),
            protection: tls.map_or(Protection::Plain, |trust| Protection::Tls(trust.clone())),
            token: self.agent.token().map(|token| token.expose().to_owned()),
            agent_id: self.id().to_string(),
            mac,
            hostname: Some(self.name().to_owned()),
            kinds,
            root,
        };
        let (crew, clock, entropy) = (
            self.agent.crew().clone(),
            self.clock.clone(),
            self.entropy.clone(),
        );
        Link::new(url, move |cancel| {
            let (config, crew) = (config.clone(), crew.clone());
            teeth::TeethLink::new(config, crew, clock.clone(), entropy.clone()).run(cancel)
        })
    }

    fn zabbix(&self, url: &zabbix::ServerUrl) -> Link {
        let config = zabbix::Config {
            endpoint: url.endpoint.clone(),
            protection: Protection::Plain,
            role: url.role,
            mode: url.mode,
            name: url.name.clone().unwrap_or_else(|| self.name().to_owned()),
            agent_id: self.id().to_string(),
            intervals: muster_proto::zabbix::agent::Intervals::default(),
        };
        let (items, spool) = (self.agent.items().clone(), self.agent.spool().clone());
        let (policy, clock, entropy) = (
            self.policy.clone(),
            self.clock.clone(),
            self.entropy.clone(),
        );
        Link::new(url.to_string(), move |cancel| {
            let (config, items, policy) = (config.clone(), items.clone(), policy.clone());
            let (spool, clock, entropy) = (spool.clone(), clock.clone(), entropy.clone());
            zabbix::ZabbixLink::new(config, &items, policy, spool, clock, entropy).run(cancel)
        })
    }

    /// Makes the links that pull ask their servers now.
    pub(crate) fn ask_now(&self) {
        for waker in lock(&self.pulling).values() {
            waker.notify_one();
        }
    }

    /// Works until `drain`, then ends in order.
    pub(crate) async fn run(&self, links: Vec<Link>, drain: CancellationToken) {
        // The second signal ends the process; there is nothing to stop but that.
        self.agent.run(links, drain, CancellationToken::new()).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_opened(error: &AgentError, path: &Path) -> CliError {
    let (code, next) = match error {
        AgentError::Identity(IdentityError::Held { .. }) => (
            Code::STATE_IN_USE,
            "end the other agent, or name another folder with --state",
        ),
        AgentError::Identity(_) | AgentError::Ledger(_) | AgentError::Spool(_) => (
            Code::STATE_FOLDER,
            "name another folder with --state or MUSTER_STATE",
        ),
        AgentError::Ending => (Code::INTERNAL, "start it again"),
    };
    CliError::failed(
        code,
        format!("cannot use the agent's state in {}", path.display()),
    )
    .cause(error)
    .next(next)
}

/// How long `up` waits for its own agent to be let in.
pub(crate) const ENROL_WAIT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_says_the_wire() {
        for (text, wire) in [
            ("http://127.0.0.1:8080/", WireName::Fusion),
            ("https://server/plugins/fusioninventory/", WireName::Fusion),
            ("teeth://127.0.0.1:8081", WireName::Teeth),
            ("teeths://server:8082", WireName::Teeth),
            ("zabbix://server:10051?role=agent", WireName::Zabbix),
        ] {
            assert_eq!(ServerUrl::parse(text).unwrap().wire(), wire, "{text}");
        }
        assert_eq!(
            ServerUrl::parse("teeth://server").unwrap().to_string(),
            "teeth://server:8081"
        );
    }

    #[test]
    fn other_urls_are_usage_errors() {
        for text in [
            "",
            "server",
            "ftp://server",
            "teeth://",
            "zabbix://s?mode=both",
            "pscheduler://s",
        ] {
            let error = ServerUrl::parse(text).unwrap_err();
            assert_eq!(error.code, Code::USAGE, "{text}");
            assert!(error.title.starts_with("--server: "), "{}", error.title);
        }
    }
}
