//! Payloads that are one plain number.

use super::{DecodeError, DecodedReading, Found, PublishPlace, SkipReason, Skipped, Target};
use smallvec::smallvec;
use std::borrow::Cow;

pub(super) const RIGHT: &str = "send one decimal number such as 21.5, or true, false, on, off";

/// One reading, without a time or a sequence number.
pub(super) fn decode<'a>(
    target: &Target<'_, 'a>,
    device: Cow<'a, str>,
    payload: &[u8],
) -> Result<Found<'a>, Box<DecodeError>> {
    let text = payload.trim_ascii();
    let stream = target.stream()?;
    match std::str::from_utf8(text).map_err(|_| SkipReason::Text).and_then(parse) {
        Ok(value) => {
            let list = smallvec![DecodedReading { device, stream, time: None, value, seq: None, boot: None }];
            Ok(Found { list, ..Found::default() })
        }
        Err(why) => {
            let mut e = DecodeError::new(PublishPlace::Payload, what_is_wrong(text), RIGHT);
            e.skipped.push(Skipped { device, name: stream, why }.into_owned());
            Err(e)
        }
    }
}

/// A finite number, or the position of a switch as 1 or 0.
pub(super) fn parse(text: &str) -> Result<f64, SkipReason> {
    let says = |word: &str| text.eq_ignore_ascii_case(word);
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) => Err(SkipReason::NotFinite),
        Err(_) if says("true") || says("on") => Ok(1.0),
        Err(_) if says("false") || says("off") => Ok(0.0),
        Err(_) => Err(SkipReason::Text),
    }
}

/// Says why a text is not a number, for the person who builds the device.
pub(super) fn what_is_wrong(text: &[u8]) -> String {
    let text = match std::str::from_utf8(text) {
        _ if text.starts_with(b"\x1f\x8b") => return "it is compressed".into(),
        _ if text.contains(&0) => return "it holds zero bytes: it is binary, or text in UTF-16".into(),
        Err(_) => return "it is not text in UTF-8".into(),
        Ok(text) => text,
    };
    let digits = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let bare = text.trim_start_matches(['+', '-']);
    let what = if text.is_empty() {
        "it is empty"
    } else if let Ok(value) = text.parse::<f64>() {
        match value.is_nan() || bare.to_ascii_lowercase().starts_with("inf") {
            true => "it is not a finite number",
            false => "it is larger than a double can hold",
        }
    } else if bare.starts_with("0x") || bare.starts_with("0X") {
        "it is written in hexadecimal"
    } else if digits(bare) && bare.replace(',', ".").parse::<f64>().is_ok() {
        "it has a comma where decimals begin with a point"
    } else if digits(bare) {
        "there is more text after the number"
    } else if text == "null" {
        "it is null, which is not a value"
    } else {
        "it is a text, not a number"
    };
    what.into()
}
