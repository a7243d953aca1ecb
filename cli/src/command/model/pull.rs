//! `ollamax model pull` and `ollamax model pulls`: models from a registry, onto chosen nodes.
//!
//! A pull is a job of the node that runs it. This command asks for it, shows how far it is, and may leave at any time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use indicatif::{MultiProgress, ProgressBar};
use serde_json::{Value, json};

use ollamax_proto::v1::pull_progress::Stage;
use ollamax_proto::v1::{CancelPullRequest, ListPullsRequest, PullProgress, PullRequest};

use super::bar;
use crate::args::{Global, Output, PullArgs};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

/// Most files that have a bar of their own.
const BARS_MAX: usize = 24;

/// What each node said last, by its id.
type Seen = BTreeMap<u64, PullProgress>;

/// One bar for each file of each node, where somebody looks.
struct Bars {
    drawn: Option<MultiProgress>,
    bars: BTreeMap<(u64, Vec<u8>), ProgressBar>,
}

/// Asks for a pull and, where it is to wait, follows it to its end.
pub(super) async fn run(global: &Global, args: &PullArgs) -> Result<(), Failure> {
    let (name, nodes) = (args.name.clone(), args.nodes.clone());
    let request = PullRequest { name, nodes, insecure: args.insecure, wait: args.wait };
    let mut seen = Seen::new();
    let mut bars = Bars::new(args.wait && output::may_draw(global.output));
    let outcome = tokio::select! {
        // In this order: Ctrl-C is listened to before anything is begun.
        biased;
        _ = tokio::signal::ctrl_c(), if args.wait => {
            Err(Failure::new(130, "interrupted", "a pull that was taken on goes on", "ollamax model pulls"))
        }
        outcome = follow(global, request, &mut seen, &mut bars) => outcome,
    };
    bars.clear();
    // What came of some nodes is shown, whatever became of the others.
    show(global, args, &seen)?;
    outcome?;
    let is_complete = seen.values().all(|progress| !args.wait || progress.stage() == Stage::Done);
    if seen.is_empty() || !is_complete {
        let next = "ollamax model pulls shows whether it goes on";
        return Err(Failure::new(7, "the daemon ended before the pull did", "it is stopping", next));
    }
    output::talk(global.output, &format!("Next: {}", next(args, &seen)));
    Ok(())
}

async fn follow(global: &Global, request: PullRequest, seen: &mut Seen, bars: &mut Bars) -> Result<(), Failure> {
    let answer = client::connect_models(global).await?.pull(request).await?;
    let (id, mut told) = (request_id(answer.metadata()), answer.into_inner());
    while let Some(progress) = told.message().await.map_err(|status| Failure::from(status).with_request_id(&id))? {
        bars.show(&progress);
        seen.insert(progress.node_id, progress);
    }
    Ok(())
}

/// What is there, and what is on its way. A failure is told by itself.
fn show(global: &Global, args: &PullArgs, seen: &Seen) -> Result<(), Failure> {
    let copies: Vec<&PullProgress> =
        seen.values().filter(|progress| !matches!(progress.stage(), Stage::Failed | Stage::Unspecified)).collect();
    let Some(first) = copies.first() else { return Ok(()) };
    if global.output == Output::Json {
        let name = first.name.clone();
        let copies: Vec<Value> = copies.into_iter().map(copy).collect();
        return output::json("ModelPull", json!({"name": name, "copies": copies}));
    }
    for progress in copies {
        if progress.stage() == Stage::Done || !args.wait {
            output::line(&told(progress))?;
        }
    }
    Ok(())
}

fn told(progress: &PullProgress) -> String {
    let PullProgress { name, node_name, .. } = progress;
    match (progress.stage(), progress.total_bytes) {
        (Stage::Done, _) => format!("{node_name} has {name} ({})", text::digest(&progress.digest)),
        (_, 0) => format!("{node_name} pulls {name}"),
        (_, total_bytes) => format!("{node_name} pulls {name} ({})", text::bytes(total_bytes)),
    }
}

fn copy(progress: &PullProgress) -> Value {
    json!({
        "node": progress.node_name,
        "nodeId": progress.node_id,
        "digest": hex::encode(&progress.digest),
        "stage": word(progress.stage()),
        "verifiedBytes": progress.verified_bytes,
        "totalBytes": progress.total_bytes,
    })
}

/// The command to type: to ask the model, or to wait for it.
fn next(args: &PullArgs, seen: &Seen) -> String {
    if seen.values().all(|progress| progress.stage() == Stage::Done) {
        return format!("ollamax run {}", args.name);
    }
    let mut again = format!("ollamax model pull {}", args.name);
    for node in &args.nodes {
        again += &format!(" --node {node}");
    }
    again + if args.insecure { " --insecure --wait" } else { " --wait" }
}

/// Ends a pull on each of the nodes.
pub(super) async fn cancel(global: &Global, args: &PullArgs) -> Result<(), Failure> {
    let mut client = client::connect_models(global).await?;
    let own = [String::new()];
    let nodes = if args.nodes.is_empty() { &own[..] } else { &args.nodes[..] };
    for node in nodes {
        let request = CancelPullRequest { name: args.name.clone(), node: node.clone() };
        if !client.cancel_pull(request).await?.into_inner().found {
            let place = if node.is_empty() { "this node".to_owned() } else { format!("node {node}") };
            let what = format!("{place} does not pull {}", args.name);
            return Err(Failure::new(3, what, "it is over, or nobody asked for it", "ollamax model pulls"));
        }
    }
    if global.output == Output::Json {
        return output::json("ModelPullCancel", json!({"name": args.name, "cancelled": true}));
    }
    output::line(&format!("the pull of {} was cancelled", args.name))?;
    output::talk(global.output, &format!("What was fetched is kept. Next: ollamax model pull {}", args.name));
    Ok(())
}

/// The pulls of the node that is asked.
pub(super) async fn list(global: &Global) -> Result<(), Failure> {
    let pulls = client::connect_models(global).await?.list_pulls(ListPullsRequest {}).await?.into_inner().pulls;
    if global.output == Output::Json {
        let pulls: Vec<Value> = pulls.iter().map(shown).collect();
        return output::json("ModelPullList", json!({"pulls": pulls}));
    }
    if pulls.is_empty() {
        output::talk(global.output, "This node pulls nothing. Next: ollamax model pull NAME");
    }
    output::text(&table(&pulls))
}

fn table(pulls: &[PullProgress]) -> String {
    let rows = pulls.iter().map(|pull| {
        let done = format!("{} of {}", text::bytes(pull.verified_bytes), text::bytes(pull.total_bytes));
        vec![
            pull.name.clone(),
            pull.node_name.clone(),
            word(pull.stage()),
            if pull.total_bytes == 0 { String::new() } else { done },
            pull.bytes_per_second.map(|rate| format!("{}/s", text::bytes(rate))).unwrap_or_default(),
            pull.left_ms.map(text::span).unwrap_or_default(),
            text::in_one_line(pull.error.as_bytes()),
        ]
    });
    output::table(&["NAME", "NODE", "STAGE", "DONE", "RATE", "LEFT", "NOTE"], rows.collect())
}

fn shown(pull: &PullProgress) -> Value {
    let known = |text: &String| (!text.is_empty()).then(|| text.clone());
    let sources: Vec<Value> =
        pull.sources.iter().map(|from| json!({"source": from.source, "bytes": from.bytes})).collect();
    let blobs: Vec<Value> = pull
        .blobs
        .iter()
        .map(|blob| {
            let sha256 = hex::encode(&blob.sha256);
            json!({"sha256": sha256, "sizeBytes": blob.size_bytes, "verifiedBytes": blob.verified_bytes})
        })
        .collect();
    json!({
        "name": pull.name,
        "node": pull.node_name,
        "nodeId": pull.node_id,
        "stage": word(pull.stage()),
        "verifiedBytes": pull.verified_bytes,
        "totalBytes": pull.total_bytes,
        "bytesPerSecond": pull.bytes_per_second,
        "leftMs": pull.left_ms,
        "sources": sources,
        "blobs": blobs,
        "code": known(&pull.code),
        "error": known(&pull.error),
    })
}

/// How a stage is called; one of a later release has no name here.
fn word(stage: Stage) -> String {
    match stage {
        Stage::Unspecified => "unknown".to_owned(),
        stage => stage.as_str_name().to_lowercase(),
    }
}

// === impl Bars ===

impl Bars {
    fn new(are_drawn: bool) -> Self {
        Self { drawn: are_drawn.then(MultiProgress::new), bars: BTreeMap::new() }
    }

    fn show(&mut self, progress: &PullProgress) {
        let Some(drawn) = &self.drawn else { return };
        for blob in &progress.blobs {
            let has_room = self.bars.len() < BARS_MAX;
            let bar = match self.bars.entry((progress.node_id, blob.sha256.clone())) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) if has_room => {
                    let bar = drawn.add(bar(blob.size_bytes));
                    bar.set_message(format!("{} {}", progress.node_name, text::digest(&blob.sha256)));
                    entry.insert(bar)
                }
                Entry::Vacant(_) => continue,
            };
            bar.set_position(blob.verified_bytes);
        }
    }

    fn clear(&self) {
        if let Some(drawn) = &self.drawn {
            drop(drawn.clear());
        }
    }
}

#[cfg(test)]
mod tests {
    use ollamax_proto::v1::{BlobProgress, SourceProgress};

    use super::*;

    fn pull(stage: Stage) -> PullProgress {
        let mut pull = PullProgress {
            name: "llama3.2:latest".to_owned(),
            node_id: 1,
            node_name: "n1".to_owned(),
            digest: vec![7; 32],
            blobs: vec![BlobProgress { sha256: vec![1; 32], size_bytes: 2_000_000_000, verified_bytes: 1_100_000_000 }],
            sources: vec![SourceProgress { source: "origin".to_owned(), bytes: 1_100_000_000 }],
            verified_bytes: 1_100_000_000,
            total_bytes: 2_000_000_000,
            ..PullProgress::default()
        };
        pull.set_stage(stage);
        pull
    }

    #[test]
    fn pulls_are_listed_with_what_is_known_of_them() {
        let fetching =
            PullProgress { bytes_per_second: Some(117_000_000), left_ms: Some(8_000), ..pull(Stage::Fetching) };
        let waiting = PullProgress { total_bytes: 0, ..pull(Stage::Waiting) };
        let error = "the pull was cancelled".to_owned();
        let failed = PullProgress { node_name: "gpu-2".to_owned(), error, ..pull(Stage::Failed) };
        insta::assert_snapshot!(table(&[fetching, waiting, failed]), @r"
        NAME             NODE   STAGE     DONE              RATE      LEFT  NOTE
        llama3.2:latest  n1     fetching  1.1 GB of 2.0 GB  117 MB/s  8 s
        llama3.2:latest  n1     waiting
        llama3.2:latest  gpu-2  failed    1.1 GB of 2.0 GB                  the pull was cancelled
        ");
        assert_eq!(shown(&pull(Stage::Unspecified))["stage"], "unknown");
    }

    #[test]
    fn the_next_command_is_the_same_pull_with_patience_or_a_question() {
        let check = |stage: Stage, nodes: &[&str], insecure: bool, expected: &str| {
            let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
            let args = PullArgs { name: "llama3.2".to_owned(), nodes, insecure, wait: false, cancel: false };
            assert_eq!(next(&args, &Seen::from([(1, pull(stage))])), expected);
        };
        check(Stage::Fetching, &[], false, "ollamax model pull llama3.2 --wait");
        check(Stage::Waiting, &["a", "b"], true, "ollamax model pull llama3.2 --node a --node b --insecure --wait");
        check(Stage::Done, &["a"], true, "ollamax run llama3.2");
    }

    #[test]
    fn bars_are_drawn_for_so_many_files_and_none_where_nobody_looks() {
        let many = (0..=u8::MAX).map(|byte| BlobProgress { sha256: vec![byte; 32], ..BlobProgress::default() });
        let progress = PullProgress { blobs: many.collect(), ..pull(Stage::Fetching) };
        for (are_drawn, expected) in [(false, 0), (true, BARS_MAX)] {
            let mut bars = Bars::new(are_drawn);
            bars.show(&progress);
            bars.show(&progress);
            assert_eq!(bars.bars.len(), expected);
            bars.clear();
        }
    }
}
