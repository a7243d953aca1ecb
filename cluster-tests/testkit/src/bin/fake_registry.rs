//! `fake-registry`: the registry of models as a process of its own, for benchmarks in networks of their own.
//!
//! It has one model, made of a number, or none. Prints `{"listening":"http://…"}` when it is ready and answers until it
//! is ended.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use ollamax_testkit::FakeRegistry;
use ollamax_testkit::fake_registry::FakeModel;

/// A registry of models.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Name of the model it has; without it there is none.
    #[arg(long)]
    model: Option<String>,
    /// The number of which the model's weights are made.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Length of the weights, bytes.
    #[arg(long, default_value_t = 1 << 20)]
    weights_bytes: u64,
    /// What the model can do, such as `completion`; repeatable.
    #[arg(long = "capability")]
    capabilities: Vec<String>,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the line that says where it listens is its interface")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let registry = FakeRegistry::start_at(arguments.listen).await?;
    if let Some(name) = &arguments.model {
        let mut model = FakeModel::of(arguments.seed, arguments.weights_bytes);
        if !arguments.capabilities.is_empty() {
            model.config["capabilities"] = serde_json::json!(arguments.capabilities);
        }
        registry.push(name, &model);
    }
    println!("{}", serde_json::json!({ "listening": registry.url() }));
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    tokio::select! {
        _signal = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("watch for Ctrl-C")?,
    }
    Ok(())
}
