//! How many values a second the store takes in, durably: `cargo run --release -p muster-store --example
//! ingest -- [DATABASE] [PEERS] [VALUES] [SECONDS]`.
//!
//! DATABASE is an address as in the configuration, or a directory for a fresh SQLite file (the default is
//! one in the temporary folder). Each of PEERS (4) uploads VALUES (1000) at a time, each of another item,
//! with its next time, a value with two decimals and random nanoseconds, and waits for the answer.

#![expect(clippy::print_stdout, reason = "the figures are what it is for")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use muster_core::sample::{Sample, Value};
use muster_store::samples::{Batch, Limits, Row, Samples};
use muster_store::{Reading, Store, StoreUrl};
use uuid::Uuid;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().unwrap_or_else(|| {
        let name = format!("muster-ingest-{}", std::process::id());
        std::env::temp_dir().join(name).display().to_string()
    });
    let mut number = |default| {
        arguments
            .next()
            .map_or(Ok(default), |text| text.parse::<u64>())
    };
    let (peers, values, seconds) = (number(4)?, number(1000)?, number(5)?);

    let url = match StoreUrl::parse(&place) {
        Some(url) => url,
        None => {
            std::fs::create_dir_all(&place)?;
            StoreUrl::Sqlite(PathBuf::from(&place).join("muster.db"))
        }
    };
    let place = url.to_string();
    let store = Store::open(url).await?;
    let now = Timestamp::now();
    store.migrate(now).await?;
    let writer =
        Uuid::from_u128(u128::from(std::process::id()) << 64 | now.as_nanosecond().cast_unsigned());
    let samples = Samples::open(store, writer, Limits::default()).await?;

    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    let mut tasks = Vec::new();
    for peer in 0..peers {
        let samples = samples.clone();
        tasks.push(tokio::spawn(async move {
            let (mut uploads, mut worst) = (0u64, Duration::ZERO);
            let mut state = peer + 1;
            while Instant::now() < end {
                let rows = (0..values).map(|index| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let noise = (state >> 33) as u32;
                    let reading = Reading::from(Sample {
                        item: peer * values + index,
                        clock: now.as_second() + i64::try_from(uploads).unwrap_or(0),
                        ns: noise % 1_000_000_000,
                        value: Value::Float(f64::from(2000 + noise % 50) / 100.0),
                    });
                    Row {
                        id: Some(uploads * values + index + 1),
                        reading,
                    }
                });
                let batch = Batch {
                    peer: format!("peer-{peer}"),
                    session: Some(writer.simple().to_string()),
                    rows: rows.collect(),
                };
                let asked = Instant::now();
                samples.ingest(batch, now).await?;
                worst = worst.max(asked.elapsed());
                uploads += 1;
            }
            Ok::<_, muster_store::IngestError>((uploads, worst))
        }));
    }
    let (mut uploads, mut worst) = (0, Duration::ZERO);
    for task in tasks {
        let (count, longest) = task.await??;
        uploads += count;
        worst = worst.max(longest);
    }
    let took = begun.elapsed();
    let stats = samples.stats().await?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (rate, size) = (
        (uploads * values) as f64 / took.as_secs_f64(),
        stats.bytes as f64 / stats.readings.max(1) as f64,
    );
    println!("{place}: {rate:.0} values/s acknowledged and durable");
    println!("{uploads} uploads of {values} by {peers} peers in {took:.2?}, longest {worst:.2?}");
    println!("{} blocks, {size:.2} bytes a value", stats.blocks);
    Ok(())
}
