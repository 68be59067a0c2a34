//! Bodies of the fuzz targets, one function for each decoder.
//!
//! Plain functions of bytes, so that cargo-fuzz explores them on nightly Rust and the stored corpus
//! replays through the same code as an ordinary test on stable Rust. A body panics when a decoder
//! does, or when a property beyond "no panic" does not hold.

pub mod agent;
pub mod fusion;
pub mod http;
pub mod pscheduler;
pub mod store;
pub mod teeth;
pub mod words;
pub mod zabbix;

/// A fuzz target: its name, which is also that of its corpus folder below `fuzz/corpus`, and its
/// body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by name.
pub const TARGETS: &[Target] = &[
    ("agent_item_key", agent::item_key),
    ("agent_policy", agent::policy),
    ("agent_spec", agent::spec),
    ("fusion_answer", fusion::answer),
    ("fusion_request", fusion::request),
    ("fusion_xml", fusion::xml),
    ("http_connection", http::connection),
    ("pscheduler_request", pscheduler::request),
    ("pscheduler_task", pscheduler::task),
    ("store_block", store::block),
    ("store_id_set", store::id_set),
    ("teeth_line", teeth::line),
    ("teeth_session", teeth::session),
    ("words", words::all),
    ("zabbix_frame", zabbix::frame),
    ("zabbix_json", zabbix::json),
];
