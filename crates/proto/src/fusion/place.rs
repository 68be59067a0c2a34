//! The paths that agents are given, and what is below each of them.

use percent_encoding::percent_decode_str;

use super::side::Remote;

/// Where agents are told to go; below each of these the whole protocol is served.
pub const BASES: [&str; 9] = [
    "/glpi/plugins/fusioninventory",
    "/glpi/plugins/glpiinventory",
    "/glpi/marketplace/glpiinventory",
    "/glpi/front/inventory.php",
    "/plugins/fusioninventory",
    "/plugins/glpiinventory",
    "/marketplace/glpiinventory",
    "/front/inventory.php",
    "",
];

/// A place below a base.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// The base itself: P2, P3 and the side protocol's getConfig.
    Main,
    /// `b/collect/`, `b/deploy/`, `b/esx/`.
    Remote(Remote),
    /// `api/results`.
    Results,
    /// `api/tasks`.
    Tasks,
    /// `api.php/token`.
    Token,
}

impl Place {
    /// Finds the base and place of a path; decoded once, then matched as a whole.
    #[must_use]
    pub fn find(path: &str) -> Option<(&'static str, Self)> {
        let path = percent_decode_str(path).decode_utf8().ok()?;
        let path = path.trim_end_matches('/');
        if path == "/glpi/api.php/token" {
            return Some(("", Self::Token));
        }
        BASES.into_iter().find_map(|base| {
            let place = match path.strip_prefix(base)? {
                "" => Self::Main,
                "/api/results" => Self::Results,
                "/api/tasks" => Self::Tasks,
                "/api.php/token" => Self::Token,
                "/b/collect" => Self::Remote(Remote::Collect),
                "/b/deploy" => Self::Remote(Remote::Deploy),
                "/b/esx" => Self::Remote(Remote::Esx),
                _ => return None,
            };
            Some((base, place))
        })
    }

    /// The methods it takes, as `Allow` names them.
    #[must_use]
    pub fn allowed(self) -> &'static str {
        match self {
            Self::Main | Self::Remote(_) => "GET, HEAD, POST",
            Self::Results | Self::Token => "POST",
            Self::Tasks => "GET, HEAD",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let cases = [
            ("/", Some(("", Place::Main))),
            ("/api/tasks", Some(("", Place::Tasks))),
            (
                "/glpi/plugins/fusioninventory",
                Some(("/glpi/plugins/fusioninventory", Place::Main)),
            ),
            (
                "/glpi/plugins/fusioninventory/api/tasks/",
                Some(("/glpi/plugins/fusioninventory", Place::Tasks)),
            ),
            (
                "/plugins/glpiinventory/b/esx/",
                Some(("/plugins/glpiinventory", Place::Remote(Remote::Esx))),
            ),
            (
                "/marketplace/glpiinventory/b/deploy",
                Some(("/marketplace/glpiinventory", Place::Remote(Remote::Deploy))),
            ),
            (
                "/front/inventory.php",
                Some(("/front/inventory.php", Place::Main)),
            ),
            (
                "/glpi/front/inventory.php/api/results",
                Some(("/glpi/front/inventory.php", Place::Results)),
            ),
            ("/glpi/api.php/token", Some(("", Place::Token))),
            (
                "/front/inventory.php/api.php/token",
                Some(("/front/inventory.php", Place::Token)),
            ),
            (
                "/plugins/fusioninventory/%61pi/tasks",
                Some(("/plugins/fusioninventory", Place::Tasks)),
            ),
            ("/plugins/fusioninventory/../../etc/passwd", None),
            ("/plugins/fusioninventory%2f..%2fapi/tasks", None),
            ("/api/tasks%00", None),
            ("/%c0%ae%c0%ae/api/tasks", None),
            ("/api\\tasks", None),
            ("/pscheduler/tasks", None),
        ];
        for (path, want) in cases {
            assert_eq!(Place::find(path), want, "{path}");
        }
    }
}
