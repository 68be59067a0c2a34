//! Names and addresses: looking hosts up before the policy judges them.
//!
//! A name is resolved once and the address is what is judged and used, so that an answer that
//! changes in between cannot lead packets elsewhere.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::Failure;

/// IP version a test is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

impl Family {
    /// Whether an address is of this version.
    #[must_use]
    pub fn holds(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// The first address of a host, in the order of the system's resolver.
///
/// # Errors
/// [`Failure`] when it has none of that version.
pub async fn resolve(host: &str, family: Option<Family>) -> Result<IpAddr, Failure> {
    let fits = |address: &IpAddr| family.is_none_or(|family| family.holds(*address));
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(address).filter(fits).ok_or_else(|| {
            Failure::failed(format!(
                "{host} is not an address of the IP version asked for"
            ))
        });
    }
    let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| {
        Failure::failed(format!("cannot look up {host}: {error}"))
            .with_remedy("give an address, or check the name and this machine's resolver")
    })?;
    found
        .map(|address: SocketAddr| address.ip())
        .find(fits)
        .ok_or_else(|| {
            Failure::failed(format!("{host} has no address of the IP version asked for"))
        })
}

/// Names of addresses as the machine's own `hosts` file gives them. Blocks on the file.
#[must_use]
pub fn hosts_file(root: &Path) -> BTreeMap<IpAddr, String> {
    let text = std::fs::read_to_string(root.join("etc/hosts")).unwrap_or_default();
    let mut names = BTreeMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        if let (Some(Ok(address)), Some(name)) = (words.next().map(str::parse), words.next()) {
            names.entry(address).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn addresses_need_no_resolver() {
        let resolve = async |host: &str, family| resolve(host, family).await.ok();
        assert_eq!(
            resolve("127.0.0.9", None).await,
            Some([127, 0, 0, 9].into())
        );
        assert_eq!(resolve("127.0.0.9", Some(Family::V6)).await, None);
        assert_eq!(resolve("::1", Some(Family::V6)).await, "::1".parse().ok());
        assert_eq!(
            resolve("localhost", Some(Family::V4)).await,
            Some([127, 0, 0, 1].into())
        );
    }

    #[test]
    fn hosts_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let text = "127.0.0.1 localhost\n#10.0.0.1 gone\n10.0.0.2\tnode.example node # x\nbad line\n\
            10.0.0.2 second\n::1 localhost6\n";
        std::fs::write(dir.path().join("etc/hosts"), text).unwrap();
        let names = hosts_file(dir.path());
        assert_eq!(names.len(), 3);
        assert_eq!(names[&IpAddr::from([10, 0, 0, 2])], "node.example");
        assert!(hosts_file(&dir.path().join("none")).is_empty());
    }
}
