//! What an administrator can make of this node: a cluster's first member, a further one, none any more.
//!
//! Steps that change the node are taken under one lock and stored before they take effect, so that a crash in
//! between is finished by the next start: an id without a Raft directory simply goes on joining. What ends a membership
//! without this node's administrator is in `removal.rs`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use ollamax_core::catalog::command::NewMember;
use ollamax_core::catalog::{Answer, Command, Refusal, read};
use ollamax_core::placement::Outlook;
use ollamax_gateway::grpc::nodes::remove_member;
use ollamax_gateway::grpc::{AdminError, Daemon, Engines, Facts, NotDone, Path, Phase};
use ollamax_metadata::ProposeError;
use ollamax_net::{Discovered, Way};
use ollamax_proto::v1;
use ollamax_security::cluster_key::cluster_id;
use ollamax_security::{ClusterKey, Credential, JoinToken, draw_request_id};
use ollamax_types::limits::{TOKEN_TTL_DEFAULT, TOKEN_TTL_MAX};
use ollamax_types::{ClusterId, Digest, ErrorCode, NodeId, PeerId, RequestId, Role};

use crate::adapters::outlook_over_net;
use crate::backups::Backups;
use crate::config::is_label;
use crate::data_dir::{DataDir, Membership};
use crate::doctor::Doctor;
use crate::import::Importer;
use crate::joining::Joiner;
use crate::management::Management;
use crate::member::Around;
use crate::removal::{forget_cluster_key, wait_until_no_voter};
use crate::slot::MemberEngines;
use crate::telemetry::Ring;

/// How long `join` and `init` wait until the node takes part.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Entries that making a cluster writes at most, this node's first election among them.
const FOUNDING_ENTRIES: u64 = 4;
/// Most joins that one token permits.
const TOKEN_USES_MAX: u32 = 1_000;
/// Name of the cluster when nobody gives one.
const CLUSTER_NAME_DEFAULT: &str = "lab";

/// This node, as its administrator sees it.
#[derive(Debug)]
pub(crate) struct Node {
    /// What the engines are tied to.
    pub(crate) around: Arc<Around>,
    /// The directory; its lock also orders the steps.
    pub(crate) dir: Mutex<DataDir>,
    /// This node's key.
    pub(crate) peer_id: PeerId,
    /// Name shown to people until it has one in a cluster.
    pub(crate) name: String,
    /// Base URL of the `api` listener.
    pub(crate) api_url: String,
    /// Whether `api` serves everybody.
    pub(crate) api_open: bool,
    /// The last lines of the log.
    pub(crate) ring: Ring,
    /// Spreads models.
    pub(crate) importer: Importer,
    /// Has runtimes make and push models.
    pub(crate) management: Management,
    /// Checks this machine.
    pub(crate) doctor: Doctor,
    /// Makes backups.
    pub(crate) backups: Backups,
    /// Ends the process in good order.
    pub(crate) exit: CancellationToken,
    /// Why it must end, when its state cannot be trusted.
    pub(crate) fatal: watch::Sender<Option<String>>,
}

/// Where a node stands before its engines run, by what it keeps of its membership.
pub(crate) fn phase_at_start(membership: Option<&Membership>) -> Phase {
    match membership {
        None => Phase::Waiting,
        Some(membership) if membership.removed => Phase::Removed,
        Some(_) => Phase::Joining,
    }
}

// === impl Node ===

impl Node {
    /// Takes up what this node was: a member again, or waiting.
    ///
    /// # Errors
    /// When the stored state cannot be used.
    pub(crate) async fn resume(&self) -> Result<(), AdminError> {
        let mut dir = self.dir.lock().await;
        let Some(membership) = dir.membership().cloned() else { return Ok(()) };
        if membership.removed {
            return Ok(());
        }
        let engines = self.start_member(&mut dir, membership.clone()).await?;
        if is_unfounded(&engines) {
            self.found(draw_request_id(), &engines, &membership).await?;
        }
        Ok(())
    }

    async fn init_cluster(&self, id: RequestId, request: v1::InitRequest) -> Result<v1::InitReply, AdminError> {
        let mut dir = self.dir.lock().await;
        let (engines, membership) = match self.half_founded(&dir) {
            Some(begun) => begun,
            None => {
                refuse_member(dir.membership())?;
                self.check_room(&dir)?;
                let membership = self.draw_cluster(&dir, &request)?;
                (self.start_member(&mut dir, membership.clone()).await?, membership)
            }
        };
        self.found(id.clone(), &engines, &membership).await?;
        drop(dir);
        self.settle().await?;
        let token = self.token(id, &v1::CreateTokenRequest::default()).await?;
        let Membership { cluster_name, .. } = membership;
        tracing::info!(cluster = %engines.cluster, name = cluster_name, "made a new cluster");
        Ok(v1::InitReply {
            cluster: engines.cluster.0.to_vec(),
            cluster_name,
            node_id: 1,
            token: token.token,
            peer_addresses: self.around.addresses.peer.clone(),
        })
    }

    /// What an earlier attempt made before its first entry was refused, for lack of room or of time.
    fn half_founded(&self, dir: &DataDir) -> Option<(MemberEngines, Membership)> {
        let engines = self.around.slot.get().filter(is_unfounded)?;
        Some((engines, dir.membership().cloned()?))
    }

    /// Refuses to begin what there is no room to end.
    fn check_room(&self, dir: &DataDir) -> Result<(), AdminError> {
        let checked = self.around.config.store.check_room(dir.root());
        checked.map_err(|full| no_room(full.into()))
    }

    /// A new cluster with this node as its first: the key is stored, nothing else is touched.
    fn draw_cluster(&self, dir: &DataDir, request: &v1::InitRequest) -> Result<Membership, AdminError> {
        let cluster_name = label("cluster name", &request.cluster_name, CLUSTER_NAME_DEFAULT)?;
        let name = label("node name", &request.node_name, &self.name)?;
        let key = ClusterKey::generate().map_err(|error| internal("make the cluster key", &error))?;
        let cluster = cluster_id(&key.public_key());
        let credential = Credential {
            cluster,
            node: NodeId(1),
            peer_id: self.peer_id.clone(),
            role: Role::Voter,
            incarnation: dir.incarnation(),
        };
        let credential = credential.sign(&key).map_err(|error| internal("sign the credential", &error))?;
        let key_path = dir.root().join("keys").join("cluster.key");
        // Not a member: a key that lies there is what an earlier attempt left.
        drop(std::fs::remove_file(&key_path));
        key.seal(&key_path).map_err(|error| internal("store the cluster key", &error))?;
        Ok(Membership {
            cluster: cluster.to_string(),
            cluster_name,
            cluster_public_key: hex::encode(key.public_key()),
            node: NodeId(1),
            name,
            role: Role::Voter,
            credential: hex::encode(credential),
            known: Vec::new(),
            raft_opened: false,
            removed: false,
            recovered_from: None,
        })
    }

    /// Writes the first entry of the cluster.
    async fn found(&self, id: RequestId, engines: &MemberEngines, membership: &Membership) -> Result<(), AdminError> {
        let mut public_key = [0; 32];
        hex::decode_to_slice(&membership.cluster_public_key, &mut public_key)
            .map_err(|error| internal("read the cluster key", &error))?;
        let addresses = &self.around.addresses;
        let command = Command::InitCluster {
            cluster: engines.cluster,
            name: membership.cluster_name.clone(),
            public_key,
            first: NewMember {
                name: membership.name.clone(),
                peer_id: self.peer_id.clone(),
                incarnation: self.around.incarnation,
                peer_addresses: addresses.peer.clone(),
                p2p_addresses: addresses.p2p.clone(),
                api_addresses: addresses.api.clone(),
            },
            version: engines.metadata.release(),
        };
        let committed = engines.metadata.init_cluster(id, command).await?;
        match committed.answer {
            // An earlier attempt got this far before it was cut off.
            Answer::Refused(Refusal::AlreadyInitialised) => Ok(()),
            Answer::Refused(refusal) => Err(refusal.into()),
            _ => Ok(()),
        }
    }

    async fn join_cluster(&self, id: RequestId, request: v1::JoinRequest) -> Result<v1::JoinReply, AdminError> {
        let token = JoinToken::parse(&request.token).map_err(|error| {
            AdminError::new(ErrorCode::TokenInvalid, error.to_string(), "", "on a member: ollamax token create")
        })?;
        let mut dir = self.dir.lock().await;
        if let Some(membership) = dir.membership().cloned() {
            let reply = self.already(&membership, &token)?;
            // An earlier attempt was admitted, and then its engines did not start.
            if self.around.slot.get().is_none() {
                self.start_member(&mut dir, membership).await?;
                drop(dir);
                self.settle().await?;
            }
            return Ok(reply);
        }
        self.check_room(&dir)?;
        let role = match request.role.as_str() {
            "" => None,
            text => Some(text.parse::<Role>().map_err(|error| bad_request(&error.to_string()))?),
        };
        let joiner = Joiner {
            request: id,
            net: self.around.net.clone(),
            incarnation: dir.incarnation(),
            name: label("node name", &request.node_name, &self.name)?,
            role,
            addresses: self.around.addresses.clone(),
            lanes: self.around.config.p2p.lanes,
            wall_time_ms: self.around.clock.now().0,
            release: self.around.config.raft.release(),
        };
        let around = &self.around;
        let discovered = around.net.discovered().borrow().clone();
        let cluster = cluster_id(&token.cluster_public_key);
        let named = (around.config.p2p.static_peers.as_slice(), around.config.cluster.seeds.as_slice());
        let seeds = seeds(request.seeds, named, discovered, cluster);
        let joined = joiner.join(&token, &seeds).await?;
        let membership = joined.membership;
        self.start_member(&mut dir, membership.clone()).await?;
        drop(dir);
        self.settle().await?;
        let Membership { cluster, node, name, .. } = &membership;
        tracing::info!(cluster, id = %node, name, wished = joiner.name, "joined the cluster");
        Ok(v1::JoinReply { probes: joined.probes, lane_only: joined.lane_only, ..join_reply(&membership) })
    }

    /// A member that joins its own cluster again changes nothing; another cluster is refused.
    fn already(&self, membership: &Membership, token: &JoinToken) -> Result<v1::JoinReply, AdminError> {
        if membership.cluster_public_key != hex::encode(token.cluster_public_key) {
            return refuse_member(Some(membership)).map(|()| v1::JoinReply::default());
        }
        if membership.removed {
            return Err(AdminError::removed());
        }
        Ok(v1::JoinReply { already: true, ..join_reply(membership) })
    }

    /// Stores the membership, starts the engines, and marks the Raft directory as one that must not vanish.
    async fn start_member(&self, dir: &mut DataDir, membership: Membership) -> Result<MemberEngines, AdminError> {
        dir.set_membership(Some(membership.clone())).map_err(|error| internal("store the membership", &error))?;
        self.around.phase.send_replace(Phase::Joining);
        let started = self.around.start(&membership).await;
        let engines = started.map_err(|error| internal("open the replicated state", &error))?;
        if !membership.raft_opened {
            let opened = Membership { raft_opened: true, ..membership };
            dir.set_membership(Some(opened)).map_err(|error| internal("store the membership", &error))?;
        }
        let (fatal, exit, reasons) = (engines.metadata.fatal(), self.exit.clone(), self.fatal.clone());
        // A node whose state cannot be trusted stops, with the reason as its last error.
        self.around.tasks.spawn(async move {
            tokio::select! {
                (code, reason) = fatal => {
                    tracing::error!(%code, error = reason, "the node stops: its state cannot be trusted");
                    reasons.send_replace(Some(reason));
                    exit.cancel();
                }
                () = exit.cancelled() => {}
            }
        });
        Ok(engines)
    }

    /// Waits until this node takes part.
    async fn settle(&self) -> Result<(), AdminError> {
        let mut phase = self.around.phase.subscribe();
        let settled = phase.wait_for(|phase| matches!(phase, Phase::Member | Phase::Removed));
        match tokio::time::timeout(SETTLE_TIMEOUT, settled).await {
            Ok(Ok(phase)) if *phase == Phase::Removed => return Err(AdminError::removed()),
            Ok(_) => return Ok(()),
            Err(_) => {}
        }
        let why =
            format!("its replicated state did not arrive within {} s; it goes on trying", SETTLE_TIMEOUT.as_secs());
        Err(AdminError::new(
            ErrorCode::DeadlineExceeded,
            "the node is admitted, but not ready yet",
            why,
            "ollamax status",
        ))
    }

    async fn leave_cluster(&self, id: RequestId, request: v1::LeaveRequest) -> Result<v1::LeaveReply, AdminError> {
        // Held to the end: who finds this node removed meanwhile waits, and then finds nothing left to do.
        let mut dir = self.dir.lock().await;
        if dir.membership().is_some_and(|membership| membership.removed) {
            return self.forget_cluster(&mut dir);
        }
        let engines = self.engines_or_reason()?;
        self.around.phase.send_replace(Phase::Stopping);
        engines.scheduler.set_draining(true);
        let status = engines.metadata.status();
        if status.leader == Some(engines.node) && status.voters.len() > 1 {
            drop(engines.metadata.transfer_leader(None).await);
        }
        let removed = remove_member(&engines.metadata, &id, engines.node).await;
        if let Err(error) = removed
            && !request.force
        {
            self.around.phase.send_if_modified(|phase| {
                let stays = *phase == Phase::Stopping;
                if stays {
                    *phase = Phase::Member;
                }
                stays
            });
            return Err(error);
        }
        wait_until_no_voter(&engines).await;
        self.forget_cluster(&mut dir)
    }

    /// From the next start on this is an empty node. The Raft directory goes when nothing has it open any more.
    fn forget_cluster(&self, dir: &mut DataDir) -> Result<v1::LeaveReply, AdminError> {
        dir.set_membership(None).map_err(|error| internal("forget the membership", &error))?;
        forget_cluster_key(dir);
        tracing::info!("left the cluster");
        self.exit.cancel();
        Ok(v1::LeaveReply {})
    }

    fn engines_or_reason(&self) -> Result<MemberEngines, AdminError> {
        let missing = || AdminError::without_engines(*self.around.phase.borrow());
        self.around.slot.get().ok_or_else(missing)
    }

    /// How this node last reached each member.
    fn paths(&self) -> BTreeMap<NodeId, Path> {
        let net = &self.around.net;
        let path = |node| Path { way: net.way(node).map_or("", Way::as_str), rtt: net.rtt(node) };
        net.members().into_iter().map(|node| (node, path(node))).collect()
    }

    async fn token(&self, id: RequestId, request: &v1::CreateTokenRequest) -> Result<v1::CreateTokenReply, AdminError> {
        let role = match request.role.as_str() {
            "" => Role::Voter,
            text => text.parse::<Role>().map_err(|error| bad_request(&error.to_string()))?,
        };
        let ttl_ms = if request.ttl_ms == 0 { millis(TOKEN_TTL_DEFAULT) } else { request.ttl_ms };
        if ttl_ms > millis(TOKEN_TTL_MAX) {
            return Err(bad_request("a token lives 30 days at most"));
        }
        let uses = request.uses.max(1);
        if uses > TOKEN_USES_MAX {
            return Err(bad_request(&format!("a token permits {TOKEN_USES_MAX} joins at most")));
        }
        let engines = self.engines_or_reason()?;
        let public_key = {
            let dir = self.dir.lock().await;
            let membership = dir.membership().ok_or_else(AdminError::not_initialised)?;
            let mut key = [0; 32];
            hex::decode_to_slice(&membership.cluster_public_key, &mut key)
                .map_err(|error| internal("read the cluster key", &error))?;
            key
        };
        let token = JoinToken::make(public_key).map_err(|error| internal("draw a token", &error))?;
        let command =
            Command::CreateToken { id: token.id.clone(), secret_sha256: token.secret_sha256().0, role, uses, ttl_ms };
        let committed = engines.metadata.propose(id, "admin", command).await?;
        if let Answer::Refused(refusal) = committed.answer {
            return Err(refusal.into());
        }
        // Its times are those on record, by which it is judged; where they do not come here in time, as they would be.
        let noted = match engines.metadata.reach(committed.revision).await {
            Ok(_) => read::token(&*engines.metadata.view(), &token.id)?,
            Err(_) => None,
        };
        let created_at = noted.map_or_else(|| engines.metadata.log_time(), |noted| noted.created_at);
        Ok(v1::CreateTokenReply {
            token: token.text().expose().to_owned(),
            record: Some(v1::Token {
                id: token.id.0,
                role: role.to_string(),
                uses_left: uses,
                created_at_ms: created_at.0,
                expires_at_ms: created_at.plus_ms(ttl_ms).0,
                revoked: false,
                expired: false,
            }),
            peer_addresses: self.around.addresses.peer.clone(),
        })
    }

    async fn import(
        &self,
        mut chunks: Streaming<v1::ImportModelRequest>,
    ) -> Result<BoxStream<'static, Result<v1::ImportModelProgress, Status>>, AdminError> {
        let engines = self.engines_or_reason()?;
        let first = chunks.message().await.map_err(|status| bad_request(status.message()))?;
        let Some(v1::import_model_request::Part::Header(header)) = first.and_then(|request| request.part) else {
            return Err(bad_request("an import begins with a header"));
        };
        self.importer.start(&engines, header, chunks.boxed())
    }
}

impl Daemon for Node {
    fn facts(&self) -> Facts {
        let runtime = self.around.runtime.report().borrow().clone();
        let engines = self.around.slot.get();
        Facts {
            phase: *self.around.phase.borrow(),
            data_dir: self.around.data_dir.clone(),
            node: engines.as_ref().map(|engines| engines.node),
            name: engines.map_or_else(|| self.name.clone(), |engines| engines.name),
            peer_id: self.peer_id.clone(),
            incarnation: self.around.incarnation,
            api_url: self.api_url.clone(),
            runtime_url: runtime.url,
            runtime_pid: runtime.pid.unwrap_or(0),
            api_open: self.api_open,
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            backup_every_ms: self.backups.every_ms(),
            paths: self.paths(),
        }
    }

    fn engines(&self) -> Option<Engines> {
        let MemberEngines { metadata, scheduler, transfer, .. } = self.around.slot.get()?;
        Some(Engines { metadata, scheduler, transfer })
    }

    fn shortfall(&self) -> Result<Outlook, AdminError> {
        match self.around.slot.get() {
            Some(engines) => engines.prospect.shortfall().map_err(AdminError::from),
            None => Ok(Outlook::default()),
        }
    }

    fn init(&self, id: RequestId, request: v1::InitRequest) -> BoxFuture<'_, Result<v1::InitReply, AdminError>> {
        self.init_cluster(id, request).boxed()
    }

    fn join(&self, id: RequestId, request: v1::JoinRequest) -> BoxFuture<'_, Result<v1::JoinReply, AdminError>> {
        self.join_cluster(id, request).boxed()
    }

    fn leave(&self, id: RequestId, request: v1::LeaveRequest) -> BoxFuture<'_, Result<v1::LeaveReply, AdminError>> {
        self.leave_cluster(id, request).boxed()
    }

    fn create_token(
        &self,
        id: RequestId,
        request: v1::CreateTokenRequest,
    ) -> BoxFuture<'_, Result<v1::CreateTokenReply, AdminError>> {
        async move { self.token(id, &request).await }.boxed()
    }

    fn import_model(
        &self,
        chunks: Streaming<v1::ImportModelRequest>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<v1::ImportModelProgress, Status>>, AdminError>> {
        self.import(chunks).boxed()
    }

    fn at_runtime(
        &self,
        node: NodeId,
        orders: BoxStream<'static, v1::RuntimeOrder>,
    ) -> BoxStream<'static, Result<v1::RuntimeEvent, NotDone>> {
        let own = self.around.slot.get().map(|engines| engines.node);
        self.management.at(own, node, orders)
    }

    fn has_file(&self, sha256: Digest) -> BoxFuture<'_, Result<bool, NotDone>> {
        self.management.has_file(sha256)
    }

    fn take_file(
        &self,
        sha256: Digest,
        size_bytes: Option<u64>,
        bytes: BoxStream<'static, io::Result<Bytes>>,
    ) -> BoxFuture<'_, Result<(), NotDone>> {
        self.management.take_file(sha256, size_bytes, bytes)
    }

    fn create_backup(
        &self,
        request: v1::CreateBackupRequest,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<v1::CreateBackupProgress, Status>>, AdminError>> {
        async move {
            self.engines_or_reason()?;
            self.backups.create(request).await
        }
        .boxed()
    }

    fn list_backups(&self, request: v1::ListBackupsRequest) -> BoxFuture<'_, Result<v1::ListBackupsReply, AdminError>> {
        self.backups.list(request).boxed()
    }

    fn new_backup_key(&self, id: RequestId) -> BoxFuture<'_, Result<v1::NewBackupKeyReply, AdminError>> {
        async move {
            self.engines_or_reason()?;
            self.backups.new_key(id).await
        }
        .boxed()
    }

    fn logs(&self, request: v1::LogsRequest) -> BoxStream<'static, Result<v1::LogLine, Status>> {
        crate::log_stream::lines(&self.ring, request)
    }

    fn doctor(&self) -> BoxFuture<'_, v1::DoctorReply> {
        self.doctor.check().boxed()
    }

    fn outlook(&self, order: v1::OutlookOrder) -> BoxFuture<'_, Result<v1::OutlookView, AdminError>> {
        async move { outlook_over_net::ask(&self.around.net, &self.engines_or_reason()?, order).await }.boxed()
    }
}

/// Whether this is the first node of a cluster whose first entry was never written: `init` was cut off.
fn is_unfounded(engines: &MemberEngines) -> bool {
    let status = engines.metadata.status();
    let alone = status.voters.iter().all(|voter| *voter == engines.node);
    let cluster = read::cluster(&*engines.metadata.view());
    engines.node == NodeId(1) && alone && status.last_log_index <= FOUNDING_ENTRIES && matches!(cluster, Ok(None))
}

fn join_reply(membership: &Membership) -> v1::JoinReply {
    v1::JoinReply {
        node_id: membership.node.0,
        cluster: membership.cluster_id().unwrap_or_default().0.to_vec(),
        cluster_name: membership.cluster_name.clone(),
        node_name: membership.name.clone(),
        // As it was when it joined.
        lane_only: membership.known.iter().any(|known| !known.p2p.is_empty()),
        ..v1::JoinReply::default()
    }
}

/// What was asked for, else the static peers, else what the configuration names and what the local network shows of
/// this cluster.
fn seeds(
    asked: Vec<String>,
    (static_peers, configured): (&[String], &[String]),
    discovered: Vec<Discovered>,
    cluster: ClusterId,
) -> Vec<String> {
    if !asked.is_empty() {
        return asked;
    }
    if !static_peers.is_empty() {
        return static_peers.to_vec();
    }
    let found = discovered.into_iter().filter(|peer| peer.cluster == Some(cluster)).flat_map(|peer| peer.addresses);
    configured.iter().cloned().chain(found).collect()
}

fn refuse_member(membership: Option<&Membership>) -> Result<(), AdminError> {
    let Some(membership) = membership else { return Ok(()) };
    Err(AdminError::new(
        ErrorCode::AlreadyMember,
        format!(
            "this node is node {} of cluster {} ({})",
            membership.node, membership.cluster_name, membership.cluster
        ),
        "a node belongs to one cluster",
        "ollamax status; to move it: ollamax leave, then join the other cluster",
    ))
}

fn label(what: &str, asked: &str, default: &str) -> Result<String, AdminError> {
    let chosen = if asked.is_empty() { default } else { asked };
    if is_label(chosen) {
        return Ok(chosen.to_owned());
    }
    Err(bad_request(&format!("{what} {chosen:?} is not 1 to 63 letters, digits, '-', '_' or '.'")))
}

fn bad_request(what: &str) -> AdminError {
    AdminError::new(ErrorCode::BadRequest, what, "", "correct it and repeat the command")
}

/// Too little room for the state of a member. No other one is concerned yet.
fn no_room(error: ProposeError) -> AdminError {
    let next = "free some space on that disk and repeat the command".to_owned();
    AdminError { next, ..AdminError::from(error) }
}

fn internal(what: &str, error: &dyn std::error::Error) -> AdminError {
    AdminError::new(ErrorCode::StorageFailed, what, error.to_string(), "ollamax logs --level error")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use ollamax_store::NoRoom;

    use super::*;

    #[test]
    fn a_node_without_room_is_told_of_no_others_before_it_is_a_member() {
        let told = no_room(NoRoom { free_bytes: 64 << 20, reserve_bytes: 256 << 20 }.into());
        assert_eq!(told.code, ErrorCode::DiskFull);
        assert_eq!(told.next, "free some space on that disk and repeat the command");
    }

    #[test]
    fn a_node_with_an_id_on_its_disk_is_never_one_of_no_cluster() {
        let member = crate::data_dir::tests::membership();
        let removed = Membership { removed: true, ..member.clone() };
        assert_eq!(phase_at_start(None), Phase::Waiting);
        assert_eq!(phase_at_start(Some(&member)), Phase::Joining);
        assert_eq!(phase_at_start(Some(&removed)), Phase::Removed);
    }

    #[test]
    fn only_members_of_the_tokens_cluster_are_asked_unless_others_are_named() {
        let ours = ClusterId([1; 16]);
        let peer = |cluster, address: &str| Discovered {
            peer_id: PeerId(address.to_owned()),
            cluster,
            addresses: vec![address.to_owned()],
        };
        let found =
            || vec![peer(None, "new:1"), peer(Some(ClusterId([2; 16])), "foreign:1"), peer(Some(ours), "ours:1")];
        let (configured, fixed) = (["named:1".to_owned()], ["fixed:1".to_owned()]);
        let seeds = |asked: &[&str], fixed: &[String]| {
            let asked = asked.iter().map(|text| (*text).to_owned()).collect();
            seeds(asked, (fixed, configured.as_slice()), found(), ours)
        };
        assert_eq!(seeds(&[], &[]), ["named:1", "ours:1"]);
        assert_eq!(seeds(&["asked:1"], &[]), ["asked:1"]);
        assert_eq!(seeds(&[], &fixed), ["fixed:1"], "with static peers nobody else is asked");
        assert_eq!(seeds(&["asked:1"], &fixed), ["asked:1"]);
    }
}
