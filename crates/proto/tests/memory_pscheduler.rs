//! What decoding a pScheduler message may allocate: eight times its input and 64 KiB.
//!
//! A test binary of its own, as it replaces the allocator by one that counts.

#![expect(unsafe_code, reason = "counting allocations needs a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use http::{Request, Response};
use muster_proto::json::{JsonLimits, parse};
use muster_proto::pscheduler::agent;
use muster_proto::pscheduler::controller;
use muster_proto::pscheduler::wire::Limits;

struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.get().saturating_add(layout.size());
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
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

/// Asserts that `work` on an input of so many bytes holds at most what it may at any time.
fn bounded<T>(name: &str, input: usize, work: impl FnOnce() -> T) -> T {
    let before = LIVE.get();
    PEAK.set(before);
    let done = work();
    let peak = PEAK.get().saturating_sub(before);
    let allowed = 8 * input + (64 << 10);
    assert!(
        peak <= allowed,
        "{name}: {peak} bytes for {input}, {allowed} allowed"
    );
    done
}

/// JSON of the shapes that cost most for their length, of the length at which a tree is just taken
/// and far above it.
fn documents() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for count in [100, 1_000, 3_000, 20_000, 100_000] {
        let list = |item: &str| format!("[{}]", vec![item; count].join(","));
        let members = |count: usize, item: &str| {
            let members: Vec<_> = (0..count).map(|at| format!("\"{at:x}\":{item}")).collect();
            format!("{{{}}}", members.join(","))
        };
        for (name, text) in [
            ("numbers", list("0")),
            ("long numbers", list("1234567")),
            ("empty arrays", list("[]")),
            ("arrays", list("[0]")),
            ("empty objects", list("{}")),
            ("objects", list("{\"\":0}")),
            ("empty strings", list("\"\"")),
            ("short strings", list("\"abcdefgh\"")),
            ("escapes", list("\"\\u0041\\n\"")),
            ("one string", format!("\"{}\"", "x".repeat(count * 5))),
            ("one escaped", format!("\"{}\"", "\\n".repeat(count * 2))),
            ("members", members(count.min(9_999), "0")),
            ("wide objects", list(&members(13, "1"))),
            (
                "same member",
                format!("{{{}}}", vec!["\"a\":[0,0,0,0]"; count].join(",")),
            ),
            (
                "nested",
                list(&format!("{}{}", "[".repeat(60), "]".repeat(60))),
            ),
            (
                "nested objects",
                list(&format!("{}0{}", "{\"a\":".repeat(60), "}".repeat(60))),
            ),
            ("open arrays", "[".repeat(count)),
            ("cut", format!("[{}", "0,".repeat(count))),
        ] {
            if text.len() < 1 << 21 {
                all.push((format!("{count} {name}"), text));
            }
        }
    }
    all
}

fn request(method: &str, target: String, body: String) -> Request<Bytes> {
    Request::builder()
        .method(method)
        .uri(target)
        .header("Host", "ps1.example.net")
        .body(Bytes::from(body))
        .expect("request")
}

#[test]
fn a_document_stays_within_eight_times_its_text() {
    let limits = JsonLimits::default();
    let mut taken = 0;
    for (name, text) in documents() {
        taken += u32::from(bounded(&name, text.len(), || parse(&text, &limits)).is_ok());
    }
    assert!(taken > 35, "most of these are taken: {taken}");
}

#[test]
fn a_posted_task_stays_within_eight_times_its_body() {
    let limits = Limits::default();
    for (name, data) in documents() {
        let body =
            format!("{{\"#\":{data},\"test\":{{\"type\":\"noop\",\"spec\":{{\"data\":{data}}}}}}}");
        let input = body.len();
        let request = request("POST", "/pscheduler/tasks".to_owned(), body);
        let _ = bounded(&name, input, || controller::decode(&request, &limits));
    }
}

#[test]
fn a_query_stays_within_eight_times_the_target() {
    let limits = Limits::default();
    let parameters = "a&".repeat(30_000);
    let mut targets = vec![
        format!("/pscheduler/api?{parameters}"),
        format!("/pscheduler/api?{}", "%41=%42&".repeat(99)),
        format!("/pscheduler/{}", "a/".repeat(30_000)),
        format!("/pscheduler/{}", "%41".repeat(20_000)),
        format!(
            "/pscheduler/tests/idle/spec?args=[{}0]",
            "0,".repeat(30_000)
        ),
        format!("/pscheduler/tests/idle/spec?args=[{}0]", "0,".repeat(3_000)),
    ];
    let encoded = documents()
        .into_iter()
        .map(|(_, data)| -> String { form_urlencoded::byte_serialize(data.as_bytes()).collect() });
    for data in encoded.filter(|data| data.len() < 65_000) {
        targets.push(format!("/pscheduler/tests/noop/spec/is-valid?spec={data}"));
        targets.push(format!("/pscheduler/tasks?json={data}"));
        targets.push(format!("/pscheduler/tests/noop/spec?args={data}"));
    }
    for target in targets {
        let input = target.len();
        let name: String = target.chars().take(60).collect();
        let request = request("GET", target, String::new());
        let _ = bounded(&name, input, || controller::decode(&request, &limits));
    }
}

#[test]
fn what_another_server_answers_stays_within_eight_times_its_length() {
    let limits = Limits::default();
    for (name, data) in documents() {
        let body = format!("{{\"time\":{data},\"synchronized\":{data}}}");
        let input = body.len();
        let response = Response::builder()
            .status(200)
            .body(Bytes::from(body))
            .expect("response");
        let _ = bounded(&name, input, || agent::answer_clock(&response, &limits));
    }
}
