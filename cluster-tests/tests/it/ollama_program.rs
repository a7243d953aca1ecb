//! Ollama's own program, with a port, a home and a store that nobody else has: the set-up of the suite `real_ollama`.
//!
//! It ends with its handle, and so do the runners that it has started. Where it does not come up, or a command of it
//! fails, the error holds what it said.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use ollamax_testkit::cluster::clean_environment;
use ollamax_testkit::fake_registry::sha256_of_file;
use ollamax_testkit::http::HttpClient;
use ollamax_testkit::{port, remembered, wait};

use crate::dev_cluster::succeed;
use crate::model_owners::PATIENCE;

/// Programs of Ollama, separated by colons, each of another release.
pub(crate) const VARIABLE: &str = "OLLAMA_BINS";
/// A model that chats, of two megabytes.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/demo/demo.gguf");
/// How the model was taught to read a conversation.
const TEMPLATE: &str = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}\
                        <|im_start|>assistant\n";
const QUESTION: &str = "What is a quorum?";

/// The programs that are named; none where the variable is not set.
pub(crate) fn programs() -> Result<Vec<PathBuf>> {
    let named = std::env::var_os(VARIABLE).unwrap_or_default();
    let programs: Vec<PathBuf> = std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty()).collect();
    for program in &programs {
        ensure!(program.is_file(), "{VARIABLE}: {} is no file", program.display());
    }
    Ok(programs)
}

/// What `/api/tags` tells of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) digest: String,
    pub(crate) size_bytes: u64,
}

/// A running Ollama.
#[derive(Debug)]
pub(crate) struct Ollama {
    program: PathBuf,
    folder: TempDir,
    host: String,
    http: HttpClient,
    child: Child,
}

// === impl Ollama ===

impl Ollama {
    /// Starts one on an empty store and waits until it answers. It trusts the roots of this file, if one is given.
    pub(crate) async fn start(program: &Path, roots: Option<&Path>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ollamax-ollama-").tempdir().context("make a folder")?;
        // A node of another user reads the store.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).context("open the folder")?;
        fs::create_dir(folder.path().join("models")).context("make a store")?;
        let host = format!("127.0.0.1:{}", port::free()?);
        let log = File::create(folder.path().join("log")).context("make a log")?;
        let mut command = prepared(program, folder.path(), &host);
        command.arg("serve").env("OLLAMA_MODELS", folder.path().join("models")).env("OLLAMA_NOPRUNE", "1");
        command.env("OLLAMA_NO_CLOUD", "1").envs(roots.map(|roots| ("SSL_CERT_FILE", roots)));
        command.stdin(Stdio::null()).stdout(log.try_clone().context("make a log")?).stderr(log).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let ollama = Self { program: program.to_owned(), folder, host, http: HttpClient::new(), child };
        let version = wait::until("Ollama to answer", PATIENCE, || async {
            let told = ollama.http.get_json(&format!("{}/api/version", ollama.url())).await?;
            told["version"].as_str().map(str::to_owned).with_context(|| format!("no version: {told}"))
        })
        .await
        .with_context(|| ollama.said())?;
        eprintln!("{} is Ollama {version}, at {}", program.display(), ollama.host);
        Ok(ollama)
    }

    /// Where it answers.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.host)
    }

    /// Where it keeps its models.
    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    /// What it has logged.
    fn said(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        format!("{} said:\n{text}", self.program.display())
    }

    /// `ollama` with these words; an exit code other than 0 is an error with all that was said.
    pub(crate) async fn command(&self, words: &[&str]) -> Result<String> {
        let mut command = prepared(&self.program, self.folder.path(), &self.host);
        command.args(words);
        succeed(command).await.with_context(|| self.said())
    }

    /// Makes the demo's model of its file, as `ollama create` does: the file first, then what is said about it.
    pub(crate) async fn create(&self, name: &str) -> Result<()> {
        let digest = format!("sha256:{}", sha256_of_file(Path::new(DEMO)).with_context(|| format!("read {DEMO}"))?);
        let file = fs::read(DEMO).with_context(|| format!("read {DEMO}"))?;
        let sent = self.http.call(Method::POST, &format!("{}/api/blobs/{digest}", self.url()), file).await?;
        let status = sent.status;
        ensure!(status == 201, "{status}: {}", sent.text().await?);
        let parameters =
            json!({ "num_ctx": 512, "num_predict": 24, "temperature": 0, "seed": 1, "stop": ["<|im_end|>"] });
        let body = json!({
            "model": name,
            "files": { "demo.gguf": digest },
            "template": TEMPLATE,
            "parameters": parameters,
            "stream": false,
        });
        let told = self.http.post(&format!("{}/api/create", self.url()), &body).await?.ok_json().await;
        let told = told.with_context(|| self.said())?;
        ensure!(told["status"] == "success", "{told}");
        Ok(())
    }

    /// What it lists of a model; `None` where it does not.
    pub(crate) async fn listed(&self, name: &str) -> Result<Option<Listed>> {
        listed_at(&self.http, &self.url(), name).await
    }

    /// The manifest of a model, byte for byte.
    pub(crate) fn manifest(&self, host: &str, name: &str) -> Result<Vec<u8>> {
        let path = self.store().join("manifests").join(host).join("library").join(name).join("latest");
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    /// The files that the manifest of a model names, in its words and their order: the kind, the digest, the size.
    /// Ollama writes a manifest that it pulls anew, so that of an older one may say less around them.
    pub(crate) fn files(&self, host: &str, name: &str) -> Result<Vec<Value>> {
        let text = self.manifest(host, name)?;
        let manifest: Value = serde_json::from_slice(&text).with_context(|| format!("the manifest of {name}"))?;
        let layers = manifest["layers"].as_array().with_context(|| format!("no layers: {manifest}"))?;
        let told = |file: &Value| json!([file["mediaType"], file["digest"], file["size"]]);
        Ok([&manifest["config"]].into_iter().chain(layers).map(told).collect())
    }

    /// It answers a question with this model by itself.
    pub(crate) async fn answers(&self, name: &str) -> Result<()> {
        answers_at(&self.http, &self.url(), name).await.with_context(|| self.said())
    }
}

impl Drop for Ollama {
    fn drop(&mut self) {
        // Its runners are its children, and would outlive it.
        let family = self.child.id().and_then(|pid| remembered::family(pid).ok()).unwrap_or_default();
        for pid in family.into_iter().filter_map(|process| i32::try_from(process.pid()).ok()) {
            // Gone already is what is hoped for.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The program with nothing of the caller's environment that decides, at this address, with its key in this folder.
fn prepared(program: &Path, home: &Path, host: &str) -> Command {
    let mut command = Command::new(program);
    clean_environment(&mut command);
    command.env("OLLAMA_HOST", host).env("HOME", home);
    command
}

/// What an Ollama or a node lists of a model; `None` where it does not.
pub(crate) async fn listed_at(http: &HttpClient, url: &str, name: &str) -> Result<Option<Listed>> {
    let tags = http.get_json(&format!("{url}/api/tags")).await?;
    let row = tags["models"].as_array().into_iter().flatten().find(|row| row["name"] == name);
    let listed = |row: &Value| {
        let digest = row["digest"].as_str().with_context(|| format!("no digest: {row}"))?.to_owned();
        let size_bytes = row["size"].as_u64().with_context(|| format!("no size: {row}"))?;
        anyhow::Ok(Listed { digest, size_bytes })
    };
    row.map(listed).transpose()
}

/// An Ollama or a node answers a question with this model.
pub(crate) async fn answers_at(http: &HttpClient, url: &str, name: &str) -> Result<()> {
    let body = json!({ "model": name, "prompt": QUESTION, "stream": false });
    let told = http.post(&format!("{url}/api/generate"), &body).await?.ok_json().await?;
    let text = told["response"].as_str().unwrap_or_default();
    ensure!(told["done"] == true && !text.trim().is_empty(), "{url} answers {told}");
    Ok(())
}
