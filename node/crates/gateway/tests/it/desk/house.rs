//! What the assembly would do, as a test says it: the leader's plans, and runtimes that do what they are told at once.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, ready};
use futures::stream::{self, BoxStream, StreamExt as _};
use tonic::service::Routes;
use tonic::{Status, Streaming};

use ollamax_core::placement::Outlook;
use ollamax_gateway::grpc::{Admin, AdminError, Daemon, Engines, Facts, NotDone, Phase};
use ollamax_proto::v1;
use ollamax_proto::v1::models_client::ModelsClient;
use ollamax_proto::v1::runtime_event::Part;
use ollamax_types::{Digest, ErrorCode, NodeId, PeerId, RequestId};

use super::{digest, incarnation};

/// What the assembly would do.
#[derive(Default)]
pub(crate) struct House {
    engines: Option<Engines>,
    words: Mutex<Words>,
}

#[derive(Default)]
struct Words {
    /// What the leader says it would do, question by question.
    outlooks: VecDeque<Result<v1::OutlookView, AdminError>>,
    /// At whose runtimes something was done.
    worked_at: Vec<NodeId>,
}

fn not_at_this_door<T: Send + 'static>() -> BoxFuture<'static, Result<T, AdminError>> {
    ready(Err(AdminError::not_initialised())).boxed()
}

fn no_runtime_here() -> NotDone {
    NotDone { code: ErrorCode::RuntimeUnavailable, text: "no runtime stands beside this desk".to_owned() }
}

// === impl House ===

impl House {
    pub(super) fn of(engines: Engines) -> Arc<Self> {
        Arc::new(Self { engines: Some(engines), words: Mutex::default() })
    }

    /// The door of a node that belongs to no cluster.
    pub(crate) fn waiting() -> ModelsClient<Routes> {
        ModelsClient::new(Admin::routes(Arc::new(Self::default())))
    }

    /// The leader says this when it is asked next.
    pub(crate) fn foresee(&self, outlook: Result<v1::OutlookView, AdminError>) {
        self.words().outlooks.push_back(outlook);
    }

    /// At whose runtimes something was done.
    pub(crate) fn worked_at(&self) -> Vec<NodeId> {
        self.words().worked_at.clone()
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Daemon for House {
    fn facts(&self) -> Facts {
        Facts {
            phase: if self.engines.is_some() { Phase::Member } else { Phase::Waiting },
            data_dir: PathBuf::new(),
            node: self.engines.as_ref().map(|engines| engines.metadata.node()),
            name: "n1".to_owned(),
            peer_id: PeerId("peer-1".to_owned()),
            incarnation: incarnation(1),
            api_url: String::new(),
            runtime_url: String::new(),
            runtime_pid: 0,
            api_open: false,
            version: "0.1.0",
            pid: 0,
            backup_every_ms: 0,
            paths: BTreeMap::new(),
        }
    }

    fn engines(&self) -> Option<Engines> {
        self.engines.clone()
    }

    fn shortfall(&self) -> Result<Outlook, AdminError> {
        Ok(Outlook::default())
    }

    fn init(&self, _: RequestId, _: v1::InitRequest) -> BoxFuture<'_, Result<v1::InitReply, AdminError>> {
        not_at_this_door()
    }

    fn join(&self, _: RequestId, _: v1::JoinRequest) -> BoxFuture<'_, Result<v1::JoinReply, AdminError>> {
        not_at_this_door()
    }

    fn leave(&self, _: RequestId, _: v1::LeaveRequest) -> BoxFuture<'_, Result<v1::LeaveReply, AdminError>> {
        not_at_this_door()
    }

    fn create_token(
        &self,
        _: RequestId,
        _: v1::CreateTokenRequest,
    ) -> BoxFuture<'_, Result<v1::CreateTokenReply, AdminError>> {
        not_at_this_door()
    }

    fn import_model(
        &self,
        _: Streaming<v1::ImportModelRequest>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<v1::ImportModelProgress, Status>>, AdminError>> {
        not_at_this_door()
    }

    fn at_runtime(
        &self,
        node: NodeId,
        _: BoxStream<'static, v1::RuntimeOrder>,
    ) -> BoxStream<'static, Result<v1::RuntimeEvent, NotDone>> {
        self.words().worked_at.push(node);
        let done = Part::Done(v1::RuntimeDone { digest: digest(1).0.to_vec() });
        stream::iter([Ok(v1::RuntimeEvent { part: Some(done) })]).boxed()
    }

    fn has_file(&self, _: Digest) -> BoxFuture<'_, Result<bool, NotDone>> {
        ready(Err(no_runtime_here())).boxed()
    }

    fn take_file(
        &self,
        _: Digest,
        _: Option<u64>,
        _: BoxStream<'static, io::Result<Bytes>>,
    ) -> BoxFuture<'_, Result<(), NotDone>> {
        ready(Err(no_runtime_here())).boxed()
    }

    fn create_backup(
        &self,
        _: v1::CreateBackupRequest,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<v1::CreateBackupProgress, Status>>, AdminError>> {
        not_at_this_door()
    }

    fn list_backups(&self, _: v1::ListBackupsRequest) -> BoxFuture<'_, Result<v1::ListBackupsReply, AdminError>> {
        not_at_this_door()
    }

    fn new_backup_key(&self, _: RequestId) -> BoxFuture<'_, Result<v1::NewBackupKeyReply, AdminError>> {
        not_at_this_door()
    }

    fn logs(&self, _: v1::LogsRequest) -> BoxStream<'static, Result<v1::LogLine, Status>> {
        stream::empty().boxed()
    }

    fn doctor(&self) -> BoxFuture<'_, v1::DoctorReply> {
        ready(v1::DoctorReply::default()).boxed()
    }

    fn outlook(&self, _: v1::OutlookOrder) -> BoxFuture<'_, Result<v1::OutlookView, AdminError>> {
        let seen = self.words().outlooks.pop_front();
        ready(seen.unwrap_or_else(|| Ok(v1::OutlookView::default()))).boxed()
    }
}
