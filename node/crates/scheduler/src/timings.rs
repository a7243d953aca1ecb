//! What a finished answer says of the runtime's speed.
//!
//! Native answers end with their durations, behind everything that can be long, so the last bytes are enough and the
//! stream itself is never touched or held back. A quote inside a generated text is escaped, therefore
//! `"total_duration":` can only be the field itself.

use std::time::Duration;

/// Enough for the closing fields of a native answer.
const TAIL_BYTES: usize = 1_024;
/// A shorter load was no load: the runtime reports some milliseconds for a model that was in memory.
const LOAD_MS_LEAST: u32 = 100;

/// One request's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timings {
    /// Without the load, milliseconds.
    pub(crate) service_ms: u32,
    /// Milliseconds, where the model was loaded for this request.
    pub(crate) load_ms: Option<u32>,
}

/// The last bytes of an answer.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
}

// === impl Timings ===

impl Timings {
    /// For answers that do not say: what the clock says.
    pub(crate) fn of_wall(elapsed: Duration) -> Self {
        Self { service_ms: whole_ms(elapsed), load_ms: None }
    }
}

// === impl Tail ===

impl Tail {
    pub(crate) fn feed(&mut self, chunk: &[u8]) {
        let last = chunk.len().saturating_sub(TAIL_BYTES);
        self.bytes.extend_from_slice(&chunk[last..]);
        if self.bytes.len() > 4 * TAIL_BYTES {
            self.bytes.drain(..self.bytes.len() - TAIL_BYTES);
        }
    }

    /// The durations that the answer closed with, if it did.
    pub(crate) fn timings(&self) -> Option<Timings> {
        let total = self.nanoseconds("\"total_duration\":")?;
        let load = self.nanoseconds("\"load_duration\":").unwrap_or(Duration::ZERO);
        let load_ms = Some(whole_ms(load)).filter(|ms| *ms >= LOAD_MS_LEAST);
        Some(Timings { service_ms: whole_ms(total.saturating_sub(load)), load_ms })
    }

    fn nanoseconds(&self, field: &str) -> Option<Duration> {
        let field = field.as_bytes();
        let at = self.bytes.windows(field.len()).rposition(|window| window == field)?;
        let digits = self.bytes[at + field.len()..].iter().skip_while(|byte| **byte == b' ');
        let digits: String = digits.take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
        digits.parse().ok().map(Duration::from_nanos)
    }
}

fn whole_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&[u8]], expected: Option<(u32, Option<u32>)>) {
        let mut tail = Tail::default();
        chunks.iter().for_each(|chunk| tail.feed(chunk));
        let found = tail.timings().map(|timings| (timings.service_ms, timings.load_ms));
        assert_eq!(found, expected);
    }

    #[test]
    fn reads_the_closing_durations_of_streams_and_whole_answers() {
        let last = br#"{"model":"m","done":true,"total_duration":1500000000,"load_duration":500000000,"eval_count":9}"#;
        check(&[b"{\"response\":\"a\"}\n", last, b"\n"], Some((1_000, Some(500))));
        check(&[&last[..40], &last[40..]], Some((1_000, Some(500))));
        check(&[&[b'x'; 9_000], last], Some((1_000, Some(500))));
        check(&[br#"{"done":true,"total_duration": 2000000, "load_duration": 1000000}"#], Some((1, None)));
        check(&[br#"{"done":true,"total_duration":2000000}"#], Some((2, None)));
    }

    #[test]
    fn finds_nothing_where_nothing_is_said() {
        check(&[], None);
        check(&[b"data: [DONE]\n\n"], None);
        check(&[br#"{"response":"\"total_duration\":7"}"#], None);
        check(&[br#"{"total_duration":"soon"}"#], None);
    }
}
