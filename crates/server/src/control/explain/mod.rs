//! "Why did nothing happen?": walks the recorded chain and ends in one next action.
//!
//! What was decided is read, once for each subject, and never decided again here. The modules have
//! the chains of one kind of subject each.

mod agent;
mod host;
mod work;

use std::fmt;

use jiff::Timestamp;
use muster_core::words;
use muster_store::journal::{self, Decision, Refusal};

use super::Control;
use super::error::Result;

words! {
    /// What is to be explained.
    pub enum Subject("subject") {
        /// An agent, or an address or name that never became one.
        Agent = "agent",
        /// A machine.
        Host = "host",
        /// Something sampled.
        Item = "item",
        /// One execution.
        Run = "run",
        /// An intent.
        Task = "task",
    }
}

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it was decided or seen; `None` for what holds now.
    pub at: Option<Timestamp>,
    /// What was checked.
    pub check: String,
    /// Whether it lets things go on; `None` where it neither does nor does not.
    pub ok: Option<bool>,
    /// In a sentence.
    pub detail: String,
}

/// The chain, what it comes to, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What is explained.
    pub subject: Subject,
    /// Its id; empty for a peer that never became anything.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// The chain in order.
    pub steps: Vec<Step>,
    /// What it comes to, in a sentence.
    pub verdict: String,
    /// The one next action.
    pub next: String,
}

/// Builds a chain; the first broken link gives the verdict.
struct Chain {
    steps: Vec<Step>,
    broken: Option<(String, String)>,
}

impl Chain {
    fn new() -> Self {
        Self {
            steps: Vec::new(),
            broken: None,
        }
    }

    fn note(
        &mut self,
        at: Option<Timestamp>,
        check: &str,
        ok: Option<bool>,
        detail: impl Into<String>,
    ) {
        self.steps.push(Step {
            at,
            check: check.to_owned(),
            ok,
            detail: detail.into(),
        });
    }

    /// A link that holds, or is broken with a verdict and a next action.
    fn link(
        &mut self,
        at: Option<Timestamp>,
        check: &str,
        outcome: Result<String, (String, String)>,
    ) {
        match outcome {
            Ok(detail) => self.note(at, check, Some(true), detail),
            Err((why, next)) => {
                self.note(at, check, Some(false), why.clone());
                self.broken.get_or_insert((why, next));
            }
        }
    }

    fn end(
        self,
        subject: Subject,
        id: String,
        name: String,
        fine: &str,
        nothing: &str,
    ) -> Explanation {
        let (verdict, next) = self
            .broken
            .unwrap_or_else(|| (fine.to_owned(), nothing.to_owned()));
        Explanation {
            subject,
            id,
            name,
            steps: self.steps,
            verdict,
            next,
        }
    }
}

impl Control {
    /// Walks the chain of a subject, by id, unique prefix or name.
    ///
    /// # Errors
    /// Not found. An agent that is unknown is explained by what its address or name was refused.
    pub async fn explain(&self, subject: Subject, name: &str) -> Result<Explanation> {
        self.flush_refusals().await?;
        match subject {
            Subject::Agent => self.explain_agent(name).await,
            Subject::Host => self.explain_host(name).await,
            Subject::Item => self.explain_item(name).await,
            Subject::Run => {
                let view = self.find_run(name).await?;
                self.explain_run(view).await
            }
            Subject::Task => {
                let view = self.find_task(name).await?;
                self.explain_task(view).await
            }
        }
    }

    /// The latest word of each check of a subject: `decisions("task", id)`.
    async fn decisions(&self, subject: &str, id: impl fmt::Display) -> Result<Vec<Decision>> {
        let subject = format!("{subject}:{id}");
        Ok(self
            .inner
            .store
            .read(move |tx| journal::decisions(tx, &subject))
            .await?)
    }

    /// What an address or a peer of that name was refused, newest first.
    async fn refusals_of(&self, name: &str) -> Result<Vec<Refusal>> {
        let name = name.to_owned();
        Ok(self
            .inner
            .store
            .read(move |tx| journal::refusals_of(tx, &name))
            .await?)
    }
}

/// A number of times in words.
fn times(n: i64) -> String {
    match n {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    }
}
