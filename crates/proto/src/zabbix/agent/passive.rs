//! What a server asks a passive proxy on a connection that the server opened.
//!
//! The proxy's data and its results of tasks are a [`super::super::data::ProxyData`] without a
//! request; what the server says about them is a [`super::Reply`]. Contract: Zabbix page, section 5,
//! in the 6.0 form.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::config::Configuration;
use super::super::wire::{Payload, Reject, text_of};

/// One request to a passive proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Here is what to collect; answered with [`config_reply`].
    Config(Configuration),
    /// Give what was collected, and results of tasks.
    Data,
    /// Give results of tasks only.
    Tasks,
}

impl Ask {
    /// Reads a request.
    ///
    /// # Errors
    /// It is none that a passive proxy answers, or its tables cannot be used; the error is the reply.
    pub fn decode(payload: &Payload) -> Result<Self, Reject> {
        match payload.request_name() {
            Some("proxy config") => {
                let push: Push<'_> = payload.decode()?;
                // A 7.0 server sends the tables in a third message, and hears that here.
                let data = push.data.ok_or_else(|| Reject::missing("data"))?;
                let tables = Configuration::parse(data.get());
                tables
                    .map(Self::Config)
                    .map_err(|error| Reject::new(error.to_string()))
            }
            Some("proxy data") => Ok(Self::Data),
            Some("proxy tasks") => Ok(Self::Tasks),
            Some(_) | None => Err(payload.unknown_request()),
        }
    }
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// The answer to a configuration that was taken.
pub fn config_reply(version: &str) -> String {
    #[derive(Serialize)]
    struct Taken<'a> {
        response: &'static str,
        version: &'a str,
    }
    text_of(&Taken {
        response: "success",
        version,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::Limits;
    use super::*;

    fn ask(json: &str) -> Result<Ask, String> {
        let payload = Payload::check(json.as_bytes().to_vec(), &Limits::default()).unwrap();
        Ask::decode(&payload).map_err(|reject| reject.info)
    }

    #[test]
    fn requests_of_a_server() {
        assert_eq!(ask(r#"{"request":"proxy data"}"#), Ok(Ask::Data));
        assert_eq!(ask(r#"{"request":"proxy tasks"}"#), Ok(Ask::Tasks));
        let tables = Configuration::default();
        let push = format!(r#"{{"request":"proxy config","data":{}}}"#, tables.encode());
        assert_eq!(ask(&push), Ok(Ask::Config(tables)));
        assert_eq!(
            config_reply("6.0.14"),
            r#"{"response":"success","version":"6.0.14"}"#
        );
    }

    #[test]
    fn refusals_in_the_words_of_a_real_proxy() {
        let cases = [
            (
                r#"{"request":"proxy config"}"#,
                "cannot find pair with name \"data\"",
            ),
            (
                r#"{"request":"proxy config","data":{}}"#,
                "cannot find hosts data",
            ),
            (
                r#"{"request":"proxy config","data":7}"#,
                "there are no tables",
            ),
            (
                r#"{"request":"sender data"}"#,
                "unknown request \"sender data\"",
            ),
            (r"{}", "cannot find pair with name \"request\""),
        ];
        for (json, why) in cases {
            assert_eq!(ask(json).unwrap_err(), why, "{json}");
        }
    }
}
