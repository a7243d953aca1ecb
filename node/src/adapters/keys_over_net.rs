//! The cluster key between members: handed to voters, used on behalf of members that lack it.
//!
//! The key is handed to voters only, and what was handed over is checked against the cluster's public key before it is
//! kept. A credential is signed only for a member that the signer's own applied state
//! names, so a caller can obtain nothing that the cluster has not decided.

use std::path::PathBuf;
use std::time::Duration;

use tonic::{Request, Response, Status};

use ollamax_core::catalog::{Member, read};
use ollamax_net::{Caller, Class, NetHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::keys_client::KeysClient;
use ollamax_proto::v1::keys_server::{Keys, KeysServer};
use ollamax_security::{ClusterKey, Credential};
use ollamax_types::{ErrorCode, NodeId};

use crate::adapters::status::refusal;
use crate::slot::{MemberEngines, Slot};

/// How long one voter may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// What can go wrong on the way to a credential.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VouchError {
    /// The applied state has no such active member.
    #[error("node {0} is no active member")]
    NotMember(NodeId),
    /// No voter that holds the cluster key answered.
    #[error("no voter with the cluster key can be reached: {0}")]
    NoSigner(String),
    /// The applied state cannot be read, or names no key of a node.
    #[error("{0}")]
    Unreadable(String),
}

/// Signs credentials, by itself or through a voter.
#[derive(Debug, Clone)]
pub(crate) struct Signer {
    net: NetHandle,
    key_path: PathBuf,
}

// === impl Signer ===

impl Signer {
    /// Uses the cluster key at `key_path` where there is one.
    #[must_use]
    pub(crate) const fn new(net: NetHandle, key_path: PathBuf) -> Self {
        Self { net, key_path }
    }

    /// Whether this node holds the cluster key.
    #[must_use]
    pub(crate) fn holds_key(&self) -> bool {
        ClusterKey::load(&self.key_path).is_ok()
    }

    /// A credential for a member, signed here or by the first voter that can.
    ///
    /// # Errors
    /// See [`VouchError`].
    pub(crate) async fn vouch(&self, engines: &MemberEngines, node: NodeId) -> Result<Vec<u8>, VouchError> {
        if let Ok(key) = ClusterKey::load(&self.key_path) {
            return self.sign(engines, node, &key);
        }
        let mut problem = "there is no other voter".to_owned();
        for voter in engines.metadata.status().voters.into_iter().filter(|voter| *voter != engines.node) {
            let mut client = KeysClient::new(self.net.channel(voter, Class::Forward));
            let asked = tokio::time::timeout(ASK_TIMEOUT, client.vouch(v1::VouchRequest { node_id: node.0 })).await;
            match asked {
                Ok(Ok(reply)) => return Ok(reply.into_inner().credential),
                Ok(Err(status)) => problem = format!("node {voter}: {}", status.message()),
                Err(_) => problem = format!("node {voter}: no answer within {} s", ASK_TIMEOUT.as_secs()),
            }
        }
        Err(VouchError::NoSigner(problem))
    }

    /// Fetches the cluster key from another voter and seals it, when this node votes and has none.
    pub(crate) async fn fetch_key(&self, engines: &MemberEngines) {
        let status = engines.metadata.status();
        if self.holds_key() || !status.voters.contains(&engines.node) {
            return;
        }
        for voter in status.voters.into_iter().filter(|voter| *voter != engines.node) {
            let mut client = KeysClient::new(self.net.channel(voter, Class::Forward));
            let asked = tokio::time::timeout(ASK_TIMEOUT, client.handover(v1::HandoverRequest {})).await;
            let Ok(Ok(reply)) = asked else { continue };
            let Ok(seed) = <[u8; 32]>::try_from(reply.into_inner().seed) else { continue };
            let key = ClusterKey::from_handover(&seed.into());
            let expected = read::cluster(&*engines.metadata.view()).ok().flatten().map(|cluster| cluster.public_key);
            if expected != Some(key.public_key()) {
                tracing::warn!(from = %voter, "the key that was handed over is not this cluster's");
                continue;
            }
            match key.seal(&self.key_path) {
                Ok(()) => tracing::info!(from = %voter, "the cluster key was handed over"),
                Err(error) => tracing::error!(code = %ErrorCode::StorageFailed, %error, "seal the cluster key"),
            }
            return;
        }
    }

    fn sign(&self, engines: &MemberEngines, node: NodeId, key: &ClusterKey) -> Result<Vec<u8>, VouchError> {
        let view = engines.metadata.view();
        let member = read::member(&*view, node).map_err(|fault| VouchError::Unreadable(fault.to_string()))?;
        let member = member.filter(Member::is_standing);
        let member = member.ok_or(VouchError::NotMember(node))?;
        let credential = Credential {
            cluster: engines.cluster,
            node,
            peer_id: member.peer_id,
            role: member.role,
            incarnation: member.incarnation,
        };
        credential.sign(key).map_err(|error| VouchError::Unreadable(error.to_string()))
    }
}

/// The receiving side.
#[derive(Debug, Clone)]
pub(crate) struct KeysService {
    slot: Slot,
    signer: Signer,
}

// === impl KeysService ===

impl KeysService {
    /// The service for members' routes.
    #[must_use]
    pub(crate) fn server(slot: Slot, signer: Signer) -> KeysServer<Self> {
        KeysServer::new(Self { slot, signer })
    }

    fn engines(&self) -> Result<MemberEngines, Status> {
        self.slot.get().ok_or_else(|| refusal(ErrorCode::NotInitialised, "this node is not ready"))
    }
}

#[tonic::async_trait]
impl Keys for KeysService {
    async fn handover(&self, request: Request<v1::HandoverRequest>) -> Result<Response<v1::HandoverReply>, Status> {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.node);
        let engines = self.engines()?;
        if !caller.is_some_and(|caller| engines.metadata.status().voters.contains(&caller)) {
            return Err(refusal(ErrorCode::Forbidden, "only voters hold the cluster key"));
        }
        let key = ClusterKey::load(&self.signer.key_path)
            .map_err(|_| refusal(ErrorCode::PreconditionFailed, "this node does not hold the cluster key"))?;
        Ok(Response::new(v1::HandoverReply { seed: key.handover().to_vec() }))
    }

    async fn vouch(&self, request: Request<v1::VouchRequest>) -> Result<Response<v1::VouchReply>, Status> {
        let engines = self.engines()?;
        let node = NodeId(request.into_inner().node_id);
        let key = ClusterKey::load(&self.signer.key_path)
            .map_err(|_| refusal(ErrorCode::PreconditionFailed, "this node does not hold the cluster key"))?;
        // The caller may be ahead of this node: what it has seen committed is waited for.
        drop(engines.metadata.read_barrier().await);
        let credential = self.signer.sign(&engines, node, &key);
        let credential = credential.map_err(|error| refusal(ErrorCode::NodeNotFound, &error.to_string()))?;
        Ok(Response::new(v1::VouchReply { credential }))
    }
}
