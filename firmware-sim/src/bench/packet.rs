//! The few MQTT 3.1.1 packets of the generator, built from templates and read in place: what a message costs here is
//! not available to the broker under test when both share a machine.

use super::plan::BenchPlan;

/// Digits of a payload's time: epoch milliseconds from 2001 to 2286.
const TIME_DIGITS: usize = 13;
/// Digits of a payload's sequence number.
const SEQ_DIGITS: usize = 7;
/// The first sequence number, so that all have the same length.
const FIRST_SEQ: u64 = 1_000_000;
/// Digits of a payload's value behind the point.
const VALUE_DIGITS: usize = 3;
/// The number that tells one run's readings from another's.
pub const BOOT_RANGE: std::ops::Range<u64> = 1_000_000..10_000_000;

/// The length of every payload, in bytes.
pub const PAYLOAD_BYTES: usize = 64;

fn put_digits(at: &mut [u8], mut number: u64) {
    for digit in at.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// One device's PUBLISH of QoS 1, complete but for the packet id and the digits of its payload.
#[derive(Debug)]
pub struct Template {
    bytes: Vec<u8>,
    packet_id: usize,
    value: usize,
    time: usize,
    seq: usize,
    next_seq: u64,
}

impl Template {
    /// The template of device `index`.
    pub fn new(index: usize, boot: u64) -> Self {
        let topic = format!("d/bench-{index:06}/temp");
        let time = "0".repeat(TIME_DIGITS);
        let payload = format!(r#"{{"value":21.000,"ts":{time},"seq":{FIRST_SEQ},"boot":{boot}}}"#);
        let mut bytes = vec![0x32];
        put_length(&mut bytes, 2 + topic.len() + 2 + payload.len());
        put_text(&mut bytes, &topic);
        let packet_id = bytes.len();
        bytes.extend([0, 0]);
        let body = bytes.len();
        bytes.extend(payload.as_bytes());
        let after = |key: &str| body + payload.find(key).unwrap_or(0) + key.len();
        let (value, time, seq) = (after("21."), after("\"ts\":"), after("\"seq\":"));
        Self { bytes, packet_id, value, time, seq, next_seq: FIRST_SEQ }
    }

    /// Appends the device's next reading.
    pub fn write(&mut self, packet_id: u16, time_ms: u64, out: &mut Vec<u8>) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.bytes[self.packet_id..self.packet_id + 2].copy_from_slice(&packet_id.to_be_bytes());
        put_digits(&mut self.bytes[self.value..self.value + VALUE_DIGITS], seq % 1_000);
        put_digits(&mut self.bytes[self.time..self.time + TIME_DIGITS], time_ms);
        put_digits(&mut self.bytes[self.seq..self.seq + SEQ_DIGITS], seq);
        out.extend_from_slice(&self.bytes);
    }
}

/// Remaining length, MQTT 3.1.1 section 2.2.3.
fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length > 127 {
        out.push((length % 128) as u8 | 0x80);
        length /= 128;
    }
    out.push(length as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// CONNECT of MQTT 3.1.1, with the plan's login and without keep alive.
pub fn connect(plan: &BenchPlan, client: &str, clean: bool) -> Vec<u8> {
    let login = (!plan.username.is_empty()).then_some([&plan.username, &plan.password]);
    let mut body = Vec::new();
    put_text(&mut body, "MQTT");
    let flags = if clean { 0x02 } else { 0 } | if login.is_some() { 0xc0 } else { 0 };
    body.extend([4, flags, 0, 0]); // no keep-alive: a connection may be idle for as long as a run lasts
    put_text(&mut body, client);
    for text in login.into_iter().flatten() {
        put_text(&mut body, text);
    }
    packet(0x10, &body)
}

/// SUBSCRIBE to one filter with QoS 1.
pub fn subscribe(filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    put_text(&mut body, filter);
    body.push(1);
    packet(0x82, &body)
}

/// DISCONNECT of MQTT 3.1.1: ends a connection without its will.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    put_length(&mut out, body.len());
    out.extend(body);
    out
}

/// What a broker says.
#[derive(Debug, PartialEq, Eq)]
pub enum BrokerReply {
    /// CONNACK with its return code.
    Connected(u8),
    /// SUBACK with its return code.
    Subscribed(u8),
    Acked(u16),
}

/// Takes the complete packets off the front of `input` and says how many bytes they were.
///
/// # Errors
/// Names a packet that a publisher does not expect.
pub fn read(input: &[u8], mut heard: impl FnMut(BrokerReply)) -> Result<usize, String> {
    let mut at = 0;
    loop {
        let rest = &input[at..];
        // All that a publisher of QoS 1 is told is shorter than 128 bytes.
        let [first, length, body @ ..] = rest else { return Ok(at) };
        let Some(body) = body.get(..usize::from(*length)) else { return Ok(at) };
        match (first, body) {
            (0x40, [high, low]) => heard(BrokerReply::Acked(u16::from_be_bytes([*high, *low]))),
            (0x20, [_, code]) => heard(BrokerReply::Connected(*code)),
            (0x90, [_, _, code]) => heard(BrokerReply::Subscribed(*code)),
            _ => return Err(format!("an unexpected packet (first byte {first:#04x}, {length} bytes)")),
        }
        at += 2 + body.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use rmqtt_codec::v3::{Codec, Packet};
    use tokio_util::codec::Decoder;

    #[test]
    fn readings_are_what_a_codec_reads_and_64_bytes_of_json() {
        let mut template = Template::new(7, BOOT_RANGE.start);
        let mut out = Vec::new();
        template.write(1, 1_764_000_000_250, &mut out);
        template.write(2, 1_764_000_000_251, &mut out);
        let (mut input, mut codec) = (BytesMut::from(&out[..]), Codec::new(1024));
        for (packet_id, seq) in [(1, 1_000_000), (2, 1_000_001)] {
            let Some((Packet::Publish(publish), _)) = codec.decode(&mut input).unwrap() else {
                panic!("no publish")
            };
            assert_eq!(publish.topic, "d/bench-000007/temp");
            assert_eq!(publish.packet_id.unwrap().get(), packet_id);
            assert_eq!(publish.payload.len(), PAYLOAD_BYTES);
            let json: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
            assert_eq!(json["seq"], seq);
            assert_eq!(json["ts"], 1_764_000_000_249_u64 + u64::from(packet_id));
            assert_eq!(json["value"], 21.0 + f64::from(packet_id - 1) / 1_000.0);
        }
        assert!(input.is_empty());
    }

    #[test]
    fn the_other_packets_are_what_a_codec_reads() {
        let plan = BenchPlan { username: "u".into(), password: "p".into(), ..BenchPlan::default() };
        let mut input = BytesMut::from(&connect(&plan, "c1", false)[..]);
        input.extend_from_slice(&subscribe("d/#"));
        input.extend_from_slice(&DISCONNECT);
        let mut codec = Codec::new(1024);
        let Some((Packet::Connect(connect), _)) = codec.decode(&mut input).unwrap() else { panic!() };
        assert_eq!((&*connect.client_id, connect.clean_session, connect.keep_alive), ("c1", false, 0));
        assert_eq!((connect.username.as_deref(), connect.password.as_deref()), (Some("u"), Some(&b"p"[..])));
        assert!(matches!(codec.decode(&mut input).unwrap(), Some((Packet::Subscribe { .. }, _))));
        assert!(matches!(codec.decode(&mut input).unwrap(), Some((Packet::Disconnect, _))));
    }

    #[test]
    fn acknowledgements_are_read_whole_or_not_yet() {
        let input = [0x20, 2, 0, 0, 0x40, 2, 1, 2, 0x40, 2, 9];
        let mut heard = Vec::new();
        assert_eq!(read(&input, |h| heard.push(h)), Ok(8));
        assert_eq!(heard, [BrokerReply::Connected(0), BrokerReply::Acked(0x0102)]);
        assert!(read(&[0x30, 0], |_| {}).unwrap_err().contains("0x30"));
    }
}
