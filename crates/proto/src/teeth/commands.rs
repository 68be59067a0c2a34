//! The commands of teeth: names in every spelling, parameters, reports of tasks.
//!
//! Names and required parameters are those of the contract, sections 5-7 and 9. Parsing happens once
//! here, into types that cannot be wrong; a missing or senseless parameter is a [`BadParams`] with
//! the text the original peers use. What a command does is not known here.

mod hello;
mod report;
mod spellings;

use super::json::Json;
use super::wire::{Command, Limits};

pub use hello::{Hello, Token, Welcome};
pub use report::{LogLine, Report, TaskState};
pub use spellings::Spellings;

/// A known command with parameters that do not do. Not fatal: it becomes an error response (the
/// endpoint's handshake excepted).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadParams {
    /// `image_ids` of `cache_images` is no list.
    #[error("\"image_ids\" must be a list")]
    ImageIdsNotList,
    /// Any other parameter that is out of its range or of the wrong kind.
    #[error("\"{name}\" must be {want}")]
    Invalid {
        /// The parameter.
        name: &'static str,
        /// What would do.
        want: &'static str,
    },
    /// A required parameter is absent; the first in declared order.
    #[error("missing parameter \"{name}\" in \"{method}\" command")]
    Missing {
        /// The parameter.
        name: &'static str,
        /// The method, as the peer spelled it.
        method: String,
    },
    /// A report with another state than the three.
    #[error("invalid task state")]
    TaskState,
}

fn missing(name: &'static str, method: &str) -> BadParams {
    BadParams::Missing {
        name,
        method: method.to_owned(),
    }
}

const INVALID_TASK_ID: BadParams = BadParams::Invalid {
    name: "task_id",
    want: "a string of 1 to 256 bytes",
};

/// Work that an agent may be told to do as a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// `decom.disk_erase`: erase all attached block devices.
    DiskErase,
    /// `decom.firmware_secure`: bring firmware to wanted versions.
    FirmwareSecure,
    /// `decom.qc`: say what the machine is made of and compare it with a specification.
    Qc,
    /// `standbye.cache_images`.
    CacheImages,
    /// `standbye.prepare_image`.
    PrepareImage,
    /// `standbye.run_image`.
    RunImage,
    /// `muster.run`: any kind of work Muster knows, sent only to an agent that lists it.
    Run,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 7] = [
        Self::DiskErase,
        Self::FirmwareSecure,
        Self::Qc,
        Self::CacheImages,
        Self::PrepareImage,
        Self::RunImage,
        Self::Run,
    ];

    /// The method names it goes by, the one of the published text first. Three of them were renamed
    /// twice in the code (teeth contract, section 6).
    pub fn spellings(self) -> &'static [&'static str] {
        match self {
            Self::DiskErase => &["decom.disk_erase"],
            Self::FirmwareSecure => &["decom.firmware_secure"],
            Self::Qc => &["decom.qc"],
            Self::CacheImages => &[
                "standbye.cache_images",
                "standby.cache_images",
                "cache_images",
            ],
            Self::PrepareImage => &[
                "standbye.prepare_image",
                "standby.prepare_image",
                "prepare_image",
            ],
            Self::RunImage => &["standbye.run_image", "standby.run_image", "run_image"],
            Self::Run => &["muster.run"],
        }
    }

    /// The name in the published text.
    pub fn name(self) -> &'static str {
        self.spellings().first().copied().unwrap_or_default()
    }

    /// Reads any spelling.
    pub fn of(method: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|verb| verb.spellings().contains(&method))
    }

    /// Whether two of its kind must not run at once on one machine (teeth contract, rule 7.7).
    pub fn is_destructive(self) -> bool {
        match self {
            Self::DiskErase | Self::FirmwareSecure | Self::PrepareImage | Self::RunImage => true,
            Self::CacheImages | Self::Qc | Self::Run => false,
        }
    }
}

/// A task as the server orders it.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskCall {
    /// The server's name for it: opaque, 1 to 256 bytes.
    pub task_id: String,
    /// What is to be done.
    pub verb: Verb,
    /// The spelling that was used.
    pub method: String,
    /// All parameters, `task_id` included.
    pub params: Json,
}

/// A command for an agent, its parameters judged.
#[derive(Clone, Debug, PartialEq)]
pub enum ToAgent {
    /// `muster.cancel`: stop a task.
    Cancel {
        /// The task.
        task_id: String,
    },
    /// `ping`: echo the parameters.
    Ping,
    /// `status`: say how you are.
    Status,
    /// Any of the task commands.
    Task(TaskCall),
}

impl ToAgent {
    /// The method that stops a task, of Muster's own name space.
    pub const CANCEL: &'static str = "muster.cancel";

    /// Judges a command for an agent. `None`: no such method.
    ///
    /// # Errors
    /// The error response that bad parameters deserve.
    pub fn read(command: &Command, limits: &Limits) -> Result<Option<Self>, BadParams> {
        let Some(method) = command.method.as_text() else {
            return Ok(None);
        };
        Ok(Some(match method.as_str() {
            "ping" => Self::Ping,
            "status" => Self::Status,
            Self::CANCEL => Self::Cancel {
                task_id: task_id(&command.params, &method, limits)?,
            },
            _ => match Verb::of(&method) {
                Some(verb) => Self::Task(TaskCall::read(verb, method, &command.params, limits)?),
                None => return Ok(None),
            },
        }))
    }
}

impl TaskCall {
    fn read(verb: Verb, method: String, params: &Json, limits: &Limits) -> Result<Self, BadParams> {
        let task_id = task_id(params, &method, limits)?;
        match verb {
            Verb::DiskErase | Verb::FirmwareSecure | Verb::Qc => {}
            Verb::CacheImages => {
                let [ids] = params.members(["image_ids"]);
                let ids = ids.ok_or_else(|| missing("image_ids", &method))?;
                if !ids.as_str().starts_with('[') {
                    return Err(BadParams::ImageIdsNotList);
                }
            }
            Verb::PrepareImage | Verb::RunImage => {
                let [id, image, info] = params.members(["image_id", "image", "image_info"]);
                let image = id
                    .or(image)
                    .or(info)
                    .ok_or_else(|| missing("image_id", &method))?;
                if image.is_falsy() || !image.as_str().starts_with(['"', '{']) {
                    let want = "a string or an object";
                    return Err(BadParams::Invalid {
                        name: "image_id",
                        want,
                    });
                }
            }
            Verb::Run => {
                let [kind, spec] = params.members(["kind", "spec"]);
                let kind = kind.ok_or_else(|| missing("kind", &method))?;
                if kind.as_text().is_none_or(|kind| kind.is_empty()) {
                    return Err(BadParams::Invalid {
                        name: "kind",
                        want: "a non-empty string",
                    });
                }
                let spec = spec.ok_or_else(|| missing("spec", &method))?;
                if !spec.is_object() {
                    return Err(BadParams::Invalid {
                        name: "spec",
                        want: "an object",
                    });
                }
            }
        }
        Ok(Self {
            task_id,
            verb,
            method,
            params: params.clone(),
        })
    }
}

fn task_id(params: &Json, method: &str, limits: &Limits) -> Result<String, BadParams> {
    let [id] = params.members(["task_id"]);
    let id = id
        .ok_or_else(|| missing("task_id", method))?
        .as_text()
        .ok_or(INVALID_TASK_ID)?;
    if id.is_empty() || id.len() > limits.task_id_bytes {
        return Err(INVALID_TASK_ID);
    }
    Ok(id)
}

/// A command for a server, its parameters judged.
#[derive(Clone, Debug, PartialEq)]
pub enum FromAgent {
    /// `handshake`: who the agent is.
    Handshake(Hello),
    /// `log`: a line of the agent's log.
    Log(LogLine),
    /// `ping`: echo the parameters.
    Ping,
    /// `task_status`: news of a task.
    TaskStatus(Report),
}

impl FromAgent {
    /// Judges a command for a server. `None`: no such method.
    ///
    /// # Errors
    /// The error response that bad parameters deserve; for `handshake` it is fatal.
    pub fn read(command: &Command, limits: &Limits) -> Result<Option<Self>, BadParams> {
        Ok(match command.method.as_text().as_deref() {
            Some("handshake") => Some(Self::Handshake(Hello::read(&command.params, limits)?)),
            Some("log") => Some(Self::Log(LogLine::read(&command.params)?)),
            Some("ping") => Some(Self::Ping),
            Some("task_status") => Some(Self::TaskStatus(Report::read(&command.params, limits)?)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
