//! One order on its way: the task that hands events from the runner to whoever asked.
//!
//! The one who asked leaves by dropping the `Job`; then the runner is told to stop, and is free again when it has. A
//! runner that does not stop in time is ended.

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::child::Stopped;
use crate::limits;
use crate::pool::Lease;
use crate::protocol::{Event, Fault, Order};

/// The events of one order; dropping it cancels the order.
#[derive(Debug)]
pub(crate) struct Job(mpsc::Receiver<Result<Event, JobError>>);

/// Why an order ended without its result.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum JobError {
    /// It cannot be answered as it is.
    #[error("{0}")]
    Request(String),
    /// The runner could not do it.
    #[error("{0}")]
    Runner(String),
    /// The runner died.
    #[error("{0}")]
    Stopped(#[from] Stopped),
    /// The runner was told to stop and did not.
    #[error("the runner did not stop when it was told to")]
    Stuck,
    /// The server ends.
    #[error("the server is shutting down")]
    Stopping,
}

impl Job {
    /// The next event; after the last one, or an error, there is nothing more to ask for.
    pub(crate) async fn next(&mut self) -> Result<Event, JobError> {
        match self.0.recv().await {
            Some(Ok(Event::Failed { fault: Fault::Request, message })) => Err(JobError::Request(message)),
            Some(Ok(Event::Failed { fault: Fault::Runner | Fault::Memory, message })) => Err(JobError::Runner(message)),
            Some(result) => result,
            None => Err(JobError::Stopping),
        }
    }
}

impl Lease {
    /// Hands the order to the runner.
    pub(crate) fn start(self, order: Order) -> Job {
        let (sender, receiver) = mpsc::channel(limits::EVENT_BUFFER);
        let tasks = self.pool.0.tasks.clone();
        tasks.spawn(self.work(order, sender));
        Job(receiver)
    }

    async fn work(mut self, order: Order, events: mpsc::Sender<Result<Event, JobError>>) {
        let done = match self.child.send(&order).await {
            Ok(()) => self.pump(&events).await,
            Err(error) => Err(error.into()),
        };
        let Err(error) = done else { return self.give_back().await };
        tracing::warn!(%error, "runner dropped");
        self.discard().await;
        if events.send(Err(error)).await.is_err() {
            tracing::debug!("nobody waits for the reason any more");
        }
    }

    /// Moves events until the last one; an error means that the runner is of no more use.
    async fn pump(&mut self, events: &mpsc::Sender<Result<Event, JobError>>) -> Result<(), JobError> {
        let stop = self.pool.0.stop.clone();
        let mut deadline = None;
        loop {
            let event = tokio::select! {
                biased;
                () = events.closed(), if deadline.is_none() => None,
                () = stop.cancelled() => return Err(JobError::Stopping),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Err(JobError::Stuck);
                }
                event = self.child.next() => Some(event?),
            };
            let taken = match event {
                Some(event) => {
                    let last = event.is_last();
                    let wanted = deadline.is_none();
                    let taken = !wanted || timeout(limits::CLIENT_STALL, events.send(Ok(event))).await.is_ok();
                    if last {
                        return Ok(());
                    }
                    taken
                }
                None => false,
            };
            // The client left, or took nothing for so long that it is treated as gone.
            if !taken {
                deadline = Some(Instant::now() + limits::CANCEL_GRACE);
                self.child.send(&Order::Cancel).await?;
            }
        }
    }
}
