//! XML in and out, with only what the family uses: elements, attributes, text.
//!
//! No DTD, no entities but the five and numeric references, no processing instructions, no
//! namespaces (so no XInclude), bounded depth, count and text (threat model, sections 4 and 5).
//! Nothing is fetched because nothing that could be fetched is understood.
//!
//! A [`Document`] is flat: nodes in document order, names as ranges of the source, text in one
//! buffer. A tree of owned elements would cost thirty times the bytes of a hostile document.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::wire::Limits;

/// Why a document was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum XmlError {
    /// A document type, an entity that is not one of the five, a processing instruction or a name
    /// space.
    #[error("{0} is not allowed")]
    Forbidden(&'static str),
    /// An encoding other than UTF-8, Latin-1 or a subset of them.
    #[error("encoding is not supported")]
    Encoding,
    /// Not well formed.
    #[error("XML not well formed: {0}")]
    Malformed(String),
    /// More than a limit allows.
    #[error("more than {limit} {what}")]
    TooMuch {
        /// What there was too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// A parsed document. Attributes and child elements are the same thing, as they are to the peers.
#[derive(Debug)]
pub struct Document<'s> {
    source: Cow<'s, str>,
    text: String,
    nodes: Vec<Node>,
}

/// One element or attribute; children follow it in the list, `next` is the first node after them.
#[derive(Clone, Copy, Debug)]
struct Node {
    name_at: u32,
    name_len: u32,
    text_at: u32,
    text_len: u32,
    next: u32,
}

/// One element (or attribute) of a [`Document`].
#[derive(Clone, Copy, Debug)]
pub struct Element<'d> {
    document: &'d Document<'d>,
    index: usize,
}

impl<'s> Document<'s> {
    /// Parses bytes: UTF-8, else Latin-1.
    ///
    /// # Errors
    /// [`XmlError`]; a document that is refused is refused as a whole.
    pub fn parse(bytes: &'s [u8], limits: &Limits) -> Result<Self, XmlError> {
        let source = to_text(bytes)?;
        let mut building = Building {
            limits,
            base: source.as_ptr() as usize,
            text: String::new(),
            nodes: Vec::with_capacity(count_nodes(source.as_bytes(), limits.xml_elements)),
            open: Vec::new(),
        };
        let mut reader = Reader::from_str(&source);
        let mut done = false;
        loop {
            let event = reader
                .read_event()
                .map_err(|e| XmlError::Malformed(cut(&e)))?;
            if done && !matches!(event, Event::Eof | Event::Comment(_) | Event::Text(_)) {
                return Err(XmlError::Malformed(
                    "something follows the root element".to_owned(),
                ));
            }
            match event {
                Event::Start(start) => building.open(&start)?,
                Event::Empty(start) => {
                    building.open(&start)?;
                    building.close()?;
                    done = building.open.is_empty();
                }
                Event::End(_) => {
                    building.close()?;
                    done = building.open.is_empty();
                }
                Event::Text(text) => building.text(&text.xml10_content())?,
                Event::CData(text) => building.text(&text.xml10_content())?,
                Event::GeneralRef(reference) => {
                    let name = reference.into_inner();
                    building.reference(&name)?;
                }
                Event::Comment(_) => {}
                Event::Decl(declaration) => match declaration.encoding() {
                    None => {}
                    Some(Ok(name)) if is_known_encoding(&name) => {}
                    Some(_) => return Err(XmlError::Encoding),
                },
                Event::PI(_) => return Err(XmlError::Forbidden("a processing instruction")),
                Event::DocType(_) => return Err(XmlError::Forbidden("a document type")),
                Event::Eof if done => break,
                Event::Eof => return Err(XmlError::Malformed("document ends early".to_owned())),
            }
        }
        let Building { text, nodes, .. } = building;
        Ok(Self {
            source,
            text,
            nodes,
        })
    }

    /// The outermost element.
    #[must_use]
    pub fn root(&self) -> Element<'_> {
        Element {
            document: self,
            index: 0,
        }
    }
}

impl<'d> Element<'d> {
    /// Name as written.
    #[must_use]
    pub fn name(&self) -> &'d str {
        self.node()
            .and_then(|n| slice(&self.document.source, n.name_at, n.name_len))
            .unwrap_or("")
    }

    /// Text of an element without child elements, as written; empty for the others.
    #[must_use]
    pub fn text(&self) -> &'d str {
        self.node()
            .and_then(|n| slice(&self.document.text, n.text_at, n.text_len))
            .unwrap_or("")
    }

    /// Attributes, then child elements, in document order.
    pub fn children(&self) -> impl Iterator<Item = Element<'d>> + use<'d> {
        let document = self.document;
        let end = self.node().map_or(0, |n| n.next as usize);
        let mut at = self.index.saturating_add(1);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let element = Element {
                document,
                index: at,
            };
            at = document.nodes.get(at).map_or(end, |n| n.next as usize);
            Some(element)
        })
    }

    /// Whether there is anything inside but text.
    #[must_use]
    pub fn has_children(&self) -> bool {
        self.children().next().is_some()
    }

    /// Children sorted by name without regard to case; those of one name stay in order.
    pub(super) fn sorted_children(&self) -> Sorted<'d> {
        let mut order = Vec::with_capacity(self.children().count());
        order.extend(
            self.children()
                .map(|c| u32::try_from(c.index).unwrap_or(u32::MAX)),
        );
        let sorted = Sorted {
            document: self.document,
            order: Vec::new(),
        };
        order.sort_unstable_by(|a, b| {
            let key = |at: u32| sorted.at(at).name().bytes().map(|b| b.to_ascii_lowercase());
            key(*a).cmp(key(*b)).then(a.cmp(b))
        });
        Sorted { order, ..sorted }
    }

    /// Bytes of the document this element is part of.
    pub(super) fn document_len(&self) -> usize {
        self.document.source.len()
    }

    /// First child of this name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<Element<'d>> {
        self.children().find(|c| c.name() == name)
    }

    /// All children of this name.
    pub fn all<'n>(&self, name: &'n str) -> impl Iterator<Item = Element<'d>> + use<'d, 'n> {
        self.children().filter(move |c| c.name() == name)
    }

    /// Trimmed text of the first child of this name that has any.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&'d str> {
        self.all(name)
            .map(|c| c.text().trim())
            .find(|t| !t.is_empty())
    }

    fn node(&self) -> Option<&'d Node> {
        self.document.nodes.get(self.index)
    }
}

/// Children of an element in order of their names.
pub(super) struct Sorted<'d> {
    document: &'d Document<'d>,
    order: Vec<u32>,
}

impl<'d> Sorted<'d> {
    /// Runs of children of one name.
    pub(super) fn groups(
        &self,
    ) -> impl Iterator<Item = impl ExactSizeIterator<Item = Element<'d>>> {
        self.order
            .chunk_by(|a, b| self.at(*a).name().eq_ignore_ascii_case(self.at(*b).name()))
            .map(|run| run.iter().map(|index| self.at(*index)))
    }

    fn at(&self, index: u32) -> Element<'d> {
        Element {
            document: self.document,
            index: index as usize,
        }
    }
}

struct Building<'l> {
    limits: &'l Limits,
    /// Address of the first byte of the source, to turn borrowed names into ranges.
    base: usize,
    text: String,
    nodes: Vec<Node>,
    /// Open elements: index, and whether a child element was seen.
    open: Vec<(usize, bool)>,
}

impl Building<'_> {
    fn open(&mut self, start: &BytesStart<'_>) -> Result<(), XmlError> {
        if self.open.len() >= self.limits.xml_depth {
            return Err(XmlError::TooMuch {
                what: "levels of XML",
                limit: self.limits.xml_depth,
            });
        }
        if let Some((parent, seen)) = self.open.last_mut() {
            // Text beside child elements is white space; it belongs to nobody.
            let is_first = !std::mem::replace(seen, true);
            if let Some(node) = self.nodes.get_mut(*parent).filter(|_| is_first) {
                self.text.truncate(node.text_at as usize);
                node.text_len = 0;
            }
        }
        let name = start.name();
        let index = self.push(name.as_ref())?;
        self.open.push((index, false));
        let mut attributes = start.attributes();
        // Looking for duplicates costs a hash of every name; the first one counts.
        attributes.with_checks(false);
        for attribute in attributes {
            let attribute = attribute.map_err(|e| XmlError::Malformed(cut(&e)))?;
            if attribute.key.as_ref() == "xmlns" {
                return Err(XmlError::Forbidden("a name space"));
            }
            let at = self.push(attribute.key.as_ref())?;
            self.open.push((at, false));
            let mut rest = attribute.value.as_ref();
            while let Some((before, after)) = rest.split_once('&') {
                self.text(before)?;
                let (reference, after) = after
                    .split_once(';')
                    .ok_or_else(|| XmlError::Malformed("a lone & in an attribute".to_owned()))?;
                self.reference(reference)?;
                rest = after;
            }
            self.text(rest)?;
            self.close()?;
            // The value was a child, but the element's own text may still come.
            if let Some(node) = self.nodes.get_mut(index) {
                node.text_at = u32::try_from(self.text.len()).unwrap_or(u32::MAX);
            }
        }
        Ok(())
    }

    fn push(&mut self, name: &str) -> Result<usize, XmlError> {
        if name.contains(':') {
            return Err(XmlError::Forbidden("a name space"));
        }
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(is_part) {
            return Err(XmlError::Malformed("a name with odd characters".to_owned()));
        }
        let index = self.nodes.len();
        if index >= self.limits.xml_elements {
            return Err(XmlError::TooMuch {
                what: "XML elements",
                limit: self.limits.xml_elements,
            });
        }
        let at = (name.as_ptr() as usize).wrapping_sub(self.base);
        self.nodes.push(Node {
            name_at: u32::try_from(at).unwrap_or(u32::MAX),
            name_len: u32::try_from(name.len()).unwrap_or(0),
            text_at: u32::try_from(self.text.len()).unwrap_or(u32::MAX),
            text_len: 0,
            next: 0,
        });
        Ok(index)
    }

    fn text(&mut self, piece: &str) -> Result<(), XmlError> {
        let Some((index, seen)) = self.open.last().copied() else {
            return match piece.trim().is_empty() {
                true => Ok(()),
                false => Err(XmlError::Malformed(
                    "text outside the root element".to_owned(),
                )),
            };
        };
        let Some(node) = self.nodes.get(index) else {
            return Ok(());
        };
        if seen {
            return Ok(());
        }
        let length = self.text.len().saturating_sub(node.text_at as usize);
        if length.saturating_add(piece.len()) > self.limits.xml_text_bytes {
            return Err(XmlError::TooMuch {
                what: "bytes of XML text",
                limit: self.limits.xml_text_bytes,
            });
        }
        self.text.push_str(piece);
        Ok(())
    }

    fn reference(&mut self, name: &str) -> Result<(), XmlError> {
        let c = match name {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let digits = name
                    .strip_prefix('#')
                    .ok_or(XmlError::Forbidden("an entity"))?;
                let code = match digits.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => digits.parse(),
                };
                let code = code.map_err(|_| XmlError::Forbidden("this character reference"))?;
                match char::from_u32(code) {
                    Some('\0') | None => char::REPLACEMENT_CHARACTER,
                    Some(c) => c,
                }
            }
        };
        self.text(c.encode_utf8(&mut [0; 4]))
    }

    fn close(&mut self) -> Result<(), XmlError> {
        let Some((index, seen)) = self.open.pop() else {
            return Err(XmlError::Malformed("an end without a start".to_owned()));
        };
        let next = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let end = u32::try_from(self.text.len()).unwrap_or(u32::MAX);
        if let Some(node) = self.nodes.get_mut(index) {
            node.next = next;
            if !seen {
                node.text_len = end.saturating_sub(node.text_at);
            }
        }
        Ok(())
    }
}

/// An upper bound of the nodes of a document, so that the list is reserved once.
fn count_nodes(source: &[u8], max: usize) -> usize {
    let mut count = 0_usize;
    let mut before = b' ';
    for byte in source {
        if *byte == b'=' || (before == b'<' && !matches!(byte, b'/' | b'!' | b'?')) {
            count = count.saturating_add(1);
        }
        before = *byte;
    }
    // `=` is common in text too: never reserve for more nodes than the bytes could hold.
    count.min(max).min(source.len() / 4)
}

fn slice(text: &str, at: u32, len: u32) -> Option<&str> {
    let at = at as usize;
    text.get(at..at.checked_add(len as usize)?)
}

fn is_known_encoding(name: &str) -> bool {
    [
        "utf-8",
        "utf8",
        "us-ascii",
        "ascii",
        "iso-8859-1",
        "latin1",
        "latin-1",
        "windows-1252",
    ]
    .iter()
    .any(|known| name.eq_ignore_ascii_case(known))
}

/// Text of a message: UTF-8 where it is, else each byte as the character of that number.
fn to_text(bytes: &[u8]) -> Result<Cow<'_, str>, XmlError> {
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    if bytes.contains(&0) || bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(XmlError::Encoding);
    }
    if bytes.len() >= u32::MAX as usize / 2 {
        return Err(XmlError::TooMuch {
            what: "bytes",
            limit: u32::MAX as usize / 2,
        });
    }
    Ok(match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let extra = bytes.iter().filter(|b| !b.is_ascii()).count();
            let mut text = String::with_capacity(bytes.len().saturating_add(extra));
            text.extend(bytes.iter().map(|b| char::from(*b)));
            Cow::Owned(text)
        }
    })
}

fn cut(error: &impl std::fmt::Display) -> String {
    error
        .to_string()
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

/// Writes a document.
#[derive(Debug)]
pub struct Writer {
    out: String,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// Begins with the declaration.
    #[must_use]
    pub fn new() -> Self {
        Self {
            out: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned(),
        }
    }

    /// Opens an element, lets `inside` fill it, closes it.
    pub fn element(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push('>');
        inside(self);
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    /// An element with text.
    pub fn leaf(&mut self, name: &str, text: &str) {
        self.element(name, |w| w.escaped(text));
    }

    /// An element with text, when there is any.
    pub fn optional(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.leaf(name, text);
        }
    }

    /// An empty element with the attributes that have a value.
    pub fn attributes(&mut self, name: &str, attributes: &[(&str, Option<&str>)]) {
        self.out.push('<');
        self.out.push_str(name);
        for (key, value) in attributes {
            if let Some(value) = value {
                self.out.push(' ');
                self.out.push_str(key);
                self.out.push_str("=\"");
                self.escaped(value);
                self.out.push('"');
            }
        }
        self.out.push_str("/>");
    }

    /// The document.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }

    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '&' => self.out.push_str("&amp;"),
                '"' => self.out.push_str("&quot;"),
                '\r' => self.out.push_str("&#13;"),
                '\n' | '\t' => self.out.push(c),
                '\u{fffe}' | '\u{ffff}' => self.out.push(char::REPLACEMENT_CHARACTER),
                c if c.is_control() && (c as u32) < 0x20 => {
                    self.out.push(char::REPLACEMENT_CHARACTER);
                }
                c => self.out.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Document<'_>, XmlError> {
        Document::parse(text.as_bytes(), &Limits::default())
    }

    #[test]
    fn elements_and_attributes_are_the_same_thing() {
        let one = parse(r#"<O><NAME>N</NAME><PARAM PID="7" TIMEOUT="1"/></O>"#).unwrap();
        let two =
            parse("<O>\n <NAME>N</NAME>\n <PARAM><PID>7</PID><TIMEOUT>1</TIMEOUT></PARAM></O>")
                .unwrap();
        for document in [one, two] {
            let param = document.root().child("PARAM").unwrap();
            assert_eq!(param.value("PID"), Some("7"));
            assert_eq!(param.value("TIMEOUT"), Some("1"));
            assert_eq!(document.root().value("NAME"), Some("N"));
            assert_eq!(document.root().text(), "");
        }
    }

    #[test]
    fn an_element_may_have_attributes_and_text() {
        let document = parse(r#"<A><B c="1">text</B></A>"#).unwrap();
        let b = document.root().child("B").unwrap();
        assert_eq!((b.text(), b.value("c")), ("text", Some("1")));
    }

    #[test]
    fn text_is_kept_as_meant() {
        let cases = [
            (
                "<A>a &lt;b&gt; &amp; &#65;&#x42;&apos;&quot;</A>",
                "a <b> & AB'\"",
            ),
            ("<A><![CDATA[<x> & y]]></A>", "<x> & y"),
            ("<A>one\r\ntwo&#13;</A>", "one\ntwo\r"),
            ("<A>a<!-- c -->b</A>", "ab"),
            ("<A>&#0;&#xd800;</A>", "\u{fffd}\u{fffd}"),
            ("<A/>", ""),
        ];
        for (xml, text) in cases {
            assert_eq!(parse(xml).unwrap().root().text(), text, "{xml}");
        }
    }

    #[test]
    fn what_is_not_utf8_is_latin1() {
        let document = Document::parse(b"<A>caf\xe9</A>", &Limits::default()).unwrap();
        assert_eq!(document.root().text(), "café");
        let declared = b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><A>\xe9</A>";
        assert_eq!(
            Document::parse(declared, &Limits::default())
                .unwrap()
                .root()
                .text(),
            "é"
        );
    }

    #[test]
    fn refused() {
        let cases: &[(&[u8], &str)] = &[
            (
                b"<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
                "document type",
            ),
            (
                b"<!DOCTYPE a SYSTEM \"file:///etc/passwd\"><a/>",
                "document type",
            ),
            (b"<a>&x;</a>", "an entity"),
            (b"<a b=\"&x;\"/>", "an entity"),
            (
                b"<?xml-stylesheet href=\"x\"?><a/>",
                "processing instruction",
            ),
            (b"<xi:include href=\"x\"/>", "name space"),
            (
                b"<include xmlns=\"http://www.w3.org/2001/XInclude\"/>",
                "name space",
            ),
            (
                b"<a xmlns:xi=\"http://www.w3.org/2001/XInclude\"/>",
                "name space",
            ),
            (
                b"<?xml version=\"1.0\" encoding=\"UTF-7\"?><a/>",
                "encoding",
            ),
            (
                b"<?xml version=\"1.0\" encoding=\"UTF-16\"?><a/>",
                "encoding",
            ),
            (b"\xff\xfe<\0a\0/\0>\0", "encoding"),
            (b"<a>\0</a>", "encoding"),
            (b"<a><b></a></b>", "not well formed"),
            (b"<a>", "ends early"),
            (b"", "ends early"),
            (b"just text", "outside the root"),
            (b"<a/><b/>", "follows the root"),
            (b"<a>x & y</a>", "not well formed"),
            (b"<a b=\"x & y\"/>", "lone &"),
            (b"<a<b/>", "not well formed"),
            (b"<a b'c=\"1\"/>", "not well formed"),
            (b"</a>", "not well formed"),
        ];
        for (xml, why) in cases {
            let error = Document::parse(xml, &Limits::default())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(why),
                "{}: {error}",
                String::from_utf8_lossy(xml)
            );
        }
    }

    #[test]
    fn limits() {
        let limits = Limits {
            xml_depth: 3,
            xml_elements: 5,
            xml_text_bytes: 4,
            ..Limits::default()
        };
        let check = |xml: &str| Document::parse(xml.as_bytes(), &limits).map(|_| ());
        assert!(check("<a><b><c/></b></a>").is_ok());
        assert!(check("<a><b><c><d/></c></b></a>").is_err());
        assert!(check("<a><b/><b/><b/><b/></a>").is_ok());
        assert!(check("<a><b/><b/><b/><b c=\"1\"/></a>").is_err());
        assert!(check("<a>1234</a>").is_ok());
        assert!(check("<a>12&#51;45</a>").is_err());
        assert!(check("<a b=\"12345\"/>").is_err());
    }

    #[test]
    fn writes_what_it_reads() {
        let text = "a<b>&\"c'\r\nd\u{1}é";
        let mut writer = Writer::new();
        writer.element("R", |w| {
            w.leaf("T", text);
            w.attributes("P", &[("A", Some("x\"<&>y")), ("B", None)]);
        });
        let xml = writer.finish();
        let document = parse(&xml).unwrap();
        assert_eq!(
            document.root().child("T").unwrap().text(),
            "a<b>&\"c'\r\nd\u{fffd}é"
        );
        assert_eq!(
            document.root().child("P").unwrap().value("A"),
            Some("x\"<&>y")
        );
    }
}
