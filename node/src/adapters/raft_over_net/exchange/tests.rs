//! A line against a far end that keeps to a script.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::net::{TcpListener, TcpSocket};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

use ollamax_proto::v1::RaftRefusal;
use ollamax_proto::v1::raft_server::{Raft, RaftServer};

use super::*;

const LONG: Duration = Duration::from_secs(30);

/// What the far end does with one exchange.
#[derive(Debug, Clone, Copy)]
enum Script {
    /// Answers each call with its body.
    Echo,
    /// Waits for two calls and answers the second one first.
    Reversed,
    /// Ends the stream at the first call.
    Break,
    /// Says at the first call that it is about to stop, and answers when the sender has ended its half.
    Going,
    /// Answers when the sender has ended its half.
    Late,
    Refuse,
    Silent,
    /// Is of a release without exchanges.
    Unknown,
}

/// A member that keeps to its scripts, one for each exchange, and then echoes.
#[derive(Debug, Clone, Default)]
struct Far {
    scripts: Arc<Mutex<VecDeque<Script>>>,
    exchanges: Arc<AtomicUsize>,
    messages: Arc<AtomicUsize>,
}

fn echo(call: RaftCall) -> Result<RaftAnswer, Status> {
    Ok(RaftAnswer { number: call.number, result: Some(Answered::Body(call.body)) })
}

fn refused(call: &RaftCall) -> Result<RaftAnswer, Status> {
    let refusal = RaftRefusal { code: ErrorCode::NotMember.as_str().to_owned(), message: "go away".to_owned() };
    Ok(RaftAnswer { number: call.number, result: Some(Answered::Refused(refusal)) })
}

#[tonic::async_trait]
impl Raft for Far {
    type ExchangeStream = BoxStream<'static, Result<RaftAnswer, Status>>;

    async fn exchange(&self, request: Request<Streaming<RaftCall>>) -> Result<Response<Self::ExchangeStream>, Status> {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        let script = self.scripts.lock().unwrap().pop_front().unwrap_or(Script::Echo);
        let mut calls = request.into_inner().map(|call| call.expect("the sender's stream does not break"));
        let answers = match script {
            Script::Echo => calls.map(echo).boxed(),
            Script::Refuse => calls.map(|call| refused(&call)).boxed(),
            Script::Silent => calls.filter_map(|_| async { None }).boxed(),
            Script::Reversed => {
                let pair = async move {
                    let (first, second) = (calls.next().await.unwrap(), calls.next().await.unwrap());
                    stream::iter([second, first]).chain(calls).map(echo)
                };
                stream::once(pair).flatten().boxed()
            }
            Script::Break => stream::once(async move { calls.next().await }).filter_map(|_| async { None }).boxed(),
            Script::Going => {
                let going = async move {
                    let first = calls.next().await.unwrap();
                    let late = async move {
                        let rest: Vec<RaftCall> = calls.collect().await;
                        stream::iter([first].into_iter().chain(rest)).map(echo)
                    };
                    stream::iter([Ok(RaftAnswer::default())]).chain(stream::once(late).flatten())
                };
                stream::once(going).flatten().boxed()
            }
            Script::Late => {
                let late = async move {
                    let all: Vec<RaftCall> = calls.collect().await;
                    stream::iter(all).map(echo)
                };
                stream::once(late).flatten().boxed()
            }
            Script::Unknown => return Err(Status::unimplemented("this release knows no exchange")),
        };
        Ok(Response::new(answers))
    }

    async fn call(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(request.into_inner()))
    }

    async fn install_snapshot(&self, _: Request<Streaming<RaftMessage>>) -> Result<Response<RaftMessage>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}

/// A far end that listens, and this end's way to it.
struct Setup {
    far: Far,
    channel: Channel,
    line: Arc<Line>,
    stop: DropGuard,
}

impl Setup {
    async fn with(scripts: &[Script]) -> Self {
        let far = Far::default();
        far.scripts.lock().unwrap().extend(scripts);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", socket.local_addr().unwrap());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let serving = Server::builder()
            .add_service(RaftServer::new(far.clone()))
            .serve_with_incoming_shutdown(TcpListenerStream::new(socket), stop.clone().cancelled_owned());
        tasks.spawn(serving);
        let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
        let line = Arc::new(Line::new(tasks));
        Self { far, channel, line, stop: stop.drop_guard() }
    }

    async fn call_within(&self, body: &'static str, deadline: Duration) -> Result<String, PeerError> {
        self.call_over(&self.channel, body, deadline).await
    }

    async fn call_over(&self, over: &Channel, body: &'static str, deadline: Duration) -> Result<String, PeerError> {
        self.call_in(over, body, (deadline, 0)).await
    }

    async fn call_in(&self, over: &Channel, body: &'static str, until: (Duration, u64)) -> Result<String, PeerError> {
        let client = || RaftClient::new(over.clone());
        let message = |body| RaftMessage { body, ..RaftMessage::default() };
        let answer = self.line.call(Bytes::from_static(body.as_bytes()), until, client, message).await;
        answer.map(|body| String::from_utf8(body.to_vec()).unwrap())
    }

    async fn call_in_epoch(&self, body: &'static str, epoch: u64) -> Result<String, PeerError> {
        self.call_in(&self.channel, body, (LONG, epoch)).await
    }

    async fn call(&self, body: &'static str) -> Result<String, PeerError> {
        self.call_within(body, LONG).await
    }

    fn exchanges(&self) -> usize {
        self.far.exchanges.load(Ordering::Relaxed)
    }

    /// Takes the far end away: connections end once nothing is under way on them.
    fn end(self) -> (Arc<Line>, Channel) {
        drop(self.stop);
        (self.line, self.channel)
    }
}

#[tokio::test]
async fn many_calls_share_one_exchange_and_each_gets_its_own_answer() {
    let setup = Setup::with(&[Script::Reversed]).await;
    let (first, second) = tokio::join!(setup.call("first"), setup.call("second"));
    assert_eq!((first, second), (Ok("first".to_owned()), Ok("second".to_owned())));
    for _ in 0..100 {
        assert_eq!(setup.call("again").await, Ok("again".to_owned()));
    }
    assert_eq!(setup.exchanges(), 1);
    assert!(setup.line.waiting().is_empty(), "{:?}", setup.line);
}

#[tokio::test]
async fn what_a_broken_exchange_carried_is_lost_and_the_next_call_opens_another() {
    let setup = Setup::with(&[Script::Break]).await;
    let lost = setup.call("one").await.expect_err("the stream ended");
    assert!(matches!(lost, PeerError::Lost(_)), "{lost:?}");
    assert_eq!(setup.call("two").await, Ok("two".to_owned()));
    assert_eq!(setup.exchanges(), 2);
}

#[tokio::test]
async fn a_member_that_is_about_to_stop_answers_what_was_sent_and_is_sent_no_more() {
    let setup = Setup::with(&[Script::Going]).await;
    // It answers only once this end has ended its half.
    assert_eq!(setup.call("one").await, Ok("one".to_owned()));
    assert_eq!(setup.call("two").await, Ok("two".to_owned()));
    assert_eq!(setup.exchanges(), 2, "the second call went over a new exchange");
}

#[tokio::test]
async fn a_line_moves_to_a_better_way_without_losing_a_call() {
    let setup = Setup::with(&[Script::Late]).await;
    let before = setup.call_in_epoch("before", 0);
    tokio::pin!(before);
    // It is on its way, and its answer comes only once this end has ended its half.
    assert!(futures::poll!(&mut before).is_pending());
    while setup.exchanges() == 0 {
        tokio::task::yield_now().await;
    }
    let after = setup.call_in_epoch("after", 1);
    let (before, after) = tokio::join!(before, after);
    assert_eq!((before, after), (Ok("before".to_owned()), Ok("after".to_owned())));
    assert_eq!(setup.exchanges(), 2, "the second call went over a new exchange");
    assert_eq!(setup.call_in_epoch("late", 0).await, Ok("late".to_owned()));
    assert_eq!(setup.call_in_epoch("again", 1).await, Ok("again".to_owned()));
    assert_eq!(setup.exchanges(), 2, "who read the epoch too early does not go back");
}

#[tokio::test]
async fn a_member_that_knew_no_exchange_is_asked_again_on_a_better_way() {
    let setup = Setup::with(&[Script::Unknown]).await;
    assert_eq!(setup.call_in_epoch("one", 0).await, Ok("one".to_owned()));
    assert_eq!(setup.call_in_epoch("two", 1).await, Ok("two".to_owned()));
    assert_eq!((setup.exchanges(), setup.far.messages.load(Ordering::Relaxed)), (2, 1));
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_ends_no_exchange() {
    let setup = Setup::with(&[Script::Refuse]).await;
    let refused = PeerError::Refused { code: ErrorCode::NotMember, message: "go away".to_owned() };
    assert_eq!(setup.call("one").await, Err(refused.clone()));
    assert_eq!(setup.call("two").await, Err(refused));
    assert_eq!(setup.exchanges(), 1);
}

#[tokio::test]
async fn nobody_waits_longer_than_he_said_and_who_leaves_is_forgotten() {
    let setup = Setup::with(&[Script::Silent]).await;
    assert_eq!(setup.call_within("one", Duration::from_millis(50)).await, Err(PeerError::TimedOut));
    {
        let abandoned = setup.call("two");
        tokio::pin!(abandoned);
        assert!(futures::poll!(&mut abandoned).is_pending());
        assert_eq!(setup.line.waiting().len(), 1);
    }
    assert!(setup.line.waiting().is_empty(), "{:?}", setup.line);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_is_not_sent() {
    let (calls, _queued) = mpsc::channel(1);
    let exchange = Exchange { calls, book: Arc::new(Book::default()) };
    let enter = |wait_ms: u64| exchange.enter(Instant::now() + Duration::from_millis(wait_ms)).expect("it is open");
    let call = |place: &Place| RaftCall { number: place.number, ..RaftCall::default() };
    let (patient, late, gone) = (enter(1_000), enter(300), enter(1_000));
    let calls = [call(&patient), call(&late), call(&gone)];
    drop(gone);
    tokio::time::advance(Duration::from_millis(300)).await;
    let sent = calls.map(|call| exchange.book.still_wanted(call).map(|call| call.deadline_ms));
    assert_eq!(sent, [Some(700), None, None], "with the time that is left when it goes out");
}

#[tokio::test]
async fn a_reader_that_ends_in_any_way_leaves_the_line_open_for_the_next() {
    let setup = Setup::with(&[]).await;
    let book = Arc::new(Book::default());
    let (calls, _queued) = mpsc::channel(1);
    *setup.line.way() = Way::Exchange(Arc::new(Exchange { calls, book: Arc::clone(&book) }), 0);
    let line = Arc::clone(&setup.line);
    let abandoned = setup.call("one");
    tokio::pin!(abandoned);
    assert!(futures::poll!(&mut abandoned).is_pending());
    drop(Ended { line, book });
    assert!(matches!(abandoned.await, Err(PeerError::Lost(_))));
    assert_eq!(setup.call("two").await, Ok("two".to_owned()));
}

#[tokio::test]
async fn a_member_of_an_older_release_is_called_message_by_message_until_it_is_gone() {
    let old = Setup::with(&[Script::Unknown, Script::Unknown]).await;
    let (first, second) = tokio::join!(old.call("one"), old.call("two"));
    assert_eq!((first, second), (Ok("one".to_owned()), Ok("two".to_owned())));
    assert_eq!(old.call("three").await, Ok("three".to_owned()));
    assert_eq!((old.exchanges(), old.far.messages.load(Ordering::Relaxed)), (1, 3), "it was asked once");

    // It ends, and another release answers there.
    let new = Setup::with(&[]).await;
    let (line, channel) = old.end();
    let new = Setup { line, ..new };
    let gone = loop {
        match new.call_over(&channel, "four", LONG).await {
            // The server had not ended yet.
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(matches!(gone, PeerError::Lost(_) | PeerError::Unreachable(_)), "{gone:?}");
    assert_eq!(new.call("five").await, Ok("five".to_owned()));
    assert_eq!((new.exchanges(), new.far.messages.load(Ordering::Relaxed)), (1, 0));
}

#[tokio::test]
async fn a_member_that_does_not_listen_was_certainly_sent_nothing() {
    // Bound, so that nobody else gets the port, and not listening.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = format!("http://{}", socket.local_addr().unwrap());
    let setup = Setup::with(&[]).await;
    let nobody = Endpoint::from_shared(address).unwrap().connect_lazy();
    let error = setup.call_over(&nobody, "one", LONG).await.expect_err("nobody listens");
    assert!(matches!(error, PeerError::Unreachable(_)), "{error:?}");
    assert_eq!(setup.call("two").await, Ok("two".to_owned()));
}
