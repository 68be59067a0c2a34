//! `kill -9` under load: nothing acknowledged is lost, nothing is there twice (issue 2, section 3; threats,
//! section 7, test 4).
//!
//! The parent starts this same binary as a child that uploads for several peers at once and says on its
//! standard output what was acknowledged. After some acknowledgements it is killed, in the midst of what the
//! other peers do; the store is read and compared; the next child goes on as real peers do, with what it
//! has not heard an answer for. Twenty times on SQLite, twenty times on PostgreSQL. The agent's spool goes
//! through the same, with jobs whose effect must happen at most once.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use jiff::Timestamp;
use muster_core::sample::{Sample, Value};
use muster_store::samples::{Batch, Limits, Row, Samples, Span};
use muster_store::spool::{Added, Bound, JobIntent, Spool};
use muster_store::testing::for_each_durable_url;
use muster_store::{Reading, Store, StoreUrl};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use tokio::runtime::Runtime;
use uuid::Uuid;

/// Kills of one story.
const KILLS: u64 = 20;
/// Peers that upload at once.
const PEERS: u64 = 4;
/// Readings of one upload.
const BATCH: u64 = 25;
/// Items of one peer.
const ITEMS: u64 = 3;
/// Uploads of one peer after which it would stop by itself; far more than a child lives for.
const UPLOADS_MAX: u64 = 100_000;
const NOON: i64 = 1_795_262_400;

const STORY: &str = "MUSTER_KILL9_STORY";
const PLACE: &str = "MUSTER_KILL9_PLACE";
const ROUND: &str = "MUSTER_KILL9_ROUND";
const FROM: &str = "MUSTER_KILL9_FROM";
const LAST: &str = "MUSTER_KILL9_LAST";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// The child: not a test by itself, the parents run it.
#[test]
#[ignore = "started by the tests below, with what to do in its environment"]
fn child() {
    let story = std::env::var(STORY).unwrap();
    let place = std::env::var(PLACE).unwrap();
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let from = std::env::var(FROM).unwrap();
    let last = std::env::var_os(LAST).is_some();
    match story.as_str() {
        "uploads" => runtime().block_on(uploads(&place, round, &from, last)),
        "spool" => runtime().block_on(spool(Path::new(&place), round, last)),
        other => panic!("no story {other}"),
    }
}

/// A line for the parent, written at once.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn start(story: &str, place: &str, round: u64, from: &str, last: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--ignored",
            "--exact",
            "child",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(STORY, story)
        .env(PLACE, place)
        .env(ROUND, round.to_string())
        .env(FROM, from)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if last {
        command.env(LAST, "1");
    }
    command.spawn().unwrap()
}

/// Reads what the child says, kills it after `kill_after` lines that `heard` counts, and reads on what it
/// said before it died. `None` lets it end by itself.
fn listen(mut child: Child, kill_after: Option<u64>, mut heard: impl FnMut(&str) -> bool) {
    let mut counted = 0;
    let mut killed = false;
    let reader = BufReader::new(child.stdout.take().unwrap());
    for line in reader.lines() {
        // A line cut off by the kill is not heard, as a reply cut off is not.
        let Ok(line) = line else { break };
        counted += u64::from(heard(&line));
        if !killed && kill_after.is_some_and(|limit| counted >= limit) {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(
        killed || kill_after.is_none(),
        "the child ended before its kill: {status}"
    );
    assert!(killed || status.success(), "the child failed: {status}");
}

// Uploads.

fn rows(peer: u64, upload: u64) -> Vec<Row> {
    (upload * BATCH + 1..=(upload + 1) * BATCH)
        .map(|id| Row {
            id: Some(id),
            reading: Reading::from(Sample {
                item: peer * ITEMS + id % ITEMS,
                clock: NOON + i64::try_from(id).unwrap(),
                ns: 0,
                value: Value::Unsigned(id),
            }),
        })
        .collect()
}

async fn open(url: &str, writer: u64) -> (Store, Samples) {
    let store = Store::open(StoreUrl::parse(url).unwrap()).await.unwrap();
    let writer = Uuid::from_u128(u128::from(writer) + 1);
    let samples = Samples::open(store.clone(), writer, Limits::default())
        .await
        .unwrap();
    (store, samples)
}

/// Each peer uploads one batch after another, from where the parent says it has no answer; now and then it
/// sends an old one again.
async fn uploads(url: &str, round: u64, from: &str, last: bool) {
    let (_store, samples) = open(url, round).await;
    let mut peers = Vec::new();
    for (peer, from) in (0..).zip(from.split(',')) {
        let from: u64 = from.parse().unwrap();
        let samples = samples.clone();
        peers.push(tokio::spawn(async move {
            let end = if last { from + 3 } else { UPLOADS_MAX };
            for upload in from..end {
                let batch = |upload| Batch {
                    peer: format!("px-{peer}"),
                    session: Some("s".to_owned()),
                    rows: rows(peer, upload),
                };
                let fresh = samples.ingest(batch(upload), at(NOON)).await.unwrap();
                assert_eq!(
                    fresh.stored + fresh.duplicates,
                    usize::try_from(BATCH).unwrap()
                );
                say(&format!("ACK {peer} {upload}"));
                if upload % 3 == 2 {
                    let again = samples.ingest(batch(upload - 2), at(NOON)).await.unwrap();
                    assert_eq!(again.stored, 0, "a repeat of {peer} {upload} was stored");
                }
            }
        }));
    }
    for peer in peers {
        peer.await.unwrap();
    }
}

/// Reads everything and checks it: what was acknowledged is there, and nothing is there twice.
async fn check(samples: &Samples, next: &[u64]) {
    for (peer, next) in (0u64..).zip(next) {
        let mut found = BTreeMap::new();
        for item in peer * ITEMS..(peer + 1) * ITEMS {
            for sample in samples.range(item, Span::newest(100_000)).await.unwrap() {
                let Value::Unsigned(id) = sample.value else {
                    panic!("{sample:?}")
                };
                assert_eq!(sample.clock, NOON + i64::try_from(id).unwrap());
                assert_eq!(id % ITEMS, item % ITEMS);
                *found.entry(id).or_insert(0u32) += 1;
            }
        }
        let twice: Vec<&u64> = found
            .iter()
            .filter(|(_, n)| **n > 1)
            .map(|(id, _)| id)
            .collect();
        assert!(twice.is_empty(), "peer {peer} has twice: {twice:?}");
        let lost: Vec<u64> = (1..=next * BATCH)
            .filter(|id| !found.contains_key(id))
            .collect();
        assert!(lost.is_empty(), "peer {peer} lost acknowledged: {lost:?}");
        // The one upload that was under way is there whole or not at all.
        let more = found.len() as u64 - next * BATCH;
        assert!(
            more == 0 || more == BATCH,
            "peer {peer} has {more} of an upload"
        );
        let newest = samples.last(&[peer * ITEMS]).await.unwrap();
        let kept = newest
            .get(&(peer * ITEMS))
            .and_then(|l| l.value.as_ref())
            .map(|s| s.clock);
        let stored = found.keys().filter(|id| *id % ITEMS == 0).max();
        assert_eq!(kept, stored.map(|id| NOON + i64::try_from(*id).unwrap()));
    }
}

#[test]
fn uploads_survive_twenty_kills() {
    for_each_durable_url(|url| {
        let place = match &url {
            StoreUrl::Sqlite(path) => format!("sqlite:{}", path.display()),
            StoreUrl::Postgres(address) => address.clone(),
            StoreUrl::Memory => panic!("not durable"),
        };
        runtime().block_on(async {
            Store::open(url.clone())
                .await
                .unwrap()
                .migrate(at(0))
                .await
                .unwrap();
        });
        // First upload of each peer that was not acknowledged.
        let mut next = vec![0u64; usize::try_from(PEERS).unwrap()];
        for round in 0..=KILLS {
            let last = round == KILLS;
            let from = next
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",");
            let child = start("uploads", &place, round, &from, last);
            // From right after the first answer to well into the load.
            let kill_after = (!last).then_some(1 + round * 7 % 31);
            listen(child, kill_after, |line| {
                let mut words = line.split(' ');
                if words.next() != Some("ACK") {
                    return false;
                }
                let peer: usize = words.next().unwrap().parse().unwrap();
                let upload: u64 = words.next().unwrap().parse().unwrap();
                assert_eq!(next[peer], upload);
                next[peer] += 1;
                true
            });
            runtime().block_on(async {
                // A writer of its own, as the next child has another.
                let (_store, samples) = open(&place, 1000 + round).await;
                check(&samples, &next).await;
            });
        }
        assert!(next.iter().sum::<u64>() > KILLS, "{next:?}");
    });
}

// The spool.

/// Values go through the queue to a "server" that is a file of lines; jobs act by appending a line to
/// another file. Both files survive the kill, as a server and a disk would.
async fn spool(dir: &Path, round: u64, last: bool) {
    let spool = Spool::open(Some(dir.join("spool.db")), at(NOON))
        .await
        .unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(round);
    let session = spool.queue("values", &mut rng).await.unwrap().session;
    say(&format!("SESSION {session}"));
    let sender = tokio::spawn(send(spool.clone(), dir.to_owned(), round, last));
    let worker = tokio::spawn(work(spool, dir.to_owned(), round, last));
    sender.await.unwrap();
    worker.await.unwrap();
}

fn append(path: &Path, line: &str) {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

async fn send(spool: Spool, dir: PathBuf, round: u64, last: bool) {
    let server = dir.join("server.log");
    let mut made = 0u64;
    loop {
        if last {
            if spool.peek("values", 1, 1).await.unwrap().is_empty() {
                break;
            }
        } else {
            let bodies = (0..3)
                .map(|i| format!("{round}-{}", made + i).into_bytes())
                .collect();
            let added = spool
                .add("values", bodies, Bound::VALUES, at(NOON))
                .await
                .unwrap();
            let Added::Queued { first, dropped: 0 } = added else {
                panic!("{added:?}")
            };
            // From here on the values are the spool's to deliver.
            for i in 0..3 {
                say(&format!("QUEUED {} {round}-{}", first + i, made + i));
            }
            made += 3;
        }
        let entries = spool.peek("values", 2, 1 << 20).await.unwrap();
        for entry in &entries {
            append(
                &server,
                &format!("{} {}", entry.id, String::from_utf8_lossy(&entry.body)),
            );
        }
        if let Some(entry) = entries.last() {
            spool.acknowledge("values", entry.id).await.unwrap();
        }
    }
}

async fn work(spool: Spool, dir: PathBuf, round: u64, last: bool) {
    let peer = "teeth://one";
    // What an earlier life had begun is not done again.
    for cut_off in spool.unfinished().await.unwrap() {
        spool
            .conclude(peer, &cut_off.run, "interrupted", at(NOON))
            .await
            .unwrap();
    }
    if last {
        return;
    }
    let acts = dir.join("acts.log");
    for number in 0u64.. {
        // The server offers a run of an earlier life as well, as one whose answer was lost.
        let offers = [(round, number), (round.saturating_sub(1), number)];
        for (round, number) in offers {
            let run = format!("{round}-{number}");
            if spool.recall(peer, &run).await.unwrap().is_some() {
                continue;
            }
            let intent = JobIntent {
                peer: peer.to_owned(),
                run: run.clone(),
                generation: 1,
                kind: "noop".to_owned(),
                fingerprint: "f".to_owned(),
                at: at(NOON),
            };
            spool.intend(intent).await.unwrap();
            append(&acts, &run);
            spool.conclude(peer, &run, "done", at(NOON)).await.unwrap();
            say(&format!("DONE {run}"));
        }
    }
}

#[test]
fn the_spool_survives_twenty_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut queued: BTreeMap<u64, String> = BTreeMap::new();
    let mut done = BTreeSet::new();
    let mut sessions = BTreeSet::new();
    for round in 0..=KILLS {
        let last = round == KILLS;
        let child = start("spool", dir.path().to_str().unwrap(), round, "", last);
        let kill_after = (!last).then_some(2 + round * 5 % 23);
        listen(child, kill_after, |line| {
            let mut words = line.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("SESSION"), Some(session), None) => {
                    sessions.insert(session.to_owned());
                    false
                }
                (Some("QUEUED"), Some(id), Some(body)) => {
                    let earlier = queued.insert(id.parse().unwrap(), body.to_owned());
                    assert_eq!(earlier, None, "id {id} was given twice");
                    true
                }
                (Some("DONE"), Some(run), None) => {
                    done.insert(run.to_owned());
                    true
                }
                _ => false,
            }
        });
    }
    assert_eq!(sessions.len(), 1, "the session changed");

    // The server may have seen an entry several times, but always under the same id, and it saw all.
    let log = std::fs::read_to_string(dir.path().join("server.log")).unwrap();
    let mut arrived: BTreeMap<u64, &str> = BTreeMap::new();
    for line in log.lines() {
        let (id, body) = line.split_once(' ').unwrap();
        let earlier = arrived.insert(id.parse().unwrap(), body);
        assert!(
            earlier.is_none_or(|e| e == body),
            "id {id} was {earlier:?} and {body}"
        );
    }
    for (id, body) in &queued {
        assert_eq!(arrived.get(id), Some(&body.as_str()), "id {id}");
    }
    let bodies: BTreeSet<&&str> = arrived.values().collect();
    assert_eq!(bodies.len(), arrived.len(), "a value has two ids");

    // A job acted at most once, and one reported as done did act.
    let log = std::fs::read_to_string(dir.path().join("acts.log")).unwrap();
    let mut acted = BTreeSet::new();
    for run in log.lines() {
        assert!(acted.insert(run.to_owned()), "{run} acted twice");
    }
    assert!(
        done.is_subset(&acted),
        "{:?}",
        done.difference(&acted).collect::<Vec<_>>()
    );
    assert!(acted.len() > 20, "{acted:?}");
    let unfinished = runtime().block_on(async {
        let spool = Spool::open(Some(dir.path().join("spool.db")), at(NOON))
            .await
            .unwrap();
        spool.unfinished().await.unwrap()
    });
    assert_eq!(unfinished, []);
}
