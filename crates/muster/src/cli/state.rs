//! The state folder as a client sees it: where it is, which addresses are bound, the local token.
//!
//! Reads only; the server writes these files (surface, section 2).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::args::Global;
use super::error::{CliError, Code, Exit};

/// `addresses.json`: what is really bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Addresses {
    /// The process that bound them.
    #[serde(default)]
    pub(crate) pid: u32,
    /// Plain HTTP.
    #[serde(default)]
    pub(crate) http: Option<String>,
    /// HTTPS.
    #[serde(default)]
    pub(crate) https: Option<String>,
    /// Plain teeth lines.
    #[serde(default)]
    pub(crate) teeth: Option<String>,
    /// Teeth over TLS.
    #[serde(default)]
    pub(crate) teeths: Option<String>,
    /// Zabbix.
    #[serde(default)]
    pub(crate) zabbix: Option<String>,
}

/// Name of the file with the bound addresses.
pub(crate) const ADDRESSES: &str = "addresses.json";

/// Name of the file with the local administrator's token.
pub(crate) const TOKEN: &str = "admin.token";

/// The state folder: the flag or variable, else where the platform keeps state.
pub(crate) fn folder(global: &Global) -> PathBuf {
    if let Some(folder) = global
        .state
        .as_ref()
        .filter(|path| !path.as_os_str().is_empty())
    {
        return folder.clone();
    }
    let variable = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    if let Some(base) = variable("XDG_STATE_HOME") {
        return base.join("muster");
    }
    match variable("HOME") {
        Some(home) => home.join(".local/state/muster"),
        None => PathBuf::from("/var/lib/muster"),
    }
}

/// The addresses a server on this machine has bound.
pub(crate) fn addresses(folder: &Path) -> Result<Addresses, CliError> {
    let path = folder.join(ADDRESSES);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        let error = CliError::new(
            Exit::Unreachable,
            Code::NO_SERVER,
            "no server is running here",
        );
        let error = if e.kind() == std::io::ErrorKind::NotFound {
            error.line(format!("{} does not exist", path.display()))
        } else {
            error.line(format!("cannot read {}: {e}", path.display()))
        };
        error.next("`muster up` or `muster server run`; or name one with --url or --state")
    })?;
    serde_json::from_str(&text).map_err(|e| {
        CliError::new(
            Exit::Unreachable,
            Code::NO_SERVER,
            "cannot tell where the server listens",
        )
        .line(format!(
            "{} is not as a server writes it: {e}",
            path.display()
        ))
        .next("start the server again; or name it with --url")
    })
}

/// The token for the admin API: the file named, the variable, the state folder.
pub(crate) fn token(global: &Global) -> Result<String, CliError> {
    if let Some(file) = &global.token_file {
        return read_token(file);
    }
    if let Some(token) = std::env::var("MUSTER_TOKEN")
        .ok()
        .filter(|token| !token.is_empty())
    {
        return Ok(token.trim().to_owned());
    }
    read_token(&folder(global).join(TOKEN))
}

fn read_token(file: &Path) -> Result<String, CliError> {
    let denied = |line: String| {
        CliError::new(Exit::Denied, Code::NO_TOKEN, "no token for the admin API")
            .line(line)
            .next("name it with --token-file or MUSTER_TOKEN; the server keeps it in STATE/admin.token")
    };
    let text = std::fs::read_to_string(file)
        .map_err(|e| denied(format!("cannot read {}: {e}", file.display())))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(denied(format!("{} holds no token", file.display())));
    }
    Ok(token.to_owned())
}

/// Every certificate in `STATE/tls`: what a client on this machine trusts.
pub(crate) fn certificates(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder.join("tls")) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
        .into_iter()
        .filter(|path| {
            path.extension()
                .is_some_and(|e| e == "pem" || e == "crt" || e == "cert")
        })
        .filter_map(|path| std::fs::read(path).ok())
        .filter(|bytes| bytes.windows(MARK.len()).any(|window| window == MARK))
        .collect()
}

const MARK: &[u8] = b"-----BEGIN CERTIFICATE-----";

#[cfg(test)]
mod tests {
    use super::*;

    fn global(state: &Path) -> Global {
        Global {
            output: None,
            state: Some(state.to_owned()),
            url: None,
            token_file: None,
            quiet: false,
            verbose: 0,
            no_input: true,
        }
    }

    #[test]
    fn addresses_as_a_server_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join(ADDRESSES),
            r#"{"pid":7,"http":"127.0.0.1:8080","zabbix":"127.0.0.1:10051"}"#,
        )
        .unwrap();
        let addresses = addresses(folder.path()).unwrap();
        assert_eq!(addresses.pid, 7);
        assert_eq!(addresses.http.as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(addresses.https, None);
    }

    #[test]
    fn without_addresses_there_is_no_server() {
        let folder = tempfile::tempdir().unwrap();
        let error = addresses(folder.path()).unwrap_err();
        assert_eq!(
            (error.exit, error.code),
            (Exit::Unreachable, Code::NO_SERVER)
        );
        std::fs::write(folder.path().join(ADDRESSES), "{").unwrap();
        assert_eq!(
            addresses(folder.path()).unwrap_err().exit,
            Exit::Unreachable
        );
    }

    #[test]
    fn a_token_is_one_printable_word() {
        let folder = tempfile::tempdir().unwrap();
        let mut global = global(folder.path());
        global.token_file = Some(folder.path().join("t"));
        for (text, token) in [
            ("abc\n", Some("abc")),
            ("", None),
            ("\n", None),
            ("a b", None),
            ("a\u{1b}", None),
        ] {
            std::fs::write(folder.path().join("t"), text).unwrap();
            assert_eq!(super::token(&global).ok().as_deref(), token, "{text:?}");
        }
        global.token_file = Some(folder.path().join("absent"));
        assert_eq!(super::token(&global).unwrap_err().exit, Exit::Denied);
    }
}
