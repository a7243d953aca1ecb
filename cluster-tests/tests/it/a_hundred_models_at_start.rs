//! A hundred models that lie in the store of a node when its daemon starts: all of them are on record before their
//! runtime answers. How long that takes is printed, and judged by a bound that any machine keeps; 500 ms for them are
//! judged where nothing else runs, by `cargo xtask bench transfer`.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use ollamax_proto::v1::runtime::State;
use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::fake_ollama::{Fault, FaultRule, ModelScript, On, Script, shelve};
use ollamax_testkit::{Cluster, wait};

use crate::model_owners::{PATIENCE, runtimes_up};

const MODELS: usize = 100;
/// Bytes of the weights of each.
const WEIGHTS_BYTES: u64 = 10_000;
/// Longest time from the moment in which the node listens until all are on record. What is looked at again only by the
/// clock takes longer.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);

/// How many models are on record, as the node has applied it.
async fn on_record(cluster: &Cluster) -> Result<usize> {
    Ok(cluster.node(0).admin()?.models("").await?.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_models_of_a_store_are_on_record_before_their_runtime_answers() -> Result<()> {
    let _turn = crate::turn().await;
    let faults = vec![FaultRule::always(On::Everything, Fault::Reset)];
    let script = Script { faults, ..Script::default() };
    let plan = Cluster::builder("hundred-models").nodes(1);
    let cluster = plan.node(0, |plan| plan.runtime = Runtime::FakeStore(Box::new(script))).start().await?;
    ensure!(on_record(&cluster).await? == 0, "the store is empty");
    cluster.node(0).stop(PATIENCE).await?;
    let store = cluster.node(0).store();
    for number in 0..MODELS {
        let name = format!("lab/m{number}:1b");
        shelve(&store, &ModelScript { size_bytes: WEIGHTS_BYTES, ..ModelScript::named(&name) })?;
    }

    let began = Instant::now();
    cluster.restart(&[0]).await?;
    let listens = began.elapsed();
    wait::until("all models to be on record", PATIENCE, || async {
        let count = on_record(&cluster).await?;
        ensure!(count == MODELS, "{count} are");
        anyhow::Ok(())
    })
    .await?;
    let recorded = began.elapsed();
    eprintln!("{MODELS} models: the node listens {listens:?} after its start, all are on record after {recorded:?}");
    let took = recorded.saturating_sub(listens);
    ensure!(took <= RECORDED_WITHIN, "it took {took:?} from then on, allowed {RECORDED_WITHIN:?}");
    let runtime = cluster.status(0).await?.nodes.into_iter().find_map(|node| node.runtime);
    ensure!(runtime.as_ref().is_none_or(|runtime| runtime.state() != State::Up), "{runtime:?}");

    // What the runtime says when it comes up is the same.
    cluster.fake(0)?.heal();
    runtimes_up(&cluster, 1).await?;
    cluster.model_known("lab/m99:1b", 1, PATIENCE).await?;
    let count = on_record(&cluster).await?;
    ensure!(count == MODELS, "{count} are on record");
    cluster.finish().await
}
