//! Whole agents of ours on the teeth wire: link, crew, policy and ledger.

use std::sync::Arc;

use muster_agent::audit::Audit;
use muster_agent::crew::{Crew, CrewParts, Ledger, MemoryLedger};
use muster_agent::links::teeth::{Config, TeethLink};
use muster_agent::policy::{DEFAULT_POLICY, PolicySource};
use muster_agent::tools::Registry;
use muster_agent::tools::{idle::Idle, noop::Noop};
use muster_net::Protection;
use muster_net::tls::BoxStream;
use tokio_util::sync::CancellationToken;

use super::world::World;

/// An agent that can be restarted; its ledger survives.
pub(super) struct Worker {
    number: usize,
    ledger: Arc<MemoryLedger>,
    pub(super) crew: Crew,
    stop: CancellationToken,
}

/// Starts an agent.
pub(super) async fn spawn(world: &World, number: usize) -> Result<Worker, String> {
    let ledger = Arc::new(MemoryLedger::default());
    let crew = hire(world, &ledger).await?;
    let mut worker = Worker {
        number,
        ledger,
        crew,
        stop: CancellationToken::new(),
    };
    worker.link(world)?;
    Ok(worker)
}

impl Worker {
    /// Ends the process and begins another: what was under way is cut off and told as such.
    pub(super) async fn restart(&mut self, world: &World) -> Result<(), String> {
        world.note_fault();
        self.stop.cancel();
        self.crew.drain().await;
        self.crew = hire(world, &self.ledger).await?;
        self.stop = CancellationToken::new();
        self.link(world)
    }

    fn link(&mut self, world: &World) -> Result<(), String> {
        let peer = "teeth://server".to_owned();
        let config = Config {
            peer,
            endpoint: "server:8081".parse().map_err(|error| format!("{error}"))?,
            protection: Protection::Plain,
            token: None,
            agent_id: uuid::Uuid::from_u128(1000 + self.number as u128).to_string(),
            mac: "52:54:00:12:34:56".to_owned(),
            hostname: Some(format!("teeth-{}", self.number)),
            kinds: Config::kinds_of(&self.crew),
            root: world.folder().to_owned(),
        };
        let crew = self.crew.clone();
        let link = TeethLink::new(config, crew, world.clock.clone(), world.entropy.clone());
        let (dialling, stop, over) = (world.clone(), self.stop.clone(), world.over.clone());
        let mut dice = world.dice();
        let connect = move || {
            let line = dialling.dial_teeth(&mut dice);
            std::future::ready(line.map(|line| -> BoxStream { Box::pin(line) }))
        };
        // A kill does not wait for last words.
        world.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = stop.cancelled() => {}
                () = link.run_over(connect, CancellationToken::new()) => {}
            }
        });
        Ok(())
    }
}

async fn hire(world: &World, ledger: &Arc<MemoryLedger>) -> Result<Crew, String> {
    let folder = world.folder();
    let policy = folder.join("policy.toml");
    std::fs::write(policy, DEFAULT_POLICY).map_err(|error| error.to_string())?;
    let parts = CrewParts {
        registry: Registry::empty().with(Idle).with(Noop),
        policy: PolicySource::new("/nonexistent/policy.toml", folder),
        audit: Audit::none(),
        clock: world.clock.clone(),
        seed: [7; 32],
        root: folder.to_owned(),
        state: folder.to_owned(),
    };
    let crew = Crew::new(parts, Arc::clone(ledger) as Arc<dyn Ledger>);
    crew.recover().await.map_err(|error| error.to_string())?;
    Ok(crew)
}
