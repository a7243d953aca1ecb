//! What is told of a pull, by hand and without a pull.

use futures::FutureExt as _;
use prometheus::Registry;

use super::*;

fn board() -> Board {
    Board::new("tiny".parse().expect("a name"), NodeId(1), Stage::Resolving, Metrics::default())
}

fn manifest() -> Manifest {
    let layer = |name: u8, size: u64| {
        let digest = Digest([name; 32]);
        format!(r#"{{"mediaType":"x","digest":"sha256:{digest}","size":{size}}}"#)
    };
    let text = format!(r#"{{"schemaVersion":2,"layers":[{},{}]}}"#, layer(1, 1_000), layer(2, 500));
    Manifest::read(text.as_bytes()).expect("a manifest")
}

#[tokio::test(start_paused = true)]
async fn progress_is_verified_bytes_and_never_goes_back() {
    let board = board();
    board.resolved(&manifest());
    assert_eq!((board.now().verified_bytes(), board.now().total_bytes()), (0, 1_500));
    let (one, two) = (Digest([1; 32]), Digest([2; 32]));
    let steps: [(Digest, u64, u64); 5] =
        [(one, 400, 400), (two, 500, 900), (one, 200, 900), (one, 9_000, 1_500), (one, 1, 1_500)];
    for (sha256, verified, expected) in steps {
        tokio::time::advance(NEWS_INTERVAL).await;
        board.came(sha256, verified, 100);
        assert_eq!(board.now().verified_bytes(), expected);
    }
    board.came(Digest([3; 32]), 7, 0);
    assert_eq!(board.now().sources, [SourceProgress { source: Source::Origin, bytes: 500 }]);
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_a_pull_are_shown_until_it_is_over_and_never_again() {
    let (registry, metrics) = (Registry::new(), Metrics::default());
    metrics.register(&registry).expect("an empty registry");
    let board = Board::new("tiny".parse().expect("a name"), NodeId(1), Stage::Resolving, metrics);
    let shown = || -> Vec<f64> {
        let families = registry.gather();
        let found = families.iter().find(|family| family.name() == "ollamax_transfer_pull_bytes");
        let rows = found.map(|family| family.get_metric().iter().map(|row| row.get_gauge().value()).collect());
        rows.unwrap_or_default()
    };
    assert!(shown().is_empty(), "nobody knows how many they are");
    board.resolved(&manifest());
    board.came(Digest([1; 32]), 400, 400);
    board.begin(Stage::Fetching);
    assert_eq!(shown(), [1_500.0_f64, 400.0]);
    board.begin(Stage::Failed(PullError::Cancelled));
    assert!(shown().is_empty());
    board.came(Digest([1; 32]), 600, 200);
    board.refresh();
    assert!(shown().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_here_is_told_apart() {
    let board = board();
    board.resolved(&manifest());
    board.found(Digest([1; 32]), 300);
    board.found(Digest([1; 32]), 1_000);
    board.found(Digest([1; 32]), 1_000);
    board.begin(Stage::Fetching);
    assert_eq!(board.now().sources, [SourceProgress { source: Source::Here, bytes: 1_000 }]);
}

#[tokio::test(start_paused = true)]
async fn what_each_node_sent_is_told_apart() {
    let board = board();
    board.resolved(&manifest());
    board.came(Digest([2; 32]), 500, 500);
    for (node, verified, received) in [(3, 400, 400), (2, 600, 200), (3, 1_000, 450)] {
        board.came_from(NodeId(node), Digest([1; 32]), verified, received);
    }
    board.begin(Stage::Fetching);
    let expected = [(Source::Origin, 500), (Source::Node(NodeId(2)), 200), (Source::Node(NodeId(3)), 850)];
    assert_eq!(board.now().sources, expected.map(|(source, bytes)| SourceProgress { source, bytes }));
    assert_eq!(board.now().sources_in_words(), "origin 500, node/2 200, node/3 850");
    assert_eq!(board.now().verified_bytes(), 1_500);
}

#[tokio::test(start_paused = true)]
async fn sources_of_one_kind_count_together_and_kinds_without_bytes_are_there() {
    let (registry, metrics) = (Registry::new(), Metrics::default());
    metrics.register(&registry).expect("an empty registry");
    let board = Board::new("tiny".parse().expect("a name"), NodeId(1), Stage::Resolving, metrics);
    board.resolved(&manifest());
    board.came(Digest([2; 32]), 500, 500);
    board.came_from(NodeId(2), Digest([1; 32]), 200, 200);
    board.came_from(NodeId(3), Digest([1; 32]), 1_000, 850);
    board.begin(Stage::Fetching);
    let families = registry.gather();
    let found = families.iter().find(|family| family.name() == "ollamax_transfer_pull_source_bytes");
    let rows = found.into_iter().flat_map(|family| family.get_metric().iter());
    let label = |row: &prometheus::proto::Metric| {
        let source = row.get_label().iter().find(|label| label.name() == "source");
        source.map(|label| label.value().to_owned()).expect("the label of each row")
    };
    let shown: BTreeMap<String, f64> = rows.map(|row| (label(row), row.get_gauge().value())).collect();
    let expected = [("bundle", 0.0), ("here", 0.0), ("node", 1_050.0), ("origin", 500.0_f64)];
    assert_eq!(shown, BTreeMap::from(expected.map(|(source, bytes)| (source.to_owned(), bytes))));
}

#[tokio::test(start_paused = true)]
async fn what_is_waited_for_is_told_until_it_is_there() {
    let board = board();
    let mut watch = board.watch().expect("the first");
    board.wait_for(Wait::FirstCopy);
    assert!(watch.changed().await);
    assert_eq!((&watch.now().stage, &watch.now().wait), (&Stage::Waiting, &Some(Wait::FirstCopy)));
    board.wait_for(Wait::FirstCopy);
    assert!(watch.changed().now_or_never().is_none(), "nothing new");
    board.wait_for(Wait::Quorum);
    assert!(watch.changed().await, "another reason");
    assert_eq!(watch.now().wait.as_ref().map(ToString::to_string).as_deref(), Some("waiting for a quorum"));
    board.begin(Stage::Waiting);
    assert!(watch.changed().await);
    assert_eq!((&watch.now().stage, &watch.now().wait), (&Stage::Waiting, &None));
}

#[tokio::test(start_paused = true)]
async fn news_of_bytes_are_bundled_and_stages_are_told_at_once() {
    let board = board();
    board.resolved(&manifest());
    let mut watch = board.watch().expect("the first");
    board.came(Digest([1; 32]), 1, 1);
    assert!(watch.changed().now_or_never().is_none(), "too soon");
    board.refresh();
    assert!(watch.changed().await, "what was held back");
    board.refresh();
    assert!(watch.changed().now_or_never().is_none(), "nothing new");
    board.begin(Stage::Fetching);
    assert!(watch.changed().await);
    assert_eq!((watch.now().verified_bytes(), &watch.now().stage), (1, &Stage::Fetching));
    board.begin(Stage::Fetching);
    assert!(watch.changed().now_or_never().is_none(), "nothing new");
    board.begin(Stage::Done);
    board.begin(Stage::Failed(PullError::Cancelled));
    assert!(watch.changed().await);
    assert_eq!(watch.now().stage, Stage::Done, "what is over stays over");
    assert!(!watch.changed().await && !watch.changed().await);
    let mut late = board.watch().expect("one more");
    assert!(late.now().is_over() && !late.changed().await);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_a_pull_that_vanished_ends() {
    let board = board();
    let mut watch = board.watch().expect("the first");
    drop(board);
    assert!(!watch.changed().await);
}

#[tokio::test(start_paused = true)]
async fn watchers_are_counted_for_as_long_as_they_watch() {
    let board = board();
    let mut watches: Vec<Watch> = (0..PULL_WATCHERS_MAX).map(|_| board.watch().expect("there is a place")).collect();
    let refused = board.watch().expect_err("one too many");
    assert_eq!(refused, PullError::TooManyWatchers(PULL_WATCHERS_MAX));
    drop(watches.pop());
    assert!(board.watch().is_ok());
}

#[test]
fn the_rate_is_that_of_the_last_seconds_and_the_rest_is_foretold_late() {
    let mut meter = Meter::default();
    assert_eq!((meter.rate(), meter.left(1)), (None, None));
    meter.note(1_000, 0);
    meter.note(1_400, 400);
    assert_eq!(meter.rate(), None, "too soon");
    meter.note(2_000, 1_000);
    assert_eq!((meter.rate(), meter.left(5_000)), (Some(1_000), None));
    meter.note(4_000, 3_000);
    assert_eq!(meter.left(5_000), Some(Duration::from_secs(5)));
    // Ten seconds later only what came since counts.
    meter.note(14_000, 3_000);
    assert_eq!((meter.rate(), meter.left(5_000)), (Some(0), None));
    for step in 0..1_200 {
        meter.note(14_000 + step * 10, 3_000 + step * 100);
    }
    assert!(meter.points.len() < 120, "{}", meter.points.len());
    assert!(meter.rate().is_some_and(|rate| (9_000..=10_000).contains(&rate)), "{:?}", meter.rate());
}

#[test]
fn what_another_node_tells_anew_takes_nothing_back() {
    let told = |one: u64, two: u64| PullProgress {
        name: "tiny".parse().expect("a name"),
        node: NodeId(2),
        stage: Stage::Checking,
        wait: None,
        digest: None,
        blobs: [(1, one), (2, two)]
            .map(|(name, verified_bytes)| BlobProgress {
                blob: BlobSpec { sha256: Digest([name; 32]), size_bytes: 10 },
                verified_bytes,
            })
            .into_iter()
            .collect(),
        sources: Vec::new(),
        bytes_per_second: None,
        left: None,
        remark: None,
    };
    assert_eq!(told(0, 7).not_before(&told(5, 3)), told(5, 7));
    let other = PullProgress { blobs: Arc::default(), ..told(0, 0) };
    assert_eq!(told(1, 2).not_before(&other), told(1, 2), "of another version nothing is carried over");
}
