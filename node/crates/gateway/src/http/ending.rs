//! Watches a stream of an answer for its proper end, and writes the error that stands where that end is missing.
//!
//! Pure. The bytes that pass are never changed or held back. A stream that ended without its protocol's last word gets
//! an error in that protocol's own form, so that no client takes half an answer for a whole one.

use bytes::Bytes;
use memchr::memmem;

use crate::error::Shape;

/// How an answer's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One body; a break can only be shown by breaking the connection.
    Whole,
    /// JSON objects, one per line; the last says `"done":true`.
    Lines,
    /// Server-sent events; the last is `[DONE]`.
    Events,
}

/// What was seen of one stream.
#[derive(Debug)]
pub(crate) struct Ending {
    form: Form,
    is_complete: bool,
    /// The last bytes that passed: an end may lie across two pieces.
    tail: Vec<u8>,
}

const LINE_ENDS: [&[u8]; 3] = [b"\"done\":true", b"\"done\": true", b"\n{\"error\":"];
const EVENT_ENDS: [&[u8]; 3] = [b"\ndata: [DONE]", b"\ndata:[DONE]", b"\ndata: {\"error\":"];
const TAIL_BYTES: usize = 16;

// === impl Form ===

impl Form {
    /// The form of a content type.
    pub(crate) fn of(content_type: &[u8]) -> Self {
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        match essence {
            b"application/x-ndjson" => Self::Lines,
            b"text/event-stream" => Self::Events,
            _ => Self::Whole,
        }
    }
}

// === impl Ending ===

impl Ending {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, is_complete: form == Form::Whole, tail: vec![b'\n'] }
    }

    /// Takes note of bytes that pass.
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        let ends = match self.form {
            Form::Whole => return,
            Form::Lines => LINE_ENDS,
            Form::Events => EVENT_ENDS,
        };
        if !self.is_complete {
            let seam = [&self.tail[..], &bytes[..bytes.len().min(TAIL_BYTES)]].concat();
            let has = |text: &[u8]| ends.iter().any(|end| memmem::find(text, end).is_some());
            self.is_complete = has(&seam) || has(bytes);
        }
        let keep_from = bytes.len().saturating_sub(TAIL_BYTES);
        if keep_from > 0 {
            self.tail.clear();
        }
        self.tail.extend_from_slice(&bytes[keep_from..]);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
    }

    /// Whether the protocol's last word has passed.
    pub(crate) const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The error in the stream's own form; `None` where only breaking the connection can say it.
    pub(crate) fn error(&self, message: &str) -> Option<Bytes> {
        let ends_with = |end: &[u8]| self.tail.ends_with(end);
        let text = match self.form {
            Form::Whole => return None,
            Form::Lines => {
                let before = if ends_with(b"\n") { "" } else { "\n" };
                format!("{before}{}\n", Shape::Ollama.body(500, message))
            }
            Form::Events => {
                let before = if ends_with(b"\n\n") || self.tail == b"\n" { "" } else { "\n\n" };
                format!("{before}data: {}\n\n", Shape::OpenAi.body(500, message))
            }
        };
        Some(Bytes::from(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(form: Form, pieces: &[&str]) -> Ending {
        let mut ending = Ending::new(form);
        for piece in pieces {
            ending.see(piece.as_bytes());
        }
        ending
    }

    fn check(form: Form, pieces: &[&str], expected: bool) {
        assert_eq!(ending(form, pieces).is_complete(), expected, "{pieces:?}");
        // However the bytes are cut, the same is seen.
        let bytes: Vec<String> = pieces.concat().chars().map(String::from).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(ending(form, &bytes).is_complete(), expected, "{pieces:?} byte by byte");
    }

    #[test]
    fn knows_a_complete_stream_from_one_that_stopped() {
        check(Form::Lines, &["{\"response\":\"a\",\"done\":false}\n"], false);
        check(Form::Lines, &["{\"response\":\"a\",\"done\":false}\n", "{\"done\":tr", "ue,\"context\":[1,2]}\n"], true);
        check(Form::Lines, &[r#"{"response":"say \"done\":true","done":false}"#, "\n"], false);
        check(Form::Lines, &["{\"error\":\"it broke\"}\n"], true);
        check(Form::Lines, &[], false);
        check(Form::Events, &["data: {\"a\":1}\n\n", "data: [DO", "NE]\n\n"], true);
        check(Form::Events, &["data: {\"a\":\"data: [DONE]\"}\n\n"], false);
        check(Form::Events, &["data: [DONE]\n\n"], true);
        check(Form::Events, &["data: {\"error\":{}}\n\n"], true);
        check(Form::Whole, &["{"], true);
    }

    #[test]
    fn the_error_starts_on_a_line_or_event_of_its_own() {
        let check = |form, pieces: &[&str], expected: Option<&str>| {
            let error = ending(form, pieces).error("it broke");
            assert_eq!(error.as_deref(), expected.map(str::as_bytes), "{pieces:?}");
        };
        check(Form::Lines, &["{}\n"], Some("{\"error\":\"it broke\"}\n"));
        check(Form::Lines, &[], Some("{\"error\":\"it broke\"}\n"));
        check(Form::Lines, &["{}\n{\"re"], Some("\n{\"error\":\"it broke\"}\n"));
        let event =
            "data: {\"error\":{\"message\":\"it broke\",\"type\":\"api_error\",\"param\":null,\"code\":null}}\n\n";
        check(Form::Events, &["data: {}\n\n"], Some(event));
        check(Form::Events, &[], Some(event));
        check(Form::Events, &["data: {\"a"], Some(&format!("\n\n{event}")));
        check(Form::Whole, &["{"], None);
    }

    #[test]
    fn forms_are_read_from_the_content_type() {
        assert_eq!(Form::of(b"application/x-ndjson"), Form::Lines);
        assert_eq!(Form::of(b"text/event-stream; charset=utf-8"), Form::Events);
        assert_eq!(Form::of(b"application/json; charset=utf-8"), Form::Whole);
    }
}
