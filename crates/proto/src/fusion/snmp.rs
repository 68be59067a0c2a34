//! What a network task names: devices, ranges of addresses, SNMP credentials.
//!
//! The same things in two spellings: lower-case JSON in P1, upper-case XML attributes in P2
//! (FusionInventory contract, sections 1.2 and 2.3).

use std::fmt;
use std::net::Ipv4Addr;

use super::json::{Fields, JsonError};
use super::wire::Secret;
use super::xml::Element;

/// The device type vocabulary: lower case in P1, upper case in XML, capitalised in P3.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "the words are the protocol's own")]
pub enum DeviceType {
    Computer,
    Kvm,
    Networking,
    Phone,
    Power,
    Printer,
    Storage,
    Video,
}

impl DeviceType {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Computer,
        Self::Kvm,
        Self::Networking,
        Self::Phone,
        Self::Power,
        Self::Printer,
        Self::Storage,
        Self::Video,
    ];

    /// Reads a word in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_lower().eq_ignore_ascii_case(text))
    }

    /// As P1 writes it.
    #[must_use]
    pub fn as_lower(self) -> &'static str {
        match self {
            Self::Computer => "computer",
            Self::Kvm => "kvm",
            Self::Networking => "networking",
            Self::Phone => "phone",
            Self::Power => "power",
            Self::Printer => "printer",
            Self::Storage => "storage",
            Self::Video => "video",
        }
    }

    /// As P2 writes it.
    #[must_use]
    pub fn as_upper(self) -> &'static str {
        match self {
            Self::Computer => "COMPUTER",
            Self::Kvm => "KVM",
            Self::Networking => "NETWORKING",
            Self::Phone => "PHONE",
            Self::Power => "POWER",
            Self::Printer => "PRINTER",
            Self::Storage => "STORAGE",
            Self::Video => "VIDEO",
        }
    }
}

/// An inclusive range of IPv4 addresses: `a.b.c.d/n`, `first-last`, or one address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Network {
    text: String,
    first: Ipv4Addr,
    last: Ipv4Addr,
}

/// The text names no range.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an address, a.b.c.d/n or first-last")]
pub struct BadNetwork;

impl Network {
    /// Reads a range. A block begins at its first address whatever address names it.
    ///
    /// # Errors
    /// [`BadNetwork`], also for a reversed range.
    pub fn parse(text: &str) -> Result<Self, BadNetwork> {
        let text = text.trim();
        let (first, last) = if let Some((address, bits)) = text.split_once('/') {
            let address = u32::from(address.trim().parse::<Ipv4Addr>().map_err(|_| BadNetwork)?);
            let bits: u32 = bits.trim().parse().map_err(|_| BadNetwork)?;
            if bits > 32 {
                return Err(BadNetwork);
            }
            let host = u32::MAX.checked_shr(bits).unwrap_or(0);
            (
                Ipv4Addr::from(address & !host),
                Ipv4Addr::from(address | host),
            )
        } else if let Some((first, last)) = text.split_once('-') {
            let first = first.trim().parse().map_err(|_| BadNetwork)?;
            (first, last.trim().parse().map_err(|_| BadNetwork)?)
        } else {
            let one = text.parse().map_err(|_| BadNetwork)?;
            (one, one)
        };
        Self::between(first, last).map(|range| Self {
            text: text.to_owned(),
            ..range
        })
    }

    /// The range from `first` to `last`.
    ///
    /// # Errors
    /// [`BadNetwork`] when reversed.
    pub fn between(first: Ipv4Addr, last: Ipv4Addr) -> Result<Self, BadNetwork> {
        if first > last {
            return Err(BadNetwork);
        }
        let text = match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        Ok(Self { text, first, last })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// First address.
    #[must_use]
    pub fn first(&self) -> Ipv4Addr {
        self.first
    }

    /// Last address, included.
    #[must_use]
    pub fn last(&self) -> Ipv4Addr {
        self.last
    }

    /// Number of addresses.
    #[must_use]
    pub fn count(&self) -> u64 {
        u64::from(u32::from(self.last))
            .saturating_sub(u64::from(u32::from(self.first)))
            .saturating_add(1)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One credential to try.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credential {
    /// What results name it by. Absent: its 1-based position.
    pub id: Option<String>,
    /// Seconds to wait with this credential, over the target's.
    pub timeout: Option<u32>,
    /// UDP port to try it at; absent, 161. GLPI agents know it in P2, Muster's also in P1.
    pub port: Option<u16>,
    /// Who to be.
    pub snmp: Snmp,
}

/// SNMP version and what it needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Snmp {
    /// Version 1.
    V1 {
        /// The community.
        community: Secret,
    },
    /// Version 2c.
    V2c {
        /// The community.
        community: Secret,
    },
    /// Version 3; with neither protocol noAuthNoPriv, with `auth` only authNoPriv.
    V3 {
        /// The user.
        username: String,
        /// How it proves itself.
        auth: Option<(AuthProtocol, Secret)>,
        /// How it hides what it says; needs `auth`.
        privacy: Option<(PrivProtocol, Secret)>,
    },
}

/// Authentication protocols of SNMPv3.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the words are the protocol's own")]
pub enum AuthProtocol {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// Privacy protocols of SNMPv3; the `c` forms extend keys the Cisco (Reeder) way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the words are the protocol's own")]
pub enum PrivProtocol {
    Des,
    TripleDes,
    Aes128,
    Aes192,
    Aes192c,
    Aes256,
    Aes256c,
}

impl AuthProtocol {
    /// Reads a name in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.trim().to_ascii_lowercase().as_str() {
            "md5" => Self::Md5,
            "sha" | "sha1" => Self::Sha1,
            "sha224" => Self::Sha224,
            "sha256" => Self::Sha256,
            "sha384" => Self::Sha384,
            "sha512" => Self::Sha512,
            _ => return None,
        })
    }

    /// As P1 writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn as_p2(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }
}

impl PrivProtocol {
    /// Reads a name in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.trim().to_ascii_lowercase().as_str() {
            "des" => Self::Des,
            "3des" => Self::TripleDes,
            "aes" | "aes128" => Self::Aes128,
            "aes192" => Self::Aes192,
            "aes192c" => Self::Aes192c,
            "aes256" => Self::Aes256,
            "aes256c" => Self::Aes256c,
            _ => return None,
        })
    }

    /// As P1 writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Des => "des",
            Self::TripleDes => "3des",
            Self::Aes128 => "aes128",
            Self::Aes192 => "aes192",
            Self::Aes192c => "aes192c",
            Self::Aes256 => "aes256",
            Self::Aes256c => "aes256c",
        }
    }

    fn as_p2(self) -> &'static str {
        match self {
            Self::Des => "DES",
            Self::TripleDes => "3DES",
            Self::Aes128 => "AES",
            Self::Aes192 => "AES192",
            Self::Aes192c => "AES192C",
            Self::Aes256 => "AES256",
            Self::Aes256c => "AES256C",
        }
    }
}

impl Credential {
    /// Reads a P1 credential object.
    ///
    /// # Errors
    /// [`JsonError::Field`] naming what is missing or unknown.
    pub fn from_json(fields: &Fields<'_>) -> Result<Self, JsonError> {
        let version = fields.required_text("version")?;
        let secret = |key: &str| fields.text(key).map(|t| t.map(Secret::new));
        let snmp = match version.trim() {
            "1" | "1.0" => Snmp::V1 {
                community: secret("community")?
                    .ok_or_else(|| fields.wrong("community", "a string"))?,
            },
            "2c" | "2C" | "2" | "2.0" => Snmp::V2c {
                community: secret("community")?
                    .ok_or_else(|| fields.wrong("community", "a string"))?,
            },
            "3" | "3.0" => Snmp::V3 {
                username: fields.required_text("username")?,
                auth: match secret("authpassword")?.filter(|s| !s.is_empty()) {
                    None => None,
                    Some(password) => Some((
                        match fields.text("authprotocol")? {
                            None => AuthProtocol::Md5,
                            Some(name) => AuthProtocol::parse(&name)
                                .ok_or_else(|| fields.wrong("authprotocol", "a known protocol"))?,
                        },
                        password,
                    )),
                },
                privacy: match secret("privpassword")?.filter(|s| !s.is_empty()) {
                    None => None,
                    Some(password) => Some((
                        match fields.text("privprotocol")? {
                            None => PrivProtocol::Des,
                            Some(name) => PrivProtocol::parse(&name)
                                .ok_or_else(|| fields.wrong("privprotocol", "a known protocol"))?,
                        },
                        password,
                    )),
                },
            },
            _ => return Err(fields.wrong("version", "1, 2c or 3")),
        };
        if let Snmp::V3 {
            auth: None,
            privacy: Some(_),
            ..
        } = snmp
        {
            return Err(fields.wrong("authpassword", "a string (privacy needs it)"));
        }
        Ok(Self {
            id: fields.text("id")?.filter(|id| !id.is_empty()),
            timeout: fields
                .integer("timeout")?
                .and_then(|t| u32::try_from(t).ok())
                .filter(|t| *t > 0),
            port: fields.port("port")?,
            snmp,
        })
    }

    /// The P1 form.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut out = serde_json::Map::new();
        let mut put = |key: &str, value: &str| {
            out.insert(key.to_owned(), value.into());
        };
        match &self.snmp {
            Snmp::V1 { community } => {
                put("version", "1");
                put("community", community.reveal());
            }
            Snmp::V2c { community } => {
                put("version", "2c");
                put("community", community.reveal());
            }
            Snmp::V3 {
                username,
                auth,
                privacy,
            } => {
                put("version", "3");
                put("username", username);
                if let Some((protocol, password)) = auth {
                    put("authprotocol", protocol.as_str());
                    put("authpassword", password.reveal());
                }
                if let Some((protocol, password)) = privacy {
                    put("privprotocol", protocol.as_str());
                    put("privpassword", password.reveal());
                }
            }
        }
        if let Some(id) = &self.id {
            put("id", id);
        }
        if let Some(timeout) = self.timeout {
            out.insert("timeout".to_owned(), timeout.into());
        }
        if let Some(port) = self.port {
            out.insert("port".to_owned(), port.into());
        }
        out.into()
    }

    /// Reads a P2 `AUTHENTICATION`. One without what its version needs is `None`: agents skip it
    /// silently.
    #[must_use]
    pub fn from_xml(element: &Element<'_>) -> Option<Self> {
        let secret = |name: &str| element.value(name).map(Secret::new);
        let snmp = match element.value("VERSION")? {
            "1" => Snmp::V1 {
                community: secret("COMMUNITY")?,
            },
            "2" | "2c" | "2C" => Snmp::V2c {
                community: secret("COMMUNITY")?,
            },
            "3" => Snmp::V3 {
                username: element.value("USERNAME")?.to_owned(),
                auth: match secret("AUTHPASSPHRASE") {
                    None => None,
                    Some(passphrase) => Some((
                        AuthProtocol::parse(element.value("AUTHPROTOCOL").unwrap_or("MD5"))?,
                        passphrase,
                    )),
                },
                privacy: match secret("PRIVPASSPHRASE") {
                    None => None,
                    Some(passphrase) => Some((
                        PrivProtocol::parse(element.value("PRIVPROTOCOL").unwrap_or("DES"))?,
                        passphrase,
                    )),
                },
            },
            _ => return None,
        };
        Some(Self {
            id: element.value("ID").map(str::to_owned),
            timeout: None,
            port: element
                .value("PORT")
                .and_then(|p| p.parse().ok())
                .filter(|p| *p > 0),
            snmp,
        })
    }

    /// The attributes of a P2 `AUTHENTICATION`; `id` is used where the credential has none.
    pub(super) fn write_xml(&self, writer: &mut super::xml::Writer, id: &str) {
        let id = Some(self.id.as_deref().unwrap_or(id));
        let port = self.port.map(|port| port.to_string());
        let port = ("PORT", port.as_deref());
        match &self.snmp {
            Snmp::V1 { community } => writer.attributes(
                "AUTHENTICATION",
                &[
                    ("ID", id),
                    ("VERSION", Some("1")),
                    ("COMMUNITY", Some(community.reveal())),
                    port,
                ],
            ),
            Snmp::V2c { community } => writer.attributes(
                "AUTHENTICATION",
                &[
                    ("ID", id),
                    ("VERSION", Some("2c")),
                    ("COMMUNITY", Some(community.reveal())),
                    port,
                ],
            ),
            Snmp::V3 {
                username,
                auth,
                privacy,
            } => writer.attributes(
                "AUTHENTICATION",
                &[
                    ("ID", id),
                    ("VERSION", Some("3")),
                    ("USERNAME", Some(username)),
                    ("AUTHPROTOCOL", auth.as_ref().map(|(p, _)| p.as_p2())),
                    ("AUTHPASSPHRASE", auth.as_ref().map(|(_, s)| s.reveal())),
                    ("PRIVPROTOCOL", privacy.as_ref().map(|(p, _)| p.as_p2())),
                    ("PRIVPASSPHRASE", privacy.as_ref().map(|(_, s)| s.reveal())),
                    port,
                ],
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let cases = [
            ("192.168.0.0/24", "192.168.0.0", "192.168.0.255", 256),
            ("192.168.0.77/24", "192.168.0.0", "192.168.0.255", 256),
            ("10.0.0.1-10.0.0.9", "10.0.0.1", "10.0.0.9", 9),
            ("10.0.0.1 - 10.0.0.1", "10.0.0.1", "10.0.0.1", 1),
            ("10.0.0.7", "10.0.0.7", "10.0.0.7", 1),
            ("10.0.0.7/32", "10.0.0.7", "10.0.0.7", 1),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255", 1 << 32),
        ];
        for (text, first, last, count) in cases {
            let network = Network::parse(text).unwrap();
            assert_eq!(network.first().to_string(), first, "{text}");
            assert_eq!(network.last().to_string(), last, "{text}");
            assert_eq!(network.count(), count, "{text}");
            assert_eq!(network.as_str(), text);
        }
        for bad in [
            "",
            "x",
            "10.0.0.9-10.0.0.1",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0/8",
            "::1",
        ] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }

    fn credential(text: &str) -> Result<Credential, JsonError> {
        Credential::from_json(&Fields::of(text, "credentials[0]").unwrap())
    }

    #[test]
    fn credentials_in_every_spelling() {
        let public = Secret::new("public");
        for (version, v1) in [
            ("\"1\"", true),
            ("1", true),
            ("\"2c\"", false),
            ("\"2\"", false),
        ] {
            let text = format!(r#"{{"version":{version},"community":"public"}}"#);
            let want = match v1 {
                true => Snmp::V1 {
                    community: public.clone(),
                },
                false => Snmp::V2c {
                    community: public.clone(),
                },
            };
            assert_eq!(credential(&text).unwrap().snmp, want, "{text}");
        }
        let protocols = [
            ("md5", "des", AuthProtocol::Md5, PrivProtocol::Des),
            ("SHA", "3DES", AuthProtocol::Sha1, PrivProtocol::TripleDes),
            ("sha1", "AES", AuthProtocol::Sha1, PrivProtocol::Aes128),
            (
                "Sha224",
                "aes128",
                AuthProtocol::Sha224,
                PrivProtocol::Aes128,
            ),
            (
                "sha256",
                "aes192",
                AuthProtocol::Sha256,
                PrivProtocol::Aes192,
            ),
            (
                "sha384",
                "aes192c",
                AuthProtocol::Sha384,
                PrivProtocol::Aes192c,
            ),
            (
                "sha512",
                "aes256",
                AuthProtocol::Sha512,
                PrivProtocol::Aes256,
            ),
            (
                "sha512",
                "AES256C",
                AuthProtocol::Sha512,
                PrivProtocol::Aes256c,
            ),
        ];
        for (auth, privacy, want_auth, want_privacy) in protocols {
            let text = format!(
                r#"{{"version":3,"username":"u","authprotocol":"{auth}","authpassword":"a",
                    "privprotocol":"{privacy}","privpassword":"p","timeout":"4","id":9}}"#
            );
            let got = credential(&text).unwrap();
            assert_eq!(got.timeout, Some(4));
            assert_eq!(got.id.as_deref(), Some("9"));
            let want = Snmp::V3 {
                username: "u".to_owned(),
                auth: Some((want_auth, Secret::new("a"))),
                privacy: Some((want_privacy, Secret::new("p"))),
            };
            assert_eq!(got.snmp, want, "{text}");
            let text = got.to_json().to_string();
            assert_eq!(credential(&text).unwrap(), got, "{text}");
        }
        let none = credential(r#"{"version":"3","username":"u"}"#).unwrap();
        assert!(matches!(
            none.snmp,
            Snmp::V3 {
                auth: None,
                privacy: None,
                ..
            }
        ));
    }

    #[test]
    fn credentials_that_are_refused_name_the_field() {
        let cases = [
            (r#"{}"#, "credentials[0].version"),
            (r#"{"version":"4"}"#, "credentials[0].version"),
            (r#"{"version":"2c"}"#, "credentials[0].community"),
            (r#"{"version":"3"}"#, "credentials[0].username"),
            (
                r#"{"version":"3","username":"u","authpassword":"x","authprotocol":"rot13"}"#,
                "credentials[0].authprotocol",
            ),
            (
                r#"{"version":"3","username":"u","authpassword":"x","privpassword":"y","privprotocol":"rot13"}"#,
                "credentials[0].privprotocol",
            ),
            (
                r#"{"version":"3","username":"u","privpassword":"y"}"#,
                "credentials[0].authpassword",
            ),
        ];
        for (text, path) in cases {
            let error = credential(text).unwrap_err().to_string();
            assert!(error.starts_with(path), "{text}: {error}");
        }
    }

    #[test]
    fn no_secret_is_printed() {
        let text =
            r#"{"version":"3","username":"u","authpassword":"canary-1","privpassword":"canary-2"}"#;
        let printed = format!("{:?}", credential(text).unwrap());
        assert!(!printed.contains("canary"), "{printed}");
    }
}
