//! SNMP as the tools use it: credentials, one shared socket, gets and columns.
//!
//! Credentials are tried in order and the first that answers is kept; what a probe sends is one
//! GET without retries (FusionInventory contract, section 7.1), what follows has one. Columns are
//! walked with GETBULK where the version has it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_snmp::{
    Auth, AuthProtocol, Client, DesSaltState, EngineCache, MasterKeys, Oid, PersistedDesSaltState,
    PrivProtocol, Retry, UdpHandle, UdpTransport, UsmConfig, Value, WalkMethod, WalkOptions,
};
use futures_util::future::BoxFuture;
use serde_json::Value as Json;

use super::SpecError;
use super::spec::Members;

/// Where SNMP agents listen.
pub const PORT: u16 = 161;
/// Longest column that is read: beyond any device's interface table that we identify by.
const COLUMN_ROWS_MAX: usize = 4096;
/// Rows asked for at once.
const REPETITIONS: u32 = 20;

/// One credential to try. Its `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Credential {
    /// What results name it by: its `id`, else its position, counted from 1.
    pub id: String,
    /// The port, where it is not the usual one.
    pub port: Option<u16>,
    /// How long to wait, where it differs from the target's.
    pub timeout: Option<Duration>,
    login: Login,
}

#[derive(Clone)]
enum Login {
    Community(Auth),
    User {
        name: String,
        auth: Option<(AuthProtocol, String)>,
        privacy: Option<(PrivProtocol, String)>,
    },
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Community(auth) => write!(f, "{:?}", auth.version()),
            Self::User { .. } => f.write_str("V3"),
        }
    }
}

impl Credential {
    /// Reads the credentials of a spec: member `_credentials` or `credentials`, a list or a single
    /// object (FusionInventory contract, section 1.2).
    ///
    /// # Errors
    /// [`SpecError`] naming the member that is missing or unknown; never its value.
    pub fn list(spec: &Members<'_>) -> Result<Vec<Self>, SpecError> {
        let mut found = Vec::new();
        for name in ["_credentials", "credentials"] {
            for (index, value) in spec.list(name).into_iter().enumerate() {
                found.push(Self::parse(value, &format!("/{name}/{index}"), index + 1)?);
            }
        }
        Ok(found)
    }

    fn parse(value: &Json, path: &str, position: usize) -> Result<Self, SpecError> {
        let m = Members::of(value, path)?;
        let version = match m.raw("version") {
            Some(Json::String(text)) => text.trim().to_lowercase(),
            Some(Json::Number(number)) => number.to_string(),
            Some(_) | None => return Err(m.wrong("version", "is none of 1, 2c and 3")),
        };
        let community = || {
            let text = m
                .text("community")?
                .ok_or_else(|| m.wrong("community", "is required"))?;
            Ok(bytes::Bytes::copy_from_slice(text.as_bytes()))
        };
        let login = match version.as_str() {
            "1" => Login::Community(Auth::v1(community()?)),
            "2" | "2c" => Login::Community(Auth::v2c(community()?)),
            "3" => Self::user(&m)?,
            _ => return Err(m.wrong("version", "is none of 1, 2c and 3")),
        };
        let id = match m.raw("id") {
            Some(Json::String(text)) => text.clone(),
            Some(Json::Number(number)) => number.to_string(),
            Some(_) | None => position.to_string(),
        };
        let port = m
            .integer("port", 1..=65_535)?
            .and_then(|port| u16::try_from(port).ok());
        Ok(Self {
            id,
            port,
            timeout: m.duration("timeout")?,
            login,
        })
    }

    fn user(m: &Members<'_>) -> Result<Login, SpecError> {
        let secret = |name: &str| {
            let text = m.text(name)?.filter(|text| !text.is_empty());
            match text {
                Some(text) if text.len() < 8 => Err(m.wrong(name, "is shorter than 8 characters")),
                other => Ok(other.map(ToOwned::to_owned)),
            }
        };
        let word = |name: &str| Ok(m.text(name)?.map(|word| word.trim().to_lowercase()));
        let auth = match secret("authpassword")? {
            None => None,
            Some(password) => {
                let protocol = match word("authprotocol")?.as_deref() {
                    None | Some("md5") => AuthProtocol::Md5,
                    Some("sha" | "sha1") => AuthProtocol::Sha1,
                    Some("sha224") => AuthProtocol::Sha224,
                    Some("sha256") => AuthProtocol::Sha256,
                    Some("sha384") => AuthProtocol::Sha384,
                    Some("sha512") => AuthProtocol::Sha512,
                    Some(_) => return Err(m.wrong("authprotocol", "is unknown")),
                };
                Some((protocol, password))
            }
        };
        let privacy = match secret("privpassword")? {
            None => None,
            Some(password) => {
                let protocol = match word("privprotocol")?.as_deref() {
                    None | Some("des") => PrivProtocol::Des,
                    Some("3des") => PrivProtocol::Des3,
                    Some("aes" | "aes128") => PrivProtocol::Aes128,
                    Some("aes192") => PrivProtocol::Aes192Blumenthal,
                    Some("aes192c") => PrivProtocol::Aes192Reeder,
                    Some("aes256") => PrivProtocol::Aes256Blumenthal,
                    Some("aes256c") => PrivProtocol::Aes256Reeder,
                    Some(_) => return Err(m.wrong("privprotocol", "is unknown")),
                };
                Some((protocol, password))
            }
        };
        if privacy.is_some() && auth.is_none() {
            return Err(m.wrong("privpassword", "needs an authpassword beside it"));
        }
        let name = m.text("username")?.filter(|name| !name.is_empty());
        let name = name
            .ok_or_else(|| m.wrong("username", "is required"))?
            .to_owned();
        Ok(Login::User {
            name,
            auth,
            privacy,
        })
    }

    fn uses_des(&self) -> bool {
        match &self.login {
            Login::Community(_) => false,
            Login::User { privacy, .. } => {
                matches!(privacy, Some((PrivProtocol::Des | PrivProtocol::Des3, _)))
            }
        }
    }

    /// Derives the keys of a user, once for a whole sweep. Works for a while on a processor.
    fn derive(&self) -> Result<Auth, SnmpError> {
        let (name, auth, privacy) = match &self.login {
            Login::Community(auth) => return Ok(auth.clone()),
            Login::User {
                name,
                auth,
                privacy,
            } => (name, auth, privacy),
        };
        let config = UsmConfig::new(bytes::Bytes::copy_from_slice(name.as_bytes()));
        let Some((protocol, password)) = auth else {
            return Ok(Auth::Usm(config));
        };
        let failed = |error: &dyn std::error::Error| SnmpError::Credential {
            id: self.id.clone(),
            problem: error.to_string(),
        };
        let mut keys =
            MasterKeys::new(*protocol, password.as_bytes()).map_err(|error| failed(&error))?;
        if let Some((protocol, password)) = privacy {
            keys = keys
                .with_privacy(*protocol, password.as_bytes())
                .map_err(|error| failed(&error))?;
        }
        config
            .with_master_keys(keys)
            .map(Auth::Usm)
            .map_err(|error| failed(&error))
    }
}

/// What keeps a sweep from speaking SNMP at all.
#[derive(Debug, thiserror::Error)]
pub enum SnmpError {
    /// No socket.
    #[error("cannot open a socket for SNMP")]
    Socket(#[source] Box<async_snmp::Error>),
    /// A credential that cannot be used.
    #[error("credential {id} cannot be used: {problem}")]
    Credential {
        /// Which.
        id: String,
        /// Why, without the secret.
        problem: String,
    },
    /// DES needs a durable counter, and it could not be kept.
    #[error("cannot keep the counter that DES needs: {0}")]
    Salt(String),
}

/// The counter that makes DES salts never repeat, shared by all of this process.
#[derive(Clone, Default)]
pub struct SaltStore {
    state: Arc<Mutex<Option<DesSaltState>>>,
}

impl std::fmt::Debug for SaltStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SaltStore").finish_non_exhaustive()
    }
}

impl SaltStore {
    /// The counter, advanced in its file once for each process. Blocks on the file.
    fn state(&self, agent_state: &Path) -> Result<DesSaltState, SnmpError> {
        let mut held = match self.state.lock() {
            Ok(held) => held,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some(state) = &*held {
            return Ok(state.clone());
        }
        let path = agent_state.join("snmp-des-boots");
        let persist = |next: &PersistedDesSaltState| -> std::io::Result<()> {
            let fresh = path.with_extension("new");
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            write!(file, "{}", next.engine_boots())?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            std::fs::File::open(agent_state)?.sync_all()
        };
        let failed = |error: &dyn std::error::Error| SnmpError::Salt(error.to_string());
        let state = match std::fs::read_to_string(&path) {
            Ok(text) => {
                let boots = text.trim().parse().map_err(|_| {
                    SnmpError::Salt(format!("{} does not hold a number", path.display()))
                })?;
                let before = PersistedDesSaltState::new(boots).map_err(|error| failed(&error))?;
                DesSaltState::restart(before, persist).map_err(|error| failed(&error))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                DesSaltState::install(persist).map_err(|error| failed(&error))?
            }
            Err(error) => return Err(failed(&error)),
        };
        *held = Some(state.clone());
        Ok(state)
    }
}

/// A socket and a list of credentials, ready for many targets.
#[derive(Clone)]
pub struct Prober {
    transport_v4: UdpTransport,
    transport_v6: Option<UdpTransport>,
    logins: Vec<(Credential, Auth)>,
    salts: Option<DesSaltState>,
    engines: Arc<EngineCache>,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober")
            .field("logins", &self.logins.len())
            .finish_non_exhaustive()
    }
}

impl Prober {
    /// Opens the socket and derives the keys.
    ///
    /// # Errors
    /// [`SnmpError`].
    pub async fn open(
        credentials: &[Credential],
        salts: &SaltStore,
        agent_state: &Path,
    ) -> Result<Self, SnmpError> {
        let needs_salt = credentials.iter().any(Credential::uses_des);
        let (list, salts, state) = (credentials.to_vec(), salts.clone(), agent_state.to_owned());
        let prepared = tokio::task::spawn_blocking(move || {
            let logins = list
                .into_iter()
                .map(|credential| {
                    let auth = credential.derive()?;
                    Ok((credential, auth))
                })
                .collect::<Result<Vec<_>, SnmpError>>()?;
            let salts = if needs_salt {
                Some(salts.state(&state)?)
            } else {
                None
            };
            Ok((logins, salts))
        });
        let (logins, salts) = match prepared.await {
            Ok(prepared) => prepared?,
            Err(error) => return Err(SnmpError::Salt(error.to_string())),
        };
        Ok(Self {
            transport_v4: UdpTransport::bind("0.0.0.0:0")
                .await
                .map_err(SnmpError::Socket)?,
            transport_v6: UdpTransport::bind("[::]:0").await.ok(),
            logins,
            salts,
            engines: Arc::new(EngineCache::new()),
        })
    }

    /// The first credential that a target answers to, with a session and its `sysDescr`.
    pub async fn probe(&self, target: IpAddr, timeout: Duration) -> Option<Session> {
        for (credential, auth) in &self.logins {
            let address = SocketAddr::new(target, credential.port.unwrap_or(PORT));
            let timeout = credential.timeout.unwrap_or(timeout);
            let Some(client) = self.client(address, auth, timeout, 0).await else {
                continue;
            };
            let Ok(answer) = client.get(&oid(SYS_DESCR)).await else {
                continue;
            };
            if !answer
                .varbinds
                .iter()
                .any(|binding| !binding.value.is_exception())
            {
                continue;
            }
            let client = self
                .client(address, auth, timeout, 1)
                .await
                .unwrap_or(client);
            return Some(Session {
                client,
                credential: credential.id.clone(),
                port: address.port(),
                is_v1: auth.version() == async_snmp::Version::V1,
            });
        }
        None
    }

    async fn client(
        &self,
        address: SocketAddr,
        auth: &Auth,
        timeout: Duration,
        retries: u32,
    ) -> Option<Client<UdpHandle>> {
        let retry = Retry::fixed(retries, Duration::ZERO).unwrap_or_else(|_| Retry::none());
        let mut builder = Client::builder(address, auth.clone())
            .strict_source(true)
            .request_timeout(timeout)
            .retry(retry)
            .engine_cache(Arc::clone(&self.engines))
            .walk_options(WalkOptions {
                method: WalkMethod::Auto,
                max_repetitions: REPETITIONS,
                result_limit: Some(COLUMN_ROWS_MAX),
                ..WalkOptions::default()
            });
        if let Some(salts) = &self.salts {
            builder = builder.des_salt_state(salts.clone());
        }
        let transport = match address {
            SocketAddr::V4(_) => &self.transport_v4,
            SocketAddr::V6(_) => self.transport_v6.as_ref()?,
        };
        builder.build_with(transport).await.ok()
    }
}

/// What a device's objects are read through; a walk from a file in tests.
pub trait Objects: Sync {
    /// The values of single objects; absent where the device has none.
    fn get<'a>(&'a self, oids: &'a [&'a str]) -> BoxFuture<'a, Vec<Option<Value>>>;

    /// A column: the index below it, and the value, in the order of the device.
    fn column<'a>(&'a self, oid: &'a str) -> BoxFuture<'a, Vec<(Vec<u32>, Value)>>;
}

/// A target that answered.
pub struct Session {
    client: Client<UdpHandle>,
    /// Id of the credential that it answered to.
    pub credential: String,
    /// The port it answered on.
    pub port: u16,
    is_v1: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.client.peer_addr())
            .finish_non_exhaustive()
    }
}

impl Objects for Session {
    fn get<'a>(&'a self, oids: &'a [&'a str]) -> BoxFuture<'a, Vec<Option<Value>>> {
        Box::pin(async move {
            let wanted = oids.iter().map(|text| oid(text)).collect::<Vec<_>>();
            let mut found = BTreeMap::new();
            if self.is_v1 {
                // Version 1 refuses a whole request for one object that is not there.
                for oid in &wanted {
                    if let Ok(answer) = self.client.get(oid).await {
                        found.extend(answer.varbinds.into_iter().map(|b| (b.oid, b.value)));
                    }
                }
            } else if let Ok(answer) = self.client.get_many(&wanted).await {
                found.extend(answer.varbinds.into_iter().map(|b| (b.oid, b.value)));
            }
            wanted
                .iter()
                .map(|oid| found.remove(oid).filter(|value| !value.is_exception()))
                .collect()
        })
    }

    fn column<'a>(&'a self, column: &'a str) -> BoxFuture<'a, Vec<(Vec<u32>, Value)>> {
        Box::pin(async move {
            let base = oid(column);
            let mut rows = Vec::new();
            let Ok(mut walk) = self.client.walk(base.clone()) else {
                return rows;
            };
            // A device that stops answering halfway keeps what it told until then.
            while let Some(Ok(binding)) = walk.next().await {
                let index = binding
                    .oid
                    .strip_prefix(&base)
                    .map(|rest| rest.arcs().to_vec());
                if let Some(index) = index {
                    rows.push((index, binding.value));
                }
            }
            rows
        })
    }
}

/// `sysDescr.0`.
pub const SYS_DESCR: &str = "1.3.6.1.2.1.1.1.0";

/// An OID from its text; the texts are constants of this crate.
fn oid(text: &str) -> Oid {
    Oid::from_slice(&arcs(text))
}

/// The numbers of a dotted OID.
#[must_use]
pub fn arcs(text: &str) -> Vec<u32> {
    text.trim_matches('.')
        .split('.')
        .filter_map(|arc| arc.parse().ok())
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    /// The objects of a recorded device (`captures/snmp/*.snmprec`).
    pub(in super::super) struct Recorded {
        rows: BTreeMap<Vec<u32>, Value>,
    }

    impl Recorded {
        pub(in super::super) fn read(name: &str) -> Self {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../captures/snmp")
                .join(name);
            Self::parse(&std::fs::read_to_string(path).unwrap())
        }

        pub(in super::super) fn parse(text: &str) -> Self {
            let rows = text.lines().filter_map(|line| {
                let mut fields = line.splitn(3, '|');
                let (oid, tag, value) = (fields.next()?, fields.next()?, fields.next()?);
                let number = || value.parse::<u64>().unwrap();
                let small = || u32::try_from(number()).unwrap();
                let value = match tag {
                    "2" => Value::Integer(value.parse().unwrap()),
                    "4" => Value::OctetString(value.to_owned().into()),
                    "4x" => Value::OctetString(unhex(value).into()),
                    "6" => Value::ObjectIdentifier(Oid::from_slice(&arcs(value))),
                    "64" => Value::IpAddress(value.parse::<std::net::Ipv4Addr>().unwrap().octets()),
                    "65" => Value::Counter32(small()),
                    "66" => Value::Gauge32(small()),
                    "67" => Value::TimeTicks(small()),
                    "70" => Value::Counter64(number()),
                    other => panic!("tag {other}"),
                };
                Some((arcs(oid), value))
            });
            Self {
                rows: rows.collect(),
            }
        }
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
            .collect()
    }

    impl Objects for Recorded {
        fn get<'a>(&'a self, oids: &'a [&'a str]) -> BoxFuture<'a, Vec<Option<Value>>> {
            let found = oids
                .iter()
                .map(|oid| self.rows.get(&arcs(oid)).cloned())
                .collect();
            Box::pin(async move { found })
        }

        fn column<'a>(&'a self, oid: &'a str) -> BoxFuture<'a, Vec<(Vec<u32>, Value)>> {
            let base = arcs(oid);
            let found = self
                .rows
                .range(base.clone()..)
                .take_while(|(oid, _)| oid.starts_with(&base))
                .map(|(oid, value)| (oid[base.len()..].to_vec(), value.clone()))
                .collect();
            Box::pin(async move { found })
        }
    }

    fn list(spec: &Json) -> Result<Vec<Credential>, SpecError> {
        Credential::list(&Members::of(spec, "").unwrap())
    }

    #[test]
    fn credentials_of_every_spelling() {
        let found = list(&json!({
            "credentials": [
                {"version": "2c", "community": "public"},
                {"version": 1, "community": "public", "port": 16_100, "timeout": 3},
                {"version": "3", "username": "foo", "authprotocol": "sha1", "authpassword": "barbarbar"},
                {"version": 3, "username": "foo", "authprotocol": "SHA256", "id": "x",
                 "authpassword": "barbarbar", "privprotocol": "AES", "privpassword": "bazbazbaz"},
                {"version": "3", "username": "open"},
            ],
        }))
        .unwrap();
        let ids = found
            .iter()
            .map(|credential| credential.id.as_str())
            .collect::<Vec<_>>();
        assert_eq!(ids, ["1", "2", "3", "x", "5"]);
        assert_eq!(
            (found[1].port, found[1].timeout),
            (Some(16_100), Some(Duration::from_secs(3)))
        );
        assert!(list(&json!({})).unwrap().is_empty());
        assert_eq!(
            list(&json!({"_credentials": {"version": "2", "community": "c"}}))
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn errors_name_the_member_and_never_the_secret() {
        let canary = "s3cret-canary";
        for (credential, path) in [
            (json!({"community": canary}), "/credentials/0/version"),
            (
                json!({"version": "4", "community": canary}),
                "/credentials/0/version",
            ),
            (json!({"version": "2c"}), "/credentials/0/community"),
            (
                json!({"version": "3", "authpassword": canary}),
                "/credentials/0/username",
            ),
            (
                json!({"version": "3", "username": "u", "authprotocol": "rot13", "authpassword": canary}),
                "/credentials/0/authprotocol",
            ),
            (
                json!({"version": "3", "username": "u", "privprotocol": "x", "authpassword": canary,
                    "privpassword": canary}),
                "/credentials/0/privprotocol",
            ),
            (
                json!({"version": "3", "username": "u", "privpassword": canary}),
                "/credentials/0/privpassword",
            ),
            (
                json!({"version": "3", "username": "u", "authpassword": "short"}),
                "/credentials/0/authpassword",
            ),
        ] {
            let error = list(&json!({"credentials": [credential]})).unwrap_err();
            assert_eq!(error.path, path);
            assert!(!error.to_string().contains(canary), "{error}");
        }
        let good = list(&json!({"credentials": [
            {"version": "2c", "community": canary},
            {"version": "3", "username": "u", "authpassword": canary, "privpassword": canary},
        ]}))
        .unwrap();
        assert!(!format!("{good:?}").contains(canary));
    }

    #[test]
    fn the_des_counter_grows_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let boots = |store: &SaltStore| store.state(dir.path()).unwrap().engine_boots();
        let first = SaltStore::default();
        assert_eq!((boots(&first), boots(&first)), (1, 1));
        assert_eq!(boots(&SaltStore::default()), 2);
        assert_eq!(boots(&SaltStore::default()), 3);
        std::fs::write(dir.path().join("snmp-des-boots"), "garbage").unwrap();
        assert!(
            SaltStore::default().state(dir.path()).is_err(),
            "never begins anew by itself"
        );
    }
}
