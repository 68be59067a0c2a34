//! Results for people: the text and HTML forms of the built-in tests (contract, sections 3 and 14).
//!
//! Input is the merged result of a run, which came from an agent: everything in it is escaped for
//! HTML, and a result that lacks what its form needs is shown with the gap named, never refused.

use serde_json::Value;

use super::json::pretty;
use super::time::IsoDuration;

/// The form of a test's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Two clocks and their difference.
    Clock,
    /// One duration.
    Idle,
    /// The result as JSON: kinds of work that pScheduler does not know.
    Json,
    /// The data that was handed in.
    Noop,
    /// A line for each packet and a summary.
    Rtt,
}

/// What the client wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// `text/html`
    Html,
    /// `text/plain`
    Plain,
}

/// The result in words, without trailing white space.
#[must_use]
pub fn render(form: Form, medium: Medium, result: &Value) -> String {
    if result.get("succeeded").and_then(Value::as_bool) != Some(true) {
        return match medium {
            Medium::Plain => "Run failed.".to_owned(),
            Medium::Html => "<p>Run failed.</p>".to_owned(),
        };
    }
    let text = match (form, medium) {
        (Form::Clock, Medium::Plain) => clock_plain(result),
        (Form::Clock, Medium::Html) => clock_html(result),
        (Form::Idle, Medium::Plain) => format!("Duration ... {}", text_of(result, "duration")),
        (Form::Idle, Medium::Html) => {
            let duration = escape(&text_of(result, "duration"));
            format!("<table>\n<tr><td>Duration</td><td>{duration}</td></tr>\n</table>")
        }
        (Form::Noop, Medium::Plain) => format!("Data:\n{}", json_of(result, "data")),
        (Form::Noop, Medium::Html) => json_html("Data", &json_of(result, "data")),
        (Form::Rtt, Medium::Plain) => rtt_plain(result),
        (Form::Rtt, Medium::Html) => rtt_html(result),
        (Form::Json, Medium::Plain) => format!("Result:\n{}", pretty(result)),
        (Form::Json, Medium::Html) => json_html("Result", &pretty(result)),
    };
    text.trim_end().to_owned()
}

/// Text made safe inside HTML.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

fn text_of(value: &Value, member: &str) -> String {
    match value.get(member) {
        None | Some(Value::Null) => "Not Specified".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn json_of(value: &Value, member: &str) -> String {
    value
        .get(member)
        .map_or_else(|| "Not Specified".to_owned(), pretty)
}

fn json_html(label: &str, json: &str) -> String {
    format!(
        "<table>\n<tr><td>{label}</td><td>\n<pre>\n{}\n</pre>\n</td></tr>\n</table>",
        escape(json)
    )
}

fn clock_plain(result: &Value) -> String {
    let block = |label: &str, member: &str| {
        let clock = result.get(member).unwrap_or(&Value::Null);
        let mut text = format!("{label}:\n\n  Time ........... {}", text_of(clock, "time"));
        if clock.get("synchronized").and_then(Value::as_bool) == Some(true) {
            text.push_str(&format!(
                "\n  Synchronized ... {}, {}\n  Offset ......... {}",
                text_of(clock, "source"),
                text_of(clock, "reference"),
                text_of(clock, "offset")
            ));
        }
        text
    };
    format!(
        "{}\n\n{}\n\nDifference ... {}",
        block("Local", "local"),
        block("Remote", "remote"),
        text_of(result, "difference")
    )
}

fn clock_html(result: &Value) -> String {
    let block = |label: &str, member: &str| {
        let clock = result.get(member).unwrap_or(&Value::Null);
        let mut rows = format!(
            "<tr><th colspan=\"2\">{label}</th></tr>\n<tr><td>Time</td><td>{}</td></tr>\n",
            escape(&text_of(clock, "time"))
        );
        if clock.get("synchronized").and_then(Value::as_bool) == Some(true) {
            rows.push_str(&format!(
                "<tr><td>Synchronized</td><td>{}, {}</td></tr>\n<tr><td>Offset</td><td>{}</td></tr>\n",
                escape(&text_of(clock, "source")),
                escape(&text_of(clock, "reference")),
                escape(&text_of(clock, "offset"))
            ));
        }
        rows
    };
    format!(
        "<table>\n{}{}<tr><td colspan=\"2\">&nbsp;</td></tr>\n<tr><td>Difference</td><td>{}</td></tr>\n</table>",
        block("Local", "local"),
        block("Remote", "remote"),
        escape(&text_of(result, "difference"))
    )
}

/// Milliseconds of a duration with four decimals, `None` where there is none.
fn millis(value: &Value, member: &str) -> String {
    value
        .get(member)
        .and_then(Value::as_str)
        .and_then(|text| IsoDuration::parse(text).ok())
        .map_or_else(
            || "None".to_owned(),
            |rtt| format!("{:.4}", rtt.as_millis_f64()),
        )
}

fn trips(result: &Value) -> &[Value] {
    result
        .get("roundtrips")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn summary(result: &Value) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a share between 0 and 1, in percent"
    )]
    let loss = (result.get("loss").and_then(Value::as_f64).unwrap_or(0.0) * 100.0) as i64;
    format!(
        "{loss}% Packet Loss  RTT Min/Mean/Max/StdDev = {}/{}/{}/{} ms",
        millis(result, "min"),
        millis(result, "mean"),
        millis(result, "max"),
        millis(result, "stddev")
    )
}

/// Who answered a round trip: a name and an address, or `None` for nobody.
fn responder(trip: &Value) -> Option<(&str, &str)> {
    let ip = trip.get("ip").and_then(Value::as_str);
    let name = trip.get("hostname").and_then(Value::as_str).or(ip)?;
    Some((name, ip.unwrap_or(name)))
}

fn rtt_plain(result: &Value) -> String {
    let mut out = String::new();
    for (at, trip) in trips(result).iter().enumerate() {
        let number = at.saturating_add(1);
        out.push_str(&format!("{number:<8}"));
        if let Some(error) = trip.get("error").and_then(Value::as_str) {
            out.push_str(error);
        } else if let Some((name, ip)) = responder(trip) {
            out.push_str(&format!(
                "{name} ({ip})  {} Bytes  TTL {}  RTT {} ms",
                text_of(trip, "length"),
                text_of(trip, "ttl"),
                millis(trip, "rtt")
            ));
        } else {
            out.push_str("No Response");
        }
        out.push('\n');
    }
    format!("{out}\n{}", summary(result))
}

fn rtt_html(result: &Value) -> String {
    let mut out = String::from(
        "<table>\n<tr><th>Packet</th><th>Host</th><th>Address</th><th>Length</th><th>TTL</th><th>RTT (ms)</th></tr>\n",
    );
    for (at, trip) in trips(result).iter().enumerate() {
        let number = at.saturating_add(1);
        out.push_str(&format!("<tr><td>{number}</td>"));
        if let Some(error) = trip.get("error").and_then(Value::as_str) {
            out.push_str(&format!("<td colspan=\"5\">{}</td>", escape(error)));
        } else if let Some((name, ip)) = responder(trip) {
            for cell in [
                name.to_owned(),
                ip.to_owned(),
                text_of(trip, "length"),
                text_of(trip, "ttl"),
                millis(trip, "rtt"),
            ] {
                out.push_str(&format!("<td>{}</td>", escape(&cell)));
            }
        } else {
            out.push_str("<td colspan=\"5\">No Response</td>");
        }
        out.push_str("</tr>\n");
    }
    format!(
        "{out}<tr><td colspan=\"6\">{}</td></tr>\n</table>",
        summary(result)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_those_people_know() {
        let rtt = json!({
            "succeeded": true, "loss": 0.25, "min": "PT0.000039S", "mean": "PT0.000042S",
            "max": "PT0.000048S", "stddev": "PT0.000004S",
            "roundtrips": [
                {"seq": 1, "ip": "10.99.0.2", "hostname": "ps2.example.net", "length": 64, "ttl": 64, "rtt": "PT0.000048S"},
                {"seq": 2, "ip": "10.99.0.2", "length": 64, "ttl": 64, "rtt": "PT0.00004S"},
                {"seq": 3, "error": "host-unreachable"},
                {"seq": 4}
            ]
        });
        let clock = json!({
            "succeeded": true, "difference": "PT0.55S",
            "local": {"time": "2026-11-21T19:03:24.206050+00:00", "synchronized": false},
            "remote": {"time": "2026-11-21T19:03:24.756050+00:00", "synchronized": true,
                       "source": "ntp", "reference": "x", "offset": 0.5}
        });
        for (form, result, want) in [
            (
                Form::Idle,
                json!({"succeeded": true, "duration": "PT2S"}),
                "Duration ... PT2S",
            ),
            (
                Form::Noop,
                json!({"succeeded": true, "data": {"a": 1}}),
                "Data:\n{\n    \"a\": 1\n}",
            ),
            (
                Form::Noop,
                json!({"succeeded": true}),
                "Data:\nNot Specified",
            ),
            (
                Form::Rtt,
                rtt,
                "1       ps2.example.net (10.99.0.2)  64 Bytes  TTL 64  RTT 0.0480 ms\n2       10.99.0.2 (10.99.0.2)  64 Bytes  TTL 64  RTT 0.0400 ms\n3       host-unreachable\n4       No Response\n\n25% Packet Loss  RTT Min/Mean/Max/StdDev = 0.0390/0.0420/0.0480/0.0040 ms",
            ),
            (
                Form::Rtt,
                json!({"succeeded": true, "loss": 1.0, "roundtrips": []}),
                "\n100% Packet Loss  RTT Min/Mean/Max/StdDev = None/None/None/None ms",
            ),
            (
                Form::Clock,
                clock,
                "Local:\n\n  Time ........... 2026-11-21T19:03:24.206050+00:00\n\nRemote:\n\n  Time ........... 2026-11-21T19:03:24.756050+00:00\n  Synchronized ... ntp, x\n  Offset ......... 0.5\n\nDifference ... PT0.55S",
            ),
            (Form::Idle, json!({"succeeded": false}), "Run failed."),
            (Form::Idle, json!([]), "Run failed."),
        ] {
            assert_eq!(render(form, Medium::Plain, &result), want);
        }
    }

    #[test]
    fn html_carries_nothing_an_agent_wrote_as_markup() {
        let nasty = "<script>alert('x')</script>&\"";
        let results = [
            (Form::Idle, json!({"succeeded": true, "duration": nasty})),
            (Form::Noop, json!({"succeeded": true, "data": {"k": nasty}})),
            (Form::Json, json!({"succeeded": true, nasty: nasty})),
            (
                Form::Rtt,
                json!({"succeeded": true, "roundtrips": [
                    {"hostname": nasty, "ip": nasty, "length": nasty, "ttl": nasty}, {"error": nasty}
                ]}),
            ),
            (
                Form::Clock,
                json!({"succeeded": true, "difference": nasty,
                       "local": {"time": nasty, "synchronized": true, "source": nasty, "offset": nasty}}),
            ),
        ];
        for (form, result) in results {
            let html = render(form, Medium::Html, &result);
            assert!(
                !html.contains("<script") && html.contains("&lt;script"),
                "{html}"
            );
        }
        assert_eq!(
            render(
                Form::Idle,
                Medium::Html,
                &json!({"succeeded": true, "duration": "PT2S"})
            ),
            "<table>\n<tr><td>Duration</td><td>PT2S</td></tr>\n</table>"
        );
        assert_eq!(
            render(Form::Rtt, Medium::Html, &json!({})),
            "<p>Run failed.</p>"
        );
    }
}
