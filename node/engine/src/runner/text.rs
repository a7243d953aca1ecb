//! From bytes of tokens to text that may be sent: whole characters only, and nothing of a stop sequence.

/// Text on its way out.
#[derive(Debug, Default)]
pub(super) struct Text {
    bytes: Vec<u8>,
    held: String,
    stops: Vec<String>,
}

/// What may be sent now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Possibly empty.
    pub(super) text: String,
    /// True once a stop sequence was seen; nothing follows.
    pub(super) stopped: bool,
}

impl Text {
    /// Empty stop sequences are ignored.
    pub(super) fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), ..Self::default() }
    }

    /// Takes the bytes of the next token.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Piece {
        self.bytes.extend_from_slice(bytes);
        self.decode(false);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            return Piece { text: std::mem::take(&mut self.held), stopped: true };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Piece { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// What was held back, once nothing follows.
    pub(super) fn finish(&mut self) -> String {
        self.decode(true);
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters over; bytes that can become none are replaced.
    fn decode(&mut self, end: bool) {
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    self.held.push_str(text);
                    self.bytes.clear();
                    return;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    self.held.push_str(&String::from_utf8_lossy(&self.bytes[..valid]));
                    let Some(broken) = error.error_len().or(end.then(|| self.bytes.len() - valid)) else {
                        self.bytes.drain(..valid);
                        return;
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    self.bytes.drain(..valid + broken);
                }
            }
        }
    }
}

/// Length of the longest end of `text` that is a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).filter(|at| *at <= text.len());
    lengths.filter(|at| text.ends_with(&stop[..*at])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], tokens: &[&[u8]]) -> (String, bool) {
        let mut text = Text::new(&stops.iter().map(|stop| (*stop).to_owned()).collect::<Vec<_>>());
        let mut out = String::new();
        for token in tokens {
            let piece = text.push(token);
            out.push_str(&piece.text);
            if piece.stopped {
                return (out, true);
            }
        }
        out.push_str(&text.finish());
        (out, false)
    }

    #[test]
    fn stop_sequences_never_get_out_wherever_tokens_split_them() {
        let check = |stops: &[&str], tokens: &[&[u8]], expected: &str, stopped: bool| {
            assert_eq!(run(stops, tokens), (expected.to_owned(), stopped), "{tokens:?}");
        };
        check(&["\n\n"], &[b"a\n", b"\nb"], "a", true);
        check(&["\n\n"], &[b"a\n", b"b"], "a\nb", false);
        check(&["\n\n"], &[b"a\n"], "a\n", false);
        check(&["END", "STOP"], &[b"x ST", b"E", b"ND y"], "x ST", true);
        check(&["aab"], &[b"a", b"a", b"a", b"b"], "a", true);
        check(&["ä"], &["ä".as_bytes()], "", true);
        check(&["ä"], &[&[0xc3], &[0xa4]], "", true);
        check(&[""], &[b"abc"], "abc", false);
        check(&[], &[b"abc"], "abc", false);
    }

    #[test]
    fn characters_come_out_whole_and_broken_ones_are_replaced() {
        let check = |tokens: &[&[u8]], expected: &str| assert_eq!(run(&[], tokens).0, expected, "{tokens:?}");
        check(&[&[0xf0, 0x9f], &[0x98, 0x80]], "😀");
        check(&[&[0xff], b"a"], "\u{fffd}a");
        check(&[b"a", &[0xe2, 0x82]], "a\u{fffd}");
        let mut text = Text::new(&[]);
        assert_eq!(text.push(&[b'a', 0xc3]).text, "a");
        assert_eq!(text.push(&[0xa4]).text, "ä");
    }
}
