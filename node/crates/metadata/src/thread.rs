//! The thread of consensus.
//!
//! openraft wakes many times a second. In the node's own runtime each of these wakes a second worker, which finds
//! nothing to do; and answers that keep all workers busy would delay heartbeats. So it has a runtime of one thread.
//!
//! Always: the thread ends when its [`Thread`] is dropped, and what still runs there ends with it.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A runtime of one thread. Blocking work that is started there has threads of its own.
#[derive(Debug)]
pub(crate) struct Thread {
    runtime: Handle,
    /// Nothing is ever sent: dropping it is the end.
    _alive: oneshot::Sender<()>,
}

// === impl Thread ===

impl Thread {
    /// Starts it.
    ///
    /// # Errors
    /// When the system gives no thread or no way to wait for timers.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().thread_name("ollamax-raft-io").build()?;
        let (alive, ended) = oneshot::channel::<()>();
        let thread = Self { runtime: runtime.handle().clone(), _alive: alive };
        std::thread::Builder::new().name("ollamax-raft".to_owned()).spawn(move || {
            // The end of the sender is the answer.
            let _ended = runtime.block_on(ended);
        })?;
        Ok(thread)
    }

    /// Runs a future there, and all that it spawns.
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_runs_there_has_one_thread_and_ends_with_it() {
        let thread = Thread::start().expect("a thread");
        let name = || std::thread::current().name().map(str::to_owned);
        let (outer, inner) = thread
            .spawn(async move {
                let inner = Handle::current().spawn(async move { name() }).await.expect("ran");
                (name(), inner)
            })
            .await
            .expect("ran");
        assert_eq!((outer.as_deref(), inner.as_deref()), (Some("ollamax-raft"), Some("ollamax-raft")));
        let endless = thread.spawn(std::future::pending::<()>());
        drop(thread);
        assert!(endless.await.expect_err("ended").is_cancelled());
    }
}
