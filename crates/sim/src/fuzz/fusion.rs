//! The FusionInventory wire: requests as a server takes them, XML of both directions, and answers as
//! an agent takes them.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use muster_proto::fusion::Limits;
use muster_proto::fusion::agent;
use muster_proto::fusion::controller::{self, Answer, What, encode};
use muster_proto::fusion::p1::TaskList;
use muster_proto::fusion::p2::Message;
use muster_proto::fusion::reply::Reply;
use muster_proto::fusion::xml::Document;

/// A request: method and target in the first line, headers in the next ones, a blank line, the body.
///
/// # Panics
/// When a refusal is no refusal, or an answer cannot be read by the other end.
pub fn request(data: &[u8]) {
    let Some(request) = read(data) else { return };
    match controller::decode(&request, &Limits::default()) {
        Ok(ask) => {
            let taken = encode(Answer::Accepted, &ask.context);
            assert!(taken.status().is_success());
            if let What::Message(message) = ask.what {
                settles(message);
                if !ask.context.is_head {
                    assert!(agent::decode_reply(&taken, &Limits::default()).is_ok());
                }
            }
        }
        Err(reject) => {
            let status = reject.to_response().status().as_u16();
            assert!((400..500).contains(&status) || status == 501, "{status}");
        }
    }
}

/// XML: as a document, as a message, as a reply.
///
/// # Panics
/// When what was written of it is read as something else.
pub fn xml(data: &[u8]) {
    let limits = Limits::default();
    if let Ok(document) = Document::parse(data, &limits) {
        let mut open = vec![document.root()];
        let mut seen = 0_usize;
        while let Some(element) = open.pop() {
            seen += 1;
            assert!(seen <= limits.xml_elements);
            open.extend(element.children());
        }
    }
    if let Ok(message) = Message::parse(data, &limits) {
        settles(message);
    }
    if let Ok(reply) = Reply::parse(data, &limits) {
        let once = Reply::parse(reply.to_xml().as_bytes(), &limits);
        let once = once.unwrap_or_else(|error| panic!("our own reply: {error}"));
        assert_eq!(once.options.len(), reply.options.len());
        let twice = Reply::parse(once.to_xml().as_bytes(), &limits);
        assert_eq!(twice.ok().as_ref(), Some(&once));
    }
}

/// An answer: the first byte chooses status and type, the rest is the body.
///
/// # Panics
/// When a task list that was read is written as another one.
pub fn answer(data: &[u8]) {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let kind = match first % 4 {
        0 => "application/json",
        1 => "application/xml",
        2 => "application/x-compress-zlib",
        _ => "text/plain",
    };
    let status = match first / 4 % 4 {
        0 => 503,
        1 => 302,
        _ => 200,
    };
    let response = Response::builder()
        .status(status)
        .header("content-type", kind)
        .body(Bytes::copy_from_slice(body));
    let Ok(response) = response else { return };
    let limits = Limits::default();
    let _ = agent::decode_reply(&response, &limits);
    let _ = agent::decode_native(&response, &limits);
    let _ = agent::decode_prolog(&response, &limits);
    let _ = agent::decode_accepted(&response, &limits);
    if let Ok(list) = agent::decode_tasks(&response, &limits) {
        let again = |list: &TaskList| {
            let read = TaskList::parse(list.to_json().as_bytes(), &limits);
            read.unwrap_or_else(|error| panic!("our own task list: {error}"))
        };
        // What could not be read is left out the first time.
        let once = again(&list);
        assert_eq!(again(&once), once);
    }
}

/// What is written of a message is read as it was; control characters go the first time.
fn settles(message: Message) {
    let again = |message: &Message| {
        let read = Message::parse(message.to_xml().as_bytes(), &Limits::default());
        read.unwrap_or_else(|error| panic!("our own message: {error}"))
    };
    let once = again(&message);
    assert_eq!(once.device, message.device);
    assert_eq!(again(&once), once);
}

fn read(data: &[u8]) -> Option<Request<Bytes>> {
    let at = data.windows(2).position(|pair| pair == b"\n\n")?;
    let (head, body) = data.split_at(at);
    let mut lines = std::str::from_utf8(head).ok()?.lines();
    let (method, target) = lines.next()?.split_once(' ')?;
    let mut request = Request::new(Bytes::copy_from_slice(body.get(2..)?));
    *request.method_mut() = method.parse().ok()?;
    *request.uri_mut() = target.parse().ok()?;
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        let name = name.parse::<HeaderName>().ok()?;
        let value = HeaderValue::from_str(value).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}
