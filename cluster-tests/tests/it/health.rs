//! `/health` answers from what the node knows, and names every part, also while the runtime beside it hangs.

use std::time::Duration;

use anyhow::{Result, ensure};

use ollamax_testkit::fake_ollama::{Fault, FaultRule, On, Script};
use ollamax_testkit::{Cluster, wait};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_names_every_part_while_the_runtime_hangs() -> Result<()> {
    let _turn = crate::turn().await;
    let hangs = Script { faults: vec![FaultRule::always(On::Everything, Fault::Hang)], ..Script::default() };
    let cluster = Cluster::builder("health").nodes(1).fakes(&hangs).start().await?;
    wait::until("the runtime to be found out", PATIENCE, || async {
        let health = cluster.get_json(0, "/health").await?;
        for (part, works) in [
            ("metadata", true),
            ("store", true),
            ("disk", true),
            ("state", true),
            ("runtime", false),
            ("peers", true),
            ("scheduler", true),
        ] {
            let told = &health["components"][part]["ok"];
            ensure!(*told == works, "{part}: {health}");
        }
        Ok(())
    })
    .await?;
    cluster.finish().await
}
