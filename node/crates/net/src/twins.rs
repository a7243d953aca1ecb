//! Two processes with one node's identity: which of them may stay.
//!
//! A disk that was copied whole brings the node's key along, and nothing on the copy tells. So each process draws a
//! [`Boot`] when it starts and says it on every connection. Who comes with the key of a member whose other process
//! still speaks is refused; who comes after a process that has ended is let in at once, and after one that is silent as
//! soon as the silence is certain. What counts as speaking are bytes that arrive in the second half of [`WINDOW`]: by
//! then whatever a dead process had sent has been read, and its connections have ended. Pure: time is handed in.

use std::time::Duration;

use tokio::time::Instant;

/// How long the other process has to show that it lives. Frames between members come four times as often.
pub(crate) const WINDOW: Duration = Duration::from_secs(1);

/// One process of a node, drawn when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boot(pub(crate) [u8; 16]);

/// What is known of the other processes with the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is none.
    Alone,
    /// There is one, and it still has time to speak.
    Unclear,
    /// There is one, and it spoke.
    Lives,
    /// There are connections, and nobody speaks on them.
    Silent,
}

/// Judges the connections of other processes by when each of them last brought bytes.
pub(crate) fn judge(heard: &[Instant], arrived: Instant, now: Instant, window: Duration) -> Verdict {
    if heard.is_empty() {
        return Verdict::Alone;
    }
    if now < arrived + window {
        return Verdict::Unclear;
    }
    match heard.iter().any(|at| *at >= arrived + window / 2) {
        true => Verdict::Lives,
        false => Verdict::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_of_the_second_half_are_a_sign_of_life() {
        let arrived = Instant::now() + WINDOW;
        let ms = Duration::from_millis;
        let rows: [(&[Instant], Duration, Verdict); 7] = [
            (&[], ms(0), Verdict::Alone),
            (&[arrived - ms(250)], ms(0), Verdict::Unclear),
            (&[arrived + ms(900)], ms(999), Verdict::Unclear),
            (&[arrived - ms(250)], ms(1_000), Verdict::Silent),
            (&[arrived + ms(400)], ms(1_000), Verdict::Silent),
            (&[arrived + ms(750)], ms(1_000), Verdict::Lives),
            (&[arrived - ms(250), arrived + ms(500)], ms(1_001), Verdict::Lives),
        ];
        for (heard, after, expected) in rows {
            assert_eq!(judge(heard, arrived, arrived + after, WINDOW), expected, "{heard:?} after {after:?}");
        }
    }
}
