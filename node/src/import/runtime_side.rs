//! The half of an import that happens beside one runtime: take the file, make the model, give it its name.
//!
//! The stream of orders is the import's hold on this node. While it lasts, the names that the import made belong to it;
//! when it ends before the last order, for whatever reason, this side undoes everything by itself. What a killed
//! process could not undo is swept later: whatever temporary name the runtime lists while no import runs here is a
//! leftover.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{RwLock, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use ollamax_outbound::{Client, RuntimeError, RuntimeHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::import_event::Part as Event;
use ollamax_proto::v1::import_order::Part as Order;
use ollamax_transfer::Shelf;
use ollamax_types::{Digest, ErrorCode, ModelName};

use crate::adapters::status::refusal;
use crate::import::names::Names;
use crate::import::plan;
use crate::import::store::ModelStore;

/// Orders, as they arrive from the node that drives the import.
pub(crate) type Orders = BoxStream<'static, Result<v1::ImportOrder, Status>>;
/// What that node is told.
pub(crate) type Events = BoxStream<'static, Result<v1::ImportEvent, Status>>;

/// Events that wait for the other node.
const EVENTS_WAITING_MAX: usize = 4;
/// Chunks that wait for the runtime.
const CHUNKS_WAITING_MAX: usize = 1;
/// Longest wait for the next order: the slowest of all targets may still be taking the file.
const ORDER_TIMEOUT: Duration = ollamax_outbound::UPLOAD_TIMEOUT;
/// Wait before leftovers that could not be removed are tried again.
const SWEEP_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Makes models in the runtime beside this node.
#[derive(Debug, Clone)]
pub(crate) struct Imports {
    runtime: RuntimeHandle,
    /// What the runtime may fetch from this node just now.
    shelf: Option<Shelf>,
    tasks: TaskTracker,
    /// Read while an import runs, written while leftovers are swept: one never sees the other half-way.
    gate: Arc<RwLock<()>>,
}

/// One import's part beside one runtime.
struct Participant<'a, S> {
    store: &'a S,
    orders: Orders,
    events: mpsc::Sender<Result<v1::ImportEvent, Status>>,
    /// Known once the header was read.
    names: Option<Names>,
}

/// What the header asks for.
struct Wanted {
    names: Names,
    sha256: Digest,
    size_bytes: u64,
}

// === impl Imports ===

impl Imports {
    /// Works with whatever runtime this node has; imports run in `tasks`.
    #[must_use]
    pub(crate) fn new(runtime: RuntimeHandle, shelf: Option<Shelf>, tasks: TaskTracker) -> Self {
        Self { runtime, shelf, tasks, gate: Arc::default() }
    }

    /// Takes part in an import until its orders end.
    pub(crate) fn take_part(&self, orders: Orders) -> Events {
        let (events, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
        let imports = self.clone();
        // Not ended with the caller: what it began must be undone. Told through the stream; ends when the orders end.
        self.tasks.spawn(async move {
            let _running = imports.gate.read().await;
            match imports.client() {
                Ok(client) => take_part(&client, orders, events).await,
                Err(status) => drop(events.send(Err(status)).await),
            }
        });
        ReceiverStream::new(receiver).boxed()
    }

    /// Removes what killed imports and pulls left, whenever the runtime lists such names, until `stop`.
    pub(crate) async fn sweep_leftovers(self, stop: CancellationToken) {
        let mut reports = self.runtime.report();
        loop {
            let models = reports.borrow_and_update().models.clone().unwrap_or_default();
            let left = models.iter().any(|model| plan::is_temporary(&model.name));
            if left && let Err(error) = self.sweep().await {
                tracing::warn!(code = %error.code(), %error, "remove what was left unfinished; tried again soon");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = reports.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(SWEEP_AGAIN_AFTER), if left => {}
            }
        }
    }

    async fn sweep(&self) -> Result<(), RuntimeError> {
        let Some(client) = self.runtime.client() else { return Ok(()) };
        forget_offers(&client, self.shelf.as_ref()).await?;
        // An import that runs owns such names; its end changes the list, and that leads here again.
        let Ok(_alone) = self.gate.try_write() else { return Ok(()) };
        undo(&client, None).await
    }

    fn client(&self) -> Result<Client, Status> {
        let none =
            || refusal(ErrorCode::RuntimeUnavailable, "there is no runtime beside this node; run ollamax doctor there");
        self.runtime.client().ok_or_else(none)
    }
}

/// Follows the orders of one import; after a failure everything is undone before it is told.
pub(crate) async fn take_part<S: ModelStore>(
    store: &S,
    orders: Orders,
    events: mpsc::Sender<Result<v1::ImportEvent, Status>>,
) {
    let mut participant = Participant { store, orders, events, names: None };
    let Err(status) = participant.follow().await else { return };
    if let Some(names) = &participant.names
        && let Err(error) = undo(store, Some(&names.id)).await
    {
        tracing::warn!(code = %error.code(), model = %names.target, %error, "undo an import; swept later");
    }
    drop(participant.events.send(Err(status)).await);
}

/// Undoes one import, or all that left something.
pub(crate) async fn undo<S: ModelStore>(store: &S, only: Option<&str>) -> Result<(), RuntimeError> {
    for step in plan::undo(&store.list().await?, only) {
        tracing::info!(%step, "undo an unfinished import");
        store.take_step(&step).await?;
    }
    Ok(())
}

/// Takes away the names under which models were offered to the runtime and are not any more.
async fn forget_offers<S: ModelStore>(store: &S, shelf: Option<&Shelf>) -> Result<(), RuntimeError> {
    let is_offered = |name: &ModelName| shelf.is_some_and(|shelf| shelf.has(name));
    for step in plan::forget_offers(&store.list().await?, is_offered) {
        tracing::info!(%step, "forget what was offered to the runtime");
        match store.take_step(&step).await {
            // The pull that offered it was just at that too.
            Err(error) if error.code() == ErrorCode::ModelNotFound => {}
            taken => taken?,
        }
    }
    Ok(())
}

// === impl Participant ===

impl<S: ModelStore> Participant<'_, S> {
    async fn follow(&mut self) -> Result<(), Status> {
        let Order::Header(header) = self.order().await? else { return Err(out_of_order()) };
        let wanted = Wanted::read(header)?;
        let (names, store) = (&wanted.names, self.store);
        let held = digest_of(store, &names.target).await?;
        let has_file = store.has_file(wanted.sha256).await.map_err(|error| runtime_status(&error))?;
        let held_bytes = held.map(|digest| digest.0.to_vec()).unwrap_or_default();
        self.tell(Event::Ready(v1::ImportReady { has_file, held: held_bytes })).await?;

        self.names = Some(names.clone());
        if has_file {
            self.expect(&Order::Create(v1::ImportCreate {})).await?;
        } else {
            self.take_file(&wanted).await?;
        }
        store.create(&names.unfinished, wanted.sha256).await.map_err(|error| runtime_status(&error))?;
        let made = digest_of(store, &names.unfinished)
            .await?
            .ok_or_else(|| refusal(ErrorCode::RuntimeFailed, "the runtime created the model, but does not list it"))?;
        self.tell(Event::Created(v1::ImportCreated { digest: made.0.to_vec() })).await?;

        self.expect(&Order::Publish(v1::ImportPublish {})).await?;
        publish(store, names, held, made).await?;
        self.tell(Event::Published(v1::ImportPublished {})).await?;

        self.expect(&Order::Finish(v1::ImportFinish {})).await?;
        finish(store, names).await?;
        self.tell(Event::Finished(v1::ImportFinished {})).await
    }

    /// Hands the bytes on until all are there.
    async fn take_file(&mut self, wanted: &Wanted) -> Result<(), Status> {
        let (body, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
        let taking = self.store.take_file(wanted.sha256, Some(wanted.size_bytes), ReceiverStream::new(chunks).boxed());
        let (taken, handed) = tokio::join!(taking, hand_on(&mut self.orders, body));
        let complete = handed?;
        taken.map_err(|error| runtime_status(&error))?;
        // Where it wanted no more, the runtime got the file by another way meanwhile.
        if complete { Ok(()) } else { self.skip_data().await }
    }

    async fn skip_data(&mut self) -> Result<(), Status> {
        loop {
            match self.order().await? {
                Order::Data(_) => {}
                Order::Create(_) => return Ok(()),
                _ => return Err(out_of_order()),
            }
        }
    }

    async fn expect(&mut self, expected: &Order) -> Result<(), Status> {
        if self.order().await? == *expected { Ok(()) } else { Err(out_of_order()) }
    }

    async fn order(&mut self) -> Result<Order, Status> {
        next(&mut self.orders).await
    }

    async fn tell(&mut self, event: Event) -> Result<(), Status> {
        let event = v1::ImportEvent { part: Some(event) };
        self.events.send(Ok(event)).await.map_err(|_| given_up("nobody listens any more"))
    }
}

async fn publish<S: ModelStore>(store: &S, names: &Names, held: Option<Digest>, made: Digest) -> Result<(), Status> {
    let changed = |what: &str| refusal(ErrorCode::PreconditionFailed, &format!("{} {what}", names.target));
    if digest_of(store, &names.target).await? != held {
        return Err(changed("was changed while it was being imported"));
    }
    for step in plan::publish(names, held, made) {
        store.take_step(&step).await.map_err(|error| runtime_status(&error))?;
    }
    if digest_of(store, &names.target).await? != Some(made) {
        return Err(changed("is not what was imported"));
    }
    Ok(())
}

async fn finish<S: ModelStore>(store: &S, names: &Names) -> Result<(), Status> {
    let listed = store.list().await.map_err(|error| runtime_status(&error))?;
    for (at, step) in plan::finish(names, &listed).iter().enumerate() {
        match store.take_step(step).await {
            Err(error) if at == 0 => return Err(runtime_status(&error)),
            Err(error) => tracing::warn!(%step, %error, "forget what an import kept; swept later"),
            Ok(()) => {}
        }
    }
    Ok(())
}

async fn digest_of<S: ModelStore>(store: &S, name: &ModelName) -> Result<Option<Digest>, Status> {
    let listed = store.list().await.map_err(|error| runtime_status(&error))?;
    Ok(plan::digest_of(&listed, name))
}

impl Wanted {
    fn read(header: v1::ImportHeader) -> Result<Self, Status> {
        let bad = |what: String| refusal(ErrorCode::BadRequest, &what);
        let target = header.name.parse().map_err(|_| bad(format!("{:?} is not a model name", header.name)))?;
        let names = Names::new(&header.id, &target);
        let names = names.ok_or_else(|| bad(format!("{target} cannot be imported under a temporary name")))?;
        let sha256 = header.sha256.try_into().map(Digest);
        let sha256 = sha256.map_err(|_| bad("a SHA-256 digest has 32 bytes".to_owned()))?;
        Ok(Self { names, sha256, size_bytes: header.size_bytes })
    }
}

/// Hands bytes to the runtime; true when all of them came, false when it wants no more. A break is told to both.
async fn hand_on(orders: &mut Orders, body: mpsc::Sender<io::Result<Bytes>>) -> Result<bool, Status> {
    loop {
        match next(orders).await {
            Ok(Order::Data(data)) => {
                if body.send(Ok(data)).await.is_err() {
                    return Ok(false);
                }
            }
            Ok(Order::Create(_)) => return Ok(true),
            other => {
                let status = other.err().unwrap_or_else(out_of_order);
                drop(body.send(Err(io::Error::new(io::ErrorKind::UnexpectedEof, status.message().to_owned()))).await);
                return Err(status);
            }
        }
    }
}

async fn next(orders: &mut Orders) -> Result<Order, Status> {
    let order = timeout(ORDER_TIMEOUT, orders.next()).await.map_err(|_| given_up("no order came"))?;
    let order = order.ok_or_else(|| given_up("its stream ended"))?;
    let order = order.map_err(|status| given_up(status.message()))?;
    order.part.ok_or_else(out_of_order)
}

fn given_up(why: &str) -> Status {
    refusal(ErrorCode::DeadlineExceeded, &format!("the import was given up: {why}"))
}

fn out_of_order() -> Status {
    refusal(ErrorCode::BadRequest, "the orders of an import are header, data, create, publish, finish")
}

fn runtime_status(error: &RuntimeError) -> Status {
    refusal(error.code(), &error.to_string())
}
