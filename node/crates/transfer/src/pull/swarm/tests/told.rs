//! A file on its way into the cluster: no root is on record, and a node tells the hashes of what it has.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_comes_into_the_cluster_is_fetched_as_it_comes_and_is_waited_for() {
    let world = World::new(6, &[]).await;
    let (two, part) = world.join(TWO);
    let _first = two.library.offer_first(part.clone());
    let happens = async {
        sleep(Duration::from_secs(1_000)).await;
        assert_eq!(world.board.now().wait.clone(), Some(Wait::FirstCopy));
        arrive(&two, &part, [0, 2, 1]);
        world.until_came(&[0, 1, 2]).await;
        assert_eq!(world.board.now().stage, Stage::Fetching);
        // Nobody has more: that is no silence.
        sleep(Duration::from_secs(1_000)).await;
        arrive(&two, &part, 3..6);
        pending::<()>().await;
    };
    tokio::select! {
        ended = Box::pin(receive(world.hearing(&[TWO]), &world.config, Chaser::new())) => {
            assert_eq!(ended, Ok(world.own.spec.sha256));
        }
        () = happens => {}
    }
    assert_eq!(world.peers.sent_bytes(TWO), world.own.spec.size_bytes, "once");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_of_which_nobody_told_a_hash_is_asked_of_nobody() {
    let world = World::new(4, &[]).await;
    let ((two, first), (three, whole)) = (world.join(TWO), world.join(THREE));
    arrive(&two, &first, [2]);
    arrive(&three, &whole, 0..4);
    let _offered = (two.library.offer_first(first), three.library.offer(whole));
    let happens = async {
        world.until_came(&[2]).await;
        sleep(Duration::from_secs(100)).await;
        world.came()
    };
    let came = world.beside(world.hearing(&[TWO, THREE]), happens).await.expect("it goes on");
    assert_eq!(came, [2]);
    assert!(world.peers.sent_bytes(THREE) <= CHUNK_BYTES, "{}", world.peers.sent_bytes(THREE));
}

#[tokio::test(start_paused = true)]
async fn a_liar_among_receivers_is_found_by_told_hashes() {
    let world = World::new(12, &[]).await;
    let ((two, first), (three, whole)) = (world.join(TWO), world.join(THREE));
    for (disk, part) in [(&two, &first), (&three, &whole)] {
        arrive(disk, part, 0..12);
    }
    world.peers.set_fault(THREE, Some(PeerFault::LyingChunks));
    let _offered = (two.library.offer_first(first), three.library.offer(whole));
    let fetched = Box::pin(receive(world.hearing(&[TWO, THREE]), &world.config, Chaser::new()));
    assert_eq!(timeout(LONG, fetched).await.expect("it ends"), Ok(world.own.spec.sha256));
    assert!(world.metric("ollamax_transfer_peer_strikes_total") >= 1.0, "nothing was noticed");
}

#[tokio::test(start_paused = true)]
async fn an_ingester_that_tells_two_hashes_for_a_chunk_is_left() {
    let world = World::new(4, &[]).await;
    let (two, part) = world.join(TWO);
    arrive(&two, &part, [1]);
    world.peers.set_fault(TWO, Some(PeerFault::TwoHashes));
    let _first = two.library.offer_first(part);
    let error = world.beside(world.hearing(&[TWO]), pending::<()>()).await.expect_err("it lies");
    let PullError::Peers { text, .. } = error else { panic!("{error}") };
    assert_eq!(text, "node 2 told two hashes of chunk 1");
}

#[tokio::test(start_paused = true)]
async fn hashes_that_are_lies_spoil_no_chunk() {
    let world = World::new(4, &[]).await;
    let (two, part) = world.join(TWO);
    arrive(&two, &part, 0..4);
    world.peers.set_fault(TWO, Some(PeerFault::LyingHashes));
    let _first = two.library.offer_first(part);
    let error = world.beside(world.hearing(&[TWO]), pending::<()>()).await.expect_err("nothing fits");
    let PullError::Peers { text, .. } = error else { panic!("{error}") };
    assert_eq!(text, "node 2 sent 3 damaged chunks");
    assert_eq!(world.came(), Vec::<u32>::new());
}

#[tokio::test(start_paused = true)]
async fn an_ingester_that_damages_all_it_sends_is_not_waited_for() {
    let world = World::new(4, &[]).await;
    let ((two, part), _three) = (world.join(TWO), world.join(THREE));
    arrive(&two, &part, 0..4);
    world.peers.set_fault(TWO, Some(PeerFault::LyingChunks));
    let _first = two.library.offer_first(part);
    let begun = Instant::now();
    let error = world.beside(world.hearing(&[TWO, THREE]), pending::<()>()).await.expect_err("nobody has it");
    assert!(matches!(error, PullError::Silent { .. }), "{error}");
    assert!(begun.elapsed() <= Duration::from_secs(302), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_old_ingester_that_tells_no_hashes_is_waited_for() {
    let world = World::new(3, &[]).await;
    let (two, part) = world.join(TWO);
    arrive(&two, &part, [0, 1]);
    let _offered = two.library.offer(part.clone());
    let happens = async {
        sleep(Duration::from_secs(1_000)).await;
        assert_eq!((world.came(), world.board.now().wait.clone()), (vec![], Some(Wait::FirstCopy)));
        arrive(&two, &part, [2]);
        pending::<()>().await;
    };
    tokio::select! {
        ended = Box::pin(receive(world.hearing(&[TWO]), &world.config, Chaser::new())) => {
            assert_eq!(ended, Ok(world.own.spec.sha256));
        }
        () = happens => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_root_that_comes_on_record_takes_the_place_of_who_told_the_hashes() {
    let world = World::new(4, &[]).await;
    let ((two, first), (three, _)) = (world.join(TWO), world.join(THREE));
    arrive(&two, &first, [0]);
    let offered = two.library.offer_first(first);
    three.publish();
    let happens = async {
        world.until_came(&[0]).await;
        world.peers.unlink(TWO);
        drop(offered);
        sleep(Duration::from_secs(1_000)).await;
        assert_eq!(world.came(), [0]);
        world.cluster.put(world.own.spec, world.own.tree().root());
        pending::<()>().await;
    };
    tokio::select! {
        ended = Box::pin(receive(world.hearing(&[TWO, THREE]), &world.config, Chaser::new())) => {
            assert_eq!(ended, Ok(world.own.spec.sha256));
        }
        () = happens => {}
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_on_record_and_nobody_has_is_waited_for_while_the_node_that_brings_it_is_linked() {
    let world = World::new(4, &[]).await;
    world.cluster.put(world.own.spec, world.own.tree().root());
    let begun = Instant::now();
    let error = world.beside(world.hearing(&[TWO]), pending::<()>()).await.expect_err("nobody is there");
    assert!(matches!(error, PullError::Silent { .. }), "{error}");
    assert!(begun.elapsed() <= Duration::from_secs(302), "{:?}", begun.elapsed());

    let (two, part) = world.join(TWO);
    let _first = two.library.offer_first(part.clone());
    let happens = async {
        sleep(Duration::from_secs(1_000)).await;
        arrive(&two, &part, [2]);
        world.until_came(&[2]).await;
    };
    world.beside(world.hearing(&[TWO]), happens).await.expect("it goes on");
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_of_a_node_is_told_although_the_node_is_left() {
    let world = World::new(4, &[]).await;
    let (two, part) = world.join(TWO);
    arrive(&two, &part, [1]);
    let _first = two.library.offer_first(part);
    // There is room for one word, so the next one has to wait.
    let (news, mut inbox) = mpsc::channel(1);
    let shared = Arc::new(Shared::new(world.hearing(&[TWO]), world.config.patience(), news));
    let leave = CancellationToken::new();
    let happens = async {
        let known = async {
            while shared.proof().hash_of(1).is_none() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, known).await.expect("it is told");
        leave.cancel();
        sleep(Duration::from_millis(10)).await;
        assert!(matches!(inbox.recv().await, Some(News::Linked { peer, .. }) if peer == TWO));
        let next = timeout(Duration::from_secs(1), inbox.recv()).await.expect("it is told");
        assert!(matches!(next, Some(News::Known { chunks, .. }) if chunks == [1]));
    };
    let attended = Arc::clone(&shared).attend(TWO, leave.clone());
    tokio::join!(Box::pin(attended), happens);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_was_there_and_is_told_to_be_another_comes_again() {
    let world = World::new(4, &[]).await;
    let own = world.own.part();
    world.own.write(&own, 0);
    let mut other = world.own.chunk(1).to_vec();
    other[5] ^= 1;
    own.write(1, &other, chunk_hash(world.own.spec.size_bytes, 1, &other)).expect("there is room");
    let mut chaser = Chaser::new();
    for index in [0, 1] {
        assert!(chaser.take(&own, index).expect("readable"), "it is what was written");
    }
    let (two, part) = world.join(TWO);
    arrive(&two, &part, 0..4);
    let _first = two.library.offer_first(part);
    let fetched = Box::pin(receive(world.hearing(&[TWO]), &world.config, chaser));
    assert_eq!(timeout(LONG, fetched).await.expect("it ends"), Ok(world.own.spec.sha256));
    assert_eq!(own.tree().expect("it is whole"), world.own.tree());
}

#[tokio::test(start_paused = true)]
async fn who_brings_the_rest_gets_from_others_that_of_which_was_told() {
    let world = World::new(5, &[]).await;
    let (three, part) = world.join(THREE);
    arrive(&three, &part, [1, 3]);
    let _offered = three.library.offer(part);
    let told = Told::new(world.own.spec);
    told.learn(Extent { first: 0, count: 4 }, &world.own.tree().hashes()[..4]).expect("it is new");
    let receiving = Receiving { ingester: ONE, proof: Proof::Told(told), ..world.hearing(&[THREE]) };
    world.beside(receiving, world.until_came(&[1, 3])).await.expect("it goes on");
}
