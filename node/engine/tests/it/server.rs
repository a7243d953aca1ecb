//! One engine process for a test, on a free port and an own folder.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{interval, timeout};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running engine; it ends with the value.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) url: String,
    pub(crate) folder: TempDir,
    client: Client,
}

/// The demo model's file.
pub(crate) fn demo() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/demo/demo.gguf");
    std::fs::read(path).expect("the demo model is part of the repository")
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Server {
    /// Starts an engine with no models.
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut process = Command::new(env!("CARGO_BIN_EXE_ollamax-engine"))
            .args(["serve", "--host", "127.0.0.1:0", "--exit-with-parent", "--models"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().context("stdout")?;
        let line = timeout(PATIENCE, BufReader::new(stdout).lines().next_line()).await??.context("announcement")?;
        let announced: Value = serde_json::from_str(&line)?;
        let url = announced["listening"].as_str().context("address")?.to_owned();
        let client = Client::builder().no_proxy().build()?;
        Ok(Self { process, url, folder, client })
    }

    /// Starts an engine that has the demo model as `demo`.
    pub(crate) async fn with_demo() -> Result<Self> {
        let server = Self::start().await?;
        server.create("demo", &demo()).await?;
        Ok(server)
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Response> {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = match body {
            Some(body) => request.body(body.to_string()),
            None => request,
        };
        Ok(timeout(PATIENCE, request.send()).await??)
    }

    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Response> {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(timeout(PATIENCE, request.send()).await??)
    }

    /// Status and JSON of a request.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value)> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let text = timeout(PATIENCE, response.text()).await??;
        let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).context(text)? };
        Ok((status, value))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        let (status, value) = self.ask(Method::GET, path, None).await?;
        ensure!(status.is_success(), "{path}: {status} {value}");
        Ok(value)
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Value> {
        let (status, value) = self.ask(Method::POST, path, Some(body)).await?;
        ensure!(status.is_success(), "{path}: {status} {value}");
        Ok(value)
    }

    /// All lines of a stream.
    pub(crate) async fn lines(&self, path: &str, body: Value) -> Result<Vec<String>> {
        let response = self.send(Method::POST, path, Some(body)).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        let text = timeout(PATIENCE, response.text()).await??;
        Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    pub(crate) async fn upload(&self, bytes: &[u8]) -> Result<String> {
        let digest = digest(bytes);
        let response = self.raw(Method::POST, &format!("/api/blobs/{digest}"), &[], bytes.to_vec()).await?;
        ensure!(response.status().is_success(), "upload: {}", response.status());
        Ok(digest)
    }

    pub(crate) async fn create(&self, name: &str, bytes: &[u8]) -> Result<Value> {
        let digest = self.upload(bytes).await?;
        self.post("/api/create", json!({"model": name, "files": {"model.gguf": digest}, "stream": false})).await
    }

    /// The whole answer of the demo model at temperature 0.
    pub(crate) async fn answer(&self, question: &str) -> Result<String> {
        let messages = json!([{"role": "user", "content": question}]);
        let body = json!({"model": "demo", "messages": messages, "stream": false, "options": {"temperature": 0}});
        let answer = self.post("/api/chat", body).await?;
        Ok(answer["message"]["content"].as_str().context("content")?.to_owned())
    }

    /// Waits until `/api/ps` lists as many models.
    pub(crate) async fn loaded(&self, count: usize) -> Result<()> {
        let mut again = interval(Duration::from_millis(20));
        let wait = async {
            loop {
                again.tick().await;
                if self.get("/api/ps").await?["models"].as_array().map(Vec::len) == Some(count) {
                    return Ok(());
                }
            }
        };
        timeout(PATIENCE, wait).await?
    }

    /// Waits until so many files lie in its folder.
    pub(crate) async fn has_files(&self, count: usize) -> Result<()> {
        let mut again = interval(Duration::from_millis(20));
        let wait = async {
            while self.files("").len() != count {
                again.tick().await;
            }
        };
        timeout(PATIENCE, wait).await.with_context(|| format!("{:?}, not {count} files", self.files("")))
    }

    /// Process ids of its runners.
    pub(crate) fn runners(&self) -> Vec<u32> {
        children(self.process.id().unwrap_or(0))
    }

    pub(crate) fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().join(below)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
            }
        }
        found
    }
}

/// A request that the demo model works on for thousands of tokens: it is paid for repeating itself.
pub(crate) fn endless(stream: bool) -> Value {
    json!({
        "model": "demo", "prompt": "a a a a", "raw": true, "stream": stream,
        "options": {"temperature": 0, "repeat_penalty": 0.01, "num_predict": 5000},
    })
}

/// The first piece of a stream, and the rest of it.
pub(crate) async fn first_chunk(
    response: Response,
) -> Result<(String, impl futures::Stream<Item = reqwest::Result<bytes::Bytes>>)> {
    let mut chunks = Box::pin(response.bytes_stream());
    let first = timeout(PATIENCE, chunks.next()).await?.context("a chunk")??;
    Ok((String::from_utf8_lossy(&first).into_owned(), chunks))
}

/// Waits until a process is gone.
pub(crate) async fn gone(pid: u32) -> Result<()> {
    let mut again = interval(Duration::from_millis(20));
    let wait = async {
        loop {
            again.tick().await;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
        }
    };
    Ok(timeout(PATIENCE, wait).await?)
}

fn children(parent: u32) -> Vec<u32> {
    let of = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let alive = fields.next()? != "Z";
        Some(alive && fields.next()?.parse() == Ok(parent))
    };
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| of(*pid) == Some(true)).collect()
}
