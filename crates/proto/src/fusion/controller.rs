//! The commanding end: reads what agents ask, writes what they are answered.
//!
//! Decides nothing. [`decode`] finds the [`Place`] below a base, takes the packing off under the
//! limits, and reads the dialect that is there; [`encode`] answers in that dialect, with the packing
//! of the request (FusionInventory contract, 2.1). A [`Reject`] is already in the words of the
//! dialect that was refused.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::json;

use super::body::{self, BodyError, Packing};
use super::json::{self, Fields, JsonError};
use super::news::JobNews;
use super::p1::{self, TaskList, TasksQuery};
use super::place::Place;
use super::reply::Reply;
use super::side::{self, Remote};
use super::wire::{BadName, Limits, PeerName, Secret, is_plain, short};
use super::{p2, p3};

/// Whether a request at `/` is an agent's rather than a person's: a person's is a GET with neither
/// an action nor an agent id.
#[must_use]
pub fn is_from_agent<B>(request: &Request<B>) -> bool {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    !is_read
        || request.headers().contains_key(AGENT_ID)
        || side::has_action(request.uri().query().unwrap_or_default())
}

/// In which words a peer is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// P1, and everything that is plain JSON.
    P1,
    /// P2 XML.
    P2,
    /// P3 JSON.
    P3,
    /// The JSON side protocol.
    Side,
}

/// What an answer needs to know of its request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Context {
    /// The words.
    pub dialect: Dialect,
    /// How to pack the answer.
    pub packing: Packing,
    /// `GLPI-Request-ID`, echoed.
    pub request_id: Option<String>,
    /// `GLPI-Agent-ID`, in lower case.
    pub agent_id: Option<String>,
    /// Software and version out of `User-Agent`.
    pub software: Option<Software>,
    /// Whether the request was a HEAD: answered like GET, and nothing is given away.
    pub is_head: bool,
}

impl Context {
    /// That of a request of which nothing could be read: answered in plain JSON.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            dialect: Dialect::P1,
            packing: Packing::Plain,
            request_id: None,
            agent_id: None,
            software: None,
            is_head: false,
        }
    }
}

/// What a peer says it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Software {
    /// `FusionInventory-Agent`
    pub name: String,
    /// `2.6-3`
    pub version: Option<String>,
}

impl Software {
    /// Reads `FusionInventory-Agent_v2.6-3` or `name/version`.
    #[must_use]
    pub fn parse(user_agent: &str) -> Option<Self> {
        let text = short(user_agent);
        let (name, version) = match text.split_once("_v").or_else(|| text.split_once('/')) {
            Some((name, version)) => (name, Some(version)),
            None => (text.as_str(), None),
        };
        let name = name.trim();
        (!name.is_empty()).then(|| Self {
            name: name.to_owned(),
            version: version
                .and_then(|v| v.split_whitespace().next())
                .filter(|v| !v.is_empty())
                .map(str::to_owned),
        })
    }
}

const AGENT_ID: &str = "glpi-agent-id";
const REQUEST_ID: &str = "glpi-request-id";

/// One request, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// For the answer.
    pub context: Context,
    /// What is asked or told.
    pub what: What,
}

/// What a request asks or tells.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A P2 message.
    Message(p2::Message),
    /// A P3 message.
    Native(p3::Message),
    /// News of a P1 job in its own words, at `api/results`.
    News {
        /// Who speaks.
        agent: PeerName,
        /// The job, as it was named in the task list.
        job: String,
        /// What it says.
        news: JobNews,
    },
    /// A question or news of the side protocol.
    Side(side::Ask),
    /// P1: what is there to do?
    Tasks(TasksQuery),
    /// OAuth2 client credentials for a bearer token.
    Token {
        /// Who asks.
        client: String,
        /// The proof.
        secret: Secret,
    },
}

impl What {
    /// Who speaks, as it says.
    #[must_use]
    pub fn speaker(&self) -> Option<&str> {
        match self {
            Self::Message(message) => Some(message.device.as_str()),
            Self::Native(message) => Some(message.device.as_str()),
            Self::News { agent, .. } => Some(agent.as_str()),
            Self::Side(ask) => ask.machine().map(PeerName::as_str),
            Self::Tasks(query) => Some(query.agent.as_str()),
            Self::Token { client, .. } => Some(client),
        }
    }
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The body's packing or size.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A header outside its grammar.
    #[error("{0} is not valid")]
    Header(&'static str),
    /// JSON that is not what it should be.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The method is not for this place.
    #[error("method not allowed")]
    Method {
        /// What is.
        allow: &'static str,
    },
    /// The name of the agent.
    #[error("agentid is missing or {0}")]
    Name(BadName),
    /// A GET without action or request id: perhaps a redirected upload, so never answered `ok`.
    #[error("nothing was asked: no action and no body")]
    NoQuestion,
    /// No such path.
    #[error("not found")]
    NotFound,
    /// A P1 query.
    #[error(transparent)]
    P1(#[from] p1::QueryError),
    /// A P2 message.
    #[error(transparent)]
    P2(#[from] p2::MessageError),
    /// A P3 message.
    #[error(transparent)]
    P3(#[from] p3::MessageError),
    /// A side protocol query.
    #[error(transparent)]
    Side(#[from] side::QueryError),
    /// A request id nobody waits for.
    #[error("Unknown status")]
    UnknownRequest,
    /// A body that is neither XML nor JSON.
    #[error("body is neither XML nor JSON")]
    UnknownShape,
}

impl Reason {
    /// The HTTP status for it.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Body(BodyError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(BodyError::Unsupported) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotFound | Self::UnknownRequest => StatusCode::NOT_FOUND,
            Self::P2(p2::MessageError::UnknownQuery(_)) => StatusCode::NOT_IMPLEMENTED,
            Self::Body(BodyError::Corrupt(_))
            | Self::Header(_)
            | Self::Json(_)
            | Self::Name(_)
            | Self::NoQuestion
            | Self::P1(_)
            | Self::P2(_)
            | Self::P3(_)
            | Self::Side(_)
            | Self::UnknownShape => StatusCode::BAD_REQUEST,
        }
    }

    /// A word for counters.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Body(_) => "body",
            Self::Header(_) => "header",
            Self::Json(_) | Self::P3(_) => "json",
            Self::Method { .. } => "method",
            Self::Name(_) => "name",
            Self::NoQuestion | Self::UnknownRequest => "no_question",
            Self::NotFound => "path",
            Self::P1(_) | Self::Side(_) => "query",
            Self::P2(_) => "xml",
            Self::UnknownShape => "shape",
        }
    }
}

/// A refused request.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Reject {
    /// For the answer.
    pub context: Box<Context>,
    /// Why.
    #[source]
    pub reason: Reason,
}

impl Reject {
    /// The refusal as the peer hears it.
    #[must_use]
    pub fn to_response(&self) -> Response<Bytes> {
        let mut response = encode(
            Answer::Error {
                status: self.reason.status(),
                message: self.reason.to_string(),
                retry_after: None,
                authenticate: false,
            },
            &self.context,
        );
        if let Reason::Method { allow } = self.reason {
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// Reads a request. The body is as it came over the wire; its packing is taken off here.
///
/// # Errors
/// [`Reject`], to be answered with [`Reject::to_response`].
pub fn decode(request: &Request<Bytes>, limits: &Limits) -> Result<Ask, Reject> {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let mut context = Context {
        software: text("user-agent").and_then(Software::parse),
        is_head: *request.method() == Method::HEAD,
        ..Context::unknown()
    };
    match read(request, limits, &mut context) {
        Ok(what) => Ok(Ask { context, what }),
        Err(reason) => Err(Reject {
            context: Box::new(context),
            reason,
        }),
    }
}

fn read(request: &Request<Bytes>, limits: &Limits, context: &mut Context) -> Result<What, Reason> {
    let (_, place) = Place::find(request.uri().path()).ok_or(Reason::NotFound)?;
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_post = *request.method() == Method::POST;
    let allow = place.allowed();
    if !(is_read && allow.contains("GET") || is_post && allow.contains("POST")) {
        return Err(Reason::Method { allow });
    }
    read_ids(request.headers(), context)?;
    let query = request.uri().query().unwrap_or_default();
    match place {
        Place::Tasks => Ok(What::Tasks(TasksQuery::parse(query, limits)?)),
        Place::Results => read_result(request, limits, context),
        Place::Token => read_token(request, limits),
        Place::Remote(remote) => {
            context.dialect = Dialect::Side;
            Ok(What::Side(side::Ask::parse(query, remote, limits)?))
        }
        Place::Main if side::has_action(query) => {
            context.dialect = Dialect::Side;
            Ok(What::Side(side::Ask::parse(query, Remote::Main, limits)?))
        }
        Place::Main if is_read && context.request_id.is_some() => Err(Reason::UnknownRequest),
        Place::Main if is_read => Err(Reason::NoQuestion),
        Place::Main => {
            let body = unpacked(request, limits, context)?;
            match shape(&body)? {
                Dialect::P2 => {
                    context.dialect = Dialect::P2;
                    let message = p2::Message::parse(&body, limits)?;
                    let is_inventory = matches!(message.content, p2::Content::Inventory(_));
                    bounded(&body, is_inventory, limits)?;
                    Ok(What::Message(message))
                }
                Dialect::P1 | Dialect::P3 | Dialect::Side => {
                    context.dialect = Dialect::P3;
                    let message = p3::Message::parse(&body, limits)?;
                    let is_inventory = matches!(message.content, p3::Content::Inventory(_));
                    bounded(&body, is_inventory, limits)?;
                    Ok(What::Native(message))
                }
            }
        }
    }
}

fn read_ids(headers: &HeaderMap, context: &mut Context) -> Result<(), Reason> {
    if let Some(value) = headers.get(REQUEST_ID) {
        let id = value.to_str().unwrap_or_default().trim();
        let good =
            !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric());
        if !good {
            return Err(Reason::Header("GLPI-Request-ID"));
        }
        context.request_id = Some(id.to_owned());
    }
    if let Some(value) = headers.get(AGENT_ID) {
        let id = value.to_str().unwrap_or_default().trim();
        let id = uuid::Uuid::try_parse(id)
            .ok()
            .filter(|_| id.len() == 36)
            .ok_or(Reason::Header("GLPI-Agent-ID"))?;
        context.agent_id = Some(id.hyphenated().to_string());
    }
    Ok(())
}

/// The body without its one layer of packing, be that declared by the type or by the encoding.
fn unpacked<'r>(
    request: &'r Request<Bytes>,
    limits: &Limits,
    context: &mut Context,
) -> Result<Cow<'r, [u8]>, Reason> {
    let headers = request.headers();
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let encoded = match text(header::CONTENT_ENCODING).map(|e| e.trim().to_ascii_lowercase()) {
        None => None,
        Some(name) => match name.as_str() {
            "identity" | "" => None,
            "gzip" | "x-gzip" => Some(Packing::Gzip),
            "deflate" => Some(Packing::Zlib),
            _ => return Err(BodyError::Unsupported.into()),
        },
    };
    let limit = limits.inventory_bytes;
    if let Some(packing) = encoded {
        let body = body::unpack(request.body(), packing, limit)?;
        return match body::recognise(&body, body::Declared::Unknown)? {
            Packing::Plain => Ok(body),
            Packing::Deflate | Packing::Gzip | Packing::Zlib => Err(BodyError::Unsupported.into()),
        };
    }
    let declared = Packing::declared(text(header::CONTENT_TYPE));
    let packing = body::recognise(request.body(), declared)?;
    context.packing = packing;
    Ok(body::unpack(request.body(), packing, limit)?)
}

fn bounded(body: &[u8], is_inventory: bool, limits: &Limits) -> Result<(), Reason> {
    match is_inventory || body.len() <= limits.message_bytes {
        true => Ok(()),
        false => Err(BodyError::TooLarge {
            limit: limits.message_bytes,
        }
        .into()),
    }
}

fn shape(body: &[u8]) -> Result<Dialect, Reason> {
    let body = body.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(body);
    match body.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'<') => Ok(Dialect::P2),
        Some(b'{' | b'[') => Ok(Dialect::P3),
        Some(_) | None => Err(Reason::UnknownShape),
    }
}

fn read_result(
    request: &Request<Bytes>,
    limits: &Limits,
    context: &mut Context,
) -> Result<What, Reason> {
    let body = unpacked(request, limits, context)?;
    let query = request.uri().query().unwrap_or_default();
    let value = |name: &str| {
        form_urlencoded::parse(query.as_bytes())
            .filter(|(key, _)| key == name)
            .last()
            .map(|(_, value)| value.into_owned())
            .or_else(|| {
                let value = request.headers().get(name)?.to_str().ok()?;
                Some(value.to_owned())
            })
    };
    if shape(&body)? == Dialect::P2 {
        context.dialect = Dialect::P2;
        let mut message = p2::Message::parse(&body, limits)?;
        let is_inventory = matches!(message.content, p2::Content::Inventory(_));
        bounded(&body, is_inventory, limits)?;
        if value("agentid").is_some_and(|agent| agent.trim() != message.device.as_str()) {
            return Err(Reason::Header("agentid"));
        }
        // The document's own PROCESSNUMBER goes before the job of the request around it.
        message.process = message
            .process
            .or_else(|| value("job").filter(|job| is_plain(job, 255)));
        return Ok(What::Message(message));
    }
    // The answer is P1's plain JSON, whatever the body was packed with.
    context.packing = Packing::Plain;
    let agent = PeerName::parse(&value("agentid").unwrap_or_default()).map_err(Reason::Name)?;
    let job = value("job")
        .filter(|job| is_plain(job, 255))
        .ok_or(Reason::Header("job"))?;
    let keys = ["percent", "reason", "result", "state"];
    let document = Fields::some(json::check(&body, limits)?, "", &keys)?;
    let news = JobNews::parse(&document)?;
    Ok(What::News { agent, job, news })
}

fn read_token(request: &Request<Bytes>, limits: &Limits) -> Result<What, Reason> {
    let body = request.body();
    if body.len() > limits.query_bytes {
        return Err(BodyError::TooLarge {
            limit: limits.query_bytes,
        }
        .into());
    }
    let (mut grant, mut client, mut secret) = (None, None, None);
    if matches!(shape(body), Ok(Dialect::P3)) {
        let keys = ["client_id", "client_secret", "grant_type"];
        let document = Fields::some(json::check(body, limits)?, "", &keys)?;
        grant = document.text("grant_type")?;
        client = document.text("client_id")?;
        secret = document.text("client_secret")?;
    } else {
        for (key, value) in form_urlencoded::parse(body) {
            match key.as_ref() {
                "grant_type" => grant = Some(value.into_owned()),
                "client_id" => client = Some(value.into_owned()),
                "client_secret" => secret = Some(value.into_owned()),
                _ => {}
            }
        }
    }
    if grant.as_deref() != Some("client_credentials") {
        return Err(Reason::Json(JsonError::Field {
            path: "grant_type".to_owned(),
            wanted: "client_credentials",
        }));
    }
    let wanted = |path: &str| JsonError::Field {
        path: path.to_owned(),
        wanted: "a string",
    };
    Ok(What::Token {
        client: client
            .map(|c| short(&c))
            .ok_or_else(|| wanted("client_id"))?,
        secret: secret
            .map(Secret::new)
            .ok_or_else(|| wanted("client_secret"))?,
    })
}

/// What a peer is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// News was taken, or there is nothing to say.
    Accepted,
    /// Nothing is scheduled, in answer to getConfig.
    Config,
    /// It is refused, in the dialect's words.
    Error {
        /// HTTP status.
        status: StatusCode,
        /// What went wrong, in a sentence a peer may see.
        message: String,
        /// Seconds to wait before trying again.
        retry_after: Option<u32>,
        /// Ask for credentials.
        authenticate: bool,
    },
    /// No jobs, in answer to getJobs.
    Jobs(Remote),
    /// P3.
    Native(p3::Answer),
    /// P2.
    Reply(Reply),
    /// P1.
    Tasks(TaskList),
    /// A bearer token.
    Token {
        /// The token.
        token: Secret,
        /// Seconds it may be used for.
        expires_in: u32,
    },
}

/// Writes an answer.
#[must_use]
pub fn encode(answer: Answer, context: &Context) -> Response<Bytes> {
    let mut status = StatusCode::OK;
    let mut headers = HeaderMap::new();
    let mut packing = context.packing;
    let mut kind = "application/json";
    let mut put = |name: header::HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    let body = match answer {
        Answer::Accepted => match context.dialect {
            Dialect::P1 | Dialect::P3 => json!({"status": "ok"}).to_string(),
            Dialect::P2 => {
                kind = "application/xml";
                Reply::default().to_xml()
            }
            Dialect::Side => "{}".to_owned(),
        },
        Answer::Config => side::NO_CONFIG.to_owned(),
        Answer::Error {
            status: code,
            message,
            retry_after,
            authenticate,
        } => {
            status = code;
            // Both families of agents read a plain error, and one dies of a packed one.
            packing = Packing::Plain;
            if let Some(seconds) = retry_after {
                put(header::RETRY_AFTER, &seconds.to_string());
            }
            if authenticate {
                put(header::WWW_AUTHENTICATE, "Basic realm=\"Muster\"");
            }
            match context.dialect {
                Dialect::P2 => {
                    kind = "application/xml";
                    Reply::error(message).to_xml()
                }
                Dialect::P1 | Dialect::P3 | Dialect::Side => {
                    json!({"status": "error", "message": message}).to_string()
                }
            }
        }
        Answer::Jobs(remote) => side::no_jobs(remote).to_owned(),
        Answer::Native(answer) => {
            if matches!(answer, p3::Answer::Pending(_)) {
                status = StatusCode::ACCEPTED;
            }
            answer.to_json()
        }
        Answer::Reply(reply) => {
            kind = "application/xml";
            reply.to_xml()
        }
        Answer::Tasks(list) => list.to_json(),
        Answer::Token { token, expires_in } => json!({
            "token_type": "Bearer",
            "expires_in": expires_in,
            "access_token": token.reveal(),
        })
        .to_string(),
    };
    put(header::CONTENT_TYPE, packing.content_type(kind));
    put(header::CACHE_CONTROL, "no-store");
    if let Some(id) = &context.request_id {
        put(header::HeaderName::from_static(REQUEST_ID), id);
    }
    let body = Bytes::from(packing.pack(body.into_bytes()));
    let mut response = Response::new(if context.is_head { Bytes::new() } else { body });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, body: &[u8]) -> Request<Bytes> {
        Request::builder()
            .method(method)
            .uri(target)
            .body(Bytes::copy_from_slice(body))
            .unwrap()
    }

    fn status(method: &str, target: &str, body: &[u8]) -> u16 {
        match decode(&request(method, target, body), &Limits::default()) {
            Ok(_) => 200,
            Err(reject) => reject.to_response().status().as_u16(),
        }
    }

    #[test]
    fn statuses() {
        let prolog = b"<REQUEST><DEVICEID>a</DEVICEID><QUERY>PROLOG</QUERY></REQUEST>";
        let cases: &[(&str, &str, &[u8], u16)] = &[
            ("GET", "/api/tasks?agentid=x", b"", 200),
            ("HEAD", "/api/tasks?agentid=x", b"", 200),
            ("GET", "/api/tasks", b"", 400),
            ("GET", "/api/tasks?agentid=..%2F", b"", 400),
            ("POST", "/api/tasks?agentid=x", b"", 405),
            ("TRACE", "/", b"", 405),
            ("PUT", "/front/inventory.php", b"", 405),
            ("GET", "/nowhere", b"", 404),
            ("GET", "/", b"", 400),
            ("POST", "/", b"", 400),
            ("POST", "/", b"hello", 400),
            ("POST", "/", prolog, 200),
            ("POST", "/", b"<REQUEST><DEVICEID>a</DEVICEID><QUERY>X</QUERY></REQUEST>", 501),
            ("POST", "/", b"<!DOCTYPE x><REQUEST/>", 400),
            ("POST", "/", b"{\"deviceid\":\"a\",\"action\":\"contact\"}", 200),
            ("POST", "/", b"{\"deviceid\":\"a\"", 400),
            ("GET", "/?action=getConfig&machineid=m", b"", 200),
            ("GET", "/?action=wait&machineid=m", b"", 400),
            ("GET", "/b/deploy/?action=getJobs&machineid=m", b"", 200),
            ("GET", "/b/deploy/", b"", 400),
            ("GET", "/api/results", b"", 405),
            ("POST", "/api/results?agentid=a&job=j", b"{\"state\":\"running\"}", 200),
            ("POST", "/api/results?agentid=a", b"{\"state\":\"running\"}", 400),
            ("POST", "/api/results?agentid=a&job=j", b"{\"state\":7}", 400),
            ("POST", "/api/results", prolog, 200),
            ("POST", "/api/results?agentid=a", prolog, 200),
            ("POST", "/api/results?agentid=b", prolog, 400),
            ("POST", "/api.php/token", b"{\"grant_type\":\"client_credentials\",\"client_id\":\"a\",\"client_secret\":\"b\"}", 200),
            ("POST", "/api.php/token", b"grant_type=client_credentials&client_id=a&client_secret=b", 200),
            ("POST", "/api.php/token", b"grant_type=password", 400),
        ];
        for (method, target, body, want) in cases {
            assert_eq!(status(method, target, body), *want, "{method} {target}");
        }
    }

    #[test]
    fn the_job_of_a_document_is_its_own_or_the_requests() {
        let document = |process| {
            format!(
                "<REQUEST><CONTENT><AGENT><END>1</END></AGENT>{process}</CONTENT>\
                 <DEVICEID>a</DEVICEID><QUERY>NETDISCOVERY</QUERY></REQUEST>"
            )
        };
        for (target, process, job) in [
            ("/api/results?agentid=a&task=t&job=j", "", Some("j")),
            (
                "/api/results?job=j",
                "<PROCESSNUMBER>7</PROCESSNUMBER>",
                Some("7"),
            ),
            ("/api/results", "", None),
        ] {
            let ask = request("POST", target, document(process).as_bytes());
            let What::Message(message) = decode(&ask, &Limits::default()).unwrap().what else {
                panic!("{target}")
            };
            assert_eq!(message.process.as_deref(), job, "{target}");
        }
        let mut headers = request("POST", "/api/results", document("").as_bytes());
        for (name, value) in [("agentid", "a"), ("job", "j")] {
            headers
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        let What::Message(message) = decode(&headers, &Limits::default()).unwrap().what else {
            panic!()
        };
        assert_eq!(message.process.as_deref(), Some("j"));
    }

    #[test]
    fn the_refusal_speaks_the_dialect() {
        let limits = Limits::default();
        let xml = decode(&request("POST", "/", b"<REQUEST/>"), &limits)
            .unwrap_err()
            .to_response();
        assert_eq!(xml.headers()["content-type"], "application/xml");
        assert!(xml.body().starts_with(b"<?xml"));
        let json = decode(&request("POST", "/", b"{}"), &limits)
            .unwrap_err()
            .to_response();
        assert_eq!(json.headers()["content-type"], "application/json");
        let value: serde_json::Value = serde_json::from_slice(json.body()).unwrap();
        assert_eq!(value["status"], "error");
        let method = decode(&request("PUT", "/api/tasks", b""), &limits).unwrap_err();
        assert_eq!(method.to_response().headers()["allow"], "GET, HEAD");
    }

    #[test]
    fn a_bomb_is_413_and_a_second_layer_415() {
        let bomb = Packing::Zlib.pack(vec![b' '; 40 << 20]);
        let mut bombs = request("POST", "/", &bomb);
        assert_eq!(
            decode(&bombs, &Limits::default())
                .unwrap_err()
                .reason
                .status()
                .as_u16(),
            413
        );
        let nested = Packing::Gzip.pack(Packing::Zlib.pack(b"<REQUEST/>".to_vec()));
        let mut twice = request("POST", "/", &nested);
        twice
            .headers_mut()
            .insert("content-encoding", HeaderValue::from_static("gzip"));
        assert_eq!(
            decode(&twice, &Limits::default())
                .unwrap_err()
                .reason
                .status()
                .as_u16(),
            415
        );
        bombs
            .headers_mut()
            .insert("content-encoding", HeaderValue::from_static("br"));
        assert_eq!(
            decode(&bombs, &Limits::default())
                .unwrap_err()
                .reason
                .status()
                .as_u16(),
            415
        );
    }

    #[test]
    fn only_an_inventory_may_be_large() {
        let limits = Limits {
            message_bytes: 200,
            ..Limits::default()
        };
        let pad = " ".repeat(300);
        let prolog = format!("<REQUEST>{pad}<DEVICEID>a</DEVICEID><QUERY>PROLOG</QUERY></REQUEST>");
        let reject = decode(&request("POST", "/", prolog.as_bytes()), &limits).unwrap_err();
        assert_eq!(reject.reason.status().as_u16(), 413);
        let inventory = format!(
            "<REQUEST>{pad}<DEVICEID>a</DEVICEID><QUERY>INVENTORY</QUERY><CONTENT/></REQUEST>"
        );
        assert!(decode(&request("POST", "/", inventory.as_bytes()), &limits).is_ok());
    }

    #[test]
    fn a_pending_poll_nobody_waits_for_is_404() {
        let mut poll = request("GET", "/", b"");
        poll.headers_mut()
            .insert("glpi-request-id", HeaderValue::from_static("00C0FFEE"));
        let reject = decode(&poll, &Limits::default()).unwrap_err();
        let response = reject.to_response();
        assert_eq!(response.status().as_u16(), 404);
        assert_eq!(response.headers()["glpi-request-id"], "00C0FFEE");
        assert!(is_from_agent(&request("POST", "/", b"")));
        assert!(is_from_agent(&request("GET", "/?action=getConfig", b"")));
        assert!(!is_from_agent(&request("GET", "/", b"")));
    }

    #[test]
    fn software() {
        let parse = |text| Software::parse(text).map(|s| (s.name, s.version));
        assert_eq!(
            parse("FusionInventory-Agent_v2.6-3"),
            Some(("FusionInventory-Agent".to_owned(), Some("2.6-3".to_owned())))
        );
        assert_eq!(
            parse("GLPI-Agent_v1.12-dev"),
            Some(("GLPI-Agent".to_owned(), Some("1.12-dev".to_owned())))
        );
        assert_eq!(
            parse("curl/8.0 x"),
            Some(("curl".to_owned(), Some("8.0".to_owned())))
        );
        assert_eq!(parse("odd"), Some(("odd".to_owned(), None)));
        assert_eq!(parse(""), None);
    }
}
