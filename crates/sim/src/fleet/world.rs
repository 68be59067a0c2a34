//! What a story takes place in: the clock, the store, the server that comes and goes, the lines.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use muster_net::{Clock, Entropy, MemoryBudget, NetContext, PeerInfo, Security};
use muster_server::Control;
use muster_server::app::{net_context, router};
use muster_server::control::{EnrolPolicy, Settings};
use muster_server::fronts::teeth::TeethFront;
use muster_server::fronts::zabbix::ZabbixFront;
use muster_server::reconcile;
use muster_store::sealed::Sealer;
use muster_store::{Pause, Store, StoreUrl};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::chance::{BadLine, Dice};

const EPOCH: &str = "2026-11-24T12:00:00Z";
/// The longest that a disk lets a transaction wait, each time.
const SLOW_DISK_MILLIS: u32 = 20;
/// Room on a line in each direction.
const LINE_BYTES: usize = 16 * 1024;

/// Shared by everything in the story.
#[derive(Clone)]
pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) store: Store,
    pub(super) tracker: TaskTracker,
    /// Ends every actor.
    pub(super) over: CancellationToken,
    inner: Arc<Inner>,
}

struct Inner {
    seed: u64,
    folder: tempfile::TempDir,
    bad: AtomicBool,
    faults: AtomicU64,
    server: Mutex<Option<Instance>>,
    lines: Mutex<Vec<CancellationToken>>,
    up_since: Mutex<Option<Timestamp>>,
    /// By item key: values that were accepted, and those that wait to be.
    values: Mutex<BTreeMap<String, Values>>,
}

/// What became of the values of one item.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    pub(super) sent: Vec<f64>,
    pub(super) pending: bool,
}

/// A running server process.
#[derive(Clone)]
struct Instance {
    control: Control,
    teeth: TeethFront,
    zabbix: ZabbixFront,
    context: NetContext,
    router: Router,
    /// Cuts everything it does at its next await, as a kill would.
    killed: CancellationToken,
}

impl World {
    pub(super) async fn open(seed: u64) -> Result<Self, String> {
        let clock = Clock::simulated(EPOCH.parse().map_err(|error| format!("{error}"))?);
        let store = Store::open(StoreUrl::Memory)
            .await
            .map_err(|error| error.to_string())?;
        store
            .migrate(clock.now())
            .await
            .map_err(|error| error.to_string())?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok(Self {
            clock,
            entropy: Entropy::seeded(seed),
            store: store.in_place(fast_disk()),
            tracker: TaskTracker::new(),
            over: CancellationToken::new(),
            inner: Arc::new(Inner {
                seed,
                folder,
                bad: AtomicBool::new(true),
                faults: AtomicU64::new(0),
                server: Mutex::default(),
                lines: Mutex::default(),
                up_since: Mutex::default(),
                values: Mutex::default(),
            }),
        })
    }

    /// A folder of this story: agents keep their policy there and see an empty machine.
    pub(super) fn folder(&self) -> &std::path::Path {
        self.inner.folder.path()
    }

    pub(super) fn dice(&self) -> Dice {
        Dice::new(self.entropy.rng())
    }

    /// The disk of a process: now and then slow before and after a transaction, so that a kill falls
    /// on either side of it, and never there again once the process was killed.
    pub(super) fn disk(&self, killed: &CancellationToken) -> Pause {
        let dice = Arc::new(Mutex::new(self.dice()));
        let (clock, killed) = (self.clock.clone(), killed.clone());
        Arc::new(move || {
            let wait = {
                let mut dice = lock(&dice);
                dice.one_in(4).then(|| dice.millis(SLOW_DISK_MILLIS))
            };
            let (clock, killed) = (clock.clone(), killed.clone());
            Box::pin(async move {
                if let Some(wait) = wait {
                    clock.sleep(wait).await;
                }
                if killed.is_cancelled() {
                    std::future::pending::<()>().await;
                }
            })
        })
    }

    /// Starts a server process on the database as it is.
    pub(super) async fn boot(&self) -> Result<(), String> {
        let killed = CancellationToken::new();
        let store = self.store.clone().in_place(self.disk(&killed));
        let control = self.open_control(store).await?;
        let context = net_context(&control);
        let statuses = reconcile::spawn_all(&control, &self.tracker, &killed);
        let limits = muster_proto::teeth::Limits::default();
        let teeth = TeethFront::new(control.clone(), limits, MemoryBudget::default());
        let limits = muster_proto::zabbix::Limits::default();
        let zabbix = ZabbixFront::new(control.clone(), limits).await;
        let zabbix = zabbix.map_err(|error| error.chain())?;
        let instance = Instance {
            router: router(&control, &statuses, "muster.example.net"),
            control,
            teeth,
            zabbix,
            context,
            killed,
        };
        *lock(&self.inner.server) = Some(instance);
        *lock(&self.inner.up_since) = Some(self.clock.now());
        Ok(())
    }

    /// A server's decisions, over some way to the database.
    pub(super) async fn open_control(&self, store: Store) -> Result<Control, String> {
        // The same key in every process, as the state folder's would be.
        let mut rng = ChaCha20Rng::seed_from_u64(self.inner.seed);
        let settings = Settings {
            enrol_policy: EnrolPolicy::Loopback,
            contact_interval: jiff::SignedDuration::from_secs(10),
            pscheduler_open: true,
            ..Settings::default()
        };
        let opened = Control::open(
            store,
            Sealer::ephemeral(&mut rng),
            settings,
            self.clock.clone(),
            self.entropy.clone(),
        );
        opened.await.map_err(|error| error.chain())
    }

    /// Kills the server process.
    pub(super) fn kill(&self) {
        self.note_fault();
        *lock(&self.inner.up_since) = None;
        if let Some(instance) = lock(&self.inner.server).take() {
            instance.killed.cancel();
        }
    }

    pub(super) fn is_up(&self) -> bool {
        lock(&self.inner.server).is_some()
    }

    /// Since when the server runs.
    pub(super) fn up_since(&self) -> Option<Timestamp> {
        *lock(&self.inner.up_since)
    }

    pub(super) fn control(&self) -> Option<Control> {
        self.instance().map(|instance| instance.control)
    }

    /// No more faults from here on.
    pub(super) fn calm(&self) {
        self.inner.bad.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_bad(&self) -> bool {
        self.inner.bad.load(Ordering::Relaxed)
    }

    pub(super) fn faults_seen(&self) -> u64 {
        self.inner.faults.load(Ordering::Relaxed)
    }

    pub(super) fn note_fault(&self) {
        self.inner.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Cuts every line that is open.
    pub(super) fn cut_lines(&self) {
        for line in lock(&self.inner.lines).drain(..) {
            if !line.is_cancelled() {
                self.note_fault();
                line.cancel();
            }
        }
    }

    /// Dials the teeth listener.
    pub(super) fn dial_teeth(&self, dice: &mut Dice) -> io::Result<DuplexStream> {
        let instance = self.reached(dice)?;
        let (near, far) = self.line(dice);
        let (killed, front) = (instance.killed.clone(), instance.teeth.clone());
        self.tracker.spawn(async move {
            let cancel = CancellationToken::new();
            tokio::select! {
                biased;
                () = killed.cancelled() => {}
                () = front.serve(far, peer("teeth", 40_001), cancel) => {}
            }
        });
        Ok(near)
    }

    /// Dials the Zabbix listener.
    pub(super) fn dial_zabbix(&self, dice: &mut Dice) -> io::Result<DuplexStream> {
        let instance = self.reached(dice)?;
        let (near, far) = self.line(dice);
        self.tracker.spawn(async move {
            let cancel = CancellationToken::new();
            let peer = peer("zabbix", 40_002);
            tokio::select! {
                biased;
                () = instance.killed.cancelled() => {}
                () = instance.zabbix.exchange(far, &peer, &instance.context, &cancel) => {}
            }
        });
        Ok(near)
    }

    /// Calls an HTTP front as a service. `None` when the request or its answer was lost.
    pub(super) async fn http(
        &self,
        dice: &mut Dice,
        mut request: Request<Body>,
    ) -> Option<Response<Bytes>> {
        let bad = self.is_bad();
        self.clock
            .sleep(dice.millis(if bad { 300 } else { 20 }))
            .await;
        if bad && dice.one_in(12) {
            self.note_fault();
            return None;
        }
        let instance = self.instance()?;
        request.extensions_mut().insert(peer("https", 40_003));
        let answered = async {
            let answer = instance.router.clone().oneshot(request).await.ok()?;
            let (parts, body) = answer.into_parts();
            Some(Response::from_parts(
                parts,
                body.collect().await.ok()?.to_bytes(),
            ))
        };
        let answer = tokio::select! {
            biased;
            () = instance.killed.cancelled() => None,
            answer = answered => answer,
        };
        self.clock
            .sleep(dice.millis(if bad { 300 } else { 20 }))
            .await;
        if bad && dice.one_in(12) {
            self.note_fault();
            return None;
        }
        answer
    }

    /// Looks at or changes what is known of the values of one item.
    pub(super) fn values<T>(&self, key: &str, with: impl FnOnce(&mut Values) -> T) -> T {
        with(lock(&self.inner.values).entry(key.to_owned()).or_default())
    }

    pub(super) fn all_values(&self) -> BTreeMap<String, Values> {
        lock(&self.inner.values).clone()
    }

    /// Whether no value waits to be accepted.
    pub(super) fn is_flushed(&self) -> bool {
        lock(&self.inner.values)
            .values()
            .all(|values| !values.pending)
    }

    /// Ends everything and waits for it.
    pub(super) async fn end(&self) {
        self.over.cancel();
        self.kill();
        self.cut_lines();
        self.tracker.close();
        // What only watches a timer is dropped with the runtime.
        self.clock.sleep(Duration::from_secs(30)).await;
    }

    /// Dials a machine that answers a proxy's polls.
    pub(super) fn dial_machine(&self, dice: &mut Dice) -> io::Result<DuplexStream> {
        if self.is_bad() && dice.one_in(6) {
            self.note_fault();
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = self.line(dice);
        let answering = super::actors::answer_poll(self.clone(), dice.fork(), far);
        self.tracker.spawn(answering);
        Ok(near)
    }

    fn instance(&self) -> Option<Instance> {
        lock(&self.inner.server).clone()
    }

    fn reached(&self, dice: &mut Dice) -> io::Result<Instance> {
        if self.is_bad() && dice.one_in(10) {
            self.note_fault();
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.instance()
            .ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }

    /// A line as bad as the times are. Returns the dialler's and the listener's end.
    fn line(&self, dice: &mut Dice) -> (DuplexStream, DuplexStream) {
        let (near, near_end) = tokio::io::duplex(LINE_BYTES);
        let (far_end, far) = tokio::io::duplex(LINE_BYTES);
        let bad = self.is_bad();
        let cut_after = (bad && dice.one_in(3)).then(|| u64::from(1 + dice.below(4000)));
        if cut_after.is_some() {
            self.note_fault();
        }
        let line = BadLine {
            ends: (near_end, far_end),
            dice: dice.fork(),
            clock: self.clock.clone(),
            cut_after,
            delay_max: if bad { 200 } else { 5 },
        };
        let cut = CancellationToken::new();
        lock(&self.inner.lines).push(cut.clone());
        self.tracker.spawn(line.carry(cut));
        (near, far)
    }
}

/// The disk of what looks on: never slow.
pub(super) fn fast_disk() -> Pause {
    Arc::new(|| Box::pin(std::future::ready(())))
}

fn peer(listener: &'static str, port: u16) -> PeerInfo {
    PeerInfo {
        remote: SocketAddr::from(([127, 0, 0, 1], port)),
        local: SocketAddr::from(([127, 0, 0, 1], 8443)),
        listener,
        security: Security::Plain,
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
