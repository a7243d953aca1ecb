//! Ollama's words for making and giving models, asked through one node and done by the runtime of another one: by
//! commands, and over HTTP on the admin socket.

use std::fs;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use ollamax_testkit::fake_ollama::Received;
use ollamax_testkit::fake_registry::Blob;
use ollamax_testkit::http::over_socket;
use ollamax_testkit::{Cluster, FakeRegistry, wait};
use ollamax_types::ErrorCode;

use crate::bundle_between_two_clusters::{ollamax, page};
use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::{blob, model, plan, refused};
use crate::spread::all_seen_up;

const WEIGHTS_BYTES: u64 = 5_000_000;
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/demo/demo.gguf");
const MODELFILE: &str = "FROM base\nPARAMETER temperature 0.5\nPARAMETER stop User:\nSYSTEM \"\"\"Be\nbrief.\"\"\"\n";

/// What the runtime of a node was asked at a path.
fn asked(cluster: &Cluster, index: usize, path: &str) -> Result<Vec<Value>> {
    Ok(cluster.fake(index)?.read(|record| record.to(path).map(Received::json).collect()))
}

/// A call in Ollama's words over the admin socket of a node.
async fn spoken(
    cluster: &Cluster,
    index: usize,
    (method, path): (Method, &str),
    body: impl Into<Bytes>,
) -> Result<(u16, String)> {
    over_socket(&cluster.node(index).data_dir().join("admin.sock"), method, path, body).await
}

/// Waits until a node lists exactly these models.
async fn listed(cluster: &Cluster, index: usize, expected: &[&str]) -> Result<()> {
    wait::until(&format!("{expected:?} to be listed"), PATIENCE, || async {
        let tags = cluster.get_json(index, "/api/tags").await?;
        let models = tags["models"].as_array().with_context(|| format!("no list: {tags}"))?;
        let mut names: Vec<&str> = models.iter().filter_map(|model| model["name"].as_str()).collect();
        names.sort_unstable();
        ensure!(names == expected, "{names:?}");
        anyhow::Ok(())
    })
    .await
}

/// Three nodes with an empty store each, the second of which has pulled `base`.
async fn start(registry: &FakeRegistry) -> Result<Cluster> {
    registry.push("base", &model(231, WEIGHTS_BYTES));
    let cluster = plan("create", registry, 3).start().await?;
    all_seen_up(&cluster).await?;
    let told = cluster.pull(0, "base", &["--node", "n2"]).await?;
    ensure!(told.status.success(), "{told:?}");
    cluster.model_known("base", 1, PATIENCE).await?;
    Ok(cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_made_where_its_base_lies_copied_and_pushed_from_there() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let cluster = start(&registry).await?;
    let folder = tempfile::tempdir()?;
    let modelfile = folder.path().join("Modelfile");
    fs::write(&modelfile, MODELFILE)?;
    // The registry has a model of this name too, which nobody asks for.
    registry.push("lab/brief", &model(232, WEIGHTS_BYTES));
    let modelfile = modelfile.to_str().context("a path that is text")?;

    let words = ["model", "create", "lab/brief", "--modelfile", modelfile, "--replicas", "2"];
    let told = page(&ollamax(&cluster, 0, &words).await?)?;
    ensure!(told["kind"] == "ModelCreate" && told["name"] == "lab/brief:latest" && told["node"] == "n2", "{told}");
    let copies = told["copies"].as_array().with_context(|| format!("no copies: {told}"))?;
    ensure!(copies.len() == 2 && copies.iter().all(|copy| copy["digest"] == told["digest"]), "{told}");
    let expected = json!({
        "model": "lab/brief:latest", "from": "base", "stream": true, "system": "Be\nbrief.",
        "parameters": {"temperature": 0.5, "stop": ["User:"]},
    });
    let found = asked(&cluster, 1, "/api/create")?;
    ensure!(found == [expected], "{found:?}");
    ensure!(asked(&cluster, 0, "/api/create")?.is_empty() && asked(&cluster, 2, "/api/create")?.is_empty());
    cluster.model_known("lab/brief", 2, PATIENCE).await?;
    let answer = cluster.chat(0, "lab/brief", "hello", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);

    let told = page(&ollamax(&cluster, 0, &["model", "push", "lab/brief", "--node", "n2", "--insecure"]).await?)?;
    ensure!(told["kind"] == "ModelPush" && told["node"] == "n2", "{told}");
    let found = asked(&cluster, 1, "/api/push")?;
    ensure!(found == [json!({"model": "lab/brief:latest", "insecure": true, "stream": true})], "{found:?}");
    // The words of the registry come to whoever asked, from whichever node has the model.
    let (code, error) = refused(&ollamax(&cluster, 0, &["model", "push", "base"]).await?)?;
    ensure!(code == ErrorCode::RuntimeFailed.as_str(), "{error}");
    ensure!(error["what"] == "node n2 could not push base:latest", "{error}");
    ensure!(error["why"].as_str().is_some_and(|why| why.contains("under a namespace you own")), "{error}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_becomes_a_model_of_the_node_that_is_asked() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let cluster = start(&registry).await?;
    let told = page(&ollamax(&cluster, 2, &["model", "create", "lab/mine", FILE]).await?)?;
    ensure!(told["node"] == "n3" && told["copies"] == json!([]), "{told}");
    let made = cluster.fake(2)?.models().into_iter().find(|model| model.name == "lab/mine:latest");
    let weights = made.context("the runtime does not list it")?.weights_digest();
    let stored = blob(&cluster.node(2).store(), weights);
    ensure!(fs::read(stored)? == fs::read(FILE)?, "the file is another one");
    // Another node is told at once, and says where it is.
    cluster.model_known("lab/mine", 1, PATIENCE).await?;
    let (code, error) = refused(&ollamax(&cluster, 0, &["model", "push", "lab/mine", "--node", "n1"]).await?)?;
    ensure!(code == ErrorCode::ModelNotFound.as_str() && error["why"] == "it is on n3", "{error}");
    let (code, error) = refused(&ollamax(&cluster, 0, &["model", "create", "lab/x", "--from", "nope"]).await?)?;
    ensure!(code == ErrorCode::ModelNotFound.as_str(), "{error}");
    ensure!(error["what"] == "node n1 could not make lab/x:latest", "{error}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_speaks_ollama_to_the_admin_socket_of_any_node_does_all_of_it() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let cluster = start(&registry).await?;
    let (weights, mut bytes) = (Blob { seed: 233, size_bytes: 300_000 }, vec![0; 300_000]);
    weights.read(0, &mut bytes);
    let sha256 = weights.sha256();
    let path = format!("/api/blobs/sha256:{sha256}");
    let (find, send) = (|| (Method::HEAD, path.as_str()), || (Method::POST, path.as_str()));

    // A file comes to the node whose socket it is, whole or not at all.
    let (status, text) = spoken(&cluster, 2, send(), "something else").await?;
    ensure!(status == 400 && text.starts_with(r#"{"error":"digest mismatch, expected "#), "{status} {text}");
    for (call, body, expected) in [
        (find(), Vec::new(), 404),
        (send(), bytes.clone(), 201),
        (find(), Vec::new(), 200),
        (send(), bytes.clone(), 200),
    ] {
        let told = spoken(&cluster, 2, call, body).await?;
        ensure!(told == (expected, String::new()), "{told:?}, not {expected}");
    }
    ensure!(fs::read(blob(&cluster.node(2).store(), sha256))? == bytes, "the file is another one");

    let files = json!({ "mine.gguf": format!("sha256:{sha256}") });
    let create = json!({ "model": "lab/mine", "files": files, "system": "Be brief." }).to_string();
    let (status, text) = spoken(&cluster, 0, (Method::POST, "/api/create"), create.clone()).await?;
    ensure!(status == 400 && text.contains("not found on n1"), "{status} {text}");
    let (status, text) = spoken(&cluster, 2, (Method::POST, "/api/create"), create).await?;
    ensure!(status == 200 && text.ends_with("{\"status\":\"success\"}\n"), "{status} {text}");
    let found = asked(&cluster, 2, "/api/create")?;
    let expected = json!({ "model": "lab/mine:latest", "files": files, "system": "Be brief.", "stream": true });
    ensure!(found == [expected], "{found:?}");
    listed(&cluster, 0, &["base:latest", "lab/mine:latest"]).await?;

    // What another node has is copied, pushed and deleted there.
    let copy = json!({ "source": "lab/mine", "destination": "lab/other:1" }).to_string();
    let copied = spoken(&cluster, 0, (Method::POST, "/api/copy"), copy).await?;
    ensure!(copied == (200, String::new()), "{copied:?}");
    listed(&cluster, 1, &["base:latest", "lab/mine:latest", "lab/other:1"]).await?;
    let (status, text) = spoken(&cluster, 1, (Method::POST, "/api/push"), r#"{"model":"lab/other:1"}"#).await?;
    ensure!(status == 200 && text.ends_with("{\"status\":\"success\"}\n"), "{status} {text}");
    let found = asked(&cluster, 2, "/api/push")?;
    ensure!(found == [json!({ "model": "lab/other:1", "insecure": false, "stream": true })], "{found:?}");
    let deleted = spoken(&cluster, 1, (Method::DELETE, "/api/delete"), r#"{"model":"lab/mine"}"#).await?;
    ensure!(deleted == (200, String::new()), "{deleted:?}");
    listed(&cluster, 0, &["base:latest", "lab/other:1"]).await?;
    let (status, text) = spoken(&cluster, 1, (Method::DELETE, "/api/delete"), r#"{"model":"lab/mine"}"#).await?;
    ensure!(status == 404 && text == r#"{"error":"model 'lab/mine' not found"}"#, "{status} {text}");

    // The rest is not there, and nothing of this is where everybody asks.
    let (status, text) = spoken(&cluster, 0, (Method::GET, "/api/tags"), "").await?;
    ensure!(status == 404 && text.contains("the rest is at http://"), "{status} {text}");
    let answer = cluster.http().post(&cluster.url(0, "/api/delete")?, &json!({ "model": "base" })).await?;
    let (status, text) = (answer.status, answer.text().await?);
    ensure!(status == 501 && text.contains("admin.sock"), "{status} {text}");
    cluster.finish().await
}
