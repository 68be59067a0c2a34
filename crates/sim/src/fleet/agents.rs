//! Whole agents of ours: links, crew, policy and spool, as a process that ends in order or is killed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::HOST;
use http::uri::Uri;
use http::{HeaderValue, Request, Response};
use muster_agent::audit::Audit;
use muster_agent::crew::{Crew, CrewParts, SpoolLedger};
use muster_agent::links::fusion::{self, FusionLink};
use muster_agent::links::teeth::{self, TeethLink};
use muster_agent::links::zabbix::{self, Role, ZabbixLink};
use muster_agent::policy::PolicySource;
use muster_agent::tools::Registry;
use muster_agent::tools::items::Items;
use muster_agent::tools::{idle::Idle, noop::Noop};
use muster_core::{AgentId, RunId};
use muster_net::Protection;
use muster_net::dial::{DialError, Endpoint};
use muster_net::http::ClientError;
use muster_net::tls::{BoxStream, Trust};
use muster_proto::zabbix::agent::Intervals;
use muster_store::spool::{JobRecord, Spool};
use tokio_util::sync::CancellationToken;

use super::chance::Dice;
use super::world::{World, lock};

/// A wire that an agent is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    Fusion,
    Teeth,
    Zabbix(Role),
}

/// The agents of ours, by the wires that each is on: the third as `muster up` has it.
const FLEET: [&[On]; 4] = [
    &[On::Teeth],
    &[On::Fusion],
    &[On::Fusion, On::Teeth, On::Zabbix(Role::Agent)],
    &[On::Teeth, On::Zabbix(Role::Proxy)],
];

/// Where the server listens, and the machines that a proxy polls.
const SERVER: &str = "127.0.0.1:10051";
pub(super) const MACHINE_PORT: u16 = 10_050;
/// How long a process that ends in order has for its last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// An agent that can be restarted; its spool survives.
pub(super) struct Worker {
    number: usize,
    folder: PathBuf,
    spool: Spool,
    pub(super) crew: Crew,
    /// Ends the links in order.
    closing: CancellationToken,
    /// Nothing of the process goes on after this.
    killed: CancellationToken,
}

/// Installs the agents of the fleet; nothing of them runs yet.
pub(super) async fn install(world: &World) -> Result<Vec<Worker>, String> {
    let mut workers = Vec::new();
    for number in 0..FLEET.len() {
        let folder = world.folder().join(format!("agent-{number}"));
        let text = |error: std::io::Error| error.to_string();
        std::fs::create_dir_all(folder.join("proc")).map_err(text)?;
        let policy = PolicySource::new(NO_POLICY, &folder);
        policy.write_defaults().map_err(|error| error.to_string())?;
        let opened = Spool::open(None, world.clock.now()).await;
        let spool = opened.map_err(|error| error.to_string())?;
        let killed = CancellationToken::new();
        let worker = Worker {
            number,
            spool: spool.clone().in_place(super::world::fast_disk()),
            crew: hire(world, &folder, spool.in_place(world.disk(&killed))),
            folder,
            closing: CancellationToken::new(),
            killed,
        };
        worker.measure(0)?;
        workers.push(worker);
    }
    Ok(workers)
}

/// What the server is called on the wires that carry work.
const TEETH_PEER: &str = "teeth://server";
const FUSION_PEER: &str = "https://muster.example.net/";
const NO_POLICY: &str = "/nonexistent/policy.toml";

impl Worker {
    /// What its machine measures from this step of the story on.
    pub(super) fn measure(&self, step: u64) -> Result<(), String> {
        let load = format!("{step}.5 0.1 0.1 1/100 1000");
        std::fs::write(self.folder.join("proc/loadavg"), load).map_err(|error| error.to_string())
    }

    /// The name of its Zabbix host, or of the proxy that it is.
    pub(super) fn name(&self) -> String {
        format!("agent-{}", self.number)
    }

    pub(super) fn role(&self) -> Option<Role> {
        self.wires().iter().find_map(|on| match on {
            On::Zabbix(role) => Some(*role),
            On::Fusion | On::Teeth => None,
        })
    }

    /// Its spool, and the queue of values in it.
    pub(super) fn values(&self) -> (&Spool, String) {
        (&self.spool, format!("zabbix {SERVER} {}", self.name()))
    }

    pub(super) fn id(&self) -> AgentId {
        AgentId::from_uuid(uuid::Uuid::from_u128(1000 + self.number as u128))
    }

    /// What it remembers of a run, under the offer it was begun with.
    pub(super) async fn remembers(&self, run: RunId) -> Result<Option<JobRecord>, String> {
        for peer in [TEETH_PEER, FUSION_PEER] {
            let found = self.spool.recall(peer, &run.to_string()).await;
            let found = found.map_err(|error| error.to_string())?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Ends the process, in order or not, and begins another.
    pub(super) async fn restart(&mut self, world: &World, in_order: bool) -> Result<(), String> {
        world.note_fault();
        self.end(world, in_order).await;
        self.killed = CancellationToken::new();
        self.closing = CancellationToken::new();
        let spool = self.spool.clone().in_place(world.disk(&self.killed));
        self.crew = hire(world, &self.folder, spool);
        self.begin(world).await
    }

    /// Ends the process: in order, what was under way is cut off and told as such.
    pub(super) async fn end(&self, world: &World, in_order: bool) {
        if in_order {
            self.crew.drain().await;
            self.closing.cancel();
            world.clock.sleep(LAST_WORDS).await;
        }
        self.killed.cancel();
    }

    /// Begins the process.
    pub(super) async fn begin(&self, world: &World) -> Result<(), String> {
        let recovered = self.crew.recover().await;
        recovered.map_err(|error| error.to_string())?;
        for on in self.wires() {
            match on {
                On::Fusion => self.link_fusion(world)?,
                On::Teeth => self.link_teeth(world)?,
                On::Zabbix(role) => self.link_zabbix(world, *role)?,
            }
        }
        Ok(())
    }

    fn wires(&self) -> &'static [On] {
        FLEET.get(self.number).copied().unwrap_or_default()
    }

    fn link_fusion(&self, world: &World) -> Result<(), String> {
        let url = FUSION_PEER.parse();
        let config = fusion::Config {
            url: url.map_err(|error: fusion::BadUrl| error.to_string())?,
            agent_id: self.id(),
            name: self.name(),
            version: "0.1.0".to_owned(),
            key: None,
            trust: Trust::System,
            insecure: false,
            first_retry: Duration::from_secs(2),
            kinds: None,
        };
        let (reached, dice) = (world.clone(), Arc::new(Mutex::new(world.dice())));
        let call = move |request| -> BoxFuture<'static, _> {
            let (world, dice) = (reached.clone(), lock(&dice).fork());
            Box::pin(call(world, dice, request))
        };
        let (crew, clock, entropy) = (self.crew.clone(), &world.clock, &world.entropy);
        let call = Box::new(call);
        let link = FusionLink::calling(config, crew, clock.clone(), entropy.clone(), call);
        let link = link.map_err(|error| error.to_string())?;
        self.run(world, link.run(self.closing.clone()));
        Ok(())
    }

    fn link_teeth(&self, world: &World) -> Result<(), String> {
        let config = teeth::Config {
            peer: TEETH_PEER.to_owned(),
            endpoint: endpoint()?,
            protection: Protection::Plain,
            token: None,
            agent_id: self.id().to_string(),
            mac: "52:54:00:12:34:56".to_owned(),
            hostname: Some(self.name()),
            kinds: teeth::Config::kinds_of(&self.crew),
            root: self.folder.clone(),
        };
        let crew = self.crew.clone();
        let link = TeethLink::new(config, crew, world.clock.clone(), world.entropy.clone());
        let (reached, mut dice) = (world.clone(), world.dice());
        let connect = move || {
            let line = reached.dial_teeth(&mut dice);
            std::future::ready(line.map(|line| -> BoxStream { Box::pin(line) }))
        };
        self.run(world, link.run_over(connect, self.closing.clone()));
        Ok(())
    }

    fn link_zabbix(&self, world: &World, role: Role) -> Result<(), String> {
        let config = zabbix::Config {
            endpoint: endpoint()?,
            protection: Protection::Plain,
            role,
            mode: zabbix::Mode::Active,
            name: self.name(),
            agent_id: self.id().to_string(),
            intervals: Intervals {
                heartbeat: Duration::from_secs(20),
                config: Duration::from_secs(7),
                config_retry: Duration::from_secs(3),
                data: Duration::from_secs(3),
                ..Intervals::default()
            },
        };
        let (reached, dice) = (world.clone(), Mutex::new(world.dice()));
        let reach = move |to: Endpoint, _, _| -> BoxFuture<'static, _> {
            let dialled = match to.port {
                MACHINE_PORT => reached.dial_machine(&mut lock(&dice)),
                _ => reached.dial_zabbix(&mut lock(&dice)),
            };
            let dialled = dialled
                .map(|line| -> BoxStream { Box::pin(line) })
                .map_err(|source| DialError::Connect {
                    endpoint: to,
                    source,
                });
            Box::pin(std::future::ready(dialled))
        };
        let link = ZabbixLink::new(
            config,
            &Items::new(&self.folder, self.name()),
            PolicySource::new(NO_POLICY, &self.folder),
            self.spool.clone().in_place(world.disk(&self.killed)),
            world.clock.clone(),
            world.entropy.clone(),
        );
        let link = link.over(Arc::new(reach));
        self.run(world, link.run(self.closing.clone()));
        Ok(())
    }

    /// Runs something of the process until the process is killed.
    fn run(&self, world: &World, link: impl Future<Output = ()> + Send + 'static) {
        let (killed, over) = (self.killed.clone(), world.over.clone());
        world.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = killed.cancelled() => {}
                () = link => {}
            }
        });
    }
}

fn endpoint() -> Result<Endpoint, String> {
    SERVER.parse().map_err(|_| format!("{SERVER} is no place"))
}

fn hire(world: &World, folder: &std::path::Path, spool: Spool) -> Crew {
    let parts = CrewParts {
        registry: Registry::empty()
            .with(Idle::Alone)
            .with(Idle::Beside)
            .with(Noop),
        policy: PolicySource::new(NO_POLICY, folder),
        audit: Audit::none(),
        clock: world.clock.clone(),
        seed: [7; 32],
        root: folder.to_owned(),
        state: folder.to_owned(),
    };
    Crew::new(parts, Arc::new(SpoolLedger::new(spool)))
}

/// An exchange with the server as an HTTP client has it.
async fn call(
    world: World,
    mut dice: Dice,
    mut request: Request<Bytes>,
) -> Result<Response<Bytes>, ClientError> {
    let host = HeaderValue::from_static("muster.example.net");
    request.headers_mut().insert(HOST, host);
    let target = request.uri().path_and_query().cloned();
    *request.uri_mut() = target.map(Uri::from).unwrap_or_default();
    let answer = world.http(&mut dice, request.map(Body::from)).await;
    answer.ok_or(ClientError::Deadline)
}
