//! The network between simulated nodes: messages as values, with the delays, losses and cuts that the plan asks for.
//!
//! A message that is lost, or crosses a cut, brings no answer, as behind a link that died silently; a node that does
//! not run is unreachable at once.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RPCTypes};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, oneshot};

use ollamax_core::catalog::command::Command;
use ollamax_core::catalog::{Answer, Value};

use super::disk::Image;
use super::machine::Labelled;
use super::types::SimTypes;
use crate::feed::{Event, Filter};
use crate::raft::Vote;
use crate::raft::snapshot::Meta;

/// Messages that wait for one node.
const INBOX_MAX: usize = 1_024;

/// A question to a node.
pub(super) struct Call {
    pub(super) question: Question,
    /// Under which number the answer is waited for.
    pub(super) number: u64,
}

pub(super) enum Question {
    Append(AppendEntriesRequest<SimTypes>),
    Vote(VoteRequest<SimTypes>),
    PreVote(VoteRequest<SimTypes>),
    Snapshot(Vote, Meta, Arc<Image>),
    Transfer(TransferLeaderRequest<SimTypes>),
    /// A client's change, with session and sequence.
    Propose(Command, Option<(u64, u64)>),
    /// A client's read.
    Read(String),
    /// A watcher's wish for what happened from a revision on; `None`: for what comes after everything that is there.
    Watch(Filter, Option<u64>),
    /// Gives leadership to another node.
    GiveWay(u64),
}

pub(super) enum Reply {
    Append(AppendEntriesResponse<SimTypes>),
    Vote(VoteResponse<SimTypes>),
    Snapshot(SnapshotResponse<SimTypes>),
    Transfer(TransferLeaderResponse<SimTypes>),
    /// A change was committed: its revision and answer.
    Committed(u64, Answer),
    /// What a key holds, and since when.
    Value(Option<Value>),
    /// What happened, and from which revision on it was not told yet.
    Told(Vec<Event>, u64),
    /// What was asked for is not kept any more; the least revision that is.
    Compacted(u64),
    /// Ask that one, or anybody.
    NotLeader(Option<u64>),
    /// Nobody knows, or consensus has stopped there.
    Unknown,
}

/// All links. Clones share them.
#[derive(Clone)]
pub(super) struct Network(Arc<Mutex<Links>>);

pub(super) struct Links {
    inboxes: BTreeMap<u64, mpsc::Sender<Call>>,
    /// Who was asked, and who waits for the answer, by number. They lie here, and not with the node that was asked, so
    /// that those whom its crash leaves without an answer hear of it in the order in which they asked.
    waiting: BTreeMap<u64, (u64, oneshot::Sender<Reply>)>,
    asked: u64,
    /// From whom to whom nothing arrives.
    pub(super) cut: BTreeSet<(u64, u64)>,
    /// Of a thousand messages, how many are lost.
    pub(super) lost_per_mille: u32,
    /// Longest way of a message, milliseconds.
    pub(super) way_ms_max: u64,
    chance: StdRng,
}

// === impl Network ===

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Links {
            inboxes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            asked: 0,
            cut: BTreeSet::new(),
            lost_per_mille: 0,
            way_ms_max: 2,
            chance: StdRng::seed_from_u64(seed),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Links> {
        self.0.lock().expect("no holder of this lock can panic")
    }

    /// A node begins to hear.
    pub(super) fn open(&self, node: u64) -> mpsc::Receiver<Call> {
        let (tell, hear) = mpsc::channel(INBOX_MAX);
        self.lock().inboxes.insert(node, tell);
        hear
    }

    /// Hands a question to a node; `None`: it does not run.
    fn hand(&self, node: u64, question: Question) -> Option<oneshot::Receiver<Reply>> {
        let mut links = self.lock();
        links.asked += 1;
        let number = links.asked;
        links.inboxes.get(&node)?.try_send(Call { question, number }).ok()?;
        let (tell, hear) = oneshot::channel();
        links.waiting.insert(number, (node, tell));
        Some(hear)
    }

    /// A node's answer.
    pub(super) fn answer(&self, number: u64, reply: Reply) {
        let waiting = self.lock().waiting.remove(&number);
        if let Some((_, tell)) = waiting {
            // Whoever asked may have given up.
            drop(tell.send(reply));
        }
    }

    /// A node does not run any more: whoever waits for its answers gets none.
    pub(super) fn close(&self, node: u64) {
        let mut links = self.lock();
        drop(links.inboxes.remove(&node));
        let lost: Vec<u64> = links.waiting.iter().filter(|(_, (asked, _))| *asked == node).map(|(id, _)| *id).collect();
        for number in lost {
            drop(links.waiting.remove(&number));
        }
    }

    /// A client's question to the node beside it; `None`: it does not run, or does not answer in time.
    pub(super) async fn ask(&self, node: u64, question: Question, within: Duration) -> Option<Reply> {
        let hear = self.hand(node, question)?;
        tokio::time::timeout(within, hear).await.ok()?.ok()
    }

    /// Tells a node something, if it runs.
    pub(super) fn tell(&self, node: u64, question: Question) {
        drop(self.hand(node, question));
    }

    /// The way of one message; waits for ever when it is lost.
    async fn travel(&self, from: u64, to: u64) {
        let (arrives, takes) = {
            let mut links = self.lock();
            let (lost, most) = (links.lost_per_mille, links.way_ms_max);
            let is_lost = links.chance.random_range(0..1_000) < lost || links.cut.contains(&(from, to));
            (!is_lost, Duration::from_millis(links.chance.random_range(0..=most)))
        };
        tokio::time::sleep(takes).await;
        if !arrives {
            std::future::pending::<()>().await;
        }
    }
}

/// Makes links.
#[derive(Clone)]
pub(super) struct Dialler {
    pub(super) node: u64,
    pub(super) network: Network,
}

impl RaftNetworkFactory<SimTypes> for Dialler {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Link {
        Link { from: self.node, to: target, network: self.network.clone() }
    }
}

/// From one node to another.
pub(super) struct Link {
    from: u64,
    to: u64,
    network: Network,
}

impl Link {
    async fn call(&self, action: RPCTypes, question: Question, within: Duration) -> Result<Reply, RPCError<SimTypes>> {
        let exchange = async {
            self.network.travel(self.from, self.to).await;
            let down = || RPCError::Unreachable(Unreachable::from_string("the node does not run"));
            let hear = self.network.hand(self.to, question).ok_or_else(down)?;
            let lost = |_| RPCError::Network(NetworkError::from_string("the node went away"));
            let reply = hear.await.map_err(lost)?;
            self.network.travel(self.to, self.from).await;
            Ok(reply)
        };
        let late = Timeout { action, id: self.from, target: self.to, timeout: within };
        tokio::time::timeout(within, exchange).await.unwrap_or(Err(RPCError::Timeout(late)))
    }
}

fn unexpected() -> RPCError<SimTypes> {
    RPCError::Unreachable(Unreachable::from_string("consensus has stopped there"))
}

impl RaftNetworkV2<SimTypes> for Link {
    type SnapshotData = Arc<Image>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<SimTypes>, RPCError<SimTypes>> {
        match self.call(RPCTypes::AppendEntries, Question::Append(rpc), option.hard_ttl()).await? {
            Reply::Append(reply) => Ok(reply),
            _ => Err(unexpected()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<SimTypes>, RPCError<SimTypes>> {
        match self.call(RPCTypes::Vote, Question::Vote(rpc), option.soft_ttl()).await? {
            Reply::Vote(reply) => Ok(reply),
            _ => Err(unexpected()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<SimTypes>, RPCError<SimTypes>> {
        match self.call(RPCTypes::Vote, Question::PreVote(rpc), option.soft_ttl()).await? {
            Reply::Vote(reply) => Ok(reply),
            _ => Err(unexpected()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Labelled,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<SimTypes>, StreamingError<SimTypes>> {
        let question = Question::Snapshot(vote, snapshot.meta, snapshot.snapshot);
        match self.call(RPCTypes::InstallSnapshot, question, option.hard_ttl()).await? {
            Reply::Snapshot(reply) => Ok(reply),
            _ => Err(unexpected().into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<SimTypes>, RPCError<SimTypes>> {
        match self.call(RPCTypes::TransferLeader, Question::Transfer(req), option.soft_ttl()).await? {
            Reply::Transfer(reply) => Ok(reply),
            _ => Err(unexpected()),
        }
    }
}
