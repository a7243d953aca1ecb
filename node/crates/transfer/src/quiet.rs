//! Work that reads and hashes much, done on threads that have stepped back.
//!
//! Each piece of work has a thread of its own, which ends with it: a thread that has stepped back cannot come back, so
//! none of those that do other work may do it. Whoever waits holds one of the threads that may block, as for other
//! work on a disk. A piece that breaks down, or a system that has no thread left, is told to whoever waits.

use std::thread;

use tokio::task::spawn_blocking;

use ollamax_blobs::priority::step_back;

/// What the system calls these threads.
const NAME: &str = "ollamax-hash";

/// A piece of work came to no end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BrokenDown(String);

/// Does something that blocks on the disk and the processor, and for which nobody waits.
pub(crate) async fn quietly<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BrokenDown> {
    let done = spawn_blocking(move || {
        let stepped_back = move || {
            step_back();
            work()
        };
        let thread = thread::Builder::new().name(NAME.to_owned()).spawn(stepped_back);
        let thread = thread.map_err(|error| BrokenDown(format!("start a thread: {error}")))?;
        thread.join().map_err(|_| BrokenDown("the thread broke down".to_owned()))
    });
    done.await.unwrap_or_else(|error| Err(BrokenDown(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_has_a_thread_of_its_own_which_ends_with_it() {
        let name = || thread::current().name().map(ToOwned::to_owned);
        assert_eq!(quietly(name).await.expect("it ends"), Some(NAME.to_owned()));
        assert_ne!(spawn_blocking(name).await.expect("it ends"), Some(NAME.to_owned()), "nobody else works on it");
    }

    #[tokio::test]
    async fn what_breaks_down_is_told_to_whoever_waits() {
        let broken = quietly(|| panic!("a defect")).await;
        assert_eq!(broken.expect_err("it has no end").to_string(), "the thread broke down");
    }
}
