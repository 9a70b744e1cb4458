//! Excerpts of texts from outside, for errors and logs.

/// Cuts a text from outside to at most `most` bytes. A text that was cut ends in an ellipsis.
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
