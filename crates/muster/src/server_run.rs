//! `muster server run|check|migrate`, and the server that `up` shares with it.

use std::net::SocketAddr;
use std::path::Path;
use std::process;

use muster_core::credential::Secret;
use muster_net::listen::BindError;
use muster_net::tls::{Fingerprint, Identity, Inbound};
use muster_net::{Clock, Entropy, GateLimits, ListenSpec, Listener};
use muster_server::Control;
use muster_server::app::{App, Listeners, Protections};
use muster_server::control::{ControlError, Role, Settings};
use muster_store::sealed::Sealer;
use muster_store::{Store, StoreError, StoreUrl};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli::args::{ConfigArgs, Global, ServerCommand};
use crate::cli::error::{CliError, Code};
use crate::cli::output::Output;
use crate::config::{Config, Purpose};
use crate::signals;
use crate::state::{Bound, StateFolder};

/// File of SQLite in the state folder.
const DATABASE: &str = "muster.db";
/// Folder of the certificate.
const TLS: &str = "tls";
/// Folder of the key that seals secrets.
const SECRETS: &str = "secrets";
/// The key that seals secrets.
const SEALING_KEY: &str = "sealing.key";

/// Runs one of the server's commands.
pub(crate) async fn run(
    global: &Global,
    out: Output,
    command: ServerCommand,
) -> Result<(), CliError> {
    match command {
        ServerCommand::Run(args) => serve(global, args).await,
        ServerCommand::Check(args) => check(global, out, args).await,
        ServerCommand::Migrate(args) => migrate(global, out, args).await,
    }
}

async fn serve(global: &Global, args: ConfigArgs) -> Result<(), CliError> {
    let folder = crate::cli::state::folder(global);
    let config = Config::load(&args, &folder, Purpose::Server)?;
    let cancel = signals::drain_on_signal()?;
    let server = Server::start(&folder, &config, &cancel).await?;
    tracing::info!(
        http = server.bound.http,
        https = server.bound.https,
        teeth = server.bound.teeth,
        teeths = server.bound.teeths,
        zabbix = server.bound.zabbix,
        pin = %server.fingerprint,
        "muster {} serves",
        env!("CARGO_PKG_VERSION")
    );
    cancel.cancelled().await;
    server.drained().await
}

/// Configuration and database as they are; nothing is changed, not even made.
async fn check(global: &Global, out: Output, args: ConfigArgs) -> Result<(), CliError> {
    let folder = crate::cli::state::folder(global);
    let config = Config::load(&args, &folder, Purpose::Server)?;
    let url = database_url(&config, &folder);
    let there = !matches!(&url, StoreUrl::Sqlite(path) if !path.exists());
    let (database, pending) = if there {
        let store = open_store(&url).await?;
        let state = store
            .schema_state()
            .await
            .map_err(|error| database_error(&url, &error))?;
        if let Some(trouble) = &state.trouble {
            return Err(
                CliError::failed(Code::DATABASE, format!("{url} cannot be used"))
                    .line(trouble.to_string()),
            );
        }
        ("ready", state.pending.len())
    } else {
        ("not there yet", 0)
    };
    let database = if pending > 0 { "behind" } else { database };
    out.object(&json!({
        "database": url.to_string(),
        "schema": database,
        "pending_migrations": pending,
        "egress_allow": config.egress_allow.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "warnings": config.warnings(),
    }))?;
    if pending > 0 {
        return Err(CliError::failed(
            Code::DATABASE,
            format!("the schema of {url} lacks {pending} migrations"),
        )
        .next("`muster server migrate`"));
    }
    Ok(())
}

async fn migrate(global: &Global, out: Output, args: ConfigArgs) -> Result<(), CliError> {
    let path = crate::cli::state::folder(global);
    let config = Config::load(&args, &path, Purpose::Server)?;
    let url = database_url(&config, &path);
    // Held only where the database lies in the folder: a PostgreSQL has several servers.
    let _folder = match &url {
        StoreUrl::Sqlite(file) if file.starts_with(&path) => Some(StateFolder::open(&path)?),
        StoreUrl::Memory | StoreUrl::Postgres(_) | StoreUrl::Sqlite(_) => None,
    };
    let store = open_store(&url).await?;
    let applied = store
        .migrate(Clock::system().now())
        .await
        .map_err(|error| database_error(&url, &error))?;
    out.object(&json!({ "database": url.to_string(), "applied": applied }))
}

/// A server with its state folder, listening.
pub(crate) struct Server {
    folder: StateFolder,
    app: App,
    token: Secret,
    /// The application, for who lives in the same process.
    pub(crate) control: Control,
    /// Where it listens.
    pub(crate) bound: Bound,
    /// Of the certificate of `https` and `teeths`.
    pub(crate) fingerprint: Fingerprint,
}

impl Server {
    /// Opens everything and listens. When this returns, `addresses.json` is written.
    pub(crate) async fn start(
        path: &Path,
        config: &Config,
        cancel: &CancellationToken,
    ) -> Result<Self, CliError> {
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let mut folder = StateFolder::open(path)?;
        // Bound before anything is made: a port in use is the likeliest reason not to start.
        let listeners = bind(config).await?;
        let entropy = Entropy::system();
        let clock = Clock::system();
        let control = open_control(&folder, config, clock, entropy.clone()).await?;
        let token = folder.admin_token(&mut entropy.rng())?;
        let installed = control
            .install_token(&token, "local administrator", Role::Admin)
            .await;
        installed.map_err(|error| control_error(&error))?;

        let hostname = hostname();
        let names = certificate_names(&hostname, &listeners);
        let identity = Identity::load_or_generate(&path.join(TLS), &names).map_err(|error| {
            CliError::failed(Code::STATE_FOLDER, "cannot use the TLS certificate").cause(&error)
        })?;
        let protections = protections(&identity, config)?;
        let address = |listener: &Option<Listener>| {
            listener
                .as_ref()
                .map(|listener| listener.local_addr().to_string())
        };
        let bound = Bound {
            pid: process::id(),
            http: address(&listeners.http),
            https: address(&listeners.https),
            teeth: address(&listeners.teeth),
            teeths: address(&listeners.teeths),
            zabbix: address(&listeners.zabbix),
        };
        let app = App::start(&control, listeners, protections, &hostname, cancel)
            .await
            .map_err(|error| control_error(&error))?;
        folder.write_addresses(&bound)?;
        Ok(Self {
            folder,
            app,
            token,
            control,
            bound,
            fingerprint: identity.fingerprint,
        })
    }

    /// What the admin API answers to a GET of `path`, which begins below `/api/v1`.
    pub(crate) async fn ask(&self, path: &str) -> Result<Value, CliError> {
        self.app
            .ask(path, &self.token)
            .await
            .map_err(|error| control_error(&error))
    }

    /// The same for a list, all pages of it.
    pub(crate) async fn ask_all(&self, path: &str) -> Result<Vec<Value>, CliError> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let after = cursor
                .map(|cursor| format!("&cursor={cursor}"))
                .unwrap_or_default();
            let page = self.ask(&format!("{path}{mark}limit=1000{after}")).await?;
            let items = page.get("items").and_then(Value::as_array).cloned();
            all.extend(items.unwrap_or_default());
            cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// Where its state is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns when everything in hand has ended after the token was cancelled.
    pub(crate) async fn drained(self) -> Result<(), CliError> {
        let outcome = self
            .app
            .drained()
            .await
            .map_err(|error| control_error(&error));
        drop(self.folder);
        outcome
    }
}

async fn open_control(
    folder: &StateFolder,
    config: &Config,
    clock: Clock,
    entropy: Entropy,
) -> Result<Control, CliError> {
    let url = database_url(config, folder.path());
    let store = open_store(&url).await?;
    store
        .migrate(clock.now())
        .await
        .map_err(|error| database_error(&url, &error))?;
    let secrets = folder.subfolder(SECRETS)?;
    let sealer =
        Sealer::from_file(&secrets.join(SEALING_KEY), &mut entropy.rng()).map_err(|error| {
            CliError::failed(Code::STATE_FOLDER, "cannot use the key that seals secrets")
                .cause(&error)
        })?;
    let settings = Settings {
        enrol_policy: config.enrol_policy,
        enrol_addresses: config.enrol_addresses.clone(),
        contact_interval: config.contact_interval,
        pscheduler_open: config.pscheduler_open,
        teeth_close_without_ping: config.teeth_close_without_ping,
        insecure: config.listen.insecure,
        retain_runs: config.retain_runs,
        retain_values: config.retain_values,
        egress: config.egress(),
        spool: Some(folder.path().to_owned()),
    };
    let control = Control::open(store, sealer, settings, clock, entropy).await;
    control.map_err(|error| control_error(&error))
}

fn database_url(config: &Config, folder: &Path) -> StoreUrl {
    config
        .database
        .clone()
        .unwrap_or_else(|| StoreUrl::Sqlite(folder.join(DATABASE)))
}

async fn open_store(url: &StoreUrl) -> Result<Store, CliError> {
    Store::open(url.clone())
        .await
        .map_err(|error| database_error(url, &error))
}

fn database_error(url: &StoreUrl, error: &StoreError) -> CliError {
    CliError::failed(Code::DATABASE, format!("cannot use the database {url}")).cause(error)
}

/// What the application could not do, for the person who started it.
pub(crate) fn control_error(error: &ControlError) -> CliError {
    CliError::failed(Code::INTERNAL, error.to_string()).cause(error)
}

/// Binds all listeners that are on, or none.
async fn bind(config: &Config) -> Result<Listeners, CliError> {
    let listen = config.listen;
    let one = async |name, option, spec: ListenSpec| -> Result<Option<Listener>, CliError> {
        let Some(address) = spec.address() else {
            return Ok(None);
        };
        let gate = GateLimits {
            exempt: config.limits_exempt.clone(),
            ..GateLimits::default()
        };
        match Listener::bind(name, option, address, gate).await {
            Ok(listener) => Ok(Some(listener)),
            Err(error) => Err(not_bound(&error, option)),
        }
    };
    Ok(Listeners {
        http: one("http", "--listen-http", listen.http).await?,
        https: one("https", "--listen-https", listen.https).await?,
        teeth: one("teeth", "--listen-teeth", listen.teeth).await?,
        teeths: one("teeths", "--listen-teeths", listen.teeths).await?,
        zabbix: one("zabbix", "--listen-zabbix", listen.zabbix).await?,
    })
}

fn not_bound(error: &BindError, option: &str) -> CliError {
    let code = match error {
        BindError::InUse { .. } => Code::PORT_IN_USE,
        BindError::Refused { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Code::NOT_PERMITTED
        }
        BindError::Refused { .. } => Code::CONFIG_INVALID,
    };
    let title = error.to_string();
    let mut shown = CliError::failed(code, title);
    if let Some(source) = std::error::Error::source(error) {
        shown = shown.line(source.to_string());
    }
    shown.next(format!(
        "`{option} 127.0.0.1:0` takes a free port, `{option} off` does without it"
    ))
}

fn protections(identity: &Identity, config: &Config) -> Result<Protections, CliError> {
    let tls = Inbound::rustls(identity, &[]).map_err(|error| {
        CliError::failed(Code::STATE_FOLDER, "cannot use the TLS certificate").cause(&error)
    })?;
    let zabbix = zabbix_protection(identity, config, &tls)?;
    Ok(Protections {
        tls,
        zabbix: Inbound::FirstByte(Box::new(zabbix)),
    })
}

#[cfg(feature = "psk")]
fn zabbix_protection(
    identity: &Identity,
    config: &Config,
    _tls: &Inbound,
) -> Result<Inbound, CliError> {
    use muster_net::tls::PskTable;
    use muster_net::tls::psk::Acceptor;
    let invalid = |error: &(dyn std::error::Error + 'static)| {
        CliError::failed(Code::CONFIG_INVALID, "cannot set up TLS for Zabbix").cause(error)
    };
    let keys = PskTable::default();
    for (name, key) in &config.zabbix_psk {
        keys.insert(name, key.clone())
            .map_err(|error| invalid(&error))?;
    }
    let acceptor = Acceptor::new(keys, Some(identity), &[]).map_err(|error| invalid(&error))?;
    Ok(Inbound::OpenSsl(acceptor))
}

#[cfg(not(feature = "psk"))]
fn zabbix_protection(
    _identity: &Identity,
    _config: &Config,
    tls: &Inbound,
) -> Result<Inbound, CliError> {
    Ok(tls.clone())
}

/// What this machine calls itself.
pub(crate) fn hostname() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().into_owned();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name
    }
}

/// The names a certificate made here carries: those by which this server is reached.
fn certificate_names(hostname: &str, listeners: &Listeners) -> Vec<String> {
    let mut names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    let bound = [&listeners.https, &listeners.teeths];
    let bound = bound
        .into_iter()
        .flatten()
        .map(Listener::local_addr)
        .map(|a: SocketAddr| a.ip());
    names.extend(
        bound
            .filter(|ip| !ip.is_unspecified())
            .map(|ip| ip.to_string()),
    );
    let plain = hostname
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if plain {
        names.push(hostname.to_owned());
    }
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}
