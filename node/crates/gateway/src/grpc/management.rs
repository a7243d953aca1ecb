//! Ollama's management words for the cluster: a model that a runtime makes, a model that a runtime pushes. Who asks is
//! `grpc::pulls` and, over HTTP, `grpc::ollama`.
//!
//! Only a runtime makes models of files and only a runtime has an account at a registry, so one node is chosen and its
//! runtime does it: the one that holds what is needed, this one where it does. Its words are handed through. What it
//! was sent and what it made stays; a caller who leaves ends what is not done yet.

use std::collections::BTreeSet;
use std::future::ready;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use ollamax_core::catalog::{Fault, Location, Member, Phase, Refusal, Replicas, View, models, read};
use ollamax_core::health::Health;
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_proto::v1::create_part;
use ollamax_proto::v1::pull_progress::Stage;
use ollamax_proto::v1::runtime_event::Part as Event;
use ollamax_proto::v1::runtime_order::Part as Order;
use ollamax_transfer as transfer;
use ollamax_transfer::{Ask, AskedVersion};
use ollamax_types::limits::{CREATE_BODY_BYTES_MAX, CREATE_FILES_MAX};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Role};

use super::bundles::name_of;
use super::pulls::{ASKED_BY, Pulls, needs_wishes, parse, wish};
use super::registry::check_not_pinned;
use super::{AdminError, Engines, NotDone};
use crate::order;

mod files;

/// What is told of a work.
pub(super) type ProgressStream = BoxStream<'static, Result<v1::RuntimeProgress, Status>>;
/// The bytes of one file, as they come from the caller.
pub(super) type FileBytes = BoxStream<'static, io::Result<Bytes>>;
/// The bytes of the files, as they come from the caller; or why no more do.
type Pieces = BoxStream<'static, Result<Bytes, String>>;

/// How long a command waits for the catalog to name the copies that it made; without a quorum it never does.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Orders that wait for a node.
const ORDERS_WAITING_MAX: usize = 4;
/// Lines that wait for the caller.
const LINES_WAITING_MAX: usize = 16;

/// A model that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    name: ModelName,
    /// What it is made from, where that is a model.
    from: Option<ModelName>,
    /// For the runtime.
    body: Bytes,
    files: Vec<File>,
    replicas: u32,
}

/// A file of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct File {
    sha256: Digest,
    size_bytes: u64,
}

/// A work at the runtime of a node.
struct There {
    name: ModelName,
    node: NodeId,
    node_name: String,
    /// What is done there, for an error: `make` or `push`.
    verb: &'static str,
    orders: mpsc::Sender<v1::RuntimeOrder>,
    events: BoxStream<'static, Result<v1::RuntimeEvent, NotDone>>,
}

/// What a work tells while it goes on, and its failure behind that. Dropping this ends the work.
struct Telling {
    lines: mpsc::Receiver<v1::RuntimeProgress>,
    /// `None` when it is over.
    work: Option<BoxFuture<'static, Result<(), Status>>>,
    failure: Option<Status>,
}

/// Waits, bounded, until the catalog names every new copy, so that the next command sees what this one did.
pub async fn wait_until_known(metadata: &metadata::Handle, name: &ModelName, copies: &[v1::ImportedCopy]) {
    let are_known = |locations: &[Location]| {
        copies.iter().all(|copy| {
            locations.iter().any(|held| held.node.0 == copy.node_id && held.model.digest.0[..] == copy.digest[..])
        })
    };
    wait_for_copies(metadata, name, KNOWN_TIMEOUT, are_known).await;
}

/// Waits so long until the copies that the catalog names of a model are as they should be, and says whether they are.
pub(super) async fn wait_for_copies(
    metadata: &metadata::Handle,
    name: &ModelName,
    limit: Duration,
    are_right: impl Fn(&[Location]) -> bool,
) -> bool {
    let mut changes = metadata.changes();
    let right = async {
        loop {
            changes.borrow_and_update();
            if read::locations_of(&*metadata.view(), name).is_ok_and(|copies| are_right(&copies)) {
                return true;
            }
            if changes.changed().await.is_err() {
                return false;
            }
        }
    };
    tokio::time::timeout(limit, right).await.unwrap_or(false)
}

// === impl Pulls ===

impl Pulls {
    /// A model that the runtime of one node makes, and as many copies of it as are wanted.
    pub(super) async fn create_model(
        &self,
        mut parts: Streaming<v1::CreatePart>,
    ) -> Result<ProgressStream, AdminError> {
        let metadata = self.0.metadata()?;
        let first = parts.message().await.ok().flatten().and_then(|part| part.part);
        let Some(create_part::Part::Head(head)) = first else { return Err(bad("a model that is made has no head")) };
        let wanted = Wanted::read(head)?;
        let version = order::cluster_version(&*metadata.view())?;
        if wanted.replicas > 1 && version < order::WISHES_VERSION {
            return Err(needs_wishes(version));
        }
        let maker = self.maker_of(&metadata, wanted.from.as_ref()).await?;
        let pieces = parts.map(|part| match part.map(|part| part.part) {
            Ok(Some(create_part::Part::Data(data))) => Ok(data),
            Ok(_) => Err("a part of it has no bytes".to_owned()),
            Err(status) => Err(status.message().to_owned()),
        });
        self.make_at(&maker, wanted, pieces.boxed())
    }

    /// Has the runtime of a node make it, and then as many copies as are wanted.
    fn make_at(&self, maker: &Member, wanted: Wanted, pieces: Pieces) -> Result<ProgressStream, AdminError> {
        let Engines { metadata, transfer, .. } = self.0.engines()?;
        check_open(&*metadata.view(), &wanted.name)?;
        let there = self.there(&wanted.name, maker, "make", wanted.order());
        Ok(told(|lines| async move {
            let copy = make(&wanted, there, pieces, &lines).await?;
            let made = copy.digest.clone().try_into().map(Digest);
            let made = made.map_err(|_| no_digest(&wanted.name, &copy.node_name))?;
            wait_until_known(&metadata, &wanted.name, &[imported(&copy)]).await;
            drop(lines.send(copy).await);
            if wanted.replicas > 1 {
                let known = read::locations_of(&*metadata.view(), &wanted.name).map_err(AdminError::from)?;
                let ask = further(&wanted, made, &known);
                spread(transfer, metadata, ask, made, &lines).await?;
            }
            Ok::<(), Status>(())
        }))
    }

    /// A model that the runtime of a node that holds it gives to its registry.
    pub(super) async fn push_model(&self, asked: &v1::PushRequest) -> Result<ProgressStream, AdminError> {
        let Engines { metadata, .. } = self.0.engines()?;
        let name = parse(&asked.name)?;
        let giver = match self.giver(&metadata, &name, &asked.node) {
            // It may have been made a moment ago, through another node.
            Err(error) if error.code == ErrorCode::ModelNotFound => {
                self.giver(&self.0.fresh(false).await?, &name, &asked.node)?
            }
            giver => giver?,
        };
        let push = v1::RuntimePush { name: name.to_string(), insecure: asked.insecure };
        let there = self.there(&name, &giver, "push", Order::Push(push));
        Ok(told(|lines| async move {
            let given = follow(there, &lines).await?;
            drop(lines.send(given).await);
            Ok::<(), Status>(())
        }))
    }

    /// As [`Pulls::maker`], of a base that may have been made a moment ago, through another node.
    async fn maker_of(&self, metadata: &metadata::Handle, from: Option<&ModelName>) -> Result<Member, AdminError> {
        let is_seen = match from {
            Some(from) => !read::locations_of(&*metadata.view(), from)?.is_empty(),
            None => true,
        };
        if !is_seen {
            // Where no majority answers, what is seen here holds.
            drop(self.0.fresh(false).await);
        }
        self.maker(metadata, from)
    }

    /// Where a model is made: where what it is made from lies, else here, where the runtime may fetch it.
    fn maker(&self, metadata: &metadata::Handle, from: Option<&ModelName>) -> Result<Member, AdminError> {
        let own = metadata.node();
        let held = match from {
            Some(from) => choose(&*metadata.view(), from, own, &self.alive())?,
            None => None,
        };
        let chosen = held.unwrap_or(own);
        let maker = self.0.find(&chosen.to_string())?;
        if maker.role == Role::Gateway {
            let what = format!("node {} is a gateway", maker.name);
            let next = "run it on a node that holds models: ollamax node list";
            return Err(AdminError::new(ErrorCode::PreconditionFailed, what, "gateways hold no models", next));
        }
        Ok(maker)
    }

    /// Who pushes a model: the node that is named, which must hold it, else this one where it does, else another one.
    fn giver(&self, metadata: &metadata::Handle, name: &ModelName, named: &str) -> Result<Member, AdminError> {
        if named.is_empty() {
            let chosen = choose(&*metadata.view(), name, metadata.node(), &self.alive())?;
            let chosen = chosen.ok_or_else(|| not_held(name, "any node", &[]))?;
            return self.0.find(&chosen.to_string());
        }
        let (giver, view) = (self.0.find(named)?, metadata.view());
        let pinned = models::pin_of(&*view, name)?;
        let mut copies = read::locations_of(&*view, name)?;
        copies.retain(|copy| pinned.is_none_or(|pinned| copy.model.digest == pinned));
        if copies.iter().any(|copy| copy.node == giver.id) {
            return Ok(giver);
        }
        let holders: Vec<String> = copies.iter().map(|copy| name_of(metadata, copy.node)).collect();
        Err(not_held(name, &giver.name, &holders))
    }

    /// Begins a work at a node.
    fn there(&self, name: &ModelName, node: &Member, verb: &'static str, first: Order) -> There {
        let (orders, waiting) = mpsc::channel(ORDERS_WAITING_MAX);
        let all = stream::once(ready(ordered(first))).chain(ReceiverStream::new(waiting));
        let events = self.0.daemon.at_runtime(node.id, all.boxed());
        There { name: name.clone(), node: node.id, node_name: node.name.clone(), verb, orders, events }
    }

    /// The other nodes that answer.
    pub(super) fn alive(&self) -> BTreeSet<NodeId> {
        let peers = self.0.peers();
        peers.iter().filter(|peer| peer.health == Health::Alive).map(|peer| peer.beat.node).collect()
    }
}

/// Nothing is made under a name that is pinned, since what would be made is another version, or disabled.
fn check_open(view: &dyn View, name: &ModelName) -> Result<(), AdminError> {
    let Some(model) = read::model(view, name)? else { return Ok(()) };
    check_not_pinned(name, model.pinned())?;
    match model.phase {
        Phase::Disabled(_) => Err(Refusal::Disabled(name.clone()).into()),
        _ => Ok(()),
    }
}

/// Which holder of the version that a name stands for does it: this node, else the first that answers, else the first.
fn choose(view: &dyn View, name: &ModelName, own: NodeId, alive: &BTreeSet<NodeId>) -> Result<Option<NodeId>, Fault> {
    let copies = read::locations_of(view, name)?;
    let holders = models::holders(None, models::pin_of(view, name)?, &copies);
    let answers = || holders.iter().find(|node| alive.contains(*node));
    Ok(holders.get(&own).or_else(answers).or_else(|| holders.first()).copied())
}

/// Sends what the runtime lacks, and follows it until the model is there.
async fn make(
    wanted: &Wanted,
    mut there: There,
    pieces: Pieces,
    lines: &mpsc::Sender<v1::RuntimeProgress>,
) -> Result<v1::RuntimeProgress, AdminError> {
    let wants = match there.event().await? {
        Event::Wants(wants) => wants.files.into_iter().collect::<BTreeSet<u32>>(),
        Event::Step(_) | Event::Done(_) => return Err(there.out_of_order()),
    };
    let early = {
        let feeding = feed(&wanted.files, &wants, pieces, &there.orders, |sha256, total_bytes, completed_bytes| {
            // A slow reader misses some of these, and none of the runtime's own.
            let (status, layer) = ("uploading".to_owned(), format!("sha256:{sha256}"));
            let step = v1::RuntimeStep { status, layer, total_bytes, completed_bytes };
            drop(lines.try_send(progress(&there.name, there.node, &there.node_name, step)));
        });
        tokio::pin!(feeding);
        tokio::select! {
            biased;
            fed = &mut feeding => {
                fed?;
                None
            }
            early = there.events.next() => Some(early),
        }
    };
    match early {
        None => follow(there, lines).await,
        // Nothing may be told before all bytes are there, but why it ends.
        Some(Some(Err(error))) => Err(there.failed(&error)),
        Some(Some(Ok(_))) => Err(there.out_of_order()),
        Some(None) => Err(there.ended()),
    }
}

/// Hands on the bytes of the files that are wanted, up to the last of them; those between are passed over.
async fn feed(
    files: &[File],
    wants: &BTreeSet<u32>,
    mut pieces: Pieces,
    orders: &mpsc::Sender<v1::RuntimeOrder>,
    mut tell: impl FnMut(Digest, u64, u64) + Send,
) -> Result<(), AdminError> {
    let Some(last) = wants.last() else { return Ok(()) };
    for (at, file) in (0..=*last).zip(files) {
        let mut left = file.size_bytes;
        while left > 0 {
            let piece = pieces.next().await.unwrap_or_else(|| Err("it ended too early".to_owned())).map_err(cut)?;
            let length = piece.len() as u64;
            if length == 0 || length > left {
                return Err(cut("its parts are not those of its files".to_owned()));
            }
            left -= length;
            if wants.contains(&at) {
                if orders.send(ordered(Order::Data(piece))).await.is_err() {
                    // Whoever took them says why it does not any more.
                    return Ok(());
                }
                tell(file.sha256, file.size_bytes, file.size_bytes - left);
            }
        }
    }
    Ok(())
}

/// Hands on what the runtime says, until it has done what was asked; that is not told yet.
async fn follow(
    mut there: There,
    lines: &mpsc::Sender<v1::RuntimeProgress>,
) -> Result<v1::RuntimeProgress, AdminError> {
    loop {
        match there.event().await? {
            Event::Step(step) => {
                drop(lines.send(progress(&there.name, there.node, &there.node_name, step)).await);
            }
            Event::Done(v1::RuntimeDone { digest }) => {
                let told = progress(&there.name, there.node, &there.node_name, v1::RuntimeStep::default());
                return Ok(v1::RuntimeProgress { digest, ..told });
            }
            Event::Wants(_) => return Err(there.out_of_order()),
        }
    }
}

/// What is asked of the cluster: copies of the very version that was made, whatever a registry has of its name.
fn further(wanted: &Wanted, made: Digest, known: &[Location]) -> Ask {
    let copy = known.iter().find(|copy| copy.model.digest == made);
    let version = AskedVersion { digest: made, size_bytes: copy.map_or(0, |copy| copy.model.size_bytes) };
    let (name, replicas, asked_by) = (wanted.name.clone(), Replicas::Count(wanted.replicas), ASKED_BY.to_owned());
    Ask { name, replicas, is_said: true, insecure: false, want: None, version: Some(version), asked_by, once: None }
}

/// Asks for further copies, and follows them. They must be of the version that was made.
async fn spread(
    transfer: transfer::Handle,
    metadata: metadata::Handle,
    ask: Ask,
    made: Digest,
    lines: &mpsc::Sender<v1::RuntimeProgress>,
) -> Result<(), Status> {
    let name = ask.name.clone();
    let mut copies = wish(transfer, metadata, ask, true, None).await?;
    while let Some(copy) = copies.next().await {
        let copy = copy?;
        if copy.stage() == Stage::Done && !copy.digest.is_empty() && copy.digest != made.0 {
            return Err(other_version(&name, &copy.node_name).into());
        }
        drop(lines.send(v1::RuntimeProgress { copy: Some(copy), ..v1::RuntimeProgress::default() }).await);
    }
    Ok(())
}

/// Tells what a work tells, and then its failure.
fn told<W>(work: impl FnOnce(mpsc::Sender<v1::RuntimeProgress>) -> W) -> ProgressStream
where
    W: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sender, lines) = mpsc::channel(LINES_WAITING_MAX);
    let telling = Telling { lines, work: Some(work(sender).boxed()), failure: None };
    stream::unfold(telling, Telling::next).boxed()
}

// === impl Telling ===

impl Telling {
    async fn next(mut self) -> Option<(Result<v1::RuntimeProgress, Status>, Self)> {
        loop {
            let Some(work) = &mut self.work else {
                let next = match self.lines.recv().await {
                    Some(line) => Ok(line),
                    None => Err(self.failure.take()?),
                };
                return Some((next, self));
            };
            tokio::select! {
                biased;
                Some(line) = self.lines.recv() => return Some((Ok(line), self)),
                ended = work => {
                    self.work = None;
                    self.failure = ended.err();
                }
            }
        }
    }
}

// === impl There ===

impl There {
    async fn event(&mut self) -> Result<Event, AdminError> {
        let Some(event) = self.events.next().await else { return Err(self.ended()) };
        let event = event.map_err(|error| self.failed(&error))?;
        event.part.ok_or_else(|| self.out_of_order())
    }

    fn ended(&self) -> AdminError {
        self.failed(&NotDone { code: ErrorCode::RuntimeFailed, text: "it ended before it had done it".to_owned() })
    }

    fn out_of_order(&self) -> AdminError {
        self.failed(&NotDone { code: ErrorCode::RuntimeFailed, text: "it answered out of order".to_owned() })
    }

    fn failed(&self, error: &NotDone) -> AdminError {
        let Self { name, node_name, verb, .. } = self;
        let next = match error.code {
            ErrorCode::BadRequest => "correct what it does not like, and repeat the command".to_owned(),
            ErrorCode::ModelNotFound => "ollamax model list".to_owned(),
            ErrorCode::DiskFull => format!("free some space on {node_name} and repeat the command"),
            ErrorCode::NotImplemented => format!("upgrade {node_name}, or run it on a node of this release"),
            ErrorCode::PeerUnreachable => "ollamax node list".to_owned(),
            ErrorCode::RuntimeFailed if *verb == "push" => after_push(&error.text, node_name),
            _ => format!("on {node_name}: ollamax doctor"),
        };
        AdminError::new(error.code, format!("node {node_name} could not {verb} {name}"), &*error.text, next)
    }
}

/// What to try where a runtime could not push, by what it said.
fn after_push(said: &str, node: &str) -> String {
    const PLAIN: [&str; 2] = ["server gave HTTP response to HTTPS client", "first record does not look like a TLS"];
    const AWAY: [&str; 6] = [
        "no such host",
        "connection refused",
        "no route to host",
        "network is unreachable",
        "i/o timeout",
        "server misbehaving",
    ];
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let takes_none = said.split_whitespace().any(|word| matches!(word, "405:" | "501:"));
    if says(&PLAIN) {
        "the registry speaks plain HTTP: repeat the command with --insecure".to_owned()
    } else if says(&AWAY) {
        format!("look at the registry in the name, and whether {node} reaches it")
    } else if said.trim_end().ends_with("EOF") {
        // A server of plain HTTP may close at the beginning of TLS.
        "look at the registry in the name; if it speaks plain HTTP: repeat the command with --insecure".to_owned()
    } else if takes_none {
        "that registry takes no models: push to a name of another one".to_owned()
    } else {
        format!("look whether the account of the runtime on {node} may write there")
    }
}

// === impl Wanted ===

impl Wanted {
    fn read(head: v1::CreateHead) -> Result<Self, AdminError> {
        let name = parse(&head.name)?;
        if head.body.len() > CREATE_BODY_BYTES_MAX {
            return Err(bad(format!("the description of {name} is larger than {CREATE_BODY_BYTES_MAX} bytes")));
        }
        if head.files.len() > CREATE_FILES_MAX {
            return Err(bad(format!("a model is made of {CREATE_FILES_MAX} files at most")));
        }
        let body: Result<Map<String, Value>, _> = serde_json::from_slice(&head.body);
        let mut body = body.map_err(|error| bad(format!("the description of {name} is no JSON object: {error}")))?;
        body.insert("model".to_owned(), name.to_string().into());
        body.insert("stream".to_owned(), true.into());
        let from = match body.get("from") {
            None => None,
            Some(from) => Some(parse(from.as_str().unwrap_or_default())?),
        };
        let file = |file: v1::CreateFile| -> Result<File, AdminError> {
            let sha256 = file.sha256.try_into().map(Digest);
            let sha256 = sha256.map_err(|_| bad("a SHA-256 digest has 32 bytes"))?;
            Ok(File { sha256, size_bytes: file.size_bytes })
        };
        let files = head.files.into_iter().map(file).collect::<Result<Vec<File>, AdminError>>()?;
        let body = Value::Object(body).to_string().into();
        Ok(Self { name, from, body, files, replicas: head.replicas.max(1) })
    }

    fn order(&self) -> Order {
        let file = |file: &File| v1::RuntimeFile { sha256: file.sha256.0.to_vec(), size_bytes: file.size_bytes };
        let files = self.files.iter().map(file).collect();
        Order::Create(v1::RuntimeCreate { name: self.name.to_string(), body: self.body.clone(), files })
    }
}

const fn ordered(part: Order) -> v1::RuntimeOrder {
    v1::RuntimeOrder { part: Some(part) }
}

fn progress(name: &ModelName, node: NodeId, node_name: &str, step: v1::RuntimeStep) -> v1::RuntimeProgress {
    let v1::RuntimeStep { status, layer, total_bytes, completed_bytes } = step;
    v1::RuntimeProgress {
        name: name.to_string(),
        node_id: node.0,
        node_name: node_name.to_owned(),
        status,
        layer,
        total_bytes,
        completed_bytes,
        digest: Vec::new(),
        copy: None,
    }
}

fn imported(copy: &v1::RuntimeProgress) -> v1::ImportedCopy {
    v1::ImportedCopy { node_id: copy.node_id, node_name: copy.node_name.clone(), digest: copy.digest.clone() }
}

fn bad(what: impl Into<String>) -> AdminError {
    AdminError::new(ErrorCode::BadRequest, what, "", "ollamax model create NAME FILE.gguf, or --from BASE")
}

/// The upload came to no good end.
fn cut(why: String) -> AdminError {
    AdminError::new(ErrorCode::BadRequest, "the upload broke off", why, "repeat the command")
}

/// A model that is not where it is to be pushed from.
fn not_held(name: &ModelName, node: &str, holders: &[String]) -> AdminError {
    let (why, next) = match holders {
        [] => ("no node has it".to_owned(), "ollamax model list".to_owned()),
        [first, ..] => {
            (format!("it is on {}", holders.join(" and ")), format!("ollamax model push {name} --node {first}"))
        }
    };
    AdminError::new(ErrorCode::ModelNotFound, format!("{name} is not on {node}"), why, next)
}

/// A runtime that does not say what it made.
fn no_digest(name: &ModelName, node: &str) -> AdminError {
    let what = format!("node {node} made {name}, but does not say which version");
    AdminError::new(ErrorCode::RuntimeFailed, what, "a version is told by a SHA-256", "ollamax model list")
}

/// A copy of something else.
fn other_version(name: &ModelName, node: &str) -> AdminError {
    AdminError::new(
        ErrorCode::DigestConflict,
        format!("node {node} has another {name} than the one that was made"),
        "somebody gave the name another version meanwhile, and that one spread",
        format!("ollamax model history {name}"),
    )
}

#[cfg(test)]
mod tests;
