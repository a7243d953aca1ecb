//! The page of the metrics says what a node shows, and the gauges of this crate say what they were told.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::{Service as _, http};

use ollamax_gateway as gateway;
use ollamax_metadata as metadata;
use ollamax_outbound as outbound;
use ollamax_scheduler as scheduler;
use ollamax_transfer as transfer;
use ollamax_types::{Clock, ClusterId, Incarnation, NodeId};

use super::*;
use crate::loopback::{Door, Words, new_key};
use crate::{backups, member};

const PAGE: &str = include_str!("../../../docs/operations/metrics.md");

fn gpu() -> Gpu {
    Gpu {
        uuid: "GPU-1".to_owned(),
        name: "NVIDIA H100".to_owned(),
        memory_total_bytes: Some(80 << 30),
        memory_used_bytes: Some(3 << 30),
        use_permille: Some(420),
    }
}

/// Answers one request of a client, so that what is counted by route is there.
async fn answer_a_client(registry: &Registry) {
    let mut router = gateway::http::router(gateway::http::Parts {
        node: Arc::new(gateway::mem::MemNode::new("n1")),
        tools: gateway::Toolbox::new(ollamax_tools::Catalogue::default(), registry).expect("new names"),
        config: gateway::Config::default(),
        bound: "127.0.0.1:11435".parse().expect("an address"),
        hostname: String::new(),
        metrics: gateway::Metrics::register(registry).expect("new names"),
        registry: registry.clone(),
        seed: 1,
    });
    let request = http::Request::get("/livez").header("host", "localhost").body(String::new()).expect("a request");
    let body = router.call(request).await.expect("infallible").into_body();
    assert!(body.into_data_stream().all(|part| ready(part.is_ok())).await);
}

/// Everything that a member with a GPU registers.
async fn registry() -> Registry {
    let registry = Registry::new();
    register_process(&registry).expect("new names");
    let space = Space { free_bytes: 7, used_bytes: 9 };
    Metrics::register(&registry).expect("new names").show_disk(Some(space));
    GpuMetrics::register(&registry).expect("new names").show(&[], &[gpu()]);
    CopyMetrics::register(&registry).expect("new names");
    backups::metrics::Metrics::register(&registry).expect("new names");
    outbound::Metrics::new().register(&registry).expect("new names");
    Door::open(new_key(), Words::default()).await.net.metrics().register(&registry).expect("new names");
    answer_a_client(&registry).await;
    let (folder, tasks, stop) = (tempfile::tempdir().expect("temp"), TaskTracker::new(), CancellationToken::new());
    let handle = metadata::Service::open(metadata::Parts {
        config: metadata::Config::default(),
        store: ollamax_store::Config::default(),
        identity: metadata::Identity {
            cluster: ClusterId([1; 16]),
            node: NodeId(1),
            incarnation: Incarnation([2; 16]),
        },
        dir: folder.path().to_owned(),
        clock: Clock::system(),
        peers: metadata::mem::Network::default().peers_of(NodeId(1)),
        tasks: tasks.clone(),
        stop: stop.clone(),
    });
    let handle = handle.await.expect("opens");
    let door = gateway::lab::Door {
        listener: gateway::http::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port"),
        config: gateway::RegistryConfig::default(),
        node: Arc::new(gateway::mem::MemNode::new("n1")),
        registry: registry.clone(),
        grace: Duration::ZERO,
    };
    drop(gateway::lab::spawn(door, &tasks, stop.clone()).expect("it opens"));
    let (scheduler, transfer) = (scheduler::Metrics::default(), transfer::Metrics::default());
    let registered = member::register(&handle, &scheduler, &transfer, &registry);
    registered.expect("new names");
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    registry
}

#[tokio::test]
async fn the_page_of_the_metrics_lists_what_a_node_shows() {
    let mut rows = Vec::new();
    for family in registry().await.gather() {
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        let metric = family.get_metric().first().expect("a family that is shown has a metric");
        let labels: Vec<String> = metric.get_label().iter().map(|label| format!("`{}`", label.name())).collect();
        let meaning = family.help().trim_end_matches('.');
        rows.push(format!("| `{}` | {kind} | {} | {meaning} |", family.name(), labels.join(", ")));
    }
    let page: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(page, rows, "docs/operations/metrics.md should have these rows:\n{}\n", rows.join("\n"));
}

#[test]
fn members_and_disk_are_shown_as_they_were_last_read() {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).expect("new names");
    metrics.show_members(&[Health::Dead, Health::Alive, Health::Alive]);
    metrics.show_members(&[Health::Suspect, Health::Alive]);
    metrics.show_disk(Some(Space { free_bytes: 7, used_bytes: 9 }));
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
    let values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        values,
        [
            "ollamax_disk_free_bytes 7",
            "ollamax_disk_used_bytes 9",
            r#"ollamax_members{health="alive"} 1"#,
            r#"ollamax_members{health="dead"} 0"#,
            r#"ollamax_members{health="suspect"} 1"#,
            r#"ollamax_members{health="unknown"} 0"#,
        ]
    );
    metrics.show_disk(None);
    let is_shown = |family: &&prometheus::proto::MetricFamily| !family.get_metric().is_empty();
    let names: Vec<String> = registry.gather().iter().filter(is_shown).map(|family| family.name().to_owned()).collect();
    assert_eq!(names, ["ollamax_members"], "a disk that says nothing has no value");
}

#[test]
fn a_gpu_that_is_gone_leaves_the_metrics() {
    let registry = Registry::new();
    let metrics = GpuMetrics::register(&registry).expect("new names");
    metrics.show(&[], &[gpu()]);
    assert_eq!(registry.gather().iter().map(|family| family.get_metric().len()).sum::<usize>(), 3);
    metrics.show(&[gpu()], &[]);
    assert!(registry.gather().iter().all(|family| family.get_metric().is_empty()));
}

#[test]
fn copies_and_moves_are_shown_as_the_leader_counts_them() {
    let registry = Registry::new();
    let metrics = CopyMetrics::register(&registry).expect("new names");
    metrics.show(3, 2, 1);
    metrics.moved("repair", Moved::Done);
    metrics.moved("drop", Moved::Failed);
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
    let values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0")).collect();
    assert_eq!(
        values,
        [
            r#"ollamax_model_moves_total{kind="drop",outcome="failed"} 1"#,
            r#"ollamax_model_moves_total{kind="repair",outcome="done"} 1"#,
            "ollamax_model_moves_under_way 1",
            "ollamax_models_impossible 2",
            "ollamax_models_under_replicated 3",
        ]
    );
}
