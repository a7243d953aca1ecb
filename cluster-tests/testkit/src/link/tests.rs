//! Links carry, hold back, delay and break what they should.

use super::*;

const SHORT: Duration = Duration::from_millis(300);

struct Wire {
    links: Links,
    _gate: Gate,
    caller: TcpStream,
    called: TcpStream,
    target: TcpListener,
}

/// This process calls itself through a gate, as node 1 calling node 2.
async fn wire() -> Wire {
    let target = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let links = Links::default();
    links.register(std::process::id(), 1);
    let gate = Gate::open(links.clone(), 2, target.local_addr().expect("bound")).await.expect("gate");
    let caller = TcpStream::connect(gate.address()).await.expect("connect");
    let (called, _) = target.accept().await.expect("accept");
    Wire { links, _gate: gate, caller, called, target }
}

async fn says(from: &mut TcpStream, to: &mut TcpStream) -> Option<u8> {
    from.write_all(b"x").await.ok()?;
    tokio::time::timeout(SHORT, to.read_u8()).await.ok()?.ok()
}

#[tokio::test]
async fn an_open_link_carries_both_ways() {
    let mut wire = wire().await;
    assert_eq!(says(&mut wire.caller, &mut wire.called).await, Some(b'x'));
    assert_eq!(says(&mut wire.called, &mut wire.caller).await, Some(b'x'));
}

#[tokio::test]
async fn a_deaf_direction_holds_bytes_back_until_it_is_healed() {
    let mut wire = wire().await;
    wire.links.set(1, 2, Mode::CallerUnheard);
    assert_eq!(says(&mut wire.caller, &mut wire.called).await, None);
    assert_eq!(says(&mut wire.called, &mut wire.caller).await, Some(b'x'));
    wire.links.heal();
    assert_eq!(wire.called.read_u8().await.ok(), Some(b'x'));
}

#[tokio::test]
async fn the_other_link_of_the_pair_is_another_link() {
    let mut wire = wire().await;
    wire.links.set(2, 1, Mode::Cut);
    assert_eq!(says(&mut wire.caller, &mut wire.called).await, Some(b'x'));
}

#[tokio::test]
async fn a_cut_breaks_connections_and_refuses_new_ones_until_it_is_healed() {
    let mut wire = wire().await;
    let gate = wire.caller.peer_addr().expect("connected");
    wire.links.set(1, 2, Mode::Cut);
    assert!(matches!(wire.caller.read_u8().await, Err(error) if error.kind() != io::ErrorKind::WouldBlock));
    let mut second = TcpStream::connect(gate).await.expect("the gate itself stands");
    assert!(second.read_u8().await.is_err(), "a connection through a cut link must break");
    wire.links.heal();
    let mut third = TcpStream::connect(gate).await.expect("connect");
    let (mut called, _) = wire.target.accept().await.expect("accept");
    assert_eq!(says(&mut third, &mut called).await, Some(b'x'));
}

#[tokio::test]
async fn a_delayed_link_keeps_order_and_takes_its_time() {
    let mut wire = wire().await;
    wire.links.set(1, 2, Mode::Delayed(Duration::from_millis(120)));
    let begin = Instant::now();
    for byte in 0..50 {
        wire.caller.write_u8(byte).await.expect("write");
    }
    for byte in 0..50 {
        assert_eq!(wire.called.read_u8().await.ok(), Some(byte));
    }
    let took = begin.elapsed();
    assert!((Duration::from_millis(115)..Duration::from_secs(2)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_slow_link_carries_everything_and_not_faster_than_it_is() {
    let mut wire = wire().await;
    wire.links.set(1, 2, Mode::Slow(100_000));
    let begin = Instant::now();
    wire.caller.write_all(&[7; 20_000]).await.expect("write");
    let mut arrived = vec![0; 20_000];
    wire.called.read_exact(&mut arrived).await.expect("read");
    let took = begin.elapsed();
    assert!(arrived.iter().all(|byte| *byte == 7));
    assert!((Duration::from_millis(190)..Duration::from_secs(5)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn what_a_mode_does_to_a_connection_is_counted_and_an_open_link_counts_nothing() {
    let mut wire = wire().await;
    assert_eq!(says(&mut wire.caller, &mut wire.called).await, Some(b'x'));
    assert_eq!(wire.links.touched(), 0);
    wire.links.set(1, 2, Mode::CallerUnheard);
    wait::until_true("the direction to be held", Duration::from_secs(5), || async { wire.links.touched() > 0 })
        .await
        .expect("held");
    wire.links.heal();
    wire.links.set(2, 1, Mode::Cut);
    let before = wire.links.touched();
    assert_eq!(says(&mut wire.caller, &mut wire.called).await, Some(b'x'));
    assert_eq!(wire.links.touched(), before, "another link was cut");
}

#[tokio::test]
async fn one_byte_of_a_large_piece_arrives_wrong_and_none_of_a_small_one_or_of_another_link() {
    let mut wire = wire().await;
    wire.links.flip(2, 1, 1);
    wire.links.flip(1, 2, 1_000);
    assert_eq!(says(&mut wire.caller, &mut wire.called).await, Some(b'x'));
    assert_eq!(wire.links.flipped(), 0);
    for expected in [1, 0] {
        // It may be read in more than one go, of which the largest has enough.
        wire.called.write_all(&[7; 20_000]).await.expect("write");
        let mut arrived = vec![0; 20_000];
        wire.caller.read_exact(&mut arrived).await.expect("read");
        assert_eq!(arrived.iter().filter(|byte| **byte == 6).count(), expected);
        assert_eq!(arrived.iter().filter(|byte| **byte == 7).count(), 20_000 - expected);
    }
    assert_eq!(wire.links.flipped(), 1);
    wire.links.flip(1, 2, 1);
    wire.links.heal();
    assert_eq!(says(&mut wire.caller, &mut wire.called).await, Some(b'x'));
}
