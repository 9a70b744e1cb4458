//! Damaged bytes: any outcome but a panic, and no growth without bound.

use super::rig::*;
use selvedge_types::mqtt::*;

/// A small generator (xorshift), so that a run can be repeated from its seed.
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

fn session(connect: &[u8], five: bool) -> Vec<u8> {
    let rest: &[&[u8]] = match five {
        false => &[
            b"\x32\x06\x00\x01a\x00\x01x\x34\x06\x00\x01a\x00\x02x\x3c\x06\x00\x01a\x00\x02x\x62\x02\x00\x02",
            b"\x82\x06\x00\x03\x00\x01b\x01\xa2\x05\x00\x04\x00\x01b\xc0\x00\x30\x04\x00\x01ax\x40\x02\x00\x01\xe0\x00",
        ],
        true => &[
            b"\x32\x07\x00\x01a\x00\x01\x00x\x34\x0a\x00\x01a\x00\x02\x03\x23\x00\x01x\x62\x04\x00\x02\x00\x00",
            b"\x30\x07\x00\x00\x03\x23\x00\x01y\x82\x07\x00\x03\x00\x00\x01b\x05\xa2\x06\x00\x04\x00\x00\x01b\xc0\x00",
            b"\x40\x04\x00\x01\x00\x00\xe0\x02\x04\x00",
        ],
    };
    [connect, &rest.concat()].concat()
}

#[test]
fn damaged_bytes_never_panic() {
    for (seed, (connect, five)) in [(V31, false), (V311, false), (V5, true)].into_iter().enumerate() {
        let good = session(connect, five);
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15 + seed as u64);
        for round in 0..4000 {
            let mut bytes = good.clone();
            for _ in 0..=noise.below(4) {
                let at = noise.below(bytes.len());
                match noise.below(4) {
                    0 => bytes[at] = noise.below(256) as u8,
                    1 => bytes[at] ^= 1 << noise.below(8),
                    2 => bytes.insert(at, noise.below(256) as u8),
                    _ => drop(bytes.remove(at)),
                }
            }
            let mut rig = Rig::new(limits());
            let mut closed = 0;
            for part in bytes.chunks(noise.below(40) + 1) {
                rig.feed(part);
                for event in std::mem::take(&mut rig.events) {
                    match event {
                        Inbound::Connect(_) => {
                            let accept = Accept { assigned_client_id: Some("n".into()), ..Accept::default() };
                            rig.answer(Answer::Accept(Box::new(accept)));
                        }
                        Inbound::Oversize(oversize) => rig.kept(oversize.token),
                        Inbound::Publish(Publish { token, .. }) | Inbound::Release { token, .. } => {
                            if noise.below(3) > 0 {
                                rig.answer(Answer::Ack(Ack::kept(token).with_receipt("r")));
                            }
                        }
                        Inbound::Closed(_) => closed += 1,
                        Inbound::Subscribe { token, .. } => {
                            let refused = vec![noise.below(9)];
                            rig.answer(Answer::Subscribed { token, refused });
                        }
                        Inbound::Unsubscribe { token, .. } => rig.answer(Answer::Unsubscribed { token }),
                    }
                }
                if rig.core.can_deliver(QoS::AtLeastOnce) {
                    let delivery = Delivery { topic: "a".into(), payload: "x".into(), qos: QoS::AtLeastOnce };
                    rig.core.deliver(delivery);
                }
            }
            rig.tick(1_000_000);
            rig.core.close(CloseReason::Gone, &mut rig.events);
            closed += rig.events.iter().filter(|e| matches!(e, Inbound::Closed(_))).count();
            assert!(closed <= 1, "seed {seed} round {round}: closed {closed} times");
        }
    }
}

#[test]
fn no_pattern_of_bytes_grows_a_connection_without_bound() {
    let mut noise = Noise(7);
    for _ in 0..200 {
        let mut rig = Rig::new(limits());
        rig.feed(V311);
        rig.answer(Answer::Accept(Box::default()));
        // Never answered, never read.
        for _ in 0..200 {
            if !rig.core.wants_input() {
                break;
            }
            let packet = match noise.below(6) {
                4 => vec![0x82, 6, 0, noise.below(255) as u8 + 1, 0, 1, b'a' + noise.below(9) as u8, 1],
                5 => vec![0xa2, 5, 0, noise.below(255) as u8 + 1, 0, 1, b'a' + noise.below(9) as u8],
                0 => publish3(0x32, noise.below(255) as u8 + 1),
                1 => publish3(0x34, noise.below(255) as u8 + 1),
                2 => vec![0x62, 2, 0, noise.below(255) as u8 + 1],
                _ => publish3(0x3a, noise.below(255) as u8 + 1),
            };
            rig.feed(&packet);
        }
        assert!(!rig.core.wants_input(), "it must press back");
        assert!(rig.events.len() <= 20, "{}", rig.events.len());
    }
}
