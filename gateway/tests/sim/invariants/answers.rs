//! PUBACK, PUBREC and PUBCOMP leave in the order in which their PUBLISH and PUBREL came.

use crate::client::Exchange;

/// Compares an answer with the first expected answer that has not come yet.
pub fn check(answer: (Exchange, u16), asked: Option<(Exchange, u16)>) {
    assert!(asked == Some(answer), "{answer:?} is answered, and the next to be answered is {asked:?}");
}
