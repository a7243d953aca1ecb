//! `cargo xtask demo`: three nodes on this machine, a real model that spreads from one to a second, questions through
//! the third.
//!
//! It uses the built binaries and their public doors only, as a user would. It fails, with exit code 1, unless every
//! answer came from another node than the one that was asked, equals what that node's runtime says when it is asked
//! directly, and a further node answers after the first was killed. Whatever happens, no process is left behind.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::setup;
use crate::waiting::{self, Stopwatch, seconds};
use crate::workspace::{Workspace, succeed};

mod chat;
mod cluster;
mod guard;

use chat::Answer;
use cluster::{Cluster, Node};

pub(crate) use guard::{GUARD, guard};

/// What to do when the story is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    /// Keep the cluster until Ctrl-C.
    UntilStopped,
    /// Put everything away.
    Leave,
}

/// Name of the model in the cluster.
const MODEL: &str = "demo";
/// Asked through the node that does not have the model. What it learned to answer to these is true of this release.
const QUESTIONS: [&str; 2] = ["What is a quorum?", "What happens when the leader fails?"];
/// How long a new placement may take to be seen by every node.
const PLACEMENT_WAIT: Duration = Duration::from_secs(30);
/// How long an election, or an answer after a death, may take.
const RECOVERY_WAIT: Duration = Duration::from_secs(30);

/// Builds, tells the story, and puts everything away.
pub(crate) fn run(workspace: &Workspace, stay: Stay) -> Result<ExitCode> {
    println!("building (the first time takes a while: RocksDB and llama.cpp are compiled once)");
    setup::run(workspace)?;
    succeed(workspace.build_binaries())?;
    let folder = std::env::temp_dir().join(format!("ollamax-demo-{}", std::process::id()));
    let guard = guard::Guard::start(&workspace.binary("ollamax"), &folder)?;
    let told = tell(workspace, &folder);
    if let (Ok(cluster), Stay::UntilStopped) = (&told, stay) {
        print_what_to_try(cluster);
        println!("\nThe cluster stays until you press Ctrl-C.");
        loop {
            std::thread::park();
        }
    }
    let put_away = guard.finish(told.is_err());
    told?;
    put_away?;
    println!("\nAll of it held. Everything is stopped.");
    Ok(ExitCode::SUCCESS)
}

fn tell(workspace: &Workspace, folder: &Path) -> Result<Cluster> {
    let watch = Stopwatch::start();
    let cluster = Cluster::up(&workspace.binary("ollamax"), folder)?;
    println!("\nThree nodes answer as one after {}:", seconds(watch.elapsed()));
    for node in &cluster.nodes {
        let leads = if node.leader { ", leads" } else { "" };
        println!(
            "  {}  {}  pid {}  {} at {}{leads}",
            node.name, node.api, node.pid, node.runtime_kind, node.runtime_url
        );
    }
    let (holders, asked) = (&cluster.nodes[..2], &cluster.nodes[2]);
    let file = workspace.root().join("config/demo/demo.gguf");
    cluster.import(&file, MODEL, &holders[0])?;
    cluster.spread(MODEL, holders)?;
    println!("\n{} and {} have the model; {} does not, and lists it:", holders[0].name, holders[1].name, asked.name);
    let listed = || Ok(chat::models(asked)?.into_iter().find(|name| name.split(':').next() == Some(MODEL)));
    println!("  {}", waiting::until("the model in the list of another node", PLACEMENT_WAIT, listed)?);

    let mut last = None;
    for question in QUESTIONS {
        last = Some(ask_and_compare(&cluster, asked, question)?);
    }
    let killed = last.context("no question was asked")?;
    kill_and_ask_again(&cluster, killed, asked)?;
    Ok(cluster)
}

/// Asks, shows the answer as it comes, and holds it against what the answering node's runtime says directly.
fn ask_and_compare<'a>(cluster: &'a Cluster, asked: &Node, question: &str) -> Result<&'a Node> {
    let answer = ask(asked, question)?;
    let answers = cluster.node(&answer.node)?;
    ensure!(answers.name != asked.name, "{} answered itself; it does not have the model", asked.name);
    let direct = chat::direct(answers, MODEL, question)?;
    ensure!(!answer.text.trim().is_empty(), "the answer is empty");
    ensure!(
        direct == answer.text,
        "the answer differs from what the runtime at {} says directly:\n{direct}",
        answers.runtime_url
    );
    println!("  ({} said the same when asked directly at {})", answers.name, answers.runtime_url);
    Ok(answers)
}

fn ask(asked: &Node, question: &str) -> Result<Answer> {
    println!("\n{} is asked: {question}", asked.name);
    chat::through(asked, MODEL, question, |node, piece| {
        match piece {
            None => print!("  {node} answers: "),
            Some(piece) => print!("{}", piece.replace('\n', "\n    ")),
        }
        io::stdout().flush().context("print the answer")
    })
    .inspect(|answer| println!("\n  (first piece after {}, X-OllamaMax-Node: {})", seconds(answer.first), answer.node))
}

/// Kills the node that answered last, asks again, and tells how long election and recovery took.
fn kill_and_ask_again(cluster: &Cluster, killed: &Node, asked: &Node) -> Result<()> {
    let leader = cluster.leader(asked)?.context("no leader is known before the kill")?;
    println!(
        "\nkill -9 {}, which is {}{}",
        killed.pid,
        killed.name,
        if leader == killed.id { ", the leader" } else { "" }
    );
    kill(killed.pid)?;
    let watch = Stopwatch::start();
    std::thread::scope(|scope| {
        let election = scope.spawn(|| {
            let other = || Ok(cluster.leader(asked)?.filter(|leader| *leader != killed.id));
            waiting::until("a leader among the others", RECOVERY_WAIT, other).map(|leader| (leader, watch.elapsed()))
        });
        let mut attempts = 0;
        let answer = waiting::until("an answer after the kill", RECOVERY_WAIT, || {
            attempts += 1;
            ask(asked, QUESTIONS[0]).map(Some)
        })?;
        let recovered = watch.elapsed();
        let answers = cluster.node(&answer.node)?;
        ensure!(answers.id != killed.id, "{} answers, though it was killed", killed.name);
        ensure!(answers.id != asked.id, "{} answered itself; it does not have the model", asked.name);
        ensure!(chat::direct(answers, MODEL, QUESTIONS[0])? == answer.text, "the answer after the kill differs");
        println!("\nafter the kill:");
        println!("  recovery: {} answered completely after {}, attempt {attempts}", answers.name, seconds(recovered));
        let Ok(elected) = election.join() else { bail!("the watch on the election broke") };
        let (new, took) = elected?;
        let new = cluster.nodes.iter().find(|node| node.id == new).context("an unknown node leads")?;
        if leader == killed.id {
            println!("  election: {} leads since {}", new.name, seconds(took));
        } else {
            println!("  election: none was needed; {} led and still leads", new.name);
        }
        Ok(())
    })
}

fn kill(pid: u64) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -9 \"$0\"", &pid.to_string()]);
    succeed(command)
}

fn print_what_to_try(cluster: &Cluster) {
    let asked = &cluster.nodes[2];
    println!("\nThe nodes' addresses (one of them is dead now):");
    for node in &cluster.nodes {
        println!("  {}  {}", node.name, node.api);
    }
    println!("\nTry, in another terminal:");
    println!("  curl -i {}/api/tags", asked.api);
    let body =
        format!("{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}", QUESTIONS[1]);
    println!("  curl -i {}/api/chat -d '{body}'", asked.api);
    println!("  {} status --data-dir {}", cluster.program.display(), asked.data_dir);
    println!("  OLLAMA_HOST={} ollama run {MODEL}", asked.api);
}
