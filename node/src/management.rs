//! What Ollama's management words do beside one runtime: a file that it takes, a model that it makes, a model that it
//! pushes.
//!
//! The stream of orders is the hold of whoever asked: when nobody listens any more the work ends at the runtime. Files
//! that came whole stay in its store, as with Ollama's own client. Nothing is repeated and nothing is undone: a name
//! stands for the new model from the moment on at which the runtime says so.

use std::io;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Code, Response, Status};

use ollamax_gateway::grpc::NotDone;
use ollamax_net::{Class, NetHandle};
use ollamax_outbound::{Client, RuntimeError, RuntimeHandle, UPLOAD_TIMEOUT, WorkStep};
use ollamax_proto::v1;
use ollamax_proto::v1::inference_client::InferenceClient;
use ollamax_proto::v1::runtime_event::Part as Event;
use ollamax_proto::v1::runtime_order::Part as Order;
use ollamax_types::limits::CREATE_FILES_MAX;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use crate::adapters::outgoing::Outgoing;
use crate::adapters::status::{code_of, refusal};
use crate::import::plan;
use crate::import::store::ModelStore;

/// Orders, as they arrive from the node that was asked.
pub(crate) type Orders = BoxStream<'static, Result<v1::RuntimeOrder, Status>>;
/// What that node is told.
pub(crate) type Events = BoxStream<'static, Result<v1::RuntimeEvent, Status>>;

/// Events that wait for the other node.
const EVENTS_WAITING_MAX: usize = 16;
/// Chunks that wait for the runtime.
const CHUNKS_WAITING_MAX: usize = 1;
/// What is said where nothing can be done.
const NO_RUNTIME: &str = "there is no runtime beside this node; run ollamax doctor there";

/// How an Ollama on a full disk ends what it says.
const NO_SPACE: &str = "no space left on device";

/// The runtimes of the cluster, for what only a runtime can do.
#[derive(Debug, Clone)]
pub(crate) struct Management {
    net: NetHandle,
    runtime: RuntimeHandle,
    tasks: TaskTracker,
}

/// A file that a model is made of.
#[derive(Debug, Clone, Copy)]
struct Piece {
    sha256: Digest,
    size_bytes: u64,
}

/// The part of this node in one work.
struct Part<'a, S> {
    store: &'a S,
    orders: Orders,
    events: &'a mpsc::Sender<Result<v1::RuntimeEvent, Status>>,
}

// === impl Management ===

impl Management {
    /// Works with whatever runtime this node has, and reaches those of others; its own part runs in `tasks`.
    #[must_use]
    pub(crate) const fn new(net: NetHandle, runtime: RuntimeHandle, tasks: TaskTracker) -> Self {
        Self { net, runtime, tasks }
    }

    /// Has the runtime beside a node do what the first order says; `own` is this node, once it has an id.
    pub(crate) fn at(
        &self,
        own: Option<NodeId>,
        node: NodeId,
        orders: BoxStream<'static, v1::RuntimeOrder>,
    ) -> BoxStream<'static, Result<v1::RuntimeEvent, NotDone>> {
        let events = if own == Some(node) {
            self.take_part(orders.map(Ok).boxed())
        } else {
            let mut client = InferenceClient::new(self.net.channel(node, Class::Inference));
            let opened = async move { client.manage(Outgoing(orders)).await.map(Response::into_inner) };
            stream::once(opened).try_flatten().boxed()
        };
        events.map(|event| event.map_err(|status| not_done(&status))).boxed()
    }

    /// Whether the runtime beside this node has a file.
    pub(crate) fn has_file(&self, sha256: Digest) -> BoxFuture<'static, Result<bool, NotDone>> {
        let client = self.client();
        async move { client?.has_file(sha256).await.map_err(not_taken) }.boxed()
    }

    /// Hands a file to the runtime beside this node, unless it has it. What breaks off, and what is dropped, leaves
    /// nothing there.
    pub(crate) fn take_file(
        &self,
        sha256: Digest,
        size_bytes: Option<u64>,
        bytes: BoxStream<'static, io::Result<Bytes>>,
    ) -> BoxFuture<'static, Result<(), NotDone>> {
        let client = self.client();
        async move { client?.take_file(sha256, size_bytes, bytes).await.map_err(not_taken) }.boxed()
    }

    fn client(&self) -> Result<Client, NotDone> {
        let none = || NotDone { code: ErrorCode::RuntimeUnavailable, text: NO_RUNTIME.to_owned() };
        self.runtime.client().ok_or_else(none)
    }

    /// Does what the first order says.
    pub(crate) fn take_part(&self, orders: Orders) -> Events {
        let (events, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
        let runtime = self.runtime.clone();
        // Told through the stream; ends when nobody reads it any more, and with it the work at the runtime.
        self.tasks.spawn(async move {
            let ended = tokio::select! {
                biased;
                () = events.closed() => return,
                ended = work(runtime, orders, &events) => ended,
            };
            if let Err(status) = ended {
                drop(events.send(Err(status)).await);
            }
        });
        ReceiverStream::new(receiver).boxed()
    }
}

async fn work(
    runtime: RuntimeHandle,
    orders: Orders,
    events: &mpsc::Sender<Result<v1::RuntimeEvent, Status>>,
) -> Result<(), Status> {
    let client = runtime.client().ok_or_else(|| refusal(ErrorCode::RuntimeUnavailable, NO_RUNTIME))?;
    Part { store: &client, orders, events }.follow().await
}

// === impl Part ===

impl<S: ModelStore> Part<'_, S> {
    async fn follow(&mut self) -> Result<(), Status> {
        let name = match self.order().await? {
            Order::Create(asked) => {
                let name = self.make(asked).await?;
                tracing::info!(model = %name, "the runtime made a model");
                name
            }
            Order::Push(asked) => {
                let name = parse(&asked.name)?;
                self.tell_all(self.store.give(&name, asked.insecure)).await?;
                tracing::info!(model = %name, "the runtime pushed a model");
                name
            }
            Order::Data(_) => return Err(out_of_order()),
        };
        let listed = self.store.list().await.map_err(|error| runtime_status(&error))?;
        let missing = || refusal(ErrorCode::RuntimeFailed, "the runtime has done it, but does not list the model");
        let digest = plan::digest_of(&listed, &name).ok_or_else(missing)?;
        self.tell(Event::Done(v1::RuntimeDone { digest: digest.0.to_vec() })).await
    }

    async fn make(&mut self, asked: v1::RuntimeCreate) -> Result<ModelName, Status> {
        let name = parse(&asked.name)?;
        let files = pieces(&asked.files)?;
        let mut wants = Vec::new();
        for (at, file) in (0..).zip(&files) {
            if !self.store.has_file(file.sha256).await.map_err(|error| runtime_status(&error))? {
                wants.push(at);
            }
        }
        self.tell(Event::Wants(v1::RuntimeWants { files: wants.clone() })).await?;
        for (at, file) in (0..).zip(&files) {
            if wants.contains(&at) {
                self.take_file(*file).await?;
            }
        }
        self.tell_all(self.store.make(asked.body)).await?;
        Ok(name)
    }

    /// Hands the bytes of one file on; they must be as many as were said.
    async fn take_file(&mut self, file: Piece) -> Result<(), Status> {
        let (body, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
        let taking = self.store.take_file(file.sha256, Some(file.size_bytes), ReceiverStream::new(chunks).boxed());
        let (taken, handed) = tokio::join!(taking, hand_on(&mut self.orders, file.size_bytes, body));
        let mut left = handed?;
        taken.map_err(|error| runtime_status(&error))?;
        // Where it wanted no more, the runtime got the file by another way meanwhile.
        while left > 0 {
            left -= data(&mut self.orders, left).await?.len() as u64;
        }
        Ok(())
    }

    /// Tells what the runtime tells, until it has done it.
    async fn tell_all(&mut self, mut steps: BoxStream<'static, Result<WorkStep, RuntimeError>>) -> Result<(), Status> {
        while let Some(step) = steps.next().await {
            match step.map_err(|error| runtime_status(&error))? {
                WorkStep::Went { status, layer, total_bytes, completed_bytes } => {
                    let step = v1::RuntimeStep { status, layer, total_bytes, completed_bytes };
                    self.tell(Event::Step(step)).await?;
                }
                WorkStep::Done => return Ok(()),
            }
        }
        Err(refusal(ErrorCode::RuntimeFailed, "the runtime does not say that it has done it"))
    }

    async fn order(&mut self) -> Result<Order, Status> {
        next(&mut self.orders).await
    }

    async fn tell(&mut self, event: Event) -> Result<(), Status> {
        let event = v1::RuntimeEvent { part: Some(event) };
        self.events.send(Ok(event)).await.map_err(|_| given_up("nobody listens any more"))
    }
}

/// Hands so many bytes on, and says how many are left when the runtime wants no more. A break is told to both.
async fn hand_on(orders: &mut Orders, size_bytes: u64, body: mpsc::Sender<io::Result<Bytes>>) -> Result<u64, Status> {
    let mut left = size_bytes;
    while left > 0 {
        match data(orders, left).await {
            Ok(data) => {
                left -= data.len() as u64;
                if body.send(Ok(data)).await.is_err() {
                    break;
                }
            }
            Err(status) => {
                drop(body.send(Err(io::Error::new(io::ErrorKind::UnexpectedEof, status.message().to_owned()))).await);
                return Err(status);
            }
        }
    }
    Ok(left)
}

/// The next bytes of a file that has so many more.
async fn data(orders: &mut Orders, left: u64) -> Result<Bytes, Status> {
    match next(orders).await? {
        Order::Data(data) if data.len() as u64 <= left => Ok(data),
        _ => Err(out_of_order()),
    }
}

async fn next(orders: &mut Orders) -> Result<Order, Status> {
    let order = timeout(UPLOAD_TIMEOUT, orders.next()).await.map_err(|_| given_up("no order came"))?;
    let order = order.ok_or_else(|| given_up("its stream ended"))?;
    let order = order.map_err(|status| given_up(status.message()))?;
    order.part.ok_or_else(out_of_order)
}

fn parse(name: &str) -> Result<ModelName, Status> {
    let bad = |why: &str| refusal(ErrorCode::BadRequest, &format!("{name:?} {why}"));
    let parsed: ModelName = name.parse().map_err(|_| bad("is not a model name"))?;
    if plan::is_temporary(&parsed) {
        Err(bad("is a name that imports and pulls use for themselves"))
    } else {
        Ok(parsed)
    }
}

fn pieces(files: &[v1::RuntimeFile]) -> Result<Vec<Piece>, Status> {
    let bad = |what: &str| refusal(ErrorCode::BadRequest, what);
    if files.len() > CREATE_FILES_MAX {
        return Err(bad(&format!("a model is made of {CREATE_FILES_MAX} files at most")));
    }
    let piece = |file: &v1::RuntimeFile| -> Result<Piece, Status> {
        let sha256 = file.sha256.clone().try_into().map(Digest);
        let sha256 = sha256.map_err(|_| bad("a SHA-256 digest has 32 bytes"))?;
        Ok(Piece { sha256, size_bytes: file.size_bytes })
    };
    files.iter().map(piece).collect()
}

/// What another node, or the way to it, said.
fn not_done(status: &Status) -> NotDone {
    match code_of(status) {
        Some(code) => NotDone { code, text: status.message().to_owned() },
        None if status.code() == Code::Unimplemented => {
            let text = "it runs an older release, which does not do this for others".to_owned();
            NotDone { code: ErrorCode::NotImplemented, text }
        }
        None => NotDone { code: ErrorCode::PeerUnreachable, text: status.message().to_owned() },
    }
}

/// Why the runtime beside this node did not take a file, in its own words where it has some.
fn not_taken(error: RuntimeError) -> NotDone {
    let code = error.code();
    match error {
        // Ollama has no status of its own for it.
        RuntimeError::Refused { message, .. } if message.ends_with(NO_SPACE) => {
            NotDone { code: ErrorCode::DiskFull, text: message }
        }
        RuntimeError::Refused { message, .. } => NotDone { code, text: message },
        other => NotDone { code, text: other.to_string() },
    }
}

fn given_up(why: &str) -> Status {
    refusal(ErrorCode::DeadlineExceeded, &format!("the work was given up: {why}"))
}

fn out_of_order() -> Status {
    refusal(ErrorCode::BadRequest, "the orders are what to do, and then the bytes of the files that are wanted")
}

fn runtime_status(error: &RuntimeError) -> Status {
    refusal(error.code(), &error.to_string())
}

#[cfg(test)]
mod tests {
    use crate::import::mem::MemStore;

    use super::*;

    const ONE: Digest = Digest([1; 32]);
    const TWO: Digest = Digest([2; 32]);
    const BODY: &str = r#"{"model":"mine"}"#;

    fn create(files: &[(Digest, u64)]) -> Order {
        let file = |(sha256, size_bytes): &(Digest, u64)| v1::RuntimeFile {
            sha256: sha256.0.to_vec(),
            size_bytes: *size_bytes,
        };
        let files = files.iter().map(file).collect();
        Order::Create(v1::RuntimeCreate { name: "mine".to_owned(), body: Bytes::from_static(BODY.as_bytes()), files })
    }

    fn bytes(bytes: &'static [u8]) -> Order {
        Order::Data(Bytes::from_static(bytes))
    }

    /// What is told of these orders, and how the work ended.
    async fn told(store: &MemStore, orders: &[Order]) -> (Vec<Event>, Result<(), ErrorCode>) {
        let orders: Vec<_> = orders.iter().map(|part| Ok(v1::RuntimeOrder { part: Some(part.clone()) })).collect();
        let (events, mut receiver) = mpsc::channel(16);
        let ended = Part { store, orders: stream::iter(orders).boxed(), events: &events }.follow().await;
        drop(events);
        let mut told = Vec::new();
        while let Some(event) = receiver.recv().await {
            told.push(event.expect("only the end is an error").part.expect("each has something"));
        }
        (told, ended.map_err(|status| code_of(&status).expect("each has a code")))
    }

    fn step() -> Event {
        let (status, layer) = ("at work".to_owned(), String::new());
        Event::Step(v1::RuntimeStep { status, layer, total_bytes: 9, completed_bytes: 4 })
    }

    fn done(store: &MemStore) -> Event {
        let made = store.models().into_values().next().expect("a model");
        Event::Done(v1::RuntimeDone { digest: made.0.to_vec() })
    }

    #[tokio::test]
    async fn only_files_that_the_runtime_lacks_are_asked_for_and_then_it_makes_the_model() {
        let wants = |files: &[u32]| Event::Wants(v1::RuntimeWants { files: files.to_vec() });
        let both = [(ONE, 4), (TWO, 3)];
        let store = MemStore::default();
        let (events, ended) = told(&store, &[create(&both), bytes(b"GG"), bytes(b"UF"), bytes(b"two")]).await;
        assert_eq!((events, ended), (vec![wants(&[0, 1]), step(), done(&store)], Ok(())));
        assert_eq!((store.files(), store.asked()), (vec![ONE, TWO], vec![BODY.to_owned()]));

        let store = MemStore::default().holding(ONE);
        let (events, ended) = told(&store, &[create(&both), bytes(b"two")]).await;
        assert_eq!((events, ended), (vec![wants(&[1]), step(), done(&store)], Ok(())));
        // From another model: no file at all.
        let store = MemStore::default();
        let (events, ended) = told(&store, &[create(&[])]).await;
        assert_eq!((events, ended), (vec![wants(&[]), step(), done(&store)], Ok(())));
    }

    #[tokio::test]
    async fn what_breaks_off_or_does_not_fit_makes_no_model() {
        let rows: [(&str, Vec<Order>, ErrorCode); 5] = [
            ("too few bytes", vec![create(&[(ONE, 4)]), bytes(b"GGU")], ErrorCode::DeadlineExceeded),
            ("too many bytes", vec![create(&[(ONE, 4)]), bytes(b"GGUFF")], ErrorCode::BadRequest),
            ("something else", vec![create(&[(ONE, 4)]), create(&[])], ErrorCode::BadRequest),
            ("bytes of nothing", vec![bytes(b"GGUF")], ErrorCode::BadRequest),
            ("no orders", vec![], ErrorCode::DeadlineExceeded),
        ];
        for (what, orders, code) in rows {
            let store = MemStore::default();
            let (_, ended) = told(&store, &orders).await;
            assert_eq!(ended, Err(code), "{what}");
            assert!(store.asked().is_empty() && store.files().is_empty(), "{what}");
        }
    }

    #[tokio::test]
    async fn what_the_runtime_refuses_is_told_behind_what_it_did() {
        let store = MemStore::default().fail_after(1);
        let (events, ended) = told(&store, &[create(&[(ONE, 4)]), bytes(b"GGUF")]).await;
        assert_eq!((events.len(), events.last(), ended), (2, Some(&step()), Err(ErrorCode::RuntimeFailed)));
        assert!(store.models().is_empty());
    }

    #[tokio::test]
    async fn a_model_is_pushed_by_the_runtime_that_has_it() {
        let push = |name: &str| Order::Push(v1::RuntimePush { name: name.to_owned(), insecure: true });
        let store = MemStore::with(&[("me/mine", ONE)]);
        let (events, ended) = told(&store, &[push("me/mine")]).await;
        assert_eq!((events, ended), (vec![step(), done(&store)], Ok(())));
        assert_eq!(store.asked(), ["me/mine:latest insecure true"]);
        for name in ["", "a b", "unfinished.00112233445566ff.import.ollamax.h/me/demo"] {
            assert_eq!(told(&store, &[push(name)]).await, (vec![], Err(ErrorCode::BadRequest)), "{name}");
        }
    }

    #[test]
    fn why_a_file_was_not_taken_is_told_in_the_runtimes_words() {
        let (path, message) = ("/api/blobs/sha256:07".to_owned(), "digest mismatch".to_owned());
        let told = not_taken(RuntimeError::Refused { path, status: 400, message: message.clone() });
        assert_eq!(told, NotDone { code: ErrorCode::BadRequest, text: message });
        let (path, message) = (String::new(), "write /models/blobs/sha256-12: no space left on device".to_owned());
        let told = not_taken(RuntimeError::Refused { path, status: 500, message: message.clone() });
        assert_eq!(told, NotDone { code: ErrorCode::DiskFull, text: message });
        let told = not_taken(RuntimeError::UploadFailed { reason: "the client left".to_owned() });
        assert_eq!((told.code, told.text.as_str()), (ErrorCode::BadRequest, "the upload broke off: the client left"));
    }

    #[test]
    fn an_older_member_is_told_from_one_that_cannot_be_reached() {
        let code = |status: Status| not_done(&status).code;
        assert_eq!(code(Status::unimplemented("")), ErrorCode::NotImplemented);
        assert_eq!(code(Status::unavailable("tcp")), ErrorCode::PeerUnreachable);
        assert_eq!(code(refusal(ErrorCode::DiskFull, "full")), ErrorCode::DiskFull);
    }
}
