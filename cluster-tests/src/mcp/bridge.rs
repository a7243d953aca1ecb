//! `ollamax mcp`, the bridge of one assistant, while the node dies that it speaks to: how long the assistant waits.
//!
//! The bridge is started as an assistant starts it, knows the node of its data directory and the two others, and is
//! asked one question after the other, by the handshake. Every answer must have the id of its question. One that is an
//! error is no success: the question reads, so the bridge may ask it again elsewhere.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};

use ollamax_testkit::cluster::{binary, clean_environment};
use ollamax_testkit::{Cluster, wait};

use super::messages;

const PROGRAM: &str = "ollamax";
const COMMAND: &str = "mcp";
/// Longest wait for one answer; nobody waits longer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// The node that the bridge speaks to first, and which dies.
const VICTIM: usize = 0;
/// A question of which a node answers 600 in a minute.
const TOOL: &str = "list_transfers";
/// Questions in all, and from an answer to the next one.
const CALLS: u64 = 200;
const BETWEEN: Duration = Duration::from_millis(20);
/// When the node dies, at the earliest, and by how much later by chance, milliseconds.
const DIES_AFTER: Duration = Duration::from_secs(1);
const LATER_MS_MAX: u64 = 1_000;

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    begin: Instant,
    end: Instant,
    answer: Answer,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Good,
    /// An error, with the question's id.
    Error,
    /// Nothing in time.
    None,
}

/// What the assistant saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bridged {
    /// Errors among them.
    pub(super) answered: u64,
    pub(super) errors: u64,
    pub(super) unanswered: u64,
    /// From the node's death to the next answer; `None`: there was none.
    pub(super) first: Option<Duration>,
    /// Of all questions that were open at that moment or came later: the longest wait since then.
    pub(super) slowest: Option<Duration>,
}

// === impl Bridged ===

impl Bridged {
    fn of(asked: &[Asked], death: Instant) -> Self {
        let count = |answer: Answer| asked.iter().filter(|asked| asked.answer == answer).count() as u64;
        let later = || asked.iter().filter(move |asked| asked.end >= death);
        let answered = later().filter(|asked| asked.answer != Answer::None);
        Self {
            answered: count(Answer::Good) + count(Answer::Error),
            errors: count(Answer::Error),
            unanswered: count(Answer::None),
            first: answered.map(|asked| asked.end - death).min(),
            slowest: later().map(|asked| asked.end - asked.begin.max(death)).max(),
        }
    }
}

/// Asks on while the bridge's own node is killed, which stays away.
pub(super) async fn measure(cluster: &Cluster, mut chance: StdRng) -> Result<Bridged> {
    let mut program = Program::start(cluster)?;
    program.talk.greet().await?;
    let later = Duration::from_millis(chance.random_range(0..LATER_MS_MAX));
    let kill = async {
        wait::pause(DIES_AFTER + later).await;
        let death = Instant::now();
        cluster.kill(&[VICTIM]).await?;
        anyhow::Ok(death)
    };
    let (asked, death) = futures::join!(ask_on(&mut program.talk), kill);
    let found = Bridged::of(&asked, death?);
    eprintln!("{PROGRAM} {COMMAND}: {found:?}");
    Ok(found)
}

/// One question after the other; one that is not answered is the last.
async fn ask_on<R: AsyncBufRead + Unpin, W: AsyncWrite + Unpin>(talk: &mut Talk<R, W>) -> Vec<Asked> {
    let mut all = Vec::new();
    // The handshake had the first.
    for id in 2..2 + CALLS {
        wait::pause(BETWEEN).await;
        let begin = Instant::now();
        let said = talk.ask(&messages::request(id, "tools/call", &json!({"name": TOOL, "arguments": {}})), id).await;
        let answer = match &said {
            Ok(answer) if answer["result"].is_object() && answer["result"]["isError"] != true => Answer::Good,
            Ok(_) => Answer::Error,
            Err(_) => Answer::None,
        };
        all.push(Asked { begin, end: Instant::now(), answer });
        if let Err(error) = said {
            eprintln!("question {id} was not answered: {error:#}");
            break;
        }
    }
    all
}

/// The running bridge, which ends when it is dropped.
struct Program {
    _child: Child,
    talk: Talk<BufReader<ChildStdout>, ChildStdin>,
}

// === impl Program ===

impl Program {
    fn start(cluster: &Cluster) -> Result<Self> {
        let mut command = Command::new(binary(PROGRAM)?);
        command.arg("--data-dir").arg(cluster.node(VICTIM).data_dir()).arg(COMMAND);
        for node in cluster.nodes().iter().filter(|node| node.index() != VICTIM) {
            command.arg("--node").arg(node.api()?);
        }
        clean_environment(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().context("start the bridge")?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { _child: child, talk: Talk { input, output } })
    }
}

/// Messages to the bridge and from it, one in each line.
struct Talk<R, W> {
    input: W,
    output: Lines<R>,
}

// === impl Talk ===

impl<R: AsyncBufRead + Unpin, W: AsyncWrite + Unpin> Talk<R, W> {
    async fn greet(&mut self) -> Result<()> {
        self.ask(&messages::hello(), 1).await.context("greet the bridge")?;
        self.say(&messages::greeted()).await
    }

    async fn say(&mut self, message: &Value) -> Result<()> {
        self.input.write_all(format!("{message}\n").as_bytes()).await.context("write to the bridge")?;
        self.input.flush().await.context("write to the bridge")
    }

    /// Sends a request, and reads until its answer has come.
    async fn ask(&mut self, message: &Value, id: u64) -> Result<Value> {
        let asking = async {
            self.say(message).await?;
            loop {
                let line = self.output.next_line().await.context("read from the bridge")?;
                let line = line.context("the bridge has ended")?;
                let said: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
                if said["id"] == id && said.get("method").is_none() {
                    return anyhow::Ok(said);
                }
            }
        };
        timeout(ANSWERED_WITHIN, asking).await.context("no answer")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_open_at_the_death_waits_from_then_on_and_what_came_before_does_not_count() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let asked = |begin: u64, end: u64, answer| Asked { begin: at(begin), end: at(end), answer };
        let mut all = vec![
            asked(0, 5_000, Answer::Good),
            asked(5_900, 6_400, Answer::Error),
            asked(6_500, 6_700, Answer::Good),
            asked(6_800, 6_805, Answer::Good),
        ];
        let ms = |ms: u64| Some(Duration::from_millis(ms));
        let found = Bridged::of(&all, at(6_000));
        let expected = Bridged { answered: 4, errors: 1, unanswered: 0, first: ms(400), slowest: ms(400) };
        assert_eq!(found, expected);
        // Nothing is no answer, and is waited for all the same.
        all.push(asked(6_900, 36_900, Answer::None));
        let found = Bridged::of(&all, at(6_850));
        assert_eq!(found, Bridged { unanswered: 1, first: None, slowest: ms(30_000), ..expected });
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_the_line_with_its_id_and_an_end_is_none() {
        let lines = r#"{"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
{"jsonrpc": "2.0", "id": 2, "method": "ping"}
{"jsonrpc": "2.0", "id": 1, "result": {"old": true}}
{"jsonrpc": "2.0", "id": 2, "result": {"isError": false}}
{"jsonrpc": "2.0", "id": 3, "error": {"code": -32603}}
{"jsonrpc": "2.0", "id": 4, "result": {"isError": true}}
"#;
        let mut talk = Talk { input: Vec::new(), output: BufReader::new(lines.as_bytes()).lines() };
        let answers: Vec<Answer> = ask_on(&mut talk).await.into_iter().map(|asked| asked.answer).collect();
        assert_eq!(answers, [Answer::Good, Answer::Error, Answer::Error, Answer::None]);
        let said = String::from_utf8(talk.input).expect("text");
        assert_eq!(said.lines().count(), 4, "{said}");
    }
}
