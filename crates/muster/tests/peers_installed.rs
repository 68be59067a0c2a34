//! The real peers that the other `peers_…` tests start are installed, in the versions whose quirks
//! the code honours.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

/// What `program` says of itself, on both streams.
fn says(program: &str, argument: &str) -> String {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask setup` installs it"));
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn real_peers_are_installed() {
    for (program, argument, version) in [
        ("fusioninventory-agent", "--version", "(2.6-"),
        ("snmpd", "-v", "5.9"),
        ("zabbix_agentd", "-V", "6.0."),
        ("zabbix_proxy", "-V", "6.0."),
        ("zabbix_sender", "-V", "6.0."),
        ("/usr/lib/postgresql/15/bin/postgres", "--version", " 15."),
    ] {
        let said = says(program, argument);
        assert!(
            said.contains(version),
            "{program} is not the expected {version}: {said}"
        );
    }
}
