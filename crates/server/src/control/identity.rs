//! Who a peer is, whether it may work, and what it must show (threat model, section 2).

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use muster_core::agent::{Agent, AgentState, Capability, Wire};
use muster_core::credential::Secret;
use muster_core::time::saturating_add;
use muster_core::{AgentId, EnrolKeyId, words};
use muster_store::agents::{self, Bond, Enrolled};
use muster_store::journal::{self, Audit, Decision};
use muster_store::{StoreError, Tx, access};
use rand_core::Rng;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::error::{ControlError, Result, Trouble};
use super::{Control, EnrolPolicy};

/// How many agents may wait for approval (threat model, section 2).
const PENDING_MAX: i64 = 10_000;
/// A contact that changed nothing is written at most this often.
const TOUCH_EVERY: SignedDuration = SignedDuration::from_secs(5);
/// How long a peer may be silent beyond what it was told before it counts as gone.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// What a peer says of itself when it makes contact.
#[derive(Clone, Debug)]
pub struct Hello {
    /// The wire.
    pub wire: Wire,
    /// The name it goes by there: DEVICEID, chassis id, proxy name.
    pub peer: String,
    /// Our own agents say one id on every wire.
    pub id: Option<AgentId>,
    /// The name to give it if it is new and the name is free.
    pub name: Option<String>,
    /// The program; empty when it does not say.
    pub software: String,
    /// Its version; empty when it does not say.
    pub version: String,
    /// What it says it can do on this wire; `None` when the message does not say.
    pub capabilities: Option<Vec<Capability>>,
    /// Where it speaks from.
    pub address: IpAddr,
    /// A request that somebody forwarded is not from loopback.
    pub forwarded: bool,
    /// What it shows to be believed.
    pub proof: Proof,
    /// `plain`, `psk:IDENTITY` or `cert:SUBJECT`, for wires whose peers are held to it.
    pub tls_identity: Option<String>,
    /// How long until it is expected again.
    pub next_contact: SignedDuration,
}

/// What a peer shows to be believed.
#[derive(Clone, Debug, Default)]
pub enum Proof {
    /// An enrolment key, or the token that it became.
    Key(Secret),
    /// Nothing.
    #[default]
    None,
}

/// What came of a contact.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    /// The agent as it is now recorded.
    pub agent: Agent,
    /// Whether it may work.
    pub standing: Standing,
    /// What it showed of the credential it was enrolled with.
    pub credential: Credential,
}

/// What an agent showed of its credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// The right one, or it has none.
    Good,
    /// None: a wire with challenges asks for it.
    Missing,
    /// Another than the one that enrolled it: a failed login.
    Wrong,
}

/// Whether a peer may work. All but `Approved` give and get nothing, politely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// May work.
    Approved,
    /// A person took its approval away.
    Disabled,
    /// The identity is another's: other address, other key.
    Held(String),
    /// Waits for a person or a key.
    Pending,
}

impl Standing {
    /// Whether it may work.
    pub fn may_work(&self) -> bool {
        matches!(self, Self::Approved)
    }
}

words! {
    /// What a token of the admin API may do.
    pub enum Role("role") {
        /// Look.
        Viewer = "viewer",
        /// Give work, declare hosts, approve agents.
        Operator = "operator",
        /// Make keys and tokens too.
        Admin = "admin",
    }
}

/// An enrolment key to be made.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// For people.
    pub label: String,
    /// Whether it enrols one agent only.
    pub once: bool,
    /// When it stops enrolling.
    pub expires: Option<Timestamp>,
}

impl Control {
    /// Takes a peer's word of who it is: finds or makes its record, judges it.
    ///
    /// # Errors
    /// Refused when the policy asks for a key and none that counts was shown
    /// (`NOT_AUTHENTICATED`), or too many agents wait for approval (`TOO_MANY_PENDING`).
    pub async fn check_in(&self, hello: Hello) -> Result<Admission> {
        let now = self.now();
        if let Some(admission) = self.unchanged(&hello, now).await? {
            return Ok(admission);
        }
        let mut rng = self.rng();
        let (id, audit_id) = (AgentId::mint(&mut rng), mint_audit_id(&mut rng));
        let control = self.clone();
        let shown = hello.clone();
        let answer = self
            .inner
            .store
            .write(move |tx| control.admit(tx, &shown, id, audit_id, now))
            .await?;
        if let Err(error) = &answer {
            self.refused(
                hello.wire,
                hello.address,
                error.code,
                &hello.peer,
                &error.to_string(),
            );
        }
        if answer
            .as_ref()
            .is_ok_and(|admission| admission.standing.may_work())
        {
            self.nudge_work();
        }
        answer
    }

    /// Whether an agent ever made contact under this name of its wire.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn knows_peer(&self, wire: Wire, peer: &str) -> Result<bool> {
        let peer = peer.to_owned();
        let found = self
            .inner
            .store
            .read(move |tx| agents::by_peer(tx, wire, &peer))
            .await?;
        Ok(found.is_some())
    }

    /// The fast way: an approved agent that says what it said before, written a moment ago.
    async fn unchanged(&self, hello: &Hello, now: Timestamp) -> Result<Option<Admission>> {
        let (wire, peer) = (hello.wire, hello.peer.clone());
        let found = self
            .inner
            .store
            .read(move |tx| agents::by_peer(tx, wire, &peer))
            .await?;
        let Some(Enrolled { agent, bond }) = found else {
            return Ok(None);
        };
        let expected = expected_by(hello, now);
        let same = agent.state == AgentState::Approved
            && agent.wire == wire
            && agent.address == Some(hello.address)
            && (hello.id.is_none() || hello.id == Some(agent.id))
            && (hello.software.is_empty() || hello.software == agent.software)
            && (hello.version.is_empty() || hello.version == agent.version)
            && now.duration_since(agent.last_seen) < TOUCH_EVERY
            && agent.expected_by >= saturating_add(expected, -GRACE)
            && hello
                .capabilities
                .as_ref()
                .is_none_or(|said| said.iter().all(|c| agent.capabilities.contains(c)))
            && self.bond_holds(hello, &bond).is_ok();
        Ok(same.then_some(Admission {
            agent,
            standing: Standing::Approved,
            credential: Credential::Good,
        }))
    }

    fn admit(
        &self,
        tx: &mut Tx<'_>,
        hello: &Hello,
        new_id: AgentId,
        audit_id: Uuid,
        now: Timestamp,
    ) -> Result<Result<Admission>, StoreError> {
        let known = match agents::by_peer(tx, hello.wire, &hello.peer)? {
            Some(found) => Some(found),
            None => match hello.id {
                Some(id) => agents::by_id(tx, id)?,
                None => None,
            },
        };
        let key = match &hello.proof {
            Proof::Key(secret) => access::key_by_hash(tx, &sha256_hex(secret.expose()))?,
            Proof::None => None,
        };
        let mut enrolled = match known {
            Some(known) => known,
            None => match self.newcomer(tx, hello, new_id, now)? {
                Ok(newcomer) => newcomer,
                Err(error) => return Ok(Err(error)),
            },
        };
        let standing = self.judge(tx, hello, &mut enrolled, key.as_ref(), audit_id, now)?;
        let standing = match standing {
            Ok(standing) => standing,
            Err(error) => return Ok(Err(error)),
        };
        if !matches!(standing, Standing::Held(_)) {
            self.record(tx, hello, &mut enrolled, now)?;
        }
        let decision = Decision {
            check: "identity".into(),
            at: now,
            ok: standing.may_work(),
            detail: match &standing {
                Standing::Approved => format!(
                    "approved by {}",
                    enrolled.bond.approved_by.as_deref().unwrap_or("a person")
                ),
                Standing::Disabled => "disabled by a person".into(),
                Standing::Held(why) => why.clone(),
                Standing::Pending => "pending: nobody has approved it yet".into(),
            },
        };
        journal::decide(tx, &format!("agent:{}", enrolled.agent.id), &decision)?;
        let credential = match (&standing, &enrolled.bond.token_hash, &hello.proof) {
            (Standing::Held(_), Some(_), Proof::None) => Credential::Missing,
            (Standing::Held(_), Some(_), Proof::Key(_)) => Credential::Wrong,
            (Standing::Held(_), None, _) => Credential::Good,
            (Standing::Approved | Standing::Disabled | Standing::Pending, _, _) => Credential::Good,
        };
        Ok(Ok(Admission {
            agent: enrolled.agent,
            standing,
            credential,
        }))
    }

    fn newcomer(
        &self,
        tx: &mut Tx<'_>,
        hello: &Hello,
        new_id: AgentId,
        now: Timestamp,
    ) -> Result<Result<Enrolled>, StoreError> {
        if agents::count(tx, AgentState::Pending)? >= PENDING_MAX {
            return Ok(Err(ControlError::new(
                Trouble::TooMuch,
                "TOO_MANY_PENDING",
                format!("{PENDING_MAX} agents wait for approval; no more are recorded"),
            )
            .next("approve or remove some: `muster agent list`")));
        }
        let wanted = hello.name.clone().unwrap_or_else(|| hello.peer.clone());
        let wanted: String = wanted.chars().take(128).collect();
        let mut name = wanted.clone();
        let mut n = 2;
        while agents::by_name(tx, &name)?.is_some() {
            name = format!("{wanted}-{n}");
            n += 1;
        }
        let agent = Agent {
            id: hello.id.unwrap_or(new_id),
            name,
            wire: hello.wire,
            wires: vec![hello.wire],
            software: hello.software.clone(),
            version: hello.version.clone(),
            state: AgentState::Pending,
            capabilities: Vec::new(),
            address: Some(hello.address),
            first_seen: now,
            last_seen: now,
            expected_by: expected_by(hello, now),
            host: None,
        };
        Ok(Ok(Enrolled {
            agent,
            bond: Bond::default(),
        }))
    }

    /// Decides the standing and brings state and bond up to date with it.
    fn judge(
        &self,
        tx: &mut Tx<'_>,
        hello: &Hello,
        enrolled: &mut Enrolled,
        key: Option<&access::EnrolKey>,
        audit_id: Uuid,
        now: Timestamp,
    ) -> Result<Result<Standing>, StoreError> {
        let Enrolled { agent, bond } = enrolled;
        match agent.state {
            AgentState::Disabled => return Ok(Ok(Standing::Disabled)),
            AgentState::Approved => {
                return Ok(Ok(match self.bond_holds(hello, bond) {
                    Ok(()) => Standing::Approved,
                    Err(why) => Standing::Held(why),
                }));
            }
            AgentState::Pending => {}
        }
        let trusted = self.trusts(hello);
        let approval = match (&hello.proof, key) {
            (Proof::Key(secret), Some(key)) if key.enrols(now) && access::use_key(tx, key.id)? => {
                bond.token_hash = Some(sha256_hex(secret.expose()));
                Some("key")
            }
            // A key that does not count is worse than none: whoever shows it is told.
            (Proof::Key(_), _) => return Ok(Err(not_authenticated())),
            (Proof::None, _) => match (self.inner.settings.enrol_policy, trusted) {
                (EnrolPolicy::Loopback, Some(how)) => Some(how),
                (EnrolPolicy::Key, _) => return Ok(Err(not_authenticated())),
                (EnrolPolicy::Loopback, None) | (EnrolPolicy::Approve, _) => None,
            },
        };
        let Some(how) = approval else {
            return Ok(Ok(Standing::Pending));
        };
        agent.state = AgentState::Approved;
        bond.approved_by = Some(how.to_owned());
        bond.address = Some(hello.address);
        bond.tls_identity.clone_from(&hello.tls_identity);
        let line = Audit {
            at: now,
            actor: "server".into(),
            action: "agent.approve".into(),
            subject: format!("agent:{}", agent.id),
            detail: format!(
                "{} on {} from {} by {how}",
                hello.peer, hello.wire, hello.address
            ),
        };
        journal::audit(tx, audit_id, &line)?;
        Ok(Ok(Standing::Approved))
    }

    /// Whether the peer shows what its approved identity must show.
    fn bond_holds(&self, hello: &Hello, bond: &Bond) -> Result<(), String> {
        if let Some(expected) = &bond.token_hash {
            return match &hello.proof {
                Proof::Key(secret) if equal(&sha256_hex(secret.expose()), expected) => Ok(()),
                Proof::Key(_) => {
                    Err("it came with another key than the one that enrolled it".into())
                }
                // Zabbix has no place for a key: there the address it proved itself from counts.
                Proof::None
                    if hello.wire == Wire::Zabbix && bond.address == Some(hello.address) =>
                {
                    Ok(())
                }
                Proof::None => Err("it was enrolled with a key and came without".into()),
            };
        }
        if hello.wire == Wire::Zabbix
            && let (Some(bound), Some(shown)) = (&bond.tls_identity, &hello.tls_identity)
            && bound != shown
        {
            return Err(format!("it was approved as {bound} and came as {shown}"));
        }
        let networks = &self.inner.settings.enrol_addresses;
        match bond.address {
            None => Ok(()),
            Some(bound) if bound == hello.address && !(hello.forwarded && bound.is_loopback()) => {
                Ok(())
            }
            Some(bound)
                if networks
                    .iter()
                    .any(|net| net.contains(&bound) && net.contains(&hello.address)) =>
            {
                Ok(())
            }
            Some(bound)
                if bound.is_loopback() && hello.address.is_loopback() && !hello.forwarded =>
            {
                Ok(())
            }
            Some(bound) => Err(format!(
                "it was approved from {bound} and came from {}",
                hello.address
            )),
        }
    }

    /// Whether the address alone approves under the `loopback` policy, and as what.
    fn trusts(&self, hello: &Hello) -> Option<&'static str> {
        if hello.address.is_loopback() && !hello.forwarded {
            Some("address")
        } else if self
            .inner
            .settings
            .enrol_addresses
            .iter()
            .any(|net| net.contains(&hello.address))
        {
            Some("networks")
        } else {
            None
        }
    }

    /// Writes what the contact said. Address, software and capabilities are recorded of pending
    /// and disabled agents too.
    fn record(
        &self,
        tx: &mut Tx<'_>,
        hello: &Hello,
        enrolled: &mut Enrolled,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Enrolled { agent, bond } = enrolled;
        agent.wire = hello.wire;
        if !agent.wires.contains(&hello.wire) {
            agent.wires.push(hello.wire);
            agent.wires.sort_unstable();
        }
        if !hello.software.is_empty() {
            agent.software.clone_from(&hello.software);
        }
        if !hello.version.is_empty() {
            agent.version.clone_from(&hello.version);
        }
        agent.address = Some(hello.address);
        if bond.token_hash.is_some() && matches!(hello.proof, Proof::Key(_)) {
            bond.address = Some(hello.address);
        }
        agent.last_seen = now;
        agent.expected_by = agent.expected_by.max(expected_by(hello, now));
        agents::put(tx, agent, bond)?;
        agents::put_identity(tx, agent.id, hello.wire, &hello.peer, now)?;
        if let Some(said) = &hello.capabilities {
            // What was proven stays proven although the peer never says it.
            let kept: Vec<Capability> = said
                .iter()
                .map(|c| {
                    match agent
                        .capabilities
                        .iter()
                        .find(|known| known.kind == c.kind && known.version == c.version)
                    {
                        Some(known) if c.assumed => known.clone(),
                        Some(_) | None => c.clone(),
                    }
                })
                .collect();
            if kept.iter().any(|c| !agent.capabilities.contains(c))
                || agent.capabilities.len() != kept.len()
            {
                agents::put_capabilities(tx, agent.id, hello.wire, &kept)?;
            }
        }
        if let Some(fresh) = agents::by_id(tx, agent.id)? {
            *agent = fresh.agent;
        }
        Ok(())
    }

    /// Approves, disables or makes an agent wait again, in the words of [`AgentState`].
    ///
    /// # Errors
    /// Not found.
    pub async fn set_agent_state(
        &self,
        id: AgentId,
        state: AgentState,
        actor: &str,
    ) -> Result<Agent> {
        let now = self.now();
        let audit_id = mint_audit_id(&mut self.rng());
        let actor = actor.to_owned();
        let changed = self
            .inner
            .store
            .write(move |tx| {
                let Some(Enrolled {
                    mut agent,
                    mut bond,
                }) = agents::by_id(tx, id)?
                else {
                    return Ok(None);
                };
                agent.state = state;
                if state == AgentState::Approved {
                    // What it came with last is what it must show from here on.
                    bond.approved_by.get_or_insert_with(|| "person".into());
                    bond.address = agent.address;
                } else {
                    bond.approved_by = None;
                }
                agents::put(tx, &agent, &bond)?;
                let subject = format!("agent:{id}");
                let detail = format!("{} by {actor}", state.word());
                let decision = Decision {
                    check: "identity".into(),
                    at: now,
                    ok: state == AgentState::Approved,
                    detail: detail.clone(),
                };
                journal::decide(tx, &subject, &decision)?;
                let line = Audit {
                    at: now,
                    actor: actor.clone(),
                    action: format!("agent.{}", state.word()),
                    subject,
                    detail,
                };
                journal::audit(tx, audit_id, &line)?;
                Ok(Some(agent))
            })
            .await?;
        self.nudge_work();
        changed.ok_or_else(|| ControlError::not_found("agent", &id.to_string()))
    }

    /// Forgets an agent. Its runs stay.
    ///
    /// # Errors
    /// Not found.
    pub async fn remove_agent(&self, id: AgentId, actor: &str) -> Result<()> {
        let now = self.now();
        let audit_id = mint_audit_id(&mut self.rng());
        let actor = actor.to_owned();
        let removed = self
            .inner
            .store
            .write(move |tx| {
                let Some(found) = agents::by_id(tx, id)? else {
                    return Ok(false);
                };
                let line = Audit {
                    at: now,
                    actor: actor.clone(),
                    action: "agent.remove".into(),
                    subject: format!("agent:{id}"),
                    detail: found.agent.name.clone(),
                };
                journal::audit(tx, audit_id, &line)?;
                agents::remove(tx, id)
            })
            .await?;
        if removed {
            Ok(())
        } else {
            Err(ControlError::not_found("agent", &id.to_string()))
        }
    }

    /// Makes an enrolment key and returns it; only its hash is kept.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn create_key(&self, new: NewKey) -> Result<(access::EnrolKey, Secret)> {
        let mut rng = self.rng();
        let secret = random_secret("mek_", &mut rng);
        let key = access::EnrolKey {
            id: EnrolKeyId::mint(&mut rng),
            hash: sha256_hex(secret.expose()),
            label: new.label,
            once: new.once,
            created: self.now(),
            expires: new.expires,
            used: 0,
        };
        let row = key.clone();
        self.inner
            .store
            .write(move |tx| access::insert_key(tx, &row))
            .await?;
        Ok((key, secret))
    }

    /// Lets a token of the admin API in under a label; earlier tokens of the label go.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn install_token(&self, token: &Secret, label: &str, role: Role) -> Result<()> {
        let row = access::ApiToken {
            hash: sha256_hex(token.expose()),
            label: label.to_owned(),
            role: role.word().to_owned(),
            created: self.now(),
            expires: None,
        };
        self.inner
            .store
            .write(move |tx| {
                access::put_token(tx, &row)?;
                access::retire_tokens(tx, &row.label, &row.hash)
            })
            .await?;
        Ok(())
    }

    /// Whether there is such an enrolment key, one that enrols no more included: it may be the token
    /// of an agent. What it may do is judged where it is shown.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn knows_key(&self, key: &Secret) -> Result<bool> {
        let hash = sha256_hex(key.expose());
        let found = self
            .inner
            .store
            .read(move |tx| access::key_by_hash(tx, &hash))
            .await?;
        Ok(found.is_some())
    }

    /// Who holds a token, and what it may do.
    ///
    /// # Errors
    /// Refused (`NOT_AUTHENTICATED`) without saying which part failed.
    pub async fn authenticate(&self, token: &Secret) -> Result<(String, Role)> {
        let now = self.now();
        let hash = sha256_hex(token.expose());
        let found = self
            .inner
            .store
            .read(move |tx| access::token_by_hash(tx, &hash))
            .await?;
        let valid = found.filter(|token| token.expires.is_none_or(|expires| now < expires));
        let row = valid.ok_or_else(not_authenticated)?;
        let role = row
            .role
            .parse()
            .map_err(|error: muster_core::UnknownWord| {
                ControlError::new(Trouble::Bug, "INTERNAL", "a token has an unknown role")
                    .caused_by(error)
            })?;
        Ok((row.label, role))
    }
}

fn mint_audit_id(rng: &mut impl Rng) -> Uuid {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

fn not_authenticated() -> ControlError {
    ControlError::new(Trouble::Refused, "NOT_AUTHENTICATED", "not authenticated").next(
        "make a key with `muster agent key create` and give it to the agent with `--enrol-key`",
    )
}

fn expected_by(hello: &Hello, now: Timestamp) -> Timestamp {
    saturating_add(saturating_add(now, hello.next_contact), GRACE)
}

/// SHA-256 of a secret, in hex.
pub(crate) fn sha256_hex(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn equal(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// 256 random bits behind a readable prefix.
pub fn random_secret(prefix: &str, rng: &mut impl Rng) -> Secret {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    Secret::new(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}
