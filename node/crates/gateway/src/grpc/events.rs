//! What happened in the cluster, as this node has applied it: what is kept, then what comes.
//!
//! Works without a leader. A reader that was away asks from the revision behind the last that it saw; what is not kept
//! any more is `compacted`, never skipped.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use ollamax_core::catalog::{ClusterEvent, EventKind};
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_proto::v1::events_server::Events;
use ollamax_types::ErrorCode;

use super::daemon::AdminError;
use super::{Admin, Reply};

/// Most readers of one node.
const READERS_MAX: usize = 256;
/// How often a quiet stream says how far it is.
const PROGRESS_DEFAULT: Duration = Duration::from_secs(10);
/// The least of it that may be asked for.
const PROGRESS_MIN: Duration = Duration::from_millis(100);

/// What happens, at one node.
#[derive(Clone)]
pub(super) struct Happenings {
    admin: Admin,
    readers: Arc<Semaphore>,
}

// === impl Happenings ===

impl Happenings {
    pub(super) fn new(admin: Admin) -> Self {
        Self { admin, readers: Arc::new(Semaphore::new(READERS_MAX)) }
    }

    fn read(&self, request: &v1::EventsRequest) -> Result<EventStream, AdminError> {
        let metadata = self.admin.metadata()?;
        let kinds = kinds(&request.kinds)?;
        let permit = Arc::clone(&self.readers).try_acquire_owned().map_err(|_| {
            let what = format!("{READERS_MAX} readers of events are open on this node, which is the limit");
            AdminError::new(ErrorCode::Overloaded, what, "", "close some, or ask another node")
        })?;
        let watcher = metadata.events(kinds, Some(request.since).filter(|since| *since > 0));
        let progress = request.follow.then_some(match request.progress_ms {
            0 => PROGRESS_DEFAULT,
            millis => Duration::from_millis(millis).max(PROGRESS_MIN),
        });
        let reader = Reader { node: metadata.node().0, watcher, progress, _permit: permit };
        let begin = reader.told(reader.watcher.so_far().map_err(|error| lost(&error))?);
        Ok(stream::once(async { Ok(begin) }).chain(stream::unfold(Some(reader), Reader::step)).boxed())
    }
}

type EventStream = BoxStream<'static, Result<v1::EventsReply, Status>>;
type Batch = metadata::Batch<ClusterEvent>;

/// One open stream.
struct Reader {
    node: u64,
    watcher: metadata::Watcher<ClusterEvent>,
    /// `None`: it ends with what is there.
    progress: Option<Duration>,
    _permit: OwnedSemaphorePermit,
}

// === impl Reader ===

impl Reader {
    /// The next message; after an error, and after the last that is there, the stream ends.
    async fn step(reader: Option<Self>) -> Option<(Result<v1::EventsReply, Status>, Option<Self>)> {
        let mut reader = reader?;
        match reader.next().await {
            Ok(batch) => Some((Ok(reader.told(batch?)), Some(reader))),
            Err(error) => Some((Err(lost(&error).into()), None)),
        }
    }

    /// `None`: that was all.
    async fn next(&mut self) -> Result<Option<Batch>, metadata::WatchError> {
        let Some(progress) = self.progress else { return self.watcher.next_kept() };
        let next = tokio::time::timeout(progress, self.watcher.next()).await;
        next.unwrap_or_else(|_| self.watcher.so_far()).map(Some)
    }

    fn told(&self, batch: Batch) -> v1::EventsReply {
        let events = batch.events.into_iter().map(event).collect();
        v1::EventsReply { node_id: self.node, revision: batch.revision, oldest: self.watcher.oldest_revision(), events }
    }
}

pub(super) fn event(event: ClusterEvent) -> v1::ClusterEvent {
    let ClusterEvent { revision, at, kind, subject, text } = event;
    v1::ClusterEvent { revision, at_ms: at.0, kind: kind.as_str().to_owned(), subject, text }
}

fn kinds(words: &[String]) -> Result<Vec<EventKind>, AdminError> {
    let kind = |word: &String| {
        EventKind::from_text(word).ok_or_else(|| {
            let known: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
            let what = format!("there are no events of kind {word:?}");
            AdminError::new(ErrorCode::BadRequest, what, "", format!("name one of: {}", known.join(", ")))
        })
    };
    words.iter().map(kind).collect()
}

/// Why a reader cannot go on, and how it can.
pub(super) fn lost(error: &metadata::WatchError) -> AdminError {
    match error {
        metadata::WatchError::Compacted { oldest } => {
            let why = "a node keeps the last events in memory, and begins anew when it starts or gets a snapshot";
            let next = format!("ollamax events --since {oldest}; what is now: ollamax status");
            AdminError::new(ErrorCode::Compacted, error.to_string(), why, next)
        }
        metadata::WatchError::Deviates => metadata::ReadError::Deviates.into(),
        metadata::WatchError::Stopped => {
            AdminError::new(ErrorCode::Draining, error.to_string(), "it ends its streams", "ask another node")
        }
    }
}

#[tonic::async_trait]
impl Events for Happenings {
    type FollowStream = EventStream;

    async fn follow(&self, request: Request<v1::EventsRequest>) -> Reply<Self::FollowStream> {
        self.read(request.get_ref()).map(Response::new).map_err(Status::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_taken_by_their_words_and_others_are_refused_with_what_there_is() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let known = kinds(&words(&["member_joined", "expired"])).expect("known");
        assert_eq!(known, [EventKind::MemberJoined, EventKind::Expired]);
        assert_eq!(kinds(&[]), Ok(vec![]));
        let error = kinds(&words(&["member_joined", "party"])).expect_err("unknown");
        assert_eq!(error.code, ErrorCode::BadRequest);
        assert!(error.what.contains("\"party\"") && error.next.contains("voters_changed"), "{error:?}");
    }

    #[test]
    fn a_reader_that_comes_too_late_is_told_where_to_begin() {
        let error = lost(&metadata::WatchError::Compacted { oldest: 42 });
        assert_eq!(error.code, ErrorCode::Compacted);
        assert!(error.what.contains("42") && error.next.contains("--since 42"), "{error:?}");
        assert_eq!(lost(&metadata::WatchError::Stopped).code, ErrorCode::Draining);
    }

    #[test]
    fn a_state_that_differs_is_told_of_no_more_than_it_is_read() {
        let unread = AdminError::from(metadata::ReadError::Deviates);
        assert_eq!(unread.code, ErrorCode::StorageCorrupt);
        assert_eq!(lost(&metadata::WatchError::Deviates), unread);
        assert_eq!(AdminError::from(metadata::WatchError::Deviates), unread, "nor are its values");
    }
}
