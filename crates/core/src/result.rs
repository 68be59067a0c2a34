//! What came out of a run, and what an agent says on the way there.

use jiff::SignedDuration;

use crate::run::Progress;

/// What came out of a run. The result is JSON in the words of the kind, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the work came off.
    pub succeeded: bool,
    /// The result, a JSON value as text.
    pub result: Option<String>,
    /// Why it failed, or what the tool had to say.
    pub diags: Option<String>,
}

impl Outcome {
    /// The work came off.
    pub fn success(result: impl Into<String>) -> Self {
        Self {
            succeeded: true,
            result: Some(result.into()),
            diags: None,
        }
    }

    /// The work did not come off.
    pub fn failure(why: impl Into<String>) -> Self {
        Self {
            succeeded: false,
            result: None,
            diags: Some(why.into()),
        }
    }
}

/// One word of an agent about a run it holds.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// It began.
    Began,
    /// It goes on.
    Progress(Progress),
    /// A part of the result: one device found, one answer; a JSON value as text.
    Part(String),
    /// It is over. A kind whose result comes in parts gives none here.
    Finished(Outcome),
    /// The agent will not do it: its own policy, a capability it lacks.
    Declined {
        /// The agent's words.
        reason: String,
    },
}

impl News {
    /// Progress in percent.
    pub fn percent(percent: f64, eta: Option<SignedDuration>) -> Self {
        Self::Progress(Progress {
            percent: Some(percent),
            eta,
        })
    }
}
