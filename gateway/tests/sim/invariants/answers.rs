//! PUBACK, PUBREC and PUBCOMP leave in the order in which their PUBLISH and PUBREL came.

use crate::client::Exchange;

/// An answer has come, and the first thing that was asked for and is not answered yet.
pub fn check(answer: (Exchange, u16), asked: Option<(Exchange, u16)>) {
    assert!(asked == Some(answer), "{answer:?} is answered, and the next to be answered is {asked:?}");
}
