//! Listening sockets: bound with an error that helps, guarded by a [`Gate`], served until drained.

use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::limit::{Gate, GateLimits, MemoryBudget, Permit, Refusals};

/// What every listener of a process shares.
#[derive(Clone, Debug)]
pub struct NetContext {
    /// Time.
    pub clock: Clock,
    /// Where refusals are counted.
    pub refusals: Refusals,
    /// Memory for unknown peers.
    pub budget: MemoryBudget,
}

impl NetContext {
    /// A context with nothing refused and nothing in use.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            refusals: Refusals::default(),
            budget: MemoryBudget::default(),
        }
    }
}

/// Where to listen, as configuration writes it: `off`, or address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenSpec {
    /// At this address; port 0 takes a free one.
    At(SocketAddr),
    /// Not at all.
    Off,
}

impl ListenSpec {
    /// The address, unless it is off.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::At(address) => Some(address),
            Self::Off => None,
        }
    }
}

impl fmt::Display for ListenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

/// A listening address that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither `off` nor an address and port like 127.0.0.1:8080 or [::1]:0")]
pub struct BadListenSpec(String);

impl FromStr for ListenSpec {
    type Err = BadListenSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| BadListenSpec(text.to_owned()))?;
            return Ok(Self::At((Ipv4Addr::LOCALHOST, port).into()));
        }
        text.parse()
            .map(Self::At)
            .map_err(|_| BadListenSpec(text.to_owned()))
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Their address.
    pub remote: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// Name of the listener that took the connection.
    pub listener: &'static str,
    /// How the connection is protected.
    pub security: Security,
}

impl PeerInfo {
    /// Their address, with an IPv4 address in IPv6 clothes undressed.
    pub fn ip(&self) -> IpAddr {
        self.remote.ip().to_canonical()
    }

    /// Whether they are on this machine.
    pub fn is_loopback(&self) -> bool {
        self.ip().is_loopback()
    }
}

/// How a connection is protected, and what it proved of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    Plain,
    /// TLS with a key both sides know.
    Psk {
        /// The identity of the key that was used.
        identity: String,
    },
    /// TLS with the server's certificate.
    Tls {
        /// The client's certificate, where one was asked for and verified.
        client: Option<ClientCertificate>,
    },
}

/// Names in a verified client certificate, in RFC 4514 order and spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Who signed it.
    pub issuer: String,
    /// Whom it names.
    pub subject: String,
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error("port {} is in use by {} ({listener}, {option} {address})", address.port(), Holder::shown(.holder.as_ref()))]
    InUse {
        /// The listener that wanted it.
        listener: &'static str,
        /// The option that moves the listener.
        option: &'static str,
        /// The address that was asked for.
        address: SocketAddr,
        /// Who has it, when that can be known.
        holder: Option<Holder>,
    },
    /// The system refused for another reason.
    #[error("cannot listen on {address} ({listener}, {option})")]
    Refused {
        /// The listener that wanted it.
        listener: &'static str,
        /// The option that moves the listener.
        option: &'static str,
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The process that holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its program's name.
    pub program: String,
}

impl Holder {
    fn shown(holder: Option<&Self>) -> String {
        match holder {
            Some(Self { pid, program }) => format!("{program} (pid {pid})"),
            None => "another process".to_owned(),
        }
    }
}

/// A bound listening socket.
#[derive(Debug)]
pub struct Listener {
    name: &'static str,
    local: SocketAddr,
    socket: TcpListener,
    gate: Gate,
}

impl Listener {
    /// Binds `address`. `option` is the flag that moves this listener, for the error.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(
        name: &'static str,
        option: &'static str,
        address: SocketAddr,
        limits: GateLimits,
    ) -> Result<Self, BindError> {
        let bound = TcpListener::bind(address).await;
        let socket = bound.map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                BindError::InUse {
                    listener: name,
                    option,
                    address,
                    holder: holder(address),
                }
            } else {
                BindError::Refused {
                    listener: name,
                    option,
                    address,
                    source,
                }
            }
        })?;
        let local = socket.local_addr().map_err(|source| BindError::Refused {
            listener: name,
            option,
            address,
            source,
        })?;
        Ok(Self {
            name,
            local,
            socket,
            gate: Gate::new(limits),
        })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The address that was really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The gate, to see how many are in.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }
}

/// One connection that was let in. It keeps its place behind the gate until it is dropped.
#[derive(Debug)]
pub struct Accepted {
    /// The stream.
    pub stream: TcpStream,
    /// Who it is; [`Security::Plain`] until a handshake says more.
    pub peer: PeerInfo,
    /// The place behind the gate; keep it as long as the connection lives.
    pub permit: Permit,
}

/// After an error of `accept` that is not about one connection (no descriptor is left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `listener` until `cancel`, then lets open connections end within `drain` and cuts the rest.
///
/// `handle` runs in a task of its own for each connection and is expected to watch the same token. A
/// panic in it ends that connection only, and is counted.
pub async fn serve<F, Fut>(
    listener: Listener,
    context: NetContext,
    cancel: CancellationToken,
    drain: Duration,
    handle: F,
) where
    F: Fn(Accepted) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Listener {
        name, socket, gate, ..
    } = listener;
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = socket.accept() => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(wire = name, %error, "accepting a connection failed");
                if !is_about_one_connection(&error) {
                    context.clock.sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let permit = match gate.enter(remote.ip(), context.clock.instant()) {
            Ok(permit) => permit,
            Err(closed) => {
                let reason = closed.reason();
                context
                    .refusals
                    .note(name, reason, remote.ip(), "not accepted", &context.clock);
                continue;
            }
        };
        let Ok(local) = stream.local_addr() else {
            continue;
        };
        crate::socket::tune(&stream);
        let peer = PeerInfo {
            remote,
            local,
            listener: name,
            security: Security::Plain,
        };
        let future = AssertUnwindSafe(handle(Accepted {
            stream,
            peer,
            permit,
        }))
        .catch_unwind();
        let context = context.clone();
        connections.spawn(async move {
            if future.await.is_err() {
                let clock = &context.clock;
                tracing::error!(wire = name, peer.address = %remote, "a connection's task panicked");
                context.refusals.note(name, "panic", remote.ip(), "a bug of ours", clock);
            }
        });
    }
    drop(socket);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, ended).await.is_err() {
        connections.shutdown().await;
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

/// Who listens on the port of `address`, as far as /proc shows it to us.
pub fn holder(address: SocketAddr) -> Option<Holder> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, address.port()))
        .collect();
    let processes = fs::read_dir("/proc").ok()?;
    let mut pids: Vec<u32> = processes
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let pid = pids.into_iter().find(|pid| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        descriptors.filter_map(Result::ok).any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|target| {
                let target = target.to_string_lossy();
                let inode = target
                    .strip_prefix("socket:[")
                    .and_then(|rest| rest.strip_suffix(']'));
                inode.is_some_and(|inode| inodes.iter().any(|wanted| wanted == inode))
            })
        })
    })?;
    let program = fs::read_to_string(format!("/proc/{pid}/comm"))
        .ok()?
        .trim()
        .to_owned();
    Some(Holder { pid, program })
}

/// Inodes of the sockets in state LISTEN on `port`, from a table of /proc/net.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            (local.ends_with(&suffix) && *state == LISTEN).then(|| (*inode).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_read_back() {
        for text in ["off", "127.0.0.1:8080", "0.0.0.0:0", "[::1]:10051"] {
            assert_eq!(text.parse::<ListenSpec>().unwrap().to_string(), text);
        }
        let localhost: ListenSpec = "localhost:80".parse().unwrap();
        assert_eq!(localhost.to_string(), "127.0.0.1:80");
        for text in [
            "",
            "8080",
            "Off",
            "127.0.0.1",
            "127.0.0.1:99999",
            "host:80",
            "localhost:x",
        ] {
            let error = text.parse::<ListenSpec>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn the_table_of_the_kernel_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
             \x20  1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n\
             \x20  2: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0\n\
             short line\n";
        assert_eq!(listening_inodes(table, 8080), ["4711"]);
        assert_eq!(listening_inodes(table, 81), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_port_in_use_names_its_holder() {
        let loopback = "127.0.0.1:0".parse().unwrap();
        let first = Listener::bind("http", "--listen-http", loopback, GateLimits::default());
        let taken = first.await.unwrap();
        let address = taken.local_addr();
        let second = Listener::bind("teeth", "--listen-teeth", address, GateLimits::default());
        let error = second.await.unwrap_err();
        let port = address.port();
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("port {port} is in use by ")),
            "{text}"
        );
        assert!(
            text.ends_with(&format!("(teeth, --listen-teeth {address})")),
            "{text}"
        );
        assert!(
            text.contains(&format!("(pid {})", std::process::id())),
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_address_that_is_not_ours_is_refused() {
        let elsewhere = "192.0.2.1:0".parse().unwrap();
        let outcome = Listener::bind("http", "--listen-http", elsewhere, GateLimits::default());
        let error = outcome.await.unwrap_err();
        assert!(
            matches!(
                error,
                BindError::Refused {
                    listener: "http",
                    ..
                }
            ),
            "{error:?}"
        );
    }
}
