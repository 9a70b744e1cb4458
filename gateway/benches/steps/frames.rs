//! What is encoded and what is encrypted: submissions, proposals, frames between gateways, sealed batches.

use super::load::{BATCH, Load, MIXES, Mix, START_MS, device};
use super::{Measure, Step};
use selvedge_fabric::agreement::ClockNote;
use selvedge_fabric::link::{PREAMBLE, PeerFrame};
use selvedge_fabric::machine::{Proposal, Submission};
use selvedge_fabric::peer::PeerMessage;
use selvedge_paxos::{Ballot, Message};
use selvedge_seal::{Opener, Sealer, SiteSecret};
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::{GatewayId, ShardId, SiteId};
use selvedge_types::sequences::Sequences;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, MAX_BATCH_BYTES, Part, StreamName, Up};
use snow::{Builder, StatelessTransportState};

const FRAME_BYTES: usize = 64 * 1024;
/// The longest content of a Noise message: what the link cuts a frame into.
const CHUNK_BYTES: usize = 65_535 - TAG_BYTES;
const TAG_BYTES: usize = 16;

pub fn steps(m: &mut impl Measure) {
    let count = BATCH as u32;
    for (mix, name) in MIXES {
        let submission = move || Load::new(mix).submission();
        m.step(&format!("submission, {name}: encode"), count, || Encode(submission(), Submission::encode));
        m.step(&format!("submission, {name}: decode"), count, || {
            Decode(submission().encode(), |bytes| Submission::decode(bytes).unwrap().items)
        });
    }
    let proposal = || Load::new(Mix::Spread).proposal();
    m.step("proposal: encode", count, || Encode(proposal(), Proposal::encode));
    m.step("proposal: decode", count, || {
        Decode(proposal().encode(), |bytes| <Proposal>::decode(bytes).unwrap())
    });
    let frame = move || {
        let ballot = Ballot { round: 3, gateway: 1 };
        let values = vec![proposal().encode().into()];
        let message = Message::Accept { ballot, prev: 1_000_000, values, commit: 1_000_000 };
        let message = PeerMessage::Paxos { group: ShardId(12), configuration: 1, message };
        let clocks = ClockNote { wall: EpochMs(START_MS), mono_ms: 1_000_000, heard: Some((1_000_000, 3)) };
        PeerFrame { clocks, full: false, up: [1, 2, 3].map(GatewayId).into(), messages: vec![message] }
    };
    m.step("peer frame of an accept: encode", count, || Encode(frame(), PeerFrame::encode));
    m.step("peer frame of an accept: decode", count, || {
        Decode(frame().encode(), |bytes| PeerFrame::decode(bytes).unwrap())
    });
    m.step("seal 64 KiB, per batch", 1, || Seal::new(&secret()));
    m.step("open 64 KiB, per batch", 1, Open::new);
    m.step("noise 64 KiB: encrypt, per frame", 1, || Encrypt(Noise::new()));
    m.step("noise 64 KiB: decrypt, per frame", 1, || Decrypt(Noise::new()));
}

struct Encode<T>(T, fn(&T) -> Vec<u8>);

impl<T> Step for Encode<T> {
    type Input = ();
    type Output = Vec<u8>;

    fn prepare(&mut self) {}

    fn run(&mut self, (): ()) -> Vec<u8> {
        self.1(&self.0)
    }
}

struct Decode<T>(Vec<u8>, fn(&[u8]) -> T);

impl<T> Step for Decode<T> {
    type Input = ();
    type Output = T;

    fn prepare(&mut self) {}

    fn run(&mut self, (): ()) -> T {
        self.1(&self.0)
    }
}

struct Seal {
    sealer: Sealer<Up>,
    message: Up,
    seq: u64,
}

impl Seal {
    fn new(secret: &SiteSecret) -> Self {
        let sealer = Sealer::new(secret, &site()).unwrap();
        Self { sealer, message: Up::Batch { first_kept: 1, last: 2, body: batch() }, seq: 0 }
    }
}

impl Step for Seal {
    type Input = ();
    type Output = Vec<u8>;

    fn prepare(&mut self) {}

    fn run(&mut self, (): ()) -> Vec<u8> {
        self.seq += 1;
        self.sealer.seal(ShardId(12), self.seq, &self.message).unwrap()
    }
}

struct Open {
    seal: Seal,
    opener: Opener<Up>,
}

impl Open {
    fn new() -> Self {
        let (secret, mut opener) = (secret(), Opener::new());
        opener.add(&site(), &secret);
        Self { seal: Seal::new(&secret), opener }
    }
}

impl Step for Open {
    type Input = Vec<u8>;
    type Output = (u64, Up);

    fn prepare(&mut self) -> Vec<u8> {
        self.seal.run(())
    }

    fn run(&mut self, sealed: Vec<u8>) -> (u64, Up) {
        self.opener.open(&site(), ShardId(12), &sealed).unwrap()
    }
}

fn site() -> SiteId {
    SiteId::new("plant-7").unwrap()
}

fn secret() -> SiteSecret {
    SiteSecret::generate().unwrap()
}

/// As large a batch as is cut.
fn batch() -> Vec<u8> {
    let mut batch = Batch::default();
    let mut bytes = Vec::new();
    for i in 0.. {
        let start = EpochMs(START_MS / 60_000 * 60_000);
        let sample = Sample { time: start.plus(i), slot: 1_000_000, index: 7, value: 21.532 };
        batch.streams.push(StreamName { device: device(i as usize), stream: "temp".into() });
        let aggregate = Aggregate::of(sample);
        let watermark = start.plus(60_000);
        let (stream, width_ms, late, set_aside, sequences) = (i as u32, 60_000, 0, 0, Sequences::default());
        batch.parts.push(Part { stream, width_ms, start, aggregate, late, watermark, set_aside, sequences });
        let longer = batch.encode();
        if longer.len() > MAX_BATCH_BYTES {
            break;
        }
        bytes = longer;
    }
    bytes
}

/// Both ends of a link, set up as `actors/link/noise.rs` sets up its own, which needs sockets.
struct Noise {
    ours: StatelessTransportState,
    theirs: StatelessTransportState,
    /// The next nonce.
    next: u64,
    frame: Vec<u8>,
    /// Sealed chunks, each in its room.
    sealed: Vec<Vec<u8>>,
    opened: Vec<u8>,
}

impl Noise {
    fn new() -> Self {
        let builder = || {
            let builder = Builder::new("Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s".parse().unwrap());
            builder.psk(0, &[7; 32]).and_then(|b| b.prologue(&PREAMBLE)).unwrap()
        };
        let mut ours = builder().build_initiator().unwrap();
        let mut theirs = builder().build_responder().unwrap();
        let (mut message, mut nothing) = ([0; 256], [0; 256]);
        let n = ours.write_message(&[], &mut message).unwrap();
        theirs.read_message(&message[..n], &mut nothing).unwrap();
        let n = theirs.write_message(&[], &mut message).unwrap();
        ours.read_message(&message[..n], &mut nothing).unwrap();
        let frame: Vec<u8> = (0..FRAME_BYTES).map(|i| i as u8).collect();
        Self {
            ours: ours.into_stateless_transport_mode().unwrap(),
            theirs: theirs.into_stateless_transport_mode().unwrap(),
            next: 0,
            sealed: frame.chunks(CHUNK_BYTES).map(|chunk| vec![0; chunk.len() + TAG_BYTES]).collect(),
            opened: vec![0; CHUNK_BYTES + TAG_BYTES],
            frame,
        }
    }

    fn encrypt(&mut self) {
        for (chunk, room) in self.frame.chunks(CHUNK_BYTES).zip(&mut self.sealed) {
            self.ours.write_message(self.next, chunk, room).unwrap();
            self.next += 1;
        }
    }

    fn decrypt(&mut self) {
        let first = self.next - self.sealed.len() as u64;
        for (nonce, sealed) in (first..).zip(&self.sealed) {
            self.theirs.read_message(nonce, sealed, &mut self.opened).unwrap();
        }
    }
}

struct Encrypt(Noise);

impl Step for Encrypt {
    type Input = ();
    type Output = ();

    fn prepare(&mut self) {}

    fn run(&mut self, (): ()) {
        self.0.encrypt();
    }
}

struct Decrypt(Noise);

impl Step for Decrypt {
    type Input = ();
    type Output = ();

    fn prepare(&mut self) {
        self.0.encrypt();
    }

    fn run(&mut self, (): ()) {
        self.0.decrypt();
    }
}
