//! A payload that is one plain number.

use super::{DecodeError, DecodedReading, Found, Place, Target};
use std::borrow::Cow;

const RIGHT: &str = "send one decimal number such as 21.5, or true, false, on, off";

/// One reading, without time or sequence.
pub(super) fn decode<'a>(
    target: &Target<'_, 'a>,
    device: Cow<'a, str>,
    payload: &[u8],
) -> Result<Found<'a>, Box<DecodeError>> {
    let text = payload.trim_ascii();
    if text.is_empty() {
        return Err(DecodeError::new(Place::Payload, "it is empty", RIGHT));
    }
    let value = std::str::from_utf8(text).ok().and_then(parse);
    let value = value.ok_or_else(|| DecodeError::new(Place::Payload, "it is not a finite number", RIGHT))?;
    let stream = target.stream(Cow::Borrowed(""))?;
    Ok(Found {
        list: vec![DecodedReading { device, stream, time: None, value, seq: None, boot: None }],
        skipped: 0,
    })
}

/// A finite number, or a switch's position as 1 or 0.
pub(super) fn parse(text: &str) -> Option<f64> {
    let says = |word: &str| text.eq_ignore_ascii_case(word);
    match text.parse::<f64>() {
        Ok(value) => value.is_finite().then_some(value),
        Err(_) if says("true") || says("on") => Some(1.0),
        Err(_) if says("false") || says("off") => Some(0.0),
        Err(_) => None,
    }
}
