//! Texts from outside, as much of them as errors and logs show.

/// At most `most` bytes of a text from outside, ended with an ellipsis if it was longer.
pub(super) fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most.saturating_sub('…'.len_utf8());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}
