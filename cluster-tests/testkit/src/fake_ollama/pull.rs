//! `/api/pull`, from a registry as Ollama's client goes: the manifest; of each file that the store lacks its length,
//! the address at another host name from where it comes, ranges of it at once, and its SHA-256; the manifest last.
//!
//! A fake fetches from the host that the name says, and only into a store on disk: by plain HTTP where it is told
//! `insecure`, else over TLS where its script names a root. Of all other names it says that it has them or that they do
//! not exist. A caller who leaves ends the pull.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::future::ready;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use ollamax_types::{Digest, ModelName};

use crate::fake_ollama::answer::{Ask, Ending, fail, respond};
use crate::fake_ollama::models::progress;
use crate::fake_ollama::request::{Fields, Refused, name, refuse};
use crate::fake_ollama::{Shared, shelf};
use crate::http::HttpClient;

/// Lines that wait for the caller.
const LINES_WAITING_MAX: usize = 64;
/// Bytes of one range. Ollama's are larger; so a test needs no large file to see several.
const RANGE_BYTES: u64 = 5_000_000;
/// Ranges of one file at once.
const RANGES_AT_ONCE: usize = 16;
const ABSENT: &str = "pull model manifest: file does not exist";

/// A pull on its way.
struct Pulling {
    store: PathBuf,
    name: ModelName,
    http: HttpClient,
    scheme: &'static str,
    lines: mpsc::Sender<Value>,
}

/// Fetches what the name says, or says that it has it, or that it does not exist.
pub(crate) fn pull(shared: &Shared, ask: &Ask) -> Result<Response, Refused> {
    let fields = Fields::parse(&ask.body)?;
    let wanted = name(fields.model_or_name()?)?;
    let (streams, insecure) = (fields.flag("stream", true)?, fields.flag("insecure", false)?);
    let script = shared.script();
    let [host, ..] = wanted.parts();
    let may_fetch = host.contains(':') && (insecure || script.trusts.is_some());
    if let Some(store) = script.store.as_ref().filter(|_| may_fetch) {
        if !streams {
            return refuse(500, "this fake tells of what it fetches line by line alone");
        }
        let (scheme, http) = match client(script.trusts.as_deref().filter(|_| !insecure)) {
            Ok(found) => found,
            Err(error) => return Ok(fail(&ask.path, 500, &format!("{error:#}"))),
        };
        let lines = fetched(|lines| Pulling { store: store.clone(), name: wanted.clone(), http, scheme, lines });
        return Ok(respond(200, "application/x-ndjson", Body::from_stream(ended(lines, ask.ending))));
    }
    if script.find(&wanted).is_some() {
        return Ok(progress(&fields, &["pulling manifest", "verifying sha256 digest", "writing manifest", "success"]));
    }
    if streams {
        let lines = format!("{}\n{}\n", json!({ "status": "pulling manifest" }), json!({ "error": ABSENT }));
        return Ok(respond(200, "application/x-ndjson", lines));
    }
    Ok(fail(&ask.path, 500, ABSENT))
}

/// By what a registry is asked, over TLS where there is a root.
fn client(root: Option<&Path>) -> Result<(&'static str, HttpClient)> {
    let Some(root) = root else { return Ok(("http", HttpClient::new())) };
    let text = fs::read(root).with_context(|| format!("read {}", root.display()))?;
    Ok(("https", HttpClient::that_trusts(&text)?))
}

/// The lines of a pull, which goes on while they are read.
fn fetched(begin: impl FnOnce(mpsc::Sender<Value>) -> Pulling) -> BoxStream<'static, Value> {
    let (lines, told) = mpsc::channel(LINES_WAITING_MAX);
    let pulling = begin(lines);
    let work = async move {
        if let Err(error) = pulling.run().await {
            pulling.tell(json!({ "error": format!("{error:#}") })).await;
        }
    };
    let told = stream::unfold(told, |mut told| async move { told.recv().await.map(|line| (Some(line), told)) });
    let work = stream::once(work).map(|()| None);
    stream::select(told, work).filter_map(ready).boxed()
}

/// The lines as they are sent, to the end that the script wants.
fn ended(lines: BoxStream<'static, Value>, ending: Ending) -> BoxStream<'static, io::Result<Bytes>> {
    let sent = |line: Value| Ok(Bytes::from(format!("{line}\n")));
    let many = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    match ending {
        Ending::Whole => lines.map(sent).boxed(),
        Ending::CutAfter(count) => {
            let cut = stream::once(async {
                // What came before is sent while this waits for its turn.
                tokio::task::yield_now().await;
                Err(io::Error::other("the script cuts it off"))
            });
            lines.take(many(count)).map(sent).chain(cut).boxed()
        }
        Ending::ErrorAfter(count) => {
            let error = stream::once(ready(json!({ "error": "the script ends it" })));
            lines.take(many(count)).chain(error).map(sent).boxed()
        }
    }
}

// === impl Pulling ===

impl Pulling {
    async fn run(&self) -> Result<()> {
        self.status("pulling manifest").await;
        let [host, namespace, model, tag] = self.name.parts();
        let place = format!("{}://{host}/v2/{namespace}/{model}", self.scheme);
        let answer = self.http.call(Method::GET, &format!("{place}/manifests/{tag}"), "").await?;
        ensure!(answer.status != 404, ABSENT);
        ensure!(answer.status == 200, "pull model manifest: status {}", answer.status);
        let text = answer.text().await?;
        let manifest: Value = serde_json::from_str(&text).context("pull model manifest")?;
        let layers = manifest["layers"].as_array().context("a manifest without layers")?.iter();
        let digests = layers.chain(manifest.get("config")).filter_map(|layer| layer["digest"].as_str());
        let digests: BTreeSet<String> = digests.map(str::to_owned).collect();
        let mut fresh = Vec::new();
        for digest in digests {
            if self.fetch(&place, &digest).await? {
                fresh.push(digest);
            }
        }
        self.status("verifying sha256 digest").await;
        for digest in &fresh {
            self.verify(digest)?;
        }
        self.status("writing manifest").await;
        shelf::put_manifest(&self.store, &self.name, text.as_bytes()).context("write the manifest")?;
        self.status("success").await;
        Ok(())
    }

    /// Fetches a file; false when the store has it.
    async fn fetch(&self, place: &str, digest: &str) -> Result<bool> {
        let path = shelf::blob_path(&self.store, digest);
        if let Ok(found) = fs::metadata(&path) {
            self.at(digest, found.len(), found.len()).await;
            return Ok(false);
        }
        let url = format!("{place}/blobs/{digest}");
        let mut head = self.http.call(Method::HEAD, &url, "").await?;
        if head.status == 307 {
            let direct = head.header("location").to_owned();
            head = self.http.call(Method::HEAD, &direct, "").await?;
        }
        ensure!(head.status != 404, "file does not exist");
        let size: u64 = head.header("content-length").parse().context("no length")?;
        let asked = self.http.call(Method::GET, &url, "").await?;
        ensure!(asked.status == 307, "unexpected status code {}", asked.status);
        let direct = asked.header("location").to_owned();
        ensure!(!direct.is_empty(), "http: no Location header in response");
        ensure!(host_of(&direct) != host_of(&url), "the file shall come from where it was asked for: {direct}");

        let partial = PathBuf::from(format!("{}-partial", path.display()));
        let file = File::create(&partial).with_context(|| format!("make {}", partial.display()))?;
        file.set_len(size)?;
        let ranges = (0..size).step_by(usize::try_from(RANGE_BYTES)?);
        let ranges = ranges.map(|from| (from, size.min(from + RANGE_BYTES)));
        let fetched = stream::iter(ranges).map(|range| self.fetch_range(&direct, range, &file));
        let mut fetched = fetched.buffer_unordered(RANGES_AT_ONCE);
        let mut completed = 0;
        while let Some(bytes) = fetched.try_next().await? {
            completed += bytes;
            self.at(digest, size, completed).await;
        }
        fs::rename(&partial, &path).with_context(|| format!("name {}", path.display()))?;
        Ok(true)
    }

    /// Fetches a range into its place, and says how long it is.
    async fn fetch_range(&self, direct: &str, (from, until): (u64, u64), file: &File) -> Result<u64> {
        let request = Request::get(direct).header("range", format!("bytes={from}-{}", until - 1));
        let mut answer = self.http.send(request.body(Full::new(Bytes::new()))?).await?;
        ensure!(answer.status == 206, "unexpected status code {} of a range", answer.status);
        let mut at = from;
        while let Some(piece) = answer.next_piece().await? {
            file.write_all_at(&piece, at)?;
            at += u64::try_from(piece.len())?;
        }
        ensure!(at == until, "{} bytes came, not {}", at - from, until - from);
        Ok(until - from)
    }

    fn verify(&self, digest: &str) -> Result<()> {
        let path = shelf::blob_path(&self.store, digest);
        let mut hasher = Sha256::new();
        io::copy(&mut File::open(&path)?, &mut hasher)?;
        let found = format!("sha256:{}", Digest(hasher.finalize().into()));
        if found != digest {
            fs::remove_file(&path)?;
            bail!("digest mismatch, file must be downloaded again: want {digest}, got {found}");
        }
        Ok(())
    }

    async fn status(&self, status: &str) {
        self.tell(json!({ "status": status })).await;
    }

    async fn at(&self, digest: &str, total: u64, completed: u64) {
        let short = digest.get(7..19).unwrap_or(digest);
        let status = format!("pulling {short}");
        self.tell(json!({ "status": status, "digest": digest, "total": total, "completed": completed })).await;
    }

    /// Nobody listens any more only when all of this has ended.
    async fn tell(&self, line: Value) {
        drop(self.lines.send(line).await);
    }
}

/// The host name of an address, without its port.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FakeOllama;
    use crate::fake_ollama::{Fault, FaultRule, On, Script};
    use crate::fake_registry::{FakeModel, FakeRegistry};

    /// A fake with a store, and a registry with a model of some ranges.
    async fn world() -> (tempfile::TempDir, FakeOllama, FakeRegistry, FakeModel) {
        let temp = tempfile::tempdir().expect("temp");
        for folder in ["blobs", "manifests"] {
            fs::create_dir(temp.path().join(folder)).expect("made");
        }
        let script = Script { store: Some(temp.path().to_owned()), ..Script::default() };
        let fake = FakeOllama::start(script).await.expect("a free port");
        let registry = FakeRegistry::start().await.expect("a free port");
        let model = FakeModel::of(1, 2 * RANGE_BYTES + 7);
        registry.push("lab/demo:1b", &model);
        (temp, fake, registry, model)
    }

    async fn lines(fake: &FakeOllama, name: &str) -> Vec<Value> {
        let body = json!({ "model": name, "insecure": true });
        let answer = HttpClient::new().post(&format!("{}/api/pull", fake.url()), &body).await.expect("an answer");
        let (lines, _) = answer.lines().await;
        lines.iter().map(|line| serde_json::from_str(&line.text).expect("JSON")).collect()
    }

    #[tokio::test]
    async fn a_model_is_fetched_from_the_host_of_its_name_in_ranges_and_listed() {
        let (temp, fake, registry, model) = world().await;
        let name = format!("{}/lab/demo:1b", registry.host());
        let told = lines(&fake, &name).await;
        assert_eq!(told.last(), Some(&json!({ "status": "success" })), "{told:?}");
        let models = fake.models();
        let [listed] = models.as_slice() else { panic!("{models:?}") };
        assert_eq!((&listed.name, listed.weights_are), (&name, Some(model.weights.sha256())));
        assert_eq!(registry.sent(model.weights.sha256()), model.weights.size_bytes);
        let seen = registry.record().seen;
        let ranges = seen.iter().filter(|seen| seen.range.is_some() && seen.host.starts_with("localhost:"));
        assert_eq!(ranges.count(), 3 + 3, "of the weights, and of three small files");
        assert_eq!(fs::read_dir(temp.path().join("blobs")).expect("listed").count(), 4, "nothing is left of the way");
        let again = lines(&fake, &name).await;
        assert_eq!(again.last(), Some(&json!({ "status": "success" })), "{again:?}");
        assert_eq!(registry.sent(model.weights.sha256()), model.weights.size_bytes, "it has it");
    }

    #[tokio::test]
    async fn a_pull_that_goes_wrong_says_so_and_leaves_no_model() {
        let (_temp, fake, registry, model) = world().await;
        let told = lines(&fake, &format!("{}/lab/other:1b", registry.host())).await;
        assert_eq!(told.last(), Some(&json!({ "error": ABSENT })), "{told:?}");
        let name = format!("{}/lab/demo:1b", registry.host());
        fake.inject(FaultRule::once(On::Pull, Fault::ErrorAfterLines(1)));
        let told = lines(&fake, &name).await;
        let error = json!({ "error": "the script ends it" });
        assert_eq!(told, [json!({ "status": "pulling manifest" }), error]);
        fake.inject(FaultRule::once(On::Pull, Fault::CutAfterLines(1)));
        assert_eq!(lines(&fake, &name).await.len(), 1);
        registry.corrupt(model.weights.sha256(), 9);
        let told = lines(&fake, &name).await;
        let error = told.last().and_then(|line| line["error"].as_str()).expect("an error");
        assert!(error.starts_with("digest mismatch, file must be downloaded again: want sha256:"), "{error}");
        assert!(fake.models().is_empty());
    }

    #[test]
    fn hosts_are_compared_without_their_ports() {
        for (url, host) in
            [("http://127.0.0.1:7/v2/", "127.0.0.1"), ("http://localhost:7/x?y", "localhost"), ("/x", "")]
        {
            assert_eq!(host_of(url), host, "{url}");
        }
    }
}
