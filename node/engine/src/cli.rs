//! The command line: `serve` is the server, `runner` is the child that it starts for each model.
//!
//! Standard output carries one JSON line when the server listens, and frames in a runner; everything else goes to
//! standard error: one JSON object for each line of the server's log, plain text in a runner.

use std::io::{Stderr, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::{Parser, Subcommand};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;
use tracing_subscriber::fmt::format::{DefaultFields, Format};

use crate::http;
use crate::inference::Engine;
use crate::limits;
use crate::pool::Pool;
use crate::runner::{self, RunnerArgs};
use crate::shortage::Watch;
use crate::store::Store;

/// A small Ollama-compatible model runtime over llama.cpp.
#[derive(Debug, Parser)]
#[command(name = "ollamax-engine", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the models of a folder over HTTP.
    Serve(ServeArgs),
    /// Runs one model; started by the server, not by people.
    #[command(hide = true)]
    Runner(RunnerArgs),
}

#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:11438")]
    host: SocketAddr,
    /// Folder of the models, in Ollama's layout.
    #[arg(long)]
    models: PathBuf,
    /// Leave files that no model names where they are when it starts. So does OLLAMA_NOPRUNE=1 in the environment.
    #[arg(long)]
    no_prune: bool,
    /// End when standard input is closed.
    #[arg(long)]
    exit_with_parent: bool,
    /// What to log: error, warn, info or debug.
    #[arg(long, default_value = "info", value_parser = ["error", "warn", "info", "debug"])]
    log_level: String,
}

/// Why the server cannot start or ended early.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("open the model folder: {0}")]
    Models(#[from] crate::store::StoreError),
    #[error("listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("find the path of this program: {0}")]
    Program(std::io::Error),
    #[error("start: {0}")]
    Start(std::io::Error),
    #[error("serve: {0}")]
    Serve(std::io::Error),
}

/// Does what the command line says and gives the exit code of the process: 0 well, 1 failed, 2 misused.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Runner(args) => {
            // The server adds time and process when it takes these lines into its own log.
            let watch = Watch::default();
            log("warn").without_time().with_target(false).with_writer(watch.clone()).init();
            runner::run(&args, &watch)
        }
        Command::Serve(args) => {
            // The node repeats these lines in its own log, at their levels.
            log(&args.log_level).json().flatten_event(true).with_span_list(false).with_current_span(false).init();
            match serve(args) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(code = "runtime_failed", %error, "the engine ends");
                    ExitCode::FAILURE
                }
            }
        }
    }
}

fn log(level: &str) -> SubscriberBuilder<DefaultFields, Format, EnvFilter, fn() -> Stderr> {
    let filter = EnvFilter::builder().parse_lossy(level);
    let writer: fn() -> Stderr = std::io::stderr;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false)
}

fn serve(args: ServeArgs) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("engine")
        .enable_all()
        .build()
        .map_err(ServeError::Start)?;
    let result = runtime.block_on(serve_until_told(args));
    runtime.shutdown_background();
    result
}

async fn serve_until_told(args: ServeArgs) -> Result<(), ServeError> {
    let program = std::env::current_exe().map_err(ServeError::Program)?;
    let store = Arc::new(Store::open(args.models)?);
    if !args.no_prune && !is_told_not_to_prune() {
        prune(&store);
    }
    let listen = |source| ServeError::Listen { address: args.host, source };
    let listener = TcpListener::bind(args.host).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let pool = Pool::new(program, tasks.clone(), stop.clone());
    let router = http::router(Engine { store, pool: pool.clone() }, address.ip().is_loopback());

    let announcement = serde_json::json!({"listening": format!("http://{address}"), "gpu": cfg!(feature = "cuda")});
    if let Err(error) = writeln!(std::io::stdout(), "{announcement}") {
        tracing::warn!(%error, "announce the address");
    }
    tracing::info!(%address, "listening");
    let closing = CancellationToken::new();
    let server = axum::serve(listener, router).with_graceful_shutdown(closing.clone().cancelled_owned());
    let mut server = tasks.spawn(server.into_future());
    tokio::select! {
        result = &mut server => {
            let result = result.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            return result.map_err(ServeError::Serve);
        }
        reason = told_to_stop(args.exit_with_parent) => tracing::info!(reason, "stopping"),
    }
    closing.cancel();
    if timeout(limits::SHUTDOWN_GRACE, &mut server).await.is_err() {
        tracing::warn!("requests are cut off");
    }
    stop.cancel();
    pool.close().await;
    tasks.close();
    if timeout(limits::SHUTDOWN_GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("tasks are cut off");
    }
    Ok(())
}

/// Ollama's own word for it.
fn is_told_not_to_prune() -> bool {
    std::env::var("OLLAMA_NOPRUNE").is_ok_and(|value| is_yes(&value))
}

/// As Ollama reads it: whatever does not say no says yes.
fn is_yes(value: &str) -> bool {
    let value = value.trim().trim_matches(['"', '\'']);
    !["", "0", "f", "F", "false", "False", "FALSE"].contains(&value)
}

/// What stays is cleared away at another start.
fn prune(store: &Store) {
    match store.prune(SystemTime::from(jiff::Timestamp::now())) {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => tracing::info!(files = removed.len(), "files that no model names are gone"),
        Err(error) => tracing::warn!(%error, "files that no model names stay"),
    }
}

async fn told_to_stop(with_parent: bool) -> &'static str {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return "signals cannot be received";
    };
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
        () = end_of_input(), if with_parent => "the parent is gone",
    }
}

/// Waits until standard input is closed; what is written to it is thrown away.
async fn end_of_input() {
    let mut input = tokio::io::stdin();
    let mut scrap = [0; 256];
    while matches!(input.read(&mut scrap).await, Ok(count) if count > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_the_environment_is_read_as_ollama_reads_it() {
        for no in ["", " ", "0", "f", "F", "false", "False", " FALSE ", "\"false\"", "'0'"] {
            assert!(!is_yes(no), "{no:?}");
        }
        for yes in ["1", "t", "true", "TRUE", "no", "off"] {
            assert!(is_yes(yes), "{yes:?}");
        }
    }
}
