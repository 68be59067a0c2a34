//! Our agent's Zabbix link and our server's Zabbix front in simulated time, over streams that are cut
//! at any byte: what was collected arrives, once.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use muster_agent::links::zabbix::{Config, Mode, Role, ZabbixLink};
use muster_agent::policy::PolicySource;
use muster_agent::tools::items::Items;
use muster_core::sample::{ItemType, ValueType};
use muster_net::listen::{NetContext, PeerInfo, Security};
use muster_net::tls::BoxStream;
use muster_net::{Clock, Entropy, Protection};
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::agent::Intervals;
use muster_server::control::{Control, Declared, EnrolPolicy, HistoryRange, NewItem, Settings};
use muster_server::fronts::zabbix::ZabbixFront;
use muster_store::sealed::Sealer;
use muster_store::spool::Spool;
use muster_store::{Store, StoreUrl};
use rand_core::Rng as _;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_util::sync::CancellationToken;

/// A stream that breaks after so many bytes in either direction.
struct Cut {
    inner: DuplexStream,
    left: u64,
}

impl Cut {
    fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
    }
}

fn broken() -> std::io::Error {
    std::io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(broken()));
        }
        // No more than is left, so that the cut falls between two bytes.
        let room = buffer
            .remaining()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut part = vec![0; room];
        let mut into = ReadBuf::new(&mut part);
        let polled = Pin::new(&mut self.inner).poll_read(cx, &mut into);
        if let Poll::Ready(Ok(())) = polled {
            let read = into.filled().len();
            buffer.put_slice(into.filled());
            self.spend(read);
        }
        polled
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.left == 0 {
            return Poll::Ready(Err(broken()));
        }
        let most = bytes
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let polled = Pin::new(&mut self.inner).poll_write(cx, &bytes[..most]);
        if let Poll::Ready(Ok(written)) = polled {
            self.spend(written);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Runs agent and server for a minute of simulated time, with a share of streams cut, and then for a while
/// without faults; every value that was collected is there once.
async fn story(seed: u64) {
    let clock = Clock::simulated("2026-11-24T00:00:00Z".parse::<Timestamp>().unwrap());
    let entropy = Entropy::seeded(seed);
    let store = Store::open(StoreUrl::Memory).await.unwrap();
    store.migrate(clock.now()).await.unwrap();
    let settings = Settings {
        enrol_policy: EnrolPolicy::Loopback,
        ..Settings::default()
    };
    let sealer = Sealer::ephemeral(&mut entropy.rng());
    let control = Control::open(store, sealer, settings, clock.clone(), entropy.clone())
        .await
        .unwrap();
    let declared = Declared {
        name: "lab".into(),
        proxy: None,
        address: Some("127.0.0.1".into()),
        port: None,
    };
    control.declare_host(declared).await.unwrap();
    let mut items = Vec::new();
    for key in ["agent.ping", "agent.version"] {
        let item = NewItem {
            host: "lab".into(),
            key: key.into(),
            item_type: ItemType::AgentActive,
            value_type: ValueType::Text,
            delay: Some(SignedDuration::from_secs(1)),
            unit: String::new(),
            name: None,
        };
        items.push(control.declare_item(item).await.unwrap().number);
    }
    let front = ZabbixFront::new(control.clone(), Limits::default())
        .await
        .unwrap();
    let state = tempfile::tempdir().unwrap();
    let policy = PolicySource::new("/nonexistent/policy.toml", state.path());
    policy.write_defaults().unwrap();
    let spool = Spool::open(None, clock.now()).await.unwrap();
    let config = Config {
        endpoint: "127.0.0.1:10051".parse().unwrap(),
        protection: Protection::Plain,
        role: Role::Agent,
        mode: Mode::Active,
        name: "lab".into(),
        agent_id: "6f1b2f5e-2e63-4a1d-9e0a-3f4c5d6e7f80".into(),
        intervals: Intervals::default(),
    };
    let faulty = Arc::new(AtomicU64::new(1));
    let (gate, seeds) = (Arc::clone(&faulty), Entropy::seeded(seed ^ 0x5eed));
    let context = NetContext::new(clock.clone());
    let never = CancellationToken::new();
    let reach = move |_, _, _| -> futures_util::future::BoxFuture<'static, _> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let mut rng = seeds.rng();
        let cut = gate.load(Ordering::Relaxed) == 1 && rng.next_u32() % 3 > 0;
        let left = if cut {
            u64::from(rng.next_u32() % 700)
        } else {
            u64::MAX
        };
        let (front, context, never) = (front.clone(), context.clone(), never.clone());
        let address: SocketAddr = "127.0.0.1:40000".parse().unwrap();
        let peer = PeerInfo {
            remote: address,
            local: address,
            listener: "zabbix",
            security: Security::Plain,
        };
        tokio::spawn(async move {
            front
                .exchange(
                    Cut {
                        inner: theirs,
                        left,
                    },
                    &peer,
                    &context,
                    &never,
                )
                .await;
        });
        let stream: BoxStream = Box::pin(ours);
        Box::pin(async move { Ok(stream) })
    };
    let read = Items::new("/", "lab");
    let link = ZabbixLink::new(config, &read, policy, spool.clone(), clock.clone(), entropy)
        .over(Arc::new(reach));
    let cancel = CancellationToken::new();
    let running = tokio::spawn(link.run(cancel.clone()));
    clock.sleep(Duration::from_secs(60)).await;
    faulty.store(0, Ordering::Relaxed);
    clock.sleep(Duration::from_secs(30)).await;
    cancel.cancel();
    running.await.unwrap();
    let range = HistoryRange {
        from: None,
        to: None,
        limit: 10_000,
    };
    for item in items {
        let history = control.history(item, range).await.unwrap();
        let times: BTreeSet<i64> = history.iter().map(|sample| sample.clock).collect();
        assert_eq!(
            times.len(),
            history.len(),
            "seed {seed}: a value is there twice"
        );
        assert!(
            history.len() >= 25,
            "seed {seed}: only {} values",
            history.len()
        );
        let first = history.first().unwrap().clock;
        let last = history.last().unwrap().clock;
        assert_eq!(
            last - first + 1,
            times.len() as i64,
            "seed {seed}: a second is missing"
        );
    }
    let left = spool
        .peek("zabbix 127.0.0.1:10051 lab", 1, 1_000_000)
        .await
        .unwrap();
    assert!(
        left.is_empty(),
        "seed {seed}: something was not acknowledged"
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_over_streams_cut_at_any_byte() {
    for seed in 0..12 {
        story(seed).await;
    }
}
