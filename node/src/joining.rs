//! The joiner's side: find somebody who answers for the cluster, check them, then redeem the token.
//!
//! No secret leaves before the member that answers has proved, with a credential signed by the key in the token,
//! that it belongs to that cluster, before it is sure that this node applies what the cluster writes, and before one of
//! this node's own addresses was reached back, or the libp2p connection that this node made to that member. Nothing is
//! written here: the caller stores the membership that comes out.

use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Response, Status};

use ollamax_gateway::grpc::AdminError;
use ollamax_net::NetHandle;
use ollamax_proto::v1;
use ollamax_proto::v1::join_client::JoinClient;
use ollamax_proto::v1::reach_back_reply::Probe;
use ollamax_security::{Credential, JoinToken};
use ollamax_types::{ClusterId, ErrorCode, Incarnation, NodeId, PeerId, RequestId, Role};

use crate::adapters::join_over_net::{CLOCK_SKEW_MAX, lane_problem};
use crate::adapters::request_id;
use crate::adapters::status::code_of;
use crate::config::is_label;
use crate::data_dir::{KnownMember, Membership};
use crate::follow::members::Addresses;

mod way_in;

use way_in::{Back, WayIn, is_worth_another, way_in};

/// Most addresses that are tried.
const SEEDS_MAX: usize = 64;
/// Addresses that are tried at once.
const GREETED_AT_ONCE: usize = 8;
/// How long one address may take to say who answers there.
const GREET_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the member that was found may take for one step: to try this node's addresses, to admit it.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a libp2p connection to the member is made, where it is lost before the member comes back over it.
const MEETINGS_MAX: u32 = 3;
/// The time between two of them, in which this end hears that one was closed.
const MEET_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Who wants to join, and how it can be reached.
#[derive(Debug, Clone)]
pub(crate) struct Joiner {
    /// For which request it joins; the member that admits it logs the same id.
    pub(crate) request: RequestId,
    /// Connections of this node.
    pub(crate) net: NetHandle,
    /// Its data directory's incarnation.
    pub(crate) incarnation: Incarnation,
    /// Its wish for a name.
    pub(crate) name: String,
    /// The role asked for; `None`: the token's.
    pub(crate) role: Option<Role>,
    /// Where it can be reached.
    pub(crate) addresses: Addresses,
    /// Whether its libp2p connections may carry what cannot be dialled.
    pub(crate) lanes: bool,
    /// Wall time in milliseconds.
    pub(crate) wall_time_ms: u64,
    /// The highest cluster version that it applies.
    pub(crate) release: u32,
}

/// The way in.
#[derive(Debug)]
pub(crate) struct Joined {
    /// To be stored.
    pub(crate) membership: Membership,
    /// What the member said of this node's addresses.
    pub(crate) probes: Vec<Probe>,
    /// No member can dial this node; it is reached over its own libp2p connections.
    pub(crate) lane_only: bool,
}

// === impl Joiner ===

impl Joiner {
    /// Joins at the seed that is first to answer for the token's cluster.
    ///
    /// # Errors
    /// When no seed answers, all belong to other clusters, the clock is off, the cluster has gone on to a version that
    /// this node does not apply, this node cannot be reached back, or the token is refused.
    pub(crate) async fn join(&self, token: &JoinToken, seeds: &[String]) -> Result<Joined, AdminError> {
        let found = self.find(token, seeds).await?;
        self.redeem(found, token).await
    }

    async fn find(&self, token: &JoinToken, seeds: &[String]) -> Result<Found, AdminError> {
        let greeted: Vec<_> = seeds.iter().take(SEEDS_MAX).map(|seed| self.greet_in_time(seed, token)).collect();
        let mut greeted = pin!(stream::iter(greeted).buffer_unordered(GREETED_AT_ONCE));
        let mut problems = Vec::new();
        while let Some(answer) = greeted.next().await {
            match answer {
                Ok(found) => return Ok(found),
                Err(problem) => problems.push(problem),
            }
        }
        Err(nobody(&problems))
    }

    async fn greet_in_time<'a>(&self, seed: &'a str, token: &JoinToken) -> Result<Found, (&'a str, Greeting)> {
        let greeting = async {
            match self.greet(seed, token).await {
                // A member that has just closed the connections of this key, because its node departed, takes the next.
                Err(Greeting::Cut(_)) => self.greet(seed, token).await,
                greeted => greeted,
            }
        };
        let greeted = tokio::time::timeout(GREET_TIMEOUT, greeting).await;
        greeted.unwrap_or(Err(Greeting::Late)).map_err(|problem| (seed, problem))
    }

    async fn greet(&self, seed: &str, token: &JoinToken) -> Result<Found, Greeting> {
        let unreachable = |reason: String| Greeting::Unreachable(reason);
        let (channel, proved) =
            self.net.channel_to_address(seed).await.map_err(|error| unreachable(error.to_string()))?;
        let mut client = JoinClient::new(channel);
        let hello = client.hello(v1::HelloRequest { nonce: Vec::new() }).await;
        let hello = hello.map_err(|status| Greeting::Cut(status.message().to_owned()))?.into_inner();
        check_hello(&hello, &proved, token)?;
        Ok(Found { client, hello, proved })
    }

    async fn redeem(&self, found: Found, token: &JoinToken) -> Result<Joined, AdminError> {
        let Found { mut client, hello, proved } = found;
        self.check_clock(hello.wall_time_ms)?;
        check_release(self.release, hello.cluster_version)?;
        let member = (&proved, hello.p2p_addresses.as_slice());
        let (probes, WayIn { role, lane_only }) = self.reach_back(&mut client, &token.id.0, member).await?;
        let request = v1::JoinClusterRequest {
            token_id: token.id.0.clone(),
            token_secret: token.secret.expose().to_owned(),
            role: role.map(|role| role.to_string()).unwrap_or_default(),
            name: self.name.clone(),
            incarnation: self.incarnation.0.to_vec(),
            peer_addresses: self.addresses.peer.clone(),
            p2p_addresses: self.addresses.p2p.clone(),
            api_addresses: self.addresses.api.clone(),
            wall_time_ms: self.wall_time_ms,
            release: self.release,
        };
        let reply = in_time(client.join(request_id::carry(&self.request, request))).await?;
        Ok(Joined { membership: self.membership(reply, token, lane_only)?, probes, lane_only })
    }

    fn check_clock(&self, theirs: u64) -> Result<(), AdminError> {
        let skew_s = self.wall_time_ms.abs_diff(theirs) / 1_000;
        if skew_s <= CLOCK_SKEW_MAX.as_secs() {
            return Ok(());
        }
        let direction = if self.wall_time_ms < theirs { "behind" } else { "ahead of" };
        Err(AdminError::new(
            ErrorCode::PreconditionFailed,
            format!("the clock of this machine is {skew_s} s {direction} the cluster's"),
            "token expiry and logs would make no sense",
            "timedatectl set-ntp true; then join again",
        ))
    }

    /// Makes a libp2p connection to the member that was found, so that it can open lanes over it. Why it did not come
    /// about counts only where nothing else leads to this node.
    async fn meet(&self, member: &PeerId, addresses: &[String]) -> Option<String> {
        // A member of an older release tells none.
        if !self.lanes || addresses.is_empty() {
            return None;
        }
        // It has a deadline of its own.
        let problem = lane_problem(&self.net.meet(member, addresses).await.err()?);
        Some(format!("{}: {problem} (is p2p open on the member?)", addresses.join(", ")))
    }

    /// How the member gets back to this node. A libp2p connection that this end takes for standing may be one that the
    /// member has just closed, so another one is made before that counts.
    async fn reach_back(
        &self,
        client: &mut JoinClient<Channel>,
        token_id: &str,
        (member, addresses): (&PeerId, &[String]),
    ) -> Result<(Vec<Probe>, WayIn), AdminError> {
        let mut meetings = 0;
        loop {
            let unmet = self.meet(member, addresses).await;
            meetings += 1;
            let request = v1::ReachBackRequest {
                peer_addresses: self.addresses.peer.clone(),
                token_id: token_id.to_owned(),
                // What this end could not make is not waited for there.
                lanes: self.lanes && unmet.is_none(),
            };
            let reply = in_time(client.reach_back(request)).await?;
            let back = Back { lanes: self.lanes, unmet, port: self.net.local().peer_port };
            if meetings == MEETINGS_MAX || !is_worth_another(&reply, &back) {
                let way = way_in(self.role, &reply, &back)?;
                return Ok((reply.probes, way));
            }
            sleep(MEET_AGAIN_AFTER).await;
        }
    }

    /// Where no member can dial this node, it has to know before its state has arrived where it finds their `p2p`
    /// listeners.
    fn membership(
        &self,
        reply: v1::JoinClusterReply,
        token: &JoinToken,
        lane_only: bool,
    ) -> Result<Membership, AdminError> {
        let garbled =
            |what: &str| AdminError::new(ErrorCode::PeerUnreachable, "the answer cannot be read", what, "join again");
        let cluster: [u8; 16] = reply.cluster.try_into().map_err(|_| garbled("cluster id"))?;
        if !is_label(&reply.name) {
            return Err(garbled("node name"));
        }
        let credential = Credential::verify(&reply.credential, &token.cluster_public_key);
        let credential = credential.map_err(|error| garbled(&error.to_string()))?;
        let known = reply.members.into_iter().map(|member| KnownMember {
            node: NodeId(member.node_id),
            peer_id: PeerId(member.peer_id),
            addresses: member.peer_addresses,
            p2p: if lane_only { member.p2p_addresses } else { Vec::new() },
        });
        Ok(Membership {
            cluster: ClusterId(cluster).to_string(),
            cluster_name: reply.cluster_name,
            cluster_public_key: hex::encode(token.cluster_public_key),
            node: NodeId(reply.node_id),
            name: reply.name,
            role: credential.role,
            credential: hex::encode(&reply.credential),
            known: known.filter(|member| member.node != NodeId(reply.node_id)).collect(),
            raft_opened: false,
            removed: false,
            recovered_from: None,
        })
    }
}

/// A member of the token's cluster.
#[derive(Debug)]
struct Found {
    client: JoinClient<Channel>,
    /// What it said.
    hello: v1::HelloReply,
    /// Its key.
    proved: PeerId,
}

/// Why one seed did not lead into the cluster.
#[derive(Debug, thiserror::Error)]
enum Greeting {
    #[error("no answer within {} s", GREET_TIMEOUT.as_secs())]
    Late,
    #[error("{0}")]
    Unreachable(String),
    /// It answered the connection, and not the question.
    #[error("{0}")]
    Cut(String),
    #[error("it belongs to another cluster than the token")]
    Foreign,
}

fn check_hello(hello: &v1::HelloReply, proved: &PeerId, token: &JoinToken) -> Result<(), Greeting> {
    match Credential::verify(&hello.credential, &token.cluster_public_key) {
        Ok(credential) if credential.peer_id == *proved && hello.cluster == credential.cluster.0 => Ok(()),
        _ => Err(Greeting::Foreign),
    }
}

/// A node that joins a cluster of a version that it does not apply would halt at the first entry of that version.
fn check_release(release: u32, cluster_version: u32) -> Result<(), AdminError> {
    if cluster_version <= release {
        return Ok(());
    }
    Err(AdminError::new(
        ErrorCode::PreconditionFailed,
        format!("the cluster runs version {cluster_version}, and this node applies up to {release}"),
        "a member must apply everything that the others write",
        "install the release that the members run (ollamax node list -o json there), or raise raft.version_max; then \
         join again",
    ))
}

async fn in_time<T>(step: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, AdminError> {
    match tokio::time::timeout(STEP_TIMEOUT, step).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(|status| refused(&status)),
        Err(_) => {
            let why = format!("no answer within {} s", STEP_TIMEOUT.as_secs());
            let next = "join again; a second time does no harm";
            Err(AdminError::new(ErrorCode::DeadlineExceeded, "the member that was found does not answer", why, next))
        }
    }
}

fn nobody(problems: &[(&str, Greeting)]) -> AdminError {
    let listed: Vec<String> = problems.iter().map(|(seed, problem)| format!("{seed}: {problem}")).collect();
    if problems.is_empty() {
        let why = "no address was given, and none of its members was found on the local network";
        let next = "name a member: ollamax join TOKEN --peer HOST:11436";
        return AdminError::new(ErrorCode::PeerUnreachable, "no member of the cluster was found", why, next);
    }
    if problems.iter().any(|(_, problem)| matches!(problem, Greeting::Foreign)) {
        let next = "on a member of the cluster you want: ollamax token create";
        return AdminError::new(ErrorCode::TokenInvalid, "the token is for another cluster", listed.join("; "), next);
    }
    let next = "check that ollamax-node runs there and that its peer port is open";
    AdminError::new(ErrorCode::PeerUnreachable, "no member of the cluster answered", listed.join("; "), next)
}

fn refused(status: &Status) -> AdminError {
    let code = code_of(status).unwrap_or(ErrorCode::PeerUnreachable);
    let next = match code {
        ErrorCode::TokenInvalid => "on a member: ollamax token create",
        ErrorCode::IdentityConflict => "on a member: ollamax node remove ID; then join again",
        ErrorCode::PreconditionFailed => "mend what it names (a clock: timedatectl set-ntp true); then join again",
        ErrorCode::NoQuorum => "on a member: ollamax status",
        _ => "join again; on the member that was asked: ollamax logs",
    };
    AdminError::new(code, "the cluster refused this node", status.message(), next)
}

#[cfg(test)]
mod tests;
