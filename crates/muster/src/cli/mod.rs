//! The command line: parse, dispatch, print, exit.
//!
//! Everything about a fleet is a client of the admin API ([`client`]). The long-running commands
//! live beside this module, in `up.rs`, `server_run.rs` and `agent_run.rs`.

pub(crate) mod args;
pub(crate) mod client;
mod cmd;
pub(crate) mod error;
pub(crate) mod output;
pub(crate) mod parse;
pub(crate) mod state;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, ValueEnum as _};

use args::{
    AgentCommand, BenchCommand, Cli, Command, Format, Global, HostCommand, ItemCommand,
    KindCommand, RunCommand, RunStateWord,
};
use client::Client;
use error::{CliError, Code};
use output::{Output, Style};

/// Runs the command line; what is wrong has been said when this returns.
pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    let json_errors = asks_for_json(&args);
    let args = run_list_state(args);
    let parsed = Cli::command()
        .try_get_matches_from(&args)
        .and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return not_run(&error, &args, json_errors),
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error, json_errors);
            error.exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    let out = Output::new(global.output, global.quiet);
    let many = matches!(
        command,
        Command::Up(_)
            | Command::Server(_)
            | Command::Agent(AgentCommand::Run(_))
            | Command::Bench(_)
            | Command::Discover(_)
    );
    crate::logging::init(&global, &command);
    muster_net::tls::install_provider();
    let mut builder = if many {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|e| CliError::failed(Code::INTERNAL, "cannot start the runtime").cause(&e))?;
    let result = runtime.block_on(command_future(&global, out, command));
    // What is left are helpers that own nothing; commands join what they own themselves.
    runtime.shutdown_background();
    result
}

async fn command_future(global: &Global, out: Output, command: Command) -> Result<(), CliError> {
    match command {
        Command::Up(args) => Box::pin(crate::up::run(global, out, args)).await,
        Command::Server(command) => Box::pin(crate::server_run::run(global, out, command)).await,
        Command::Agent(AgentCommand::Run(args)) => {
            Box::pin(crate::agent_run::run(global, out, args)).await
        }
        Command::Agent(command) => cmd::agent::run(&Client::find(global)?, out, command).await,
        Command::Task(command) => {
            let prepared = cmd::task::prepare(command)?;
            cmd::task::run(&Client::find(global)?, out, prepared).await
        }
        Command::Run(command) => match command {
            RunCommand::List(args) => cmd::run::list(&Client::find(global)?, out, args).await,
            RunCommand::Show(args) => cmd::run::show(&Client::find(global)?, out, args).await,
            RunCommand::Watch(args) => cmd::run::watch(&Client::find(global)?, out, args).await,
            RunCommand::Result(args) => cmd::run::result(&Client::find(global)?, out, args).await,
        },
        Command::Host(command) => match command {
            HostCommand::Create(args) => cmd::host::create(&Client::find(global)?, out, args).await,
            HostCommand::List => cmd::host::list(&Client::find(global)?, out).await,
            HostCommand::Show(args) => cmd::host::show(&Client::find(global)?, out, args).await,
        },
        Command::Item(command) => match command {
            ItemCommand::Create(args) => cmd::item::create(&Client::find(global)?, out, args).await,
            ItemCommand::List(args) => cmd::item::list(&Client::find(global)?, out, args).await,
            ItemCommand::Get(args) => cmd::item::get(&Client::find(global)?, out, args).await,
            ItemCommand::History(args) => {
                cmd::item::history(&Client::find(global)?, out, args).await
            }
        },
        Command::Kind(KindCommand::List) => cmd::kind::list(&Client::find(global)?, out).await,
        Command::Status => cmd::status::status(&Client::find(global)?, out).await,
        Command::Explain(args) => cmd::explain::explain(&Client::find(global)?, out, args).await,
        Command::Doctor => cmd::doctor::doctor(global, out).await,
        Command::Inventory => cmd::local::inventory(global, out).await,
        Command::Discover(args) => cmd::local::discover(global, out, args).await,
        Command::Measure(args) => cmd::local::measure(global, out, args).await,
        Command::Send(args) => cmd::send::send(global, out, args).await,
        Command::Probe(args) => cmd::probe::probe(out, args).await,
        Command::Decode(args) => cmd::decode::decode(out, args),
        Command::Bench(command) => match command {
            BenchCommand::Zabbix(args) => crate::bench::zabbix::run(global, out, args).await,
            BenchCommand::Fusion(args) => crate::bench::fusion::run(global, out, args).await,
            BenchCommand::Teeth(args) => crate::bench::teeth::run(global, out, args).await,
            BenchCommand::Pscheduler(args) => {
                crate::bench::pscheduler::run(global, out, args).await
            }
        },
        Command::Completions(args) => completions(args.shell),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "muster", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

/// Shows an error on stderr, as text or as the object of `-o json`.
fn report(error: &CliError, as_json: bool) {
    let text = if as_json {
        serde_json::to_string(&error.problem()).map_or_else(|e| e.to_string(), |json| json + "\n")
    } else {
        error.text(Style::stderr())
    };
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Help and version are answers; everything else clap says is a usage error.
fn not_run(error: &clap::Error, args: &[OsString], as_json: bool) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return match output::print(&error.render().to_string()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => error.exit.into(),
        };
    }
    let error = usage_error(error, args);
    report(&error, as_json);
    error.exit.into()
}

/// What clap says, in the form of this project.
fn usage_error(error: &clap::Error, args: &[OsString]) -> CliError {
    let rendered = error.render().to_string();
    let mut lines = rendered
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("the command line makes no sense");
    let title = first
        .strip_prefix("error: ")
        .unwrap_or(first)
        .trim_end_matches(':');
    let mut failure = CliError::usage(title);
    for line in lines {
        if !line.starts_with("For more information") {
            failure = failure.line(line);
        }
    }
    failure.next(format!("`{} --help`", command_path(args)))
}

/// The command that was meant, as far as the words on the command line name one.
fn command_path(args: &[OsString]) -> String {
    let mut path = "muster".to_owned();
    let tree = Cli::command();
    let mut at = &tree;
    for word in args.iter().skip(1).filter_map(|arg| arg.to_str()) {
        if let Some(next) = at.find_subcommand(word) {
            path = format!("{path} {word}");
            at = next;
        }
    }
    path
}

/// Whether errors are wanted as JSON. Looked for by hand: it has to be known when parsing fails too.
fn asks_for_json(args: &[OsString]) -> bool {
    let mut args = args.iter().skip(1).map(|arg| arg.to_string_lossy());
    let mut found = false;
    while let Some(arg) = args.next() {
        let value = match arg.as_ref() {
            "--" => break,
            "-o" | "--output" => args.next().map(|value| value.into_owned()),
            other => other
                .strip_prefix("--output=")
                .or_else(|| other.strip_prefix("-o="))
                .or_else(|| other.strip_prefix("-o"))
                .map(str::to_owned),
        };
        if let Some(value) = value {
            found = matches!(
                Format::from_str(&value, false),
                Ok(Format::Json | Format::Jsonl)
            );
        }
    }
    found
}

/// `run list --state S` filters, every other `--state` names the folder: where S is the word of a
/// run's state, it is written as `--in-state` before clap looks.
pub(crate) fn run_list_state(mut args: Vec<OsString>) -> Vec<OsString> {
    let is = |arg: &OsString, word: &str| arg.to_str() == Some(word);
    let is_list = |pair: &[OsString]| matches!(pair, [a, b] if is(a, "run") && is(b, "list"));
    let Some(start) = args.windows(2).position(is_list) else {
        return args;
    };
    let is_state = |text: &str| RunStateWord::from_str(text, false).is_ok();
    for i in start + 2..args.len() {
        let next = args.get(i + 1).and_then(|value| value.to_str());
        let Some(arg) = args[i].to_str() else {
            continue;
        };
        if arg == "--state" && next.is_some_and(is_state) {
            args[i] = "--in-state".into();
        } else if let Some(word) = arg.strip_prefix("--state=").filter(|word| is_state(word)) {
            args[i] = format!("--in-state={word}").into();
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_tree_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_state_of_a_run_is_told_from_a_folder() {
        for (line, becomes) in [
            (
                "muster run list --state ended",
                "muster run list --in-state ended",
            ),
            (
                "muster run list --state=planned",
                "muster run list --in-state=planned",
            ),
            (
                "muster run list --state /tmp/x",
                "muster run list --state /tmp/x",
            ),
            (
                "muster --state ended run list",
                "muster --state ended run list",
            ),
            (
                "muster task list --state ended",
                "muster task list --state ended",
            ),
            (
                "muster run list --state running --state dir",
                "muster run list --in-state running --state dir",
            ),
        ] {
            assert_eq!(run_list_state(words(line)), words(becomes), "{line}");
        }
    }

    #[test]
    fn json_errors_are_asked_for_in_any_form() {
        for (line, json) in [
            ("muster -o json x", true),
            ("muster x -ojson", true),
            ("muster x --output json", true),
            ("muster x --output=json", true),
            ("muster x -o table", false),
            ("muster x -o", false),
            ("muster x", false),
            ("muster x -- -o json", false),
        ] {
            assert_eq!(asks_for_json(&words(line)), json, "{line}");
        }
    }

    #[test]
    fn usage_errors_name_the_command_to_ask() {
        for (line, next) in [
            ("muster task create", "`muster task create --help`"),
            ("muster", "`muster --help`"),
            ("muster nonsense", "`muster --help`"),
            (
                "muster item history x --limit 0",
                "`muster item history --help`",
            ),
        ] {
            let error = Cli::command()
                .try_get_matches_from(words(line))
                .unwrap_err();
            let error = usage_error(&error, &words(line));
            assert_eq!(error.code, Code::USAGE);
            assert!(!error.title.is_empty());
            assert_eq!(error.hint.as_deref(), Some(next), "{line}");
        }
    }
}
