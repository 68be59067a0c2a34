//! The agent as a whole: its state folder, its crew, its items, and the links it serves.
//!
//! [`Agent::open`] makes everything but the links, which are written against [`Agent::crew`],
//! [`Agent::items`] and [`Agent::spool`]. [`Agent::run`] keeps the links up and drains at the end: no more jobs, those
//! under way stopped, their endings told, then the links closed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use muster_core::credential::Secret;
use muster_net::clock::{Clock, Entropy};
use muster_store::StoreError;
use muster_store::spool::Spool;
use rand_core::Rng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::crew::{Crew, CrewParts, LedgerError, SpoolLedger};
use crate::identity::{Identity, IdentityError, StateFolder};
use crate::policy::{PolicySource, SYSTEM_POLICY};
use crate::tools::Registry;
use crate::tools::items::Items;

/// How long links may go on telling endings after the last job has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// First pause before a link that ended by itself is begun again; doubled each time.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long acknowledged jobs are remembered: longer than any server offers one again.
const MEMORY_HOURS: i64 = 30 * 24;
/// How often old ones are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// What an agent is opened with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The agent's state folder (`STATE/agent`); made when there is none.
    pub state: PathBuf,
    /// The machine's own policy file.
    pub system_policy: PathBuf,
    /// Root of the file system that tools look at.
    pub root: PathBuf,
    /// The name, when the operator gave one.
    pub name: Option<String>,
    /// The enrolment key, when the operator gave one; else the token that is kept.
    pub key: Option<Secret>,
    /// Networks that the person at the terminal lets be scanned for the life of this process.
    pub operator_scan: Vec<IpNet>,
    /// The tools.
    pub registry: Registry,
}

impl AgentConfig {
    /// The agent of this machine with every tool of this build.
    #[must_use]
    pub fn local(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            system_policy: SYSTEM_POLICY.into(),
            root: "/".into(),
            name: None,
            key: None,
            operator_scan: Vec::new(),
            registry: crate::tools::registry(),
        }
    }
}

/// Why an agent cannot be.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its state folder or identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its memory of jobs.
    #[error("the agent cannot read what it remembers")]
    Ledger(#[from] LedgerError),
    /// Its spool.
    #[error("the agent's spool cannot be opened")]
    Spool(#[from] StoreError),
    /// The runtime is ending.
    #[error("the runtime is ending")]
    Ending,
}

/// A link to one server: begun anew when it ends by itself.
pub struct Link {
    /// The server, for logs.
    pub server: String,
    /// Begins it; it ends soon after the token is set.
    pub run: Box<dyn Fn(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Link {
    /// A link from what begins it.
    pub fn new<F>(
        server: impl Into<String>,
        run: impl Fn(CancellationToken) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let run = move |cancel| -> BoxFuture<'static, ()> { Box::pin(run(cancel)) };
        Self {
            server: server.into(),
            run: Box::new(run),
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// An agent. It holds its state folder until it is dropped.
#[derive(Debug)]
pub struct Agent {
    folder: StateFolder,
    identity: Identity,
    token: Option<Secret>,
    crew: Crew,
    spool: Spool,
    items: Arc<Items>,
    clock: Clock,
}

impl Agent {
    /// Opens the state folder, finds or makes the identity, and ends the jobs that a crash cut off.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn open(
        config: AgentConfig,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, AgentError> {
        let mut policy = PolicySource::new(&config.system_policy, &config.state);
        policy = policy.with_operator_scan(config.operator_scan.iter().copied());
        let (held, source, mut rng) = (config.clone(), policy.clone(), entropy.rng());
        let opened = tokio::task::spawn_blocking(move || {
            let folder = StateFolder::open(&held.state)?;
            let hostname = std::fs::read_to_string(held.root.join("proc/sys/kernel/hostname")).ok();
            let hostname = hostname.as_deref().map(str::trim);
            let identity = folder.identity(held.name.as_deref(), hostname, &source, &mut rng)?;
            let token = folder.token(held.key.as_ref())?;
            Ok::<_, IdentityError>((folder, identity, token))
        });
        let (folder, identity, token) = opened.await.map_err(|_| AgentError::Ending)??;
        let spool = Spool::open(Some(folder.path().join("spool.db")), clock.now()).await?;
        let mut seed = [0; 32];
        entropy.rng().fill_bytes(&mut seed);
        let parts = CrewParts {
            registry: config.registry,
            policy,
            audit: Audit::in_state(folder.path()),
            clock: clock.clone(),
            seed,
            root: config.root.clone(),
            state: folder.path().to_owned(),
        };
        let crew = Crew::new(parts, Arc::new(SpoolLedger::new(spool.clone())));
        let cut_off = crew.recover().await?;
        if cut_off > 0 {
            tracing::info!(
                jobs = cut_off,
                "jobs were cut off by the last end of this agent"
            );
        }
        let items = Arc::new(Items::new(config.root, identity.name.clone()));
        Ok(Self {
            folder,
            identity,
            token,
            crew,
            spool,
            items,
            clock,
        })
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The enrolment key that is its token, where it has one.
    #[must_use]
    pub fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> &Path {
        self.folder.path()
    }

    /// What executes jobs.
    #[must_use]
    pub fn crew(&self) -> &Crew {
        &self.crew
    }

    /// Its items.
    #[must_use]
    pub fn items(&self) -> &Arc<Items> {
        &self.items
    }

    /// What it owes its servers.
    #[must_use]
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Keeps the links up until `drain`, then ends in order; at `stop` it ends at once.
    pub async fn run(&self, links: Vec<Link>, drain: CancellationToken, stop: CancellationToken) {
        let closing = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for link in links {
            tasks.spawn(keep_up(link, self.clock.clone(), closing.clone()));
        }
        let crew = self.crew.clone();
        let clock = self.clock.clone();
        let forgetting = closing.clone();
        tasks.spawn(async move { forget(&crew, &clock, forgetting).await });

        tokio::select! {
            () = drain.cancelled() => {}
            () = stop.cancelled() => {}
        }
        let orderly = async {
            self.crew.drain().await;
            // The links hear the last endings by themselves and close when told to.
            closing.cancel();
            let _ = tokio::time::timeout(LAST_WORDS * 2, async {
                while tasks.join_next().await.is_some() {}
            })
            .await;
        };
        tokio::select! {
            () = orderly => {}
            () = stop.cancelled() => {}
        }
        closing.cancel();
        tasks.shutdown().await;
    }
}

/// Runs a link, and again when it ends by itself or panics.
async fn keep_up(link: Link, clock: Clock, closing: CancellationToken) {
    let mut pause = RESTART_PAUSE;
    while !closing.is_cancelled() {
        let begun = clock.instant();
        let running = tokio::spawn((link.run)(closing.clone()));
        let ended = tokio_util::task::AbortOnDropHandle::new(running).await;
        if closing.is_cancelled() {
            return;
        }
        match ended {
            Err(error) if error.is_panic() => {
                tracing::error!(
                    server = link.server,
                    "a link failed unexpectedly; this is a bug"
                );
            }
            Ok(()) | Err(_) => {
                tracing::warn!(server = link.server, "a link ended; it begins again")
            }
        }
        if clock.instant().saturating_duration_since(begun) > RESTART_PAUSE_MAX {
            pause = RESTART_PAUSE;
        }
        tokio::select! {
            () = clock.sleep(pause) => {}
            () = closing.cancelled() => return,
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}

async fn forget(crew: &Crew, clock: &Clock, closing: CancellationToken) {
    loop {
        let before = clock.now() - jiff::SignedDuration::from_hours(MEMORY_HOURS);
        if let Err(error) = crew.forget(before).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "old jobs stay remembered"
            );
        }
        tokio::select! {
            () = clock.sleep(FORGET_EVERY) => {}
            () = closing.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::crew::{Accepted, Ending, Job, RunKey, Word, news};
    use crate::tools::{Cause, Context, Outcome, SpecError, Tool};
    use muster_core::ActionClass;
    use serde_json::{Value, json};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Waits until it is cancelled.
    struct Hang;

    impl Tool for Hang {
        fn kind(&self) -> &'static str {
            "hang"
        }
        fn class(&self, _: &Value) -> ActionClass {
            ActionClass::Observe
        }
        fn check(&self, _: &Value) -> Result<(), SpecError> {
            Ok(())
        }
        fn run<'a>(&'a self, ctx: Context, _: Value) -> BoxFuture<'a, Outcome> {
            Box::pin(async move {
                ctx.cancel.cancelled().await;
                Ok(json!({"halfway": true}))
            })
        }
    }

    fn config(dir: &Path) -> AgentConfig {
        AgentConfig {
            system_policy: dir.join("none"),
            registry: Registry::empty().with(Hang),
            ..AgentConfig::local(dir.join("agent"))
        }
    }

    async fn open(dir: &Path) -> Result<Agent, AgentError> {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        Agent::open(config(dir), clock, Entropy::seeded(1)).await
    }

    fn job(run: &str) -> Job {
        let key = RunKey {
            peer: "s".to_owned(),
            run: run.to_owned(),
            generation: 1,
        };
        Job::new(key, "hang", json!({}))
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_drains_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let agent = open(dir.path()).await.unwrap();
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (crew, heard) = (agent.crew().clone(), Arc::clone(&told));
        let link = Link::new("test", move |cancel: CancellationToken| {
            let (crew, heard) = (crew.clone(), Arc::clone(&heard));
            async move {
                let (sender, mut news) = news::channel();
                crew.submit(job("r"), sender).await.unwrap();
                while let Some(next) = news.recv().await {
                    heard.lock().unwrap().push(next.word);
                }
                cancel.cancelled().await;
            }
        });
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let ending = drain.clone();
        let (_, ()) = tokio::join!(agent.run(vec![link], drain, stop), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ending.cancel();
        });
        let told = told.lock().unwrap();
        assert_eq!(told.first(), Some(&Word::Begun));
        let Some(Word::Failed(failure)) = told.last() else {
            panic!("{told:?}")
        };
        assert_eq!(failure.cause, Cause::Interrupted);
        assert_eq!(failure.result, Some(json!({"halfway": true})));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let agent = open(dir.path()).await.unwrap();
        let link = Link::new("deaf", |_| std::future::pending());
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        drain.cancel();
        stop.cancel();
        let begun = agent.clock.instant();
        agent.run(vec![link], drain, stop).await;
        assert!(agent.clock.instant() - begun < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deaf_link_does_not_hold_the_drain_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let agent = open(dir.path()).await.unwrap();
        let link = Link::new("deaf", |_| std::future::pending());
        let drain = CancellationToken::new();
        drain.cancel();
        let begun = agent.clock.instant();
        agent.run(vec![link], drain, CancellationToken::new()).await;
        assert!(agent.clock.instant() - begun <= LAST_WORDS * 2 + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn links_that_end_or_panic_begin_again_later_and_later() {
        let dir = tempfile::tempdir().unwrap();
        let agent = open(dir.path()).await.unwrap();
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let link = Link::new("broken", move |_| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            async move { assert!(number % 2 == 1, "on purpose") }
        });
        let drain = CancellationToken::new();
        let ending = drain.clone();
        tokio::join!(
            agent.run(vec![link], drain, CancellationToken::new()),
            async {
                // At 0, 1, 3, 7, 15, 31, 63 and 123 seconds.
                tokio::time::sleep(Duration::from_secs(125)).await;
                ending.cancel();
            }
        );
        assert_eq!(begun.load(Ordering::SeqCst), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_kill_cut_off_is_told_after_the_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = {
            let agent = open(dir.path()).await.unwrap();
            let (sender, mut news) = news::channel();
            agent.crew().submit(job("r"), sender).await.unwrap();
            news.recv().await.unwrap();
            agent.identity().clone()
            // Dropped without a drain, as a kill would.
        };
        let agent = open(dir.path()).await.unwrap();
        assert_eq!(agent.identity(), &first);
        let told = agent.crew().unacknowledged("s").await.unwrap();
        let Some(Ending::Failed(failure)) = &told[0].ending else {
            panic!("{told:?}")
        };
        assert_eq!(failure.cause, Cause::Interrupted);
        let (sender, _news) = news::channel();
        let again = agent.crew().submit(job("r"), sender).await.unwrap();
        assert!(matches!(again, Accepted::Ended(Ending::Failed(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn two_agents_do_not_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path()).await.unwrap();
        let second = open(dir.path()).await.unwrap_err();
        assert!(
            matches!(second, AgentError::Identity(IdentityError::Held { .. })),
            "{second}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_token_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let with_key = AgentConfig {
            key: Some(Secret::new("mk_1")),
            ..config(dir.path())
        };
        drop(
            Agent::open(with_key, clock.clone(), Entropy::seeded(1))
                .await
                .unwrap(),
        );
        let agent = open(dir.path()).await.unwrap();
        assert_eq!(agent.token().map(Secret::expose), Some("mk_1"));
    }
}
