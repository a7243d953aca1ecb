//! Ollama's words for making and giving models, asked through one node and done by the runtime of another one.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use ollamax_testkit::fake_ollama::Received;
use ollamax_testkit::{Cluster, FakeRegistry};
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
