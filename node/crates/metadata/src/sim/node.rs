//! One simulated node, from its start to its crash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::AsyncRuntime as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::vote::RaftLeaderId as _;
use openraft::{EmptyNode, ReadPolicy, Snapshot};
use tokio::sync::watch;
use tokio::time::timeout;

use ollamax_core::catalog::command::Command;
use ollamax_core::catalog::{Answer, Entry, Key, Record, View};
use ollamax_types::{Clock, NodeId, RequestId, Timestamp};

use super::disk::Disk;
use super::facts::Facts;
use super::machine::Machine;
use super::members;
use super::network::{Call, Dialler, Network, Question, Reply};
use super::runtime::Runtime;
use super::types::{Bug, SimRaft};
use crate::envelope;
use crate::feed::{Feed, Filter, WatchError, Watcher};
use crate::integrity::Integrity;
use crate::logtime::Stamper;
use crate::raft::{Sealed, term_of};

/// Longest wait for a majority, as the product's callers wait.
const PATIENCE: Duration = Duration::from_millis(600);
/// Longest wait of a node that joins for one answer, and its pause before it asks the next.
const ANSWER: Duration = Duration::from_millis(700);
const PAUSE: Duration = Duration::from_millis(20);
/// What all clocks of walls say.
const WALL: Timestamp = Timestamp(1_000_000);

/// What a node is made of; its disk outlives it.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) disk: Disk,
    pub(super) network: Network,
    pub(super) facts: Facts,
    pub(super) config: Arc<openraft::Config>,
    pub(super) voters: Vec<u64>,
}

/// What answers questions.
#[derive(Clone)]
struct Answering {
    raft: SimRaft,
    disk: Disk,
    stamper: Arc<Stamper>,
    feed: Feed,
}

// === impl Node ===

impl Node {
    /// Runs until the world ends it.
    pub(super) async fn run(self) -> turmoil::Result {
        let is_wiped = self.disk.lock().wiped;
        if is_wiped && !self.gets_its_place().await {
            // Whoever is no member has no consensus.
            std::future::pending::<()>().await;
        }
        let stamper = Arc::new(Stamper::new(Clock::manual(WALL)));
        self.disk.start(&stamper);
        let _sync = Runtime::spawn(self.disk.clone().sync());
        let dialler = Dialler { node: self.id, network: self.network.clone() };
        let feed = Feed::default();
        let machine = Machine::new(self.id, self.disk.clone(), feed.clone());
        let raft = SimRaft::new(self.id, self.config.clone(), dialler, self.disk.clone(), machine).await?;
        let mut inbox = self.network.open(self.id);
        let _watch = Runtime::spawn(watch_leader(raft.clone(), self.id, self.facts.clone()));
        let answering = Answering { raft, disk: self.disk, stamper, feed };
        if self.id == self.voters[0] && !is_wiped {
            let raft = answering.raft.clone();
            let members: BTreeMap<u64, EmptyNode> = self.voters.iter().map(|id| (*id, EmptyNode::new())).collect();
            let _begin = Runtime::spawn(async move {
                // Refused after a restart, when there is a cluster already.
                let _begun = raft.initialize(members).await;
            });
        }
        while let Some(Call { question, number }) = inbox.recv().await {
            let (answering, network) = (answering.clone(), self.network.clone());
            let _answer = Runtime::spawn(async move { network.answer(number, answering.answer(question).await) });
        }
        Ok(())
    }

    /// Joins with the key that it had, as a node with an empty data directory does, without a token that is good.
    /// Whether it is still the member that it was is decided by the cluster.
    async fn gets_its_place(&self) -> bool {
        let incarnation = self.disk.lock().incarnation;
        for other in self.voters.iter().filter(|other| **other != self.id).cycle() {
            let question = Question::Propose(members::join(self.id, incarnation, ""), None);
            if let Some(Reply::Committed(_, answer)) = self.network.ask(*other, question, ANSWER).await {
                return matches!(answer, Answer::Member { node, .. } if node.0 == self.id);
            }
            tokio::time::sleep(PAUSE).await;
        }
        false
    }
}

/// Why a node stopped that tells no reason.
pub(super) const OPENRAFT: &str = "by a check of openraft's own";

/// Tells who leads in which term, and when consensus ends by itself.
async fn watch_leader(raft: SimRaft, node: u64, facts: Facts) {
    let mut watched = raft.server_metrics();
    loop {
        let now = watched.borrow_and_update().clone();
        if let Some(leader) = now.current_leader {
            facts.leads(now.vote.leader_id().term(), leader);
        }
        if watched.changed().await.is_err() {
            break;
        }
    }
    let state = raft.metrics().borrow_watched().running_state.clone();
    // Where one of its checks fails it has no time to say so.
    facts.stopped(node, &state.map_or_else(|error| error.to_string(), |()| OPENRAFT.to_owned()));
}

// === impl Answering ===

impl Answering {
    async fn answer(&self, question: Question) -> Reply {
        let raft = &self.raft;
        match question {
            Question::Append(rpc) => raft.append_entries(rpc).await.map_or(Reply::Unknown, Reply::Append),
            Question::Vote(rpc) => raft.vote(rpc).await.map_or(Reply::Unknown, Reply::Vote),
            Question::PreVote(rpc) => raft.pre_vote(rpc).await.map_or(Reply::Unknown, Reply::Vote),
            Question::Snapshot(vote, meta, image) => {
                let snapshot = Snapshot { meta, snapshot: image };
                raft.install_full_snapshot(vote, snapshot).await.map_or(Reply::Unknown, Reply::Snapshot)
            }
            Question::Transfer(rpc) => raft.handle_transfer_leader(rpc).await.map_or(Reply::Unknown, Reply::Transfer),
            Question::GiveWay(to) => {
                let _asked = raft.trigger().transfer_leader(to).await;
                Reply::Unknown
            }
            Question::Propose(command, session) => self.propose(command, session).await,
            Question::Read(key) => self.read(key).await,
            Question::Watch(filter, from) => self.tell(filter, from),
        }
    }

    async fn propose(&self, command: Command, session: Option<(u64, u64)>) -> Reply {
        if self.leader() != Some(*self.raft.node_id()) {
            return Reply::NotLeader(self.leader());
        }
        let entry = Entry {
            least_version: command.least_version(),
            log_time: self.stamper.stamp(),
            request: RequestId::default(),
            principal: "node/1 for admin".to_owned(),
            namespace: String::new(),
            session,
            fence_term: None,
            once: None,
            command,
        };
        match timeout(PATIENCE, self.raft.client_write(Sealed(envelope::encode(&entry)))).await {
            Ok(Ok(written)) => {
                let of_entry = (written.log_id.index, term_of(&written.log_id));
                let (revision, _) = written.data.before.unwrap_or(of_entry);
                Reply::Committed(revision, written.data.answer)
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Reply::NotLeader(forward.leader_id)
            }
            _ => Reply::Unknown,
        }
    }

    async fn read(&self, key: String) -> Reply {
        let asks = self.disk.lock().bug != Some(Bug::ReadWithoutMajority);
        if asks {
            match timeout(PATIENCE, self.raft.get_read_linearizer(ReadPolicy::ReadIndex)).await {
                Ok(Ok(linearizer)) => {
                    if !matches!(timeout(PATIENCE, linearizer.await_ready(&self.raft)).await, Ok(Ok(_))) {
                        return Reply::Unknown;
                    }
                }
                Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                    return Reply::NotLeader(forward.leader_id);
                }
                _ => return Reply::Unknown,
            }
        } else if self.leader() != Some(*self.raft.node_id()) {
            return Reply::NotLeader(self.leader());
        }
        match self.disk.lock().state.view.get(&Key::Value(String::new(), key)) {
            Ok(Some(Record::Value(value))) => Reply::Value(Some(value)),
            Ok(None) => Reply::Value(None),
            _ => Reply::Unknown,
        }
    }

    /// One look of the product's own watcher. Each is a new one, so that it goes on where another ended.
    fn tell(&self, filter: Filter, from: Option<u64>) -> Reply {
        let agreement = Integrity::default().agreement(NodeId(*self.raft.node_id()));
        let mut watcher = Watcher::new(self.feed.clone(), watch::channel(0).1, agreement, filter, from);
        let told = watcher.next_kept().and_then(|batch| Ok((batch, watcher.so_far()?.revision + 1)));
        match told {
            Ok((batch, next)) => Reply::Told(batch.map_or_else(Vec::new, |batch| batch.events), next),
            Err(WatchError::Compacted { oldest }) => Reply::Compacted(oldest),
            Err(WatchError::Deviates | WatchError::Stopped) => Reply::Unknown,
        }
    }

    fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }
}
