//! The task queue of the cluster, at one node: it works at the tasks that are given to it, and gives them out while it
//! leads.
//!
//! Who works at what stands in the replicated record and nowhere else. What is done about it is decided by `desk` and
//! by `core::tasks`; the loops here perform it. Neither loop fails the node: what cannot be done now is tried again,
//! and a node that cannot say that it is at work loses its tasks to another one.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Command, Fault, Task, read};
use ollamax_core::placement::Site;
use ollamax_core::tasks::Host;
use ollamax_gateway::Toolbox;
use ollamax_metadata::{Change, Committed, ProposeError};
use ollamax_security::draw_request_id;
use ollamax_tools::ToolError;
use ollamax_tools::work::Work;
use ollamax_types::{NodeId, TaskId, Timestamp};

use crate::follow::change_in_term;
use crate::follow::presence::leading_term;
use crate::sites::Sites;
use crate::slot::{MemberEngines, Slot};

mod desk;
mod duty;
#[cfg(test)]
mod mem;
mod worker;

/// The record of tasks, as a node that works at some sees it.
trait Record: Send + Sync + 'static {
    /// This node.
    fn node(&self) -> NodeId;

    /// The tasks that are not over, as this node has applied them, and the revision up to which that is complete.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn tasks(&self) -> Result<(Vec<Task>, u64), Fault>;

    /// Index of the entry that changed a task last, as this node has applied it. Costs one read of one record.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn tasks_changed_at(&self) -> Result<u64, Fault>;

    /// Log time as this node knows it.
    fn log_time(&self) -> Timestamp;

    /// Wakes at each change.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Tells something of this node's own tasks. A refusal of the state is an answer.
    fn tell(&self, command: Command) -> BoxFuture<'static, Result<Committed, ProposeError>>;
}

/// The record of tasks, as a node sees it that may lead.
trait Lead: Send + Sync + 'static {
    /// The term in which this node leads; `None`: it does not.
    fn term(&self) -> Option<u64>;

    /// The tasks that are not over, as this node has applied them.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn tasks(&self) -> Result<Vec<Task>, Fault>;

    /// As [`Record::tasks_changed_at`].
    ///
    /// # Errors
    /// When the state cannot be read.
    fn tasks_changed_at(&self) -> Result<u64, Fault>;

    /// The members, and who of them may be given something.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn hosts(&self) -> Result<Vec<Host>, Fault>;

    /// Wakes at each change.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Gives a task to a node, as the leader of this term.
    fn give(&self, id: TaskId, node: NodeId, term: u64) -> BoxFuture<'static, Result<(), ProposeError>>;
}

/// Who does the work.
trait Bench: Send + Sync + 'static {
    /// Has a tool work, until it is done.
    fn work(&self, work: Work, tool: String, arguments: Value) -> BoxFuture<'static, Result<Value, ToolError>>;
}

/// Both loops, while this node has engines, until `stop`. What is worked at then is left as it is: nothing is
/// cancelled, and another node goes on when the lease is over.
pub(crate) async fn follow(slot: Slot, tools: Toolbox, stop: CancellationToken) {
    let mut places = slot.subscribe();
    loop {
        let engines = places.borrow_and_update().clone();
        let changed = async {
            match engines {
                Some(engines) => tokio::select! {
                    () = take_part(engines, tools.clone(), stop.clone()) => places.changed().await,
                    changed = places.changed() => changed,
                },
                None => places.changed().await,
            }
        };
        if !matches!(stop.run_until_cancelled(changed).await, Some(Ok(()))) {
            return;
        }
    }
}

/// Ends with `stop`, or with the engines.
async fn take_part(engines: MemberEngines, tools: Toolbox, stop: CancellationToken) {
    let record = Arc::new(OnRecord { engines });
    tokio::join!(
        worker::work(Arc::clone(&record) as _, Arc::new(Tools(tools)), stop.clone()),
        duty::lead(record as _, stop),
    );
}

/// The replicated record.
struct OnRecord {
    engines: MemberEngines,
}

// === impl OnRecord ===

impl OnRecord {
    fn changed_at(&self) -> Result<u64, Fault> {
        Ok(read::counts(&*self.engines.metadata.view())?.tasks_changed_at)
    }
}

impl Record for OnRecord {
    fn node(&self) -> NodeId {
        self.engines.node
    }

    fn tasks(&self) -> Result<(Vec<Task>, u64), Fault> {
        let (view, revision) = self.engines.metadata.view_at();
        Ok((read::open_tasks(&*view)?, revision))
    }

    fn tasks_changed_at(&self) -> Result<u64, Fault> {
        self.changed_at()
    }

    fn log_time(&self) -> Timestamp {
        self.engines.metadata.log_time()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.engines.metadata.changes()
    }

    fn tell(&self, command: Command) -> BoxFuture<'static, Result<Committed, ProposeError>> {
        let (metadata, principal) = (self.engines.metadata.clone(), format!("node/{}", self.engines.node));
        let change = Change::new(draw_request_id(), &principal, command);
        async move { metadata.propose_change(change).await }.boxed()
    }
}

impl Lead for OnRecord {
    fn term(&self) -> Option<u64> {
        leading_term(&self.engines.metadata)
    }

    fn tasks(&self) -> Result<Vec<Task>, Fault> {
        read::open_tasks(&*self.engines.metadata.view())
    }

    fn tasks_changed_at(&self) -> Result<u64, Fault> {
        self.changed_at()
    }

    fn hosts(&self) -> Result<Vec<Host>, Fault> {
        let sites = Sites::now(&*self.engines.metadata.view(), &self.engines.scheduler)?;
        Ok(sites.all().iter().map(host).collect())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.engines.metadata.changes()
    }

    fn give(&self, id: TaskId, node: NodeId, term: u64) -> BoxFuture<'static, Result<(), ProposeError>> {
        let (metadata, principal) = (self.engines.metadata.clone(), format!("node/{}", self.engines.node));
        let command = Command::AssignTask { id, node };
        async move { change_in_term(&metadata, draw_request_id(), &principal, command, term).await.map(|_| ()) }.boxed()
    }
}

/// A member that is heard, and is not being emptied, takes tasks.
fn host(site: &Site) -> Host {
    Host { node: site.node, is_fit: site.is_heard() && !site.drained }
}

/// The tools of this node.
struct Tools(Toolbox);

impl Bench for Tools {
    fn work(&self, work: Work, tool: String, arguments: Value) -> BoxFuture<'static, Result<Value, ToolError>> {
        let tools = self.0.clone();
        async move { tools.catalogue().work(work, &tool, arguments).await }.boxed()
    }
}
