//! This node's own client session: what it proposes for others has effect once, however often it must be sent.
//!
//! Opened with the first change and again after it has ended; it ends by itself when the node is gone. Sequences are
//! given out in order, and no more changes are under way than the session has answers for.

use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout_at};

use ollamax_core::catalog::{Answer, Command, Refusal};
use ollamax_types::RequestId;
use ollamax_types::limits::{PROPOSE_TIMEOUT, SESSION_WINDOW_MAX};

use crate::error::ProposeError;
use crate::handle::{Change, Committed, Handle};

/// Life of the session without a change, milliseconds.
const TTL_MS: u64 = 3_600_000;

/// The session of this process.
#[derive(Debug)]
pub(crate) struct OwnSession {
    /// Id and the next sequence; `None` before the first change, and when it has ended.
    current: Mutex<Option<(u64, u64)>>,
    /// One for each change that may be under way.
    room: Semaphore,
}

impl OwnSession {
    pub(crate) fn new() -> Self {
        Self { current: Mutex::new(None), room: Semaphore::new(SESSION_WINDOW_MAX as usize) }
    }
}

impl Handle {
    /// As [`Handle::propose`], within this node's own client session: an answer that is lost on the way is asked for
    /// again, for as long as the deadline allows.
    ///
    /// # Errors
    /// See [`ProposeError`]; [`ProposeError::Overloaded`] also when too many changes are under way.
    pub async fn propose_once(
        &self,
        request: RequestId,
        principal: &str,
        command: Command,
    ) -> Result<Committed, ProposeError> {
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        let own = &self.0.session;
        let room = timeout_at(deadline, own.room.acquire()).await.map_err(|_| ProposeError::Overloaded)?;
        let _room = room.map_err(|closed| ProposeError::Fatal(closed.to_string()))?;
        loop {
            let (id, sequence) = self.next_sequence(&request, deadline).await?;
            let change =
                Change { session: Some((id, sequence)), ..Change::new(request.clone(), principal, command.clone()) };
            let committed = self.propose_until(change, deadline).await?;
            match committed.answer {
                // It was not executed: an attempt of which that is not certain ends as an unknown outcome.
                Answer::Refused(Refusal::SessionExpired(_)) if Instant::now() < deadline => self.forget(id).await,
                _ => return Ok(committed),
            }
        }
    }

    async fn next_sequence(&self, request: &RequestId, deadline: Instant) -> Result<(u64, u64), ProposeError> {
        let busy = || ProposeError::NoQuorum("this node's session was not opened in time".to_owned());
        let mut current = timeout_at(deadline, self.0.session.current.lock()).await.map_err(|_| busy())?;
        if let Some((id, next)) = current.as_mut() {
            *next += 1;
            return Ok((*id, *next - 1));
        }
        let principal = format!("node/{}", self.node());
        let open = Command::OpenSession { ttl_ms: TTL_MS, window: SESSION_WINDOW_MAX };
        let change = Change::new(request.clone(), &principal, open);
        match self.propose_until(change, deadline).await?.accepted()?.answer {
            Answer::Session { session } => {
                *current = Some((session, 2));
                Ok((session, 1))
            }
            other => Err(ProposeError::Fatal(format!("opening a session answered {other:?}"))),
        }
    }

    async fn forget(&self, ended: u64) {
        let mut current = self.0.session.current.lock().await;
        if current.is_some_and(|(id, _)| id == ended) {
            *current = None;
        }
    }
}
