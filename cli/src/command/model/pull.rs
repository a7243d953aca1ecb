//! `ollamax model pull` and `ollamax model pulls`: models from a registry, onto as many nodes as somebody wants.
//!
//! What is wanted is on record in the cluster, and each copy is a job of the node that gets it. This command asks for
//! it, shows how far each node is, and may leave at any time.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use futures::{Stream, StreamExt as _};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tonic::Status;

use ollamax_proto::v1::pull_progress::{Stage, Wait};
use ollamax_proto::v1::{
    CancelPullRequest, FollowWishRequest, ListPullsRequest, NodeLabel, PullProgress, PullRequest, SourceProgress,
};
use ollamax_types::Rate;

use crate::args::{Global, Output, PullArgs, Replicas, WhereArgs};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

/// Most nodes that have a row of their own.
const ROWS_MAX: usize = 24;
/// A row: the node, its bar, how much it has, and what it does.
const ROW: &str = "{prefix:<12} {bar:24} {percent:>3} % of {total_bytes} {msg}";
/// Of a model that is in the store, where the runtime is down.
const RUNTIME_WAIT: &str = "waits for the runtime";

/// What each node said last, by its id.
pub(super) type Seen = BTreeMap<u64, PullProgress>;

/// One row with a bar for each node, where somebody looks.
pub(super) struct Rows {
    drawn: Option<MultiProgress>,
    bars: BTreeMap<u64, ProgressBar>,
    /// What the nodes that were heard are called.
    names: BTreeMap<u64, String>,
}

/// Asks for a pull and, where it is to wait, follows it to its end.
pub(super) async fn run(global: &Global, args: &PullArgs) -> Result<(), Failure> {
    let mut seen = Seen::new();
    let mut rows = Rows::new(args.wait && output::may_draw(global.output));
    let outcome = tokio::select! {
        // In this order: Ctrl-C is listened to before anything is begun.
        biased;
        _ = tokio::signal::ctrl_c(), if args.wait => {
            Err(Failure::new(130, "interrupted", "a pull that was taken on goes on", "ollamax model pulls"))
        }
        outcome = follow(global, args, &mut seen, &mut rows) => outcome,
    };
    rows.clear();
    // What came of some nodes is shown, whatever became of the others.
    show(global, args, &seen)?;
    outcome?;
    if !is_complete(&seen, args.wait) {
        let next = "ollamax model pulls shows whether it goes on";
        return Err(Failure::new(7, "the daemon ended before the pull did", "it is stopping", next));
    }
    if let Some(rate) = args.limit_rate.filter(|_| !is_complete(&seen, true)) {
        let until = "until it is over or a node starts again";
        output::talk(global.output, &format!("Each node fetches at {rate} at most, {until}."));
    }
    if let Some(told) = too_many(args, &seen) {
        output::talk(global.output, &told);
    }
    output::talk(global.output, &format!("Next: {}", next(args, &seen)));
    Ok(())
}

/// That copies go, as fewer are wanted than are there. Which ones is the leader's choice.
fn too_many(args: &PullArgs, seen: &Seen) -> Option<String> {
    let Some(Replicas::Count(wanted)) = args.replicas else { return None };
    let there = seen.values().filter(|progress| progress.stage() == Stage::Done).count();
    let more = there.saturating_sub(wanted as usize);
    let (goes, is) = (if more == 1 { "goes" } else { "go" }, if wanted == 1 { "is" } else { "are" });
    let which = format!("ollamax model why {}", args.name);
    (more > 0).then(|| format!("{more} of these copies {goes}, as {wanted} {is} wanted. Which: {which}"))
}

/// Who loses its copy when all have it that are to.
fn leaving(seen: &Seen) -> BTreeSet<&str> {
    seen.values().flat_map(|progress| &progress.leaving).map(String::as_str).collect()
}

/// Which copies go because nodes are named, and how they stay; `None` where none does. It is said with the first news
/// of it: when all have theirs that are to, the others go, and nothing is there to keep.
fn lost(args: &PullArgs, seen: &Seen, progress: &PullProgress) -> Option<String> {
    let leaving: BTreeSet<&str> = progress.leaving.iter().map(String::as_str).collect();
    if args.nodes.is_empty() || leaving.is_empty() || !self::leaving(seen).is_empty() {
        return None;
    }
    let from: Vec<&str> = leaving.iter().copied().collect();
    let named: Vec<&str> = args.nodes.iter().map(String::as_str).chain(from.iter().copied()).collect();
    let (from, named, name) = (from.join(", "), named.join(","), &args.name);
    let insecure = if args.insecure { " --insecure" } else { "" };
    Some(format!(
        "Copies go from {from}: there it was for the sake of a number, and now nodes are named. To keep them: ollamax \
         model pull {name} --node {named}{insecure}"
    ))
}

/// That it stays wanted where it was, as nobody says otherwise; said once, with the first news.
fn kept(args: &PullArgs, seen: &Seen, progress: &PullProgress) -> Option<String> {
    if progress.kept.is_empty() || seen.values().any(|progress| !progress.kept.is_empty()) {
        return None;
    }
    let (PullProgress { kept, .. }, name) = (progress, &args.name);
    Some(format!("It stays wanted on {kept}. For another number: ollamax model pull {name} --replicas 2"))
}

/// Why the version may not be the newest; said once, with the first news of it.
fn remarked(seen: &Seen, progress: &PullProgress) -> Option<String> {
    let is_new = !progress.remark.is_empty() && seen.values().all(|progress| progress.remark.is_empty());
    let remark = text::whole_line(&progress.remark);
    let next = "A newer version may be there: pull again when it answers.";
    is_new.then(|| format!("Note: {remark}. {next}"))
}

fn request(args: &PullArgs) -> PullRequest {
    let replicas = match args.replicas {
        Some(Replicas::Count(count)) => Some(count),
        Some(Replicas::All) | None => None,
    };
    PullRequest {
        name: args.name.clone(),
        nodes: args.nodes.clone(),
        insecure: args.insecure,
        wait: args.wait,
        replicas,
        on_all: args.replicas == Some(Replicas::All),
        limit_bytes_per_second: args.limit_rate.map(Rate::bytes),
        labels: labels(&args.places.labels),
        gpu_memory_bytes_min: args.places.gpu_memory_min.unwrap_or(0),
        avoid: args.places.avoid.clone(),
        disk_free_bytes_min: args.places.disk_free_min.unwrap_or(0),
    }
}

fn labels(labels: &[(String, String)]) -> Vec<NodeLabel> {
    labels.iter().map(|(key, value)| NodeLabel { key: key.clone(), value: value.clone() }).collect()
}

/// Whether the daemon's stream ended where it should: somebody has the model, and of those that have not nobody is on
/// its way. A node that failed was replaced by another, or else the stream ends with its error.
fn is_complete(seen: &Seen, wait: bool) -> bool {
    let is_over = |progress: &PullProgress| matches!(progress.stage(), Stage::Done | Stage::Failed);
    if wait {
        seen.values().all(is_over) && seen.values().any(|progress| progress.stage() == Stage::Done)
    } else {
        !seen.is_empty()
    }
}

async fn follow(global: &Global, args: &PullArgs, seen: &mut Seen, rows: &mut Rows) -> Result<(), Failure> {
    let answer = client::connect_models(global).await?.pull(request(args)).await?;
    let id = request_id(answer.metadata());
    let say = |seen: &Seen, rows: &Rows, progress: &PullProgress| {
        let words = [lost(args, seen, progress), kept(args, seen, progress), remarked(seen, progress)];
        let news = changed(seen, progress).filter(|_| args.wait && !rows.are_drawn());
        for told in words.into_iter().flatten().chain(news) {
            rows.beside(|| output::talk(global.output, &told));
        }
    };
    hear(answer.into_inner(), seen, rows, say).await.map_err(|failure| failure.with_request_id(&id))
}

/// Follows whatever is wanted of a model, to its end or until somebody is on its way, and says how far each node is.
pub(super) async fn follow_wish(global: &Global, name: &str, wait: bool) -> Result<Seen, Failure> {
    let (mut seen, mut rows) = (Seen::new(), Rows::new(wait && output::may_draw(global.output)));
    let request = FollowWishRequest { name: name.to_owned(), wait };
    let answer = client::connect_models(global).await?.follow_wish(request).await?;
    let id = request_id(answer.metadata());
    let say = |seen: &Seen, rows: &Rows, progress: &PullProgress| {
        if let Some(told) = changed(seen, progress).filter(|_| wait && !rows.are_drawn()) {
            output::talk(global.output, &told);
        }
    };
    let heard = hear(answer.into_inner(), &mut seen, &mut rows, say).await;
    rows.clear();
    heard.map_err(|failure| failure.with_request_id(&id))?;
    if !is_complete(&seen, wait) {
        let next = format!("ollamax model why {name}");
        return Err(Failure::new(7, "the daemon ended before it was done", "it is stopping; it goes on", next));
    }
    Ok(seen)
}

/// Notes what each node says last. Each word is given to `say` first, with what was heard before it.
async fn hear(
    mut told: impl Stream<Item = Result<PullProgress, Status>> + Unpin,
    seen: &mut Seen,
    rows: &mut Rows,
    mut say: impl FnMut(&Seen, &Rows, &PullProgress),
) -> Result<(), Failure> {
    while let Some(progress) = told.next().await.transpose()? {
        say(seen, rows, &progress);
        rows.show(&progress);
        seen.insert(progress.node_id, progress);
    }
    Ok(())
}

/// What is there, and what is on its way. A failure is told by itself.
fn show(global: &Global, args: &PullArgs, seen: &Seen) -> Result<(), Failure> {
    let copies: Vec<&PullProgress> = seen.values().filter(|progress| is_good(progress)).collect();
    let Some(first) = copies.first() else { return Ok(()) };
    if global.output == Output::Json {
        let name = first.name.clone();
        let copies: Vec<Value> = copies.iter().copied().map(copy).collect();
        let mut shown = json!({"name": name, "copies": copies, "leaving": leaving(seen)});
        if !first.kept.is_empty() {
            shown["kept"] = json!(first.kept);
        }
        if let Some(remarked) = seen.values().find(|progress| !progress.remark.is_empty()) {
            shown["remark"] = json!(remarked.remark);
        }
        return output::json("ModelPull", shown);
    }
    for progress in copies {
        if progress.stage() == Stage::Done || !args.wait {
            output::line(&told(progress))?;
        }
    }
    Ok(())
}

/// Whether a node has it, or is about to.
pub(super) fn is_good(progress: &PullProgress) -> bool {
    !matches!(progress.stage(), Stage::Failed | Stage::Unspecified)
}

/// What a node has, or is about to have.
pub(super) fn told(progress: &PullProgress) -> String {
    let PullProgress { name, node_name, .. } = progress;
    match (progress.stage(), progress.total_bytes) {
        (Stage::Done, _) => format!("{node_name} has {name} ({})", text::digest(&progress.digest)),
        (_, 0) => format!("{node_name} pulls {name}"),
        (_, total_bytes) => format!("{node_name} pulls {name} ({})", text::bytes(total_bytes)),
    }
}

pub(super) fn copy(progress: &PullProgress) -> Value {
    json!({
        "node": progress.node_name,
        "nodeId": progress.node_id,
        "digest": hex::encode(&progress.digest),
        "stage": word(progress.stage()),
        "verifiedBytes": progress.verified_bytes,
        "totalBytes": progress.total_bytes,
        "sources": sources(&progress.sources),
    })
}

fn sources(sources: &[SourceProgress]) -> Vec<Value> {
    sources.iter().map(|from| json!({"source": from.source, "bytes": from.bytes})).collect()
}

/// The command to type: to ask the model, or to wait for it.
fn next(args: &PullArgs, seen: &Seen) -> String {
    if is_complete(seen, true) {
        return format!("ollamax run {}", args.name);
    }
    let mut again = format!("ollamax model pull {}", args.name);
    if let Some(replicas) = args.replicas {
        again += &format!(" --replicas {replicas}");
    }
    for node in &args.nodes {
        again += &format!(" --node {node}");
    }
    again += &words(&args.places);
    if let Some(rate) = args.limit_rate {
        again += &format!(" --limit-rate {rate}");
    }
    again + if args.insecure { " --insecure --wait" } else { " --wait" }
}

/// Which nodes come into question, as it is typed.
fn words(places: &WhereArgs) -> String {
    let labels = places.labels.iter().map(|(key, value)| format!(" --label {key}={value}"));
    let memory = places.gpu_memory_min.iter().map(|bytes| format!(" --gpu-memory-min {bytes}B"));
    let disk = places.disk_free_min.iter().map(|bytes| format!(" --disk-free-min {bytes}B"));
    let avoid = places.avoid.iter().map(|node| format!(" --avoid {node}"));
    labels.chain(memory).chain(disk).chain(avoid).collect()
}

/// Ends a pull on all nodes, or the part of each that is named.
pub(super) async fn cancel(global: &Global, args: &PullArgs) -> Result<(), Failure> {
    let mut client = client::connect_models(global).await?;
    let own = [String::new()];
    let nodes = if args.nodes.is_empty() { &own[..] } else { &args.nodes[..] };
    for node in nodes {
        let request = CancelPullRequest { name: args.name.clone(), node: node.clone() };
        if !client.cancel_pull(request).await?.into_inner().found {
            let what = if node.is_empty() {
                format!("no pull of {} is on its way", args.name)
            } else {
                format!("node {node} does not pull {}", args.name)
            };
            return Err(Failure::new(3, what, "it is over, or nobody asked for it", "ollamax model pulls"));
        }
    }
    if global.output == Output::Json {
        return output::json("ModelPullCancel", json!({"name": args.name, "cancelled": true}));
    }
    output::line(&format!("the pull of {} was cancelled", args.name))?;
    // Without a node it is the whole wish that ended, also where it only asked for a newer version.
    let kept = if args.nodes.is_empty() {
        "It is wanted nowhere now: copies that are there stay, and none is made anew. What was fetched is kept."
    } else {
        "What was fetched is kept."
    };
    output::talk(global.output, &format!("{kept} Next: ollamax model pull {}", args.name));
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
            step(pull),
            if pull.total_bytes == 0 { String::new() } else { done },
            pull.bytes_per_second.map(|rate| format!("{}/s", text::bytes(rate))).unwrap_or_default(),
            pull.left_ms.map(text::span).unwrap_or_default(),
            note(pull),
        ]
    });
    output::table(&["NAME", "NODE", "STAGE", "DONE", "RATE", "LEFT", "NOTE"], rows.collect())
}

/// Why it failed, else what it lacks, else to what somebody slowed it down.
fn note(pull: &PullProgress) -> String {
    let trouble = if pull.error.is_empty() { lacking(pull) } else { pull.error.clone() };
    let limit = pull.limit_bytes_per_second.and_then(Rate::of).filter(|_| trouble.is_empty());
    limit.map_or_else(|| text::in_one_line(trouble.as_bytes()), |rate| format!("at {rate} at most"))
}

/// What a node waits for that does not come by itself; empty where it does.
fn lacking(pull: &PullProgress) -> String {
    match pull.wait() {
        Wait::Store => format!("waits for the model store: {}", pull.wait_reason),
        Wait::Runtime => RUNTIME_WAIT.to_owned(),
        Wait::Unspecified | Wait::FirstCopy | Wait::Quorum | Wait::Window => String::new(),
    }
}

fn shown(pull: &PullProgress) -> Value {
    let known = |text: &String| (!text.is_empty()).then(|| text.clone());
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
        "limitBytesPerSecond": pull.limit_bytes_per_second,
        "sources": sources(&pull.sources),
        "blobs": blobs,
        "code": known(&pull.code),
        "error": known(&pull.error),
    })
}

/// What a node does, and what it waits for.
fn step(progress: &PullProgress) -> String {
    let what = word(progress.stage());
    match progress.wait() {
        Wait::Unspecified => what,
        Wait::FirstCopy => what + " for the first copy",
        Wait::Quorum => what + " for a quorum",
        Wait::Store => what + " for the model store",
        Wait::Runtime => RUNTIME_WAIT.to_owned(),
        Wait::Window => match progress.wait_until_minute {
            Some(minute) => format!("{what} until {:02}:{:02}", minute / 60, minute % 60),
            None => what + " for a limit that is off",
        },
    }
}

/// What a node does now, where it did something else before: for whoever waits and sees no rows. That it has the model
/// is told at the end.
fn changed(seen: &Seen, progress: &PullProgress) -> Option<String> {
    let now = with_why(progress);
    let is_new = seen.get(&progress.node_id).map(with_why).as_ref() != Some(&now);
    (is_new && progress.stage() != Stage::Done).then(|| format!("{}: {now}", progress.node_name))
}

/// What a node does, and why that takes long or has ended.
fn with_why(progress: &PullProgress) -> String {
    let why = if progress.error.is_empty() { &progress.wait_reason } else { &progress.error };
    let why = text::in_one_line(why.as_bytes());
    if why.is_empty() { step(progress) } else { format!("{}: {why}", step(progress)) }
}

/// How a stage is called; one of a later release has no name here.
fn word(stage: Stage) -> String {
    match stage {
        Stage::Unspecified => "unknown".to_owned(),
        stage => stage.as_str_name().to_lowercase(),
    }
}

/// What a node does, how fast and from where, as far as it is known.
fn doing(progress: &PullProgress, names: &BTreeMap<u64, String>) -> String {
    let mut parts = vec![step(progress)];
    parts.extend(Some(text::in_one_line(progress.wait_reason.as_bytes())).filter(|reason| !reason.is_empty()));
    parts.extend(progress.bytes_per_second.map(|rate| format!("{}/s", text::bytes(rate))));
    parts.extend(progress.left_ms.map(|left_ms| format!("{} left", text::span(left_ms))));
    parts.extend(from_where(&progress.sources, names));
    parts.join(", ")
}

/// Which part of what came is from where; nothing where none came.
fn from_where(sources: &[SourceProgress], names: &BTreeMap<u64, String>) -> Option<String> {
    let came: Vec<&SourceProgress> = sources.iter().filter(|from| from.bytes > 0 && from.source != "here").collect();
    let sum: u128 = came.iter().map(|from| u128::from(from.bytes)).sum();
    let share = |from: &&SourceProgress| {
        let id = from.source.strip_prefix("node/").and_then(|id| id.parse::<u64>().ok());
        let name = id.and_then(|id| names.get(&id)).map_or(from.source.as_str(), String::as_str);
        // To the nearest percent.
        let percent = (u128::from(from.bytes) * 200 + sum) / (2 * sum);
        format!("{name} {percent} %")
    };
    let shares: Vec<String> = came.iter().map(share).collect();
    (!shares.is_empty()).then(|| format!("from {}", shares.join(", ")))
}

// === impl Rows ===

impl Rows {
    pub(super) fn new(are_drawn: bool) -> Self {
        Self { drawn: are_drawn.then(MultiProgress::new), bars: BTreeMap::new(), names: BTreeMap::new() }
    }

    pub(super) fn show(&mut self, progress: &PullProgress) {
        let Some(drawn) = &self.drawn else { return };
        self.names.entry(progress.node_id).or_insert_with(|| progress.node_name.clone());
        let has_room = self.bars.len() < ROWS_MAX;
        let bar = match self.bars.entry(progress.node_id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) if has_room => {
                let bar = drawn.add(ProgressBar::new(progress.total_bytes));
                let bar = match ProgressStyle::with_template(ROW) {
                    Ok(style) => bar.with_style(style),
                    Err(_) => bar,
                };
                bar.set_prefix(progress.node_name.clone());
                entry.insert(bar)
            }
            Entry::Vacant(_) => return,
        };
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.verified_bytes);
        bar.set_message(doing(progress, &self.names));
    }

    /// Whether somebody sees them.
    const fn are_drawn(&self) -> bool {
        self.drawn.is_some()
    }

    /// Lets something be written where the rows are drawn.
    fn beside(&self, write: impl FnOnce()) {
        match &self.drawn {
            Some(drawn) => drawn.suspend(write),
            None => write(),
        }
    }

    pub(super) fn clear(&self) {
        if let Some(drawn) = &self.drawn {
            drop(drawn.clear());
        }
    }
}

#[cfg(test)]
mod tests {
    use ollamax_proto::v1::BlobProgress;

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

    fn asked() -> PullArgs {
        let (name, nodes) = ("llama3.2".to_owned(), vec![]);
        let places = WhereArgs::default();
        PullArgs { name, replicas: None, nodes, places, insecure: false, wait: false, limit_rate: None, cancel: false }
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
        let slow = PullProgress { limit_bytes_per_second: Some(20_000_000), ..pull(Stage::Fetching) };
        assert_eq!(note(&slow), "at 20MB/s at most");
    }

    #[test]
    fn the_next_command_is_the_same_pull_with_patience_or_a_question() {
        let check = |stage: Stage, args: PullArgs, expected: &str| {
            assert_eq!(next(&args, &Seen::from([(1, pull(stage))])), expected);
        };
        let nodes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        check(Stage::Fetching, asked(), "ollamax model pull llama3.2 --wait");
        let chosen = PullArgs { nodes: nodes(&["a", "b"]), insecure: true, ..asked() };
        check(Stage::Waiting, chosen, "ollamax model pull llama3.2 --node a --node b --insecure --wait");
        let three = PullArgs { replicas: Some(Replicas::Count(3)), ..asked() };
        check(Stage::Fetching, three, "ollamax model pull llama3.2 --replicas 3 --wait");
        let all = PullArgs { replicas: Some(Replicas::All), ..asked() };
        check(Stage::Fetching, all, "ollamax model pull llama3.2 --replicas all --wait");
        let slow = PullArgs { limit_rate: "20MB/s".parse().ok(), ..asked() };
        check(Stage::Fetching, slow, "ollamax model pull llama3.2 --limit-rate 20MB/s --wait");
        let labels = vec![("room".to_owned(), "a".to_owned())];
        let places = WhereArgs { labels, gpu_memory_min: Some(16), disk_free_min: Some(50), avoid: nodes(&["c"]) };
        let some =
            "ollamax model pull llama3.2 --label room=a --gpu-memory-min 16B --disk-free-min 50B --avoid c --wait";
        check(Stage::Fetching, PullArgs { places, ..asked() }, some);
        let one = PullArgs { nodes: nodes(&["a"]), insecure: true, ..asked() };
        check(Stage::Done, one, "ollamax run llama3.2");
    }

    #[tokio::test]
    async fn whose_copies_go_is_said_once_while_they_are_there_whatever_comes_of_the_pull() {
        async fn said(args: PullArgs, leaving: &[&str]) -> Vec<String> {
            let leaving: Vec<String> = leaving.iter().map(|node| (*node).to_owned()).collect();
            let begun = || PullProgress { leaving: leaving.clone(), ..pull(Stage::Fetching) };
            let other = PullProgress { node_id: 2, ..begun() };
            let told = futures::stream::iter([Ok(begun()), Ok(other), Err(Status::unavailable("it is stopping"))]);
            let (mut seen, mut rows, mut said) = (Seen::new(), Rows::new(false), Vec::new());
            let heard = hear(told, &mut seen, &mut rows, |seen, _, progress| said.extend(lost(&args, seen, progress)));
            assert!(heard.await.is_err(), "it fails");
            said
        }
        let told = "Copies go from n1, n3: there it was for the sake of a number, and now nodes are named. To keep \
                    them: ollamax model pull llama3.2 --node n2,n1,n3";
        let named = || PullArgs { nodes: vec!["n2".to_owned()], ..asked() };
        assert_eq!(said(named(), &["n3", "n1"]).await, [told]);
        let insecure = PullArgs { insecure: true, ..named() };
        assert_eq!(said(insecure, &["n3", "n1"]).await, [format!("{told} --insecure")]);
        assert_eq!(said(asked(), &["n3", "n1"]).await, [""; 0], "a number is wanted");
        assert_eq!(said(named(), &[]).await, [""; 0]);
    }

    #[test]
    fn whoever_wants_fewer_copies_than_there_are_is_told_that_some_go() {
        let check = |replicas: Option<Replicas>, stages: &[Stage], expected: Option<&str>| {
            let seen: Seen = (1..).zip(stages.iter().map(|stage| pull(*stage))).collect();
            assert_eq!(too_many(&PullArgs { replicas, ..asked() }, &seen).as_deref(), expected, "{replicas:?}");
        };
        let three = [Stage::Done; 3];
        let two_go = "2 of these copies go, as 1 is wanted. Which: ollamax model why llama3.2";
        check(Some(Replicas::Count(1)), &three, Some(two_go));
        let one_goes = "1 of these copies goes, as 2 are wanted. Which: ollamax model why llama3.2";
        check(Some(Replicas::Count(2)), &three, Some(one_goes));
        check(Some(Replicas::Count(3)), &three, None);
        check(Some(Replicas::Count(1)), &[Stage::Done, Stage::Fetching], None);
        check(Some(Replicas::All), &three, None);
        check(None, &three, None);
    }

    #[test]
    fn where_it_stays_wanted_is_said_once_to_whoever_said_nothing() {
        let first = PullProgress { kept: "3 nodes".to_owned(), ..pull(Stage::Fetching) };
        let told = "It stays wanted on 3 nodes. For another number: ollamax model pull llama3.2 --replicas 2";
        assert_eq!(kept(&asked(), &Seen::new(), &first).as_deref(), Some(told));
        assert_eq!(kept(&asked(), &Seen::from([(2, first.clone())]), &first), None);
        assert_eq!(kept(&asked(), &Seen::new(), &pull(Stage::Fetching)), None);
    }

    #[test]
    fn that_the_registry_did_not_answer_is_said_once() {
        let first = PullProgress { remark: "the registry did not answer".to_owned(), ..pull(Stage::Checking) };
        let told = "Note: the registry did not answer. A newer version may be there: pull again when it answers.";
        assert_eq!(remarked(&Seen::new(), &first).as_deref(), Some(told));
        assert_eq!(remarked(&Seen::from([(1, first.clone())]), &first), None);
        assert_eq!(remarked(&Seen::new(), &pull(Stage::Checking)), None);
    }

    #[test]
    fn what_is_wanted_is_asked_for_as_it_was_typed() {
        let with = |replicas| request(&PullArgs { replicas, ..asked() });
        assert_eq!((with(None).replicas, with(None).on_all), (None, false));
        let three = with(Some(Replicas::Count(3)));
        assert_eq!((three.replicas, three.on_all), (Some(3), false));
        let all = with(Some(Replicas::All));
        assert_eq!((all.replicas, all.on_all), (None, true));
        let slow = request(&PullArgs { limit_rate: "20MB/s".parse().ok(), ..asked() });
        assert_eq!((slow.limit_bytes_per_second, all.limit_bytes_per_second), (Some(20_000_000), None));
    }

    #[test]
    fn a_stream_is_complete_when_nobody_is_on_its_way_and_somebody_has_the_model() {
        let check = |stages: &[Stage], wait: bool, expected: bool| {
            let seen: Seen = (1..).zip(stages.iter().map(|stage| pull(*stage))).collect();
            assert_eq!(is_complete(&seen, wait), expected, "{stages:?} {wait}");
        };
        check(&[], false, false);
        check(&[Stage::Waiting], false, true);
        check(&[], true, false);
        check(&[Stage::Done, Stage::Fetching], true, false);
        check(&[Stage::Failed], true, false);
        check(&[Stage::Done, Stage::Done], true, true);
        // Another node took the place of the one that failed.
        check(&[Stage::Done, Stage::Failed], true, true);
    }

    #[test]
    fn a_row_says_what_a_node_does_how_fast_and_from_where() {
        let source = |source: &str, bytes| SourceProgress { source: source.to_owned(), bytes };
        let sources =
            vec![source("origin", 0), source("here", 9), source("node/1", 400_000_000), source("node/3", 98_000_000)];
        let known = PullProgress {
            bytes_per_second: Some(117_000_000),
            left_ms: Some(8_000),
            sources,
            ..pull(Stage::Fetching)
        };
        let names = BTreeMap::from([(1, "n1".to_owned()), (2, "n2".to_owned())]);
        let doing = |progress: &PullProgress| doing(progress, &names);
        let expected = "fetching, 117 MB/s, 8 s left, from n1 80 %, node/3 20 %";
        assert_eq!(doing(&known), expected);
        let origin = PullProgress { sources: vec![source("origin", 3)], ..pull(Stage::Fetching) };
        assert_eq!(doing(&origin), "fetching, from origin 100 %");
        let mut waiting = PullProgress { sources: vec![source("here", 5)], ..pull(Stage::Waiting) };
        assert_eq!(doing(&waiting), "waiting");
        waiting.set_wait(Wait::FirstCopy);
        assert_eq!(doing(&waiting), "waiting for the first copy");
        waiting.set_wait(Wait::Window);
        assert_eq!(doing(&waiting), "waiting for a limit that is off");
        waiting.wait_until_minute = Some(18 * 60 + 5);
        assert_eq!(doing(&waiting), "waiting until 18:05");
        waiting.set_wait(Wait::Store);
        waiting.wait_reason = "none at /models".to_owned();
        assert_eq!(doing(&waiting), "waiting for the model store, none at /models");
        assert_eq!(note(&waiting), "waits for the model store: none at /models");
        let mut settling = PullProgress { sources: vec![source("here", 5)], ..pull(Stage::Settling) };
        settling.set_wait(Wait::Runtime);
        assert_eq!((doing(&settling), note(&settling)), (RUNTIME_WAIT.to_owned(), RUNTIME_WAIT.to_owned()));
    }

    #[test]
    fn who_waits_without_rows_is_told_whenever_a_node_does_something_else() {
        let mut waiting = pull(Stage::Settling);
        waiting.set_wait(Wait::Runtime);
        let further = PullProgress { verified_bytes: 1_200_000_000, ..pull(Stage::Fetching) };
        let failed = PullProgress { error: "the runtime\nis down".to_owned(), ..pull(Stage::Failed) };
        let other = PullProgress { node_id: 2, node_name: "n2".to_owned(), ..pull(Stage::Fetching) };
        let news = [pull(Stage::Fetching), further, other, waiting.clone(), waiting, failed, pull(Stage::Done)];
        let (mut seen, mut said) = (Seen::new(), Vec::new());
        for progress in news {
            said.extend(changed(&seen, &progress));
            seen.insert(progress.node_id, progress);
        }
        let expected =
            ["n1: fetching", "n2: fetching", "n1: waits for the runtime", "n1: failed: the runtime\\nis down"];
        assert_eq!(said, expected);
    }

    #[test]
    fn rows_are_drawn_for_so_many_nodes_and_none_where_nobody_looks() {
        for (are_drawn, expected) in [(false, 0), (true, ROWS_MAX)] {
            let mut rows = Rows::new(are_drawn);
            for node_id in 1..=200 {
                rows.show(&PullProgress { node_id, ..pull(Stage::Fetching) });
                rows.show(&PullProgress { node_id, ..pull(Stage::Done) });
            }
            assert_eq!(rows.bars.len(), expected);
            rows.clear();
        }
    }
}
