//! Removes the copies that the cluster decided to remove here, and tells transfer what is pinned.
//!
//! A drop is done when this node's list of models says that the copy is gone, so one that was carried out and not told
//! is carried out again, which finds nothing to do. Always holds: only the version that is meant goes; what another
//! process put under the name since stays. A node that was away may believe what holds no more: nothing goes before its
//! state is not behind and asks for it still. It may be taken back all the same before the copy is gone, so what goes
//! is noted first, and told as such: nobody takes it for a person's removal. Its copy may be the last one by now:
//! unless somebody insisted, nothing goes as long as no other node is heard that has the same version and keeps it; of
//! a copy that was too many in an earlier round, as long as not enough are heard that have the version of now. A copy
//! that is in use goes in an idle moment, and after [`PATIENCE`] all the same: files that are open live on. What fails
//! is tried again a while later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Fault, Location, Model, View, read};
use ollamax_core::health::Health;
use ollamax_metadata as metadata;
use ollamax_metadata::ReadError;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use crate::follow::{next_look, pause_after};
use crate::slot::MemberEngines;

/// How long a copy may be in use before it goes all the same.
const PATIENCE: Duration = Duration::from_secs(600);
/// Time between the first two attempts; behind each that failed it is twice as long.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Most time between two attempts.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(900);
/// Time between two looks while a copy waits to go.
const WAIT_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks while a copy stays for want of another one that is heard of.
const HEAR_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two looks although nothing changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// What the record asks of a node.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    /// The versions that are pinned.
    pins: BTreeSet<Digest>,
    /// The copies that are there and shall go.
    drops: Vec<(ModelName, Digest)>,
    /// Another copy shall go, and is the last one that is heard of.
    holds_back: bool,
}

/// A copy that waits to go.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    digest: Digest,
    since: Instant,
    tried_at: Option<Instant>,
    failures: u32,
}

/// Keeps this node in step until `stop`.
pub(crate) async fn follow(engines: MemberEngines, stop: CancellationToken) {
    if stop.run_until_cancelled(caught_up(&engines.metadata)).await.is_none() {
        return;
    }
    let (drops, told) = watch::channel(Vec::new());
    let both = async {
        tokio::select! {
            () = listen(&engines, &drops) => {}
            () = carry_out(&engines, told) => {}
        }
    };
    stop.run_until_cancelled(both).await;
}

/// Tells what is pinned, and which copies shall go, as often as that may be other than before.
async fn listen(engines: &MemberEngines, drops: &watch::Sender<Vec<(ModelName, Digest)>>) {
    let mut changes = engines.metadata.changes();
    let mut interval = LOOK_INTERVAL;
    loop {
        let began = Instant::now();
        match asked_here(engines) {
            Ok(Some(asked)) => {
                engines.transfer.set_pins(asked.pins);
                interval = match (asked.drops.is_empty(), asked.holds_back) {
                    (false, _) => WAIT_INTERVAL,
                    (true, true) => HEAR_INTERVAL,
                    (true, false) => LOOK_INTERVAL,
                };
                drops.send_replace(asked.drops);
            }
            Ok(None) => {}
            Err(fault) => {
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read which copies shall go");
            }
        }
        if !next_look(&mut changes, pause_after(began.elapsed()), interval).await {
            return;
        }
    }
}

/// Removes what is told to go. A runtime may take its time for that; what is pinned is told meanwhile. As long as
/// something waits it is told each second.
async fn carry_out(engines: &MemberEngines, mut drops: watch::Receiver<Vec<(ModelName, Digest)>>) {
    let mut waiting: BTreeMap<ModelName, Waiting> = BTreeMap::new();
    while drops.changed().await.is_ok() {
        take(&mut waiting, &drops.borrow_and_update(), Instant::now());
        remove_due(engines, &mut waiting).await;
    }
}

/// Until the state here is not behind: what was pinned while this node was away is pinned.
async fn caught_up(metadata: &metadata::Handle) {
    while let Err(error) = metadata.read_barrier().await {
        tracing::debug!(code = %error.code(), %error, "hear which copies shall go; tried again soon");
        sleep(WAIT_INTERVAL).await;
    }
}

fn asked_here(engines: &MemberEngines) -> Result<Option<Asked>, Fault> {
    let is_heard = |node: NodeId| engines.scheduler.health(node) == Health::Alive;
    let view = engines.metadata.view();
    engines.carried_out.settle(&*view, engines.node)?;
    asked_of(&*view, engines.node, &is_heard)
}

/// What the record asks of a node, as long as it hears these; `None` before its own record has arrived.
fn asked_of(view: &dyn View, node: NodeId, is_heard: &dyn Fn(NodeId) -> bool) -> Result<Option<Asked>, Fault> {
    if read::member(view, node)?.is_none() {
        return Ok(None);
    }
    let mut asked = Asked::default();
    for model in read::models(view)? {
        asked.pins.extend(model.pinned());
        let Some(wanted) = model.drops.get(&node) else { continue };
        let held = read::node_model(view, node, &model.name.key())?;
        let Some(held) = held.filter(|held| held.model.digest == wanted.digest) else { continue };
        if wanted.insisted || may_be_missed(view, &model, &held, is_heard)? {
            asked.drops.push((model.name.clone(), held.model.digest));
        } else {
            asked.holds_back = true;
        }
    }
    Ok(Some(asked))
}

/// Whether a node that is heard has the same version and is not to remove it; or of a copy that was too many in an
/// earlier round, whether enough of them have the version of this one.
fn may_be_missed(
    view: &dyn View,
    model: &Model,
    held: &Location,
    is_heard: &dyn Fn(NodeId) -> bool,
) -> Result<bool, Fault> {
    let copies = read::locations_of(view, &model.name)?;
    let stays = |copy: &&Location| {
        let goes = model.drop_of(copy.node, copy.model.digest).is_some();
        copy.node != held.node && is_heard(copy.node) && !goes
    };
    let kept = |digest: Digest| copies.iter().filter(stays).filter(|copy| copy.model.digest == digest).count();
    if kept(held.model.digest) > 0 {
        return Ok(true);
    }
    // Somebody pinned it since it was told to go.
    if model.pinned() == Some(held.model.digest) {
        return Ok(false);
    }
    let wish = read::wish(view, &model.name)?;
    // Below cluster version 5 whoever told it to go counted copies on other nodes than the named ones too. Such a copy
    // waits here until there are enough on these.
    Ok(wish.is_some_and(|wish| {
        let counts = |copy: &&Location| wish.digest == Some(copy.model.digest) && wish.counts_at(copy.node);
        wish.has_replaced(held, copies.iter().filter(stays).filter(counts).count())
    }))
}

/// What is asked for now waits; what is not any more does not.
fn take(waiting: &mut BTreeMap<ModelName, Waiting>, drops: &[(ModelName, Digest)], now: Instant) {
    waiting.retain(|name, known| drops.contains(&(name.clone(), known.digest)));
    for (name, digest) in drops {
        waiting.entry(name.clone()).or_insert(Waiting { digest: *digest, since: now, tried_at: None, failures: 0 });
    }
}

/// Whether a copy goes now.
fn is_due(waiting: &Waiting, is_busy: bool, now: Instant) -> bool {
    let doubled = 2_u32.saturating_pow(waiting.failures.saturating_sub(1));
    let rest = RETRY_AFTER.saturating_mul(doubled).min(RETRY_AFTER_MAX);
    let is_rested = waiting.tried_at.is_none_or(|at| now.saturating_duration_since(at) >= rest);
    is_rested && (!is_busy || now.saturating_duration_since(waiting.since) >= PATIENCE)
}

async fn remove_due(engines: &MemberEngines, waiting: &mut BTreeMap<ModelName, Waiting>) {
    for (name, waiting) in waiting {
        let now = Instant::now();
        if !is_due(waiting, engines.scheduler.is_busy(name), now) {
            continue;
        }
        waiting.tried_at = Some(now);
        match is_asked_still(engines, name, waiting.digest).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                tracing::debug!(code = %error.code(), %error, "hear whether a copy is to go still; tried again later");
                return;
            }
        }
        let Some(held) = held_here(engines, name, waiting.digest) else { continue };
        engines.carried_out.begin(&held);
        match engines.transfer.remove(name, waiting.digest).await {
            Ok(freed_bytes) => {
                tracing::info!(model = %name, digest = %waiting.digest, freed_bytes, "a copy was removed");
            }
            Err(error) => {
                engines.carried_out.failed(name, engines.transfer.is_gone(name, waiting.digest).await);
                waiting.failures = waiting.failures.saturating_add(1);
                tracing::warn!(model = %name, code = %error.code(), %error, "remove a copy; tried again later");
            }
        }
    }
}

/// The copy of this version that is on record here. What cannot be read is none.
fn held_here(engines: &MemberEngines, name: &ModelName, digest: Digest) -> Option<Location> {
    let held = read::node_model(&*engines.metadata.view(), engines.node, &name.key()).ok().flatten();
    held.filter(|held| held.model.digest == digest)
}

/// Whether a copy is to go by a state that is not behind. What cannot be read asks for nothing.
async fn is_asked_still(engines: &MemberEngines, name: &ModelName, digest: Digest) -> Result<bool, ReadError> {
    engines.metadata.read_barrier().await?;
    let asked = asked_here(engines).ok().flatten();
    Ok(asked.is_some_and(|asked| asked.drops.iter().any(|(meant, wanted)| (meant, *wanted) == (name, digest))))
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::{self, MemView};
    use ollamax_core::catalog::{Drop, Key, Location, Mutation, Pin, Record, Replicas, Wish};
    use ollamax_types::{ModelRecord, Timestamp};

    use super::*;

    fn name(text: &str) -> ModelName {
        text.parse().expect("a name")
    }

    fn digest(byte: u8) -> Digest {
        Digest([byte; 32])
    }

    fn own_record() -> Mutation {
        let member = mem::member(1);
        Mutation::Put(Key::Member(member.id), Record::Member(member))
    }

    fn location(node: u64, text: &str, byte: u8) -> Location {
        let model = ModelRecord {
            name: name(text),
            digest: digest(byte),
            weights: digest(byte),
            size_bytes: 7,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        Location { node: NodeId(node), model }
    }

    fn held(text: &str, byte: u8) -> Mutation {
        Mutation::Put(Key::NodeModel(NodeId(1), name(text).key()), Record::Location(location(1, text, byte)))
    }

    fn held_by(node: u64, text: &str, byte: u8) -> Mutation {
        Mutation::Put(Key::Location(name(text).key(), NodeId(node)), Record::Location(location(node, text, byte)))
    }

    fn record(text: &str, dropped: Option<(u64, u8)>, pin: Option<u8>) -> Mutation {
        let (at, by) = (Timestamp(1), "admin".to_owned());
        let mut model = Model::new(name(text), at);
        if let Some((node, byte)) = dropped {
            model.drops.insert(NodeId(node), Drop { digest: digest(byte), at, by: by.clone(), insisted: false });
        }
        model.pin = pin.map(|byte| Pin { digest: digest(byte), by, at });
        Mutation::Put(Key::Model(name(text).key()), Record::Model(Box::new(model)))
    }

    #[test]
    fn only_the_version_that_is_meant_is_to_go_and_only_here() {
        let mut view = MemView::default();
        view.write(&[held("a", 1), held("b", 2), held("c", 3), held("d", 4)]);
        view.write(&[held_by(2, "a", 1), held_by(2, "b", 2), held_by(3, "c", 3), held_by(2, "e", 5)]);
        let asked_of = |view: &MemView| asked_of(view, NodeId(1), &|_| true).expect("readable");
        view.write(&[
            record("a", Some((1, 1)), None),
            record("b", Some((1, 9)), Some(2)),
            record("c", Some((2, 3)), Some(3)),
            record("e", Some((1, 5)), None),
        ]);
        assert_eq!(asked_of(&view), None, "its own record has not arrived");
        view.write(&[own_record()]);
        let asked = asked_of(&view).expect("it has");
        assert_eq!(asked.drops, [(name("a"), digest(1))]);
        assert_eq!(asked.pins, BTreeSet::from([digest(2), digest(3)]));
    }

    #[test]
    fn the_last_copy_that_is_heard_of_stays_unless_somebody_insisted() {
        // Node 4 is not heard.
        let check = |others: &[(u64, u8)], going: &[u64], insisted: bool, expected: bool| {
            let mut view = MemView::default();
            view.write(&[own_record(), held("a", 1), held_by(1, "a", 1)]);
            let mutations: Vec<Mutation> = others.iter().map(|(node, byte)| held_by(*node, "a", *byte)).collect();
            view.write(&mutations);
            let mut model = Model::new(name("a"), Timestamp(1));
            for node in going {
                let (at, by) = (Timestamp(1), "admin".to_owned());
                model.drops.insert(NodeId(*node), Drop { digest: digest(1), at, by, insisted });
            }
            view.write(&[Mutation::Put(Key::Model(name("a").key()), Record::Model(Box::new(model)))]);
            let asked = asked_of(&view, NodeId(1), &|node| node != NodeId(4)).expect("readable").expect("it is there");
            let told: Vec<(ModelName, Digest)> = if expected { vec![(name("a"), digest(1))] } else { Vec::new() };
            assert_eq!((asked.drops, asked.holds_back), (told, !expected), "{others:?} {going:?} {insisted}");
        };
        check(&[], &[1], false, false);
        check(&[(2, 1)], &[1], false, true);
        check(&[(4, 1)], &[1], false, false);
        check(&[(2, 1), (4, 1)], &[1], false, true);
        check(&[(2, 9)], &[1], false, false);
        check(&[(2, 1)], &[1, 2], false, false);
        check(&[(2, 9)], &[1, 2], false, false);
        check(&[(2, 1), (3, 1)], &[1, 2], false, true);
        check(&[], &[1], true, true);
        check(&[(2, 1)], &[1, 2], true, true);
    }

    #[test]
    fn the_last_copy_of_what_an_earlier_round_had_too_many_of_goes_when_enough_have_the_version_of_now() {
        // This node has version 1, and is to remove it. Node 4 is not heard.
        let goes = |pin: Option<u8>, surplus: &[u64], wanted: (Replicas, Option<u8>), others: &[(u64, u8)]| {
            let mut view = MemView::default();
            view.write(&[own_record(), held("a", 1), held_by(1, "a", 1), record("a", Some((1, 1)), pin)]);
            let copies: Vec<Mutation> = others.iter().map(|(node, byte)| held_by(*node, "a", *byte)).collect();
            view.write(&copies);
            let wish = Wish {
                replicas: wanted.0,
                digest: wanted.1.map(digest),
                size_bytes: 7,
                surplus: surplus.iter().copied().map(NodeId).collect(),
                ..mem::wish(name("a"))
            };
            view.write(&[Mutation::Put(Key::Wish(name("a").key()), Record::Wish(Box::new(wish)))]);
            let asked = asked_of(&view, NodeId(1), &|node| node != NodeId(4)).expect("readable").expect("it is there");
            assert_ne!(asked.drops.len() == 1, asked.holds_back);
            asked.drops.len() == 1
        };
        let counted = |wanted: Option<(u32, u8)>| {
            (Replicas::Count(wanted.map_or(1, |(count, _)| count)), wanted.map(|(_, byte)| byte))
        };
        let check = |surplus: &[u64], wanted: Option<(u32, u8)>, others: &[(u64, u8)], expected: bool| {
            assert_eq!(goes(None, surplus, counted(wanted), others), expected, "{surplus:?} {wanted:?} {others:?}");
        };
        check(&[1], Some((1, 2)), &[(2, 2)], true);
        assert!(!goes(Some(1), &[1], counted(Some((1, 2))), &[(2, 2)]), "it was pinned meanwhile");
        assert!(goes(Some(2), &[1], counted(Some((1, 2))), &[(2, 2)]), "another one is pinned");
        check(&[1], Some((2, 2)), &[(2, 2)], false);
        check(&[1], Some((2, 2)), &[(2, 2), (3, 2)], true);
        check(&[1], Some((1, 2)), &[(4, 2)], false);
        check(&[1], Some((1, 1)), &[(2, 2)], false);
        check(&[1], None, &[(2, 2)], false);
        check(&[], Some((1, 2)), &[(2, 2)], false);
        let on_3 = || (Replicas::Nodes(vec![NodeId(3)]), Some(2));
        assert!(!goes(None, &[1], on_3(), &[(2, 2)]), "not where it is wanted");
        assert!(goes(None, &[1], on_3(), &[(3, 2)]), "there");
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_in_use_waits_for_an_idle_moment_but_not_for_ever_and_a_failure_rests() {
        let start = Instant::now();
        let check = |tried: Option<(u64, u32)>, is_busy: bool, now_s: u64, expected: bool| {
            let at = |seconds| start + Duration::from_secs(seconds);
            let (tried_at, failures) =
                (tried.map(|(tried_s, _)| at(tried_s)), tried.map_or(0, |(_, failures)| failures));
            let waiting = Waiting { digest: digest(1), since: start, tried_at, failures };
            assert_eq!(is_due(&waiting, is_busy, at(now_s)), expected, "{tried:?} {is_busy} {now_s}");
        };
        check(None, false, 0, true);
        check(None, true, 599, false);
        check(None, true, 600, true);
        check(Some((600, 1)), true, 629, false);
        check(Some((600, 1)), true, 630, true);
        check(Some((0, 0)), false, 29, false);
        check(Some((0, 0)), false, 30, true);
        check(Some((0, 2)), false, 59, false);
        check(Some((0, 2)), false, 60, true);
        check(Some((0, 99)), false, 899, false);
        check(Some((0, 99)), false, 900, true);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_anew_waits_anew_and_what_is_not_asked_for_any_more_does_not() {
        let (start, mut waiting) = (Instant::now(), BTreeMap::new());
        let later = start + Duration::from_secs(5);
        take(&mut waiting, &[(name("a"), digest(1)), (name("b"), digest(2))], start);
        take(&mut waiting, &[(name("a"), digest(1)), (name("b"), digest(3))], later);
        let since = |text: &str| waiting.get(&name(text)).map(|waiting| (waiting.digest, waiting.since));
        assert_eq!((since("a"), since("b")), (Some((digest(1), start)), Some((digest(3), later))));
        take(&mut waiting, &[], later);
        assert!(waiting.is_empty());
    }
}
