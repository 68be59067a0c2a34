//! What tools present to devices: SNMP communities and users.
//!
//! Secrets have no `Display`; `Debug` shows that there is one and no more.

use std::fmt;
use std::str::FromStr;

/// A secret text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // Overwrites the text with zeros, which is valid UTF-8, before the memory is given back.
        let len = self.0.len();
        self.0.clear();
        self.0.extend(std::iter::repeat_n('\0', len));
        std::hint::black_box(&self.0);
    }
}

/// How to hash SNMPv3 messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthProtocol {
    /// HMAC-MD5-96.
    Md5,
    /// HMAC-SHA-96.
    Sha1,
    /// HMAC-SHA-224.
    Sha224,
    /// HMAC-SHA-256.
    Sha256,
    /// HMAC-SHA-384.
    Sha384,
    /// HMAC-SHA-512.
    Sha512,
}

/// How to encrypt SNMPv3 messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivProtocol {
    /// AES-128.
    Aes128,
    /// AES-192, Blumenthal key extension.
    Aes192,
    /// AES-192, Reeder (Cisco) key extension.
    Aes192c,
    /// AES-256, Blumenthal key extension.
    Aes256,
    /// AES-256, Reeder (Cisco) key extension.
    Aes256c,
    /// DES.
    Des,
    /// Triple DES.
    TripleDes,
}

const AUTH_WORDS: [(&str, AuthProtocol); 7] = [
    ("md5", AuthProtocol::Md5),
    ("sha1", AuthProtocol::Sha1),
    ("sha", AuthProtocol::Sha1),
    ("sha224", AuthProtocol::Sha224),
    ("sha256", AuthProtocol::Sha256),
    ("sha384", AuthProtocol::Sha384),
    ("sha512", AuthProtocol::Sha512),
];

const PRIV_WORDS: [(&str, PrivProtocol); 8] = [
    ("aes128", PrivProtocol::Aes128),
    ("aes", PrivProtocol::Aes128),
    ("aes192", PrivProtocol::Aes192),
    ("aes192c", PrivProtocol::Aes192c),
    ("aes256", PrivProtocol::Aes256),
    ("aes256c", PrivProtocol::Aes256c),
    ("des", PrivProtocol::Des),
    ("3des", PrivProtocol::TripleDes),
];

impl AuthProtocol {
    /// The word of the FusionInventory contract (section 1.2), lower case.
    pub fn word(self) -> &'static str {
        AUTH_WORDS
            .iter()
            .find(|(_, p)| *p == self)
            .map_or("sha1", |(word, _)| word)
    }
}

impl PrivProtocol {
    /// The word of the FusionInventory contract (section 1.2), lower case.
    pub fn word(self) -> &'static str {
        PRIV_WORDS
            .iter()
            .find(|(_, p)| *p == self)
            .map_or("aes128", |(word, _)| word)
    }
}

impl FromStr for AuthProtocol {
    type Err = BadCredential;

    fn from_str(text: &str) -> Result<Self, BadCredential> {
        let lower = text.to_ascii_lowercase();
        AUTH_WORDS
            .iter()
            .find(|(word, _)| *word == lower)
            .map(|(_, protocol)| *protocol)
            .ok_or(BadCredential::AuthProtocol)
    }
}

impl FromStr for PrivProtocol {
    type Err = BadCredential;

    fn from_str(text: &str) -> Result<Self, BadCredential> {
        let lower = text.to_ascii_lowercase();
        PRIV_WORDS
            .iter()
            .find(|(word, _)| *word == lower)
            .map(|(_, protocol)| *protocol)
            .ok_or(BadCredential::PrivProtocol)
    }
}

/// SNMPv3 security.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usm {
    /// User name.
    pub user: String,
    /// Authentication, if any.
    pub auth: Option<(AuthProtocol, Secret)>,
    /// Encryption, only beside authentication.
    pub privacy: Option<(PrivProtocol, Secret)>,
}

/// What an SNMP request presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnmpAuth {
    /// SNMPv1 with a community.
    V1(Secret),
    /// SNMPv2c with a community.
    V2c(Secret),
    /// SNMPv3 with a user.
    V3(Usm),
}

/// One set of secrets for SNMP devices, with where they answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snmp {
    /// What to present.
    pub auth: SnmpAuth,
    /// UDP port; 161 unless given.
    pub port: Option<u16>,
}

/// A text that is no credential. None of the variants repeats the text: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCredential {
    /// Not an authentication protocol.
    #[error("the authentication protocol is none of md5, sha1, sha224, sha256, sha384, sha512")]
    AuthProtocol,
    /// Nothing where the community should be.
    #[error("the community is empty")]
    EmptyCommunity,
    /// Not of the known forms.
    #[error(
        "a credential is v1:COMMUNITY, v2c:COMMUNITY[@PORT] or \
         v3:USER,AUTHPROTO,AUTHPASS[,PRIVPROTO,PRIVPASS][@PORT]"
    )]
    Form,
    /// The passphrase is shorter than SNMPv3 allows.
    #[error("an SNMPv3 passphrase has at least 8 characters")]
    ShortPassphrase,
    /// Not an encryption protocol.
    #[error("the privacy protocol is none of des, 3des, aes128, aes192, aes192c, aes256, aes256c")]
    PrivProtocol,
}

impl FromStr for Snmp {
    type Err = BadCredential;

    fn from_str(text: &str) -> Result<Self, BadCredential> {
        let (version, rest) = text.split_once(':').ok_or(BadCredential::Form)?;
        let (body, port) = match rest.rsplit_once('@') {
            Some((body, port)) => match port.parse::<u16>() {
                Ok(port) if port != 0 => (body, Some(port)),
                // An '@' that no port follows belongs to the secret.
                Ok(_) | Err(_) => (rest, None),
            },
            None => (rest, None),
        };
        let community = || {
            if body.is_empty() {
                Err(BadCredential::EmptyCommunity)
            } else {
                Ok(Secret::new(body))
            }
        };
        let auth = match version {
            "v1" => SnmpAuth::V1(community()?),
            "v2c" => SnmpAuth::V2c(community()?),
            "v3" => SnmpAuth::V3(parse_usm(body)?),
            _ => return Err(BadCredential::Form),
        };
        Ok(Self { auth, port })
    }
}

fn parse_usm(body: &str) -> Result<Usm, BadCredential> {
    let parts: Vec<&str> = body.split(',').collect();
    let passphrase = |text: &str| {
        if text.len() < 8 {
            Err(BadCredential::ShortPassphrase)
        } else {
            Ok(Secret::new(text))
        }
    };
    let (user, auth, privacy) = match parts[..] {
        [user] => (user, None, None),
        [user, auth, auth_pass] => (user, Some((auth.parse()?, passphrase(auth_pass)?)), None),
        [user, auth, auth_pass, privacy, priv_pass] => (
            user,
            Some((auth.parse()?, passphrase(auth_pass)?)),
            Some((privacy.parse()?, passphrase(priv_pass)?)),
        ),
        _ => return Err(BadCredential::Form),
    };
    if user.is_empty() {
        return Err(BadCredential::Form);
    }
    Ok(Usm {
        user: user.to_owned(),
        auth,
        privacy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials() {
        let v2c: Snmp = "v2c:public@16100".parse().expect("v2c");
        assert_eq!(
            v2c,
            Snmp {
                auth: SnmpAuth::V2c(Secret::new("public")),
                port: Some(16100)
            }
        );
        let at: Snmp = "v1:pu@blic".parse().expect("v1");
        assert_eq!(
            at,
            Snmp {
                auth: SnmpAuth::V1(Secret::new("pu@blic")),
                port: None
            }
        );
        let v3: Snmp = "v3:muster,SHA,musterauth1,AES,musterpriv1"
            .parse()
            .expect("v3");
        let SnmpAuth::V3(usm) = v3.auth else {
            panic!("v3")
        };
        assert_eq!(usm.auth.map(|(p, _)| p.word()), Some("sha1"));
        assert_eq!(usm.privacy.map(|(p, _)| p.word()), Some("aes128"));
    }

    #[test]
    fn refusals_do_not_repeat_the_secret() {
        for text in [
            "s3cret",
            "v2c:",
            "v4:s3cret",
            "v3:u,sha,s3cret",
            "v3:u,s3cret,s3cret12",
            "v3:u,sha",
            "v3:,sha1,s3cret12",
        ] {
            let error = text.parse::<Snmp>().expect_err(text);
            assert!(!error.to_string().contains("s3cret"), "{text}");
        }
        assert_eq!(format!("{:?}", Secret::new("s3cret")), "***");
    }
}
