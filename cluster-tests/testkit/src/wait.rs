//! The one place where tests wait: polling up to a deadline, and pauses that a script asks for.
//!
//! A wait always ends. One that ends at its deadline says what it was waiting for and what it saw last.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Time between two looks.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `look` answers `Ok`, and returns what it answered.
///
/// A single look may take as long as the whole wait; it is cut off at the deadline.
///
/// # Errors
/// At the deadline, with `what` and the last complaint of `look`.
pub async fn until<T, E, F>(what: &str, deadline: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let begin = Instant::now();
    let mut last = String::from("the first look did not end");
    while let Some(left) = deadline.checked_sub(begin.elapsed()) {
        match timeout(left, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(complaint)) => last = format!("{complaint:#}"),
            Err(_) => break,
        }
        sleep(POLL_INTERVAL).await;
    }
    bail!("waited {deadline:?} for {what}; last seen: {last}")
}

/// As [`until`], for a plain yes or no.
///
/// # Errors
/// At the deadline.
pub async fn until_true<F>(what: &str, deadline: Duration, mut look: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = bool>,
{
    until(what, deadline, || {
        let answer = look();
        async move { if answer.await { Ok(()) } else { Err("not yet") } }
    })
    .await
}

/// Lets time pass because a script says so (a slow model, a delayed link, a fault that must last).
/// Never used in the hope that something will have happened by then.
pub async fn pause(duration: Duration) {
    if !duration.is_zero() {
        sleep(duration).await;
    }
}

/// As [`pause`], up to a moment.
pub async fn pause_until(moment: Instant) {
    sleep_until(moment).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(60);

    #[tokio::test]
    async fn says_what_it_waited_for_and_what_it_saw_last() {
        let error = until("the moon", SHORT, || async { Err::<(), _>("clouds") }).await;
        let text = error.expect_err("it never comes").to_string();
        assert!(text.contains("the moon") && text.contains("clouds"), "{text}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_cut_off_at_the_deadline() {
        let begin = Instant::now();
        let answer = until_true("an answer", SHORT, std::future::pending::<bool>).await;
        assert!(answer.is_err());
        assert!(begin.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn returns_what_was_found() {
        let mut looks = 0;
        let found = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            let now = looks;
            async move { if now == 3 { Ok(now) } else { Err(now) } }
        });
        assert_eq!(found.await.expect("found"), 3);
    }
}
