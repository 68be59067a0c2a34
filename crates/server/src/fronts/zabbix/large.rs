//! Uploads that are too large for memory: on disk as they arrive, inflated there, and read back in
//! pieces that are each checked, judged and stored like a small upload.
//!
//! All of it is read once before anything is stored, so that a broken upload leaves nothing. Its pieces
//! are stored one after the other; should that fail in between, the peer is told so and repeats it, and
//! what was stored is known by its ids. One such upload is taken at a time. Contract: threats page,
//! section 4.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use muster_net::Clock;
use muster_net::listen::PeerInfo;
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::frame::{FrameError, Header, Inflate};
use muster_proto::zabbix::json::JsonError;
use muster_proto::zabbix::pieces::{Cutter, Envelope, Piece};
use muster_proto::zabbix::wire::Payload;
use tokio::sync::OwnedSemaphorePermit;

use super::ZabbixFront;
use super::answer::{Answer, Counts, Spent};
use super::digest::{Ask, ProxyUpload, Refusal, asked};
use crate::control::ControlError;

/// Read from disk at a time.
const BLOCK_BYTES: usize = 256 * 1024;

/// A payload on disk, and the turn to have one.
#[derive(Debug)]
pub(super) struct Spooled {
    file: File,
    _turn: OwnedSemaphorePermit,
}

impl Spooled {
    /// A file in `folder` that no name leads to.
    pub(super) async fn create(
        folder: &Path,
        turn: OwnedSemaphorePermit,
        clock: &Clock,
    ) -> io::Result<Self> {
        let folder = folder.to_owned();
        let made = clock.off_thread(move || nameless(&folder)).await;
        Ok(Self {
            file: made.ok_or_else(ending)??,
            _turn: turn,
        })
    }

    pub(super) async fn append(mut self, part: Vec<u8>, clock: &Clock) -> io::Result<Self> {
        let write = move || self.file.write_all(&part).map(|()| self);
        clock.off_thread(write).await.ok_or_else(ending)?
    }
}

fn ending() -> io::Error {
    io::Error::other("the server is ending")
}

fn nameless(folder: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".payload-{number}"));
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        match options.open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            // Left by a process that died between two lines of this function.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Why a payload on disk was not taken.
enum Trouble {
    Disk(io::Error),
    Frame(FrameError),
    Json(JsonError),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<FrameError> for Trouble {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<JsonError> for Trouble {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Disk(error) => not_spooled(&error),
            Trouble::Frame(error) => Self::Drop(error),
            Trouble::Json(error) => Self::Say {
                reason: "json",
                info: error.to_string(),
            },
        }
    }
}

/// The refusal of a payload that has no room; its sender keeps it and tries again.
pub(super) fn not_spooled(error: &io::Error) -> Refusal {
    tracing::error!("a large payload cannot be kept on disk: {error}");
    Refusal::Say {
        reason: "spool",
        info: "a payload of this size cannot be taken now".to_owned(),
    }
}

/// A payload on disk, inflated and checked as a whole.
struct Opened {
    file: File,
    envelope: Envelope,
    cutter: Cutter,
    queue: VecDeque<Piece>,
    block: Vec<u8>,
    limits: Arc<Limits>,
}

impl Opened {
    fn new(
        mut file: File,
        header: &Header,
        folder: &Path,
        limits: Arc<Limits>,
    ) -> Result<Self, Trouble> {
        if header.compressed {
            file = inflated(file, header, folder, &limits)?;
        }
        let mut opened = Self {
            file,
            envelope: Envelope::default(),
            cutter: cutter(&limits),
            queue: VecDeque::new(),
            block: vec![0; BLOCK_BYTES],
            limits,
        };
        opened.file.rewind()?;
        while let Some(piece) = opened.next()? {
            Payload::check(piece.alone(), &opened.limits)?;
        }
        let whole = std::mem::replace(&mut opened.cutter, cutter(&opened.limits));
        opened.envelope = whole.finish()?;
        opened.file.rewind()?;
        Ok(opened)
    }

    fn next(&mut self) -> Result<Option<Piece>, Trouble> {
        while self.queue.is_empty() {
            let count = self.file.read(&mut self.block)?;
            if count == 0 {
                return Ok(None);
            }
            let block = self.block.get(..count).unwrap_or_default();
            let queue = &mut self.queue;
            self.cutter.feed(block, |piece| {
                queue.push_back(piece);
                Ok(())
            })?;
        }
        Ok(self.queue.pop_front())
    }

    /// The next piece as a message.
    fn message(&mut self) -> Result<Option<Payload>, Trouble> {
        let Some(piece) = self.next()? else {
            return Ok(None);
        };
        Ok(Some(Payload::check(
            self.envelope.with(&piece),
            &self.limits,
        )?))
    }
}

fn cutter(limits: &Limits) -> Cutter {
    let row = usize::try_from(limits.stranger.inflated_bytes_max).unwrap_or(usize::MAX);
    Cutter::new(&limits.json, row)
}

fn inflated(
    mut file: File,
    header: &Header,
    folder: &Path,
    limits: &Limits,
) -> Result<File, Trouble> {
    let most = limits.known.inflated_bytes_max;
    let mut stream = Inflate::new(header.reserved, header.length, most, limits.ratio_max)?;
    let mut out = io::BufWriter::with_capacity(BLOCK_BYTES, nameless(folder)?);
    file.rewind()?;
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let count = file.read(&mut block)?;
        if count == 0 {
            break;
        }
        let mut written = Ok(());
        stream.feed(block.get(..count).unwrap_or_default(), |given| {
            if written.is_ok() {
                written = out.write_all(given);
            }
        })?;
        written?;
    }
    stream.finish()?;
    Ok(out.into_inner().map_err(io::IntoInnerError::into_error)?)
}

impl ZabbixFront {
    /// Answers an upload that lies on disk.
    pub(super) async fn large_upload(
        &self,
        spooled: Spooled,
        header: Header,
        peer: &PeerInfo,
        spent: Spent<'_>,
    ) -> Result<Answer, Refusal> {
        let Spooled { file, _turn } = spooled;
        let folder = self.control.settings().spool.clone().unwrap_or_default();
        let limits = Arc::clone(&self.limits);
        let opened = self
            .off_thread(move || Ok(Opened::new(file, &header, &folder, limits)?))
            .await?;
        let outline = opened.envelope.without_rows();
        let outline = self.bench(move |bench| {
            let payload = Payload::check(outline, bench.limits).map_err(Trouble::Json)?;
            asked(payload, bench)
        });
        let stored = match outline.await? {
            Ask::ProxyData(upload) => self.large_proxy_data(*upload, opened, peer).await?,
            Ask::AgentData(_) | Ask::SenderData(_) => {
                self.large_values(opened, peer, spent).await?
            }
            // Rows have no meaning in any other request.
            other @ (Ask::ActiveChecks(_)
            | Ask::AgentHeartbeat { .. }
            | Ask::ProxyConfig(_)
            | Ask::ProxyHeartbeat(_)) => return Ok(self.answer(other, peer, spent).await),
        };
        Ok(stored.unwrap_or_else(|error| Answer::failed(peer, &error)))
    }

    async fn large_proxy_data(
        &self,
        mut whole: ProxyUpload,
        mut opened: Opened,
        peer: &PeerInfo,
    ) -> Result<Result<Answer, ControlError>, Refusal> {
        let agent = match self.uploading_proxy(&whole.name, peer).await {
            Ok(Ok(agent)) => agent,
            Ok(Err(answer)) => return Ok(Ok(answer)),
            Err(error) => return Ok(Err(error)),
        };
        loop {
            let (rest, ask) = self.next_ask(opened).await?;
            opened = rest;
            let Some(ask) = ask else { break };
            let Ask::ProxyData(part) = ask else { continue };
            whole.bad = whole.bad.saturating_add(part.bad);
            whole.results.extend(part.results);
            let taken = self.take_rows(&agent, part.session, part.rows, part.has_data, peer);
            match taken.await {
                Ok(None) => {}
                Ok(Some(answer)) => return Ok(Ok(answer)),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(self
            .conclude_upload(&agent, whole.bad, whole.results, peer)
            .await)
    }

    async fn large_values(
        &self,
        mut opened: Opened,
        peer: &PeerInfo,
        spent: Spent<'_>,
    ) -> Result<Result<Answer, ControlError>, Refusal> {
        let mut counts = Counts::default();
        loop {
            let (rest, ask) = self.next_ask(opened).await?;
            opened = rest;
            let Some(ask) = ask else { break };
            let taken = match ask {
                Ask::AgentData(part) => self.agent_rows(part, peer).await,
                Ask::SenderData(part) => self.sender_rows(part, peer).await.map(Ok),
                Ask::ActiveChecks(_)
                | Ask::AgentHeartbeat { .. }
                | Ask::ProxyConfig(_)
                | Ask::ProxyData(_)
                | Ask::ProxyHeartbeat(_) => continue,
            };
            match taken {
                Ok(Ok(more)) => counts.add(more),
                Ok(Err(answer)) => return Ok(Ok(answer)),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(counts.answer(spent)))
    }

    async fn next_ask(&self, mut opened: Opened) -> Result<(Opened, Option<Ask>), Refusal> {
        self.bench(move |bench| {
            let ask = match opened.message()? {
                Some(payload) => Some(asked(payload, bench)?),
                None => None,
            };
            Ok((opened, ask))
        })
        .await
    }
}
