//! Decoding a line never allocates more than eight times the input and 64 KiB.
//!
//! A test binary of its own, as it replaces the allocator by one that counts.

#![expect(unsafe_code, reason = "counting allocations needs a global allocator")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests need one instant to count from"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;

use muster_proto::Session as _;
use muster_proto::teeth::controller::{Admission, Config, IdleRule, Session};
use muster_proto::teeth::{Limits, wire};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn grow(by: usize) {
    let live = LIVE.get().saturating_add(by);
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: hands every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().saturating_sub(layout.size()));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was live above the start while `work` ran.
fn peak_of(work: impl FnOnce()) -> usize {
    let before = LIVE.get();
    PEAK.set(before);
    work();
    PEAK.get().saturating_sub(before)
}

fn shapes() -> Vec<(&'static str, Vec<u8>)> {
    let body = |params: String| {
        format!("{{\"id\":\"1\",\"version\":\"v1\",\"method\":\"handshake\",\"params\":{params}}}")
            .into_bytes()
    };
    let many = |item: &str, n: usize| vec![item; n].join(",");
    vec![
        (
            "small numbers",
            body(format!("{{\"a\":[{}]}}", many("0", 250_000))),
        ),
        (
            "small objects",
            body(format!("{{\"a\":[{}]}}", many("{}", 150_000))),
        ),
        (
            "small members",
            body(format!("{{\"a\":{{{}}}}}", many("\"\":0", 9_999))),
        ),
        (
            "small methods",
            body(format!(
                "{{\"id\":\"m\",\"version\":\"1\",\"methods\":[{}]}}",
                many("\"a\"", 100_000)
            )),
        ),
        (
            "one string",
            body(format!(
                "{{\"id\":\"{}\",\"version\":\"1\"}}",
                "x".repeat(500_000)
            )),
        ),
        (
            "escapes",
            body(format!(
                "{{\"id\":\"{}\",\"version\":\"1\"}}",
                "\\ud800".repeat(80_000)
            )),
        ),
        (
            "nested",
            body(format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500))),
        ),
        ("garbage", vec![b'['; 500_000]),
    ]
}

#[test]
fn decoding_stays_within_eight_times_the_line() {
    let limits = Limits::default();
    for (name, line) in shapes() {
        let peak = peak_of(|| drop(wire::decode(&line, &limits)));
        assert!(
            peak <= 8 * line.len() + 65_536,
            "{name}: {peak} for {}",
            line.len()
        );
    }
}

#[test]
fn a_session_stays_within_eight_times_what_arrived() {
    for (name, mut line) in shapes() {
        line.push(b'\n');
        let config = Config {
            limits: Limits::default(),
            admission: Admission::Open,
            idle: IdleRule::Close,
            server: "s".into(),
            endpoint: ("h".into(), 1),
        };
        let now = Instant::now();
        let rng = Box::new(ChaCha8Rng::seed_from_u64(1));
        let mut session = Session::new(config, rng, now);
        let peak = peak_of(|| {
            for piece in line.chunks(1400) {
                session.handle_input(piece, now);
            }
        });
        assert!(
            peak <= 8 * line.len() + 65_536,
            "{name}: {peak} for {}",
            line.len()
        );
    }
}
