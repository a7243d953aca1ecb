//! What a node costs while nobody asks it anything: ready soon, little memory, hardly any CPU, and healthy at once even
//! when its runtime hangs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use tokio::time::Instant;

use ollamax_testkit::fake_ollama::{Fault, FaultRule, On, Script};
use ollamax_testkit::{Cluster, wait};

const PATIENCE: Duration = Duration::from_secs(30);
const READY_LIMIT: Duration = Duration::from_secs(2);
const RESIDENT_BYTES_LIMIT: f64 = 100e6;
/// Of one core, in percent.
const CPU_PERCENT_LIMIT: u32 = 2;
const HEALTH_LIMIT: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_ready_soon_and_light_when_idle() -> Result<()> {
    let _turn = crate::turn().await;
    let length = Duration::from_secs(if crate::soak() { 60 } else { 6 });
    let hangs = Script { faults: vec![FaultRule::always(On::Everything, Fault::Hang)], ..Script::default() };
    let cluster = Cluster::builder("light").nodes(1).fakes(&hangs).start().await?;
    for key in 0..200 {
        cluster.set(0, &format!("key-{key}"), b"some data to start with").await?;
    }
    cluster.node(0).stop(PATIENCE).await?;
    let begin = Instant::now();
    cluster.restart(&[0]).await?;
    wait::until("the node to be ready", PATIENCE, || async {
        let (status, text) = answer(&cluster, "/readyz").await?;
        ensure!(status == 200, "{status} {text}");
        Ok(())
    })
    .await?;
    let ready = begin.elapsed();
    ensure!(ready < READY_LIMIT, "ready after {ready:?}");

    let (begin, busy_before) = (Instant::now(), cluster.node(0).cpu_time()?);
    wait::pause(length).await;
    let (busy, wall) = (cluster.node(0).cpu_time()? - busy_before, begin.elapsed());
    ensure!(busy * 100 < wall * CPU_PERCENT_LIMIT, "{busy:?} of CPU time in {wall:?}");
    let resident = cluster.metric(0, "process_resident_memory_bytes").await?.context("no figure for memory")?;
    ensure!(resident < RESIDENT_BYTES_LIMIT, "{resident} bytes resident");

    let mut took = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        let (status, text) = answer(&cluster, "/health").await?;
        took.push(begin.elapsed());
        for part in ["metadata", "store", "disk", "runtime", "peers", "scheduler"] {
            ensure!(status == 200 && text.contains(&format!("\"{part}\":{{")), "{status} {text}");
        }
    }
    took.sort();
    ensure!(took[took.len() / 2] < HEALTH_LIMIT, "{took:?}");
    eprintln!("ready {ready:?}, CPU {busy:?} of {wall:?}, resident {resident}, health {:?}", took[took.len() / 2]);
    cluster.finish().await
}

async fn answer(cluster: &Cluster, path: &str) -> Result<(u16, String)> {
    let answer = cluster.http().call(Method::GET, &cluster.url(0, path)?, "").await?;
    Ok((answer.status, answer.text().await?))
}
