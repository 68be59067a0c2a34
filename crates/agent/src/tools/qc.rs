//! `decom.qc`: what a machine is made of, compared with what it should be made of.
//!
//! Facts are read from `/proc` and `/sys` of the context's root, never from the output of programs
//! (teeth contract, sections 11.1 and 11.4). What a machine does not tell is `null`, never guessed.
//! Benchmarks and burn-in are refused: this tool observes and never loads a machine. Drive health
//! (SMART) needs commands to the drive and is therefore `null` too.
//!
//! The result is `{"facts": {…}, "checks": […], "overall": "pass|fail|unknown|none"}`; a check that
//! fails ends the task as failed with the whole report attached.

mod compare;
mod facts;
mod smbios;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Context, Failure, Outcome, SpecError, Tool};
use crate::policy::ActionClass;

pub use facts::collect;

/// The tool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Qc;

impl Tool for Qc {
    fn kind(&self) -> &'static str {
        "decom.qc"
    }

    fn class(&self, _: &Value) -> ActionClass {
        ActionClass::Observe
    }

    fn check(&self, spec: &Value) -> Result<(), SpecError> {
        if !spec.is_object() {
            return Err(SpecError::at("/", "must be an object"));
        }
        for member in ["benchmarks", "burn_in"] {
            match spec.get(member) {
                None | Some(Value::Null | Value::Bool(false)) => {}
                Some(_) => {
                    let path = format!("/{member}");
                    return Err(SpecError::at(
                        path,
                        "this agent only observes; leave it out",
                    ));
                }
            }
        }
        match spec.get("spec") {
            None | Some(Value::Null) => Ok(()),
            Some(wanted) => compare::check(wanted, "/spec"),
        }
    }

    fn run<'a>(&'a self, ctx: Context, spec: Value) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let root = ctx.root.clone();
            ctx.report.progress(0.0, None);
            let collected = tokio::task::spawn_blocking(move || collect(&root)).await;
            let facts = collected.map_err(|_| Failure::failed("the facts could not be read"))?;
            if ctx.cancel.is_cancelled() {
                return Err(Failure::cancelled());
            }
            judge(facts, spec.get("spec"))
        })
    }
}

/// Compares facts with what is wanted, if anything is.
fn judge(facts: Value, wanted: Option<&Value>) -> Outcome {
    let checks = match wanted {
        None | Some(Value::Null) => Vec::new(),
        Some(wanted) => compare::compare(&facts, wanted),
    };
    let overall = compare::overall(&checks);
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| check.verdict == compare::Verdict::Fail)
        .take(3)
        .map(compare::Check::to_string)
        .collect();
    let rows: Vec<Value> = checks.iter().map(compare::Check::to_json).collect();
    let report = json!({ "facts": facts, "checks": rows, "overall": overall });
    if failed.is_empty() {
        Ok(report)
    } else {
        Err(Failure::failed(failed.join("; ")).with_result(report))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_observing_specs_are_taken() {
        for (spec, path) in [
            (json!([]), "/"),
            (json!({"benchmarks": true}), "/benchmarks"),
            (json!({"burn_in": {"seconds": 5}}), "/burn_in"),
            (json!({"spec": 5}), "/spec"),
            (
                json!({"spec": {"cpu": {"cores": {"min": "x"}}}}),
                "/spec/cpu/cores/min",
            ),
            (
                json!({"spec": {"disks": {"count": -1}}}),
                "/spec/disks/count",
            ),
            (
                json!({"spec": {"cpu": {"model": {"one_of": "x"}}}}),
                "/spec/cpu/model/one_of",
            ),
        ] {
            assert_eq!(Qc.check(&spec).unwrap_err().path, path, "{spec}");
        }
        for spec in [
            json!({}),
            json!({"task_id": "t", "benchmarks": false, "burn_in": null, "spec": null}),
            json!({"spec": {"cpu": {"cores": {"min": 2, "max": 64}, "model": "x"}}}),
        ] {
            assert_eq!(Qc.check(&spec), Ok(()), "{spec}");
        }
    }

    #[test]
    fn failures_name_the_first_three_and_keep_the_report() {
        let facts =
            json!({"cpu": {"cores": 2, "model": "m"}, "disks": [], "memory": {"dimms": null}});
        let wanted = json!({
            "cpu": {"cores": {"min": 4}, "model": "n"},
            "disks": {"count": 2},
            "memory": {"dimms": {"count": 8}},
            "system": {"vendor": "v"},
        });
        let failure = judge(facts.clone(), Some(&wanted)).unwrap_err();
        assert_eq!(
            failure.reason,
            "/cpu/cores is 2, wanted at least 4; /cpu/model is \"m\", wanted \"n\"; \
             /disks has 0 entries, wanted 2"
        );
        let report = failure.result.unwrap();
        assert_eq!(report["overall"], "fail");
        assert_eq!(report["checks"].as_array().unwrap().len(), 5);
        assert_eq!(report["facts"], facts);

        let report = judge(facts.clone(), None).unwrap();
        assert_eq!(report["overall"], "none");
        let wanted = json!({"cpu": {"cores": {"min": 1}}, "system": {"vendor": "v"}});
        let report = judge(facts, Some(&wanted)).unwrap();
        assert_eq!(report["overall"], "unknown", "what is not told cannot pass");
    }
}
