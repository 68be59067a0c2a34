//! What an HTTP agent shows to be believed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use muster_core::credential::Secret;

use crate::control::Proof;

/// Longest credential looked at.
const SECRET_BYTES_MAX: usize = 512;

/// An enrolment key as `Bearer`, or as the password of `Basic`; the user name says nothing.
pub(super) fn proof(headers: &HeaderMap) -> Proof {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Proof::None;
    };
    let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return Proof::None;
    };
    let rest = rest.trim();
    let secret = if scheme.eq_ignore_ascii_case("bearer") {
        Some(rest.to_owned())
    } else if scheme.eq_ignore_ascii_case("basic") {
        STANDARD
            .decode(rest)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|pair| {
                pair.split_once(':')
                    .map(|(_, password)| password.to_owned())
            })
    } else {
        None
    };
    match secret {
        Some(secret) if !secret.is_empty() && secret.len() <= SECRET_BYTES_MAX => {
            Proof::Key(Secret::new(secret))
        }
        Some(_) | None => Proof::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().expect("a header"));
        match proof(&headers) {
            Proof::Key(secret) => Some(secret.expose().to_owned()),
            Proof::None => None,
        }
    }

    #[test]
    fn keys_in_every_form() {
        assert_eq!(shown("Bearer mek_1").as_deref(), Some("mek_1"));
        assert_eq!(shown("bearer  mek_1").as_deref(), Some("mek_1"));
        // "agent:mek_1"
        assert_eq!(shown("Basic YWdlbnQ6bWVrXzE=").as_deref(), Some("mek_1"));
        for none in [
            "Bearer ",
            "Basic !!",
            "Basic YWdlbnQ=",
            "Digest x",
            "Bearer",
        ] {
            assert_eq!(shown(none), None, "{none}");
        }
        assert_eq!(shown(&format!("Bearer {}", "x".repeat(600))), None);
    }
}
