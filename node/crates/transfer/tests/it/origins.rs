//! Origins that fail in every way, and what of them ends a pull.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

use ollamax_transfer::mem::Fault;
use ollamax_transfer::{OriginTrouble, PullError, Stage};
use ollamax_types::ErrorCode;

use crate::world::{World, bytes, chunks, name, result};

const BUSY: OriginTrouble = OriginTrouble::Busy { after_ms: None };

#[tokio::test(start_paused = true)]
async fn a_name_that_is_not_there_is_told_in_the_words_of_a_registry() {
    let world = World::new();
    let node = world.start();
    let error = node.pull(&name("nothing")).await.expect_err("there is none");
    assert_eq!(error.to_string(), "pull model manifest: file does not exist");
    assert_eq!(error.code(), ErrorCode::ModelNotFound);
    assert_eq!(world.origin.manifests_asked(), 1);
    assert_eq!((world.jobs(), world.staged()), (vec![], vec![]));
    assert_eq!(node.metric("ollamax_transfer_pulls_total"), 1.0);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_manifest_is_asked_for_three_times_where_that_may_help() {
    use OriginTrouble::{Absent, Cut, Garbled, Refused, Stalled, Unreachable};
    let world = World::new();
    let model = world.model("tiny", 1, 10);
    let node = world.start();
    let check = async |troubles: &[OriginTrouble], asked: u32, code: Option<ErrorCode>| {
        let before = world.origin.manifests_asked();
        world.origin.fail_manifests(troubles.iter().copied());
        let found = node.pull(&model.name).await;
        assert_eq!(found.err().map(|error| error.code()), code, "{troubles:?}");
        assert_eq!(world.origin.manifests_asked() - before, asked, "{troubles:?}");
    };
    check(&[Absent], 1, Some(ErrorCode::ModelNotFound)).await;
    check(&[Refused], 1, Some(ErrorCode::OriginRefused)).await;
    check(&[Garbled], 1, Some(ErrorCode::ManifestInvalid)).await;
    check(&[Unreachable, Cut, Stalled], 3, Some(ErrorCode::OriginFailed)).await;
    let started = Instant::now();
    check(&[BUSY, OriginTrouble::Busy { after_ms: Some(20_000) }], 3, None).await;
    let took = started.elapsed();
    assert!((Duration::from_millis(20_500)..Duration::from_secs(22)).contains(&took), "{took:?}");
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_manifest_is_refused_before_anything_is_made() {
    let world = World::new();
    let node = world.start();
    world.origin.put_manifest(
        name("bad"),
        r#"{"schemaVersion":2,"layers":[{"mediaType":"x","digest":"sha256:../x","size":1}]}"#,
    );
    let error = node.pull(&name("bad")).await.expect_err("a path");
    assert_eq!(error.code(), ErrorCode::ManifestInvalid);
    assert!(error.to_string().starts_with("pull model manifest: the manifest names "), "{error}");
    assert!(!world.store().staging_place().exists());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_the_origin_does_not_give_ends_the_pull_and_its_job() {
    let world = World::new();
    let model = world.model("tiny", 2, chunks(1));
    let node = world.start();
    for (trouble, code) in [
        (OriginTrouble::Absent, ErrorCode::ModelNotFound),
        (OriginTrouble::Refused, ErrorCode::OriginRefused),
        (OriginTrouble::Garbled, ErrorCode::ManifestInvalid),
    ] {
        world.origin.fail([Fault::Instead(trouble)]);
        let error = node.pull(&model.name).await.expect_err("it is not given");
        assert!(error.to_string().starts_with(&format!("pull {}: ", model.weights.sha256.short())), "{error}");
        assert_eq!(error.code(), code);
        assert_eq!(world.jobs(), Vec::<String>::new());
        assert_eq!(node.listed(), [("tiny:latest".to_owned(), Stage::Failed(error))]);
    }
    node.pull(&model.name).await.expect("it is given now");
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_waited_for() {
    let world = World::new();
    let model = world.model("tiny", 3, chunks(2) + 9);
    let node = world.start();
    world.origin.fail([
        Fault::Instead(OriginTrouble::Unreachable),
        Fault::Instead(BUSY),
        Fault::Instead(OriginTrouble::Busy { after_ms: Some(60_000) }),
        Fault::CutAfter(0),
        Fault::CutAfter(chunks(1) + 1),
        Fault::SilentAfter(5),
        Fault::Instead(OriginTrouble::Stalled),
    ]);
    let started = Instant::now();
    node.pull(&model.name).await.expect("it comes in the end");
    // The told minute, and the silence of an answer, which nobody but us ends.
    assert!(started.elapsed() >= Duration::from_secs(90), "{:?}", started.elapsed());
    assert_eq!(node.metric("ollamax_transfer_origin_retries_total"), 7.0);
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_pull_after_its_time_and_keeps_what_came() {
    let world = World::new();
    let model = world.model("tiny", 4, chunks(2));
    let node = world.start();
    world.origin.set_limit(chunks(1));
    let started = Instant::now();
    let error = node.pull(&model.name).await.expect_err("nothing more comes");
    let text = format!("pull {}: nothing came for 300 s; last: no byte came for 30 s", model.weights.sha256.short());
    assert_eq!((error.to_string(), error.code()), (text, ErrorCode::OriginFailed));
    let took = started.elapsed();
    assert!((Duration::from_secs(300)..Duration::from_secs(365)).contains(&took), "{took:?}");
    world.origin.set_limit(u64::MAX);
    node.pull(&model.name).await.expect("it goes on");
    assert_eq!(world.origin.sent(model.weights.sha256), chunks(2));
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_digest_leaves_no_file_anywhere() {
    let world = World::new();
    let model = world.model("tiny", 5, chunks(1) + 3);
    let mut wrong = model.bytes.clone();
    wrong[chunks(1) as usize] ^= 1;
    world.origin.put_file(model.weights.sha256, wrong);
    let node = world.start();
    let error = node.pull(&model.name).await.expect_err("other bytes");
    assert!(matches!(error, PullError::Digest { wanted, .. } if wanted == model.weights.sha256), "{error}");
    assert_eq!(error.code(), ErrorCode::DigestMismatch);
    world.check_nothing_published();
    assert!(!world.part(model.weights.sha256).exists());
    assert!(!world.staged().iter().any(|name| name.contains(&model.weights.sha256.to_string())));
    assert_eq!(world.jobs(), Vec::<String>::new());
    // All of it comes again.
    world.origin.put_file(model.weights.sha256, model.bytes.clone());
    node.pull(&model.name).await.expect("the right bytes");
    assert_eq!(world.origin.sent(model.weights.sha256), 2 * model.weights.size_bytes);
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_origin_without_ranges_sends_the_file_once() {
    let mut world = World::new();
    world.config.origin_streams = 4;
    let model = world.model("tiny", 6, chunks(4) + 1);
    world.origin.forget_ranges();
    // It breaks off once: then it begins with the first byte again, and what is there is read past.
    world.origin.fail([Fault::CutAfter(chunks(2)), Fault::CutAfter(0), Fault::CutAfter(0), Fault::CutAfter(0)]);
    let node = world.start();
    node.pull(&model.name).await.expect("it comes");
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_file_is_a_file() {
    let world = World::new();
    let model = world.model("tiny", 7, 0);
    let node = world.start();
    node.pull(&model.name).await.expect("it comes");
    assert_eq!(fs::metadata(world.blob(model.weights.sha256)).expect("it is there").len(), 0);
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_by_the_buffers() {
    let mut world = World::new();
    world.config.origin_streams = 64;
    world.config.pulls_max = 2;
    let models = [1, 2].map(|seed| world.model(&format!("m{seed}"), 70 + seed, chunks(10)));
    let node = world.start();
    let mut watches = Vec::new();
    for model in &models {
        watches.push(node.ask(&model.name).await.expect("it begins"));
    }
    for watch in &mut watches {
        result(watch).await.expect("it comes");
    }
    let most = world.origin.open_max();
    assert!(most > 1 && most <= 12, "{most}");
    models.iter().for_each(|model| world.check_published(model));
    node.end().await;
}

/// Faults by chance, the same for each seed: whatever happens, what was verified stays, and the model comes.
#[tokio::test(start_paused = true)]
async fn progress_never_goes_back() {
    for seed in 1..=6_u64 {
        let mut world = World::new();
        world.config.origin_streams = 3;
        let model = world.model("tiny", 100 + seed, chunks(3) + seed);
        let chance = bytes(seed, 24);
        world.origin.fail(chance.chunks_exact(2).map(|pair| {
            let at = u64::from(pair[1]) * 30_000;
            match pair[0] % 6 {
                0 => Fault::Instead(OriginTrouble::Cut),
                1 => Fault::Instead(OriginTrouble::Busy { after_ms: Some(at / 1_000) }),
                2 => Fault::SilentAfter(at),
                _ => Fault::CutAfter(at),
            }
        }));
        let node = world.start();
        let pulled = node.pull(&model.name).await;
        assert!(pulled.is_ok(), "seed {seed}: {pulled:?}");
        world.check_published(&model);
        node.end().await;
    }
}
