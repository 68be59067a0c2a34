//! What is told of a P1 job in JSON: how it stands, and results beyond the family's own messages.
//!
//! The publication names no upload; this is Muster's own (FusionInventory contract, section 1.4).

use serde_json::{Value, json};

use super::json::{Fields, JsonError};

/// News of a job that no P2 message can carry: kinds beyond the family's own, and failures.
///
/// POSTed as JSON to `{base}/api/results` (Muster's own, as the publication names no upload).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum JobNews {
    /// The job has begun.
    Begun,
    /// The job ended without doing what it should.
    Failed {
        /// Why, in a sentence.
        reason: String,
        /// What there is to show nevertheless, a JSON text.
        result: Option<String>,
    },
    /// How far it is.
    Progress {
        /// 0 to 100.
        percent: u8,
    },
    /// The job will not be done: the agent's policy or lack of a tool forbids it.
    Refused {
        /// Why, in a sentence.
        reason: String,
    },
    /// The job is done.
    Succeeded {
        /// What came out, a JSON text.
        result: Option<String>,
    },
}

impl JobNews {
    /// The document to POST.
    #[must_use]
    pub fn to_json(&self) -> String {
        let raw = |text: &Option<String>| {
            text.as_deref()
                .and_then(|t| serde_json::from_str::<Value>(t).ok())
        };
        let value = match self {
            Self::Begun => json!({"state": "running"}),
            Self::Failed { reason, result } => {
                json!({"state": "failed", "reason": reason, "result": raw(result)})
            }
            Self::Progress { percent } => json!({"state": "running", "percent": percent}),
            Self::Refused { reason } => json!({"state": "refused", "reason": reason}),
            Self::Succeeded { result } => json!({"state": "succeeded", "result": raw(result)}),
        };
        value.to_string()
    }

    /// Reads such a document.
    ///
    /// # Errors
    /// [`JsonError`].
    pub fn parse(fields: &Fields<'_>) -> Result<Self, JsonError> {
        let reason = || {
            Ok::<_, JsonError>(
                fields
                    .text("reason")?
                    .unwrap_or_else(|| "no reason was given".to_owned()),
            )
        };
        let result = || fields.raw("result").map(str::to_owned);
        match fields.required_text("state")?.as_str() {
            "running" => match fields.integer("percent")? {
                None => Ok(Self::Begun),
                Some(percent @ 0..=100) => Ok(Self::Progress {
                    percent: u8::try_from(percent).unwrap_or(100),
                }),
                Some(_) => Err(fields.wrong("percent", "0 to 100")),
            },
            "failed" => Ok(Self::Failed {
                reason: reason()?,
                result: result(),
            }),
            "refused" => Ok(Self::Refused { reason: reason()? }),
            "succeeded" => Ok(Self::Succeeded { result: result() }),
            _ => Err(fields.wrong("state", "running, failed, refused or succeeded")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_news_comes_back_as_sent() {
        let all = [
            JobNews::Begun,
            JobNews::Progress { percent: 40 },
            JobNews::Succeeded {
                result: Some(r#"{"a":1}"#.to_owned()),
            },
            JobNews::Succeeded { result: None },
            JobNews::Failed {
                reason: "no \"luck\"".to_owned(),
                result: None,
            },
            JobNews::Refused {
                reason: "policy".to_owned(),
            },
        ];
        for news in all {
            let text = news.to_json();
            assert_eq!(
                JobNews::parse(&Fields::of(&text, "").unwrap()).unwrap(),
                news
            );
        }
        for bad in [
            r#"{}"#,
            r#"{"state":"odd"}"#,
            r#"{"state":"running","percent":101}"#,
        ] {
            assert!(
                JobNews::parse(&Fields::of(bad, "").unwrap()).is_err(),
                "{bad}"
            );
        }
    }
}
