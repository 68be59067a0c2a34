//! Sections about people: `users`, `local_users`, `local_groups`, and the last login.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::tree::{Entry, Tree, clean};

/// Bytes of one record of `utmp` and `wtmp` on 64-bit Linux.
const RECORD_BYTES: usize = 384;
/// Type of the record of a session of a user.
const USER_PROCESS: i16 = 7;

/// One login.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) at: Timestamp,
}

fn logins(records: &[u8]) -> impl DoubleEndedIterator<Item = Login> + '_ {
    records.chunks_exact(RECORD_BYTES).filter_map(|record| {
        let kind = i16::from_le_bytes(record.get(0..2)?.try_into().ok()?);
        let user = record.get(44..76)?.split(|byte| *byte == 0).next()?;
        let seconds = i32::from_le_bytes(record.get(340..344)?.try_into().ok()?);
        let user = clean(&String::from_utf8_lossy(user))?;
        let at = Timestamp::from_second(i64::from(seconds)).ok()?;
        (kind == USER_PROCESS).then_some(Login { user, at })
    })
}

pub(super) fn last_login(tree: Tree<'_>) -> Option<Login> {
    logins(&tree.bytes("var/log/wtmp")?).next_back()
}

/// Who is logged in now, each once.
pub(super) fn users(tree: Tree<'_>) -> Value {
    let records = tree
        .bytes("run/utmp")
        .or_else(|| tree.bytes("var/run/utmp"))
        .unwrap_or_default();
    let mut names = logins(&records).map(|login| login.user).collect::<Vec<_>>();
    names.sort();
    names.dedup();
    let entries = names.into_iter().map(|name| {
        let mut entry = Entry::default();
        entry.put("login", name);
        entry.done()
    });
    Value::Array(entries.collect())
}

pub(super) fn local_users(tree: Tree<'_>) -> Value {
    let passwd = tree.text("etc/passwd").unwrap_or_default();
    let entries = passwd.lines().filter_map(|line| {
        let [login, _, id, _, name, home, shell] =
            <[&str; 7]>::try_from(line.split(':').collect::<Vec<_>>()).ok()?;
        if login.starts_with(['+', '-', '#']) {
            return None;
        }
        let mut entry = Entry::default();
        entry
            .put("id", id)
            .put("login", login)
            .maybe("name", clean(name))
            .maybe("home", clean(home))
            .maybe("shell", clean(shell));
        Some(entry.done())
    });
    Value::Array(entries.collect())
}

/// Groups that list members.
pub(super) fn local_groups(tree: Tree<'_>) -> Value {
    let groups = tree.text("etc/group").unwrap_or_default();
    let entries = groups.lines().filter_map(|line| {
        let [name, _, id, members] =
            <[&str; 4]>::try_from(line.split(':').collect::<Vec<_>>()).ok()?;
        let members = members.split(',').filter_map(clean).collect::<Vec<_>>();
        if members.is_empty() {
            return None;
        }
        let mut entry = Entry::default();
        entry
            .put("id", id)
            .put("name", name)
            .put("members", members);
        Some(entry.done())
    });
    Value::Array(entries.collect())
}

/// User names by number.
pub(super) fn names(tree: Tree<'_>) -> BTreeMap<u32, String> {
    let passwd = tree.text("etc/passwd").unwrap_or_default();
    let mut names = BTreeMap::new();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(id))) = (fields.next(), fields.nth(1).map(str::parse)) {
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    pub(in super::super) fn record(kind: i16, user: &str, seconds: i32) -> Vec<u8> {
        let mut bytes = vec![0; RECORD_BYTES];
        bytes[0..2].copy_from_slice(&kind.to_le_bytes());
        bytes[44..44 + user.len()].copy_from_slice(user.as_bytes());
        bytes[340..344].copy_from_slice(&seconds.to_le_bytes());
        bytes
    }

    #[test]
    fn sessions_of_users_only() {
        let mut records = record(2, "reboot", 1);
        records.extend(record(USER_PROCESS, "ann", 100));
        records.extend(record(8, "", 150));
        records.extend(record(USER_PROCESS, "bob", 200));
        records.extend([0; 100]);
        let found = logins(&records).map(|login| login.user).collect::<Vec<_>>();
        assert_eq!(found, ["ann", "bob"]);
        assert_eq!(logins(&records).next_back().unwrap().at.as_second(), 200);
        assert_eq!(logins(&[]).count(), 0);
    }
}
