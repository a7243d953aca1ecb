//! The load view: what is counted between two beats, and what is shown of peers.

use ollamax_types::{Applies, RuntimeKind, RuntimeState};

use super::*;

const TICK: Duration = Duration::from_millis(100);
const MODEL: Digest = Digest([7; 32]);
const OTHER: Digest = Digest([8; 32]);

fn beat(node: u64, sent_at_ms: u64) -> Beat {
    Beat {
        node: NodeId(node),
        sequence: 1,
        sent_at: Timestamp(sent_at_ms),
        draining: false,
        runtime_kind: RuntimeKind::Engine,
        runtime_version: String::new(),
        runtime_state: RuntimeState::Up,
        resident: vec![],
        runners: vec![],
        memory_used_bytes: 0,
        memory_total_bytes: 0,
        cpu_permille: 0,
        disk_free_bytes: None,
        models_free_bytes: None,
        models_total_bytes: None,
        models_aside_bytes: None,
        models_spare: None,
        no_store_at: None,
        gpus: Vec::new(),
        daemon_version: String::new(),
        applies: Applies::default(),
        applied_index: 0,
        quarantined: Vec::new(),
        suspect_files: 0,
        damaged_manifests: 0,
        models_bytes: 0,
        models_unique_bytes: 0,
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn view() -> Arc<LoadView> {
    Arc::new(LoadView::new(NodeId(1), &Config::default(), TICK))
}

fn counts(view: &LoadView, weights: Digest) -> (u32, u32) {
    let seen = view.seen(NodeId(2), weights, ms(0));
    (seen.sent_since, seen.ended_since)
}

#[test]
fn own_requests_are_counted_until_a_beat_counts_them() {
    let view = view();
    let first = view.send(NodeId(2), MODEL, ms(0));
    let second = view.send(NodeId(2), MODEL, ms(180));
    assert_eq!((counts(&view, MODEL), counts(&view, OTHER)), ((2, 0), (0, 0)));
    view.observe(beat(2, 0), ms(200), Timestamp(0));
    assert_eq!(counts(&view, MODEL), (1, 0), "the second left too shortly before the beat");
    drop(first);
    assert_eq!(counts(&view, MODEL), (1, 1), "the beat still counts the first");
    drop(second);
    assert_eq!(counts(&view, MODEL), (0, 1));
    view.observe(beat(2, 0), ms(450), Timestamp(0));
    assert_eq!(counts(&view, MODEL), (0, 0));
    assert!(view.lock().sent.is_empty(), "nothing is left behind");
}

#[test]
fn a_beat_of_one_node_says_nothing_of_another() {
    let view = view();
    let sending = view.send(NodeId(2), MODEL, ms(0));
    view.observe(beat(3, 0), ms(900), Timestamp(0));
    assert_eq!(counts(&view, MODEL), (1, 0));
    drop(sending);
    assert_eq!(counts(&view, MODEL), (0, 0));
}

#[test]
fn shows_skew_silence_and_health_of_members_only() {
    let view = view();
    view.observe(beat(2, 5_000), ms(0), Timestamp(3_000));
    view.observe(beat(3, 1_000), ms(0), Timestamp(3_000));
    view.observe(beat(1, 0), ms(0), Timestamp(3_000));
    view.lost_link(NodeId(3), ms(100));
    view.lost_link(NodeId(1), ms(100));
    let shown: Vec<_> = view
        .peers(ms(300))
        .into_iter()
        .map(|peer| (peer.beat.node.0, peer.health, peer.silent_ms, peer.clock_skew_ms))
        .collect();
    assert_eq!(shown, [(2, Health::Alive, 300, 2_000), (3, Health::Suspect, 300, -2_000)]);
    assert_eq!(view.health(NodeId(1), ms(9_999)), Health::Alive, "a node does not doubt itself");
    view.retain(&[NodeId(1), NodeId(3)]);
    assert_eq!(view.peers(ms(300)).len(), 1);
    assert_eq!(view.health(NodeId(2), ms(300)), Health::Unknown);
}

#[test]
fn nothing_is_kept_of_what_was_sent_to_a_departed_node() {
    let view = view();
    let ended = view.send(NodeId(2), MODEL, ms(0));
    let waiting = view.send(NodeId(2), OTHER, ms(0));
    view.observe(beat(2, 0), ms(200), Timestamp(0));
    drop(ended);
    view.retain(&[NodeId(1)]);
    drop(waiting);
    assert!(view.lock().sent.is_empty(), "no beat of it comes any more that would clear the counts");
}

#[test]
fn a_member_that_was_never_heard_is_one_of_the_others() {
    let view = view();
    view.retain(&[NodeId(1), NodeId(2), NodeId(3)]);
    view.observe(beat(2, 0), ms(100), Timestamp(0));
    assert_eq!(view.others(ms(200)), [Health::Alive, Health::Unknown]);
    view.retain(&[NodeId(1), NodeId(3)]);
    assert_eq!(view.others(ms(200)), [Health::Unknown]);
    assert_eq!(view.silent_for(NodeId(3), ms(9_000)), Duration::ZERO, "nobody tried to hear it");
    view.lost_link(NodeId(3), ms(200));
    view.lost_link(NodeId(3), ms(20_000));
    let seen = (view.health(NodeId(3), ms(30_200)), view.silent_for(NodeId(3), ms(30_200)));
    assert_eq!(seen, (Health::Dead, ms(30_000)));
    assert!(view.peers(ms(30_200)).iter().all(|peer| peer.beat.node != NodeId(3)), "it said nothing");
}
