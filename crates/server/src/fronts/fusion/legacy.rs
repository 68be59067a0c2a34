//! P2: what XML messages ask and tell.

use jiff::SignedDuration;
use muster_core::HostId;
use muster_core::agent::{Agent, Wire};
use muster_core::host::{HostFacts, SourceKind};
use muster_core::result::{News, Outcome};
use muster_core::run::OfferToken;
use muster_proto::fusion::controller::{Answer, Context};
use muster_proto::fusion::inventory::Inventory;
use muster_proto::fusion::p2::{self, Reading, Word};
use muster_proto::fusion::reply::{JobOption, Reply};
use muster_proto::fusion::wire::PeerName;
use serde_json::json;

use super::{From, Front, WAIT_PENDING, Who, facts, jobs};
use crate::control::{ControlError, Observation};

/// How old an inventory may be before an agent that would send one is asked to.
const INVENTORY_AGE: SignedDuration = SignedDuration::from_hours(24);

impl Front {
    pub(super) async fn message(
        &self,
        message: p2::Message,
        context: &Context,
        from: &From<'_>,
    ) -> Result<Answer, ControlError> {
        let p2::Message {
            device,
            process,
            content,
        } = message;
        let token = process.as_deref().and_then(jobs::token_of);
        if content == p2::Content::Prolog {
            return match context.agent_id {
                Some(_) => self.native_prolog(&device, context, from).await,
                None => self.prolog(&device, context, from).await,
            };
        }
        // Our own agents upload what P1 asked for under the id they asked with.
        let who = Who {
            id: facts::own_id(device.as_str(), context.software.as_ref()),
            ..Who::device(device)
        };
        let admission = self.check_in(who, context, from).await?;
        if let Some(refusal) = self.refusal(&admission, from) {
            return Ok(refusal);
        }
        let agent = admission.agent;
        match content {
            p2::Content::Prolog => {}
            p2::Content::Inventory(inventory) => {
                self.inventory(&agent, inventory, token).await?;
            }
            p2::Content::NetDiscovery(words) => {
                for word in words {
                    let word = match word {
                        Word::Device(device) => {
                            self.observe(
                                &agent,
                                SourceKind::Discovery,
                                facts::of_device(&device),
                                None,
                            )
                            .await?;
                            Word::Device(device.to_json().to_string())
                        }
                        Word::Count(count) => Word::Count(count),
                        Word::End => Word::End,
                        Word::Exit => Word::Exit,
                        Word::Start { agent_version } => Word::Start { agent_version },
                    };
                    self.word(&agent, token, word).await?;
                }
            }
            p2::Content::NetInventory(words) => {
                for word in words {
                    let word = match word {
                        Word::Device(Reading::Read { info, content, .. }) => {
                            let facts = facts::of_device(&info);
                            self.observe(&agent, SourceKind::Netinventory, facts, None)
                                .await?;
                            Word::Device(content)
                        }
                        Word::Device(Reading::Error { id, message, .. }) => {
                            Word::Device(json!({"id": id, "error": message}).to_string())
                        }
                        Word::Count(count) => Word::Count(count),
                        Word::End => Word::End,
                        Word::Exit => Word::Exit,
                        Word::Start { agent_version } => Word::Start { agent_version },
                    };
                    self.word(&agent, token, word).await?;
                }
            }
        }
        Ok(Answer::Reply(Reply::default()))
    }

    /// A word of a network task. START comes once per range and END twice: the run machine takes
    /// repeats for what they are.
    async fn word(
        &self,
        agent: &Agent,
        token: Option<OfferToken>,
        word: Word<String>,
    ) -> Result<(), ControlError> {
        let Some(token) = token else {
            tracing::debug!(agent.name = %agent.name, "news of a job that nobody gave");
            return Ok(());
        };
        let news = match word {
            Word::Start { .. } | Word::Count(_) => News::Began,
            Word::Device(part) => News::Part(part),
            Word::End => News::Finished(Outcome {
                succeeded: true,
                result: None,
                diags: None,
            }),
            Word::Exit => News::Finished(Outcome::failure("the agent gave the job up")),
        };
        self.report(token, agent, news).await
    }

    async fn observe(
        &self,
        agent: &Agent,
        what: SourceKind,
        facts: HostFacts,
        inventory: Option<String>,
    ) -> Result<HostId, ControlError> {
        let own = what == SourceKind::Inventory;
        let wire = Wire::Fusion;
        self.control
            .observe(Observation {
                wire,
                agent: agent.id,
                what,
                facts,
                inventory,
                own,
            })
            .await
    }

    pub(super) async fn inventory(
        &self,
        agent: &Agent,
        inventory: Inventory,
        token: Option<OfferToken>,
    ) -> Result<(), ControlError> {
        let before = match (inventory.partial, agent.host) {
            (true, Some(host)) => self.control.inventory(host).await?,
            (true, None) | (false, _) => None,
        };
        let merged = inventory.merged_over(before.as_deref().unwrap_or("{}"));
        let facts = facts::of_inventory(&inventory.identity());
        let name = facts.name.clone();
        let host = self
            .observe(agent, SourceKind::Inventory, facts, Some(merged))
            .await?;
        let result = json!({"succeeded": true, "host": host.to_string(), "name": name}).to_string();
        let outcome = Outcome::success(result);
        match token {
            Some(token) => self.report(token, agent, News::Finished(outcome)).await,
            None => {
                let kind = facts::inventory_kind();
                self.control
                    .close_by_observation(agent.id, &kind, outcome)
                    .await?;
                Ok(())
            }
        }
    }

    async fn prolog(
        &self,
        device: &PeerName,
        context: &Context,
        from: &From<'_>,
    ) -> Result<Answer, ControlError> {
        let admission = self.check_in_silent(device, context, from).await?;
        if let Some(challenge) = self.challenge(&admission, from) {
            return Ok(challenge);
        }
        let hours = |time: SignedDuration| Some(time.as_secs_f64() / 3600.0);
        if !admission.standing.may_work() {
            let prolog_freq = hours(WAIT_PENDING.saturating_add(SignedDuration::from_mins(5)));
            return Ok(Answer::Reply(Reply {
                prolog_freq,
                ..Reply::default()
            }));
        }
        let agent = admission.agent;
        let mut reply = Reply {
            send_inventory: self.wants_inventory(&agent).await?,
            ..Reply::default()
        };
        for offer in self.due(&agent, jobs::p2_kinds(), from).await? {
            match jobs::as_option(&offer) {
                Ok(Some(option)) => reply.options.push(option),
                Ok(None) => reply.send_inventory = true,
                Err(reason) => self.decline(&offer, &agent, reason).await?,
            }
        }
        if reply
            .options
            .iter()
            .any(|option| matches!(option, JobOption::NetDiscovery(_)))
        {
            tracing::debug!(agent.name = %agent.name, "network jobs handed over");
        }
        reply.prolog_freq = hours(self.next_contact(&agent, jobs::p2_kinds(), false).await?);
        Ok(Answer::Reply(reply))
    }

    /// Whether the machine the agent runs on has told of itself lately.
    async fn wants_inventory(&self, agent: &Agent) -> Result<bool, ControlError> {
        let Some(host) = agent.host else {
            return Ok(true);
        };
        let Ok(host) = self.control.find_host(&host.to_string()).await else {
            return Ok(true);
        };
        let now = self.control.clock().now();
        let recent = host.sources.iter().any(|source| {
            source.what == SourceKind::Inventory
                && source.agent == Some(agent.id)
                && now.duration_since(source.at) < INVENTORY_AGE
        });
        Ok(!recent)
    }
}
