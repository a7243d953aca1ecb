//! Which node does it, what it is sent, and how what it says comes out, with nodes that say what a test wants.

use std::future::pending;

use ollamax_core::catalog::mem::MemView;
use ollamax_core::catalog::{Key, Model, Mutation, Pin, Record};
use ollamax_types::{ModelRecord, Timestamp};

use super::*;
use crate::grpc::daemon::CODE_KEY;

const MADE: [u8; 32] = [7; 32];

fn name() -> ModelName {
    "mine".parse().expect("a name")
}

fn copy(node: u64, digest: u8, modified_ms: u64) -> Location {
    let (digest, details_json) = (Digest([digest; 32]), "{}".to_owned());
    let (weights, modified_at, capabilities) = (digest, Timestamp(modified_ms), vec![]);
    let model = ModelRecord { name: name(), digest, weights, size_bytes: 1, modified_at, details_json, capabilities };
    Location { node: NodeId(node), model }
}

fn file(byte: u8, size_bytes: u64) -> File {
    File { sha256: Digest([byte; 32]), size_bytes }
}

fn wanted(files: Vec<File>) -> Wanted {
    Wanted { name: name(), from: None, body: Bytes::new(), files, replicas: 1 }
}

fn pieces(parts: &[&'static [u8]]) -> Pieces {
    let parts: Vec<Result<Bytes, String>> = parts.iter().map(|part| Ok(Bytes::from_static(part))).collect();
    stream::iter(parts).boxed()
}

fn event(part: Event) -> Result<v1::RuntimeEvent, NotDone> {
    Ok(v1::RuntimeEvent { part: Some(part) })
}

fn wants(files: &[u32]) -> Result<v1::RuntimeEvent, NotDone> {
    event(Event::Wants(v1::RuntimeWants { files: files.to_vec() }))
}

fn step(status: &str) -> Result<v1::RuntimeEvent, NotDone> {
    event(Event::Step(v1::RuntimeStep { status: status.to_owned(), ..v1::RuntimeStep::default() }))
}

fn done() -> Result<v1::RuntimeEvent, NotDone> {
    event(Event::Done(v1::RuntimeDone { digest: MADE.to_vec() }))
}

/// A work at a node that takes so many orders and says these things.
fn there(
    takes: usize,
    events: BoxStream<'static, Result<v1::RuntimeEvent, NotDone>>,
) -> (There, mpsc::Receiver<v1::RuntimeOrder>) {
    let (orders, taken) = mpsc::channel(takes);
    (There { name: name(), node: NodeId(2), node_name: "n2".to_owned(), verb: "make", orders, events }, taken)
}

/// What the node is sent, what is told of it, and how it ends.
async fn made(
    files: Vec<File>,
    parts: &[&'static [u8]],
    events: Vec<Result<v1::RuntimeEvent, NotDone>>,
) -> (Vec<Bytes>, Vec<String>, Result<Vec<u8>, ErrorCode>) {
    let (there, mut taken) = there(16, stream::iter(events).boxed());
    let (lines, mut said) = mpsc::channel(64);
    let ended = make(&wanted(files), there, pieces(parts), &lines).await;
    drop(lines);
    let (mut sent, mut told) = (Vec::new(), Vec::new());
    while let Some(order) = taken.recv().await {
        match order.part {
            Some(Order::Data(data)) => sent.push(data),
            other => panic!("no bytes: {other:?}"),
        }
    }
    while let Some(line) = said.recv().await {
        told.push(format!("{} {}/{}", line.status, line.completed_bytes, line.total_bytes));
    }
    (sent, told, ended.map(|line| line.digest).map_err(|error| error.code))
}

#[test]
fn a_holder_of_the_version_that_the_name_stands_for_does_it_and_best_this_node() {
    let chosen = |pin: Option<u8>, copies: &[Location], alive: &[u64]| {
        let mut view = MemView::default();
        for copy in copies {
            view.write(&[Mutation::Put(Key::Location(name().key(), copy.node), Record::Location(copy.clone()))]);
        }
        let pin = pin.map(|byte| Pin { digest: Digest([byte; 32]), by: "test".to_owned(), at: Timestamp(1) });
        let model = Model { pin, ..Model::new(name(), Timestamp(1)) };
        view.write(&[Mutation::Put(Key::Model(name().key()), Record::Model(Box::new(model)))]);
        choose(&view, &name(), NodeId(1), &alive.iter().copied().map(NodeId).collect()).expect("readable")
    };
    let check = |copies: &[Location], alive: &[u64], expected: Option<u64>| {
        assert_eq!(chosen(None, copies, alive), expected.map(NodeId), "{copies:?} {alive:?}");
    };
    check(&[], &[2, 3], None);
    check(&[copy(1, 1, 5), copy(2, 1, 5)], &[2], Some(1));
    check(&[copy(2, 1, 5), copy(3, 1, 5)], &[3], Some(3));
    check(&[copy(2, 1, 5), copy(3, 1, 5)], &[], Some(2));
    // What lies here is not what the cluster serves.
    let newer_elsewhere = [copy(1, 1, 5), copy(3, 2, 6)];
    check(&newer_elsewhere, &[3], Some(3));
    assert_eq!(chosen(Some(1), &newer_elsewhere, &[3]), Some(NodeId(1)), "the older one is pinned");
    assert_eq!(chosen(Some(9), &newer_elsewhere, &[3]), Some(NodeId(3)), "nobody has what is pinned");
}

#[tokio::test]
async fn a_node_is_sent_what_it_lacks_and_its_words_are_handed_on() {
    let files = || vec![file(1, 4), file(2, 3), file(3, 5)];
    let parts: &[&[u8]] = &[b"on", b"e1", b"two", b"three"];
    let words = |wanted: &[u32]| vec![wants(wanted), step("parsing GGUF"), done()];
    let bytes = |parts: &[&'static [u8]]| parts.iter().map(|part| Bytes::from_static(part)).collect::<Vec<_>>();

    let (sent, told, ended) = made(files(), parts, words(&[0, 1, 2])).await;
    assert_eq!((sent, ended), (bytes(parts), Ok(MADE.to_vec())));
    let uploading = ["uploading 2/4", "uploading 4/4", "uploading 3/3", "uploading 5/5"];
    assert_eq!(told, [&uploading[..], &["parsing GGUF 0/0"]].concat());

    // The third is there: nothing behind the second is waited for.
    let (sent, _, ended) = made(files(), &parts[..3], words(&[1])).await;
    assert_eq!((sent, ended), (bytes(&parts[2..3]), Ok(MADE.to_vec())));
    let (sent, _, ended) = made(files(), &[], words(&[])).await;
    assert_eq!((sent, ended), (vec![], Ok(MADE.to_vec())));
}

#[tokio::test]
async fn what_breaks_off_says_why() {
    let not_done = |code| Err(NotDone { code, text: "no".to_owned() });
    let whole: &[&[u8]] = &[b"GGUF"];
    let rows: [(&str, &[&'static [u8]], Vec<_>, ErrorCode); 8] = [
        ("too few bytes", &[b"GG"], vec![wants(&[0]), done()], ErrorCode::BadRequest),
        ("a part of two files", &[b"GGUFGG"], vec![wants(&[0]), done()], ErrorCode::BadRequest),
        ("no bytes", &[b""], vec![wants(&[0]), done()], ErrorCode::BadRequest),
        ("refused at once", whole, vec![not_done(ErrorCode::RuntimeUnavailable)], ErrorCode::RuntimeUnavailable),
        ("refused", whole, vec![wants(&[0]), not_done(ErrorCode::BadRequest)], ErrorCode::BadRequest),
        ("no end", whole, vec![wants(&[0]), step("parsing GGUF")], ErrorCode::RuntimeFailed),
        ("no question", whole, vec![done()], ErrorCode::RuntimeFailed),
        ("two questions", whole, vec![wants(&[0]), wants(&[0]), done()], ErrorCode::RuntimeFailed),
    ];
    for (what, parts, events, code) in rows {
        let (_, _, ended) = made(vec![file(1, 4)], parts, events).await;
        assert_eq!(ended, Err(code), "{what}");
    }
}

#[tokio::test]
async fn a_node_that_refuses_ends_the_upload() {
    let full = NotDone { code: ErrorCode::DiskFull, text: "no space left on device".to_owned() };
    let (there, taken) = there(1, stream::iter([wants(&[0]), Err(full)]).boxed());
    // It takes nothing more, and the caller would go on for ever.
    let endless = stream::repeat(Ok(Bytes::from_static(b"GGUF"))).boxed();
    let (lines, _said) = mpsc::channel(1);
    let error = make(&wanted(vec![file(1, u64::MAX)]), there, endless, &lines).await.expect_err("full");
    assert_eq!((error.code, error.why.as_str()), (ErrorCode::DiskFull, "no space left on device"));
    assert_eq!(error.what, "node n2 could not make mine:latest");
    assert_eq!(error.next, "free some space on n2 and repeat the command");
    drop(taken);
}

#[test]
fn what_to_try_after_a_push_goes_by_what_the_runtime_said() {
    let check = |said: &str, expected: &str| assert_eq!(after_push(said, "n2"), expected, "{said}");
    let plain = "the registry speaks plain HTTP: repeat the command with --insecure";
    check("Head \"https://127.0.0.1:1/v2/\": http: server gave HTTP response to HTTPS client", plain);
    let away = "look at the registry in the name, and whether n2 reaches it";
    check("Head \"https://x.lan/v2/\": dial tcp: lookup x.lan: no such host", away);
    check("dial tcp 127.0.0.1:1: connect: connection refused", away);
    let account = "look whether the account of the runtime on n2 may write there";
    check("you are not authorized to push to this namespace", account);
    let closed = "look at the registry in the name; if it speaks plain HTTP: repeat the command with --insecure";
    check("Head \"https://127.0.0.1:405/v2/\": EOF", closed);
    check("405: {}", "that registry takes no models: push to a name of another one");
}

#[test]
fn copies_are_asked_for_of_the_very_version_that_was_made() {
    let wanted = Wanted { replicas: 3, ..wanted(Vec::new()) };
    let made = Digest(MADE);
    // A registry has another one of this name, and another node may have fetched it.
    for (known, size_bytes) in [(vec![copy(1, 9, 5), copy(2, 7, 6)], 1), (vec![copy(1, 9, 5)], 0)] {
        let ask = further(&wanted, made, &known);
        assert_eq!(ask.version, Some(AskedVersion { digest: made, size_bytes }), "{known:?}");
        assert_eq!((ask.name, ask.replicas, ask.is_said), (name(), Replicas::Count(3), true));
    }
}

#[test]
fn what_the_runtime_is_asked_has_the_name_and_a_stream_whatever_the_caller_wrote() {
    let head = |body: &str| v1::CreateHead {
        name: "Mine".to_owned(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        files: vec![v1::CreateFile { sha256: vec![1; 32], size_bytes: 4 }],
        replicas: 0,
    };
    let read = Wanted::read(head(r#"{"model":"other","from":"demo","stream":false,"system":"Be brief."}"#));
    let read = read.expect("it makes sense");
    let body: Value = serde_json::from_slice(&read.body).expect("JSON");
    let expected = r#"{"model":"Mine:latest","from":"demo","stream":true,"system":"Be brief."}"#;
    assert_eq!(body, serde_json::from_str::<Value>(expected).expect("JSON"));
    assert_eq!((read.from, read.files, read.replicas), ("demo".parse().ok(), vec![file(1, 4)], 1));
    assert_eq!(Wanted::read(head("{}")).expect("files alone").from, None);

    let refused = |head: v1::CreateHead| Wanted::read(head).expect_err("it makes no sense").code;
    for body in ["", "[]", "{", r#"{"from":1}"#, r#"{"from":"a b"}"#] {
        assert_eq!(refused(head(body)), ErrorCode::BadRequest, "{body}");
    }
    let large = format!(r#"{{"system":"{}"}}"#, "x".repeat(CREATE_BODY_BYTES_MAX));
    assert_eq!(refused(head(&large)), ErrorCode::BadRequest);
    let short = vec![v1::CreateFile { sha256: vec![1; 31], size_bytes: 4 }];
    assert_eq!(refused(v1::CreateHead { files: short, ..head("{}") }), ErrorCode::BadRequest);
    let many = vec![v1::CreateFile { sha256: vec![1; 32], size_bytes: 4 }; CREATE_FILES_MAX + 1];
    assert_eq!(refused(v1::CreateHead { files: many, ..head("{}") }), ErrorCode::BadRequest);
    assert_eq!(refused(v1::CreateHead { name: String::new(), ..head("{}") }), ErrorCode::BadRequest);
}

#[test]
fn a_model_that_is_elsewhere_is_pushed_from_there() {
    let error = not_held(&name(), "n1", &["n2".to_owned(), "n3".to_owned()]);
    assert_eq!((error.code, error.what.as_str()), (ErrorCode::ModelNotFound, "mine:latest is not on n1"));
    assert_eq!(
        (error.why.as_str(), error.next.as_str()),
        ("it is on n2 and n3", "ollamax model push mine:latest --node n2")
    );
    let error = not_held(&name(), "any node", &[]);
    assert_eq!((error.why.as_str(), error.next.as_str()), ("no node has it", "ollamax model list"));
}

#[tokio::test]
async fn all_that_was_told_comes_before_why_it_ended() {
    let line = |status: &str| v1::RuntimeProgress { status: status.to_owned(), ..v1::RuntimeProgress::default() };
    let heard: Vec<Result<v1::RuntimeProgress, Status>> = told(|lines| async move {
        for status in ["one", "two"] {
            drop(lines.send(line(status)).await);
        }
        Err::<(), Status>(bad("three").into())
    })
    .collect()
    .await;
    let said: Vec<String> = heard
        .iter()
        .map(|line| match line {
            Ok(line) => line.status.clone(),
            Err(status) => {
                let code = status.metadata().get(CODE_KEY).and_then(|code| code.to_str().ok());
                format!("{} {}", code.unwrap_or_default(), status.message())
            }
        })
        .collect();
    assert_eq!(said, ["one", "two", "bad_request three"]);
}

#[tokio::test]
async fn who_leaves_ends_the_work() {
    let (ended, mut watched) = mpsc::channel::<()>(1);
    let mut telling = told(|lines| async move {
        let _held = ended;
        drop(lines.send(v1::RuntimeProgress::default()).await);
        pending().await
    });
    assert!(telling.next().await.expect("a line").is_ok());
    drop(telling);
    assert_eq!(watched.recv().await, None, "what the work held is gone");
}
