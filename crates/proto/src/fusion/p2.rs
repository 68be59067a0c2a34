//! P2 messages: the XML an agent POSTs.
//!
//! FusionInventory contract, sections 2.2 to 2.6. A message says who speaks (`DEVICEID`), what it
//! is about (`QUERY`) and, for network tasks, which job (`PROCESSNUMBER`, the PID that was given).

use super::inventory::{self, Inventory};
use super::snmp::DeviceType;
use super::wire::{BadName, Limits, PeerName, is_plain, short};
use super::xml::{Document, Element, Writer, XmlError};

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub device: PeerName,
    /// The job it is about, where it names one.
    pub process: Option<String>,
    /// What it says.
    pub content: Content,
}

/// What a message says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content {
    /// An inventory of the sender (or of a machine it inventoried).
    Inventory(Inventory),
    /// News of a network discovery.
    NetDiscovery(Vec<Word<Device>>),
    /// News of a network inventory.
    NetInventory(Vec<Word<Reading>>),
    /// The opening question.
    Prolog,
}

/// One word of a network task, in the order of the message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Word<T> {
    /// How many addresses will be looked at. For display only: real agents overcount.
    Count(u64),
    /// A device.
    Device(T),
    /// The job is done. Comes twice, or after every device.
    End,
    /// The job was given up.
    Exit,
    /// The job has begun. Comes once per range from 2.6.
    Start {
        /// Version of the agent.
        agent_version: Option<String>,
    },
}

/// A discovered device (section 2.4).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(missing_docs, reason = "the fields are the protocol's own")]
pub struct Device {
    pub ip: String,
    pub entity: Option<String>,
    /// Id of the credential that worked.
    pub auth_snmp: Option<String>,
    pub auth_port: Option<String>,
    pub auth_protocol: Option<String>,
    pub kind: Option<DeviceType>,
    pub manufacturer: Option<String>,
    pub model: Option<String>,
    pub description: Option<String>,
    pub snmp_hostname: Option<String>,
    pub location: Option<String>,
    pub contact: Option<String>,
    pub uptime: Option<String>,
    pub serial: Option<String>,
    pub firmware: Option<String>,
    pub mac: Option<String>,
    pub ips: Vec<String>,
    /// From a ping it is the address itself as text, which is no name.
    pub dns_hostname: Option<String>,
    pub netbios_name: Option<String>,
    pub workgroup: Option<String>,
    pub user_session: Option<String>,
    pub net_port_vendor: Option<String>,
}

/// A device that was read (section 2.5): what identifies it, and all of it as JSON.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reading {
    /// It could not be read.
    Error {
        /// The server's id of the device.
        id: Option<String>,
        /// Why, in the agent's words.
        message: String,
        /// The type the server gave.
        kind: Option<DeviceType>,
    },
    /// It was read.
    Read {
        /// The server's id of the device.
        id: Option<String>,
        /// What identifies it.
        info: Box<Device>,
        /// The whole `DEVICE`, keys in lower case, a JSON object.
        content: String,
    },
}

/// Why a message is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// No DEVICEID, or one outside the grammar.
    #[error("DEVICEID is missing or {0}")]
    DeviceId(BadName),
    /// Neither a REQUEST nor of a known shape.
    #[error("document is not a REQUEST")]
    NotARequest,
    /// A PROCESSNUMBER that cannot be one of ours.
    #[error("PROCESSNUMBER is {0}")]
    ProcessNumber(BadName),
    /// More devices than one message may carry.
    #[error("more than {limit} devices in one message")]
    TooManyDevices {
        /// The limit.
        limit: usize,
    },
    /// A QUERY that is not served.
    #[error("QUERY {0:?} is not supported")]
    UnknownQuery(String),
    /// The XML itself.
    #[error(transparent)]
    Xml(#[from] XmlError),
}

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, MessageError> {
        let document = Document::parse(bytes, limits)?;
        let root = document.root();
        if root.name() != "REQUEST" {
            return Err(MessageError::NotARequest);
        }
        let device = PeerName::parse(root.value("DEVICEID").unwrap_or_default())
            .map_err(MessageError::DeviceId)?;
        let content = root.child("CONTENT");
        let process = match content.and_then(|c| c.value("PROCESSNUMBER")) {
            None => None,
            Some(text) if is_plain(text, 255) => Some(text.to_owned()),
            Some(_) => return Err(MessageError::ProcessNumber(BadName)),
        };
        let content = match root.value("QUERY").unwrap_or("INVENTORY") {
            "PROLOG" => Content::Prolog,
            "INVENTORY" => {
                let content = content.ok_or(MessageError::NotARequest)?;
                Content::Inventory(inventory::from_xml(&content))
            }
            "NETDISCOVERY" => {
                Content::NetDiscovery(words(content.as_ref(), limits, Device::parse)?)
            }
            "SNMPQUERY" | "NETINVENTORY" => {
                Content::NetInventory(words(content.as_ref(), limits, Reading::parse)?)
            }
            other => return Err(MessageError::UnknownQuery(short(other))),
        };
        Ok(Self {
            device,
            process,
            content,
        })
    }

    /// Writes a message.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut writer = Writer::new();
        writer.element("REQUEST", |w| {
            match &self.content {
                Content::Prolog => {}
                Content::Inventory(inventory) => w.element("CONTENT", |w| {
                    inventory::write_xml(w, inventory);
                    w.optional("PROCESSNUMBER", self.process.as_deref());
                }),
                Content::NetDiscovery(words) => {
                    write_words(w, words, self.process.as_deref(), |w, d| d.write_xml(w));
                }
                Content::NetInventory(words) => {
                    write_words(w, words, self.process.as_deref(), |w, r| r.write_xml(w));
                }
            }
            w.leaf("DEVICEID", self.device.as_str());
            w.leaf(
                "QUERY",
                match &self.content {
                    Content::Inventory(_) => "INVENTORY",
                    Content::NetDiscovery(_) => "NETDISCOVERY",
                    Content::NetInventory(_) => "SNMPQUERY",
                    Content::Prolog => "PROLOG",
                },
            );
            if matches!(self.content, Content::Prolog) {
                w.leaf("TOKEN", "12345678");
            }
        });
        writer.finish()
    }
}

fn words<T>(
    content: Option<&Element<'_>>,
    limits: &Limits,
    device: impl Fn(&Element<'_>) -> Option<T>,
) -> Result<Vec<Word<T>>, MessageError> {
    let Some(content) = content else {
        return Ok(Vec::new());
    };
    let devices = content.all("DEVICE").count();
    if devices > limits.devices {
        return Err(MessageError::TooManyDevices {
            limit: limits.devices,
        });
    }
    let mut words = Vec::with_capacity(devices.saturating_add(1));
    if let Some(agent) = content.child("AGENT") {
        if agent.value("START").is_some() {
            words.push(Word::Start {
                agent_version: agent.value("AGENTVERSION").map(short),
            });
        }
        if let Some(count) = agent.value("NBIP") {
            words.push(Word::Count(count.parse().unwrap_or(0)));
        }
    }
    words.extend(
        content
            .all("DEVICE")
            .filter_map(|e| device(&e))
            .map(Word::Device),
    );
    if let Some(agent) = content.child("AGENT") {
        if agent.value("EXIT").is_some() {
            words.push(Word::Exit);
        }
        if agent.value("END").is_some() {
            words.push(Word::End);
        }
    }
    Ok(words)
}

fn write_words<T>(
    writer: &mut Writer,
    words: &[Word<T>],
    process: Option<&str>,
    device: impl Fn(&mut Writer, &T),
) {
    writer.element("CONTENT", |w| {
        let has_agent = words.iter().any(|word| !matches!(word, Word::Device(_)));
        if has_agent {
            w.element("AGENT", |w| {
                for word in words {
                    match word {
                        Word::Start { agent_version } => {
                            w.optional("AGENTVERSION", agent_version.as_deref());
                            w.leaf("START", "1");
                        }
                        Word::Count(count) => w.leaf("NBIP", &count.to_string()),
                        Word::End => w.leaf("END", "1"),
                        Word::Exit => w.leaf("EXIT", "1"),
                        Word::Device(_) => {}
                    }
                }
            });
        }
        for word in words {
            if let Word::Device(one) = word {
                w.element("DEVICE", |w| device(w, one));
            }
        }
        if !words.iter().all(|word| matches!(word, Word::Count(_))) {
            w.leaf("MODULEVERSION", MODULE_VERSION);
        }
        w.optional("PROCESSNUMBER", process);
    });
}

/// What our agent calls its network modules: the version of the message set it speaks.
const MODULE_VERSION: &str = "4.2";

impl Device {
    /// A device without an address is nothing that could be found again.
    fn parse(element: &Element<'_>) -> Option<Self> {
        let device = Self::read(element);
        (!device.ip.is_empty()).then_some(device)
    }

    fn read(element: &Element<'_>) -> Self {
        let text = |name: &str| element.value(name).map(str::to_owned);
        Self {
            ip: text("IP").unwrap_or_default(),
            entity: text("ENTITY"),
            auth_snmp: text("AUTHSNMP"),
            auth_port: text("AUTHPORT"),
            auth_protocol: text("AUTHPROTOCOL"),
            kind: element.value("TYPE").and_then(DeviceType::parse),
            manufacturer: text("MANUFACTURER"),
            model: text("MODEL"),
            description: text("DESCRIPTION"),
            snmp_hostname: text("SNMPHOSTNAME"),
            location: text("LOCATION"),
            contact: text("CONTACT"),
            uptime: text("UPTIME"),
            serial: text("SERIAL"),
            firmware: text("FIRMWARE"),
            mac: text("MAC"),
            ips: element
                .child("IPS")
                .map(|ips| {
                    ips.all("IP")
                        .map(|ip| ip.text().trim().to_owned())
                        .collect()
                })
                .unwrap_or_default(),
            dns_hostname: text("DNSHOSTNAME"),
            netbios_name: text("NETBIOSNAME"),
            workgroup: text("WORKGROUP"),
            user_session: text("USERSESSION"),
            net_port_vendor: text("NETPORTVENDOR"),
        }
    }

    fn write_xml(&self, w: &mut Writer) {
        w.optional("AUTHPORT", self.auth_port.as_deref());
        w.optional("AUTHPROTOCOL", self.auth_protocol.as_deref());
        w.optional("AUTHSNMP", self.auth_snmp.as_deref());
        w.optional("CONTACT", self.contact.as_deref());
        w.optional("DESCRIPTION", self.description.as_deref());
        w.optional("DNSHOSTNAME", self.dns_hostname.as_deref());
        w.optional("ENTITY", self.entity.as_deref());
        w.optional("FIRMWARE", self.firmware.as_deref());
        w.leaf("IP", &self.ip);
        if !self.ips.is_empty() {
            w.element("IPS", |w| {
                for ip in &self.ips {
                    w.leaf("IP", ip);
                }
            });
        }
        w.optional("LOCATION", self.location.as_deref());
        w.optional("MAC", self.mac.as_deref());
        w.optional("MANUFACTURER", self.manufacturer.as_deref());
        w.optional("MODEL", self.model.as_deref());
        w.optional("NETBIOSNAME", self.netbios_name.as_deref());
        w.optional("NETPORTVENDOR", self.net_port_vendor.as_deref());
        w.optional("SERIAL", self.serial.as_deref());
        w.optional("SNMPHOSTNAME", self.snmp_hostname.as_deref());
        w.optional("TYPE", self.kind.map(DeviceType::as_upper));
        w.optional("UPTIME", self.uptime.as_deref());
        w.optional("USERSESSION", self.user_session.as_deref());
        w.optional("WORKGROUP", self.workgroup.as_deref());
    }

    /// The best name it has: SNMP, NetBIOS, DNS unless that is only the address again.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        let dns = self.dns_hostname.as_deref().filter(|name| *name != self.ip);
        self.snmp_hostname
            .as_deref()
            .or(self.netbios_name.as_deref())
            .or(dns)
    }

    /// Reads what [`Device::to_json`] writes; members it does not know are left out. `None` without
    /// an address.
    #[must_use]
    pub fn from_json(value: &serde_json::Value) -> Option<Self> {
        let text = |name: &str| match value.get(name)? {
            serde_json::Value::String(text) if !text.is_empty() => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            serde_json::Value::Array(_)
            | serde_json::Value::Bool(_)
            | serde_json::Value::Null
            | serde_json::Value::Object(_)
            | serde_json::Value::String(_) => None,
        };
        let ips = value.get("ips").and_then(serde_json::Value::as_array);
        Some(Self {
            ip: text("ip")?,
            entity: text("entity"),
            auth_snmp: text("authsnmp"),
            auth_port: text("authport"),
            auth_protocol: text("authprotocol"),
            kind: text("type").as_deref().and_then(DeviceType::parse),
            manufacturer: text("manufacturer"),
            model: text("model"),
            description: text("description"),
            snmp_hostname: text("snmphostname"),
            location: text("location"),
            contact: text("contact"),
            uptime: text("uptime"),
            serial: text("serial"),
            firmware: text("firmware"),
            mac: text("mac"),
            ips: ips
                .map(|ips| {
                    ips.iter()
                        .filter_map(|ip| ip.as_str().map(str::to_owned))
                        .collect()
                })
                .unwrap_or_default(),
            dns_hostname: text("dnshostname"),
            netbios_name: text("netbiosname"),
            workgroup: text("workgroup"),
            user_session: text("usersession"),
            net_port_vendor: text("netportvendor"),
        })
    }

    /// All fields that are there, under their P2 names in lower case.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut out = serde_json::Map::new();
        let mut put = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                out.insert(key.to_owned(), value.into());
            }
        };
        put("ip", Some(&self.ip));
        put("entity", self.entity.as_deref());
        put("authsnmp", self.auth_snmp.as_deref());
        put("authport", self.auth_port.as_deref());
        put("authprotocol", self.auth_protocol.as_deref());
        put("type", self.kind.map(DeviceType::as_lower));
        put("manufacturer", self.manufacturer.as_deref());
        put("model", self.model.as_deref());
        put("description", self.description.as_deref());
        put("snmphostname", self.snmp_hostname.as_deref());
        put("location", self.location.as_deref());
        put("contact", self.contact.as_deref());
        put("uptime", self.uptime.as_deref());
        put("serial", self.serial.as_deref());
        put("firmware", self.firmware.as_deref());
        put("mac", self.mac.as_deref());
        put("dnshostname", self.dns_hostname.as_deref());
        put("netbiosname", self.netbios_name.as_deref());
        put("workgroup", self.workgroup.as_deref());
        put("usersession", self.user_session.as_deref());
        put("netportvendor", self.net_port_vendor.as_deref());
        if !self.ips.is_empty() {
            out.insert("ips".to_owned(), self.ips.clone().into());
        }
        out.into()
    }
}

impl Reading {
    fn parse(element: &Element<'_>) -> Option<Self> {
        if let Some(error) = element.child("ERROR") {
            return Some(Self::Error {
                id: error.value("ID").map(str::to_owned),
                message: error
                    .value("MESSAGE")
                    .unwrap_or("no reason was given")
                    .to_owned(),
                kind: error.value("TYPE").and_then(DeviceType::parse),
            });
        }
        let info = element.child("INFO")?;
        let mut device = Device::read(&info);
        device.snmp_hostname = device
            .snmp_hostname
            .or(info.value("NAME").map(str::to_owned));
        device.description = device
            .description
            .or(info.value("COMMENTS").map(str::to_owned));
        let mut content = String::new();
        inventory::push_json(&mut content, element);
        Some(Self::Read {
            id: info.value("ID").map(str::to_owned),
            info: Box::new(device),
            content,
        })
    }

    fn write_xml(&self, w: &mut Writer) {
        match self {
            Self::Error { id, message, kind } => w.element("ERROR", |w| {
                w.optional("ID", id.as_deref());
                w.leaf("MESSAGE", message);
                w.optional("TYPE", kind.map(DeviceType::as_upper));
            }),
            Self::Read { content, .. } => {
                if let Ok(serde_json::Value::Object(members)) = serde_json::from_str(content) {
                    for (key, value) in &members {
                        inventory::write_value(w, &key.to_ascii_uppercase(), value);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Message, MessageError> {
        Message::parse(text.as_bytes(), &Limits::default())
    }

    #[test]
    fn messages_that_are_refused() {
        for (xml, what) in [
            ("<REPLY/>", "not a REQUEST"),
            ("<REQUEST><QUERY>PROLOG</QUERY></REQUEST>", "DEVICEID"),
            (
                "<REQUEST><DEVICEID>a/b</DEVICEID><QUERY>PROLOG</QUERY></REQUEST>",
                "DEVICEID",
            ),
            ("<REQUEST><DEVICEID>a</DEVICEID></REQUEST>", "not a REQUEST"),
            (
                "<REQUEST><DEVICEID>a</DEVICEID><QUERY>UPDATE</QUERY></REQUEST>",
                "\"UPDATE\"",
            ),
            (
                "<REQUEST><DEVICEID>a</DEVICEID><QUERY>NETDISCOVERY</QUERY><CONTENT>\
                 <PROCESSNUMBER>../1</PROCESSNUMBER></CONTENT></REQUEST>",
                "PROCESSNUMBER",
            ),
            ("<REQUEST>", "ends early"),
        ] {
            let error = parse(xml).unwrap_err().to_string();
            assert!(error.contains(what), "{xml}: {error}");
        }
        let many = "<DEVICE><IP>10.0.0.1</IP></DEVICE>".repeat(129);
        let xml = format!(
            "<REQUEST><DEVICEID>a</DEVICEID><QUERY>NETDISCOVERY</QUERY><CONTENT>{many}</CONTENT></REQUEST>"
        );
        assert_eq!(
            parse(&xml),
            Err(MessageError::TooManyDevices { limit: 128 })
        );
    }

    #[test]
    fn a_missing_query_means_inventory() {
        let message = parse(
            "<REQUEST><DEVICEID>a</DEVICEID><CONTENT><HARDWARE><NAME>n</NAME></HARDWARE>\
             </CONTENT></REQUEST>",
        )
        .unwrap();
        assert!(matches!(message.content, Content::Inventory(_)));
    }

    #[test]
    fn several_words_in_one_message() {
        let message = parse(
            "<REQUEST><DEVICEID>a</DEVICEID><QUERY>NETDISCOVERY</QUERY><CONTENT>\
             <AGENT><START>1</START><NBIP>3</NBIP><END>1</END></AGENT>\
             <DEVICE><IP>10.0.0.1</IP></DEVICE><DEVICE><MAC>x</MAC></DEVICE>\
             <DEVICE><IP>10.0.0.2</IP></DEVICE></CONTENT></REQUEST>",
        )
        .unwrap();
        let Content::NetDiscovery(words) = message.content else {
            panic!()
        };
        let kinds: Vec<&str> = words
            .iter()
            .map(|word| match word {
                Word::Start { .. } => "start",
                Word::Count(_) => "count",
                Word::Device(_) => "device",
                Word::End => "end",
                Word::Exit => "exit",
            })
            .collect();
        assert_eq!(kinds, ["start", "count", "device", "device", "end"]);
    }

    #[test]
    fn a_ping_only_device_has_no_name() {
        let device = Device {
            ip: "127.0.0.6".to_owned(),
            dns_hostname: Some("127.0.0.6".to_owned()),
            ..Device::default()
        };
        assert_eq!(device.name(), None);
        let named = Device {
            dns_hostname: Some("box".to_owned()),
            ..device
        };
        assert_eq!(named.name(), Some("box"));
    }
}
