//! `fake-ollama`: the scripted runtime as a process of its own, for benchmarks and for clusters outside a test.
//!
//! Prints `{"listening":"http://…"}` when it is ready and plays until it is ended. `PUT /fake/script` replaces the
//! script, `GET /fake/record` shows the counts.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use ollamax_testkit::FakeOllama;
use ollamax_testkit::fake_ollama::{ModelScript, Script};

/// A scripted Ollama.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// JSON file with the script; without it a model `demo` answers at once.
    #[arg(long)]
    script: Option<PathBuf>,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the line that says where it listens is its interface")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let script = match &arguments.script {
        Some(path) => {
            let text = tokio::fs::read(path).await.with_context(|| format!("read {}", path.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("read the script in {}", path.display()))?
        }
        None => Script::with_models([ModelScript::named("demo")]),
    };
    let fake = FakeOllama::start_at(script, arguments.listen).await?;
    println!("{}", serde_json::json!({ "listening": fake.url() }));
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    tokio::select! {
        _signal = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("watch for Ctrl-C")?,
    }
    Ok(())
}
