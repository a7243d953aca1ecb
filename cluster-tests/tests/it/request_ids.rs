//! The id that an administrator's call gets back is the one under which the daemons log it.

use anyhow::{Context, Result, ensure};

use ollamax_proto::v1;
use ollamax_testkit::Cluster;
use ollamax_testkit::cluster::{Node, request_id};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_found_in_the_logs_by_the_id_that_it_got_back() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("request-ids").nodes(2).unformed().start().await?;
    let (home, joiner) = (cluster.node(0), cluster.node(1));
    let init = v1::InitRequest { cluster_name: "home".to_owned(), node_name: "n1".to_owned() };
    let made = home.admin()?.client().init(init).await?;
    says(home, &request_id(made.metadata())?, "made a new cluster").await?;

    let seeds = vec![home.advertised()];
    let (token, node_name) = (made.into_inner().token, "n2".to_owned());
    let join = v1::JoinRequest { token, seeds, role: String::new(), node_name };
    let id = request_id(joiner.admin()?.client().join(join).await?.metadata())?;
    says(joiner, &id, "joined the cluster").await?;
    says(home, &id, "admitted a node").await?;

    let drain = v1::DrainNodeRequest { node: "n9".to_owned(), undrain: false };
    let refused = joiner.admin()?.client().drain_node(drain).await.err().context("drained a node that is not there")?;
    request_id(refused.metadata()).context("a refusal has an id too")?;
    cluster.finish().await
}

/// The node's log has a line of this name under this id.
async fn says(node: &Node, id: &str, name: &str) -> Result<()> {
    let request = v1::LogsRequest { request_id: id.to_owned(), ..v1::LogsRequest::default() };
    let mut lines = node.admin()?.client().logs(request).await?.into_inner();
    let mut seen = Vec::new();
    while let Some(line) = lines.message().await? {
        let line: serde_json::Value = serde_json::from_str(&line.json)?;
        if line["msg"] == name {
            ensure!(line["request_id"] == id, "{line}");
            return Ok(());
        }
        seen.push(line);
    }
    anyhow::bail!("{} does not say {name:?} under {id}: {seen:?}", node.name())
}
