//! The load generator: a closed loop of clients, each with one HTTP/1.1 connection and one request at a time.

use std::net::SocketAddr;
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
}

// === impl Question ===

impl Question {
    /// A `POST` of JSON.
    pub(crate) const fn post(address: SocketAddr, path: &'static str, body: Bytes) -> Self {
        Self { method: Method::POST, address, path, body }
    }

    /// A `GET`.
    pub(crate) const fn get(address: SocketAddr, path: &'static str) -> Self {
        Self { method: Method::GET, address, path, body: Bytes::new() }
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

/// Keeps `clients` asking for `time`. The first tenth, at most a third of a second, warms up and is not counted.
pub(crate) async fn run(question: &Question, clients: usize, time: Duration) -> Outcome {
    let warm = Instant::now() + (time / 10).min(Duration::from_millis(333));
    let end = warm + time;
    let asked = join_all((0..clients).map(|_| client(question, warm, end))).await;
    let mut total = Outcome { elapsed: time, ..Outcome::default() };
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
    let mut outcome = Outcome::default();
    let mut connections = JoinSet::new();
    let mut connection = None;
    while Instant::now() < end {
        let begin = Instant::now();
        let asked = async {
            let sender = match &mut connection {
                Some(sender) => sender,
                empty => empty.insert(connect(question.address, &mut connections).await?),
            };
            ask(sender, question, begin).await
        };
        let answered = asked.await;
        let counts = begin >= warm && Instant::now() <= end;
        match answered {
            Ok((first, whole)) if counts => {
                outcome.first.push(first.as_secs_f64());
                outcome.whole.push(whole.as_secs_f64());
            }
            Ok(_) => {}
            Err(_) => {
                outcome.failed += u64::from(counts);
                connection = None;
                tokio::task::yield_now().await;
            }
        }
    }
    outcome
}

async fn connect(address: SocketAddr, connections: &mut JoinSet<()>) -> Result<SendRequest<Full<Bytes>>> {
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
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(question.body.clone()))?;
    let response = sender.send_request(request).await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let mut body = response.into_body();
    let mut first = None;
    while let Some(frame) = body.frame().await {
        frame?;
        first.get_or_insert_with(|| begin.elapsed());
    }
    Ok((first.context("an empty answer")?, begin.elapsed()))
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

    #[tokio::test]
    async fn counts_answers_and_failures() {
        let script = Script { slots: 8, ..Script::with_models([ModelScript::named("demo")]) };
        let fake = FakeOllama::start(script).await.expect("a free port");
        let body = Bytes::from_static(br#"{"model":"demo","prompt":"hi","stream":false}"#);
        let question = Question::post(fake.address(), "/api/generate", body);
        let good = run(&question, 4, Duration::from_millis(300)).await;
        assert!(good.succeeded() > 0 && good.failed == 0, "{} and {}", good.succeeded(), good.failed);
        assert!(good.first[0] <= good.whole[good.whole.len() - 1]);
        fake.inject(FaultRule::always(On::Inference, Fault::Busy));
        let bad = run(&question, 4, Duration::from_millis(100)).await;
        assert!(bad.succeeded() == 0 && bad.failed > 0);
    }
}
