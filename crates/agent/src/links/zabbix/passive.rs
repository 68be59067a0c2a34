//! Passive mode: the server connects, asks, and is answered.
//!
//! Only the server's own addresses are read; what else connects is closed unread (threats page,
//! section 2). A proxy gives what waits and forgets it when the server has said that it took it, one
//! exchange at a time. Contract: Zabbix page, sections 5 and 9.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_net::Clock;
use muster_net::dial::Endpoint;
use muster_net::drive::{DriveLimits, Handler, drive};
use muster_net::limit::GateLimits;
use muster_net::listen::{Accepted, Listener, NetContext, serve};
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::accepted::{Event, Session};
use muster_proto::zabbix::agent::Reply;
use muster_proto::zabbix::agent::passive::{Ask, config_reply};
use muster_proto::zabbix::check::Question;
use muster_proto::zabbix::frame::{FrameError, Packet};
use muster_proto::zabbix::wire::{OpenError, Payload, failed};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use super::collect::Collector;
use super::exchange::ExchangeError;
use super::stock::{Pack, Stock};
use super::{DIALECT, LAST_WORDS, ZabbixLink, chain, encode};

/// How often windows of items take their sample.
const TICK: Duration = Duration::from_secs(1);

/// Where a passive link is asked.
#[derive(Clone)]
pub(super) struct Desk {
    server: Endpoint,
    limits: Limits,
    clock: Clock,
    collector: Collector,
    /// What a proxy has to tell; an agent keeps nothing.
    stock: Option<Arc<Mutex<Stock>>>,
}

impl Desk {
    /// An agent, which reads each item when it is asked for.
    pub(super) fn of_agent(link: &ZabbixLink, collector: Collector) -> Self {
        Self {
            server: link.config.endpoint.clone(),
            limits: link.limits,
            clock: link.clock.clone(),
            collector,
            stock: None,
        }
    }

    /// A proxy, which gives what it has collected.
    pub(super) fn of_proxy(link: &ZabbixLink, collector: Collector, stock: Stock) -> Self {
        Self {
            stock: Some(Arc::new(Mutex::new(stock))),
            ..Self::of_agent(link, collector)
        }
    }

    /// Answers until `cancel`; ends at once when it cannot listen.
    pub(super) async fn run(self, cancel: CancellationToken) {
        let addresses = match addresses_of(&self.server).await {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::error!(server = %self.server, "the server has no address: {error}");
                return;
            }
        };
        let place = SocketAddr::new(listen_ip(&addresses), self.server.port);
        let bound = Listener::bind("zabbix", "--server", place, GateLimits::default()).await;
        let listener = match bound {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(server = %self.server, "a passive link: {}", chain(&error));
                return;
            }
        };
        tracing::info!(
            server = self.server.host, address = %listener.local_addr(),
            "listens for its server"
        );
        let context = NetContext::new(self.clock.clone());
        let desk = self.clone();
        let serving = serve(
            listener,
            context,
            cancel.clone(),
            LAST_WORDS,
            move |accepted| {
                let (desk, cancel) = (desk.clone(), cancel.clone());
                async move { desk.connection(accepted, &cancel).await }
            },
        );
        // A proxy's sampler ticks by itself.
        let ticking = async {
            if self.stock.is_some() {
                std::future::pending::<()>().await;
            }
            loop {
                self.clock.sleep(TICK).await;
                self.collector.tick();
            }
        };
        tokio::select! {
            biased;
            () = serving => {}
            () = ticking => {}
        }
    }

    async fn connection(&self, accepted: Accepted, cancel: &CancellationToken) {
        let Accepted {
            stream,
            peer,
            permit: _permit,
        } = accepted;
        let from_server = addresses_of(&self.server).await;
        if !from_server.is_ok_and(|addresses| addresses.contains(&peer.ip())) {
            tracing::warn!(
                peer.address = %peer.remote, server = self.server.host,
                "a connection was closed unread: it is not from the server"
            );
            return;
        }
        // A configuration may be long, a question is not.
        let mut session = Session::new(self.limits, self.stock.is_some(), self.clock.instant());
        let driving = DriveLimits {
            output_max: usize::MAX,
            write_stall: self.limits.known.reply_time,
            ..DriveLimits::default()
        };
        let mut handler = Exchange {
            desk: self,
            given: None,
        };
        let clock = &self.clock;
        let end = drive(stream, &mut session, &mut handler, clock, &driving, cancel).await;
        if let Err(error) = end {
            tracing::debug!(server = %self.server, "the server's connection broke: {error}");
        }
    }

    /// What an agent answers to a packet.
    async fn answer(&self, packet: Packet) -> Result<Vec<u8>, FrameError> {
        let body = packet.open(&self.limits, &self.limits.stranger)?;
        Ok(match Question::parse(body, &self.limits) {
            Ok(question) => {
                let answer = self.collector.read(question.key().to_owned()).await;
                question.answer(&answer)
            }
            Err(bad) => bad.answer(),
        })
    }

    /// Opens a packet off this thread, as it may be a whole configuration. `None` when all is ending.
    async fn open<T: Send + 'static>(
        &self,
        packet: Packet,
        read: impl FnOnce(Payload) -> T + Send + 'static,
    ) -> Option<Result<T, OpenError>> {
        let limits = self.limits;
        let work = move || Payload::open(packet, &limits, &limits.known).map(read);
        self.clock.off_thread(work).await
    }
}

/// One exchange with the server.
struct Exchange<'a> {
    desk: &'a Desk,
    /// What was given and not acknowledged; nothing else is given meanwhile.
    given: Option<(OwnedMutexGuard<Stock>, Pack)>,
}

impl Handler<Session> for Exchange<'_> {
    type Wake = std::convert::Infallible;

    async fn on_event(&mut self, session: &mut Session, event: Event, _now: Instant) {
        let clock = &self.desk.clock;
        match (event, &self.desk.stock) {
            (Event::Request(packet), None) => match self.desk.answer(packet).await {
                Ok(answer) => session.reply(answer, clock.instant()),
                Err(error) => session.refuse(error),
            },
            (Event::Request(packet), Some(stock)) => {
                let opened = self
                    .desk
                    .open(packet, |payload| Ask::decode(&payload))
                    .await;
                let ask = match opened {
                    None => return session.close(),
                    Some(Ok(Ok(ask))) => ask,
                    Some(Ok(Err(reject))) => {
                        self.complain("a request was refused", &reject);
                        return session.reply(reject.reply(), clock.instant());
                    }
                    Some(Err(OpenError::Frame(error))) => return session.refuse(error),
                    Some(Err(OpenError::Json(error))) => {
                        return session.reply(failed(&error.to_string()), clock.instant());
                    }
                };
                let stock = Arc::clone(stock).lock_owned().await;
                if let Err(error) = self.serve(session, stock, ask).await {
                    self.complain("nothing could be given", &error);
                    session.close();
                }
            }
            // Only who asks for parts gets them.
            (Event::Part(_), _) => {}
            (Event::Word(packet), _) => {
                if let Some((mut stock, pack)) = self.given.take()
                    && let Err(error) = self.hear(packet, &mut stock, pack).await
                {
                    stock.not_taken();
                    self.complain("values were not taken", &error);
                }
            }
            (Event::Closed(reason), _) => {
                if let Some((mut stock, _)) = self.given.take() {
                    stock.not_taken();
                    self.complain("values were not taken", &reason);
                } else if reason.is_refusal() {
                    self.complain("an exchange failed", &reason);
                }
            }
        }
    }
}

impl Exchange<'_> {
    async fn serve(
        &mut self,
        session: &mut Session,
        stock: OwnedMutexGuard<Stock>,
        ask: Ask,
    ) -> Result<(), ExchangeError> {
        let (clock, patience) = (&self.desk.clock, self.desk.limits.word_time);
        let pack = match ask {
            Ask::Config(tables) => {
                stock.configure(&tables);
                session.reply(config_reply(DIALECT), clock.instant());
                return Ok(());
            }
            Ask::Data => stock.pack().await.map_err(ExchangeError::Spool)?,
            Ask::Tasks => stock.bare_pack(),
        };
        let text = encode(&stock.proxy_data(&pack, false))?;
        session.reply_and_listen(text, patience, clock.instant());
        self.given = Some((stock, pack));
        Ok(())
    }

    /// Takes the server's word about what was given.
    async fn hear(
        &self,
        packet: Packet,
        stock: &mut Stock,
        pack: Pack,
    ) -> Result<(), ExchangeError> {
        let payload = self.desk.open(packet, |payload| payload).await;
        let payload = payload
            .ok_or(ExchangeError::Nothing)?
            .map_err(ExchangeError::Open)?;
        let reply = Reply::decode(&payload).map_err(ExchangeError::Reply)?;
        if !reply.success {
            let info = reply.info.unwrap_or_default();
            return Err(ExchangeError::Refused(info.into_owned()));
        }
        stock.taken(pack).await.map_err(ExchangeError::Spool)?;
        // A server that sends its configuration unasked is not asked for it.
        stock.take_tasks(&reply.tasks.rows);
        Ok(())
    }

    fn complain(&self, what: &str, error: &dyn std::error::Error) {
        tracing::info!(server = %self.desk.server, "{what}: {}", chain(error));
    }
}

/// The addresses that the server may come from.
async fn addresses_of(server: &Endpoint) -> std::io::Result<Vec<IpAddr>> {
    if let Ok(address) = server.host.parse::<IpAddr>() {
        return Ok(vec![address.to_canonical()]);
    }
    let found = tokio::net::lookup_host((server.host.as_str(), server.port)).await?;
    Ok(found.map(|place| place.ip().to_canonical()).collect())
}

/// Where to listen for a server at these addresses: on loopback when it is there, else everywhere.
fn listen_ip(addresses: &[IpAddr]) -> IpAddr {
    let over_ip4 = addresses.iter().any(IpAddr::is_ipv4);
    match (addresses.iter().all(IpAddr::is_loopback), over_ip4) {
        (true, true) => Ipv4Addr::LOCALHOST.into(),
        (true, false) => Ipv6Addr::LOCALHOST.into(),
        (false, true) => Ipv4Addr::UNSPECIFIED.into(),
        (false, false) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_this_machine_is_awaited_on_loopback_only() {
        let cases: [(&[&str], &str); 5] = [
            (&["127.0.0.1"], "127.0.0.1"),
            (&["::1", "127.0.0.1"], "127.0.0.1"),
            (&["::1"], "::1"),
            (&["10.0.0.1", "fd00::1"], "0.0.0.0"),
            (&["fd00::1"], "::"),
        ];
        for (addresses, place) in cases {
            let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            assert_eq!(listen_ip(&addresses).to_string(), place, "{addresses:?}");
        }
    }
}
