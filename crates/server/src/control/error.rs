//! The one error of the application. Each front turns it into its own protocol's words.

use std::error::Error;
use std::fmt;

use muster_store::StoreError;

/// What kind of trouble it is; a front chooses its status by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A bug of ours.
    Bug,
    /// It contradicts what is there.
    Conflict,
    /// What was asked makes no sense.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// A rule or a policy says no.
    Refused,
    /// Over a limit.
    TooMuch,
    /// Not now: the database is away or overloaded.
    Unavailable,
}

/// What failed, on what, why, and what to do next.
#[derive(Debug)]
pub struct ControlError {
    /// The kind of trouble.
    pub trouble: Trouble,
    /// A stable code, listed in `docs/errors.md`.
    pub code: &'static str,
    /// What failed, on what: a lower-case sentence without a full stop.
    pub title: String,
    /// Why, if there is more to say.
    pub detail: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ControlError {
    /// An error of the given kind.
    pub fn new(trouble: Trouble, code: &'static str, title: impl Into<String>) -> Self {
        Self {
            trouble,
            code,
            title: title.into(),
            detail: None,
            hint: None,
            source: None,
        }
    }

    /// Says why.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn next(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Keeps the error below.
    #[must_use]
    pub fn caused_by(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// There is no `what` called `name`.
    pub fn not_found(what: &'static str, name: &str) -> Self {
        let code = match what {
            "agent" => "AGENT_NOT_FOUND",
            "host" => "HOST_NOT_FOUND",
            "item" => "ITEM_NOT_FOUND",
            "run" => "RUN_NOT_FOUND",
            "task" => "TASK_NOT_FOUND",
            _ => "NOT_FOUND",
        };
        let shown: String = name.chars().take(128).collect();
        Self::new(
            Trouble::NotFound,
            code,
            format!("there is no {what} {shown:?}"),
        )
        .next(format!("`muster {what} list` shows those there are"))
    }

    /// What was asked makes no sense.
    pub fn invalid(code: &'static str, title: impl Into<String>) -> Self {
        Self::new(Trouble::Invalid, code, title)
    }

    /// Title, detail and the chain of causes in one line, for logs.
    pub fn chain(&self) -> String {
        let mut text = self.title.clone();
        if let Some(detail) = &self.detail {
            text.push_str(": ");
            text.push_str(detail);
        }
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl Error for ControlError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Inconsistent { .. }) {
            return Self::new(
                Trouble::Bug,
                "INTERNAL",
                "the database holds a row that makes no sense",
            )
            .next("report this with the server's log of this moment")
            .caused_by(error);
        }
        Self::new(
            Trouble::Unavailable,
            "DATABASE_UNAVAILABLE",
            "the database did not answer",
        )
        .next("try again; `muster server check` tells whether the database can be reached")
        .caused_by(error)
    }
}

/// Short for results of [`super::Control`].
pub type Result<T, E = ControlError> = std::result::Result<T, E>;
