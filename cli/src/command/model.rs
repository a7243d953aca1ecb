//! `ollamax model`: the models of the cluster.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use ollamax_proto::v1::import_model_request::Part;
use ollamax_proto::v1::{
    ImportModelHeader, ImportModelProgress, ImportModelRequest, ListModelsReply, ListModelsRequest, ModelView,
};
use ollamax_types::Capability;

use crate::args::{Global, ImportArgs, ModelCommand, Output};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

mod bundle;
mod create;
mod export;
mod limit;
mod modelfile;
mod moves;
mod pull;
mod push;
mod registry;
mod verify;
mod wishes;
mod work;

/// Bytes of one message.
const CHUNK_BYTES: usize = 1 << 20;
/// Messages that wait for the daemon.
const CHUNKS_WAITING_MAX: usize = 4;
/// What can be imported.
const NEXT: &str = "ollamax model import FILE.ollamax; or ollamax model import FILE.gguf --name NAME";
/// The phase of a model that is in use.
const ACTIVE: &str = "active";

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: ModelCommand) -> Result<(), Failure> {
    match command {
        ModelCommand::List { capabilities } => list(global, &capabilities).await,
        ModelCommand::Show { name } => show(global, name).await,
        ModelCommand::Export { name, file } => export::run(global, &name, &file).await,
        ModelCommand::Import(args) if bundle::is_one(&args.file) => bundle::run(global, args).await,
        ModelCommand::Import(args) => import(global, args).await,
        ModelCommand::Pull(args) if args.cancel => pull::cancel(global, &args).await,
        ModelCommand::Pull(args) => pull::run(global, &args).await,
        ModelCommand::Pulls => pull::list(global).await,
        ModelCommand::Create(args) => create::run(global, &args).await,
        ModelCommand::Push(args) => push::run(global, args).await,
        ModelCommand::Limit { name, rate } => limit::run(global, &name, rate).await,
        ModelCommand::Verify(args) => verify::run(global, &args).await,
        ModelCommand::Plan { file } => wishes::plan(global, &file).await,
        ModelCommand::Apply(args) => wishes::apply(global, &args).await,
        ModelCommand::Wishes => wishes::list(global).await,
        ModelCommand::Move(args) => moves::run(global, &args).await,
        ModelCommand::Repair { dry_run } => moves::make(global, false, dry_run).await,
        ModelCommand::Rebalance { dry_run } => moves::make(global, true, dry_run).await,
        ModelCommand::Registry(command) => registry::run(global, command).await,
    }
}

async fn list(global: &Global, wanted: &[Capability]) -> Result<(), Failure> {
    let mut listed = client::connect(global).await?.list_models(ListModelsRequest::default()).await?.into_inner();
    let silent = keep_able(&mut listed.models, wanted);
    if global.output == Output::Json {
        let models: Vec<Value> = listed.models.iter().map(shown).collect();
        let (all, unique) = (listed.all_bytes, listed.unique_bytes);
        let fields = if wanted.is_empty() {
            json!({"models": models, "allBytes": all, "uniqueBytes": unique})
        } else {
            // The sums are those of the whole list.
            json!({"models": models, "capabilitiesUnknown": silent})
        };
        return output::json("ModelList", fields);
    }
    if !wanted.is_empty() {
        if silent > 0 {
            let silent = text::count(silent, "model");
            output::talk(global.output, &format!("What it can do is not known of {silent}."));
        }
        return output::text(&table(&listed.models));
    }
    if listed.models.is_empty() {
        output::talk(global.output, "No node has a model yet. Next: ollamax model pull llama3.2");
    }
    output::text(&(table(&listed.models) + &sum(&listed)))
}

/// Leaves those that can do all of this. Of how many it is not known what they can do.
fn keep_able(models: &mut Vec<ModelView>, wanted: &[Capability]) -> usize {
    let silent = models.iter().filter(|model| model.capabilities.is_empty()).count();
    models.retain(|model| wanted.iter().all(|one| one.is_told_by(&model.capabilities)));
    silent
}

/// What all models take; nothing where no node has said it.
fn sum(listed: &ListModelsReply) -> String {
    if listed.all_bytes == 0 {
        return String::new();
    }
    let (models, saved) =
        (text::count(listed.models.len(), "model"), listed.all_bytes.saturating_sub(listed.unique_bytes));
    let shared = if saved == 0 { String::new() } else { format!("; shared files save {}", text::bytes(saved)) };
    format!("\n{models}, {}{shared}\n", text::bytes(listed.unique_bytes))
}

async fn show(global: &Global, name: String) -> Result<(), Failure> {
    let mut admin = client::connect(global).await?;
    let listed = admin.list_models(ListModelsRequest { name: name.clone() }).await?.into_inner();
    let Some(model) = listed.models.first() else {
        let all = admin.list_models(ListModelsRequest::default()).await?.into_inner();
        let why = text::similar(&name, all.models.iter().map(|model| model.name.as_str()));
        return Err(Failure::new(3, format!("model {name:?} not found"), why, "ollamax model list"));
    };
    if global.output == Output::Json {
        return output::json("Model", shown(model));
    }
    output::text(&page(model))
}

fn table(models: &[ModelView]) -> String {
    let rows = models.iter().map(|model| {
        let served = model.copies.iter().filter(|copy| copy.served);
        vec![
            model.name.clone(),
            text::digest(&model.digest),
            text::bytes(model.size_bytes),
            served.map(|copy| copy.node_name.clone()).collect::<Vec<_>>().join(", "),
            note(model),
        ]
    });
    output::table(&["NAME", "DIGEST", "SIZE", "NODES", "NOTE"], rows.collect())
}

/// What is special about a model, in few words.
fn note(model: &ModelView) -> String {
    let words = [
        Some(phase(model)).filter(|phase| *phase != ACTIVE),
        model.pinned.then_some("pinned"),
        model.conflict.then_some("versions differ"),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Where it stands in its life; a daemon that does not say it knows of nothing else.
fn phase(model: &ModelView) -> &str {
    if model.phase.is_empty() { ACTIVE } else { &model.phase }
}

fn page(model: &ModelView) -> String {
    let mut page = format!(
        "name       {}\ndigest     {}\nsize       {}\nmodified   {}\n",
        model.name,
        hex::encode(&model.digest),
        text::bytes(model.size_bytes),
        text::time(model.modified_at_ms)
    );
    if !model.capabilities.is_empty() {
        page += &format!("can        {}\n", model.capabilities.join(", "));
    }
    if phase(model) != ACTIVE {
        page += &format!("phase      {}\n", phase(model));
    }
    if model.pinned {
        page += "pinned     at a version\n";
    }
    page += "\n";
    let unserved =
        if model.pinned { "not served: another version is pinned" } else { "not served: another version is newer" };
    let rows = model.copies.iter().map(|copy| {
        vec![
            copy.node_name.clone(),
            text::digest(&copy.digest),
            text::time(copy.modified_at_ms),
            if copy.served { "served" } else { unserved }.to_owned(),
            if copy.resident { "loaded" } else { "" }.to_owned(),
        ]
    });
    page += &output::table(&["NODE", "DIGEST", "MODIFIED", "USE", "MEMORY"], rows.collect());
    if model.conflict {
        page += "\nNext: import or pull the same version on all nodes\n";
    }
    page
}

fn shown(model: &ModelView) -> Value {
    let copies: Vec<Value> = model
        .copies
        .iter()
        .map(|copy| json!({"node": copy.node_name, "nodeId": copy.node_id, "digest": hex::encode(&copy.digest), "modifiedAtMs": copy.modified_at_ms, "served": copy.served, "loaded": copy.resident}))
        .collect();
    let details: Value = serde_json::from_str(&model.details_json).unwrap_or_default();
    json!({
        "name": model.name,
        "digest": hex::encode(&model.digest),
        "sizeBytes": model.size_bytes,
        "modifiedAtMs": model.modified_at_ms,
        "details": details,
        "capabilities": model.capabilities,
        "conflict": model.conflict,
        "phase": phase(model),
        "pinned": model.pinned,
        "copies": copies,
    })
}

async fn import(global: &Global, args: ImportArgs) -> Result<(), Failure> {
    let ImportArgs { file, name, nodes, replace, check } = args;
    let file = file.as_path();
    let size_bytes = check_gguf(file, "this is no bundle and no GGUF file", NEXT)?;
    let again = format!("ollamax model import {} --name NAME", file.display());
    if check {
        return Err(Failure::usage("a GGUF file cannot be checked: it does not say what it should be", again));
    }
    let Some(name) = name else { return Err(Failure::usage("a GGUF file has no name of its own", again)) };
    let mut header = ImportModelHeader { name: name.clone(), nodes, replace, ..ImportModelHeader::default() };
    let bar = if output::may_draw(global.output) { bar(size_bytes) } else { ProgressBar::hidden() };
    bar.set_message("hashing");
    let sha256 = hash(file.to_owned(), bar.clone()).await?;
    bar.set_position(0);
    header.sha256 = sha256.to_vec();
    header.size_bytes = size_bytes;
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    let reading = read_file(file.to_owned(), header, sender);
    // When the daemon gives up the channel closes, and reading ends with it.
    let (last, read) = tokio::join!(send(global, receiver, &bar), reading);
    bar.finish_and_clear();
    let last = last?;
    read.map_err(|error| unread(file, &error))?;
    if global.output == Output::Json {
        let copies: Vec<Value> = last
            .copies
            .iter()
            .map(|copy| json!({"node": copy.node_name, "nodeId": copy.node_id, "digest": hex::encode(&copy.digest)}))
            .collect();
        return output::json("ModelImport", json!({"name": name, "copies": copies}));
    }
    for copy in &last.copies {
        output::line(&format!("{} has {name} ({})", copy.node_name, text::digest(&copy.digest)))?;
    }
    output::talk(global.output, &format!("Next: ollamax run {name}"));
    Ok(())
}

/// Sends what is read and shows how far it is; the daemon's last line names the copies.
async fn send(
    global: &Global,
    receiver: mpsc::Receiver<ImportModelRequest>,
    bar: &ProgressBar,
) -> Result<ImportModelProgress, Failure> {
    let next = |mut receiver: mpsc::Receiver<ImportModelRequest>| async {
        let request = receiver.recv().await?;
        Some((request, receiver))
    };
    let requests = futures::stream::unfold(receiver, next);
    let answer = client::connect(global).await?.import_model(requests).await?;
    let (id, mut progress) = (request_id(answer.metadata()), answer.into_inner());
    let mut last = ImportModelProgress::default();
    while let Some(line) = progress.message().await.map_err(|status| Failure::from(status).with_request_id(&id))? {
        bar.set_message(line.status.clone());
        bar.set_position(line.completed_bytes);
        last = line;
    }
    Ok(last)
}

/// A GGUF begins with its name; anything else is refused before a byte is sent, in the words of `no_gguf`.
fn check_gguf(file: &Path, no_gguf: &str, next: &str) -> Result<u64, Failure> {
    use std::io::Read as _;

    let what = |what: &str| format!("{}: {what}", file.display());
    let bad = |error: std::io::Error| Failure::usage(what(&error.to_string()), next);
    let other = |why: &str| Failure::new(2, what(no_gguf), why, next);
    let mut opened = std::fs::File::open(file).map_err(bad)?;
    let meta = opened.metadata().map_err(bad)?;
    if meta.is_dir() {
        return Err(other("it is a folder"));
    }
    let mut magic = [0; 4];
    opened.read_exact(&mut magic).map_err(|_| other("it is too short for one"))?;
    if magic != *b"GGUF" {
        return Err(other("it is another file, or its front is damaged"));
    }
    Ok(meta.len())
}

async fn hash(file: PathBuf, bar: ProgressBar) -> Result<[u8; 32], Failure> {
    let path = file.clone();
    let hashed = tokio::task::spawn_blocking(move || -> std::io::Result<[u8; 32]> {
        use std::io::Read as _;

        let mut opened = std::fs::File::open(file)?;
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; CHUNK_BYTES]);
        loop {
            let count = opened.read(&mut buffer)?;
            if count == 0 {
                return Ok(hasher.finalize().into());
            }
            hasher.update(&buffer[..count]);
            bar.inc(count as u64);
        }
    });
    let hashed =
        hashed.await.map_err(|error| Failure::new(1, "hash the file", error.to_string(), "repeat the command"))?;
    hashed.map_err(|error| unread(&path, &error))
}

fn unread(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(1, format!("read {}", file.display()), error.to_string(), "look at the disk that holds the file")
}

async fn read_file(
    file: PathBuf,
    header: ImportModelHeader,
    sender: mpsc::Sender<ImportModelRequest>,
) -> std::io::Result<()> {
    let mut opened = tokio::fs::File::open(file).await?;
    // A closed channel means that the daemon gave up; its own error says why.
    if sender.send(ImportModelRequest { part: Some(Part::Header(header)) }).await.is_err() {
        return Ok(());
    }
    loop {
        let mut data = Vec::with_capacity(CHUNK_BYTES);
        if (&mut opened).take(CHUNK_BYTES as u64).read_to_end(&mut data).await? == 0 {
            return Ok(());
        }
        if sender.send(ImportModelRequest { part: Some(Part::Data(data.into())) }).await.is_err() {
            return Ok(());
        }
    }
}

/// Drawn on stderr.
fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:<16} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = ProgressBar::new(total);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use ollamax_proto::v1::ModelCopy;

    use super::*;

    fn model(conflict: bool) -> ModelView {
        let copy = |node: &str, served| ModelCopy {
            node_name: node.to_owned(),
            served,
            digest: vec![7; 32],
            ..ModelCopy::default()
        };
        ModelView {
            name: "demo:latest".to_owned(),
            digest: vec![7; 32],
            size_bytes: 2_121_280,
            copies: vec![copy("n1", true), copy("n2", !conflict)],
            conflict,
            details_json: r#"{"family":"llama"}"#.to_owned(),
            ..ModelView::default()
        }
    }

    #[test]
    fn versions_that_differ_are_noted() {
        insta::assert_snapshot!(table(&[model(false), model(true)]), @r"
        NAME         DIGEST        SIZE    NODES   NOTE
        demo:latest  070707070707  2.1 MB  n1, n2
        demo:latest  070707070707  2.1 MB  n1      versions differ
        ");
        assert!(page(&model(true)).contains("another version is newer"));
        assert_eq!(shown(&model(true))["details"]["family"], "llama");
        assert_eq!(shown(&model(true))["conflict"], true);
    }

    #[test]
    fn what_is_special_about_a_model_is_noted() {
        let check = |phase: &str, pinned: bool, conflict: bool, expected: &str| {
            let model = ModelView { phase: phase.to_owned(), pinned, ..model(conflict) };
            assert_eq!(note(&model), expected);
        };
        check("", false, false, "");
        check("active", false, false, "");
        check("active", true, true, "pinned, versions differ");
        check("disabled", true, false, "disabled, pinned");
        let pinned = ModelView { pinned: true, phase: "deprecated".to_owned(), ..model(true) };
        let page = page(&pinned);
        assert!(page.contains("phase      deprecated\npinned     at a version\n"), "{page}");
        assert!(page.contains("another version is pinned") && !page.contains("is newer"), "{page}");
    }

    #[test]
    fn a_list_is_of_the_models_that_can_do_all_that_is_asked_for() {
        let able = |name: &str, words: &[&str]| ModelView {
            name: name.to_owned(),
            capabilities: words.iter().map(|word| (*word).to_owned()).collect(),
            ..model(false)
        };
        let all = [
            able("a", &["completion", "tools", "vision"]),
            able("b", &["embedding"]),
            able("c", &["tools"]),
            able("d", &[]),
        ];
        let check = |wanted: &[Capability], expected: &[&str]| {
            let mut models = all.to_vec();
            assert_eq!(keep_able(&mut models, wanted), 1, "nothing is known of d");
            assert_eq!(models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), expected);
        };
        check(&[], &["a", "b", "c", "d"]);
        check(&[Capability::Embedding], &["b"]);
        check(&[Capability::Tools], &["a", "c"]);
        check(&[Capability::Tools, Capability::Multimodal], &["a"]);
        check(&[Capability::Audio], &[]);
    }

    #[test]
    fn a_list_ends_with_what_all_of_it_takes() {
        let check = |models: usize, all_bytes: u64, unique_bytes: u64, expected: &str| {
            let models = vec![model(false); models];
            assert_eq!(sum(&ListModelsReply { models, view: None, all_bytes, unique_bytes }), expected);
        };
        check(0, 0, 0, "");
        check(1, 5_000, 5_000, "\n1 model, 5.0 kB\n");
        check(12, 163_300_000_000, 140_200_000_000, "\n12 models, 140 GB; shared files save 23.1 GB\n");
    }

    #[test]
    fn what_is_no_gguf_is_refused_before_a_byte_is_sent() {
        let temp = tempfile::tempdir().expect("temp");
        let path = temp.path().join("f");
        let check = |path: &Path, why: &str| {
            let failure = check_gguf(path, "this is none", "another file").expect_err("refused");
            let expected = Failure::new(2, format!("{}: this is none", path.display()), why, "another file");
            assert_eq!(failure, expected);
        };
        for (content, why) in [
            (&b""[..], "it is too short for one"),
            (b"GG", "it is too short for one"),
            (b"<html>", "it is another file, or its front is damaged"),
        ] {
            std::fs::write(&path, content).expect("written");
            check(&path, why);
        }
        check(temp.path(), "it is a folder");
        assert_eq!(check_gguf(&temp.path().join("missing"), "", "").expect_err("missing").exit(), 2);
        std::fs::write(&path, b"GGUF3").expect("written");
        assert_eq!(check_gguf(&path, "", ""), Ok(5));
    }
}
