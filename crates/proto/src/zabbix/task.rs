//! Tasks a server gives to a proxy, and their results.
//!
//! Only the wire: whether a command may run is the agent's policy, whether a result counts is the
//! server's lease. Contract: Zabbix page, section 7, with the obsolete numbers of the published
//! description understood on the way in and never sent.

use std::borrow::Cow;

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::data::{Raw, clock};
use super::json::{BadField, Num, Text};

/// One entry of a `tasks` section, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEntry<'a> {
    /// Type 6: collect an item now. Nothing comes back.
    CheckNow(CheckNow),
    /// Type 7: a question about the proxy itself.
    Data(Box<DataTask<'a>>),
    /// Type 2, in the published description 1: run a command.
    RemoteCommand(Box<RemoteCommand<'a>>),
    /// Types 3 and 8, in the published description 0 or none: what came of a task.
    Result(Box<TaskResult<'a>>),
    /// A type this build does not know.
    Unknown {
        /// The type.
        kind: u64,
        /// The task to answer, if it says one.
        parent_taskid: Option<u64>,
    },
}

/// Collect an item now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckNow {
    /// Creation, seconds.
    pub clock: i64,
    /// Seconds, 0 for no limit.
    pub ttl: u64,
    /// The item as numbered in the configuration.
    pub itemid: u64,
}

/// A question about the proxy itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataTask<'a> {
    /// Creation, seconds.
    pub clock: i64,
    /// Seconds.
    pub ttl: u64,
    /// 0 test an item, 1 diagnostic information, 4 reload the configuration.
    pub datatype: u64,
    /// Echoed in the result.
    pub parent_taskid: u64,
    /// JSON in a string, maybe empty.
    pub data: Cow<'a, str>,
}

/// Run a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteCommand<'a> {
    /// Creation, seconds.
    pub clock: i64,
    /// Seconds.
    pub ttl: u64,
    /// 0 script, 1 IPMI, 2 SSH, 3 Telnet.
    pub commandtype: u64,
    /// The command text.
    pub command: Cow<'a, str>,
    /// 0 on the agent, 1 on the server, 2 on the proxy.
    pub execute_on: u64,
    /// 0 for the default.
    pub port: u64,
    /// SSH: 0 password, 1 public key.
    pub authtype: u64,
    /// SSH and Telnet.
    pub username: Cow<'a, str>,
    /// SSH and Telnet.
    pub password: Cow<'a, str>,
    /// SSH.
    pub publickey: Cow<'a, str>,
    /// SSH.
    pub privatekey: Cow<'a, str>,
    /// Not 0 when nobody waits for output.
    pub alertid: u64,
    /// Echoed in the result.
    pub parent_taskid: u64,
    /// The host it is for.
    pub hostid: u64,
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskResult<'a> {
    /// Whether a data task (8) or a command (3) is answered.
    pub of_data: bool,
    /// Completion, seconds; 0 when not told.
    pub clock: i64,
    /// The task's id, as the server gave it.
    pub parent_taskid: u64,
    /// 0 for success.
    pub status: i64,
    /// Output, JSON, or why it failed.
    pub info: Cow<'a, str>,
}

impl TaskResult<'_> {
    /// Whether the task did what it was for.
    pub fn succeeded(&self) -> bool {
        self.status == 0
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawTask<'a> {
    r#type: Num,
    clock: Num,
    ttl: Num,
    status: Num,
    #[serde(borrow)]
    info: Text<'a>,
    #[serde(borrow)]
    error: Text<'a>,
    parent_taskid: Num,
    itemid: Num,
    datatype: Num,
    #[serde(borrow)]
    data: Text<'a>,
    commandtype: Num,
    #[serde(borrow)]
    command: Text<'a>,
    execute_on: Num,
    port: Num,
    authtype: Num,
    #[serde(borrow)]
    username: Text<'a>,
    #[serde(borrow)]
    password: Text<'a>,
    #[serde(borrow)]
    publickey: Text<'a>,
    #[serde(borrow)]
    privatekey: Text<'a>,
    alertid: Num,
    hostid: Num,
}

impl<'de> Raw<'de> for RawTask<'de> {
    type Row = TaskEntry<'de>;

    fn check(self) -> Result<TaskEntry<'de>, BadField> {
        let created = clock(self.clock)?.unwrap_or(0);
        let ttl = self.ttl.unsigned()?.unwrap_or(0);
        let parent = self.parent_taskid.unsigned()?;
        match self.r#type.unsigned()? {
            None | Some(0 | 3 | 8) => {
                let error = self.error.text()?;
                // The published description reports a failure by `error` alone.
                let status = match (self.status.signed()?, &error) {
                    (Some(status), _) => status,
                    (None, Some(_)) => -1,
                    (None, None) => return Err(BadField),
                };
                Ok(TaskEntry::Result(Box::new(TaskResult {
                    of_data: self.r#type == Num::Unsigned(8),
                    clock: created,
                    parent_taskid: parent.ok_or(BadField)?,
                    status,
                    info: self.info.text()?.or(error).unwrap_or_default(),
                })))
            }
            Some(1 | 2) => Ok(TaskEntry::RemoteCommand(Box::new(RemoteCommand {
                clock: created,
                ttl,
                commandtype: self.commandtype.unsigned()?.ok_or(BadField)?,
                command: self.command.text()?.ok_or(BadField)?,
                execute_on: self.execute_on.unsigned()?.unwrap_or(0),
                port: self.port.unsigned()?.unwrap_or(0),
                authtype: self.authtype.unsigned()?.unwrap_or(0),
                username: self.username.text()?.unwrap_or_default(),
                password: self.password.text()?.unwrap_or_default(),
                publickey: self.publickey.text()?.unwrap_or_default(),
                privatekey: self.privatekey.text()?.unwrap_or_default(),
                alertid: self.alertid.unsigned()?.unwrap_or(0),
                parent_taskid: parent.ok_or(BadField)?,
                hostid: self.hostid.unsigned()?.ok_or(BadField)?,
            }))),
            Some(6) => Ok(TaskEntry::CheckNow(CheckNow {
                clock: created,
                ttl,
                itemid: self.itemid.unsigned()?.ok_or(BadField)?,
            })),
            Some(7) => Ok(TaskEntry::Data(Box::new(DataTask {
                clock: created,
                ttl,
                datatype: self.datatype.unsigned()?.ok_or(BadField)?,
                parent_taskid: parent.ok_or(BadField)?,
                data: self.data.text()?.unwrap_or_default(),
            }))),
            Some(kind) => Ok(TaskEntry::Unknown {
                kind,
                parent_taskid: parent,
            }),
        }
    }
}

impl Serialize for TaskEntry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::CheckNow(task) => {
                head(&mut map, 6, task.clock, task.ttl)?;
                map.serialize_entry("itemid", &task.itemid)?;
            }
            Self::Data(task) => {
                head(&mut map, 7, task.clock, task.ttl)?;
                map.serialize_entry("datatype", &task.datatype)?;
                map.serialize_entry("parent_taskid", &task.parent_taskid)?;
                map.serialize_entry("data", &task.data)?;
            }
            Self::RemoteCommand(task) => {
                head(&mut map, 2, task.clock, task.ttl)?;
                map.serialize_entry("commandtype", &task.commandtype)?;
                map.serialize_entry("command", &task.command)?;
                map.serialize_entry("execute_on", &task.execute_on)?;
                map.serialize_entry("port", &task.port)?;
                map.serialize_entry("authtype", &task.authtype)?;
                map.serialize_entry("username", &task.username)?;
                map.serialize_entry("password", &task.password)?;
                map.serialize_entry("publickey", &task.publickey)?;
                map.serialize_entry("privatekey", &task.privatekey)?;
                map.serialize_entry("alertid", &task.alertid)?;
                map.serialize_entry("parent_taskid", &task.parent_taskid)?;
                map.serialize_entry("hostid", &task.hostid)?;
            }
            Self::Result(result) => {
                head(
                    &mut map,
                    if result.of_data { 8 } else { 3 },
                    result.clock,
                    0,
                )?;
                map.serialize_entry("status", &result.status)?;
                map.serialize_entry("info", &result.info)?;
                map.serialize_entry("parent_taskid", &result.parent_taskid)?;
            }
            Self::Unknown {
                kind,
                parent_taskid,
            } => {
                map.serialize_entry("type", kind)?;
                super::data::entry(&mut map, "parent_taskid", parent_taskid.as_ref())?;
            }
        }
        map.end()
    }
}

fn head<M: SerializeMap>(map: &mut M, kind: u64, clock: i64, ttl: u64) -> Result<(), M::Error> {
    map.serialize_entry("type", &kind)?;
    map.serialize_entry("clock", &clock)?;
    map.serialize_entry("ttl", &ttl)
}

#[cfg(test)]
mod tests {
    use super::super::data::RowsOf;
    use super::*;

    fn tasks(json: &str) -> (Vec<TaskEntry<'_>>, u64) {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let rows = RowsOf::<RawTask<'_>>::deserialize(&mut deserializer).unwrap();
        (rows.rows, rows.bad)
    }

    #[test]
    fn results_in_every_form_ever_published() {
        let (rows, bad) = tasks(
            r#"[{"type":3,"clock":5,"ttl":0,"status":0,"info":"out\n","parent_taskid":1},
            {"type":8,"status":-1,"info":"Unknown task.","parent_taskid":2},
            {"status":0,"parent_taskid":3},
            {"type":0,"error":"No permissions to execute task.","parent_taskid":4},
            {"type":0,"status":1,"error":"no","parent_taskid":5},
            {"parent_taskid":6},{"status":0},{"type":3,"status":"x","parent_taskid":7}]"#,
        );
        let short: Vec<_> = rows
            .iter()
            .map(|row| {
                let TaskEntry::Result(result) = row else {
                    panic!("{row:?}")
                };
                (
                    result.parent_taskid,
                    result.status,
                    result.info.as_ref(),
                    result.of_data,
                )
            })
            .collect();
        let wanted = [
            (1, 0, "out\n", false),
            (2, -1, "Unknown task.", true),
            (3, 0, "", false),
            (4, -1, "No permissions to execute task.", false),
            (5, 1, "no", false),
        ];
        assert_eq!((short.as_slice(), bad), (wanted.as_slice(), 3));
    }

    #[test]
    fn tasks_encode_as_real_servers_write_them() {
        let json = concat!(
            r#"[{"type":2,"clock":5,"ttl":600,"commandtype":0,"command":"echo","execute_on":2,"port":0,"#,
            r#""authtype":0,"username":"","password":"","publickey":"","privatekey":"","alertid":0,"#,
            r#""parent_taskid":101,"hostid":20010},{"type":6,"clock":5,"ttl":0,"itemid":930001},"#,
            r#"{"type":7,"clock":5,"ttl":30,"datatype":1,"parent_taskid":106,"data":"{}"},"#,
            r#"{"type":3,"clock":5,"ttl":0,"status":-1,"info":"Unknown host.","parent_taskid":108},"#,
            r#"{"type":9,"parent_taskid":1}]"#
        );
        let (rows, bad) = tasks(json);
        assert_eq!(bad, 0);
        assert_eq!(serde_json::to_string(&rows).unwrap(), json);
    }

    #[test]
    fn obsolete_command_numbers_are_understood_and_never_sent() {
        let (rows, bad) = tasks(
            r#"[{"type":1,"clock":5,"ttl":600,"commandtype":2,"command":"c","execute_on":2,
            "parent_taskid":10,"hostid":7},{"type":2,"command":"c"}]"#,
        );
        assert_eq!(bad, 1);
        assert!(
            serde_json::to_string(&rows[0])
                .unwrap()
                .starts_with(r#"{"type":2,"#)
        );
    }
}
