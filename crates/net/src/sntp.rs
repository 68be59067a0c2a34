//! Whether the clock of this machine is kept by a time server that runs on it.
//!
//! Asked the way anybody may ask it: one SNTP request to the loopback address. No time server there
//! means that nothing is known, not that the clock is wrong.

use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::UdpSocket;

use crate::clock::Clock;

/// A server on this machine answers at once or is not there.
const WAIT: Duration = Duration::from_millis(200);
/// Seconds from 1900 to 1970.
const EPOCH_1900: f64 = 2_208_988_800.0;

/// What the local time server says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeServer {
    /// What it follows, for people: `secondary reference (3) from 10.0.0.1`.
    pub reference: String,
    /// How far the clock is from what it believes to be right.
    pub offset_secs: f64,
}

/// Asks the time server of this machine; `None` when there is none or it is not synchronised.
pub async fn local_time_server(clock: &Clock) -> Option<TimeServer> {
    ask(123, clock).await
}

async fn ask(port: u16, clock: &Clock) -> Option<TimeServer> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.ok()?;
    socket.connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let mut request = [0_u8; 48];
    // Version 4, mode client.
    request[0] = 0x23;
    let sent = clock.now();
    socket.send(&request).await.ok()?;
    let mut answer = [0_u8; 48];
    let read = tokio::select! {
        read = socket.recv(&mut answer) => read.ok()?,
        () = clock.sleep(WAIT) => return None,
    };
    let received = clock.now();
    (read == 48)
        .then(|| read_answer(&answer, sent, received))
        .flatten()
}

fn read_answer(answer: &[u8; 48], sent: Timestamp, received: Timestamp) -> Option<TimeServer> {
    let (leap, mode, stratum) = (answer[0] >> 6, answer[0] & 7, answer[1]);
    if leap == 3 || mode != 4 || !(1..16).contains(&stratum) {
        return None;
    }
    let word = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&answer[at..at + 4]);
        u32::from_be_bytes(bytes)
    };
    let stamp =
        |at: usize| f64::from(word(at)) + f64::from(word(at + 4)) / 4_294_967_296.0 - EPOCH_1900;
    let own = |time: Timestamp| time.as_nanosecond() as f64 / 1e9;
    let offset_secs = ((stamp(32) - own(sent)) + (stamp(40) - own(received))) / 2.0;
    let id = word(12);
    let reference = if stratum == 1 {
        let letters = id
            .to_be_bytes()
            .into_iter()
            .filter(u8::is_ascii_graphic)
            .map(char::from);
        format!("primary reference ({})", letters.collect::<String>())
    } else {
        format!(
            "secondary reference ({stratum}) from {}",
            Ipv4Addr::from(id)
        )
    };
    Some(TimeServer {
        reference,
        offset_secs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(first: u8, stratum: u8, id: [u8; 4], at: f64) -> [u8; 48] {
        let mut packet = [0; 48];
        packet[0] = first;
        packet[1] = stratum;
        packet[12..16].copy_from_slice(&id);
        let time = at + EPOCH_1900;
        for place in [32, 40] {
            packet[place..place + 4].copy_from_slice(&(time as u32).to_be_bytes());
            let fraction = (time.fract() * 4_294_967_296.0) as u32;
            packet[place + 4..place + 8].copy_from_slice(&fraction.to_be_bytes());
        }
        packet
    }

    #[test]
    fn answers_of_time_servers() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().expect("a time");
        let at = now.as_second() as f64 + 0.25;
        let read = |packet| read_answer(&packet, now, now);
        let second = read(packet(0x24, 3, [10, 0, 0, 1], at)).expect("synchronised");
        assert_eq!(second.reference, "secondary reference (3) from 10.0.0.1");
        assert!(
            (second.offset_secs - 0.25).abs() < 1e-4,
            "{}",
            second.offset_secs
        );
        let first = read(packet(0x24, 1, *b"GPS\0", at)).expect("synchronised");
        assert_eq!(first.reference, "primary reference (GPS)");
        for other in [
            packet(0xe4, 3, [0; 4], at),
            packet(0x24, 16, [0; 4], at),
            packet(0x24, 0, *b"RATE", at),
            packet(0x23, 3, [0; 4], at),
        ] {
            assert_eq!(read(other), None);
        }
    }

    #[tokio::test]
    async fn a_time_server_is_asked_and_silence_is_not_waited_for() {
        let clock = Clock::system();
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("socket");
        let port = server.local_addr().expect("address").port();
        let serve = async {
            let mut request = [0; 48];
            let (_, peer) = server.recv_from(&mut request).await.expect("request");
            let now = clock.now().as_nanosecond() as f64 / 1e9;
            server
                .send_to(&packet(0x24, 2, [1, 2, 3, 4], now), peer)
                .await
                .expect("sent");
        };
        let (answer, ()) = tokio::join!(ask(port, &clock), serve);
        assert!(answer.expect("an answer").offset_secs.abs() < 1.0);
        assert_eq!(ask(port, &clock).await, None, "it says nothing more");
        drop(server);
        assert_eq!(ask(port, &clock).await, None);
    }
}
