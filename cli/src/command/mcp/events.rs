//! A stream of events as nodes send it (`text/event-stream`), cut into the messages that it carries.
//!
//! Comments, names and ids of events are passed over; an event that the stream breaks in is none.

/// Bytes of one message of a node: more than any answer has.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A message has more bytes than any answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// What has come and is not whole yet.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// A newline behind this ends the same line.
    is_behind_return: bool,
}

// === impl Events ===

impl Events {
    /// Takes what came; the data of the events that are whole now.
    ///
    /// # Errors
    /// When one of them has too many bytes.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut whole = Vec::new();
        for byte in piece {
            let is_same_end = std::mem::replace(&mut self.is_behind_return, *byte == b'\r') && *byte == b'\n';
            match byte {
                b'\n' if is_same_end => {}
                b'\n' | b'\r' => whole.extend(self.end_line()),
                _ => self.line.push(*byte),
            }
            if self.line.len().saturating_add(self.data.len()) > MESSAGE_BYTES_MAX {
                return Err(TooLong);
            }
        }
        Ok(whole)
    }

    /// The event that ends with this line.
    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            self.has_data = false;
            let data = std::mem::take(&mut self.data);
            return (!data.is_empty()).then_some(data);
        }
        let rest = line.strip_prefix(b"data")?;
        let value = match rest {
            [] => rest,
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            _ => return None,
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(stream: &str) -> Vec<String> {
        let (mut events, mut found) = (Events::default(), Vec::new());
        for byte in stream.as_bytes() {
            found.extend(events.push(&[*byte]).expect("short"));
        }
        let at_once = Events::default().push(stream.as_bytes()).expect("short");
        assert_eq!(found, at_once, "{stream:?}");
        found.into_iter().map(|data| String::from_utf8(data).expect("text")).collect()
    }

    #[test]
    fn each_event_is_what_stands_behind_data() {
        let check = |stream: &str, expected: &[&str]| assert_eq!(texts(stream), expected, "{stream:?}");
        check("data: {}\n\n", &["{}"]);
        check("data:{}\r\n\r\ndata: 2\r\r", &["{}", "2"]);
        check(": ping\n\nid: 7\ndata: a\ndata: b\nevent: x\n\n", &["a\nb"]);
        check("id: 0\ndata:\n\ndata\n\nretry: 9\n\n", &[]);
        check("data:  two\n\ndatabase: x\n\n", &[" two"]);
        check("data: cut off", &[]);
        check("data: cut off\n", &[]);
    }

    #[test]
    fn a_message_without_an_end_is_given_up() {
        let mut events = Events::default();
        assert_eq!(events.push(b"data: "), Ok(Vec::new()));
        assert_eq!(events.push(&vec![b'x'; MESSAGE_BYTES_MAX]), Err(TooLong));
    }
}
