//! Proxy variables of the daemon's environment mean nothing on the way to its runtime and to other nodes.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use ollamax_testkit::Cluster;
use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::fake_ollama::{ModelScript, Script};

const PATIENCE: Duration = Duration::from_secs(30);
const VARIABLES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_the_environment_is_asked_for_nothing() -> Result<()> {
    let _turn = crate::turn().await;
    // Whoever turns to it waits in its queue and is found there.
    let proxy = TcpListener::bind(("127.0.0.1", 0)).context("bind the proxy")?;
    proxy.set_nonblocking(true)?;
    let url = format!("http://{}", proxy.local_addr()?);
    let script = Script::with_models([ModelScript::named("demo")]);
    let cluster = Cluster::builder("proxy-variables")
        .nodes(2)
        .node(1, |plan| plan.runtime = Runtime::Fake(Box::new(script)))
        .start()
        .await?;
    cluster.kill(&[0, 1]).await?;
    for (node, variable) in cluster.nodes().iter().flat_map(|node| VARIABLES.map(|variable| (node, variable))) {
        node.set_environment(variable, &url);
    }
    cluster.restart(&[0, 1]).await?;
    cluster.settled(PATIENCE).await.context("the nodes reach each other")?;
    cluster.model_known("demo", 1, PATIENCE).await.context("the node reaches its runtime")?;
    for (index, stream) in [(0, false), (0, true), (1, false), (1, true)] {
        let answer = cluster.chat(index, "demo", "straight on", stream).await?;
        ensure!(answer.status == 200, "node {index}: {}", answer.text().await?);
    }
    cluster.set(1, "through", b"the leader").await?;
    match proxy.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        asked => anyhow::bail!("the proxy was asked: {asked:?}"),
    }
    cluster.finish().await
}
