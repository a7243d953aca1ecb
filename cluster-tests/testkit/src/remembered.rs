//! Processes that a test remembers, to see later that they have ended. Linux only: elsewhere none is found.
//!
//! A process is known by its number and the moment at which it started, so that another one with the same number is
//! not taken for it. One that has ended and waits to be fetched by its parent (a zombie) does not live.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::children;
use crate::wait;

/// A process as it was when it was remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    pid: u32,
    /// Ticks of the kernel's clock since the machine started.
    started: u64,
}

// === impl Remembered ===

impl Remembered {
    /// The process of this number.
    ///
    /// # Errors
    /// When none lives, or there is no `/proc`.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let started = started(&stat).with_context(|| format!("no living process in {path}: {stat}"))?;
        Ok(Self { pid, started })
    }

    /// Its number.
    #[must_use]
    pub const fn pid(self) -> u32 {
        self.pid
    }

    /// Whether it still runs.
    #[must_use]
    pub fn lives(self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == self)
    }

    fn end(self) {
        if let Ok(pid) = i32::try_from(self.pid) {
            // Gone already is what is hoped for.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A process with all that it started, and that those started, as far as they live now.
///
/// # Errors
/// When the process itself does not live.
pub fn family(pid: u32) -> Result<Vec<Remembered>> {
    let mut family = vec![Remembered::of(pid)?];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        // A child that ends between two looks need not be remembered.
        family.extend(children(parent.pid).into_iter().filter_map(|child| Remembered::of(child).ok()));
        at += 1;
    }
    Ok(family)
}

/// Waits until none of them lives. What still lives at the deadline is killed then: nothing outlives its test.
///
/// # Errors
/// At the deadline, with the numbers of those that had not ended.
pub async fn all_ended(what: &str, processes: &[Remembered], deadline: Duration) -> Result<()> {
    let living = || processes.iter().copied().filter(|process| process.lives());
    let ended = wait::until(&format!("{what} to end"), deadline, || async {
        let left: Vec<u32> = living().map(Remembered::pid).collect();
        ensure!(left.is_empty(), "these processes live: {left:?}");
        Ok(())
    })
    .await;
    living().for_each(Remembered::end);
    ended
}

/// When a process started, from its line in `/proc`; `None` for one that has ended.
fn started(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything. After it, the state is the first field and the start the 20th.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_whatever_it_is_called_and_not_once_it_has_ended() {
        let line = |state: &str| {
            format!("42 (an (odd) name) {state} 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 1 1\n")
        };
        assert_eq!(started(&line("S")), Some(987_654));
        assert_eq!(started(&line("R")), Some(987_654));
        assert_eq!((started(&line("Z")), started(&line("X"))), (None, None));
        assert_eq!((started(""), started("42 (short) S 1 42\n")), (None, None));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_child_is_of_the_family_until_it_has_ended() {
        use std::process::{Command, Stdio};

        let start = || Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat starts");
        let (mut told, mut stubborn) = (start(), start());
        let [first, second] = [&told, &stubborn].map(|child| Remembered::of(child.id()).expect("it lives"));
        let own = family(std::process::id()).expect("this process lives");
        assert!(own.contains(&first) && own.contains(&second), "{own:?}");

        drop(told.stdin.take());
        told.wait().expect("it ends with its input");
        assert!(!first.lives() && second.lives());
        let limit = Duration::from_millis(60);
        all_ended("the first", &[first], limit).await.expect("it has ended");
        let error = all_ended("both", &[first, second], limit).await.expect_err("nobody told the second to end");
        let text = error.to_string();
        assert!(text.contains("both to end") && text.contains(&format!("[{}]", second.pid())), "{text}");
        assert!(!stubborn.wait().expect("it was killed").success());
    }
}
