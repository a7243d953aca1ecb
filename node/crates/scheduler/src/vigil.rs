//! A watch on the runtime beside this node, for the requests that wait for it.
//!
//! Only what the runtime's report says counts. A runtime that loads a model or works on a long prompt keeps its answers
//! back for minutes and is reported up all the while; it is not given up here. Once the reports end, with this
//! process, nothing goes down any more.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use ollamax_types::RuntimeState;

use crate::report::RuntimeReport;

/// One request's watch.
#[derive(Debug)]
pub(crate) struct Vigil(watch::Receiver<Arc<RuntimeReport>>);

/// Why a runtime in this state cannot be sent work; `None` when it can.
pub(crate) fn problem(state: &RuntimeState) -> Option<&str> {
    match state {
        RuntimeState::Up => None,
        RuntimeState::Absent => Some("there is none"),
        RuntimeState::Down(why) => Some(why),
    }
}

// === impl Vigil ===

impl Vigil {
    pub(crate) const fn new(reports: watch::Receiver<Arc<RuntimeReport>>) -> Self {
        Self(reports)
    }

    /// Ends as soon as a report says that the runtime is down, and says why.
    pub(crate) async fn down(&mut self) -> String {
        let report = self.0.wait_for(|report| problem(&report.state).is_some()).await;
        let why = report.ok().and_then(|report| problem(&report.state).map(str::to_owned));
        match why {
            Some(why) => why,
            None => pending().await,
        }
    }

    /// Ends when the runtime is down and does not come back within `patience`, and says why it went down.
    pub(crate) async fn lost(&mut self, patience: Duration) -> String {
        loop {
            let why = self.down().await;
            let back = self.0.wait_for(|report| report.state == RuntimeState::Up);
            if timeout(patience, back).await.is_err() {
                return why;
            }
        }
    }
}
