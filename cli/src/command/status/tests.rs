//! What `ollamax status` shows, as golden pages.

use ollamax_proto::v1::{LocalView, RaftView, Runtime, runtime};

use super::*;

fn member(id: u64, health: Health) -> NodeView {
    let mut runtime = Runtime { version: "0.24.0".to_owned(), ..Runtime::default() };
    runtime.set_state(runtime::State::Up);
    runtime.set_kind(runtime::Kind::Ollama);
    let mut node = NodeView {
        id,
        name: format!("n{id}"),
        role: "voter".to_owned(),
        voter: true,
        leader: id == 1,
        models: 2,
        runtime: Some(runtime),
        api_addresses: vec![format!("http://10.0.0.{id}:11435")],
        ..NodeView::default()
    };
    node.set_health(health);
    node.set_state(State::Active);
    node
}

fn healthy() -> StatusReply {
    let mut reply = StatusReply {
        cluster_name: "lab".to_owned(),
        node_id: 1,
        node_name: "n1".to_owned(),
        raft: Some(RaftView {
            term: 2,
            leader: 1,
            has_quorum: true,
            voters: vec![1, 2, 3],
            failure_tolerance: 1,
            ..RaftView::default()
        }),
        nodes: (1..=3).map(|id| member(id, Health::Alive)).collect(),
        view: Some(LocalView { applied_index: 40, age_ms: 0 }),
        ..StatusReply::default()
    };
    reply.set_phase(Phase::Member);
    reply
}

#[test]
fn a_healthy_cluster_is_one_sentence_and_a_table() {
    insta::assert_snapshot!(page(&healthy()), @r"
    Cluster lab is healthy: 3 of 3 nodes alive, 3 voters, n1 leads.
    1 voter may fail before changes stop.

    ID  NAME  HEALTH  PART    RUNTIME        MODELS  LOADED  API
    1   n1    alive   leader  ollama 0.24.0  2               http://10.0.0.1:11435
    2   n2    alive   voter   ollama 0.24.0  2               http://10.0.0.2:11435
    3   n3    alive   voter   ollama 0.24.0  2               http://10.0.0.3:11435

    Next: ollamax model list; ollamax run MODEL
    ");
}

#[test]
fn the_page_says_how_many_voters_may_fail_where_any_could() {
    let check = |voters: &[u64], tolerance: u32, expected: Option<&str>| {
        let mut reply = healthy();
        let raft = reply.raft.as_mut().expect("there");
        (raft.voters, raft.failure_tolerance) = (voters.to_vec(), tolerance);
        assert_eq!(borne(&reply).as_deref(), expected, "{voters:?} {tolerance}");
        reply.raft.as_mut().expect("there").has_quorum = false;
        assert_eq!(borne(&reply), None);
    };
    check(&[1], 0, None);
    check(&[1, 2], 0, None);
    check(&[1, 2, 3], 0, Some("No other voter may fail: the next one stops changes, not inference.\n"));
    check(&[1, 2, 3, 4, 5], 2, Some("2 voters may fail before changes stop.\n"));
}

#[test]
fn what_needs_attention_comes_first_with_its_next_command() {
    let mut reply = healthy();
    reply.nodes[2] = member(3, Health::Dead);
    reply.raft.as_mut().expect("there").has_quorum = false;
    reply.view = Some(LocalView { applied_index: 40, age_ms: 12_000 });
    reply.attention = vec![Attention {
        id: "no_quorum".to_owned(),
        what: "no majority of voters answers".to_owned(),
        why: "two are missing".to_owned(),
        next: "start the missing voters: ollamax node list".to_owned(),
    }];
    assert!(is_degraded(&reply));
    let page = page(&reply);
    let expected = "Cluster lab is without a quorum: inference goes on, changes wait: 2 of 3 nodes alive, 3 voters, nobody leads.\n\
                    This is the view of node 1 at index 40; last contact with a leader: 12 s ago.\n\n\
                    Needs attention:\n  ! no majority of voters answers\n      why: two are missing\n      \
                    try: start the missing voters: ollamax node list\n";
    assert!(page.starts_with(expected), "{page}");
    assert!(page.ends_with("Next: start the missing voters: ollamax node list\n"), "{page}");
}

#[test]
fn what_is_only_advice_degrades_nothing() {
    let check = |id: &str, expected: bool| {
        let mut reply = healthy();
        reply.attention = vec![Attention { id: id.to_owned(), ..Attention::default() }];
        assert_eq!(is_degraded(&reply), expected, "{id}");
    };
    check("copy_left_out", false);
    check("under_replicated", true);
}

#[test]
fn a_cluster_without_models_is_told_to_pull_one() {
    let mut reply = healthy();
    for node in &mut reply.nodes {
        node.models = 0;
    }
    assert!(page(&reply).ends_with("\nNext: ollamax model pull NAME\n"), "{}", page(&reply));
}

#[test]
fn a_view_without_a_leader_says_how_old_it_is_as_far_as_that_is_known() {
    let mut reply = healthy();
    reply.raft.as_mut().expect("there").has_quorum = false;
    let mut check = |age_ms: u64, expected: Option<&str>| {
        reply.view = Some(LocalView { applied_index: 40, age_ms });
        let expected =
            expected.map(|age| format!("This is the view of node 1 at index 40; last contact with a leader: {age}.\n"));
        assert_eq!(age(&reply), expected, "{age_ms}");
    };
    check(2_999, None);
    check(240_000, Some("4 min ago"));
    check(u64::MAX, Some("none since its daemon started"));
    let fresh = StatusReply { view: Some(LocalView { applied_index: 40, age_ms: 9_000 }), ..healthy() };
    assert_eq!(age(&fresh), None, "there is a leader");
}

#[test]
fn a_node_without_a_cluster_says_so() {
    let mut reply = StatusReply { node_name: "n1".to_owned(), ..StatusReply::default() };
    reply.set_phase(Phase::Waiting);
    assert!(page(&reply).starts_with("Node n1 runs and belongs to no cluster yet.\n"));
    assert!(!is_degraded(&reply));
}

#[test]
fn a_node_that_joins_is_not_told_to_bring_models() {
    let mut reply = StatusReply { node_name: "n2".to_owned(), ..StatusReply::default() };
    reply.set_phase(Phase::Joining);
    let page = page(&reply);
    assert!(page.starts_with("Node n2 waits for the state of its cluster.\n"), "{page}");
    assert!(page.contains("Next: ollamax status;"), "{page}");
}

#[test]
fn a_removed_node_says_so_in_one_sentence_and_names_the_way_back() {
    let mut reply = StatusReply { node_name: "n3".to_owned(), ..StatusReply::default() };
    reply.set_phase(Phase::Removed);
    reply.attention = vec![Attention {
        id: "removed".to_owned(),
        what: "this node was removed from its cluster".to_owned(),
        why: "its id is never used again".to_owned(),
        next: "ollamax leave".to_owned(),
    }];
    insta::assert_snapshot!(page(&reply), @r"
    Node n3 was removed from its cluster.

    Needs attention:
      ! this node was removed from its cluster
          why: its id is never used again
          try: ollamax leave
    ");
    assert!(is_degraded(&reply));
}

#[test]
fn the_json_form_keeps_its_fields() {
    let shown = shown(&healthy());
    let fields: Vec<&str> = shown.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        ["health", "phase", "degraded", "attention", "next", "node", "cluster", "raft", "nodes", "view"]
    );
    assert_eq!(shown["raft"]["leader"], 1);
    assert_eq!(shown["nodes"][1]["part"], "voter");
    assert_eq!(shown["view"]["ageMs"], 0);
}
