//! `Control`: what every front and the admin API ask, and the only place that decides.
//!
//! It knows no wire and no SQL: fronts translate wire types into the types here and errors back
//! into their protocol's words; the store reads and writes rows. Every refusal, wait, conflict and
//! lapse is recorded where it is decided, so that [`Control::explain`] can walk the chain.
//!
//! **Invariant:** whatever a method answered with `Ok` is committed.

mod changes;
mod duty;
mod error;
mod explain;
mod fleet;
mod identity;
mod item_index;
mod lookup;
mod refusals;
mod relay;
mod values;
pub(crate) mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use muster_core::{AgentId, RunId};
use muster_net::{Clock, Egress, Entropy};
use muster_store::samples::{Limits as IngestLimits, Samples};
use muster_store::sealed::Sealer;
use muster_store::{Bell, Store, Topics};
use rand_chacha::ChaCha20Rng;

pub use changes::Changes;
pub use duty::Duty;
pub use error::{ControlError, Result, Trouble};
pub use explain::{Explanation, Step, Subject};
pub use fleet::{Declared, NewItem, Observation, ZABBIX_AGENT_PORT};
pub use identity::{Admission, Credential, Hello, NewKey, Proof, Role, Standing, random_secret};
pub use item_index::{ItemEntry, ItemIndex};
pub use lookup::{AgentView, ItemView, Page, RunView, TaskView};
pub use refusals::RefusalNote;
pub use values::{HistoryRange, Monitored, Upload, UploadOutcome};
pub use work::{DueAsk, NewTask, Offer, Reported};

/// For who comes without an enrolment key (surface, section 3; threat model, section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnrolPolicy {
    /// Pending until a person approves.
    #[default]
    Approve,
    /// Refused.
    Key,
    /// Approved from loopback and `enrol.addresses`, else pending.
    Loopback,
}

/// What the configuration says that decisions depend on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For who comes without a key.
    pub enrol_policy: EnrolPolicy,
    /// Networks treated as loopback is.
    pub enrol_addresses: Vec<IpNet>,
    /// Next contact of a pulling agent with nothing due.
    pub contact_interval: SignedDuration,
    /// Whether pScheduler writes are open to everyone.
    pub pscheduler_open: bool,
    /// Whether a teeth connection that never pings is closed after 60 s of silence.
    pub teeth_close_without_ping: bool,
    /// Whether plain listeners may be reached from elsewhere.
    pub insecure: bool,
    /// How long ended runs and what is done are kept; `None`: for ever.
    pub retain_runs: Option<SignedDuration>,
    /// How long values are kept after their arrival, in whole days; `None`: for ever.
    pub retain_values: Option<SignedDuration>,
    /// Where the server may go for addresses that peers name.
    pub egress: Egress,
    /// Where payloads lie that are too large for memory; without it they are not taken.
    pub spool: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enrol_policy: EnrolPolicy::Approve,
            enrol_addresses: Vec::new(),
            contact_interval: SignedDuration::from_hours(1),
            pscheduler_open: false,
            teeth_close_without_ping: true,
            insecure: false,
            retain_runs: None,
            retain_values: None,
            egress: Egress::default(),
            spool: None,
        }
    }
}

/// The application.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    entropy: Entropy,
    sealer: Sealer,
    settings: Settings,
    values: Samples,
    index: RwLock<Arc<ItemIndex>>,
    refusals: Mutex<refusals::Tally>,
    /// Connections open for each agent; an agent with one is online.
    sessions: Mutex<BTreeMap<AgentId, usize>>,
    /// Counts changes that may make work due; fronts with open sessions watch it.
    work: changes::Signal,
    /// Counts changes of runs; long polls watch it.
    runs: changes::Signal,
    /// What other replicas are to be told.
    outbox: Bell,
    started: Timestamp,
}

impl Control {
    /// Opens the application on a migrated store.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open(
        store: Store,
        sealer: Sealer,
        settings: Settings,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self> {
        let writer = RunId::mint(&mut entropy.rng()).uuid();
        let values = Samples::open(store.clone(), writer, IngestLimits::default()).await?;
        let started = clock.now();
        let control = Self {
            inner: Arc::new(Inner {
                store,
                clock,
                entropy,
                sealer,
                settings,
                values,
                index: RwLock::default(),
                refusals: Mutex::default(),
                sessions: Mutex::default(),
                work: changes::Signal::default(),
                runs: changes::Signal::default(),
                outbox: Bell::default(),
                started,
            }),
        };
        control.reload_items().await?;
        Ok(control)
    }

    /// The database, for what only the admin API shows.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The clock decisions are stamped by.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// What the configuration says.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// When this process began.
    pub fn started(&self) -> Timestamp {
        self.inner.started
    }

    /// Wakes whoever waits for work to become due, here and in other replicas.
    pub fn nudge_work(&self) {
        self.inner.work.changed();
        self.inner.outbox.ring(Topics::WORK);
    }

    /// A watch that changes when work may have become due.
    pub fn work_changes(&self) -> Changes {
        self.inner.work.listen()
    }

    /// A watch that changes when a run has moved. Who waits looks now and then as well: what another
    /// replica did is only a hint that may be lost.
    pub fn run_changes(&self) -> Changes {
        self.inner.runs.listen()
    }

    /// Notes that a lasting connection of an agent is open, until the guard is dropped.
    pub fn session_opened(&self, agent: AgentId) -> SessionGuard {
        *lock(&self.inner.sessions).entry(agent).or_insert(0) += 1;
        self.inner.work.changed();
        SessionGuard {
            control: self.clone(),
            agent,
        }
    }

    /// Whether a lasting connection of the agent is open in this process.
    pub fn has_session(&self, agent: AgentId) -> bool {
        lock(&self.inner.sessions).contains_key(&agent)
    }

    /// Wakes whoever waits for a run to move, here and in other replicas.
    pub(crate) fn run_moved(&self) {
        self.inner.runs.changed();
        self.inner.outbox.ring(Topics::RUNS);
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// A generator for ids and secrets.
    pub fn rng(&self) -> ChaCha20Rng {
        self.inner.entropy.rng()
    }
}

/// Keeps an agent's connection counted.
pub struct SessionGuard {
    control: Control,
    agent: AgentId,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut sessions = lock(&self.control.inner.sessions);
        if let Some(count) = sessions.get_mut(&self.agent) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                sessions.remove(&self.agent);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
