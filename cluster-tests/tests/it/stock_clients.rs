//! The stock Python clients `ollama` and `openai` at every node of `ollamax dev up --nodes 3`: they list, show, chat,
//! stream, generate, embed, and are refused, on a real model that two of the three nodes have. Once beside the bundled
//! engines, and once beside Ollamas that somebody else runs, where `OLLAMAX_TEST_OLLAMAS` names three.
//!
//! What they must see stands in `cluster-tests/clients/stock_clients.py`; `cargo xtask setup` installs them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::json;
use tokio::process::Command;

use ollamax_testkit::http::HttpClient;

use crate::dev_cluster::{DevCluster, HOLDERS, NODES, succeed};

const MODEL: &str = "demo";
/// In an Ollama that belongs to somebody; nobody else calls a model so, and it is removed at the end.
const GUEST: &str = "ollamax-stock-clients";
/// Base URLs of three Ollamas, separated by commas.
const OLLAMAS_VARIABLE: &str = "OLLAMAX_TEST_OLLAMAS";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stock_python_clients_work_through_every_node() -> Result<()> {
    let _turn = crate::turn().await;
    let python = python()?;
    let cluster = DevCluster::up(&[]).await?;
    println!("{}", converse(&cluster, &python, MODEL).await?);
    let processes = cluster.processes()?;
    ensure!(processes.len() > 2 * NODES, "daemons, engines, and no runner: {processes:?}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stock_python_clients_work_beside_ollamas_that_run_already() -> Result<()> {
    let _turn = crate::turn().await;
    let Some(ollamas) = ollamas()? else {
        let why = format!("{OLLAMAS_VARIABLE} does not name three Ollamas; see docs/development/README.md");
        return crate::say_left_out("stock_clients beside Ollamas that run already", &why);
    };
    let python = python()?;
    let cluster = DevCluster::up(&ollamas).await?;
    let conversed = converse(&cluster, &python, GUEST).await;
    let removed = remove(&ollamas, GUEST).await;
    println!("{}", conversed?);
    removed?;
    cluster.finish().await
}

/// Imports the model and lets the clients ask every node; gives what they said.
async fn converse(cluster: &DevCluster, python: &Path, model: &str) -> Result<String> {
    cluster.import_demo(model).await?;
    let mut clients = Command::new(python);
    // Nothing of the caller's environment decides, proxies least of all.
    clients.env_clear().arg("-I").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/stock_clients.py"));
    clients.arg(model).arg(HOLDERS.join(",")).args(&cluster.urls);
    succeed(clients).await
}

/// The Ollamas that are named; `None` where none is.
fn ollamas() -> Result<Option<Vec<String>>> {
    let text = std::env::var(OLLAMAS_VARIABLE).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let urls: Vec<String> = text.split(',').map(|url| url.trim().trim_end_matches('/').to_owned()).collect();
    let are_three = urls.len() == NODES && urls.iter().all(|url| url.starts_with("http://"));
    ensure!(are_three, "{OLLAMAS_VARIABLE}={text}: not three URLs like http://10.0.0.7:11434, separated by commas");
    Ok(Some(urls))
}

/// Takes the model out of the holders' Ollamas; the import may have failed before it was there.
async fn remove(ollamas: &[String], model: &str) -> Result<()> {
    let http = HttpClient::new();
    for url in ollamas.iter().take(HOLDERS.len()) {
        let body = json!({ "model": model }).to_string();
        let answer = http.call(Method::DELETE, &format!("{url}/api/delete"), body).await?;
        let status = answer.status;
        ensure!([200, 404].contains(&status), "remove {model} from {url}: {status}: {}", answer.text().await?);
    }
    Ok(())
}

/// The Python that has the clients.
fn python() -> Result<PathBuf> {
    python_of("python-clients")?.context("no Python clients: run `cargo xtask setup`")
}

/// The Python of one of the environments that `cargo xtask setup` makes: in the target directory, above the test's own
/// binary.
pub(crate) fn python_of(environment: &str) -> Result<Option<PathBuf>> {
    let own = std::env::current_exe().context("find the test's own binary")?;
    let place = Path::new(environment).join("bin/python");
    Ok(own.ancestors().map(|folder| folder.join(&place)).find(|path| path.is_file()))
}
