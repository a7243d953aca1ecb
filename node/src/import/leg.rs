//! One target of an import, as the node that drives it sees it: orders go there, one event comes back for each.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::mpsc;
use tonic::Status;

use ollamax_gateway::grpc::AdminError;
use ollamax_proto::v1;
use ollamax_proto::v1::import_event::Part as Event;
use ollamax_types::{Digest, ErrorCode, NodeId};

use crate::adapters::status::code_of;
use crate::import::runtime_side::Events;

/// How long the end of an import waits for a target that undoes its part.
const UNDO_TIMEOUT: Duration = Duration::from_secs(30);

/// Which node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its id.
    pub(crate) id: NodeId,
    /// Its name.
    pub(crate) name: String,
}

/// One target.
pub(crate) struct Leg {
    /// Which node.
    pub(crate) target: Target,
    orders: mpsc::Sender<v1::ImportOrder>,
    events: Events,
}

/// What a target has before the import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    /// The file is there already.
    pub(crate) has_file: bool,
    /// What has the final name.
    pub(crate) held: Option<Digest>,
}

// === impl Leg ===

impl Leg {
    /// A target whose header is on its way.
    pub(crate) const fn new(target: Target, orders: mpsc::Sender<v1::ImportOrder>, events: Events) -> Self {
        Self { target, orders, events }
    }

    /// Where orders go.
    pub(crate) fn orders(&self) -> mpsc::Sender<v1::ImportOrder> {
        self.orders.clone()
    }

    /// What the target has.
    pub(crate) async fn ready(&mut self) -> Result<Ready, AdminError> {
        match self.event().await? {
            Event::Ready(ready) => {
                let held = if ready.held.is_empty() { None } else { Some(self.digest(ready.held)?) };
                Ok(Ready { has_file: ready.has_file, held })
            }
            _ => Err(self.out_of_order()),
        }
    }

    /// What the target made of the file.
    pub(crate) async fn created(&mut self) -> Result<Digest, AdminError> {
        match self.event().await? {
            Event::Created(created) => self.digest(created.digest),
            _ => Err(self.out_of_order()),
        }
    }

    /// That the model has its final name.
    pub(crate) async fn published(&mut self) -> Result<(), AdminError> {
        if matches!(self.event().await?, Event::Published(_)) { Ok(()) } else { Err(self.out_of_order()) }
    }

    /// That nothing is left but the model.
    pub(crate) async fn finished(&mut self) -> Result<(), AdminError> {
        if matches!(self.event().await?, Event::Finished(_)) { Ok(()) } else { Err(self.out_of_order()) }
    }

    /// Ends the orders, and waits, bounded, until the target has undone what it did not finish.
    pub(crate) async fn close(self) {
        let Self { target, orders, mut events } = self;
        drop(orders);
        let rest = async { while events.next().await.is_some() {} };
        if tokio::time::timeout(UNDO_TIMEOUT, rest).await.is_err() {
            tracing::warn!(peer = %target.id, "a node does not say that it has ended its part of an import");
        }
    }

    async fn event(&mut self) -> Result<Event, AdminError> {
        let ended = || Err(Status::unavailable("it ended its part of the import"));
        let event = self.events.next().await.unwrap_or_else(ended).map_err(|status| self.failed(&status))?;
        event.part.ok_or_else(|| self.out_of_order())
    }

    fn digest(&self, bytes: Vec<u8>) -> Result<Digest, AdminError> {
        bytes.try_into().map(Digest).map_err(|_| self.failed(&Status::internal("a digest has 32 bytes")))
    }

    fn out_of_order(&self) -> AdminError {
        self.failed(&Status::internal("it answered out of order"))
    }

    fn failed(&self, status: &Status) -> AdminError {
        let name = &self.target.name;
        let code = code_of(status).unwrap_or(ErrorCode::PeerUnreachable);
        let next = match code {
            ErrorCode::BadRequest => "check the file: it must be a whole GGUF".to_owned(),
            ErrorCode::PreconditionFailed => "repeat the command".to_owned(),
            ErrorCode::DiskFull => format!("free some space on {name} and repeat the command"),
            _ => format!("on {name}: ollamax doctor"),
        };
        AdminError::new(code, format!("node {name} could not take the model; nothing was kept"), status.message(), next)
    }
}
