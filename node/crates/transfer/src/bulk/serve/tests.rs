//! One stream, as an asker sees it who speaks the protocol by hand.

use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use ollamax_types::{CHUNK_BYTES, Clock};

use crate::config::Config;
use crate::library::samples::Disk;

use super::*;

const LONG: Duration = Duration::from_secs(3_600);

/// An asker, and the node that serves him.
struct Asker {
    stream: DuplexStream,
    places: Arc<Semaphore>,
    stop: CancellationToken,
    served: JoinSet<()>,
}

// === impl Asker ===

impl Asker {
    /// Without a greeting.
    fn silent(disk: &Disk, places: usize) -> Self {
        Self::limited(disk, places, &Config::default())
    }

    /// Without a greeting, of a node with limits.
    fn limited(disk: &Disk, places: usize, config: &Config) -> Self {
        let (stream, theirs) = duplex(64 << 10);
        let (places, stop) = (Arc::new(Semaphore::new(places)), CancellationToken::new());
        let (library, metrics) = (disk.library.clone(), Metrics::default());
        let strain = watch::Sender::new(false).subscribe();
        let limits = Limits::new(config, Clock::system(), |_| 0, strain, metrics.clone());
        let mut served = JoinSet::new();
        let stock = Stock { library, places: Arc::clone(&places), limits, metrics };
        served.spawn(serve(theirs, stock, stop.clone()));
        Self { stream, places, stop, served }
    }

    async fn greeted(disk: &Disk, places: usize) -> Self {
        Self::silent(disk, places).greet().await
    }

    async fn greet(mut self) -> Self {
        self.say(&GREETING).await;
        frame::read_greeting(&mut self.stream).await.expect("it greets");
        self
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("it listens");
    }

    async fn ask(&mut self, request: u64, sha256: Digest, first: u32, count: u32) {
        let extent = Extent { first, count };
        self.say(&Question::Ask { request, sha256, extent, is_background: false }.encode()).await;
    }

    async fn reply(&mut self) -> Option<Reply> {
        let read = async {
            let kind = frame::read_kind(&mut self.stream).await.ok()??;
            Some(frame::read_reply(kind, &mut self.stream).await.expect("a reply"))
        };
        timeout(LONG, read).await.expect("it answers")
    }

    async fn chunk(&mut self, length: u32) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes).await.expect("it goes on");
        bytes
    }

    async fn expect_chunk(&mut self, disk: &Disk, request: u64, index: u32) {
        let length = u32::try_from(disk.chunk(index).len()).expect("short");
        assert_eq!(self.reply().await, Some(Reply::Chunk { request, index, length }));
        assert!(self.chunk(length).await == disk.chunk(index), "{index}");
    }

    async fn expect_end(&mut self, request: u64, outcome: Outcome) {
        assert_eq!(self.reply().await, Some(Reply::End { request, outcome }));
    }

    /// The stream ends, whatever comes before that.
    async fn expect_closed(mut self) {
        timeout(LONG, self.stream.read_to_end(&mut Vec::new())).await.expect("it ends").expect("it was readable");
        timeout(LONG, self.served.join_next()).await.expect("it ends").expect("it ran").expect("no panic");
    }
}

#[tokio::test(start_paused = true)]
async fn the_chunks_of_a_request_come_in_order_and_then_its_end() {
    let disk = Disk::new(1, 3);
    disk.publish();
    let mut asker = Asker::greeted(&disk, 2).await;
    asker.ask(7, disk.spec.sha256, 0, 3).await;
    asker.ask(8, disk.spec.sha256, 2, 1).await;
    for index in 0..3 {
        asker.expect_chunk(&disk, 7, index).await;
    }
    asker.expect_end(7, Outcome::Whole).await;
    asker.expect_chunk(&disk, 8, 2).await;
    asker.expect_end(8, Outcome::Whole).await;
    assert_eq!(asker.places.available_permits(), 2);
    asker.stop.cancel();
    asker.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_place_is_told_at_once_and_nothing_is_kept_for_him() {
    let disk = Disk::new(2, 2);
    disk.publish();
    let mut asker = Asker::greeted(&disk, 1).await;
    let held = Arc::clone(&asker.places).try_acquire_owned().expect("it is free");
    asker.ask(1, disk.spec.sha256, 0, 1).await;
    asker.expect_end(1, Outcome::Busy).await;
    drop(held);
    asker.ask(2, disk.spec.sha256, 0, 1).await;
    asker.expect_chunk(&disk, 2, 0).await;
    asker.expect_end(2, Outcome::Whole).await;
}

#[tokio::test(start_paused = true)]
async fn one_stream_has_no_more_than_so_many_requests_at_once() {
    let disk = Disk::new(3, 2);
    disk.publish();
    let most = u64::try_from(REQUESTS_MAX).expect("few");
    let mut asker = Asker::greeted(&disk, REQUESTS_MAX + 9).await;
    // The first cannot end before somebody reads it.
    for request in 0..=most {
        asker.ask(request, disk.spec.sha256, 0, 1).await;
    }
    for request in 0..most {
        asker.expect_chunk(&disk, request, 0).await;
        asker.expect_end(request, Outcome::Whole).await;
    }
    asker.expect_end(most, Outcome::Busy).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_ends_before_its_next_chunk() {
    let disk = Disk::new(4, 4);
    disk.publish();
    let mut asker = Asker::greeted(&disk, 1).await;
    asker.ask(5, disk.spec.sha256, 0, 4).await;
    let length = u32::try_from(CHUNK_BYTES).expect("small");
    assert_eq!(asker.reply().await, Some(Reply::Chunk { request: 5, index: 0, length }));
    asker.say(&Question::Cancel { request: 5 }.encode()).await;
    // Of a request that never was: nobody minds.
    asker.say(&Question::Cancel { request: 6 }.encode()).await;
    assert!(asker.chunk(length).await == disk.chunk(0), "what has begun comes");
    asker.expect_end(5, Outcome::Cancelled).await;
    assert_eq!(asker.places.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_absent_and_what_is_damaged_fails_and_is_suspect() {
    let disk = Disk::new(5, 3);
    let mut asker = Asker::greeted(&disk, 4).await;
    asker.ask(1, disk.spec.sha256, 0, 1).await;
    asker.expect_end(1, Outcome::Absent).await;
    let mut damaged = disk.bytes.clone();
    damaged[usize::try_from(CHUNK_BYTES).expect("small") + 9] ^= 4;
    disk.publish_as(&damaged);
    asker.ask(2, disk.spec.sha256, 0, 3).await;
    asker.expect_chunk(&disk, 2, 0).await;
    asker.expect_end(2, Outcome::Failed).await;
    let file = disk.store.blob(disk.spec).expect("readable").expect("it is there");
    assert!(disk.trees.is_doubted(disk.spec.sha256, file.identity));
    asker.ask(3, disk.spec.sha256, 0, 1).await;
    asker.expect_end(3, Outcome::Absent).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_in_the_background_comes_as_well() {
    let disk = Disk::new(11, 1);
    disk.publish();
    let mut asker = Asker::greeted(&disk, 1).await;
    let (sha256, extent) = (disk.spec.sha256, Extent { first: 0, count: 1 });
    asker.say(&Question::Ask { request: 1, sha256, extent, is_background: true }.encode()).await;
    asker.expect_chunk(&disk, 1, 0).await;
    asker.expect_end(1, Outcome::Whole).await;
}

#[tokio::test(start_paused = true)]
async fn a_chunk_beyond_the_end_is_absent() {
    let disk = Disk::new(6, 2);
    disk.publish();
    let mut asker = Asker::greeted(&disk, 1).await;
    asker.ask(1, disk.spec.sha256, 1, 2).await;
    asker.expect_chunk(&disk, 1, 1).await;
    asker.expect_end(1, Outcome::Absent).await;
}

#[tokio::test(start_paused = true)]
async fn garbage_ends_the_stream() {
    let disk = Disk::new(7, 1);
    disk.publish();
    let mut stranger = Asker::silent(&disk, 1);
    stranger.say(b"GET / HTTP/1.1\r\n\r\n").await;
    stranger.expect_closed().await;
    let mut asker = Asker::greeted(&disk, 1).await;
    asker.say(&[9; 49]).await;
    asker.expect_closed().await;
    let mut greedy = Asker::greeted(&disk, 1).await;
    greedy.ask(1, disk.spec.sha256, 0, 17).await;
    greedy.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn one_number_for_two_requests_that_run_ends_the_stream() {
    let disk = Disk::new(8, 1);
    disk.publish();
    let mut asker = Asker::greeted(&disk, 4).await;
    let extent = Extent { first: 0, count: 1 };
    let ask = Question::Ask { request: 1, sha256: disk.spec.sha256, extent, is_background: false }.encode();
    asker.say(&[ask.clone(), ask].concat()).await;
    asker.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_greet_or_does_not_read_loses_the_stream_and_its_place() {
    let disk = Disk::new(9, 2);
    disk.publish();
    Asker::silent(&disk, 1).expect_closed().await;
    let mut lazy = Asker::greeted(&disk, 1).await;
    lazy.ask(1, disk.spec.sha256, 0, 2).await;
    let places = Arc::clone(&lazy.places);
    // The asker reads nothing.
    timeout(LONG, lazy.served.join_next()).await.expect("it ends").expect("it ran").expect("no panic");
    assert_eq!(places.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_uses_is_closed_in_the_end() {
    let disk = Disk::new(10, 1);
    let asker = Asker::greeted(&disk, 1).await;
    asker.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_slows_what_goes_out_and_the_asker_hears_something_all_the_time() {
    let disk = Disk::new(4, 4);
    disk.publish();
    let config = Config { limit_send: "1MiB/s".to_owned(), ..Config::default() };
    let mut asker = Asker::limited(&disk, 1, &config).greet().await;
    asker.ask(1, disk.spec.sha256, 0, 3).await;
    let begun = Instant::now();
    let mut heard_at = begun;
    for index in 0..3 {
        let length = u32::try_from(CHUNK_BYTES).expect("short");
        assert_eq!(asker.reply().await, Some(Reply::Chunk { request: 1, index, length }));
        for _ in 0..CHUNK_BYTES >> 16 {
            asker.chunk(1 << 16).await;
            assert!(heard_at.elapsed() <= Duration::from_millis(1_300), "{:?}", heard_at.elapsed());
            heard_at = Instant::now();
        }
    }
    asker.expect_end(1, Outcome::Whole).await;
    // The first chunk is the burst.
    let seconds = begun.elapsed().as_secs_f64();
    assert!((7.0..9.0).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn while_nothing_may_go_out_every_request_ends_at_once() {
    let disk = Disk::new(5, 2);
    disk.publish();
    let config = Config { limit_send: "off".to_owned(), ..Config::default() };
    let mut asker = Asker::limited(&disk, 1, &config).greet().await;
    for request in 1..4 {
        asker.ask(request, disk.spec.sha256, 0, 2).await;
        asker.expect_end(request, Outcome::Closed).await;
    }
    assert_eq!(asker.places.available_permits(), 1);
}
