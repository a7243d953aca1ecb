//! A bucket against a store that checks every signature.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use ollamax_outbound::bucket::{Bucket, BucketError, Config, Fetched, Object};
use ollamax_testkit::FakeS3;
use ollamax_testkit::fake_s3::{End, Key};
use ollamax_types::{Clock, Secret};

const SECRET: &str = "a secret / with + signs";

async fn store() -> FakeS3 {
    let key = Key { id: "lab".to_owned(), secret: SECRET.to_owned() };
    FakeS3::start("lab-backups", key, 3).await.expect("a store")
}

fn bucket(store: &FakeS3, name: &str, secret: &str) -> Bucket {
    let config = Config { endpoint: store.url(), access_key_id: "lab".to_owned(), ..Config::default() };
    let bucket = Bucket::open(&config, name, &Secret::new(secret), Clock::system()).expect("an address");
    bucket.with_first_wait(Duration::from_millis(1))
}

fn content(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|number| (number % 251) as u8).collect()
}

/// Puts a file, and nobody breaks it off.
async fn put(bucket: &Bucket, key: &str, file: &Path) -> Result<(), BucketError> {
    bucket.put(key, file, &CancellationToken::new()).await
}

/// Fetches an object: what came of it, what the file holds then, and how often it was told how far it is.
async fn fetch(bucket: &Bucket, key: &str) -> (Result<u64, BucketError>, Vec<u8>, Vec<Fetched>) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut into = tokio::fs::File::from_std(file.reopen().expect("opened"));
    let mut told = Vec::new();
    let watch = |fetched| {
        told.push(fetched);
        Ok(())
    };
    let fetched = bucket.fetch(key, &mut into, watch).await;
    (fetched, std::fs::read(file.path()).expect("readable"), told)
}

#[tokio::test]
async fn what_is_put_is_listed_looked_at_and_removed() {
    let store = store().await;
    let bucket = bucket(&store, "lab-backups", SECRET);
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("backup");
    let content = content(700_000);
    std::fs::write(&file, &content).expect("written");
    put(&bucket, "deep/er/a b+c.oxb.age", &file).await.expect("put");
    assert_eq!(store.objects()["deep/er/a b+c.oxb.age"], content);
    for number in 0..7 {
        store.insert(&format!("deep/er/{number}"), "x");
    }
    store.insert("other", "x");
    let (found, more) = bucket.list("deep/er/").await.expect("listed");
    assert_eq!((found.len(), more), (8, false), "{found:?}");
    assert!(found.contains(&Object { key: "deep/er/a b+c.oxb.age".to_owned(), bytes: 700_000 }), "{found:?}");
    assert_eq!(bucket.beginning("deep/er/a b+c.oxb.age", 4_096).await.expect("read"), content[..4_096]);
    assert_eq!(bucket.beginning("other", 4_096).await.expect("read"), b"x");
    bucket.remove("deep/er/a b+c.oxb.age").await.expect("removed");
    bucket.remove("deep/er/a b+c.oxb.age").await.expect("gone already");
    assert!(!store.objects().contains_key("deep/er/a b+c.oxb.age"));
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_the_rest_is_told_at_once() {
    let store = store().await;
    let good = bucket(&store, "lab-backups", SECRET);
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("backup");
    std::fs::write(&file, "whole").expect("written");
    store.fail_next(&[503, 500, 429]);
    put(&good, "a", &file).await.expect("the fourth time");
    assert_eq!((store.seen().len(), &store.objects()["a"][..]), (4, b"whole".as_slice()));
    store.fail_next(&[503; 9]);
    let error = put(&good, "b", &file).await.expect_err("it goes on failing");
    assert!(matches!(error, BucketError::Refused { status: 503, .. }), "{error:?}");
    assert_eq!(store.seen().len(), 8);
    store.fail_next(&[]);

    let error = bucket(&store, "lab-backups", "another secret").list("").await.expect_err("a wrong secret");
    assert!(matches!(&error, BucketError::Refused { status: 403, .. }), "{error:?}");
    assert!(error.to_string().contains("SignatureDoesNotMatch"), "{error}");
    assert_eq!(store.seen().len(), 9, "once is enough");
    let error = bucket(&store, "other", SECRET).list("").await.expect_err("no such bucket");
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    let error = put(&good, "c", &folder.path().join("none")).await.expect_err("no such file");
    assert!(matches!(error, BucketError::File { .. }), "{error:?}");

    let url = store.url();
    drop(store);
    let config = Config { endpoint: url.clone(), access_key_id: "lab".to_owned(), ..Config::default() };
    let gone = Bucket::open(&config, "lab-backups", &Secret::new(SECRET), Clock::system()).expect("an address");
    let error = gone.with_first_wait(Duration::from_millis(1)).list("").await.expect_err("nobody there");
    assert!(matches!(&error, BucketError::Unreachable { endpoint, .. } if *endpoint == url), "{error:?}");
    assert!(!error.to_string().contains("X-Amz"), "an address is as good as a key: {error}");
}

#[tokio::test]
async fn what_breaks_off_is_fetched_on_from_where_it_stopped() {
    let store = store().await;
    let bucket = bucket(&store, "lab-backups", SECRET);
    let content = content(4 << 20);
    store.insert("a", content.clone());
    // Five in a row would be one too many, but the third brings enough to be no failure.
    store.cut_next(&[100_000, 0, 5 << 19, 10, 20]);
    let (fetched, file, told) = fetch(&bucket, "a").await;
    assert_eq!(fetched, Ok(4 << 20));
    assert!(file == content, "the bytes are others");
    let asked = store.asked_from();
    let reached = |from: &usize| *from == 0 || told.iter().any(|told| told.done == *from as u64);
    assert!(asked.len() == 6 && asked.iter().all(reached), "nothing is fetched twice: {asked:?}");
    assert!(asked[1] < asked[3] && told.windows(2).all(|pair| pair[0].done < pair[1].done), "it goes on: {asked:?}");
    assert_eq!(told.last(), Some(&Fetched { done: 4 << 20, bytes: 4 << 20 }));

    store.cut_next(&[10, 10, 10, 10]);
    let error = fetch(&bucket, "a").await.0.expect_err("again and again");
    assert!(matches!(error, BucketError::Cut { done: 40, bytes: 4_194_304, .. }), "{error:?}");
    assert_eq!(store.asked_from()[6..], [0, 10, 20, 30]);
    assert!(error.to_string().contains("broke off after 40 of 4194304 bytes"), "{error}");
    assert!(!error.to_string().contains("X-Amz"), "an address is as good as a key: {error}");
    store.insert("empty", "");
    assert_eq!(fetch(&bucket, "empty").await.0, Ok(0));
}

#[tokio::test]
async fn what_cannot_be_fetched_is_told_for_what_it_is() {
    let store = store().await;
    let good = bucket(&store, "lab-backups", SECRET);
    store.insert("a", content(900_000));
    let check = |error: BucketError, code: &str| {
        assert!(matches!(error, BucketError::Refused { .. }) && error.to_string().contains(code), "{error:?}");
    };
    check(fetch(&good, "none").await.0.expect_err("no such key"), "NoSuchKey");
    check(fetch(&bucket(&store, "other", SECRET), "a").await.0.expect_err("no such bucket"), "NoSuchBucket");
    let stranger = bucket(&store, "lab-backups", "another secret");
    check(fetch(&stranger, "a").await.0.expect_err("a wrong secret"), "SignatureDoesNotMatch");
    assert_eq!(store.seen().len(), 3, "once is enough");

    // Exchanged while it was fetched: what came would be a piece of each.
    store.cut_next(&[100_000]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut into = tokio::fs::File::from_std(file.reopen().expect("opened"));
    let exchange = |_| {
        store.insert("a", vec![0_u8; 900_000]);
        Ok(())
    };
    check(good.fetch("a", &mut into, exchange).await.expect_err("another object"), "PreconditionFailed");

    let full = BucketError::Unwritten { kind: std::io::ErrorKind::StorageFull, reason: "no room".to_owned() };
    let ended = good.fetch("a", &mut into, |_| Err(full.clone())).await;
    assert_eq!(ended, Err(full), "whoever watches ends it");
    let mut unwritable = tokio::fs::File::open(file.path()).await.expect("opened");
    let error = good.fetch("a", &mut unwritable, |_| Ok(())).await.expect_err("it takes nothing");
    assert!(matches!(error, BucketError::Unwritten { .. }), "{error:?}");
}

#[tokio::test]
async fn a_long_file_goes_in_parts_and_becomes_one_object() {
    let store = store().await;
    let bucket = bucket(&store, "lab-backups", SECRET).with_part_bytes(300_000);
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("backup");
    let put_of = async |bytes: u32, key: &str| {
        std::fs::write(&file, content(bytes)).expect("written");
        put(&bucket, key, &file).await
    };
    put_of(300_000, "short").await.expect("put");
    assert_eq!((store.parts(), store.seen().len()), (0, 1), "one request is enough");
    // The beginning, the second part and the end are asked for twice.
    store.fail_next(&[503, 0, 0, 500, 0, 0, 0, 503]);
    put_of(900_001, "lab/a b+c").await.expect("put");
    assert_eq!((store.parts(), store.open_uploads()), (4, 0));
    assert!(store.objects()["lab/a b+c"] == content(900_001), "the bytes are others");
    assert_eq!(store.seen().len(), 1 + 2 + 5 + 2);
}

#[tokio::test]
async fn an_upload_that_fails_or_is_broken_off_leaves_nothing() {
    let store = store().await;
    let good = bucket(&store, "lab-backups", SECRET).with_part_bytes(1_000);
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("backup");
    std::fs::write(&file, content(2_500)).expect("written");
    store.fail_next(&[0, 0, 403]);
    let error = put(&good, "a", &file).await.expect_err("the second part is refused");
    assert!(matches!(error, BucketError::Refused { status: 403, .. }), "{error:?}");
    assert_eq!((store.parts(), store.open_uploads(), store.objects().len()), (1, 0, 0));
    assert!(store.seen().last().is_some_and(|last| last.starts_with("DELETE ")), "{:?}", store.seen());

    // The second part is on its way: the store has it, and does not answer.
    let (stop, before) = (CancellationToken::new(), store.seen().len());
    store.fail_next(&[0, 0, 100]);
    let break_off = async {
        while store.seen().len() < before + 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(store.open_uploads(), 1, "it is under way");
        stop.cancel();
    };
    let (put_off, ()) = tokio::join!(good.put("a", &file, &stop), break_off);
    assert_eq!(put_off, Err(BucketError::BrokenOff));
    assert_eq!((store.parts(), store.open_uploads(), store.objects().len()), (2, 0, 0));
    assert!(store.seen().last().is_some_and(|last| last.starts_with("DELETE ")), "{:?}", store.seen());
    put(&good, "a", &file).await.expect("nothing stands in the way of the next");
    assert_eq!((store.open_uploads(), store.objects().len()), (0, 1));
}

#[tokio::test]
async fn an_end_whose_answer_was_lost_is_an_end() {
    let store = store().await;
    let good = bucket(&store, "lab-backups", SECRET).with_part_bytes(1_000);
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("backup");
    std::fs::write(&file, content(2_500)).expect("written");
    store.end_next(&[End::Lost]);
    put(&good, "a", &file).await.expect("it is there");
    assert!(store.objects()["a"] == content(2_500), "the bytes are others");
    store.end_next(&[End::Fails; 4]);
    let error = put(&good, "b", &file).await.expect_err("a yes with an error in it");
    assert!(error.to_string().contains("InternalError"), "{error}");
    assert_eq!((store.open_uploads(), store.objects().len()), (0, 1));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again() {
    let store = store().await;
    let good = bucket(&store, "lab-backups", SECRET).with_part_bytes(1_000);
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("backup");
    std::fs::write(&file, content(2_500)).expect("written");
    store.end_next(&[End::Cut]);
    put(&good, "a", &file).await.expect("it is there");
    assert!(store.objects()["a"] == content(2_500), "the bytes are others");
    assert!(!store.seen().iter().any(|seen| seen.starts_with("DELETE ")), "nothing is taken back: {:?}", store.seen());
    store.fail_next(&[200]);
    put(&good, "b", &file).await.expect("it is begun the second time");
    assert_eq!((store.open_uploads(), store.objects().len()), (0, 2));
    store.fail_next(&[200]);
    assert_eq!(good.list("").await.expect("listed the second time").0.len(), 2);
    store.fail_next(&[200; 4]);
    let error = put(&good, "c", &file).await.expect_err("again and again");
    assert!(matches!(error, BucketError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn an_object_with_a_weak_tag_is_fetched_on_without_it() {
    let store = store().await;
    let bucket = bucket(&store, "lab-backups", SECRET);
    store.weaken_tags();
    store.insert("a", content(900_000));
    store.cut_next(&[100_000]);
    let (fetched, file, _) = fetch(&bucket, "a").await;
    assert_eq!(fetched, Ok(900_000));
    assert!(file == content(900_000), "the bytes are others");
    assert_eq!(store.asked_from().len(), 2);
}
