//! The ids of requests: what one may be, and how it is found in a text that is not read as a message.
//!
//! Always: whoever waits under an id hears of it, also where its message is too long, too deep or broken; an id inside
//! of something else is not taken for the message's own.

use serde_json::Value;

/// Bytes of an id that are looked at.
const ID_BYTES_MAX: usize = 256;

/// Looks for the id of a message while its bytes pass.
#[derive(Debug, Default)]
pub(crate) struct IdScan {
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    /// What stands at the message's own level since the last comma or colon.
    word: Vec<u8>,
    is_of_id: bool,
    found: Option<Value>,
}

/// Whether a value can be the id of a request.
pub(crate) fn is_id(value: &Value) -> bool {
    value.is_string() || value.is_i64() || value.is_u64()
}

/// The id of a message that cannot be read.
pub(crate) fn id_in(text: &[u8]) -> Option<Value> {
    let mut scan = IdScan::default();
    scan.pass(text);
    scan.found()
}

// === impl IdScan ===

impl IdScan {
    /// Looks at the next bytes.
    pub(crate) fn pass(&mut self, piece: &[u8]) {
        for byte in piece {
            self.look(*byte);
        }
    }

    /// The id, where what has passed has one.
    pub(crate) fn found(self) -> Option<Value> {
        self.found
    }

    fn look(&mut self, byte: u8) {
        if self.in_text {
            self.note(byte);
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_text = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => {
                self.note(byte);
                self.in_text = true;
            }
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => {
                self.end_word();
                self.depth = self.depth.saturating_sub(1);
            }
            b',' => self.end_word(),
            b':' if self.depth == 1 => {
                self.is_of_id = self.word == b"\"id\"";
                self.word.clear();
            }
            _ if byte.is_ascii_whitespace() => {}
            _ => self.note(byte),
        }
    }

    fn note(&mut self, byte: u8) {
        if self.depth == 1 && self.word.len() < ID_BYTES_MAX {
            self.word.push(byte);
        }
    }

    fn end_word(&mut self) {
        if self.depth != 1 {
            return;
        }
        if self.is_of_id {
            self.found = serde_json::from_slice(&self.word).ok().filter(is_id);
        }
        self.is_of_id = false;
        self.word.clear();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_id_of_a_text_that_cannot_be_read_is_the_messages_own() {
        let check = |text: &str, expected: Option<Value>| assert_eq!(id_in(text.as_bytes()), expected, "{text}");
        check(r#"{"jsonrpc":"2.0","id":7,"method":"#, Some(json!(7)));
        check(r#"{"jsonrpc":"2.0","id":"a","params":{"id":8}"#, Some(json!("a")));
        check(&format!(r#"{{"id":7,"params":{}"#, "[".repeat(1_000)), Some(json!(7)));
        check(r#"{"params":{"id":8},"#, None);
        check(r#"{"id":7"#, None);
        check(r#"{"id":[7],"#, None);
        check("nonsense", None);
        check("", None);
    }
}
