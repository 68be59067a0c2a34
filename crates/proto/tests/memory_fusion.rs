//! What the FusionInventory decoders may allocate: eight times their input and 64 KiB.
//!
//! One test in a binary of its own, as the counting allocator sees every thread.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]
#![expect(unsafe_code, reason = "an allocator that counts has to be one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Request;
use muster_proto::fusion::{Limits, controller};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn peak_of(target: &str, body: String) -> (usize, usize) {
    let input = body.len();
    let request = Request::builder()
        .method("POST")
        .uri(target)
        .body(Bytes::from(body))
        .unwrap();
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let _ = controller::decode(&request, &Limits::default());
    (input, PEAK.load(Ordering::Relaxed) - before)
}

#[test]
fn decoding_allocates_at_most_eight_times_its_input() {
    let envelope = |query: &str, inside: &str| {
        format!(
            "<REQUEST><DEVICEID>a</DEVICEID><QUERY>{query}</QUERY><CONTENT>{inside}</CONTENT></REQUEST>"
        )
    };
    let many = 100_000;
    let distinct: String = (0..many).map(|n| format!("<a{n:x}/>")).collect();
    let cases = [
        ("elements", envelope("INVENTORY", &"<a/>".repeat(many))),
        ("distinct elements", envelope("INVENTORY", &distinct)),
        (
            "nested fields",
            envelope("INVENTORY", &"<A><B/></A>".repeat(many)),
        ),
        (
            "attributes",
            envelope("INVENTORY", &"<a b=\"\"/>".repeat(many)),
        ),
        (
            "text",
            envelope("INVENTORY", &format!("<a>{}</a>", "x".repeat(900_000))),
        ),
        ("latin-1", envelope("INVENTORY", &"<a>é</a>".repeat(many))),
        (
            "devices",
            envelope("NETDISCOVERY", &"<DEVICE><IP>1</IP></DEVICE>".repeat(128)),
        ),
        (
            "too many devices",
            envelope("NETDISCOVERY", &"<DEVICE/>".repeat(many)),
        ),
        (
            "equal signs",
            envelope("INVENTORY", &format!("<a>{}</a>", "=".repeat(900_000))),
        ),
        (
            "json array",
            format!(
                "{{\"deviceid\":\"a\",\"content\":{{\"versionclient\":\"v\",\"a\":[{}0]}}}}",
                "0,".repeat(many)
            ),
        ),
        (
            "json members",
            format!(
                "{{\"deviceid\":\"a\",\"content\":{{\"versionclient\":\"v\"{}}}}}",
                (0..9_990)
                    .map(|n| format!(",\"{n:x}\":0"))
                    .collect::<String>()
            ),
        ),
        ("json depth", "[".repeat(many)),
        (
            "json string",
            format!("{{\"deviceid\":\"{}\"}}", "\\u0041".repeat(many)),
        ),
    ];
    for (name, body) in cases {
        let (input, peak) = peak_of("/", body);
        let allowed = 8 * input + (64 << 10);
        assert!(
            peak <= allowed,
            "{name}: {peak} bytes for {input}, {allowed} allowed"
        );
    }
}
