//! The inventory of this machine, without any program's help: the kind `inventory`.
//!
//! The result is the content of a FusionInventory document in its JSON shape: sections of the
//! FusionInventory contract, section 8.2, in lower case, lists even for one entry, whole numbers
//! and booleans as such, dates `YYYY-MM-DD[ HH:MM:SS]`. A section about which the machine tells
//! nothing is left out. Everything is read below a root, so that a tree of files stands for a
//! machine.
//!
//! Environment variables are not reported: they hold secrets.

mod accounts;
mod devices;
mod machine;
mod network;
mod processes;
mod smbios;
mod software;
mod storage;
mod tree;

use std::path::Path;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

pub use network::{InterfaceAddress, system_addresses};

use super::spec::Members;
use super::{Context, Failure, Outcome, SpecError, Tool};
use crate::policy::ActionClass;
use tree::Tree;

/// How the agent calls itself in inventories.
pub const CLIENT: &str = concat!("Muster-Agent_v", env!("CARGO_PKG_VERSION"));

/// The tool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inventory;

impl Tool for Inventory {
    fn kind(&self) -> &'static str {
        "inventory"
    }

    fn class(&self, _: &Value) -> ActionClass {
        ActionClass::Observe
    }

    fn check(&self, spec: &Value) -> Result<(), SpecError> {
        left_out(spec).map(drop)
    }

    fn run<'a>(&'a self, ctx: Context, spec: Value) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let left_out = left_out(&spec).map_err(|error| Failure::failed(error.to_string()))?;
            let now = ctx.clock.now();
            let root = ctx.root.clone();
            let work = tokio::task::spawn_blocking(move || {
                let is_real = root == Path::new("/");
                let addresses = if is_real {
                    system_addresses()
                } else {
                    Vec::new()
                };
                collect(&root, &addresses, now, &left_out)
            });
            tokio::select! {
                done = work => done.map_err(|_| Failure::failed("reading the machine failed")),
                () = ctx.cancel.cancelled() => Err(Failure::cancelled()),
            }
        })
    }
}

/// Categories that the spec leaves out: a list, or one text with commas (FusionInventory
/// contract, section 11, quirk 11).
fn left_out(spec: &Value) -> Result<Vec<String>, SpecError> {
    let members = Members::of(spec, "")?;
    let mut categories = Vec::new();
    for value in members.list("no-category") {
        let Value::String(text) = value else {
            return Err(members.wrong("no-category", "is not a list of strings"));
        };
        categories.extend(text.split(',').map(|name| name.trim().to_lowercase()));
    }
    Ok(categories)
}

/// Describes the machine below `root`. Blocks on many small files.
///
/// `addresses` are those of its interfaces, which no file lists; `left_out` are categories of the
/// FusionInventory contract, section 8.1.
#[must_use]
pub fn collect(
    root: &Path,
    addresses: &[InterfaceAddress],
    now: Timestamp,
    left_out: &[String],
) -> Value {
    let tree = Tree::new(root);
    let zone = machine::zone(tree);
    let mut content = Map::new();
    let mut add = |category: &str, section: &str, read: &dyn Fn() -> Value| {
        if left_out.iter().any(|name| name == category) {
            return;
        }
        let value = read();
        let is_empty = value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(Map::is_empty);
        if !is_empty {
            content.insert(section.to_owned(), value);
        }
    };
    add(
        "accesslog",
        "accesslog",
        &|| json!({ "logdate": machine::stamp(now, &zone.1) }),
    );
    add("hardware", "hardware", &|| machine::hardware(tree, &zone.1));
    add("bios", "bios", &|| machine::bios(tree));
    add("os", "operatingsystem", &|| {
        machine::operating_system(tree, &zone, now)
    });
    add("cpu", "cpus", &|| machine::cpus(tree));
    add("memory", "memories", &|| machine::memories(tree));
    add("storage", "storages", &|| storage::storages(tree));
    add("drive", "drives", &|| storage::drives(tree));
    add("network", "networks", &|| {
        network::networks(tree, addresses)
    });
    add("controller", "controllers", &|| devices::controllers(tree));
    add("usb", "usbdevices", &|| devices::usb(tree));
    add("software", "softwares", &|| {
        software::softwares(tree, &zone.1)
    });
    add("process", "processes", &|| {
        processes::processes(tree, &zone.1, now)
    });
    add("user", "users", &|| accounts::users(tree));
    add("local_user", "local_users", &|| accounts::local_users(tree));
    add("local_group", "local_groups", &|| {
        accounts::local_groups(tree)
    });
    content.insert("versionclient".to_owned(), json!(CLIENT));
    content.insert(
        "versionprovider".to_owned(),
        json!({ "name": "Muster", "version": env!("CARGO_PKG_VERSION") }),
    );
    Value::Object(content)
}

#[cfg(test)]
mod tests;
