//! Which node answers: sharing, residency, versions, silence, drains.

use std::collections::BTreeMap;
use std::sync::Arc;

use ollamax_core::health::Health;
use ollamax_scheduler::mem::Link;
use ollamax_scheduler::{Config, RuntimeReport};
use ollamax_types::{InferenceRequest, NodeId, Residency, RuntimeState};

use crate::world::{NEW, OLD, WEIGHTS, World, alias, known, model, ms, read, report, request, resident, slow_stream};

async fn answering(world: &World, requests: usize) -> BTreeMap<u64, u32> {
    let mut answered = BTreeMap::new();
    for _ in 0..requests {
        let response = world.nodes[&1].dispatch(request()).await.expect("answered");
        *answered.entry(response.node.0).or_default() += 1;
        read(response).await;
        world.pass(ms(250), &[]).await;
    }
    answered
}

#[tokio::test(start_paused = true)]
async fn equal_nodes_share() {
    let world = World::new(3, &[1, 2, 3], &Config::default());
    let answered = answering(&world, 300).await;
    assert_eq!(answered.len(), 3, "{answered:?}");
    assert!(answered.values().all(|share| (60..140).contains(share)), "{answered:?}");
}

#[tokio::test(start_paused = true)]
async fn a_burst_between_two_beats_is_spread_by_the_routers_own_count() {
    let world = World::new(4, &[2, 3, 4], &Config::default());
    world.runtimes.values().for_each(|runtime| runtime.set_script(slow_stream()));
    let burst = (0..9).map(|_| async { read(world.nodes[&1].dispatch(request()).await.expect("answered")).await });
    futures::future::join_all(burst).await;
    let started: Vec<u32> = [2, 3, 4].map(|node| world.runtimes[&node].tally().started).into();
    assert_eq!(started, [3, 3, 3]);
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_version_is_served() {
    let world = World::new(3, &[3], &Config::default());
    world.nodes[&2].set_runtime(report(Some(OLD)));
    world.placements.place(NodeId(2), model(OLD));
    world.exchange_beats();
    assert_eq!(answering(&world, 20).await, BTreeMap::from([(3, 20)]));
    world.remote.set_link(NodeId(3), Link::Cut);
    assert!(world.nodes[&1].dispatch(request()).await.is_err(), "the old version is no stand-in");
    assert_eq!(world.runtimes[&2].tally().started, 0);
}

#[tokio::test(start_paused = true)]
async fn resident_comes_before_loadable() {
    let world = World::new(3, &[2, 3], &Config::default());
    world.nodes[&2].set_runtime(RuntimeReport { resident: vec![], ..report(Some(NEW)) });
    world.exchange_beats();
    assert_eq!(answering(&world, 20).await, BTreeMap::from([(3, 20)]));
}

#[tokio::test(start_paused = true)]
async fn a_model_is_warm_where_its_weights_were_loaded_under_another_name() {
    let world = World::new(3, &[2, 3], &Config::default());
    let loaded = Residency { name: alias().name, digest: alias().digest, weights: WEIGHTS, ..resident(NEW) };
    for (node, resident) in [(2, vec![]), (3, vec![loaded])] {
        let models = Arc::new(vec![known(model(NEW)), alias()]);
        world.nodes[&node].set_runtime(RuntimeReport { models, resident, ..report(None) });
        world.placements.place(NodeId(node), known(model(NEW)));
    }
    world.exchange_beats();
    assert_eq!(answering(&world, 20).await, BTreeMap::from([(3, 20)]));
    let loaded_on = |name: &str| world.nodes[&1].loaded_on(&name.parse().expect("valid"));
    assert_eq!((loaded_on("m"), loaded_on("alias"), loaded_on("x")), (vec![NodeId(3)], vec![NodeId(3)], vec![]));
}

#[tokio::test(start_paused = true)]
async fn requests_for_another_model_of_the_same_weights_count_in_the_routers_view() {
    let world = World::new(3, &[2, 3], &Config::default());
    for node in [2, 3] {
        world.placements.place(NodeId(node), known(model(NEW)));
        world.placements.place(NodeId(node), alias());
        let models = Arc::new(vec![known(model(NEW)), alias()]);
        let resident = vec![Residency { weights: WEIGHTS, ..resident(NEW) }];
        world.nodes[&node].set_runtime(RuntimeReport { models, resident, ..report(None) });
        world.runtimes[&node].set_script(slow_stream());
    }
    world.exchange_beats();
    for _ in 0..20 {
        let of_alias = InferenceRequest { model: alias().name, ..request() };
        let first = world.nodes[&1].dispatch(request()).await.expect("answered");
        let second = world.nodes[&1].dispatch(of_alias).await.expect("answered");
        assert_ne!(first.node, second.node, "the second goes where no request is");
        tokio::join!(read(first), read(second));
        world.pass(ms(250), &[]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_and_one_with_a_broken_link_are_routed_round() {
    let world = World::new(3, &[2, 3], &Config::default());
    world.pass(ms(1_000), &[2]).await;
    assert_eq!(world.nodes[&1].health(NodeId(2)), Health::Suspect);
    let response = world.nodes[&1].dispatch(request()).await.expect("answered");
    assert_eq!(response.node, NodeId(3));
    world.exchange_beats();
    world.nodes[&1].lost_link(NodeId(3));
    let response = world.nodes[&1].dispatch(request()).await.expect("answered");
    assert_eq!(response.node, NodeId(2));
    world.exchange_beats();
    assert_eq!(world.nodes[&1].health(NodeId(3)), Health::Alive);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_runtime_is_down_or_which_is_drained_is_not_asked() {
    let world = World::new(4, &[2, 3, 4], &Config::default());
    let state = RuntimeState::Down("hangs".to_owned());
    world.nodes[&2].set_runtime(RuntimeReport { state, ..report(Some(NEW)) });
    world.placements.set_drained(NodeId(3), true);
    world.exchange_beats();
    assert_eq!(answering(&world, 20).await, BTreeMap::from([(4, 20)]));
    let attempts = |result| world.counter(1, "ollamax_scheduler_attempts_total", result);
    assert_eq!((attempts("answered"), attempts("runtime_down"), attempts("node_draining")), (20.0, 0.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_only_this_node_knows_of_is_served() {
    let world = World::new(2, &[], &Config::default());
    world.nodes[&1].set_runtime(report(Some(NEW)));
    assert_eq!(world.nodes[&1].dispatch(request()).await.expect("answered").node, NodeId(1));
}

#[tokio::test(start_paused = true)]
async fn departed_members_are_forgotten() {
    let world = World::new(3, &[2], &Config::default());
    world.nodes[&1].set_members(&[NodeId(1), NodeId(3)]);
    let peers: Vec<NodeId> = world.nodes[&1].peers().iter().map(|peer| peer.beat.node).collect();
    assert_eq!(peers, [NodeId(3)]);
}
