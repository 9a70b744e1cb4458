//! How the readings of a publish were judged, and the reasons for setting one aside.
//!
//! Each reading is judged once, in its shard's log: counted, recognised as counted before, or set aside with
//! a [`Reason`]. A reading that is set aside changes neither windows nor sequence numbers, and never keeps
//! the other readings of its publish from being counted.
//!
//! A new reason needs a variant of [`Reason`], an entry in [`Reason::ALL`], a name and a sentence. All
//! counters, answers and pages use these.

use bincode::{Decode, Encode};
use std::fmt;

/// The verdicts on those readings of one publish that lie in one shard. A publish whose readings were all
/// counted allocates nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Judged {
    /// How many readings were counted now.
    pub counted: u32,
    /// How many readings were recognised by their sequence number as counted before.
    pub recognised: u32,
    /// The other readings, in their order. At most as many as the item has readings.
    pub set_aside: Vec<SetAside>,
}

impl Judged {
    /// Whether at least one reading is in the windows, counted now or before.
    pub fn is_kept(&self) -> bool {
        self.counted > 0 || self.recognised > 0
    }
}

/// A reading that was not counted, with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct SetAside {
    /// An index into the item's readings.
    pub reading: u32,
    pub reason: Reason,
}

/// Why a reading was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Reason {
    /// Its sequence number is so far below the greatest one that it is unknown whether it was counted.
    FarBehind,
    /// Its sequence number leaps further ahead than the rules allow.
    LeapsAhead,
    /// Its time is longer ago than the rules allow.
    TooOld,
    /// Its time is further ahead than the rules allow.
    TooFarAhead,
    /// Its stream is new, and the shard already has as many streams as it may have.
    StreamsFull,
    /// Its stream is new, and its name would exceed the bytes that the shard's names may take.
    NamesFull,
    /// Its stream is new, and its device already has as many streams as it may have.
    DeviceFull,
    /// Its stream is new, and its client has already made as many streams known as it may, or as many bytes
    /// of names.
    NamesOfClientFull,
    /// Its value, its time or its stream's name is outside what decoders produce.
    Unsound,
}

impl Reason {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::FarBehind,
        Self::LeapsAhead,
        Self::TooOld,
        Self::TooFarAhead,
        Self::StreamsFull,
        Self::NamesFull,
        Self::DeviceFull,
        Self::NamesOfClientFull,
        Self::Unsound,
    ];

    /// The name in counters and in answers to programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::FarBehind => "far_behind",
            Self::LeapsAhead => "leaps_ahead",
            Self::TooOld => "too_old",
            Self::TooFarAhead => "too_far_ahead",
            Self::StreamsFull => "streams_full",
            Self::NamesFull => "names_full",
            Self::DeviceFull => "device_full",
            Self::NamesOfClientFull => "names_of_client_full",
            Self::Unsound => "unsound",
        }
    }

    /// Whether a bound of the site is the cause, rather than what the device sent.
    pub fn is_bound(self) -> bool {
        matches!(self, Self::StreamsFull | Self::NamesFull | Self::DeviceFull | Self::NamesOfClientFull)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FarBehind => "its sequence number is too far behind to tell whether it was counted",
            Self::LeapsAhead => "its sequence number leaps further ahead than max_leap allows",
            Self::StreamsFull => "the shard has as many streams as it may (max_streams): retire some, or raise the rule",
            Self::NamesFull => "the shard's names take as many bytes as they may (max_names_bytes): retire streams, or raise the rule",
            Self::DeviceFull => "the device has as many streams as it may (max_streams_per_device): retire some, or raise the rule",
            Self::NamesOfClientFull => {
                "the client introduced as many streams in the device's shard as it may (max_streams_per_client, or half of \
                 max_names_bytes): retire some, or raise the rule"
            }
            Self::TooOld => "its time is longer ago than max_past_s allows: seconds taken for milliseconds lie in January 1970",
            Self::TooFarAhead => "its time is further ahead than max_future_s allows",
            Self::Unsound => "its value, time or stream name is invalid",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_is_listed_once_with_a_name_and_a_sentence_of_its_own() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        let sentences: BTreeSet<_> = Reason::ALL.iter().map(ToString::to_string).collect();
        assert_eq!((names.len(), sentences.len()), (Reason::ALL.len(), Reason::ALL.len()));
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
    }
}
