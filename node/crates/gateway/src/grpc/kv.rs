//! Values with revisions: read at the level that the caller asks for, changed by transactions, watched.
//!
//! A read says up to which revision it is complete; a stale one how old it may be. A change without a session of the
//! caller goes into the node's own, so that it has effect once although it may be sent twice.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use ollamax_core::catalog::{Answer, Command, View, bytes_max_of, prefixes, read};
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_proto::v1::kv_server::Kv;
use ollamax_proto::v1::read_level::Level;
use ollamax_types::{ErrorCode, RequestId};

mod convert;

use super::daemon::AdminError;
use super::{Admin, Reply, id_of, reply};

/// Values of one page when the caller names no number.
const PAGE_DEFAULT: u32 = 100;
/// Most values of one page.
const PAGE_MAX: u32 = 1_000;
/// Most watches of one node.
const WATCHES_MAX: usize = 1_024;
/// How often a quiet watch says how far it is.
const PROGRESS_DEFAULT: Duration = Duration::from_secs(10);
/// The least of it that may be asked for.
const PROGRESS_MIN: Duration = Duration::from_millis(100);

/// The values of the cluster, at one node.
#[derive(Clone)]
pub(super) struct Values {
    admin: Admin,
    watches: Arc<Semaphore>,
}

/// A state and where it stands.
struct At {
    view: Arc<dyn View + Send + Sync>,
    header: v1::KvHeader,
}

// === impl Values ===

impl Values {
    pub(super) fn new(admin: Admin) -> Self {
        Self { admin, watches: Arc::new(Semaphore::new(WATCHES_MAX)) }
    }

    /// The state, as fresh as was asked for.
    async fn at(&self, read: Option<v1::ReadLevel>) -> Result<At, AdminError> {
        let metadata = self.admin.metadata()?;
        // A state that is known to be wrong is not shown at any level.
        metadata.check_agreement()?;
        let read = read.unwrap_or_default();
        match read.level() {
            Level::Unspecified | Level::Linearizable => drop(metadata.read_barrier().await?),
            Level::Lease => drop(metadata.lease_barrier().await?),
            Level::Stale => {}
        }
        if read.min_revision > 0 {
            metadata.reach(read.min_revision).await?;
        }
        // The age is taken before the state, which can only be younger.
        let age_ms = if read.level() == Level::Stale { young_enough(&metadata, read.max_age_ms)? } else { None };
        let (view, revision) = metadata.view_at();
        Ok(At { view, header: v1::KvHeader { age_ms, ..header(&metadata, revision, metadata.term()) } })
    }

    async fn range(&self, request: v1::RangeRequest) -> Result<v1::RangeReply, AdminError> {
        let At { view, header } = self.at(request.read).await?;
        let found = if request.prefix {
            let after = Some(request.after.as_str()).filter(|after| !after.is_empty());
            read::values(&*view, "", &request.key, after, page(request.limit) + 1)?
        } else {
            read::value(&*view, "", &request.key)?.map(|value| (request.key.clone(), value)).into_iter().collect()
        };
        let more = request.prefix && found.len() > page(request.limit);
        let shown = found.into_iter().take(page(request.limit));
        let values = shown.map(|(key, value)| convert::value(key, value, request.keys_only)).collect();
        Ok(v1::RangeReply { header: Some(header), values, more })
    }

    async fn txn(&self, id: RequestId, request: v1::TxnRequest) -> Result<v1::TxnReply, AdminError> {
        let session = request.session;
        let command = Command::Txn(convert::txn(request)?);
        let (header, answer) = self.change(id, session, command).await?;
        let Answer::Txn { held, effects } = answer else { return Err(AdminError::unexpected(&answer)) };
        let effects = effects.into_iter().map(convert::effect).collect();
        Ok(v1::TxnReply { header: Some(header), held, effects })
    }

    /// Proposes a change; a refusal is an error.
    async fn change(
        &self,
        id: RequestId,
        session: Option<v1::KvSession>,
        command: Command,
    ) -> Result<(v1::KvHeader, Answer), AdminError> {
        let metadata = self.admin.metadata()?;
        let committed = match session {
            None => metadata.propose_once(id, "admin", command).await?,
            Some(v1::KvSession { id: session, sequence }) => {
                let change = metadata::Change::new(id, "admin", command);
                metadata.propose_change(metadata::Change { session: Some((session, sequence)), ..change }).await?
            }
        };
        told(&metadata, committed)
    }

    /// A change that answers nothing but that it is done.
    async fn done(&self, id: RequestId, command: Command) -> Result<Option<v1::KvHeader>, AdminError> {
        Ok(Some(self.change(id, None, command).await?.0))
    }

    /// A session is opened outside any session: asked for twice, it leaves one that ends by itself.
    async fn open(&self, id: RequestId, request: v1::OpenSessionRequest) -> Result<v1::OpenSessionReply, AdminError> {
        let command = Command::OpenSession { ttl_ms: request.ttl_ms, window: request.window };
        let metadata = self.admin.metadata()?;
        let (header, answer) = told(&metadata, metadata.propose(id, "admin", command).await?)?;
        let Answer::Session { session } = answer else { return Err(AdminError::unexpected(&answer)) };
        Ok(v1::OpenSessionReply { header: Some(header), id: session })
    }

    async fn lease(&self, id: RequestId, command: Command) -> Result<(v1::KvHeader, u64, u64), AdminError> {
        let (header, answer) = self.change(id, None, command).await?;
        let Answer::Lease { lease, ttl_ms } = answer else { return Err(AdminError::unexpected(&answer)) };
        Ok((header, lease, ttl_ms))
    }

    async fn leases(&self, request: v1::ListLeasesRequest) -> Result<v1::ListLeasesReply, AdminError> {
        let At { view, header } = self.at(request.read).await?;
        let after = Some(request.after).filter(|after| *after > 0);
        let found = read::leases(&*view, after, page(request.limit) + 1)?;
        let more = found.len() > page(request.limit);
        let leases = found.into_iter().take(page(request.limit)).map(|(id, lease)| convert::lease(id, lease));
        Ok(v1::ListLeasesReply { header: Some(header), leases: leases.collect(), more })
    }

    async fn quota(&self, request: v1::GetQuotaRequest) -> Result<v1::GetQuotaReply, AdminError> {
        let At { view, header } = self.at(request.read).await?;
        let Some(bytes_max) = bytes_max_of(&request.prefix) else {
            let what = format!("there is no quota for {:?}", request.prefix);
            return Err(AdminError::new(ErrorCode::BadRequest, what, "", format!("name one of: {}", prefixes())));
        };
        let usage = read::usage(&*view, "", &request.prefix)?;
        let (keys, bytes, bytes_max) =
            usage.map_or((0, 0, bytes_max), |usage| (usage.keys, usage.bytes, usage.bytes_max));
        Ok(v1::GetQuotaReply { header: Some(header), keys, bytes, bytes_max })
    }

    fn watch(&self, request: v1::WatchRequest) -> Result<WatchStream, AdminError> {
        let metadata = self.admin.metadata()?;
        let permit = Arc::clone(&self.watches).try_acquire_owned().map_err(|_| {
            let what = format!("{WATCHES_MAX} watches are open on this node, which is the limit");
            AdminError::new(ErrorCode::Overloaded, what, "", "close some, or watch on another node")
        })?;
        let filter = metadata::Filter { namespace: String::new(), key: request.key, prefix: request.prefix };
        let watcher = metadata.watch(filter, Some(request.from).filter(|from| *from > 0));
        let progress = match request.progress_ms {
            0 => PROGRESS_DEFAULT,
            millis => Duration::from_millis(millis).max(PROGRESS_MIN),
        };
        let begin = watched(&metadata, watcher.so_far()?);
        let watch = Watch { metadata, watcher, progress, _permit: permit };
        Ok(stream::once(async { Ok(begin) }).chain(stream::unfold(Some(watch), Watch::step)).boxed())
    }
}

type WatchStream = BoxStream<'static, Result<v1::WatchReply, Status>>;

/// One open watch.
struct Watch {
    metadata: metadata::Handle,
    watcher: metadata::Watcher,
    progress: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// The next message; after an error the stream ends.
    async fn step(watch: Option<Self>) -> Option<(Result<v1::WatchReply, Status>, Option<Self>)> {
        let mut watch = watch?;
        let next = tokio::time::timeout(watch.progress, watch.watcher.next()).await;
        match next.unwrap_or_else(|_| watch.watcher.so_far()) {
            Ok(batch) => Some((Ok(watched(&watch.metadata, batch)), Some(watch))),
            Err(error) => Some((Err(AdminError::from(error).into()), None)),
        }
    }
}

fn watched(metadata: &metadata::Handle, batch: metadata::Batch) -> v1::WatchReply {
    let metadata::Batch { events, revision } = batch;
    let header = Some(header(metadata, revision, metadata.term()));
    v1::WatchReply { header, events: events.into_iter().map(convert::event).collect() }
}

/// This node answers, and what it says is not old.
fn header(metadata: &metadata::Handle, revision: u64, term: u64) -> v1::KvHeader {
    v1::KvHeader { node_id: metadata.node().0, revision, term, age_ms: None }
}

/// What a change answered; a refusal is an error.
fn told(metadata: &metadata::Handle, committed: metadata::Committed) -> Result<(v1::KvHeader, Answer), AdminError> {
    match committed.answer {
        Answer::Refused(refusal) => Err(refusal.into()),
        answer => Ok((header(metadata, committed.revision, committed.term), answer)),
    }
}

fn page(limit: u32) -> usize {
    (if limit == 0 { PAGE_DEFAULT } else { limit.min(PAGE_MAX) }) as usize
}

/// How old this node's state may be; refused when that is more than the caller takes.
fn young_enough(metadata: &metadata::Handle, max_age_ms: u64) -> Result<Option<u64>, AdminError> {
    let age_ms = metadata.age_ms();
    if max_age_ms == 0 || age_ms.is_some_and(|age| age <= max_age_ms) {
        return Ok(age_ms);
    }
    let why = match age_ms {
        Some(age) => format!("it is {age} ms old, and {max_age_ms} ms were asked for"),
        None => "no leader was heard since it started".to_owned(),
    };
    let what = "the state of this node is too old for this read";
    Err(AdminError::new(ErrorCode::NoQuorum, what, why, "ask another node, or allow more: --max-age"))
}

#[tonic::async_trait]
impl Kv for Values {
    type WatchStream = WatchStream;

    async fn range(&self, request: Request<v1::RangeRequest>) -> Reply<v1::RangeReply> {
        reply(self.range(request.into_inner()).await)
    }

    async fn txn(&self, request: Request<v1::TxnRequest>) -> Reply<v1::TxnReply> {
        reply(self.txn(id_of(&request), request.into_inner()).await)
    }

    async fn open_session(&self, request: Request<v1::OpenSessionRequest>) -> Reply<v1::OpenSessionReply> {
        reply(self.open(id_of(&request), request.into_inner()).await)
    }

    async fn close_session(&self, request: Request<v1::CloseSessionRequest>) -> Reply<v1::CloseSessionReply> {
        let command = Command::CloseSession { session: request.get_ref().id };
        reply(self.done(id_of(&request), command).await.map(|header| v1::CloseSessionReply { header }))
    }

    async fn grant_lease(&self, request: Request<v1::GrantLeaseRequest>) -> Reply<v1::GrantLeaseReply> {
        let command = Command::GrantLease { ttl_ms: request.get_ref().ttl_ms };
        let granted = self.lease(id_of(&request), command).await;
        reply(granted.map(|(header, id, ttl_ms)| v1::GrantLeaseReply { header: Some(header), id, ttl_ms }))
    }

    async fn renew_lease(&self, request: Request<v1::RenewLeaseRequest>) -> Reply<v1::RenewLeaseReply> {
        let command = Command::RenewLease { lease: request.get_ref().id };
        let renewed = self.lease(id_of(&request), command).await;
        reply(renewed.map(|(header, _, ttl_ms)| v1::RenewLeaseReply { header: Some(header), ttl_ms }))
    }

    async fn revoke_lease(&self, request: Request<v1::RevokeLeaseRequest>) -> Reply<v1::RevokeLeaseReply> {
        let command = Command::RevokeLease { lease: request.get_ref().id };
        reply(self.done(id_of(&request), command).await.map(|header| v1::RevokeLeaseReply { header }))
    }

    async fn list_leases(&self, request: Request<v1::ListLeasesRequest>) -> Reply<v1::ListLeasesReply> {
        reply(self.leases(request.into_inner()).await)
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Reply<Self::WatchStream> {
        self.watch(request.into_inner()).map(Response::new).map_err(Status::from)
    }

    async fn get_quota(&self, request: Request<v1::GetQuotaRequest>) -> Reply<v1::GetQuotaReply> {
        reply(self.quota(request.into_inner()).await)
    }

    async fn set_quota(&self, request: Request<v1::SetQuotaRequest>) -> Reply<v1::SetQuotaReply> {
        let v1::SetQuotaRequest { prefix, bytes_max } = request.get_ref().clone();
        let command = Command::SetQuota { prefix, bytes_max };
        reply(self.done(id_of(&request), command).await.map(|header| v1::SetQuotaReply { header }))
    }
}
