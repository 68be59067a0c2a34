//! Active mode: asking the server what to collect, and telling it what was.

use std::time::Duration;

use muster_proto::zabbix::agent::ask::Asker;
use muster_proto::zabbix::agent::{
    Action, ActiveChecksReply, ConfigReply, Form, Reply, Rhythm, Uploaded,
};
use muster_proto::zabbix::wire::{Payload, Upload};
use tokio_util::sync::CancellationToken;

use super::exchange::{ExchangeError, exchange};
use super::given::checks_of_list;
use super::stock::{Pack, Stock};
use super::{DIALECT, LAST_WORDS, Role, ZabbixLink, chain, encode};

/// The half of an active link that speaks to the server.
pub(super) struct Uploads<'a> {
    link: &'a ZabbixLink,
    stock: Stock,
}

impl<'a> Uploads<'a> {
    pub(super) fn new(link: &'a ZabbixLink, stock: Stock) -> Self {
        Self { link, stock }
    }

    /// Asks and tells until `cancel`, then tries for a moment to tell the rest.
    pub(super) async fn run(mut self, cancel: &CancellationToken) {
        let mut rhythm = Rhythm::new(self.link.config.intervals, self.link.clock.instant());
        loop {
            let now = self.link.clock.instant();
            match rhythm.next(now) {
                Action::Wait(until) => tokio::select! {
                    biased;
                    () = cancel.cancelled() => break,
                    () = self.link.clock.sleep_until(until) => continue,
                },
                action @ (Action::Config | Action::Data { .. } | Action::Heartbeat) => {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => break,
                        () = self.act(action, &mut rhythm) => {}
                    }
                }
            }
        }
        // An upload that was cut off is repeated under the same ids.
        let clock = self.link.clock.clone();
        let last =
            async { while let Uploaded::Accepted { more: true } = self.upload(false).await.0 {} };
        tokio::select! {
            biased;
            () = last => {}
            () = clock.sleep(LAST_WORDS) => {}
        }
    }

    async fn act(&mut self, action: Action, rhythm: &mut Rhythm) {
        let clock = &self.link.clock;
        match action {
            Action::Config => {
                let outcome = match self.link.config.role {
                    Role::Agent => self.fetch_active_checks().await,
                    Role::Proxy => self.fetch_configuration().await,
                };
                if let Err(error) = &outcome {
                    self.complain("what to collect could not be fetched", error);
                }
                rhythm.config_done(outcome.is_ok(), clock.instant());
            }
            Action::Heartbeat => {
                if self.link.config.role == Role::Proxy {
                    let beat = self.asker().heartbeat();
                    let patience = self.link.config.intervals.heartbeat;
                    if let Err(error) = self.exchange(&beat, Form::PROXY, patience).await {
                        self.complain("the heartbeat was not taken", &error);
                    }
                }
                rhythm.heartbeat_done(clock.instant());
            }
            Action::Data { bare } => {
                let (outcome, reload) = self.upload(bare).await;
                rhythm.data_done(outcome, clock.instant());
                if reload {
                    rhythm.reload(clock.instant());
                }
            }
            Action::Wait(_) => {}
        }
    }

    async fn fetch_active_checks(&mut self) -> Result<(), ExchangeError> {
        let ask = self.asker().active_checks();
        let patience = self.link.limits.short_reply_time;
        let payload = self.exchange(&ask, Form::PLAIN, patience).await?;
        let reply = ActiveChecksReply::decode(&payload).map_err(ExchangeError::Reply)?;
        match reply {
            ActiveChecksReply::Keep => Ok(()),
            ActiveChecksReply::Refused(info) => Err(ExchangeError::Refused(info.into_owned())),
            ActiveChecksReply::List(list) => {
                self.stock.give(checks_of_list(list.rows));
                Ok(())
            }
        }
    }

    async fn fetch_configuration(&mut self) -> Result<(), ExchangeError> {
        let ask = self.asker().config();
        let patience = self.link.limits.upload_reply_time;
        let payload = self.exchange(&ask, Form::PROXY_CONFIG, patience).await?;
        match ConfigReply::decode(&payload).map_err(ExchangeError::Config)? {
            ConfigReply::Refused(info) => Err(ExchangeError::Refused(info)),
            ConfigReply::Tables(tables) => {
                self.stock.configure(&tables);
                Ok(())
            }
        }
    }

    /// One upload, and whether the server wants its configuration to be fetched again.
    async fn upload(&mut self, bare: bool) -> (Uploaded, bool) {
        let pack = if bare {
            self.stock.bare_pack()
        } else {
            match self.stock.pack().await {
                Ok(pack) => pack,
                Err(error) => {
                    tracing::error!("the spool cannot be read: {}", chain(&error));
                    return (Uploaded::Failed, false);
                }
            }
        };
        // An agent has no tasks to ask for.
        if self.link.config.role == Role::Agent && pack.has_no_values() {
            return (Uploaded::Accepted { more: false }, false);
        }
        let more = pack.is_full();
        match self.tell(pack).await {
            Ok((Upload::Disabled, reload)) => (Uploaded::Disabled, reload),
            Ok((Upload::Enabled, reload)) => (Uploaded::Accepted { more }, reload),
            Err(error) => {
                self.stock.not_taken();
                self.complain("values were not taken", &error);
                (Uploaded::Failed, false)
            }
        }
    }

    async fn tell(&mut self, pack: Pack) -> Result<(Upload, bool), ExchangeError> {
        let limits = &self.link.limits;
        let (text, form, patience) = match self.link.config.role {
            Role::Agent => (
                encode(&self.stock.agent_data(&pack))?,
                Form::PLAIN,
                limits.short_reply_time,
            ),
            Role::Proxy => (
                encode(&self.stock.proxy_data(&pack, true))?,
                Form::PROXY,
                limits.upload_reply_time,
            ),
        };
        let payload = self.exchange(&text, form, patience).await?;
        let reply = Reply::decode(&payload).map_err(ExchangeError::Reply)?;
        if !reply.success {
            let info = reply.info.unwrap_or_default();
            return Err(ExchangeError::Refused(info.into_owned()));
        }
        let taken = self.stock.taken(pack).await;
        taken.map_err(ExchangeError::Spool)?;
        let reload = self.stock.take_tasks(&reply.tasks.rows);
        Ok((reply.upload, reload))
    }

    fn complain(&self, what: &str, error: &ExchangeError) {
        tracing::info!(
            server = %self.link.config.endpoint,
            name = self.link.config.name,
            "{what}: {}", chain(error)
        );
    }

    async fn exchange(
        &self,
        payload: &str,
        form: Form,
        patience: Duration,
    ) -> Result<Payload, ExchangeError> {
        let ZabbixLink {
            config,
            limits,
            clock,
            reach,
            ..
        } = self.link;
        let (place, protection) = (config.endpoint.clone(), config.protection.clone());
        let stream = reach(place, protection, patience).await?;
        exchange(stream, payload, form, patience, limits, clock).await
    }

    fn asker(&self) -> Asker<'_> {
        Asker {
            host: &self.link.config.name,
            version: DIALECT,
            muster: Some(&self.link.config.agent_id),
        }
    }
}
