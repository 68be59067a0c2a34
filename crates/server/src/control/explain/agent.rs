//! Agents, and peers that never became one.

use jiff::Timestamp;
use muster_core::agent::{Agent, AgentState};
use muster_core::run::RunState;
use muster_core::time::format_duration;
use muster_store::journal::Refusal;
use muster_store::runs;

use super::{Chain, Explanation, Subject, times};
use crate::control::error::{Result, Trouble};
use crate::control::{AgentView, Control, lookup};

impl Control {
    pub(super) async fn explain_agent(&self, name: &str) -> Result<Explanation> {
        let view = match self.find_agent(name).await {
            Ok(view) => view,
            Err(error) if error.trouble == Trouble::NotFound => {
                let refusals = self.refusals_of(name).await?;
                if refusals.is_empty() {
                    let mut chain = Chain::new();
                    chain.link(None, "contacted", Err((
                        format!("no agent, address or peer called {name:?} has ever made contact"),
                        "point it at this server: `muster status` shows the addresses, `muster agent key create` makes a key".into(),
                    )));
                    return Ok(chain.end(Subject::Agent, String::new(), name.to_owned(), "", ""));
                }
                return Ok(explain_stranger(name, &refusals));
            }
            Err(error) => return Err(error),
        };
        let mut chain = Chain::new();
        let now = self.now();
        self.agent_links(&mut chain, &view, now).await?;
        let agent = &view.agent;
        let open = runs::Filter {
            agent: Some(agent.id),
            ..runs::Filter::default()
        };
        let runs = self.runs(open, None, 1000).await?.rows;
        let waiting = runs
            .iter()
            .filter(|view| view.run.run.state == RunState::Planned)
            .count();
        let busy = runs
            .iter()
            .filter(|view| matches!(view.run.run.state.word(), "offered" | "running" | "overdue"))
            .count();
        chain.note(
            None,
            "work",
            None,
            format!("{waiting} runs wait for it, {busy} are with it"),
        );
        Ok(chain.end(
            Subject::Agent,
            agent.id.to_string(),
            agent.name.clone(),
            "it is approved, in contact, and gets the work it can do",
            &format!("muster task create KIND --agent {}", agent.name),
        ))
    }

    /// Contact, approval, conflicts: what every chain that needs an agent goes through.
    pub(super) async fn agent_links(
        &self,
        chain: &mut Chain,
        view: &AgentView,
        now: Timestamp,
    ) -> Result<()> {
        let agent = &view.agent;
        let identity = self
            .decisions("agent", agent.id)
            .await?
            .into_iter()
            .find(|decision| decision.check == "identity");
        chain.note(
            Some(agent.first_seen),
            "contacted",
            Some(true),
            format!(
                "{} {} on {}, from {}",
                if agent.software.is_empty() {
                    "an agent"
                } else {
                    &agent.software
                },
                agent.version,
                agent
                    .wires
                    .iter()
                    .map(|wire| wire.word())
                    .collect::<Vec<_>>()
                    .join(", "),
                agent.address.map_or_else(
                    || "an unknown address".into(),
                    |address| address.to_string()
                ),
            ),
        );
        let at = identity.as_ref().map(|decision| decision.at);
        let name = &agent.name;
        chain.link(at, "approved", match agent.state {
            AgentState::Pending => Err((
                format!("agent {name:?} is pending: nobody has approved it"),
                format!("muster agent approve {name}"),
            )),
            AgentState::Disabled => Err((
                format!("agent {name:?} is disabled"),
                format!("muster agent approve {name}"),
            )),
            AgentState::Approved => match identity {
                Some(decision) if !decision.ok => Err((
                    format!("agent {name:?} is held: {}", decision.detail),
                    format!("if the change is meant, `muster agent approve {name}` binds it to where it is; else find out who uses its name"),
                )),
                Some(decision) => Ok(decision.detail),
                None => Ok("approved".into()),
            },
        });
        let silent = now.duration_since(agent.last_seen);
        chain.link(
            Some(agent.last_seen),
            "in contact",
            if view.online {
                Ok(format!(
                    "last heard of {} ago",
                    format_duration(jiff::SignedDuration::from_secs(silent.as_secs().max(0)))
                ))
            } else {
                Err((
                    format!(
                        "agent {name:?} was expected by {} and has been silent since {}",
                        agent.expected_by, agent.last_seen
                    ),
                    format!(
                        "look at the agent on {}: is it running, and can it reach this server?",
                        agent
                            .address
                            .map_or_else(|| name.clone(), |a| a.to_string())
                    ),
                ))
            },
        );
        for refusal in self.refusals_of(name).await?.iter().take(3) {
            chain.note(
                Some(refusal.last),
                "refused",
                None,
                format!(
                    "{}: {}: {}",
                    times(refusal.times),
                    refusal.reason,
                    refusal.detail
                ),
            );
        }
        chain.note(
            None,
            "capable",
            None,
            format!("it can do: {}", lookup::kinds_of(agent)),
        );
        Ok(())
    }

    pub(super) fn capability_link(&self, chain: &mut Chain, agent: &Agent, kind: &str) {
        let can = agent
            .capabilities
            .iter()
            .find(|capability| capability.kind.as_str() == kind);
        chain.link(
            None,
            "capable",
            match can {
                Some(capability) if capability.assumed => Ok(format!(
                    "{} is assumed to do {kind}; it never says",
                    agent.name
                )),
                Some(capability) => {
                    Ok(format!("{} does {kind} {}", agent.name, capability.version))
                }
                None => Err((
                    format!(
                        "agent {:?} cannot do {kind}; it can do: {}",
                        agent.name,
                        lookup::kinds_of(agent)
                    ),
                    format!("give the work to another: muster task create {kind} --any"),
                )),
            },
        );
    }
}

fn explain_stranger(name: &str, refusals: &[Refusal]) -> Explanation {
    let mut chain = Chain::new();
    for refusal in refusals {
        let who = if refusal.peer.is_empty() {
            refusal.address.clone()
        } else {
            format!("{:?} at {}", refusal.peer, refusal.address)
        };
        chain.link(
            Some(refusal.last),
            &refusal.reason,
            Err((
                format!(
                    "{who} was refused {} on {}: {}",
                    times(refusal.times),
                    refusal.wire,
                    refusal.detail
                ),
                remedy(refusal),
            )),
        );
    }
    chain.end(Subject::Agent, String::new(), name.to_owned(), "", "")
}

/// What to do about a refusal. The words of the reasons are those of the wires and listeners.
fn remedy(refusal: &Refusal) -> String {
    let text = match refusal.reason.as_str() {
        "tls" | "handshake" => {
            "see that the peer speaks TLS to this port and trusts the server's certificate: give it \
             the one in STATE/tls, or the pin that the server logs at its start"
        }
        "not_authenticated" | "bad_token" | "login" | "too_many_failures" => {
            "make a key with `muster agent key create` and give it to the peer"
        }
        "not_approved" | "held" => "see who it is and approve it: `muster agent list`",
        "too_many_pending" => "approve or remove those that wait: `muster agent list`",
        "connections" | "connections_per_address" | "memory" | "overload" | "rate" => {
            "if it is one of yours, list its network in limits.exempt; `muster status` shows the load"
        }
        "agent_unreachable" => {
            "see that a Zabbix agent listens there and that its Server= lists this server"
        }
        "version" => "install a version that this server speaks; the detail says which",
        "name" => "give the peer a name this server can keep; the detail says why not this one",
        // All that is left are bytes that are not what the port expects.
        _ => {
            return format!(
                "see that the peer speaks {} to this port, and nothing else; `muster status` shows the \
                 ports",
                refusal.wire
            );
        }
    };
    text.to_owned()
}
