//! A server on a free port of loopback, and clients for it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;
use muster_core::sample::{Item, ItemType, Sample, ValueType};
use muster_net::limit::GateLimits;
use muster_net::listen::{Listener, NetContext};
use muster_net::tls::Inbound;
use muster_net::{Clock, Entropy};
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::frame::{Decoder, encode};
use muster_server::control::{Control, Declared, EnrolPolicy, HistoryRange, NewItem, Settings};
use muster_server::fronts::zabbix::ZabbixFront;
use muster_store::sealed::Sealer;
use muster_store::{Store, StoreUrl};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Server {
    pub(crate) control: Control,
    pub(crate) address: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(folder: &Path, policy: EnrolPolicy, limits: Limits) -> Self {
        let clock = Clock::system();
        let entropy = Entropy::system();
        let store = Store::open(StoreUrl::Sqlite(folder.join("muster.db")))
            .await
            .unwrap();
        store.migrate(clock.now()).await.unwrap();
        let settings = Settings {
            enrol_policy: policy,
            spool: Some(folder.to_owned()),
            ..Settings::default()
        };
        let sealer = Sealer::from_file(&folder.join("key"), &mut entropy.rng()).unwrap();
        let control = Control::open(store, sealer, settings, clock.clone(), entropy)
            .await
            .unwrap();
        let front = ZabbixFront::new(control.clone(), limits).await.unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let gate = GateLimits::default();
        let listener = Listener::bind("zabbix", "--listen-zabbix", address, gate)
            .await
            .unwrap();
        let address = listener.local_addr();
        let cancel = CancellationToken::new();
        let drain = Duration::from_secs(5);
        let context = NetContext::new(clock);
        let task = tokio::spawn(front.serve(
            listener,
            context,
            Inbound::FirstByte(Box::new(Inbound::Plain)),
            cancel.clone(),
            drain,
        ));
        Self {
            control,
            address,
            cancel,
            task,
        }
    }

    pub(crate) async fn with(policy: EnrolPolicy) -> (tempfile::TempDir, Self) {
        let folder = tempfile::tempdir().unwrap();
        let server = Self::start(folder.path(), policy, Limits::default()).await;
        (folder, server)
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }

    /// Asks, and gives the reply.
    pub(crate) async fn ask(&self, json: &str) -> Value {
        self.ask_as(json, true).await
    }

    pub(crate) async fn ask_as(&self, json: &str, compress: bool) -> Value {
        let reply = self
            .exchange(&encode(json.as_bytes(), compress).unwrap())
            .await;
        assert!(!reply.is_empty(), "no reply to {json}");
        assert_eq!(
            reply[4],
            if compress { 3 } else { 1 },
            "the form of the request"
        );
        payload(&reply)
    }

    /// Sends bytes, keeps its side open, and gives what comes back until the server closes.
    pub(crate) async fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may have closed already: what it said is what counts.
        let _ = stream.write_all(bytes).await;
        let mut reply = Vec::new();
        let read = stream.read_to_end(&mut reply);
        let _ = tokio::time::timeout(Duration::from_secs(60), read)
            .await
            .unwrap();
        reply
    }

    /// A host and its items, `(key, type, value type)`; gives their numbers.
    pub(crate) async fn declare(
        &self,
        host: &str,
        proxy: Option<&str>,
        items: &[(&str, ItemType, ValueType)],
    ) -> Vec<u64> {
        self.declare_at(host, proxy, None, items).await
    }

    /// The same with the port of the host's agent.
    pub(crate) async fn declare_at(
        &self,
        host: &str,
        proxy: Option<&str>,
        port: Option<u16>,
        items: &[(&str, ItemType, ValueType)],
    ) -> Vec<u64> {
        let declared = Declared {
            name: host.to_owned(),
            proxy: proxy.map(str::to_owned),
            address: Some("127.0.0.1".to_owned()),
            port,
        };
        self.control.declare_host(declared).await.unwrap();
        let mut numbers = Vec::new();
        for (key, item_type, value_type) in items {
            let new = NewItem {
                host: host.to_owned(),
                key: (*key).to_owned(),
                item_type: *item_type,
                value_type: *value_type,
                delay: Some(SignedDuration::from_secs(5)),
                unit: String::new(),
                name: None,
            };
            let item: Item = self.control.declare_item(new).await.unwrap();
            numbers.push(item.number);
        }
        numbers
    }

    /// A proxy that is enrolled, with one host and its items.
    pub(crate) async fn proxied(&self, value_types: &[ValueType]) -> Vec<u64> {
        let hello = r#"{"request":"proxy heartbeat","host":"px","version":"6.0.14"}"#;
        assert_eq!(self.ask(hello).await["response"], "success");
        let keys: Vec<String> = (0..value_types.len())
            .map(|n| format!("trap[{n}]"))
            .collect();
        let items: Vec<_> = keys
            .iter()
            .zip(value_types)
            .map(|(key, value_type)| (key.as_str(), ItemType::Trapper, *value_type))
            .collect();
        self.declare("mon-a", Some("px"), &items).await
    }

    pub(crate) async fn history(&self, item: u64) -> Vec<Sample> {
        let range = HistoryRange {
            from: None,
            to: None,
            limit: 1000,
        };
        self.control.history(item, range).await.unwrap()
    }

    pub(crate) async fn texts(&self, item: u64) -> Vec<String> {
        self.history(item)
            .await
            .iter()
            .map(|sample| sample.value.to_string())
            .collect()
    }
}

/// The JSON in one frame.
pub(crate) fn payload(frame: &[u8]) -> Value {
    let limits = Limits::default();
    let (_, packet) = Decoder::new(&limits.known, true).feed(frame).unwrap();
    let opened = packet.unwrap().open(&limits, &limits.known).unwrap();
    serde_json::from_slice(&opened).unwrap()
}

pub(crate) const SESSION: &str = "0123456789abcdef0123456789abcdef";

/// A `proxy data` of the proxy `px` with these history rows.
pub(crate) fn upload(session: Option<&str>, rows: &str) -> String {
    let session = session
        .map(|s| format!("\"session\":\"{s}\","))
        .unwrap_or_default();
    format!(
        "{{\"request\":\"proxy data\",\"host\":\"px\",{session}\"history data\":[{rows}],\"version\":\"6.0.14\"}}"
    )
}

/// Bytes this process holds.
pub(crate) fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse::<u64>()
        .unwrap()
        * 1024
}
