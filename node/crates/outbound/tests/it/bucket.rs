//! A bucket against a store that checks every signature.

use std::time::Duration;

use ollamax_outbound::bucket::{Bucket, BucketError, Config, Object};
use ollamax_testkit::FakeS3;
use ollamax_testkit::fake_s3::Key;
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

#[tokio::test]
async fn what_is_put_is_listed_looked_at_and_removed() {
    let store = store().await;
    let bucket = bucket(&store, "lab-backups", SECRET);
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("backup");
    let content: Vec<u8> = (0..700_000_u32).map(|number| (number % 251) as u8).collect();
    std::fs::write(&file, &content).expect("written");
    bucket.put("deep/er/a b+c.oxb.age", &file).await.expect("put");
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
    good.put("a", &file).await.expect("the fourth time");
    assert_eq!((store.seen().len(), &store.objects()["a"][..]), (4, b"whole".as_slice()));
    store.fail_next(&[503; 9]);
    let error = good.put("b", &file).await.expect_err("it goes on failing");
    assert!(matches!(error, BucketError::Refused { status: 503, .. }), "{error:?}");
    assert_eq!(store.seen().len(), 8);
    store.fail_next(&[]);

    let error = bucket(&store, "lab-backups", "another secret").list("").await.expect_err("a wrong secret");
    assert!(matches!(&error, BucketError::Refused { status: 403, .. }), "{error:?}");
    assert!(error.to_string().contains("SignatureDoesNotMatch"), "{error}");
    assert_eq!(store.seen().len(), 9, "once is enough");
    let error = bucket(&store, "other", SECRET).list("").await.expect_err("no such bucket");
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    let error = good.put("c", &folder.path().join("none")).await.expect_err("no such file");
    assert!(matches!(error, BucketError::File { .. }), "{error:?}");

    let url = store.url();
    drop(store);
    let config = Config { endpoint: url.clone(), access_key_id: "lab".to_owned(), ..Config::default() };
    let gone = Bucket::open(&config, "lab-backups", &Secret::new(SECRET), Clock::system()).expect("an address");
    let error = gone.with_first_wait(Duration::from_millis(1)).list("").await.expect_err("nobody there");
    assert!(matches!(&error, BucketError::Unreachable { endpoint, .. } if *endpoint == url), "{error:?}");
    assert!(!error.to_string().contains("X-Amz"), "an address is as good as a key: {error}");
}
