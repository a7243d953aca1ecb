//! The join service: the only one that a key which is no member reaches.
//!
//! `Hello` proves who answers, and tells the cluster's version, before the caller sends a secret; `ReachBack` tells the
//! caller whether its addresses work, and whether its own libp2p connection does; `Join` redeems the token through the
//! replicated state. Nothing is changed before the token was checked there, and a repeated call of the same key gets
//! the same id. A joiner that says that it does not apply the cluster's version is not admitted. `Standing` tells a
//! caller with a credential of this cluster whether it has departed.

use std::time::Duration;

use futures::future::{OptionFuture, join_all};
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use ollamax_core::catalog::command::NewMember;
use ollamax_core::catalog::{Answer, Command, Member, read};
use ollamax_net::{Caller, ConnectError, NetHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::join_server::{Join, JoinServer};
use ollamax_proto::v1::reach_back_reply::Probe;
use ollamax_security::join_token::secret_sha256;
use ollamax_types::limits::ADDRESSES_MAX;
use ollamax_types::{Clock, ErrorCode, Incarnation, PeerId, RequestId, Role, Secret, TokenId};

use crate::adapters::keys_over_net::Signer;
use crate::adapters::request_id;
use crate::adapters::status::refusal;
use crate::slot::{MemberEngines, Slot};

/// How long one advertised address may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Stands for an address where the caller's own libp2p connection was tried.
const LANE: &str = "p2p";
/// Clock difference above which a node is not admitted.
pub(crate) const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// The receiving side.
#[derive(Debug, Clone)]
pub(crate) struct JoinService {
    slot: Slot,
    net: NetHandle,
    signer: Signer,
    clock: Clock,
}

// === impl JoinService ===

impl JoinService {
    /// The service for members' and strangers' routes.
    #[must_use]
    pub(crate) fn server(slot: Slot, net: NetHandle, signer: Signer, clock: Clock) -> JoinServer<Self> {
        JoinServer::new(Self { slot, net, signer, clock })
    }

    fn engines(&self) -> Result<MemberEngines, Status> {
        self.slot.get().ok_or_else(|| refusal(ErrorCode::NotInitialised, "the node that was asked is no member itself"))
    }

    async fn redeem(
        &self,
        engines: &MemberEngines,
        peer_id: PeerId,
        id: RequestId,
        request: v1::JoinClusterRequest,
    ) -> Result<v1::JoinClusterReply, Status> {
        let role = self.role(engines, &request)?;
        self.check_secret(engines, &peer_id, &request).await?;
        self.check_release(engines, request.release).await?;
        let command = add_member(peer_id, role, request)?;
        let committed = engines.metadata.propose(id, "join", command).await;
        let committed = committed.map_err(|error| refusal(error.code(), &error.to_string()))?;
        let (node, name) = match committed.answer {
            Answer::Member { node, name, .. } => (node, name),
            Answer::Refused(refused) => return Err(refusal(refused.code(), &refused.to_string())),
            _ => return Err(refusal(ErrorCode::StorageCorrupt, "an answer of another kind")),
        };
        let barrier = engines.metadata.read_barrier().await;
        barrier.map_err(|error| refusal(error.code(), &error.to_string()))?;
        let credential = self.signer.vouch(engines, node).await;
        let credential = credential.map_err(|error| refusal(ErrorCode::PeerUnreachable, &error.to_string()))?;
        tracing::info!(id = %node, name, %role, "admitted a node");
        self.reply(
            engines,
            v1::JoinClusterReply { node_id: node.0, name, credential, ..v1::JoinClusterReply::default() },
        )
    }

    /// Refuses what is certainly no token before it costs the cluster a write. Whether a right one is still good is
    /// decided in the replicated state, once for all nodes.
    async fn check_secret(
        &self,
        engines: &MemberEngines,
        peer_id: &PeerId,
        request: &v1::JoinClusterRequest,
    ) -> Result<(), Status> {
        let view = engines.metadata.view();
        if matches!(read::member_by_peer(&*view, peer_id), Ok(Some(_))) {
            return Ok(());
        }
        let id = TokenId(request.token_id.clone());
        self.check_token(engines, id.clone(), false).await?;
        let given = secret_sha256(&Secret::new(request.token_secret.clone())).0;
        match read::token(&*engines.metadata.view(), &id) {
            Ok(Some(token)) if token.secret_sha256 == given => Ok(()),
            _ => Err(refusal(ErrorCode::TokenInvalid, "the join token is unknown to this cluster")),
        }
    }

    /// Refuses a joiner that says that it does not apply the cluster's version, as the leader knows it.
    async fn check_release(&self, engines: &MemberEngines, release: u32) -> Result<(), Status> {
        if release == 0 {
            return Ok(()); // It does not say.
        }
        let barrier = engines.metadata.read_barrier().await;
        barrier.map_err(|error| refusal(error.code(), &error.to_string()))?;
        let cluster = read::cluster(&*engines.metadata.view());
        let cluster = cluster.map_err(|fault| refusal(ErrorCode::StorageFailed, &fault.to_string()))?;
        check_version(release, cluster.map_or(0, |cluster| cluster.version))
    }

    /// Whether a caller may have its addresses tried: a member, or the holder of a token that is on record. Whether the
    /// token is still good is decided when it is redeemed.
    async fn check_token(&self, engines: &MemberEngines, id: TokenId, is_member: bool) -> Result<(), Status> {
        let known = || matches!(read::token(&*engines.metadata.view(), &id), Ok(Some(_)));
        if is_member || known() {
            return Ok(());
        }
        // A token that was just made may not have arrived here yet.
        drop(engines.metadata.read_barrier().await);
        if known() {
            return Ok(());
        }
        Err(refusal(ErrorCode::TokenInvalid, "the join token is unknown to this cluster"))
    }

    /// The role that the joiner asked for, else the token's. An unknown token is refused by the state itself.
    fn role(&self, engines: &MemberEngines, request: &v1::JoinClusterRequest) -> Result<Role, Status> {
        if !request.role.is_empty() {
            return request.role.parse().map_err(|error| refusal(ErrorCode::BadRequest, &format!("{error}")));
        }
        let token = read::token(&*engines.metadata.view(), &TokenId(request.token_id.clone()));
        Ok(token.ok().flatten().map(|token| token.role).unwrap_or_default())
    }

    /// Adds what the joiner has to know of the cluster.
    fn reply(&self, engines: &MemberEngines, joined: v1::JoinClusterReply) -> Result<v1::JoinClusterReply, Status> {
        let unreadable = |fault| refusal(ErrorCode::StorageFailed, &format!("{fault}"));
        let view = engines.metadata.view();
        let cluster = read::cluster(&*view).map_err(unreadable)?;
        let cluster = cluster.ok_or_else(|| refusal(ErrorCode::NotInitialised, "the cluster does not exist yet"))?;
        let members = read::members(&*view).map_err(unreadable)?.into_iter();
        let present = members.filter(Member::is_standing);
        Ok(v1::JoinClusterReply {
            cluster: cluster.id.0.to_vec(),
            cluster_name: cluster.name,
            cluster_public_key: cluster.public_key.to_vec(),
            members: present
                .map(|member| v1::MemberAddress {
                    node_id: member.id.0,
                    peer_id: member.peer_id.0,
                    peer_addresses: member.peer_addresses,
                    p2p_addresses: member.p2p_addresses,
                })
                .collect(),
            ..joined
        })
    }
}

#[tonic::async_trait]
impl Join for JoinService {
    async fn hello(&self, _request: Request<v1::HelloRequest>) -> Result<Response<v1::HelloReply>, Status> {
        let engines = self.engines()?;
        let credential = self.signer.vouch(&engines, engines.node).await;
        let credential = credential.map_err(|error| refusal(ErrorCode::PeerUnreachable, &error.to_string()))?;
        let cluster = read::cluster(&*engines.metadata.view()).ok().flatten();
        let (cluster_name, cluster_version) =
            cluster.map(|cluster| (cluster.name, cluster.version)).unwrap_or_default();
        Ok(Response::new(v1::HelloReply {
            cluster: engines.cluster.0.to_vec(),
            cluster_name,
            credential,
            wall_time_ms: self.clock.now().0,
            daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_version,
            p2p_addresses: self.net.local().p2p_advertise.clone(),
        }))
    }

    async fn join(&self, request: Request<v1::JoinClusterRequest>) -> Result<Response<v1::JoinClusterReply>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| refusal(ErrorCode::NotMember, "the connection proved no key"))?;
        let id = request_id::of(&request);
        let span = tracing::error_span!("join", request_id = id.0);
        let request = request.into_inner();
        check_clock(self.clock.now().0, request.wall_time_ms)?;
        let reply = self.redeem(&self.engines()?, caller.peer_id, id, request).instrument(span).await?;
        Ok(Response::new(reply))
    }

    async fn reach_back(&self, request: Request<v1::ReachBackRequest>) -> Result<Response<v1::ReachBackReply>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| refusal(ErrorCode::NotMember, "the connection proved no key"))?;
        let v1::ReachBackRequest { peer_addresses: addresses, token_id, lanes } = request.into_inner();
        let (engines, token) = (self.engines()?, TokenId(token_id));
        self.check_token(&engines, token.clone(), caller.node.is_some()).await?;
        let probes: Vec<_> =
            addresses.into_iter().take(ADDRESSES_MAX).map(|address| self.probe(address, &caller.peer_id)).collect();
        let lane = OptionFuture::from(lanes.then(|| self.probe_lane(&caller)));
        let (probes, lane) = tokio::join!(join_all(probes), lane);
        let token = read::token(&*engines.metadata.view(), &token).ok().flatten();
        let token_role = token.map(|token| token.role.to_string()).unwrap_or_default();
        Ok(Response::new(v1::ReachBackReply { probes, lane, token_role }))
    }

    async fn standing(&self, request: Request<v1::StandingRequest>) -> Result<Response<v1::StandingReply>, Status> {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.vouched);
        let node =
            caller.ok_or_else(|| refusal(ErrorCode::NotMember, "the caller has no credential of this cluster"))?;
        let engines = self.engines()?;
        let departed = read::has_departed(&*engines.metadata.view(), node);
        let departed = departed.map_err(|fault| refusal(ErrorCode::StorageFailed, &fault.to_string()))?;
        let cluster = engines.cluster.0.to_vec();
        Ok(Response::new(v1::StandingReply { cluster, node_id: node.0, departed }))
    }
}

impl JoinService {
    async fn probe(&self, address: String, expected: &PeerId) -> Probe {
        let tried = in_time(self.net.probe(&address, expected)).await;
        probe_of(address, tried.map_err(|error| error.map(|error| error.to_string())))
    }

    /// Opens a lane over the connection that the caller has made to this node's `p2p` listener; to a member, over what
    /// there is.
    async fn probe_lane(&self, caller: &Caller) -> Probe {
        let expected = &caller.peer_id;
        let probing = async {
            if caller.node.is_some() && self.net.probe_lane(expected).await.is_ok() {
                return Ok(());
            }
            // Who dials knows of a connection first, so it may still be on its way here. And it shall stand when the
            // caller is a member, so that the leader finds it.
            self.net.meet(expected, &[]).await?;
            self.net.probe_lane(expected).await
        };
        probe_of(LANE.to_owned(), in_time(probing).await.map_err(|error| error.map(|error| lane_problem(&error))))
    }
}

/// What came of an attempt; an error without words is that nothing came in time.
async fn in_time(attempt: impl Future<Output = Result<(), ConnectError>>) -> Result<(), Option<ConnectError>> {
    match tokio::time::timeout(PROBE_TIMEOUT, attempt).await {
        Ok(tried) => tried.map_err(Some),
        Err(_) => Err(None),
    }
}

fn probe_of(address: String, tried: Result<(), Option<String>>) -> Probe {
    let silence = || format!("no answer within {} s", PROBE_TIMEOUT.as_secs());
    let problem = tried.err().map(|problem| problem.unwrap_or_else(silence));
    Probe { address, reached: problem.is_none(), problem: problem.unwrap_or_default() }
}

/// Why a libp2p connection did not do, in its own words: there is one, so it need not be named.
pub(crate) fn lane_problem(error: &ConnectError) -> String {
    match error {
        ConnectError::Unreachable { attempts, .. } if attempts.len() == 1 => attempts[0].problem.to_string(),
        error => error.to_string(),
    }
}

fn check_clock(ours: u64, theirs: u64) -> Result<(), Status> {
    let skew = Duration::from_millis(ours.abs_diff(theirs));
    if skew <= CLOCK_SKEW_MAX {
        return Ok(());
    }
    let direction = if theirs < ours { "behind" } else { "ahead of" };
    let message =
        format!("the joiner's clock is {} s {direction} the cluster's; set it and join again", skew.as_secs());
    Err(refusal(ErrorCode::PreconditionFailed, &message))
}

fn check_version(release: u32, cluster_version: u32) -> Result<(), Status> {
    if cluster_version <= release {
        return Ok(());
    }
    let message = format!(
        "the cluster runs version {cluster_version}, and the joiner applies up to {release}; install the release that \
         the members run, or raise raft.version_max"
    );
    Err(refusal(ErrorCode::PreconditionFailed, &message))
}

fn add_member(peer_id: PeerId, role: Role, request: v1::JoinClusterRequest) -> Result<Command, Status> {
    let incarnation = request.incarnation.try_into();
    let incarnation = incarnation.map_err(|_| refusal(ErrorCode::BadRequest, "an incarnation has 16 bytes"))?;
    Ok(Command::AddMember {
        token: TokenId(request.token_id),
        secret_sha256: secret_sha256(&Secret::new(request.token_secret)).0,
        role,
        member: NewMember {
            name: request.name,
            peer_id,
            incarnation: Incarnation(incarnation),
            peer_addresses: request.peer_addresses,
            p2p_addresses: request.p2p_addresses,
            api_addresses: request.api_addresses,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ollamax_net::error::{Attempt, Problem};

    use super::*;

    #[test]
    fn a_clock_that_is_far_off_is_refused_with_the_difference() {
        assert!(check_clock(10_000_000, 10_000_000 - 299_000).is_ok());
        let refused = check_clock(10_000_000, 10_000_000 - 3_600_000).expect_err("an hour off");
        assert!(refused.message().contains("3600 s behind"), "{}", refused.message());
        let refused = check_clock(10_000_000, 10_000_000 + 3_600_000).expect_err("an hour off");
        assert!(refused.message().contains("3600 s ahead"), "{}", refused.message());
    }

    #[test]
    fn an_attempt_is_told_in_its_own_words_and_silence_with_its_length() {
        let attempt = |address: &str| Attempt { address: address.to_owned(), problem: Problem::Full };
        let failed = |attempts: Vec<Attempt>| ConnectError::Unreachable { node: None, attempts: Arc::new(attempts) };
        assert_eq!(lane_problem(&failed(vec![attempt(LANE)])), Problem::Full.to_string());
        assert!(lane_problem(&failed(vec![attempt("a:1"), attempt("b:1")])).contains("a:1"), "two are named");
        let rows = [
            (Ok(()), true, String::new()),
            (Err(None), false, "no answer within 2 s".to_owned()),
            (Err(Some("refused".to_owned())), false, "refused".to_owned()),
        ];
        for (tried, reached, problem) in rows {
            assert_eq!(probe_of(LANE.to_owned(), tried), Probe { address: LANE.to_owned(), reached, problem });
        }
    }

    #[test]
    fn a_joiner_that_does_not_apply_the_version_of_the_cluster_is_refused_with_both() {
        for (release, cluster_version) in [(2, 0), (2, 2), (3, 2)] {
            assert!(check_version(release, cluster_version).is_ok(), "{release} in {cluster_version}");
        }
        let refused = check_version(1, 2).expect_err("too old");
        let expected = "the cluster runs version 2, and the joiner applies up to 1; install the release that the \
                        members run, or raise raft.version_max";
        assert_eq!(refused.message(), expected);
    }
}
