//! Spreads a model file to the runtimes beside chosen nodes, all or nothing.
//!
//! Every target first creates the model under a temporary name. Only if all targets report the same manifest digest
//! does the model get its final name; else every temporary model is deleted and nothing is left behind. The file
//! passes through in chunks and is never held whole; the slowest target sets the pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::Status;

use ollamax_core::catalog::{Member, MemberState, read};
use ollamax_gateway::grpc::AdminError;
use ollamax_metadata as metadata;
use ollamax_net::{Class, NetHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::import_chunk::Part;
use ollamax_proto::v1::inference_client::InferenceClient;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Role};

use crate::adapters::outgoing::Outgoing;
use crate::adapters::status::code_of;
use crate::slot::MemberEngines;

pub(crate) mod runtime_side;

use runtime_side::Imports;

/// Chunks that wait for one target.
const CHUNKS_WAITING_MAX: usize = 4;
/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// How the name of an unfinished import begins. Such names are never reported to the cluster.
pub(crate) const TEMPORARY_PREFIX: &str = "import-";
/// The tag of an unfinished import.
pub(crate) const TEMPORARY_TAG: &str = "unfinished";
/// How long an import waits for the catalog to name its copies; without a quorum it never does.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(10);

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
    name: ModelName,
    temporary: ModelName,
    sha256: Digest,
    size_bytes: u64,
    /// Nodes that had a model of this name, as the catalog knew.
    held_before: Vec<NodeId>,
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
        let mut wanted = wanted(&header)?;
        let held = read::locations_of(&*engines.metadata.view(), &wanted.name)?;
        wanted.held_before = held.into_iter().map(|location| location.node).collect();
        let (sender, receiver) = mpsc::channel(16);
        let (importer, own, metadata) = (self.clone(), engines.node, engines.metadata.clone());
        // A failure is told through the stream; a caller who leaves ends the upload, and with it the import.
        self.tasks.spawn(async move {
            let done = Arc::new(AtomicU64::new(0));
            let work = importer.import(own, &wanted, &targets, upload, Arc::clone(&done));
            let visible = async {
                let copies = work.await?;
                wait_until_known(&metadata, &wanted.name, &copies).await;
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
        });
        Ok(ReceiverStream::new(receiver).boxed())
    }

    async fn import(
        &self,
        own: NodeId,
        wanted: &Wanted,
        targets: &[Member],
        upload: Upload,
        done: Arc<AtomicU64>,
    ) -> Outcome {
        let mut feeds = Vec::new();
        let mut creations = Vec::new();
        for target in targets {
            let (feed, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
            feeds.push(feed);
            creations.push(self.create_temporary(own, target.id, wanted.clone(), ReceiverStream::new(chunks).boxed()));
        }
        let (sent, created) = tokio::join!(feed_all(upload, feeds, done), join_all(creations));
        let outcome = match sent {
            Ok(()) => self.publish_if_equal(own, wanted, targets, created).await,
            Err(error) => Err(error),
        };
        let cleaned = targets.iter().map(|target| self.delete(own, target.id, &wanted.temporary));
        for (target, result) in targets.iter().zip(join_all(cleaned).await) {
            if let Err(status) = result {
                tracing::warn!(peer = %target.id, model = %wanted.temporary, error = status.message(), "delete a temporary model");
            }
        }
        outcome
    }

    async fn publish_if_equal(
        &self,
        own: NodeId,
        wanted: &Wanted,
        targets: &[Member],
        created: Vec<Result<Digest, Status>>,
    ) -> Outcome {
        let mut digests = Vec::new();
        for (target, result) in targets.iter().zip(created) {
            digests.push(result.map_err(|status| target_error(target, &status))?);
        }
        refuse_different(wanted, targets, &digests)?;
        let published = join_all(targets.iter().map(|target| self.publish(own, target.id, wanted))).await;
        if published.iter().any(Result::is_err) {
            self.withdraw(own, wanted, targets).await;
        }
        let mut copies = Vec::new();
        for (target, result) in targets.iter().zip(published) {
            let digest = result.map_err(|status| target_error(target, &status))?;
            copies.push(v1::ImportedCopy {
                node_id: target.id.0,
                node_name: target.name.clone(),
                digest: digest.0.to_vec(),
            });
        }
        Ok(copies)
    }

    /// Takes the new name back where it was given, unless the node had a model of that name before.
    /// An answer that was lost may stand for a name that was given, so every target is asked.
    async fn withdraw(&self, own: NodeId, wanted: &Wanted, targets: &[Member]) {
        for target in targets.iter().filter(|target| !wanted.held_before.contains(&target.id)) {
            drop(self.delete(own, target.id, &wanted.name).await);
        }
    }

    fn create_temporary(
        &self,
        own: NodeId,
        target: NodeId,
        wanted: Wanted,
        data: BoxStream<'static, Result<Bytes, Status>>,
    ) -> BoxFuture<'static, Result<Digest, Status>> {
        let header = v1::ImportHeader {
            name: wanted.temporary.to_string(),
            sha256: wanted.sha256.0.to_vec(),
            size_bytes: wanted.size_bytes,
        };
        let head = futures::stream::iter([Ok(v1::ImportChunk { part: Some(Part::Header(header)) })]);
        let chunks = head.chain(data.map(|data| data.map(|data| v1::ImportChunk { part: Some(Part::Data(data)) })));
        if target == own {
            let local = self.local.clone();
            return async move { local.receive(chunks.boxed()).await }.boxed();
        }
        let mut client = InferenceClient::new(self.net.channel(target, Class::Inference));
        // A break of the upload ends the stream; the receiver then sees too few bytes for the digest.
        let whole = Outgoing(chunks.scan((), |(), chunk| std::future::ready(chunk.ok())).boxed());
        async move { digest(client.import_model(whole).await?.into_inner()) }.boxed()
    }

    async fn publish(&self, own: NodeId, target: NodeId, wanted: &Wanted) -> Result<Digest, Status> {
        let request = v1::PublishModelRequest { name: wanted.name.to_string(), sha256: wanted.sha256.0.to_vec() };
        if target == own {
            return self.local.publish(request).await;
        }
        digest(self.client(target).publish_model(request).await?.into_inner())
    }

    async fn delete(&self, own: NodeId, target: NodeId, name: &ModelName) -> Result<(), Status> {
        if target == own {
            return self.local.delete(&name.to_string()).await;
        }
        let request = v1::DeleteModelRequest { name: name.to_string() };
        self.client(target).delete_model(request).await.map(|_| ())
    }

    fn client(&self, target: NodeId) -> InferenceClient<tonic::transport::Channel> {
        InferenceClient::new(self.net.channel(target, Class::Inference))
    }
}

/// Waits, bounded, until the catalog names every new copy, so that the next command sees what this one did.
async fn wait_until_known(metadata: &metadata::Handle, name: &ModelName, copies: &[v1::ImportedCopy]) {
    let mut changes = metadata.changes();
    let known = async {
        loop {
            changes.borrow_and_update();
            let locations = read::locations_of(&*metadata.view(), name).unwrap_or_default();
            let holds = |copy: &v1::ImportedCopy| {
                locations.iter().any(|held| held.node.0 == copy.node_id && held.model.digest.0[..] == copy.digest[..])
            };
            if copies.iter().all(holds) || changes.changed().await.is_err() {
                return;
            }
        }
    };
    drop(tokio::time::timeout(KNOWN_TIMEOUT, known).await);
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

/// Hands every chunk to every target. A target that gave up is left out; its own error says why.
async fn feed_all(
    mut upload: Upload,
    feeds: Vec<mpsc::Sender<Result<Bytes, Status>>>,
    done: Arc<AtomicU64>,
) -> Result<(), AdminError> {
    while let Some(request) = upload.next().await {
        let data = match request {
            Ok(v1::ImportModelRequest { part: Some(v1::import_model_request::Part::Data(data)) }) => data,
            other => {
                let why = other.map_or_else(|status| status.message().to_owned(), |_| "a second header".to_owned());
                for feed in &feeds {
                    drop(feed.send(Err(Status::aborted(why.clone()))).await);
                }
                return Err(AdminError::new(ErrorCode::BadRequest, "the upload broke off", why, "repeat the command"));
            }
        };
        let sends = feeds.iter().map(|feed| feed.send(Ok(data.clone())));
        let alive = join_all(sends).await.iter().any(Result::is_ok);
        done.fetch_add(data.len() as u64, Ordering::Relaxed);
        if !alive {
            break;
        }
    }
    Ok(())
}

fn refuse_different(wanted: &Wanted, targets: &[Member], digests: &[Digest]) -> Result<(), AdminError> {
    if digests.windows(2).all(|pair| pair[0] == pair[1]) {
        return Ok(());
    }
    let listed: Vec<String> =
        targets.iter().zip(digests).map(|(target, digest)| format!("{} {}", target.name, digest.short())).collect();
    Err(AdminError::new(
        ErrorCode::DigestConflict,
        format!("the runtimes made different models of {}; nothing was kept", wanted.name),
        listed.join(", "),
        "run the same release of the runtime on these nodes: ollamax node list",
    ))
}

fn target_error(target: &Member, status: &Status) -> AdminError {
    let code = code_of(status).unwrap_or(ErrorCode::PeerUnreachable);
    let what = format!("node {} could not take the model; nothing was kept", target.name);
    let next = match code {
        ErrorCode::BadRequest => "check the file: it must be a whole GGUF".to_owned(),
        ErrorCode::DiskFull => format!("free some space on {} and repeat the command", target.name),
        _ => format!("on {}: ollamax doctor", target.name),
    };
    AdminError::new(code, what, status.message(), next)
}

fn wanted(header: &v1::ImportModelHeader) -> Result<Wanted, AdminError> {
    let bad =
        |what: String| AdminError::new(ErrorCode::BadRequest, what, "a name is [host/][namespace/]model[:tag]", "");
    let name: ModelName = header.name.parse().map_err(|_| bad(format!("{:?} is not a model name", header.name)))?;
    let sha256 = header.sha256.clone().try_into().map(Digest);
    let sha256 = sha256.map_err(|_| bad("a SHA-256 digest has 32 bytes".to_owned()))?;
    let [host, namespace, _, _] = name.parts();
    let random: [u8; 6] = ollamax_security::random_bytes().map_err(|error| bad(error.to_string()))?;
    let temporary = format!("{host}/{namespace}/{TEMPORARY_PREFIX}{}:{TEMPORARY_TAG}", hex::encode(random));
    let temporary = temporary.parse().map_err(|_| bad("the name leaves no room for a temporary one".to_owned()))?;
    Ok(Wanted { name, temporary, sha256, size_bytes: header.size_bytes, held_before: Vec::new() })
}

/// The nodes named, or this one. Each must be present and meant to hold models.
fn targets(engines: &MemberEngines, names: &[String]) -> Result<Vec<Member>, AdminError> {
    let members = read::members(&*engines.metadata.view())?;
    let mut targets: Vec<Member> = Vec::new();
    let own = engines.node.to_string();
    let names = if names.is_empty() { std::slice::from_ref(&own) } else { names };
    for name in names {
        let id = name.parse::<NodeId>().ok();
        let found = members
            .iter()
            .filter(|member| !matches!(member.state, MemberState::Departed { .. }))
            .find(|member| Some(member.id) == id || member.name == *name)
            .ok_or_else(|| AdminError::node_not_found(name))?;
        if found.role == Role::Gateway {
            let what = format!("node {} is a gateway", found.name);
            let next = "name another with --node: ollamax node list";
            return Err(AdminError::new(ErrorCode::PreconditionFailed, what, "gateways hold no models", next));
        }
        if !targets.iter().any(|target| target.id == found.id) {
            targets.push(found.clone());
        }
    }
    Ok(targets)
}

fn digest(reply: v1::ImportModelReply) -> Result<Digest, Status> {
    let bytes = reply.digest.try_into().map_err(|_| Status::internal("a digest has 32 bytes"))?;
    Ok(Digest(bytes))
}
