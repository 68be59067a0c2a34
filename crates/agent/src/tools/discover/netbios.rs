//! NetBIOS node status: one question over UDP to port 137, and who answers it (RFC 1002, 4.2.17).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

/// Where the name service listens.
const PORT: u16 = 137;
/// How long an answer may take (FusionInventory contract, section 7.1).
const TIMEOUT: Duration = Duration::from_millis(250);
/// Longest answer: as many names as one byte counts.
const ANSWER_BYTES_MAX: usize = 8192;

/// What a machine calls itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) name: Option<String>,
    pub(super) workgroup: Option<String>,
    pub(super) user: Option<String>,
    pub(super) mac: Option<String>,
}

/// Asks one address. `None` when it does not answer, or not sensibly.
pub(super) async fn ask(address: IpAddr, transaction: u16) -> Option<Names> {
    let IpAddr::V4(address) = address else {
        return None;
    };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
    socket
        .connect(SocketAddr::from((address, PORT)))
        .await
        .ok()?;
    socket.send(&question(transaction)).await.ok()?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let wait = tokio::time::timeout(TIMEOUT, socket.recv(&mut answer));
    let length = wait.await.ok()?.ok()?;
    parse(answer.get(..length)?, transaction)
}

fn question(transaction: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(50);
    packet.extend(transaction.to_be_bytes());
    // A query with one question, for the wildcard name, of type NBSTAT in class IN.
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 32]);
    packet.extend(b"CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    packet.extend([0, 0, 0x21, 0, 1]);
    packet
}

fn parse(answer: &[u8], transaction: u16) -> Option<Names> {
    let word = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let is_answer = word(2)? & 0x8000 != 0;
    if word(0)? != transaction || !is_answer || word(6)? == 0 {
        return None;
    }
    // The record's name: a pointer, or labels up to an empty one.
    let mut at = 12;
    loop {
        match *answer.get(at)? {
            0 => break at += 1,
            label if label & 0xc0 == 0xc0 => break at += 2,
            label => at += usize::from(label) + 1,
        }
    }
    if word(at)? != 0x21 {
        return None;
    }
    // Type, class, time to live and length take ten bytes.
    let count = usize::from(*answer.get(at + 10)?);
    let table = answer.get(at + 11..)?;
    let mut names = Names::default();
    for entry in table.chunks_exact(18).take(count) {
        let (text, rest) = entry.split_at_checked(15)?;
        let [suffix, flags, _] = rest else {
            return None;
        };
        let is_group = flags & 0x80 != 0;
        let text = text
            .iter()
            .map(|byte| char::from(*byte))
            .collect::<String>();
        let text = text
            .trim_matches(|c: char| c.is_whitespace() || c.is_control())
            .to_owned();
        if text.is_empty() || text.contains(|c: char| c.is_control()) {
            continue;
        }
        match (suffix, is_group) {
            (0x00, false) => names.name = names.name.or(Some(text)),
            (0x00, true) => names.workgroup = names.workgroup.or(Some(text)),
            // Messenger names: the machine's own, and those of users.
            (0x03, false) => names.user = Some(text),
            _ => {}
        }
    }
    if names.user == names.name {
        names.user = None;
    }
    names.mac = table
        .get(18 * count..18 * count + 6)
        .and_then(super::identify::mac);
    Some(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn answer(entries: &[(&str, u8, u8)], mac: [u8; 6]) -> Vec<u8> {
        let mut packet = vec![0x12, 0x34, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0, 32];
        packet.extend(b"CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        packet.extend([0, 0, 0x21, 0, 1, 0, 0, 0, 0, 0, 0]);
        packet.push(u8::try_from(entries.len()).unwrap());
        for (name, suffix, flags) in entries {
            packet.extend(format!("{name:15}").as_bytes());
            packet.extend([*suffix, *flags, 0]);
        }
        packet.extend(mac);
        packet.extend([0; 40]);
        packet
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_names_or_none(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            // As if it were an answer to us, so that what follows the head is read.
            for (slot, byte) in bytes.iter_mut().zip([0x12, 0x34, 0x84, 0, 0, 0, 0, 1]) {
                *slot = byte;
            }
            let _ = parse(&bytes, 0x1234);
        }
    }

    #[test]
    fn a_question_has_fifty_bytes() {
        assert_eq!(question(0x1234).len(), 50);
        assert_eq!(question(0x1234)[..2], [0x12, 0x34]);
    }

    #[test]
    fn names_are_told_apart() {
        let entries = [
            ("WINBOX", 0x00, 0x04),
            ("LAB", 0x00, 0x84),
            ("WINBOX", 0x03, 0x04),
            ("ANN", 0x03, 0x04),
            ("WINBOX", 0x20, 0x04),
            ("LAB", 0x1e, 0x84),
        ];
        let found = parse(&answer(&entries, [2, 0, 0, 0, 0, 9]), 0x1234).unwrap();
        assert_eq!(found.name.as_deref(), Some("WINBOX"));
        assert_eq!(found.workgroup.as_deref(), Some("LAB"));
        assert_eq!(found.user.as_deref(), Some("ANN"));
        assert_eq!(found.mac.as_deref(), Some("02:00:00:00:00:09"));
    }

    #[test]
    fn a_machine_without_a_user_has_none() {
        let found = parse(&answer(&[("A", 0, 4), ("A", 3, 4)], [0; 6]), 0x1234).unwrap();
        assert_eq!((found.user, found.mac), (None, None));
    }

    #[test]
    fn cut_foreign_and_senseless_answers_are_none() {
        let good = answer(&[("WINBOX", 0, 4)], [2, 0, 0, 0, 0, 9]);
        assert!(parse(&good, 0x4321).is_none(), "another transaction");
        for length in 0..57 {
            assert!(parse(&good[..length], 0x1234).is_none(), "{length}");
        }
        assert!(parse(&[0xff; 200], 0xffff).is_none());
        assert!(
            parse(&question(0x1234), 0x1234).is_none(),
            "a question is no answer"
        );
    }
}
