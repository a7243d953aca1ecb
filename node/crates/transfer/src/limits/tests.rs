//! Limits on a paused clock.

use futures::future::join_all;
use tokio::time::timeout;

use ollamax_types::NodeId;

use crate::progress::Stage;

use super::*;

const CHUNK: u64 = 4 << 20;
const LONG: Duration = Duration::from_secs(24 * 3_600);

/// The minute of the week of a clock whose zero is a Monday.
fn minute_of_week(now: Timestamp) -> u32 {
    u32::try_from(now.0 / 60_000 % (7 * 1_440)).expect("a week has few")
}

fn limits(config: &Config, clock: &Clock, is_strained: bool) -> Limits {
    let strain = watch::Sender::new(is_strained).subscribe();
    Limits::new(config, clock.clone(), minute_of_week, strain, Metrics::default())
}

fn gate(limits: &Limits) -> Gate {
    let name: ModelName = "m".parse().expect("a name");
    let board = Board::new(name.clone(), NodeId(1), Stage::Fetching, Metrics::default());
    limits.gate(Class::Origin, name, Arc::new(board))
}

/// How long this takes, milliseconds.
async fn took_ms(work: impl Future<Output = ()>) -> u64 {
    let begun = Instant::now();
    timeout(LONG, work).await.expect("it ends");
    millis(begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn each_class_keeps_to_its_own_limit() {
    let config = Config { limit_origin: "8MiB/s".to_owned(), ..Config::default() };
    let limits = limits(&config, &Clock::manual(Timestamp(0)), false);
    let (gate, mut held) = (gate(&limits), 0);
    let slow = took_ms(async {
        for _ in 0..16 {
            gate.pass(CHUNK, || held += 1).await;
        }
    });
    // The first is the burst, and the last is on credit.
    let slow = slow.await;
    assert!((6_900..=7_100).contains(&slow), "{slow}");
    assert!(held >= 14, "{held}");
    let free = took_ms(async {
        for _ in 0..16 {
            limits.pass_begun(Class::Send, Urgency::Asked, CHUNK).await;
        }
    });
    assert_eq!(free.await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_closed_class_opens_by_itself_and_what_has_begun_ends() {
    let config = Config { limit_origin: "mon 08:00-18:00 off".to_owned(), ..Config::default() };
    let clock = Clock::manual(Timestamp(17 * 3_600_000));
    let limits = limits(&config, &clock, false);
    let gate = gate(&limits);
    assert!(gate.is_closed() && !limits.is_closed(Class::Send));
    let (key, what) = ("transfer.limit_origin", "transfers from registries");
    let closed = ClosedClass { key, what, until_minute: Some(18 * 60) };
    assert_eq!(limits.closed(), [closed]);
    assert_eq!(took_ms(gate.pass_begun(CHUNK, || ())).await, 0);
    let opened = async {
        sleep(Duration::from_secs(90)).await;
        let now = gate.board.now();
        let wait = Wait::Window { until_minute: Some(18 * 60) };
        assert_eq!((&now.stage, &now.wait), (&Stage::Waiting, &Some(wait.clone())));
        assert_eq!(wait.to_string(), "waiting until 18:00");
        clock.advance_ms(3_600_000);
    };
    let passed = took_ms(gate.pass(CHUNK, || ()));
    let (passed, ()) = tokio::join!(passed, opened);
    assert!((90_000..=92_000).contains(&passed), "{passed}");
    assert_eq!((gate.board.now().stage.clone(), limits.closed()), (Stage::Fetching, vec![]));
}

#[tokio::test(start_paused = true)]
async fn that_a_class_is_open_again_is_told_although_whoever_waited_has_left() {
    let config = Config { limit_origin: "mon 08:00-18:00 off".to_owned(), ..Config::default() };
    let clock = Clock::manual(Timestamp(17 * 3_600_000));
    let limits = limits(&config, &clock, false);
    let gate = gate(&limits);
    timeout(Duration::from_secs(5), gate.pass(CHUNK, || ())).await.expect_err("it is closed");
    assert_eq!(gate.board.now().stage, Stage::Waiting);
    clock.advance_ms(3_600_000);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(took_ms(gate.pass(CHUNK, || ())).await, 0);
    assert_eq!((gate.board.now().stage.clone(), gate.board.now().wait.clone()), (Stage::Fetching, None));
}

#[tokio::test(start_paused = true)]
async fn who_is_asked_goes_before_background() {
    let config = Config { limit_background: String::new(), ..Config::default() };
    let limits = limits(&config, &Clock::manual(Timestamp(0)), false);
    let (mut asked, mut background) = (0_u32, 0_u32);
    let demand = async {
        for _ in 0..100_000 {
            limits.pass_begun(Class::Send, Urgency::Asked, CHUNK).await;
            asked += 1;
            sleep(Duration::from_millis(10)).await;
        }
    };
    let repair = async {
        for _ in 0..100_000 {
            limits.pass_begun(Class::Send, Urgency::Background, CHUNK).await;
            background += 1;
            sleep(Duration::from_millis(10)).await;
        }
    };
    let both = async { tokio::join!(demand, repair) };
    timeout(Duration::from_secs(20), both).await.expect_err("there is more to do");
    assert!(asked >= 1_900, "{asked}");
    assert!((15..=22).contains(&background), "{background}");
}

#[tokio::test(start_paused = true)]
async fn a_strained_log_slows_writing_and_nothing_stops() {
    let written = |is_strained: bool| async move {
        let limits = limits(&Config::default(), &Clock::manual(Timestamp(0)), is_strained);
        // As the streams of a pull write, each a chunk after the other.
        let streams = (0..8).map(|_| async {
            for _ in 0..4 {
                let waited = took_ms(limits.before_write(CHUNK)).await;
                assert!(waited <= 2 * STRAINED_WAIT_MS_MAX, "{waited}");
            }
        });
        took_ms(async { drop(join_all(streams).await) }).await
    };
    assert_eq!(written(false).await, 0);
    // 128 MiB at 32 MiB each second, but for the burst and for chunks that have waited long enough.
    let took = written(true).await;
    assert!((2_000..=4_200).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn few_streams_share_what_is_little() {
    let check = |limit: &str, expected: u32| {
        let config = Config { limit_origin: limit.to_owned(), ..Config::default() };
        let limits = limits(&config, &Clock::manual(Timestamp(0)), false);
        assert_eq!(gate(&limits).streams(8), expected, "{limit}");
    };
    check("", 8);
    check("off", 8);
    check("64KiB/s", 1);
    check("3MiB/s", 3);
    check("1GB/s", 8);
    let limits = limits(&Config::default(), &Clock::manual(Timestamp(0)), false);
    let gate = gate(&limits);
    assert!(!gate.is_limited());
    limits.limit_pull(&gate.name, Rate::of(2 << 20), true);
    assert!(gate.is_limited() && gate.streams(8) == 2);
    limits.limit_pull(&gate.name, None, true);
    assert!(!gate.is_limited());
}
