//! Spreads a model file to the runtimes beside chosen nodes, all or nothing.
//!
//! Every target first makes the model under a temporary name. Only if all targets report the same manifest digest, and
//! none has another model of the final name that must not be replaced, do all give it its final name and keep what had
//! it; only when all have done so is what was kept forgotten. Until then a failure anywhere makes every target undo its
//! part. The file passes through in chunks and is never held whole; the slowest target sets the pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Response, Status};
use tracing::{Instrument as _, Span};

use ollamax_core::catalog::read;
use ollamax_gateway::grpc::AdminError;
use ollamax_gateway::grpc::management::wait_until_known;
use ollamax_net::{Class, NetHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::import_order::Part as Order;
use ollamax_proto::v1::inference_client::InferenceClient;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Role};

use crate::adapters::outgoing::Outgoing;
use crate::slot::MemberEngines;

mod leg;
#[cfg(test)]
pub(crate) mod mem;
mod names;
pub(crate) mod plan;
pub(crate) mod runtime_side;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use leg::{Leg, Target};
use names::Names;
use runtime_side::Imports;

/// Orders that wait for one target.
const ORDERS_WAITING_MAX: usize = 4;
/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// One finished or failed attempt.
type Outcome = Result<Vec<v1::ImportedCopy>, AdminError>;
/// What the administrator's client reads.
pub(crate) type Progress = BoxStream<'static, Result<v1::ImportModelProgress, Status>>;
/// What the administrator's client sends after the header.
pub(crate) type Upload = BoxStream<'static, Result<v1::ImportModelRequest, Status>>;

/// Runs imports that arrive at this node.
#[derive(Debug, Clone)]
pub(crate) struct Importer {
    /// The way to other nodes.
    pub(crate) net: NetHandle,
    /// The runtime beside this one.
    pub(crate) local: Imports,
    /// The group that imports run in.
    pub(crate) tasks: TaskTracker,
}

#[derive(Debug, Clone)]
struct Wanted {
    names: Names,
    sha256: Digest,
    size_bytes: u64,
    replace: bool,
}

// === impl Importer ===

impl Importer {
    /// Starts an import: the header is checked here, the rest is told through the stream.
    ///
    /// # Errors
    /// When the header is malformed, or names nodes that cannot take a model.
    pub(crate) fn start(
        &self,
        engines: &MemberEngines,
        header: v1::ImportModelHeader,
        upload: Upload,
    ) -> Result<Progress, AdminError> {
        let targets = targets(engines, &header.nodes)?;
        let wanted = wanted(&header)?;
        let (sender, receiver) = mpsc::channel(16);
        let (importer, own, metadata) = (self.clone(), engines.node, engines.metadata.clone());
        // A failure is told through the stream; a caller who leaves ends the upload, and with it the import.
        let importing = async move {
            let done = Arc::new(AtomicU64::new(0));
            let legs = targets.into_iter().map(|target| importer.leg(own, target, &wanted)).collect();
            let work = import(&wanted, legs, upload, Arc::clone(&done));
            let visible = async {
                let copies = work.await?;
                wait_until_known(&metadata, &wanted.names.target, &copies).await;
                Ok(copies)
            };
            let outcome = report_while(visible, &sender, &done, wanted.size_bytes).await;
            let last = match outcome {
                Ok(copies) => Ok(v1::ImportModelProgress {
                    status: "success".to_owned(),
                    completed_bytes: wanted.size_bytes,
                    total_bytes: wanted.size_bytes,
                    copies,
                }),
                Err(error) => Err(Status::from(error)),
            };
            drop(sender.send(last).await);
        };
        self.tasks.spawn(importing.instrument(Span::current()));
        Ok(ReceiverStream::new(receiver).boxed())
    }

    /// Opens one target's part.
    fn leg(&self, own: NodeId, target: Target, wanted: &Wanted) -> Leg {
        let (sender, orders) = mpsc::channel(ORDERS_WAITING_MAX);
        let head = futures::stream::iter([order(Order::Header(wanted.header()))]);
        let orders = head.chain(ReceiverStream::new(orders)).boxed();
        let events = if target.id == own {
            self.local.take_part(orders.map(Ok).boxed())
        } else {
            let mut client = InferenceClient::new(self.net.channel(target.id, Class::Inference));
            let opened = async move { client.import_model(Outgoing(orders)).await.map(Response::into_inner) };
            futures::stream::once(opened).try_flatten().boxed()
        };
        Leg::new(target, sender, events)
    }
}

/// Takes all targets through the import. When it returns, those that had to undo their part have done so.
async fn import(wanted: &Wanted, mut legs: Vec<Leg>, upload: Upload, done: Arc<AtomicU64>) -> Outcome {
    let outcome = take_all_through(wanted, &mut legs, upload, done).await;
    join_all(legs.into_iter().map(Leg::close)).await;
    outcome
}

async fn take_all_through(wanted: &Wanted, legs: &mut [Leg], upload: Upload, done: Arc<AtomicU64>) -> Outcome {
    let ready = try_join_all(legs.iter_mut().map(Leg::ready)).await?;
    for (leg, ready) in legs.iter().zip(&ready) {
        // Where the file is there already, what had the name may turn out to be the same model.
        if !ready.has_file && !plan::may_take_name(ready.held, None, wanted.replace) {
            return Err(name_taken(wanted, &leg.target));
        }
    }
    let takers = legs.iter().zip(&ready).filter(|(_, ready)| !ready.has_file).map(|(leg, _)| leg.orders()).collect();
    let orders: Vec<_> = legs.iter().map(Leg::orders).collect();
    let sent = async {
        feed_all(upload, takers, &done).await?;
        done.store(wanted.size_bytes, Ordering::Relaxed);
        order_all(&orders, &Order::Create(v1::ImportCreate {})).await;
        Ok::<(), AdminError>(())
    };
    let ((), made) = tokio::try_join!(sent, try_join_all(legs.iter_mut().map(Leg::created)))?;

    refuse_different(wanted, legs, &made)?;
    for ((leg, ready), made) in legs.iter().zip(&ready).zip(&made) {
        if !plan::may_take_name(ready.held, Some(*made), wanted.replace) {
            return Err(name_taken(wanted, &leg.target));
        }
    }
    order_all(&orders, &Order::Publish(v1::ImportPublish {})).await;
    try_join_all(legs.iter_mut().map(Leg::published)).await?;

    order_all(&orders, &Order::Finish(v1::ImportFinish {})).await;
    let finished = join_all(legs.iter_mut().map(Leg::finished)).await;
    refuse_unfinished(wanted, legs, &finished)?;
    let copy = |(leg, made): (&Leg, &Digest)| v1::ImportedCopy {
        node_id: leg.target.id.0,
        node_name: leg.target.name.clone(),
        digest: made.0.to_vec(),
    };
    Ok(legs.iter().zip(&made).map(copy).collect())
}

/// A target that is gone hears nothing; its own error says why.
async fn order_all(all: &[mpsc::Sender<v1::ImportOrder>], part: &Order) {
    for orders in all {
        drop(orders.send(order(part.clone())).await);
    }
}

const fn order(part: Order) -> v1::ImportOrder {
    v1::ImportOrder { part: Some(part) }
}

async fn report_while(
    work: impl Future<Output = Outcome>,
    sender: &mpsc::Sender<Result<v1::ImportModelProgress, Status>>,
    done: &AtomicU64,
    total_bytes: u64,
) -> Outcome {
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            _ = ticks.tick() => {
                // A slow reader misses lines, never the last one.
                drop(sender.try_send(Ok(progress(done.load(Ordering::Relaxed), total_bytes))));
            }
        }
    }
}

fn progress(completed_bytes: u64, total_bytes: u64) -> v1::ImportModelProgress {
    let status = if completed_bytes < total_bytes { "uploading" } else { "creating model" };
    v1::ImportModelProgress { status: status.to_owned(), completed_bytes, total_bytes, copies: Vec::new() }
}

/// Hands every chunk to every target that lacks the file. A target that gave up is left out; its own error says why.
async fn feed_all(
    mut upload: Upload,
    mut takers: Vec<mpsc::Sender<v1::ImportOrder>>,
    done: &AtomicU64,
) -> Result<(), AdminError> {
    while !takers.is_empty()
        && let Some(request) = upload.next().await
    {
        let data: Bytes = match request {
            Ok(v1::ImportModelRequest { part: Some(v1::import_model_request::Part::Data(data)) }) => data,
            other => {
                let why = other.map_or_else(|status| status.message().to_owned(), |_| "a second header".to_owned());
                return Err(AdminError::new(ErrorCode::BadRequest, "the upload broke off", why, "repeat the command"));
            }
        };
        let sends = join_all(takers.iter().map(|taker| taker.send(order(Order::Data(data.clone()))))).await;
        let mut sends = sends.iter();
        takers.retain(|_| sends.next().is_some_and(Result::is_ok));
        done.fetch_add(data.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn refuse_different(wanted: &Wanted, legs: &[Leg], made: &[Digest]) -> Result<(), AdminError> {
    if made.windows(2).all(|pair| pair[0] == pair[1]) {
        return Ok(());
    }
    let listed: Vec<String> =
        legs.iter().zip(made).map(|(leg, digest)| format!("{} {}", leg.target.name, digest.short())).collect();
    Err(AdminError::new(
        ErrorCode::DigestConflict,
        format!("the runtimes made different models of {}; nothing was kept", wanted.names.target),
        listed.join(", "),
        "run the same release of the runtime on these nodes, with the same path of its store: ollamax node list",
    ))
}

fn name_taken(wanted: &Wanted, target: &Target) -> AdminError {
    AdminError::new(
        ErrorCode::PreconditionFailed,
        format!("node {} has another model named {}; nothing was changed", target.name, wanted.names.target),
        "an import replaces a model only when told to",
        "add --replace, or choose another --name",
    )
}

/// The last step is one for each target: who breaks off there has undone its part while others keep theirs.
fn refuse_unfinished(wanted: &Wanted, legs: &[Leg], finished: &[Result<(), AdminError>]) -> Result<(), AdminError> {
    let Some(error) = finished.iter().find_map(|result| result.as_ref().err()) else { return Ok(()) };
    let having = |wanted: bool| {
        let names = legs.iter().zip(finished).filter(|(_, result)| result.is_ok() == wanted);
        names.map(|(leg, _)| leg.target.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    if having(true).is_empty() {
        return Err(error.clone());
    }
    Err(AdminError::new(
        ErrorCode::OutcomeUnknown,
        format!("{} broke off at the last step of importing {}", having(false), wanted.names.target),
        format!("{} kept the new model; {}", having(true), error.why),
        "repeat the command; nodes that have the model are left as they are",
    ))
}

impl Wanted {
    fn header(&self) -> v1::ImportHeader {
        v1::ImportHeader {
            name: self.names.target.to_string(),
            sha256: self.sha256.0.to_vec(),
            size_bytes: self.size_bytes,
            id: self.names.id.clone(),
        }
    }
}

fn wanted(header: &v1::ImportModelHeader) -> Result<Wanted, AdminError> {
    let bad =
        |what: String| AdminError::new(ErrorCode::BadRequest, what, "a name is [host/][namespace/]model[:tag]", "");
    let name: ModelName = header.name.parse().map_err(|_| bad(format!("{:?} is not a model name", header.name)))?;
    let sha256 = header.sha256.clone().try_into().map(Digest);
    let sha256 = sha256.map_err(|_| bad("a SHA-256 digest has 32 bytes".to_owned()))?;
    let random: [u8; 8] = ollamax_security::random_bytes().map_err(|error| bad(error.to_string()))?;
    let names = Names::new(&hex::encode(random), &name);
    let names = names.ok_or_else(|| bad(format!("{name} leaves no room for a temporary name, or is one")))?;
    Ok(Wanted { names, sha256, size_bytes: header.size_bytes, replace: header.replace })
}

/// The nodes named, or this one. Each must be present and meant to hold models.
fn targets(engines: &MemberEngines, names: &[String]) -> Result<Vec<Target>, AdminError> {
    let view = engines.metadata.view();
    let mut targets: Vec<Target> = Vec::new();
    let own = engines.node.to_string();
    let names = if names.is_empty() { std::slice::from_ref(&own) } else { names };
    for name in names {
        let found = read::find_member(&*view, name)?.ok_or_else(|| AdminError::node_not_found(name))?;
        if found.role == Role::Gateway {
            let what = format!("node {} is a gateway", found.name);
            let next = "name another with --node: ollamax node list";
            return Err(AdminError::new(ErrorCode::PreconditionFailed, what, "gateways hold no models", next));
        }
        if !targets.iter().any(|target| target.id == found.id) {
            targets.push(Target { id: found.id, name: found.name });
        }
    }
    Ok(targets)
}
