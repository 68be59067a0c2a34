//! P3, and the side protocol of P2: what JSON messages ask and tell.

use http::StatusCode;
use muster_core::agent::{Agent, Wire};
use muster_proto::fusion::controller::{Answer, Context};
use muster_proto::fusion::p3::{self, Expiration, Plan};
use muster_proto::fusion::side;
use muster_proto::fusion::wire::PeerName;

use super::{From, Front, WAIT_PENDING, Who, facts, jobs, refuse};
use crate::control::ControlError;

impl Front {
    pub(super) async fn native_prolog(
        &self,
        device: &PeerName,
        context: &Context,
        from: &From<'_>,
    ) -> Result<Answer, ControlError> {
        let admission = self.check_in_silent(device, context, from).await?;
        if let Some(challenge) = self.challenge(&admission, from) {
            return Ok(challenge);
        }
        match admission.standing.may_work() {
            true => self.plan(&admission.agent, false).await,
            false => Ok(Answer::Native(p3::Answer::Pending(Expiration::Now))),
        }
    }

    /// What to do until the next contact. After a contact the agent sends an inventory and asks for its
    /// network jobs at once, by a PROLOG of the older dialect: `given`. After its very first message,
    /// a PROLOG of this one, it does not.
    async fn plan(&self, agent: &Agent, given: bool) -> Result<Answer, ControlError> {
        let next = self.next_contact(agent, jobs::p2_kinds(), given).await?;
        Ok(Answer::Native(p3::Answer::Ok(Some(Plan {
            expiration: Expiration::Seconds(u64::try_from(next.as_secs()).unwrap_or(1).max(1)),
            native: vec!["inventory".to_owned()],
            legacy: vec!["netdiscovery".to_owned()],
            disabled: jobs::NOT_GIVEN
                .iter()
                .map(|task| (*task).to_owned())
                .collect(),
            message: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))))
    }

    pub(super) async fn native(
        &self,
        message: p3::Message,
        context: &Context,
        from: &From<'_>,
    ) -> Result<Answer, ControlError> {
        let p3::Message { device, content } = message;
        match content {
            p3::Content::Contact(contact) => {
                let capabilities = Some(facts::of_contact(&contact));
                let who = Who {
                    capabilities,
                    ..Who::device(device)
                };
                let admission = self.check_in(who, context, from).await?;
                if let Some(challenge) = self.challenge(&admission, from) {
                    return Ok(challenge);
                }
                if admission.standing.may_work() {
                    return self.plan(&admission.agent, true).await;
                }
                let wait = u64::try_from(WAIT_PENDING.as_secs()).unwrap_or(600);
                Ok(Answer::Native(p3::Answer::Pending(Expiration::Seconds(
                    wait,
                ))))
            }
            p3::Content::Inventory(inventory) => {
                let admission = self.check_in_silent(&device, context, from).await?;
                if let Some(refusal) = self.refusal(&admission, from) {
                    return Ok(refusal);
                }
                self.inventory(&admission.agent, inventory, None).await?;
                Ok(Answer::Native(p3::Answer::Ok(None)))
            }
            p3::Content::Other(action) => Ok(refuse(
                StatusCode::NOT_IMPLEMENTED,
                format!("action {action} is not supported here"),
            )),
        }
    }

    /// Questions and news of the side protocol, of which there is nothing to do.
    pub(super) async fn side(&self, ask: side::Ask) -> Result<Answer, ControlError> {
        match ask {
            side::Ask::Config { .. } => Ok(Answer::Config),
            side::Ask::Jobs { remote, .. } => Ok(Answer::Jobs(remote)),
            side::Ask::News {
                machine: Some(machine),
                ..
            } if !self
                .control
                .knows_peer(Wire::Fusion, machine.as_str())
                .await? =>
            {
                Ok(refuse(StatusCode::BAD_REQUEST, "unknown machineid"))
            }
            side::Ask::News { .. } => Ok(Answer::Accepted),
        }
    }
}
