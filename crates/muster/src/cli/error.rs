//! What went wrong, for the person at the terminal and for scripts: a stable code, one sentence,
//! a few lines, one next step.
//!
//! Every code is a constant of [`Code`]; `docs/errors.md` lists them all, which a test checks.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::output::{self, Style};

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// It exists and was refused.
    Denied = 4,
    /// The other side cannot be reached.
    Unreachable = 5,
    /// Time ran out.
    TimedOut = 124,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A stable error code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Code(Name);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Own(&'static str),
    /// A code the server sent; the server's own list says which there are.
    Servers(String),
}

impl Code {
    /// The code as it is printed.
    pub(crate) fn name(&self) -> &str {
        match &self.0 {
            Name::Own(name) => name,
            Name::Servers(name) => name,
        }
    }

    /// A code that came from the server, cut to what a code may look like.
    fn servers(text: &str) -> Self {
        let name: String = text
            .chars()
            .filter(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_')
            .take(64)
            .collect();
        if name.is_empty() {
            Self::SERVER_ANSWER
        } else {
            Self(Name::Servers(name))
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        impl Code {
            $($(#[$doc])*
            pub(crate) const $name: Self = Self(Name::Own(stringify!($name)));)*
            /// Every code of the command line.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

codes! {
    /// An id or name fits several objects.
    AMBIGUOUS;
    /// A load generator could not do its work.
    BENCH_FAILED;
    /// The configuration is wrong.
    CONFIG_INVALID;
    /// The database cannot be opened or is not as it should be.
    DATABASE;
    /// Bytes are not what the wire allows.
    DECODE_FAILED;
    /// `doctor` found something.
    DOCTOR_FOUND;
    /// A file cannot be read or written.
    FILE;
    /// A bug of this program.
    INTERNAL;
    /// The one-shot tool failed.
    MEASURE_FAILED;
    /// What was named does not exist.
    NOT_FOUND;
    /// The tool or listener needs a privilege it does not have.
    NOT_PERMITTED;
    /// No server could be found to talk to.
    NO_SERVER;
    /// No token for the admin API.
    NO_TOKEN;
    /// The agent's policy does not allow it.
    POLICY_DENIED;
    /// A port is taken.
    PORT_IN_USE;
    /// What listens there does not speak that wire.
    PROBE_FAILED;
    /// The run ended otherwise than succeeded.
    RUN_NOT_SUCCEEDED;
    /// The receiver took fewer values than were sent.
    SEND_REFUSED;
    /// The server answered what this client does not understand.
    SERVER_ANSWER;
    /// The state folder cannot be used.
    STATE_FOLDER;
    /// Another process uses the state folder.
    STATE_IN_USE;
    /// The time given ran out.
    TIMED_OUT;
    /// The server's certificate is not trusted.
    TLS_UNTRUSTED;
    /// Nobody answers there.
    UNREACHABLE;
    /// The command line makes no sense.
    USAGE;
}

/// One failure, ready to be shown.
#[derive(Debug, Clone)]
pub(crate) struct CliError {
    /// Exit code.
    pub(crate) exit: Exit,
    /// Stable code.
    pub(crate) code: Code,
    /// One lower-case fragment.
    pub(crate) title: String,
    /// Further lines.
    pub(crate) detail: Vec<String>,
    /// What to do next.
    pub(crate) hint: Option<String>,
}

/// The problem body of the admin API, and of errors under `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// Stable code.
    pub(crate) code: String,
    /// One fragment.
    pub(crate) title: String,
    /// Further lines.
    #[serde(default)]
    pub(crate) detail: String,
    /// What to do next.
    #[serde(default)]
    pub(crate) hint: Option<String>,
    /// Page that says more.
    #[serde(default)]
    pub(crate) docs: Option<String>,
}

impl CliError {
    /// A failure with its exit code, code and sentence.
    pub(crate) fn new(exit: Exit, code: Code, title: impl Into<String>) -> Self {
        Self {
            exit,
            code,
            title: title.into(),
            detail: Vec::new(),
            hint: None,
        }
    }

    /// The command line makes no sense.
    pub(crate) fn usage(title: impl Into<String>) -> Self {
        Self::new(Exit::Usage, Code::USAGE, title)
    }

    /// It failed.
    pub(crate) fn failed(code: Code, title: impl Into<String>) -> Self {
        Self::new(Exit::Failed, code, title)
    }

    /// Adds a line.
    #[must_use]
    pub(crate) fn line(mut self, line: impl Into<String>) -> Self {
        self.detail.push(line.into());
        self
    }

    /// Adds the chain of causes, one line each.
    #[must_use]
    pub(crate) fn cause(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            if self.detail.last() != Some(&text) {
                self.detail.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Says what to do next.
    #[must_use]
    pub(crate) fn next(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the server refused, with the exit code that fits its status.
    pub(crate) fn from_problem(status: u16, problem: &Problem) -> Self {
        let exit = match status {
            401 | 403 => Exit::Denied,
            404 => Exit::NotFound,
            503 => Exit::Unreachable,
            408 | 504 => Exit::TimedOut,
            _ => Exit::Failed,
        };
        Self {
            exit,
            code: Code::servers(&problem.code),
            title: problem.title.clone(),
            detail: problem.detail.lines().map(str::to_owned).collect(),
            hint: problem.hint.clone(),
        }
    }

    /// The same as the object of `-o json`.
    pub(crate) fn problem(&self) -> Problem {
        Problem {
            code: self.code.name().to_owned(),
            title: self.title.clone(),
            detail: self.detail.join("\n"),
            hint: self.hint.clone(),
            docs: Some(format!(
                "docs/errors.md#{}",
                self.code.name().to_ascii_lowercase()
            )),
        }
    }

    /// The text for a terminal or a log.
    pub(crate) fn text(&self, style: Style) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} {} [{}]",
            style.bad("error:"),
            output::clean(&self.title),
            self.code.name()
        );
        for line in &self.detail {
            let _ = writeln!(text, "  {}", output::clean(line));
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "  next: {}", output::clean(hint));
        }
        text
    }
}

impl std::fmt::Display for CliError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}]", self.title, self.code.name())
    }
}

impl std::error::Error for CliError {}

/// A failure to write where the data goes; a closed pipe is handled before this.
impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::failed(Code::FILE, format!("cannot write: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_sentence_its_lines_and_a_next_step() {
        let error = CliError::failed(Code::NOT_PERMITTED, "cannot ping")
            .line("the kernel says no")
            .next("sysctl net.ipv4.ping_group_range");
        assert_eq!(
            error.text(Style::PLAIN),
            "error: cannot ping [NOT_PERMITTED]\n  the kernel says no\n  next: sysctl net.ipv4.ping_group_range\n"
        );
    }

    #[test]
    fn every_code_is_listed_in_the_docs() {
        let page = include_str!("../../../../docs/errors.md");
        let own = page.split("## Of the admin API").next().unwrap();
        let listed: Vec<&str> = own
            .lines()
            .filter_map(|line| line.strip_prefix("### "))
            .collect();
        let known: Vec<&str> = Code::ALL.iter().map(Code::name).collect();
        assert_eq!(
            listed, known,
            "docs/errors.md lists the codes in this order"
        );
    }

    #[test]
    fn words_of_a_peer_cannot_move_the_cursor() {
        let error = CliError::failed(Code::INTERNAL, "bad \u{1b}[2Jname\u{202e}");
        assert_eq!(
            error.text(Style::PLAIN),
            "error: bad \\u{1b}[2Jname\\u{202e} [INTERNAL]\n"
        );
    }

    #[test]
    fn a_problem_of_the_server_keeps_its_code_and_gets_an_exit_code() {
        let problem = Problem {
            code: "AGENT_LACKS_CAPABILITY".to_owned(),
            title: "agent \"lab-7\" cannot run netdiscovery".to_owned(),
            detail: "it said it has: inventory".to_owned(),
            hint: Some("use --any".to_owned()),
            docs: None,
        };
        for (status, exit) in [
            (400, Exit::Failed),
            (401, Exit::Denied),
            (403, Exit::Denied),
            (404, Exit::NotFound),
            (409, Exit::Failed),
            (503, Exit::Unreachable),
        ] {
            let error = CliError::from_problem(status, &problem);
            assert_eq!(error.exit, exit, "{status}");
            assert_eq!(error.code.name(), "AGENT_LACKS_CAPABILITY");
        }
    }

    #[test]
    fn a_code_that_is_no_code_is_not_repeated() {
        assert_eq!(Code::servers("<b>\u{1b}[2J").name(), "2J");
        assert_eq!(Code::servers("\u{1b}").name(), "SERVER_ANSWER");
    }
}
