//! Command lines of tests: arguments to a specification and back, and the help text.
//!
//! The original's tests do this with Python's option parser, and its command line shows people what
//! they say: the error texts here are that parser's (contract, sections 3 and 14). An option may be
//! shortened as far as it stays unambiguous, joined to its value by `=`, and short options may run
//! together with theirs.

use serde_json::{Map, Number, Value};

use super::json::{compact, python_quote};
use crate::json::{JsonLimits, parse};

/// What follows an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A text, kept as it is.
    Text,
    /// A text; the option may come several times. One value stays a text, several are an array.
    TextOrList,
    /// A text; the option may come several times and is always an array.
    List,
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// JSON.
    Json,
    /// Nothing: `--x` is true and `--no-x` false.
    Switch,
}

/// One option of a test.
#[derive(Debug, Clone, Copy)]
pub struct CliOption {
    /// One letter, when it has one.
    pub short: Option<char>,
    /// The long name, without dashes.
    pub long: &'static str,
    /// The member of the specification.
    pub member: &'static str,
    /// What follows it.
    pub takes: Takes,
    /// The lowest schema that knows the member.
    pub since: u8,
    /// One line of help.
    pub help: &'static str,
    /// One line of help for `--no-x`.
    pub help_no: &'static str,
}

impl CliOption {
    /// An option with a value whose member has its name.
    #[must_use]
    pub const fn new(long: &'static str, takes: Takes, help: &'static str) -> Self {
        Self {
            short: None,
            long,
            member: long,
            takes,
            since: 1,
            help,
            help_no: "",
        }
    }

    /// A pair of switches.
    #[must_use]
    pub const fn switch(long: &'static str, help: &'static str, help_no: &'static str) -> Self {
        Self {
            short: None,
            long,
            member: long,
            takes: Takes::Switch,
            since: 1,
            help,
            help_no,
        }
    }

    /// The same with a letter.
    #[must_use]
    pub const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    /// The same for a member of another name.
    #[must_use]
    pub const fn member(mut self, member: &'static str) -> Self {
        self.member = member;
        self
    }

    /// The same, known only from a schema on.
    #[must_use]
    pub const fn since(mut self, schema: u8) -> Self {
        self.since = schema;
        self
    }

    fn value_name(&self) -> String {
        self.long.replace('-', "_").to_uppercase()
    }
}

/// Turns arguments into a specification with the lowest schema that carries it.
///
/// # Errors
/// What the original's option parser would write: an error, or the help that `--help` asks for.
pub fn to_spec(
    options: &[CliOption],
    examples: &str,
    args: &[String],
) -> Result<Map<String, Value>, String> {
    let mut spec = Map::new();
    let mut schema = 1_u8;
    let mut unused = Vec::new();
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        if arg == "--" {
            unused.extend(args.by_ref());
            break;
        }
        if let Some(long) = arg.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            if !name.is_empty() && "help".starts_with(name) && find_long(options, name)?.is_none() {
                return Err(help(options, examples));
            }
            let Some((option, on)) = find_long(options, name)? else {
                return Err(format!("no such option: --{name}"));
            };
            let shown = format!("--{}{}", if on { "" } else { "no-" }, option.long);
            store(&mut spec, &mut schema, option, on, &shown, value, &mut args)?;
        } else if let Some(letters) = arg.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            let mut rest = letters.chars();
            while let Some(letter) = rest.next() {
                if letter == 'h' {
                    return Err(help(options, examples));
                }
                let Some(option) = options.iter().find(|option| option.short == Some(letter))
                else {
                    return Err(format!("no such option: -{letter}"));
                };
                let joined = Some(rest.as_str()).filter(|rest| !rest.is_empty());
                let takes_rest = option.takes != Takes::Switch;
                let value = joined.filter(|_| takes_rest);
                store(
                    &mut spec,
                    &mut schema,
                    option,
                    true,
                    &format!("-{letter}"),
                    value,
                    &mut args,
                )?;
                if takes_rest {
                    break;
                }
            }
        } else {
            unused.push(arg);
        }
    }
    if !unused.is_empty() {
        return Err(format!("Unusable arguments: {}", unused.join(" ")));
    }
    spec.insert("schema".to_owned(), Value::from(schema));
    Ok(spec)
}

/// The option of a long name or of an unambiguous beginning of one, and whether it is the plain form.
fn find_long<'a>(
    options: &'a [CliOption],
    name: &str,
) -> Result<Option<(&'a CliOption, bool)>, String> {
    let mut names: Vec<(String, &CliOption, bool)> = Vec::new();
    for option in options {
        names.push((option.long.to_owned(), option, true));
        if option.takes == Takes::Switch {
            names.push((format!("no-{}", option.long), option, false));
        }
    }
    if let Some((_, option, on)) = names.iter().find(|(long, ..)| long == name) {
        return Ok(Some((option, *on)));
    }
    let mut near: Vec<_> = names
        .iter()
        .filter(|(long, ..)| long.starts_with(name))
        .collect();
    near.sort_by(|a, b| a.0.cmp(&b.0));
    match near.as_slice() {
        [] => Ok(None),
        [(_, option, on)] => Ok(Some((option, *on))),
        several => {
            let several: Vec<_> = several
                .iter()
                .map(|(long, ..)| format!("--{long}"))
                .collect();
            Err(format!(
                "ambiguous option: --{name} ({}?)",
                several.join(", ")
            ))
        }
    }
}

fn store<'a>(
    spec: &mut Map<String, Value>,
    schema: &mut u8,
    option: &CliOption,
    on: bool,
    shown: &str,
    joined: Option<&'a str>,
    args: &mut impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let member = option.member.to_owned();
    *schema = (*schema).max(option.since);
    if option.takes == Takes::Switch {
        if joined.is_some() {
            return Err(format!("{shown} option does not take a value"));
        }
        spec.insert(member, Value::Bool(on));
        return Ok(());
    }
    let Some(text) = joined.or_else(|| args.next()) else {
        return Err(format!("{shown} option requires 1 argument"));
    };
    let value = match option.takes {
        Takes::Text | Takes::Switch => Value::from(text),
        Takes::TextOrList => match spec.remove(option.member) {
            None => Value::from(text),
            Some(Value::Array(mut several)) => {
                several.push(Value::from(text));
                Value::Array(several)
            }
            Some(first) => Value::Array(vec![first, Value::from(text)]),
        },
        Takes::List => match spec.remove(option.member) {
            Some(Value::Array(mut several)) => {
                several.push(Value::from(text));
                Value::Array(several)
            }
            _ => Value::Array(vec![Value::from(text)]),
        },
        Takes::Integer => match text.trim().parse::<i64>() {
            Ok(number) => Value::from(number),
            Err(_) => {
                return Err(format!(
                    "option {shown}: invalid integer value: {}",
                    python_quote(text)
                ));
            }
        },
        Takes::Float => match text.trim().parse::<f64>().ok().and_then(Number::from_f64) {
            Some(number) => Value::Number(number),
            None => {
                let quoted = python_quote(text);
                return Err(format!(
                    "option {shown}: invalid floating-point value: {quoted}"
                ));
            }
        },
        Takes::Json => match parse(text, &JsonLimits::default()) {
            Ok(value) => value,
            Err(_) => return Err("Invalid data (must be JSON)".to_owned()),
        },
    };
    spec.insert(member, value);
    Ok(())
}

/// The help text: options in two columns, then examples.
#[must_use]
pub fn help(options: &[CliOption], examples: &str) -> String {
    let mut rows = vec![("-h, --help".to_owned(), "show this help message and exit")];
    for option in options {
        if option.takes == Takes::Switch {
            rows.push((format!("--{}", option.long), option.help));
            rows.push((format!("--no-{}", option.long), option.help_no));
            continue;
        }
        let value = option.value_name();
        let long = format!("--{}={value}", option.long);
        let names = match option.short {
            Some(letter) => format!("-{letter} {value}, {long}"),
            None => long,
        };
        rows.push((names, option.help));
    }
    let mut out = String::new();
    for (names, help) in rows {
        if names.len() > 20 {
            out.push_str(&format!("  {names}\n{:24}{help}\n", ""));
        } else {
            out.push_str(&format!("  {names:<20}  {help}\n"));
        }
    }
    // The original's server strips what its plugins write before sending it on.
    format!("{}\n{}\n", out.trim_start(), examples.trim_end())
}

/// Turns a specification into arguments: valued options first, then switches. Secrets are left out.
#[must_use]
pub fn from_spec(options: &[CliOption], spec: &Value) -> Vec<String> {
    let mut args = Vec::new();
    for option in options
        .iter()
        .filter(|option| option.takes != Takes::Switch)
    {
        if option.member.starts_with('_') {
            continue;
        }
        let values = match (spec.get(option.member), option.takes) {
            (None, _) => continue,
            (Some(Value::Array(several)), Takes::List | Takes::TextOrList) => several.as_slice(),
            (Some(one), _) => std::slice::from_ref(one),
        };
        for value in values {
            args.push(format!("--{}", option.long));
            args.push(match value.as_str() {
                Some(text) if option.takes != Takes::Json => text.to_owned(),
                _ => compact(value),
            });
        }
    }
    for option in options
        .iter()
        .filter(|option| option.takes == Takes::Switch)
    {
        if let Some(Value::Bool(on)) = spec.get(option.member) {
            args.push(format!("--{}{}", if *on { "" } else { "no-" }, option.long));
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OPTIONS: &[CliOption] = &[
        CliOption::new("count", Takes::Integer, "How many").short('c'),
        CliOption::new("dest", Takes::Text, "Where to").short('d'),
        CliOption::new("destiny", Takes::Text, "What for"),
        CliOption::new("fail", Takes::Float, "How often").short('f'),
        CliOption::new("data", Takes::Json, "What"),
        CliOption::switch("hostnames", "Names", "No names").since(2),
        CliOption::new("host", Takes::TextOrList, "Who").short('H'),
        CliOption::new("target", Takes::List, "Whom").member("targets"),
        CliOption::new("secret", Takes::Text, "Hidden").member("_secret"),
    ];

    fn spec(args: &[&str]) -> Result<Value, String> {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        to_spec(OPTIONS, "Examples:\n", &args).map(Value::Object)
    }

    #[test]
    fn arguments_become_a_specification() {
        for (args, want) in [
            (vec![], json!({"schema": 1})),
            (
                vec!["--count", "4", "-d", "b"],
                json!({"count": 4, "dest": "b", "schema": 1}),
            ),
            (
                vec!["--count=4", "-db"],
                json!({"count": 4, "dest": "b", "schema": 1}),
            ),
            (vec!["--coun", "4"], json!({"count": 4, "schema": 1})),
            (vec!["--dest", "b"], json!({"dest": "b", "schema": 1})),
            (
                vec!["--no-hostnames"],
                json!({"hostnames": false, "schema": 2}),
            ),
            (vec!["--hostnames"], json!({"hostnames": true, "schema": 2})),
            (vec!["-f", "0.5"], json!({"fail": 0.5, "schema": 1})),
            (
                vec!["--data", "{\"a\":[1]}"],
                json!({"data": {"a": [1]}, "schema": 1}),
            ),
            (vec!["-H", "a"], json!({"host": "a", "schema": 1})),
            (
                vec!["-H", "a", "-H", "b", "-Hc"],
                json!({"host": ["a", "b", "c"], "schema": 1}),
            ),
            (
                vec!["--target", "a"],
                json!({"targets": ["a"], "schema": 1}),
            ),
            (
                vec!["--dest", "--count"],
                json!({"dest": "--count", "schema": 1}),
            ),
        ] {
            assert_eq!(spec(&args), Ok(want), "{args:?}");
        }
    }

    #[test]
    fn mistakes_are_told_in_the_words_of_pythons_parser() {
        for (args, want) in [
            (vec!["--bad"], "no such option: --bad"),
            (vec!["--bad=1"], "no such option: --bad"),
            (vec!["-x"], "no such option: -x"),
            (vec!["--count"], "--count option requires 1 argument"),
            (vec!["-c"], "-c option requires 1 argument"),
            (
                vec!["--count", "x"],
                "option --count: invalid integer value: 'x'",
            ),
            (
                vec!["-f", "x"],
                "option -f: invalid floating-point value: 'x'",
            ),
            (
                vec!["--d", "x"],
                "ambiguous option: --d (--data, --dest, --destiny?)",
            ),
            (
                vec!["--hostnames=1"],
                "--hostnames option does not take a value",
            ),
            (vec!["a", "b"], "Unusable arguments: a b"),
            (vec!["--", "-c"], "Unusable arguments: -c"),
            (vec!["--data", "{"], "Invalid data (must be JSON)"),
        ] {
            assert_eq!(spec(&args), Err(want.to_owned()), "{args:?}");
        }
    }

    #[test]
    fn help_has_the_columns_of_pythons_parser() {
        let text = spec(&["--help"]).expect_err("help");
        assert_eq!(
            text,
            "-h, --help            show this help message and exit\n  -c COUNT, --count=COUNT\n                        How many\n  -d DEST, --dest=DEST  Where to\n  --destiny=DESTINY     What for\n  -f FAIL, --fail=FAIL  How often\n  --data=DATA           What\n  --hostnames           Names\n  --no-hostnames        No names\n  -H HOST, --host=HOST  Who\n  --target=TARGET       Whom\n  --secret=SECRET       Hidden\n\nExamples:\n"
        );
        assert_eq!(spec(&["-h"]).expect_err("help"), text);
        assert_eq!(spec(&["--hel"]).expect_err("help"), text);
    }

    #[test]
    fn a_specification_becomes_arguments_without_its_secrets() {
        let spec = json!({
            "hostnames": false, "dest": "b", "count": 3, "data": "x", "targets": ["a", "b"],
            "_secret": "s", "schema": 2
        });
        assert_eq!(
            from_spec(OPTIONS, &spec),
            [
                "--count",
                "3",
                "--dest",
                "b",
                "--data",
                "\"x\"",
                "--target",
                "a",
                "--target",
                "b",
                "--no-hostnames"
            ]
        );
    }
}
