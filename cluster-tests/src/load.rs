//! The load generator: a closed loop of clients, each with one HTTP/1.1 connection and one request at a time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What every client sends, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    pub(crate) body: Bytes,
    /// Beside those of every request.
    pub(crate) headers: &'static [(&'static str, &'static str)],
    /// Words of a good answer; none: every answer of status 200 is good.
    pub(crate) says: &'static str,
}

// === impl Question ===

impl Question {
    /// A `POST` of JSON.
    pub(crate) const fn post(address: SocketAddr, path: &'static str, body: Bytes) -> Self {
        Self { method: Method::POST, address, path, body, headers: &[], says: "" }
    }

    /// A `GET`.
    pub(crate) const fn get(address: SocketAddr, path: &'static str) -> Self {
        Self { method: Method::GET, address, path, body: Bytes::new(), headers: &[], says: "" }
    }
}

/// What came of one point.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Complete answers, sorted, seconds.
    pub(crate) whole: Vec<f64>,
    /// First bytes of bodies, sorted, seconds.
    pub(crate) first: Vec<f64>,
    pub(crate) failed: u64,
    pub(crate) elapsed: Duration,
}

impl Outcome {
    pub(crate) fn succeeded(&self) -> u64 {
        self.whole.len() as u64
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
    pub(crate) fn per_second(&self) -> f64 {
        self.succeeded() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Counts an answer by its first byte and its end, or a failure.
    fn note(&mut self, answered: Result<(Duration, Duration)>) {
        match answered {
            Ok((first, whole)) => {
                self.first.push(first.as_secs_f64());
                self.whole.push(whole.as_secs_f64());
            }
            Err(_) => self.failed += 1,
        }
    }
}

/// The value below which `share` of a sorted list lies; `None` of an empty one.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a list, rounded"
    )]
    let index = (last as f64 * share).round() as usize;
    sorted.get(index).copied()
}

/// Keeps `clients` asking for `time`. The first tenth, at most a third of a second, warms up: its answers are not
/// counted, nor are those that come after the end. Failures always are.
pub(crate) async fn run(question: &Question, clients: usize, time: Duration) -> Outcome {
    let warm = Instant::now() + (time / 10).min(Duration::from_millis(333));
    let end = warm + time;
    let asked = join_all((0..clients).map(|_| client(question, warm, end))).await;
    together(asked, time)
}

/// Has `clients` ask so many times in all, for what may not be asked as often as one likes. All of it counts.
pub(crate) async fn run_times(question: &Question, clients: usize, times: usize) -> Outcome {
    let (next, begin) = (AtomicUsize::new(0), Instant::now());
    let asked = join_all((0..clients).map(|_| client_of(question, &next, times))).await;
    together(asked, begin.elapsed())
}

fn together(asked: Vec<Outcome>, elapsed: Duration) -> Outcome {
    let mut total = Outcome { elapsed, ..Outcome::default() };
    for one in asked {
        total.whole.extend(one.whole);
        total.first.extend(one.first);
        total.failed += one.failed;
    }
    total.whole.sort_by(f64::total_cmp);
    total.first.sort_by(f64::total_cmp);
    total
}

/// One client. A failure is counted, and the next request gets a new connection.
async fn client(question: &Question, warm: Instant, end: Instant) -> Outcome {
    let (mut outcome, mut client) = (Outcome::default(), Client::default());
    while Instant::now() < end {
        let begin = Instant::now();
        let answered = client.ask(question, begin).await;
        if answered.is_err() || (begin >= warm && Instant::now() <= end) {
            outcome.note(answered);
        }
    }
    outcome
}

/// One client, as long as there is something left to ask.
async fn client_of(question: &Question, next: &AtomicUsize, times: usize) -> Outcome {
    let (mut outcome, mut client) = (Outcome::default(), Client::default());
    while next.fetch_add(1, Ordering::Relaxed) < times {
        outcome.note(client.ask(question, Instant::now()).await);
    }
    outcome
}

/// One client's connection.
#[derive(Default)]
struct Client {
    sender: Option<SendRequest<Full<Bytes>>>,
    connections: JoinSet<()>,
}

// === impl Client ===

impl Client {
    /// Asks once; a failure ends the connection.
    async fn ask(&mut self, question: &Question, begin: Instant) -> Result<(Duration, Duration)> {
        let answered = self.try_ask(question, begin).await;
        if answered.is_err() {
            self.sender = None;
            tokio::task::yield_now().await;
        }
        answered
    }

    async fn try_ask(&mut self, question: &Question, begin: Instant) -> Result<(Duration, Duration)> {
        let sender = match &mut self.sender {
            Some(sender) => sender,
            empty => empty.insert(connect(question.address, &mut self.connections).await?),
        };
        ask(sender, question, begin).await
    }
}

/// Opens a connection, which lives in the set.
pub(crate) async fn connect(address: SocketAddr, connections: &mut JoinSet<()>) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("begin HTTP")?;
    connections.spawn(async {
        // Its end shows as an error of the request that it carried.
        let _ended = connection.await;
    });
    Ok(sender)
}

async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    question: &Question,
    begin: Instant,
) -> Result<(Duration, Duration)> {
    sender.ready().await.context("connection closed")?;
    let request = Request::builder()
        .method(&question.method)
        .uri(question.path)
        .header(header::HOST, question.address.to_string())
        .header(header::CONTENT_TYPE, "application/json");
    let request = question.headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = sender.send_request(request.body(Full::new(question.body.clone()))?).await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let mut body = response.into_body();
    let (mut first, mut said) = (None, Vec::<u8>::new());
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        first.get_or_insert_with(|| begin.elapsed());
        if let Some(data) = frame.data_ref().filter(|_| !question.says.is_empty()) {
            said.extend_from_slice(data);
        }
    }
    let whole = begin.elapsed();
    ensure!(holds(&said, question.says), "the answer does not say {}", question.says);
    Ok((first.context("an empty answer")?, whole))
}

/// Whether an answer has these words.
fn holds(said: &[u8], words: &str) -> bool {
    words.is_empty() || said.windows(words.len()).any(|found| found == words.as_bytes())
}

#[cfg(test)]
mod tests {
    use ollamax_testkit::FakeOllama;
    use ollamax_testkit::fake_ollama::{Fault, FaultRule, ModelScript, On, Script};

    use super::*;

    #[test]
    fn percentiles_are_taken_from_the_list() {
        let list: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(percentile(&list, 0.5), Some(50.0));
        assert_eq!(percentile(&list, 0.99), Some(99.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn an_answer_is_known_by_its_words() {
        let check = |said: &str, words: &str, expected: bool| assert_eq!(holds(said.as_bytes(), words), expected);
        check("", "", true);
        check("", "a", false);
        check(r#"{"isError":false}"#, r#""isError":false"#, true);
        check(r#"{"isError":true}"#, r#""isError":false"#, false);
    }

    #[tokio::test]
    async fn counts_answers_and_failures() {
        let script = Script { slots: 8, ..Script::with_models([ModelScript::named("demo")]) };
        let fake = FakeOllama::start(script).await.expect("a free port");
        let body = Bytes::from_static(br#"{"model":"demo","prompt":"hi","stream":false}"#);
        let question = Question::post(fake.address(), "/api/generate", body);
        let good = run(&question, 4, Duration::from_millis(300)).await;
        assert!(good.succeeded() > 0 && good.failed == 0, "{} and {}", good.succeeded(), good.failed);
        assert!(good.first[0] <= good.whole[good.whole.len() - 1]);
        let times = run_times(&question, 4, 10).await;
        assert_eq!((times.succeeded(), times.failed, times.first.len()), (10, 0, 10));
        // While it warms up, too.
        fake.inject(FaultRule::once(On::Inference, Fault::Busy));
        let once = run(&question, 1, Duration::from_millis(300)).await;
        assert!(once.succeeded() > 0 && once.failed == 1, "{} and {}", once.succeeded(), once.failed);
        let other = Question { says: "something else", ..question.clone() };
        assert_eq!(run_times(&other, 2, 3).await.failed, 3);
        fake.inject(FaultRule::always(On::Inference, Fault::Busy));
        let bad = run(&question, 4, Duration::from_millis(100)).await;
        assert!(bad.succeeded() == 0 && bad.failed > 0);
    }
}
