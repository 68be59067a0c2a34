//! The P2 reply: when to come again, whether to send an inventory, which network jobs to do.
//!
//! FusionInventory contract, section 2.3. Never empty: an empty body is an error to every agent.

use std::net::Ipv4Addr;

use super::snmp::{Credential, DeviceType};
use super::wire::{Limits, short};
use super::xml::{Document, Element, Writer, XmlError};

/// A reply.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// Hours to the next contact, decimals allowed.
    pub prolog_freq: Option<f64>,
    /// `RESPONSE` is `SEND`: run the inventory.
    pub send_inventory: bool,
    /// Jobs.
    pub options: Vec<JobOption>,
    /// What went wrong, for the agent's log.
    pub error: Option<String>,
}

/// One `OPTION`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum JobOption {
    /// Look for devices.
    NetDiscovery(DiscoveryOption),
    /// An option that is not served, by name.
    Other(String),
    /// Read known devices.
    SnmpQuery(QueryOption),
    /// Wake these MAC addresses.
    WakeOnLan(Vec<String>),
}

/// A discovery job.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DiscoveryOption {
    /// Job number, echoed as PROCESSNUMBER. Without one the agent drops the job.
    pub pid: String,
    /// Addresses at once.
    pub threads: u32,
    /// Seconds to wait for SNMP. 0 would mean 60 to the agent, so it is never written.
    pub timeout: u32,
    /// What to look at.
    pub ranges: Vec<Range>,
    /// Credentials to try.
    pub credentials: Vec<Credential>,
}

/// An inclusive block of addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Range {
    /// The server's id of the range.
    pub id: Option<String>,
    /// First address.
    pub first: Ipv4Addr,
    /// Last address.
    pub last: Ipv4Addr,
    /// Copied to each device.
    pub entity: Option<String>,
    /// SNMP ports, a comma list.
    pub port: Option<String>,
}

/// A job of reading devices.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct QueryOption {
    /// Job number, echoed as PROCESSNUMBER.
    pub pid: String,
    /// Devices at once.
    pub threads: u32,
    /// Seconds to wait for SNMP.
    pub timeout: u32,
    /// The devices.
    pub devices: Vec<QueryDevice>,
    /// Credentials that devices name.
    pub credentials: Vec<Credential>,
}

/// A device to read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QueryDevice {
    /// The server's id of the device.
    pub id: Option<String>,
    /// Where it is.
    pub ip: String,
    /// What it is.
    pub kind: Option<DeviceType>,
    /// Which credential.
    pub credential: Option<String>,
}

/// Why a reply could not be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReplyError {
    /// Not a REPLY.
    #[error("document is not a REPLY")]
    NotAReply,
    /// The XML itself.
    #[error(transparent)]
    Xml(#[from] XmlError),
}

impl Reply {
    /// A reply that only says what went wrong.
    #[must_use]
    pub fn error(text: impl Into<String>) -> Self {
        Self {
            error: Some(text.into()),
            ..Self::default()
        }
    }

    /// Writes the reply.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut writer = Writer::new();
        writer.element("REPLY", |w| {
            w.optional("ERROR", self.error.as_deref());
            if let Some(hours) = self.prolog_freq.filter(|h| h.is_finite() && *h > 0.0) {
                w.leaf("PROLOG_FREQ", &hours_text(hours));
            }
            if self.send_inventory {
                w.leaf("RESPONSE", "SEND");
            }
            for option in &self.options {
                w.element("OPTION", |w| option.write(w));
            }
        });
        writer.finish()
    }

    /// Reads a reply. Options are read as the agents read them: a job without a PID is dropped, a
    /// range that lacks an end too, and so is a credential without what its version needs.
    ///
    /// # Errors
    /// [`ReplyError`].
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, ReplyError> {
        let document = Document::parse(bytes, limits)?;
        let root = document.root();
        if root.name() != "REPLY" {
            return Err(ReplyError::NotAReply);
        }
        Ok(Self {
            prolog_freq: root
                .value("PROLOG_FREQ")
                .and_then(|text| text.parse().ok())
                .filter(|hours: &f64| hours.is_finite() && *hours > 0.0),
            send_inventory: root.value("RESPONSE") == Some("SEND"),
            options: root
                .all("OPTION")
                .take(limits.list_items)
                .filter_map(|option| JobOption::read(&option, limits))
                .collect(),
            error: root.value("ERROR").map(short),
        })
    }
}

/// Hours with up to four decimals, without trailing zeros.
fn hours_text(hours: f64) -> String {
    let text = format!("{:.4}", hours.max(0.0001));
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl JobOption {
    fn write(&self, w: &mut Writer) {
        match self {
            Self::NetDiscovery(job) => {
                w.leaf("NAME", "NETDISCOVERY");
                let threads = job.threads.max(1).to_string();
                let timeout = job.timeout.max(1).to_string();
                w.attributes(
                    "PARAM",
                    &[
                        ("THREADS_DISCOVERY", Some(&threads)),
                        ("TIMEOUT", Some(&timeout)),
                        ("PID", Some(&job.pid)),
                    ],
                );
                for range in &job.ranges {
                    w.attributes(
                        "RANGEIP",
                        &[
                            ("ID", range.id.as_deref()),
                            ("IPSTART", Some(&range.first.to_string())),
                            ("IPEND", Some(&range.last.to_string())),
                            ("ENTITY", range.entity.as_deref()),
                            ("PORT", range.port.as_deref()),
                        ],
                    );
                }
                write_credentials(w, &job.credentials);
            }
            Self::Other(name) => w.leaf("NAME", name),
            Self::SnmpQuery(job) => {
                w.leaf("NAME", "SNMPQUERY");
                let threads = job.threads.max(1).to_string();
                let timeout = job.timeout.max(1).to_string();
                w.attributes(
                    "PARAM",
                    &[
                        ("THREADS_QUERY", Some(&threads)),
                        ("TIMEOUT", Some(&timeout)),
                        ("PID", Some(&job.pid)),
                    ],
                );
                for device in &job.devices {
                    w.attributes(
                        "DEVICE",
                        &[
                            ("TYPE", device.kind.map(DeviceType::as_upper)),
                            ("ID", device.id.as_deref()),
                            ("IP", Some(&device.ip)),
                            ("AUTHSNMP_ID", device.credential.as_deref()),
                        ],
                    );
                }
                write_credentials(w, &job.credentials);
            }
            Self::WakeOnLan(macs) => {
                w.leaf("NAME", "WAKEONLAN");
                for mac in macs {
                    w.attributes("PARAM", &[("MAC", Some(mac))]);
                }
            }
        }
    }

    fn read(option: &Element<'_>, limits: &Limits) -> Option<Self> {
        let name = short(option.value("NAME")?);
        // Only the first PARAM counts, except for WAKEONLAN.
        let param = option.child("PARAM");
        let pid = || param.and_then(|p| p.value("PID")).map(str::to_owned);
        let number = |name: &str| -> u32 {
            param
                .and_then(|p| p.value(name))
                .and_then(|t| t.parse().ok())
                .unwrap_or(0)
        };
        let credentials = || {
            option
                .all("AUTHENTICATION")
                .take(limits.list_items)
                .filter_map(|e| Credential::from_xml(&e))
                .collect()
        };
        Some(match name.as_str() {
            "NETDISCOVERY" => Self::NetDiscovery(DiscoveryOption {
                pid: pid()?,
                threads: number("THREADS_DISCOVERY").clamp(1, limits.workers),
                timeout: number("TIMEOUT"),
                ranges: option
                    .all("RANGEIP")
                    .take(limits.list_items)
                    .filter_map(|e| Range::read(&e))
                    .collect(),
                credentials: credentials(),
            }),
            "SNMPQUERY" => Self::SnmpQuery(QueryOption {
                pid: pid()?,
                threads: number("THREADS_QUERY").clamp(1, limits.workers),
                timeout: number("TIMEOUT"),
                devices: option
                    .all("DEVICE")
                    .take(limits.list_items)
                    .filter_map(|e| {
                        Some(QueryDevice {
                            id: e.value("ID").map(str::to_owned),
                            ip: e.value("IP")?.to_owned(),
                            kind: e.value("TYPE").and_then(DeviceType::parse),
                            credential: e.value("AUTHSNMP_ID").map(str::to_owned),
                        })
                    })
                    .collect(),
                credentials: credentials(),
            }),
            "WAKEONLAN" => Self::WakeOnLan(
                option
                    .all("PARAM")
                    .take(limits.list_items)
                    .filter_map(|e| e.value("MAC").map(str::to_owned))
                    .collect(),
            ),
            _ => Self::Other(name),
        })
    }
}

fn write_credentials(w: &mut Writer, credentials: &[Credential]) {
    for (index, credential) in credentials.iter().enumerate() {
        credential.write_xml(w, &index.saturating_add(1).to_string());
    }
}

impl Range {
    fn read(element: &Element<'_>) -> Option<Self> {
        Some(Self {
            id: element.value("ID").map(str::to_owned),
            first: element.value("IPSTART")?.parse().ok()?,
            last: element.value("IPEND")?.parse().ok()?,
            entity: element.value("ENTITY").map(str::to_owned),
            port: element.value("PORT").map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Reply, ReplyError> {
        Reply::parse(text.as_bytes(), &Limits::default())
    }

    #[test]
    fn hours() {
        for (hours, text) in [
            (24.0, "24"),
            (0.25, "0.25"),
            (1.5, "1.5"),
            (0.00001, "0.0001"),
        ] {
            let reply = Reply {
                prolog_freq: Some(hours),
                ..Reply::default()
            };
            assert!(
                reply
                    .to_xml()
                    .contains(&format!("<PROLOG_FREQ>{text}</PROLOG_FREQ>"))
            );
        }
        for odd in ["x", "-1", "0", "inf", ""] {
            let xml = format!("<REPLY><PROLOG_FREQ>{odd}</PROLOG_FREQ></REPLY>");
            assert_eq!(parse(&xml).unwrap().prolog_freq, None, "{odd}");
        }
    }

    #[test]
    fn an_empty_reply_is_not_an_empty_body() {
        assert!(Reply::default().to_xml().ends_with("<REPLY></REPLY>"));
        assert_eq!(parse("<REPLY></REPLY>").unwrap(), Reply::default());
        assert!(parse("<REQUEST/>").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn jobs_are_read_as_the_agents_read_them() {
        let reply = parse(
            r#"<REPLY><OPTION><NAME>NETDISCOVERY</NAME><PARAM TIMEOUT="1"/></OPTION>
            <OPTION><NAME>NETDISCOVERY</NAME><PARAM PID="1"/><PARAM PID="2"/>
              <RANGEIP IPSTART="10.0.0.1"/><RANGEIP IPSTART="10.0.0.1" IPEND="10.0.0.2"/>
              <AUTHENTICATION ID="1" VERSION="2c"/><AUTHENTICATION ID="2" VERSION="3" USERNAME="u"/>
            </OPTION>
            <OPTION><NAME>WAKEONLAN</NAME><PARAM MAC="a"/><PARAM MAC="b"/></OPTION>
            <OPTION><NAME>REGISTRY</NAME></OPTION></REPLY>"#,
        )
        .unwrap();
        let [
            JobOption::NetDiscovery(job),
            JobOption::WakeOnLan(macs),
            JobOption::Other(name),
        ] = reply.options.as_slice()
        else {
            panic!("{:?}", reply.options)
        };
        assert_eq!(
            (
                job.pid.as_str(),
                job.threads,
                job.ranges.len(),
                job.credentials.len()
            ),
            ("1", 1, 1, 1)
        );
        assert_eq!(macs, &["a", "b"]);
        assert_eq!(name, "REGISTRY");
    }
}
