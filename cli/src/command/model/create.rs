//! `ollamax model create`: the runtime of one node makes a model, of files that are sent to it or from another model.
//!
//! A Modelfile is read here and the files are hashed here, so what makes no sense is told before anybody is asked. A
//! file that the node has already is sent to the daemon of this machine and no further.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use ollamax_proto::v1::create_part::Part;
use ollamax_proto::v1::pull_progress::Stage;
use ollamax_proto::v1::{CreateFile, CreateHead, CreatePart, PullProgress, RuntimeProgress};
use ollamax_types::ModelName;
use ollamax_types::limits::{CREATE_BODY_BYTES_MAX, CREATE_FILES_MAX};

use crate::args::{CreateArgs, Global, Output};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

use super::modelfile::{self, Modelfile};
use super::work::Work;
use super::{CHUNK_BYTES, CHUNKS_WAITING_MAX, check_gguf, hash, pull, unread};

/// What to type instead.
const NEXT: &str = "ollamax model create NAME FILE.gguf, or --from BASE, or --modelfile FILE";

/// What a model is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Recipe {
    /// A model.
    from: Option<String>,
    weights: Vec<PathBuf>,
    adapters: Vec<PathBuf>,
    /// The other fields of Ollama's `/api/create`.
    fields: Map<String, Value>,
}

/// A file that is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hashed {
    path: PathBuf,
    sha256: [u8; 32],
    size_bytes: u64,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    /// The last word of the node that made it.
    made: RuntimeProgress,
    /// The last word of each node about its copy.
    copies: BTreeMap<u64, PullProgress>,
}

/// Has it made, and follows it to its end.
pub(super) async fn run(global: &Global, args: &CreateArgs) -> Result<(), Failure> {
    let (modelfile, folder) = match &args.modelfile {
        Some(path) => (read_modelfile(global, path)?, path.parent().unwrap_or(Path::new("")).to_owned()),
        None => (Modelfile::default(), PathBuf::new()),
    };
    let recipe = Recipe::of(args, modelfile, &folder)?;
    let mut work = Work::new(output::may_draw(global.output));
    let outcome = make(global, args, &recipe, &mut work).await;
    work.clear();
    let outcome = outcome?;
    if !outcome.is_complete(args.replicas) {
        let next = "repeat the command: files that came are not sent again";
        return Err(Failure::new(7, "the daemon ended before the model was made", "it is stopping", next));
    }
    show(global, &outcome)
}

async fn make(global: &Global, args: &CreateArgs, recipe: &Recipe, work: &mut Work) -> Result<Outcome, Failure> {
    let weights = hash_all(&recipe.weights, work).await?;
    let adapters = hash_all(&recipe.adapters, work).await?;
    let head = head(args, recipe, &weights, &adapters);
    let files = distinct(weights.into_iter().chain(adapters));
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    tokio::select! {
        biased;
        outcome = follow(global, receiver, work) => outcome,
        failure = send_all(head, &files, sender) => Err(failure),
    }
}

fn read_modelfile(global: &Global, path: &Path) -> Result<Modelfile, Failure> {
    let bad = |why: String| Failure::usage(format!("{}: {why}", path.display()), NEXT);
    let text = read_text(path).map_err(|error| bad(error.to_string()))?;
    let read = modelfile::read(&text).map_err(|problem| bad(problem.to_string()))?;
    if !read.left_out.is_empty() {
        let left_out = read.left_out.join(", ");
        output::talk(global.output, &format!("Runtimes do not heed these parameters any more: {left_out}"));
    }
    Ok(read)
}

/// The text of a file, unless it is something else than a Modelfile, such as the weights.
fn read_text(path: &Path) -> io::Result<String> {
    use io::Read as _;

    let mut bytes = Vec::new();
    fs::File::open(path)?.take(CREATE_BODY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > CREATE_BODY_BYTES_MAX {
        return Err(io::Error::other(format!("it is no Modelfile: it has more than {CREATE_BODY_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is no Modelfile: it is no text in UTF-8"))
}

async fn hash_all(paths: &[PathBuf], work: &Work) -> Result<Vec<Hashed>, Failure> {
    let mut all = Vec::new();
    for path in paths {
        let size_bytes = check_gguf(path, "this is no GGUF file", NEXT)?;
        work.bar().set_length(size_bytes);
        work.bar().set_position(0);
        work.bar().set_message("hashing");
        let sha256 = hash(path.clone(), work.bar().clone()).await?;
        all.push(Hashed { path: path.clone(), sha256, size_bytes });
    }
    Ok(all)
}

/// Each file once, in their order.
fn distinct(files: impl Iterator<Item = Hashed>) -> Vec<Hashed> {
    let mut all: Vec<Hashed> = Vec::new();
    for file in files {
        if all.iter().all(|other| other.sha256 != file.sha256) {
            all.push(file);
        }
    }
    all
}

fn head(args: &CreateArgs, recipe: &Recipe, weights: &[Hashed], adapters: &[Hashed]) -> CreateHead {
    let mut body = recipe.fields.clone();
    body.extend(recipe.from.iter().map(|from| ("from".to_owned(), from.as_str().into())));
    body.extend(args.quantize.iter().map(|kind| ("quantize".to_owned(), kind.as_str().into())));
    for (field, files) in [("files", weights), ("adapters", adapters)] {
        if !files.is_empty() {
            body.insert(field.to_owned(), Value::Object(by_name(files)));
        }
    }
    let file = |file: Hashed| CreateFile { sha256: file.sha256.to_vec(), size_bytes: file.size_bytes };
    let files = distinct(weights.iter().chain(adapters).cloned()).into_iter().map(file).collect();
    let body = Value::Object(body).to_string().into_bytes().into();
    CreateHead { name: args.name.clone(), body, files, replicas: args.replicas.unwrap_or_default() }
}

/// The digests of files under their names; the second of a name gets another one.
fn by_name(files: &[Hashed]) -> Map<String, Value> {
    let mut named = Map::new();
    for (at, file) in files.iter().enumerate() {
        let mut name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if named.contains_key(&name) {
            name = format!("{at}-{name}");
        }
        named.insert(name, format!("sha256:{}", hex::encode(file.sha256)).into());
    }
    named
}

/// Sends all files. It returns only when that fails: how the work ends is the daemon's to say.
async fn send_all(head: CreateHead, files: &[Hashed], sender: mpsc::Sender<CreatePart>) -> Failure {
    if sender.send(CreatePart { part: Some(Part::Head(head)) }).await.is_ok() {
        for file in files {
            match send(&file.path, file.size_bytes, &sender).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return unread(&file.path, &error),
            }
        }
    }
    // The daemon hears that nothing more comes.
    drop(sender);
    pending().await
}

/// Sends so many bytes of a file; false when the daemon wants no more.
async fn send(path: &Path, size_bytes: u64, sender: &mpsc::Sender<CreatePart>) -> io::Result<bool> {
    let mut opened = tokio::fs::File::open(path).await?.take(size_bytes);
    loop {
        let mut data = Vec::with_capacity(CHUNK_BYTES);
        if (&mut opened).take(CHUNK_BYTES as u64).read_to_end(&mut data).await? == 0 {
            return Ok(true);
        }
        if sender.send(CreatePart { part: Some(Part::Data(data.into())) }).await.is_err() {
            return Ok(false);
        }
    }
}

async fn follow(global: &Global, receiver: mpsc::Receiver<CreatePart>, work: &mut Work) -> Result<Outcome, Failure> {
    let next = |mut receiver: mpsc::Receiver<CreatePart>| async {
        let part = receiver.recv().await?;
        Some((part, receiver))
    };
    let parts = futures::stream::unfold(receiver, next);
    let answer = client::connect_models(global).await?.create(parts).await?;
    let (id, mut told) = (request_id(answer.metadata()), answer.into_inner());
    let mut outcome = Outcome::default();
    while let Some(progress) = told.message().await.map_err(|status| Failure::from(status).with_request_id(&id))? {
        work.show(&progress);
        match progress.copy {
            Some(copy) => drop(outcome.copies.insert(copy.node_id, copy)),
            None => outcome.made = progress,
        }
    }
    Ok(outcome)
}

fn show(global: &Global, outcome: &Outcome) -> Result<(), Failure> {
    let RuntimeProgress { name, node_id, node_name, digest, .. } = &outcome.made;
    if global.output == Output::Json {
        let fields = json!({
            "name": name,
            "node": node_name,
            "nodeId": node_id,
            "digest": hex::encode(digest),
            "copies": outcome.copies.values().map(pull::copy).collect::<Vec<_>>(),
        });
        return output::json("ModelCreate", fields);
    }
    output::line(&format!("{node_name} made {name} ({})", text::digest(digest)))?;
    for copy in outcome.copies.values().filter(|copy| copy.stage() == Stage::Done && copy.node_id != *node_id) {
        output::line(&pull::told(copy))?;
    }
    output::talk(global.output, &format!("Next: ollamax run {name}"));
    Ok(())
}

// === impl Recipe ===

impl Recipe {
    /// What the words and the Modelfile say together; they must not say two things.
    fn of(args: &CreateArgs, modelfile: Modelfile, folder: &Path) -> Result<Self, Failure> {
        if args.name.parse::<ModelName>().is_err() {
            return Err(Failure::usage(format!("{:?} is not a model name", args.name), NEXT));
        }
        let mut recipe = Self { from: args.from.clone(), weights: args.files.clone(), ..Self::default() };
        if !modelfile.from.is_empty() && (recipe.from.is_some() || !recipe.weights.is_empty()) {
            return Err(Failure::usage("the Modelfile has a FROM, and the command says another one", NEXT));
        }
        for written in modelfile.from {
            match place(folder, &written, true)? {
                Some(path) => recipe.weights.push(path),
                None if recipe.from.is_none() => recipe.from = Some(written),
                None => return Err(Failure::usage("a model is made from one model, not from two", NEXT)),
            }
        }
        match (&recipe.from, recipe.weights.is_empty()) {
            (None, true) => return Err(Failure::usage("it is not said what the model is made of", NEXT)),
            (Some(_), false) => {
                return Err(Failure::usage("a model is made from another one or of files, not of both", NEXT));
            }
            (Some(_), true) | (None, false) => {}
        }
        for written in modelfile.adapters {
            recipe.adapters.extend(place(folder, &written, false)?);
        }
        if recipe.weights.len() + recipe.adapters.len() > CREATE_FILES_MAX {
            return Err(Failure::usage(format!("a model is made of {CREATE_FILES_MAX} files at most"), NEXT));
        }
        recipe.fields = modelfile.fields;
        Ok(recipe)
    }
}

// === impl Outcome ===

impl Outcome {
    /// Whether it is made, and no copy is on its way that was asked for.
    fn is_complete(&self, replicas: Option<u32>) -> bool {
        let is_over = |copy: &PullProgress| matches!(copy.stage(), Stage::Done | Stage::Failed);
        let is_spread = replicas.is_none_or(|replicas| replicas < 2) || !self.copies.is_empty();
        !self.made.digest.is_empty() && is_spread && self.copies.values().all(is_over)
    }
}

/// The file that a Modelfile in a folder means; `None` where it may be, and is, the name of a model.
fn place(folder: &Path, written: &str, may_be_a_name: bool) -> Result<Option<PathBuf>, Failure> {
    let path = folder.join(written);
    if path.is_file() {
        return Ok(Some(path));
    }
    let what = if path.is_dir() { "is a folder; name its GGUF files" } else { "is no file" };
    let is_name = may_be_a_name && !path.is_dir() && written.parse::<ModelName>().is_ok();
    let looks_like_a_file = written.starts_with(['.', '/', '~']) || written.to_lowercase().ends_with(".gguf");
    if is_name && !looks_like_a_file {
        return Ok(None);
    }
    Err(Failure::usage(format!("{written}: {what}, as the Modelfile has it"), NEXT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(files: &[&str], from: Option<&str>) -> CreateArgs {
        CreateArgs {
            name: "lab/mine".to_owned(),
            files: files.iter().map(PathBuf::from).collect(),
            from: from.map(str::to_owned),
            modelfile: None,
            quantize: Some("q4_K_M".to_owned()),
            replicas: None,
        }
    }

    fn modelfile(text: &str) -> Modelfile {
        modelfile::read(text).expect("it makes sense")
    }

    fn hashed(path: &str, byte: u8) -> Hashed {
        Hashed { path: path.into(), sha256: [byte; 32], size_bytes: 4 }
    }

    #[test]
    fn what_a_model_is_made_of_is_said_once() {
        let folder = tempfile::tempdir().expect("temp");
        let file = folder.path().join("a.gguf");
        fs::write(&file, b"GGUF").expect("room");
        fs::create_dir(folder.path().join("weights")).expect("room");
        let of = |args: &CreateArgs, text: &str| Recipe::of(args, modelfile(text), folder.path());
        let made = |args: &CreateArgs, text: &str| of(args, text).map(|recipe| (recipe.from, recipe.weights));
        let from = |name: &str| Some(name.to_owned());

        assert_eq!(made(&args(&[], Some("demo")), "SYSTEM x"), Ok((from("demo"), vec![])));
        assert_eq!(made(&args(&["b.gguf"], None), "SYSTEM x"), Ok((None, vec![PathBuf::from("b.gguf")])));
        assert_eq!(made(&args(&[], None), "FROM llama3.2:1b"), Ok((from("llama3.2:1b"), vec![])));
        assert_eq!(made(&args(&[], None), "FROM ./a.gguf"), Ok((None, vec![folder.path().join("./a.gguf")])));
        assert_eq!(made(&args(&[], None), "FROM a.gguf"), Ok((None, vec![file.clone()])));
        let absolute = format!("FROM {}", file.display());
        assert_eq!(made(&args(&[], None), &absolute), Ok((None, vec![file.clone()])));
        let recipe = of(&args(&[], Some("demo")), "ADAPTER a.gguf\nSYSTEM x").expect("it makes sense");
        assert_eq!((recipe.adapters, &recipe.fields["system"]), (vec![file], &Value::from("x")));

        let rows: [(&[&str], Option<&str>, &str); 10] = [
            (&[], None, "SYSTEM x"),
            (&["b.gguf"], None, "FROM demo"),
            (&[], Some("demo"), "FROM demo"),
            (&[], None, "FROM demo\nFROM other"),
            (&[], None, "FROM demo\nFROM a.gguf"),
            (&[], None, "FROM missing.gguf"),
            (&[], None, "FROM ./missing"),
            (&[], None, "FROM weights"),
            (&[], None, "FROM a b"),
            (&[], Some("demo"), "ADAPTER other"),
        ];
        for (files, from, text) in rows {
            assert_eq!(made(&args(files, from), text).expect_err(text).exit(), 2, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_before_a_file_is_hashed() {
        let refused = |args: &CreateArgs| Recipe::of(args, Modelfile::default(), Path::new("")).map_err(|it| it.exit());
        let name = |name: &str| CreateArgs { name: name.to_owned(), ..args(&["a.gguf"], None) };
        for bad in ["", "a b", "/"] {
            assert_eq!(refused(&name(bad)).map(|_| ()), Err(2), "{bad:?}");
        }
        let files = |count: usize| args(&vec!["a.gguf"; count], None);
        assert_eq!(refused(&files(CREATE_FILES_MAX)).map(|recipe| recipe.weights.len()), Ok(CREATE_FILES_MAX));
        assert_eq!(refused(&files(CREATE_FILES_MAX + 1)).map(|_| ()), Err(2));
    }

    #[test]
    fn weights_in_the_place_of_a_modelfile_are_not_read_to_their_end() {
        let folder = tempfile::tempdir().expect("temp");
        let path = folder.path().join("Modelfile");
        let check = |bytes: &[u8], expected: Result<&str, &str>| {
            fs::write(&path, bytes).expect("room");
            let read = read_text(&path).map_err(|error| error.to_string());
            assert_eq!(read.as_deref().map_err(String::as_str), expected);
        };
        check(b"FROM demo", Ok("FROM demo"));
        check(b"GGUF\xff\xfe", Err("it is no Modelfile: it is no text in UTF-8"));
        let large = "it is no Modelfile: it has more than 1048576 bytes";
        check(&vec![b'#'; CREATE_BODY_BYTES_MAX + 1], Err(large));
    }

    #[test]
    fn the_runtime_is_asked_with_each_file_under_a_name_and_its_bytes_come_once() {
        let fields = json!({"system": "x"}).as_object().cloned().expect("an object");
        let recipe = Recipe { fields, ..Recipe::default() };
        let weights = [hashed("a/m.gguf", 1), hashed("b/m.gguf", 2), hashed("c/m.gguf", 1)];
        let head = head(&args(&[], None), &recipe, &weights, &[hashed("lora.gguf", 2)]);
        let body: Value = serde_json::from_slice(&head.body).expect("JSON");
        let digest = |byte: u8| format!("sha256:{}", hex::encode([byte; 32]));
        let expected = json!({
            "system": "x",
            "quantize": "q4_K_M",
            "files": {"m.gguf": digest(1), "1-m.gguf": digest(2), "2-m.gguf": digest(1)},
            "adapters": {"lora.gguf": digest(2)},
        });
        assert_eq!(body, expected);
        let file = |byte: u8| CreateFile { sha256: vec![byte; 32], size_bytes: 4 };
        assert_eq!((head.name.as_str(), head.files, head.replicas), ("lab/mine", vec![file(1), file(2)], 0));
    }

    #[tokio::test]
    async fn files_are_sent_one_behind_the_other_and_no_part_is_of_two() {
        let folder = tempfile::tempdir().expect("temp");
        let write = |name: &str, length: usize| {
            let path = folder.path().join(name);
            fs::write(&path, vec![7; length]).expect("room");
            Hashed { path, sha256: [0; 32], size_bytes: length as u64 }
        };
        let files = [write("a", CHUNK_BYTES + 5), write("b", 3)];
        // What is written to a file meanwhile is not of the file that was hashed.
        fs::write(&files[1].path, b"longer").expect("room");
        let (sender, mut receiver) = mpsc::channel::<CreatePart>(8);
        let lengths = async {
            let mut lengths = Vec::new();
            while let Some(part) = receiver.recv().await {
                lengths.push(match part.part.expect("each has something") {
                    Part::Head(_) => 0,
                    Part::Data(data) => data.len(),
                });
            }
            lengths
        };
        let lengths = tokio::select! {
            lengths = lengths => lengths,
            failure = send_all(CreateHead::default(), &files, sender) => panic!("{failure:?}"),
        };
        assert_eq!(lengths, [0, CHUNK_BYTES, 5, 3]);
        let (sender, _receiver) = mpsc::channel(8);
        fs::remove_file(&files[0].path).expect("it is there");
        assert_eq!(send_all(CreateHead::default(), &files, sender).await.exit(), 1);
    }

    #[test]
    fn a_model_is_there_when_its_node_says_so_and_no_copy_is_on_its_way() {
        let check = |digest: &[u8], stages: &[Stage], replicas: Option<u32>, expected: bool| {
            let copy = |(node_id, stage): (u64, &Stage)| {
                let mut copy = PullProgress { node_id, ..PullProgress::default() };
                copy.set_stage(*stage);
                (node_id, copy)
            };
            let copies = (1..).zip(stages).map(copy).collect();
            let made = RuntimeProgress { digest: digest.to_vec(), ..RuntimeProgress::default() };
            let outcome = Outcome { made, copies };
            assert_eq!(outcome.is_complete(replicas), expected, "{digest:?} {stages:?} {replicas:?}");
        };
        check(&[], &[], None, false);
        check(&[7], &[], None, true);
        check(&[7], &[], Some(1), true);
        check(&[7], &[], Some(2), false);
        check(&[7], &[Stage::Done, Stage::Fetching], Some(2), false);
        check(&[7], &[Stage::Done, Stage::Done], Some(2), true);
        check(&[7], &[Stage::Done, Stage::Failed, Stage::Done], Some(2), true);
    }
}
