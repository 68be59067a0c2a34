//! The help texts, as people read them: what they promise is what scripts hold on to.

use std::process::Command;

const COMMANDS: &[&str] = &[
    "",
    "up",
    "server",
    "server run",
    "server check",
    "server migrate",
    "agent",
    "agent run",
    "agent list",
    "agent show",
    "agent approve",
    "agent disable",
    "agent remove",
    "agent key",
    "agent key create",
    "task",
    "task create",
    "task list",
    "task show",
    "task cancel",
    "run",
    "run list",
    "run show",
    "run watch",
    "run result",
    "host",
    "host create",
    "host list",
    "host show",
    "item",
    "item create",
    "item list",
    "item get",
    "item history",
    "kind",
    "kind list",
    "status",
    "explain",
    "doctor",
    "inventory",
    "discover",
    "measure",
    "send",
    "probe",
    "decode",
    "bench",
    "bench zabbix",
    "bench fusion",
    "bench teeth",
    "bench pscheduler",
    "completions",
];

/// Commands that come later: absent, not stubs.
const ABSENT: &[&str] = &["apply", "plan", "netinventory", "host diff", "agent arm"];

fn muster(line: &str) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(line.split_whitespace())
        .env_clear()
        .output()
        .expect("the program starts")
}

/// The part of a help text that is the command's own: without the options every command has.
fn own_part(text: &str) -> String {
    let part = text.split("\nCommon options:").next().unwrap_or(text);
    part.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

#[test]
fn help_says_what_every_command_takes() {
    let mut page = String::new();
    for command in COMMANDS {
        let output = muster(&format!("{command} -h"));
        assert!(output.status.success(), "{command}");
        assert!(output.stderr.is_empty(), "{command}");
        let text = String::from_utf8(output.stdout).expect("help is text");
        page += &format!("$ muster {command}\n{}\n", own_part(&text));
    }
    insta::assert_snapshot!("help", page);
}

#[test]
fn every_command_takes_the_common_options() {
    for command in COMMANDS {
        let output = muster(&format!("{command} --help"));
        let text = String::from_utf8(output.stdout).expect("help is text");
        for option in [
            "--output",
            "--state",
            "--url",
            "--token-file",
            "--quiet",
            "--verbose",
            "--no-input",
        ] {
            assert!(text.contains(option), "{command}: {option}");
        }
    }
}

#[test]
fn what_comes_later_is_absent() {
    let help = String::from_utf8(muster("--help").stdout).expect("help is text");
    for command in ABSENT {
        let output = muster(command);
        assert_eq!(output.status.code(), Some(2), "{command}");
        let said = String::from_utf8(output.stderr).expect("errors are text");
        assert!(said.contains("[USAGE]"), "{command}: {said}");
        assert!(
            !help
                .lines()
                .any(|line| line.trim_start().starts_with(command)),
            "{command}"
        );
    }
}

#[test]
fn the_version_and_completions_are_data() {
    let output = muster("--version");
    assert_eq!(
        String::from_utf8(output.stdout).expect("text"),
        format!("muster {}\n", env!("CARGO_PKG_VERSION"))
    );
    for shell in ["bash", "zsh", "fish"] {
        let output = muster(&format!("completions {shell}"));
        assert!(output.status.success(), "{shell}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("netdiscovery")
                || output.stdout.len() > 1000
        );
    }
}
