//! The commanding end: the rules on versions of proxies.
//!
//! What is asked and answered is in [`super::wire`], the connection in [`super::accepted`]. Contract:
//! Zabbix page, section 2.1.

use super::wire::{Dialect, Version};

/// What a version of a proxy means for its uploads (contract, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataVersion {
    /// Taken, in this dialect.
    Accepted(Dialect),
    /// Refused with a bare `failed`, as 6.0 does with what is missing or older than 4.2.
    RefusedBare,
    /// Refused with `upload: disabled`, as 7.0 does with what is newer than it.
    RefusedDisabled,
}

/// The newest major version whose uploads are known to be in the 7.0 dialect.
const MAJOR_MAX: u16 = 7;

/// Judges the version in `proxy data`.
pub fn data_version(version: Option<&str>) -> DataVersion {
    match version.and_then(Version::parse) {
        Some(version) if (version.major, version.minor) < (4, 2) => DataVersion::RefusedBare,
        Some(version) if version.major > MAJOR_MAX => DataVersion::RefusedDisabled,
        Some(version) => DataVersion::Accepted(version.dialect()),
        None => DataVersion::RefusedBare,
    }
}

/// What [`DataVersion::RefusedDisabled`] is told.
pub const UNSUPPORTED_VERSION: &str = "current proxy version is not supported by server";

/// What a 7.0 proxy is told that asks for a configuration in its dialect.
pub const MAJOR_MISMATCH: &str = "proxy and server major versions do not match";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_uploads() {
        use DataVersion::{Accepted, RefusedBare, RefusedDisabled};
        let cases = [
            (None, RefusedBare),
            (Some("x"), RefusedBare),
            (Some("3.0"), RefusedBare),
            (Some("4.0.50"), RefusedBare),
            (Some("4.2.0"), Accepted(Dialect::V60)),
            (Some("5.4.0"), Accepted(Dialect::V60)),
            (Some("6.0.14"), Accepted(Dialect::V60)),
            (Some("6.4.1"), Accepted(Dialect::V70)),
            (Some("7.0.22"), Accepted(Dialect::V70)),
            (Some("9.9.0"), RefusedDisabled),
        ];
        for (version, wanted) in cases {
            assert_eq!(data_version(version), wanted, "{version:?}");
        }
    }
}
