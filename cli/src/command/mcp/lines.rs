//! The lines that an assistant writes, one message in each, bounded.
//!
//! Always: a line that is too long is read to its end and not kept, so the next one is read as it should be; its id is
//! looked for while it passes, so that whoever sent it is told. Dropping a wait for a line loses nothing.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

use ollamax_types::limits::ASSISTANT_MESSAGE_BYTES_MAX;

use super::ids::IdScan;

/// Bytes of a line: a node takes no larger message, and some are added here.
pub(crate) const LINE_BYTES_MAX: usize = ASSISTANT_MESSAGE_BYTES_MAX - (64 << 10);

/// What stands in a line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Line {
    Whole(Vec<u8>),
    /// It has more bytes than may be; the id of its message, where it has one.
    TooLong(Option<Value>),
}

/// Reads lines.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    input: R,
    bytes_max: usize,
    kept: Vec<u8>,
    /// Of a line that is too long.
    passing: Option<IdScan>,
}

// === impl Lines ===

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(crate) fn new(input: R, bytes_max: usize) -> Self {
        Self { input, bytes_max, kept: Vec::new(), passing: None }
    }

    /// The next line that is not empty; nothing at the end.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        let Self { input, bytes_max, kept, passing } = self;
        loop {
            let read = input.fill_buf().await?;
            if read.is_empty() {
                // What has no end is whole all the same.
                return Ok(line_of(kept, passing));
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let piece = end.map_or(read, |end| &read[..end]);
            keep(kept, passing, piece, *bytes_max);
            let used = piece.len() + usize::from(end.is_some());
            input.consume(used);
            let line = end.and_then(|_| line_of(kept, passing));
            if line.is_some() {
                return Ok(line);
            }
        }
    }
}

/// Adds a piece to what is kept of a line, or lets it pass.
fn keep(kept: &mut Vec<u8>, passing: &mut Option<IdScan>, piece: &[u8], bytes_max: usize) {
    if let Some(scan) = passing {
        scan.pass(piece);
    } else if kept.len().saturating_add(piece.len()) > bytes_max {
        let mut scan = IdScan::default();
        scan.pass(kept);
        scan.pass(piece);
        *passing = Some(scan);
        *kept = Vec::new();
    } else {
        kept.extend_from_slice(piece);
    }
}

/// The line that ends here, unless it is empty.
fn line_of(kept: &mut Vec<u8>, passing: &mut Option<IdScan>) -> Option<Line> {
    let kept = std::mem::take(kept);
    if let Some(scan) = passing.take() {
        return Some(Line::TooLong(scan.found()));
    }
    let is_empty = kept.iter().all(u8::is_ascii_whitespace);
    (!is_empty).then_some(Line::Whole(kept))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn lines(text: &[u8], bytes_max: usize) -> Vec<Line> {
        // Pieces of three bytes show what is kept between two reads.
        let input = tokio::io::BufReader::with_capacity(3, text);
        let (mut lines, mut found) = (Lines::new(input, bytes_max), Vec::new());
        while let Some(line) = lines.next().await.expect("memory is readable") {
            found.push(line);
        }
        found
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn lines_end_with_a_newline_or_with_the_input_and_empty_ones_are_none() {
        assert!(lines(b"", 9).await.is_empty());
        assert!(lines(b"\n \r\n\n", 9).await.is_empty());
        assert_eq!(lines(b"one\n\ntwo\r\nlast", 9).await, [whole("one"), whole("two\r"), whole("last")]);
        assert_eq!(lines(b"123456789\n", 9).await, [whole("123456789")]);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_takes_no_other_along_and_keeps_its_id() {
        assert_eq!(lines(b"1234567890\nok\n", 9).await, [Line::TooLong(None), whole("ok")]);
        let check = async |line: &str, id: Option<Value>| {
            assert_eq!(lines(line.as_bytes(), 9).await, [Line::TooLong(id)], "{line}");
        };
        check(r#"{"id":7,"method":"x","params":{"id":8}}"#, Some(json!(7))).await;
        check(r#"{"method":"x","params":{"a":["id",{"id":8}]}, "id" : "a\"}b" }"#, Some(json!("a\"}b"))).await;
        check(r#"{"method":"id","params":{"text":"\\\",\"id\":9"},"id":-3}"#, Some(json!(-3))).await;
        check(r#"{"method":"x","params":{"id":8}}"#, None).await;
        check(r#"{"method":"x","id":{"id":8}}"#, None).await;
        check(r#"{"method":"x","id":1.5}"#, None).await;
        check(r#"[{"id":7,"method":"x"}]"#, None).await;
        check(&format!(r#"{{"id":"{}"}}"#, "a".repeat(300)), None).await;
        check("no message at all, and no end of it", None).await;
    }
}
