//! `muster up`: server and local agent in one process, first real work, what was found.
//!
//! The work goes the way all work goes: a task, a run, an offer over a wire, the agent, a result, the
//! store. Nothing here measures or discovers by itself.

mod show;
mod work;

use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use muster_agent::links::{fusion, zabbix};
use muster_core::agent::{AgentState, Wire};
use muster_core::range::AddressRange;
use muster_net::Endpoint;
use muster_net::tls::Trust;
use muster_server::control::{EnrolPolicy, NewKey};
use tokio_util::sync::CancellationToken;

use crate::agent_run::{self, LocalAgent, ServerUrl};
use crate::cli::args::{Format, Global, UpArgs};
use crate::cli::error::{CliError, Code};
use crate::cli::output::Output;
use crate::config::{Config, Purpose};
use crate::server_run::{Server, control_error};
use crate::signals;
use crate::state::Bound;
use work::{FirstWork, Sampled};

/// Between two looks at whether the agent has been let in.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(50);

/// Runs until the first work has ended (`--once`) or a signal comes.
pub(crate) async fn run(global: &Global, out: Output, args: UpArgs) -> Result<(), CliError> {
    let folder = crate::cli::state::folder(global);
    let config = Config::load(&args.config, &folder, Purpose::Up)?;
    let ranges = ranges(&args.discover)?;
    let signal = signals::drain_on_signal()?;
    // Cancelled after the agent has drained: its last words need somebody to hear them.
    let stop_server = CancellationToken::new();
    let server = Server::start(&folder, &config, &stop_server).await?;
    for warning in config.warnings() {
        out.say(&format!("warning: {warning}"));
    }
    let up = Up {
        out,
        once: args.once,
        discover: args.discover,
        state: global.state.is_some(),
    };
    let outcome = Box::pin(up.live(&server, &config, ranges, &signal)).await;
    stop_server.cancel();
    let drained = server.drained().await;
    outcome.and(drained)
}

struct Up {
    out: Output,
    once: bool,
    discover: Vec<String>,
    /// Whether the state folder was named, so that hints must name it too.
    state: bool,
}

impl Up {
    async fn live(
        &self,
        server: &Server,
        config: &Config,
        ranges: Vec<IpNet>,
        signal: &CancellationToken,
    ) -> Result<(), CliError> {
        let out = self.out;
        out.say(&format!(
            "muster {} in {}",
            env!("CARGO_PKG_VERSION"),
            server.path().display()
        ));
        out.say(&format!("listening on {}", show::addresses(&server.bound)));
        let key = self.own_key(server, config).await?;
        let agent = LocalAgent::open(server.path(), key, ranges).await?;
        let wires = Wires::of(&server.bound);
        let sampled = match wires.zabbix {
            true => Some(work::declare_items(server, &agent).await?),
            false => None,
        };
        let links = agent.links(
            &wires.servers(&server.bound)?,
            &Trust::Pinned(server.fingerprint),
            // The listener is this machine's own, and whoever opened it in the clear said so.
            config.listen.insecure,
        )?;
        let stop_agent = CancellationToken::new();
        let working = agent.run(links, stop_agent.clone());
        tokio::pin!(working);

        let first = self.first_work(server, &agent, wires, sampled);
        let outcome = tokio::select! {
            outcome = first => outcome,
            () = &mut working => Ok(()),
            () = signal.cancelled() => Ok(()),
        };
        if outcome.is_ok() && !self.once && !signal.is_cancelled() {
            out.say("working; Ctrl-C drains and stops, a second one stops at once");
            tokio::select! {
                () = &mut working => {}
                () = signal.cancelled() => {}
            }
        }
        if signal.is_cancelled() {
            out.say("stopping: finishing what is in hand");
        }
        stop_agent.cancel();
        working.await;
        outcome
    }

    /// Where nobody is let in without a key, the local agent gets one of its own.
    async fn own_key(
        &self,
        server: &Server,
        config: &Config,
    ) -> Result<Option<muster_core::credential::Secret>, CliError> {
        let has_token = server.path().join("agent").join("token").exists();
        if config.enrol_policy == EnrolPolicy::Loopback || has_token {
            return Ok(None);
        }
        let new = NewKey {
            label: "the agent of `up`".to_owned(),
            once: true,
            expires: None,
        };
        let (_, key) = server
            .control
            .create_key(new)
            .await
            .map_err(|e| control_error(&e))?;
        Ok(Some(key))
    }

    async fn first_work(
        &self,
        server: &Server,
        agent: &LocalAgent,
        wires: Wires,
        sampled: Option<Sampled>,
    ) -> Result<(), CliError> {
        let out = self.out;
        for line in wires.left_out() {
            out.say(line);
        }
        if wires.none() {
            return Err(CliError::failed(
                Code::CONFIG_INVALID,
                "every listener is off: the agent cannot reach the server",
            )
            .next("turn one on, with --listen-http for example"));
        }
        self.wait_for_agent(server, agent, wires).await?;
        let mut first = FirstWork::new(server, agent, out);
        if wires.fusion {
            first.inventory().await?;
            first.discovery(&["127.0.0.1".to_owned()]).await?;
            if !self.discover.is_empty() {
                first.discovery(&self.discover).await?;
            }
        }
        if wires.teeth {
            first.round_trip().await?;
        }
        agent.ask_now();
        let runs = first.ended(sampled.as_ref()).await?;
        let found = show::Found::collect(server, agent, runs, sampled.as_ref()).await?;
        if out.explicit && out.format != Format::Table {
            out.object(&found.object(&server.bound))?;
        } else {
            found.tables(out)?;
        }
        found.hints(out, server, self.state);
        Ok(())
    }

    /// Returns when the agent has been let in and heard on every wire that work will go over.
    async fn wait_for_agent(
        &self,
        server: &Server,
        agent: &LocalAgent,
        wires: Wires,
    ) -> Result<(), CliError> {
        let control = &server.control;
        let clock = control.clock();
        let deadline = clock.instant() + agent_run::ENROL_WAIT;
        loop {
            let view = control.agent(agent.id()).await.ok();
            let heard = view.as_ref().is_some_and(|view| {
                let on = |wire, wanted: bool| !wanted || view.agent.wires.contains(&wire);
                view.agent.state == AgentState::Approved
                    && on(Wire::Fusion, wires.fusion)
                    && on(Wire::Teeth, wires.teeth)
            });
            if heard {
                self.out.say(&format!("agent {} is at work", agent.name()));
                return Ok(());
            }
            if clock.instant() >= deadline {
                let state = match view {
                    Some(view) => format!(
                        "it is {} and was heard over: {}",
                        view.agent.state.word(),
                        view.agent
                            .wires
                            .iter()
                            .map(|wire| wire.word())
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                    None => "it has not been heard at all".to_owned(),
                };
                return Err(CliError::failed(
                    Code::TIMED_OUT,
                    format!("the local agent {} did not get to work", agent.name()),
                )
                .line(state)
                .next(format!("`muster explain agent {}` says why", agent.id())));
            }
            clock.sleep(LOOK_EVERY).await;
        }
    }
}

/// Which wires can be used: those with a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wires {
    fusion: bool,
    teeth: bool,
    zabbix: bool,
}

impl Wires {
    fn of(bound: &Bound) -> Self {
        Self {
            fusion: bound.http.is_some() || bound.https.is_some(),
            teeth: bound.teeth.is_some() || bound.teeths.is_some(),
            zabbix: bound.zabbix.is_some(),
        }
    }

    fn none(self) -> bool {
        !self.fusion && !self.teeth && !self.zabbix
    }

    /// A line for each thing that a listener turned off leaves out.
    fn left_out(self) -> Vec<&'static str> {
        let lines = [
            (
                self.fusion,
                "left out: inventory and discovery, as the http and https listeners are off",
            ),
            (
                self.teeth,
                "left out: the round trip, as the teeth and teeths listeners are off",
            ),
            (
                self.zabbix,
                "left out: items, as the zabbix listener is off",
            ),
        ];
        lines
            .into_iter()
            .filter(|(on, _)| !on)
            .map(|(_, line)| line)
            .collect()
    }

    /// Where the agent's links go: to the plain listener where both are on, as it is this machine's.
    fn servers(self, bound: &Bound) -> Result<Vec<ServerUrl>, CliError> {
        let fusion = match (&bound.http, &bound.https) {
            (Some(address), _) => Some(format!("http://{}/", reachable(address))),
            (None, Some(address)) => Some(format!("https://{}/", reachable(address))),
            (None, None) => None,
        };
        let fusion = fusion.map(|url| url.parse::<fusion::ServerUrl>());
        let fusion = fusion.transpose().map_err(|error| {
            CliError::failed(Code::INTERNAL, "cannot reach the server's own listener").cause(&error)
        })?;
        let endpoint = |address: &str| reachable(address).parse::<Endpoint>().ok();
        let teeth = match (&bound.teeth, &bound.teeths) {
            (Some(address), _) => endpoint(address).map(|endpoint| (endpoint, false)),
            (None, Some(address)) => endpoint(address).map(|endpoint| (endpoint, true)),
            (None, None) => None,
        };
        let zabbix = bound.zabbix.as_deref().and_then(endpoint);
        let zabbix = zabbix.map(|endpoint| zabbix::ServerUrl {
            endpoint,
            role: zabbix::Role::Agent,
            mode: zabbix::Mode::Active,
            name: None,
        });
        Ok([
            fusion.map(ServerUrl::Fusion),
            teeth.map(|(endpoint, tls)| ServerUrl::Teeth { endpoint, tls }),
            zabbix.map(ServerUrl::Zabbix),
        ]
        .into_iter()
        .flatten()
        .collect())
    }
}

/// Where a bound address is reached from this machine: a wildcard is reached on loopback.
fn reachable(bound: &str) -> String {
    match bound.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            let loopback: IpAddr = match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            SocketAddr::new(loopback, address.port()).to_string()
        }
        Ok(_) | Err(_) => bound.to_owned(),
    }
}

/// The networks that `--discover` names. The person at the terminal asked for them, so the agent may
/// scan them for the life of this process.
fn ranges(discover: &[String]) -> Result<Vec<IpNet>, CliError> {
    let mut networks = Vec::new();
    for text in discover {
        let parsed = AddressRange::parse_list(text)
            .map_err(|error| CliError::usage(format!("--discover: {error}")))?;
        for range in parsed {
            match range {
                AddressRange::Span {
                    first: IpAddr::V4(first),
                    last: IpAddr::V4(last),
                } => {
                    networks.extend(IpSubnets::V4(Ipv4Subnets::new(first, last, 0)));
                }
                AddressRange::Span {
                    first: IpAddr::V6(first),
                    last: IpAddr::V6(last),
                } => {
                    networks.extend(IpSubnets::V6(Ipv6Subnets::new(first, last, 0)));
                }
                AddressRange::Span { .. } => {}
                AddressRange::Name(name) => {
                    let found = std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 0));
                    let found = found.map_err(|error| {
                        CliError::usage(format!("--discover: the name {name} was not found"))
                            .cause(&error)
                    })?;
                    networks.extend(found.map(|address| IpNet::from(address.ip().to_canonical())));
                }
            }
        }
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_becomes_the_networks_that_hold_it_and_no_more() {
        let networks = |text: &str| {
            let networks = ranges(&[text.to_owned()]).unwrap();
            networks
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(networks("10.0.0.0/24"), "10.0.0.0/24");
        assert_eq!(
            networks("10.0.0.1-10.0.0.4"),
            "10.0.0.1/32 10.0.0.2/31 10.0.0.4/32"
        );
        assert_eq!(networks("10.0.0.7"), "10.0.0.7/32");
        assert_eq!(networks("2001:db8::/126"), "2001:db8::/126");
        assert!(networks("localhost").contains("127.0.0.1/32"));
        for bad in ["10.0.0.9-10.0.0.1", "no such name", "10.0.0.0/40"] {
            assert_eq!(
                ranges(&[bad.to_owned()]).unwrap_err().code,
                Code::USAGE,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_listener_that_is_off_leaves_out_what_needs_it() {
        let address = || Some("127.0.0.1:1".to_owned());
        let all = Bound {
            http: address(),
            teeth: address(),
            zabbix: address(),
            ..Bound::default()
        };
        assert!(Wires::of(&all).left_out().is_empty());
        assert_eq!(Wires::of(&all).servers(&all).unwrap().len(), 3);
        let tls = Bound {
            https: address(),
            teeths: address(),
            ..Bound::default()
        };
        assert_eq!(
            Wires::of(&tls).left_out(),
            ["left out: items, as the zabbix listener is off"]
        );
        let servers = Wires::of(&tls).servers(&tls).unwrap();
        let shown: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["https://127.0.0.1:1/", "teeths://127.0.0.1:1"]);
        assert_eq!(Wires::of(&Bound::default()).left_out().len(), 3);
        assert!(Wires::of(&Bound::default()).none());
    }

    #[test]
    fn a_wildcard_is_reached_on_loopback() {
        assert_eq!(reachable("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(reachable("[::]:80"), "[::1]:80");
        assert_eq!(reachable("192.0.2.1:80"), "192.0.2.1:80");
    }
}
