//! Issuer and subject of a certificate as RFC 4514 writes them, most specific part first.
//!
//! Zabbix peers are configured with these texts and compare them literally (zabbix contract,
//! section 1.6).

use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::X509Name;

use crate::listen::ClientCertificate;

/// The names in a certificate, or `None` when it cannot be read.
pub fn client_certificate(der: &[u8]) -> Option<ClientCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(ClientCertificate {
        issuer: rfc4514(certificate.issuer())?,
        subject: rfc4514(certificate.subject())?,
    })
}

fn rfc4514(name: &X509Name<'_>) -> Option<String> {
    let mut parts = Vec::new();
    for rdn in name.iter() {
        let mut attributes = Vec::new();
        for attribute in rdn.iter() {
            let oid = attribute.attr_type().to_id_string();
            let short = short_name(&oid).unwrap_or(&oid);
            attributes.push(format!("{short}={}", escaped(attribute.as_str().ok()?)));
        }
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

/// The short names of RFC 4514 section 3, and the one for mail addresses that everybody writes.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        match c {
            '\0' => {
                text.push_str("\\00");
                continue;
            }
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.push('\\'),
            '#' | ' ' if index == 0 => text.push('\\'),
            ' ' if index == last => text.push('\\'),
            _ => {}
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn names_are_most_specific_first_and_escaped() {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "LV");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Acme, Inc.");
        params
            .distinguished_name
            .push(DnType::CommonName, "proxy+1 ");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let names = client_certificate(certificate.der()).unwrap();
        assert_eq!(names.subject, r"CN=proxy\+1\ ,O=Acme\, Inc.,C=LV");
        assert_eq!(names.issuer, names.subject);
        assert_eq!(client_certificate(b"garbage"), None);
    }

    #[test]
    fn only_what_must_be_is_escaped() {
        for (value, expected) in [
            ("", ""),
            (" ", "\\ "),
            ("#a#", "\\#a#"),
            (" a b ", "\\ a b\\ "),
            ("a\0", "a\\00"),
        ] {
            assert_eq!(escaped(value), expected);
        }
    }
}
