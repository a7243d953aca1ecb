//! Ollama's protocol over a socket.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use url::Url;

use ollamax_outbound::{Client, PullStep, RuntimeError, WorkStep};
use ollamax_types::{Api, Digest, ErrorCode, Trace};

use crate::server::{Reply, Seen, Server, json, whole};

fn client(url: &Url) -> Client {
    Client::new(url.clone(), Duration::from_secs(2)).expect("no TLS needed")
}

#[tokio::test]
async fn sends_the_runtimes_own_host_and_the_body_untouched_and_hands_bytes_through() {
    let lines = "{\"a\": 1 }\n{\"done\":true}\n";
    let server = Server::start(move |_| whole(200, "application/x-ndjson", lines)).await;
    let client = client(&server.url);
    let body = Bytes::from_static(b"{\"model\": \"m\",  \"x\":1}");
    let response = client.infer(Api::Chat, body.clone(), None).await.expect("answers");
    assert_eq!(response.status, 200);
    assert!(response.headers.contains(&("content-type".to_owned(), b"application/x-ndjson".to_vec())));
    let parts: Vec<Bytes> = response.body.map(|part| part.expect("whole")).collect().await;
    assert_eq!(parts.concat(), lines.as_bytes());
    let seen = server.last();
    assert!(seen.head.starts_with("POST /api/chat HTTP/1.1\r\n"), "{}", seen.head);
    let host = format!("host: 127.0.0.1:{}", server.url.port().expect("a port"));
    assert!(seen.head.to_lowercase().contains(&host), "{}", seen.head);
    assert_eq!(seen.body, body);
    assert_eq!(client.in_flight(), 0, "the body was dropped");
}

#[tokio::test]
async fn the_runtime_hears_of_the_trace_and_of_its_state_where_there_are_any() {
    let server = Server::start(|_| json("{}")).await;
    let client = client(&server.url);
    let named = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let bare = Trace::parse(named);
    let whole = bare.clone().map(|trace| trace.with_state("a=1"));
    for (trace, expected) in [(whole, [Some(named), Some("a=1")]), (bare, [Some(named), None]), (None, [None, None])] {
        client.infer(Api::Chat, Bytes::new(), trace.as_ref()).await.expect("an answer");
        let seen = server.last().head;
        for (name, value) in [Trace::HEADER, Trace::STATE_HEADER].into_iter().zip(expected) {
            let found = seen.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            assert_eq!(found, value, "{seen}");
        }
    }
}

#[tokio::test]
async fn every_status_in_ollamas_form_is_an_answer() {
    let server = Server::start(|_| whole(404, "application/json", r#"{"error":"model 'x' not found"}"#)).await;
    let response = client(&server.url).infer(Api::Chat, Bytes::new(), None).await.expect("an answer");
    assert_eq!(response.status, 404);
}

#[tokio::test]
async fn a_path_prefix_of_the_base_url_is_kept() {
    let server = Server::start(|_| json(r#"{"version":"0.9.1"}"#)).await;
    let version = client(&server.url.join("ollama/").expect("a URL")).version().await.expect("answers");
    assert_eq!(version, "0.9.1");
    assert!(server.last().head.starts_with("GET /ollama/api/version "), "{}", server.last().head);
}

#[tokio::test]
async fn html_and_garbage_are_no_ollama_and_the_error_names_the_content_type() {
    let server = Server::start(|_| whole(200, "text/html; charset=utf-8", "<html>router</html>")).await;
    for error in [
        client(&server.url).version().await.expect_err("HTML"),
        client(&server.url).infer(Api::Chat, Bytes::new(), None).await.map(|_| ()).expect_err("HTML"),
    ] {
        assert!(matches!(error, RuntimeError::NotOllama { .. }), "{error}");
        assert!(error.to_string().contains("text/html"), "{error}");
        assert_eq!(error.code(), ErrorCode::RuntimeFailed);
    }
    let server = Server::start(|_| json(r#"{"other":"json"}"#)).await;
    let error = client(&server.url).version().await.expect_err("another shape");
    assert!(matches!(error, RuntimeError::NotOllama { .. }), "{error}");
    let server = Server::start(|_| Reply::Bytes(b"\x00\xff no http at all".to_vec())).await;
    client(&server.url).version().await.expect_err("not even HTTP");
}

#[tokio::test]
async fn a_runtime_that_breaks_down_at_a_question_is_one_all_the_same() {
    let bare = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let server = Server::start(move |_| Reply::Bytes(bare.as_bytes().to_vec())).await;
    for error in [
        client(&server.url).version().await.expect_err("it broke down"),
        client(&server.url).infer(Api::Chat, Bytes::new(), None).await.map(|_| ()).expect_err("it broke down"),
    ] {
        assert!(matches!(error, RuntimeError::Refused { status: 500, .. }), "{error}");
        assert!(error.to_string().contains("the log of the runtime"), "{error}");
        assert_eq!(error.code(), ErrorCode::RuntimeFailed);
    }
}

#[tokio::test]
async fn another_ollamax_is_refused() {
    let reply =
        "HTTP/1.1 200 OK\r\nx-ollamamax-node: n2\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let server = Server::start(move |_| Reply::Bytes(reply.as_bytes().to_vec())).await;
    let client = client(&server.url);
    let error = client.version().await.expect_err("refused");
    assert!(matches!(&error, RuntimeError::IsOllamaMax { node, .. } if node == "n2"), "{error}");
    let error = client.infer(Api::Chat, Bytes::new(), None).await.map(|_| ()).expect_err("refused");
    assert!(matches!(error, RuntimeError::IsOllamaMax { .. }), "{error}");
}

#[tokio::test]
async fn nothing_listening_is_unreachable_and_has_not_started() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = Url::parse(&format!("http://{}/", listener.local_addr().expect("bound"))).expect("a URL");
    drop(listener);
    let error = client(&url).infer(Api::Chat, Bytes::new(), None).await.map(|_| ()).expect_err("refused");
    assert!(matches!(error, RuntimeError::Unreachable { is_refused: true, .. }), "{error}");
    assert!(!error.has_started());
    assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_and_never_a_short_answer() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    let cut = format!("{head}5\r\n{{\"a\":\r\n");
    let server = Server::start(move |_| Reply::Bytes(cut.clone().into_bytes())).await;
    let response = client(&server.url).infer(Api::Chat, Bytes::new(), None).await.expect("a head");
    let parts: Vec<_> = response.body.collect().await;
    assert_eq!(parts.first(), Some(&Ok(Bytes::from_static(b"{\"a\":"))));
    assert!(matches!(parts.last(), Some(Err(_))), "{parts:?}");
}

#[tokio::test]
async fn a_line_arrives_before_the_next_one_is_written() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    let first = format!("{head}3\r\n{{}}\n\r\n");
    let server = Server::start(move |_| Reply::Hold(first.clone().into_bytes())).await;
    let client = client(&server.url);
    let mut response = client.infer(Api::Chat, Bytes::new(), None).await.expect("a head");
    assert_eq!(response.body.next().await, Some(Ok(Bytes::from_static(b"{}\n"))));
    assert_eq!(client.in_flight(), 1);
    drop(response);
    assert_eq!(client.in_flight(), 0);
}

#[tokio::test]
async fn an_answer_without_end_is_cut_at_the_limit() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[".to_vec();
    let server = Server::start(move |_| Reply::Bytes([head.clone(), vec![b' '; 17 << 20]].concat())).await;
    let error = client(&server.url).tags().await.expect_err("too large");
    assert!(matches!(error, RuntimeError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_hung_health_call_times_out() {
    let server = Server::start(|_| Reply::Hold(Vec::new())).await;
    let client = Client::new(server.url.clone(), Duration::from_millis(50)).expect("no TLS needed");
    let error = client.ps().await.expect_err("hangs");
    assert!(matches!(error, RuntimeError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_model_file_is_uploaded_once_and_created() {
    let create = "{\"status\":\"parsing GGUF\"}\n{\"status\":\"success\"}\n";
    let server = Server::start(move |line| match line {
        line if line.starts_with("HEAD") => whole(404, "text/plain", ""),
        line if line.starts_with("POST /api/blobs") => whole(201, "text/plain", ""),
        _ => whole(200, "application/x-ndjson", create),
    })
    .await;
    let client = client(&server.url);
    let digest = Digest([7; 32]);
    let parts = [Ok(Bytes::from_static(b"GG")), Ok(Bytes::from_static(b"UF"))];
    client.push_blob(digest, Some(4), futures::stream::iter(parts).boxed()).await.expect("uploaded");
    assert_eq!(server.last().body, b"GGUF");
    client.create(&"demo".parse().expect("valid"), digest).await.expect("created");
    let body = String::from_utf8(server.last().body).expect("text");
    let expected = format!(r#"{{"model":"demo:latest","files":{{"model.gguf":"sha256:{digest}"}},"stream":true}}"#);
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_model_file_of_a_size_that_nobody_knows_goes_in_chunks() {
    let server = Server::start(|line| whole(if line.starts_with("HEAD") { 404 } else { 201 }, "text/plain", "")).await;
    let parts = [Ok(Bytes::from_static(b"GG")), Ok(Bytes::from_static(b"UF"))];
    let parts = futures::stream::iter(parts).boxed();
    client(&server.url).push_blob(Digest([7; 32]), None, parts).await.expect("uploaded");
    let sent = server.last();
    assert!(!sent.head.to_lowercase().contains("content-length"), "{}", sent.head);
    assert_eq!(String::from_utf8(sent.body).expect("text"), "2\r\nGG\r\n2\r\nUF\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_copy_names_source_and_destination() {
    let server = Server::start(|_| whole(200, "text/plain", "")).await;
    let (from, to) = ("demo".parse().expect("valid"), "h/me/demo:1".parse().expect("valid"));
    client(&server.url).copy(&from, &to).await.expect("copied");
    assert!(server.last().head.starts_with("POST /api/copy "), "{}", server.last().head);
    assert_eq!(server.last().body, br#"{"source":"demo:latest","destination":"h/me/demo:1"}"#);
    let server = Server::start(|_| whole(404, "application/json", r#"{"error":"model \"demo\" not found"}"#)).await;
    let error = client(&server.url).copy(&from, &to).await.expect_err("not there");
    assert_eq!(error.code(), ErrorCode::ModelNotFound);
}

#[tokio::test]
async fn a_blob_that_is_there_is_not_sent_again() {
    let server = Server::start(|_| whole(200, "text/plain", "")).await;
    let source = futures::stream::iter([Err(std::io::Error::other("must not be read"))]).boxed();
    client(&server.url).push_blob(Digest([7; 32]), Some(4), source).await.expect("there already");
}

#[tokio::test]
async fn refusals_carry_the_runtimes_own_text() {
    let server = Server::start(|line| match line {
        line if line.starts_with("HEAD") => whole(404, "text/plain", ""),
        line if line.starts_with("POST /api/create") => {
            whole(200, "application/x-ndjson", "{\"status\":\"parsing GGUF\"}\n{\"error\":\"invalid file magic\"}\n")
        }
        line if line.starts_with("DELETE") => whole(404, "application/json", r#"{"error":"model 'm' not found"}"#),
        _ => whole(400, "application/json", r#"{"error":"digest mismatch, expected \"a\", got \"b\""}"#),
    })
    .await;
    let client = client(&server.url);
    let name = "m".parse().expect("valid");
    let error = client.create(&name, Digest([7; 32])).await.expect_err("a bad file");
    assert!(error.to_string().ends_with("invalid file magic"), "{error}");
    let error = client.delete(&name).await.expect_err("not there");
    assert_eq!(error.code(), ErrorCode::ModelNotFound);
    let source = futures::stream::iter([Ok(Bytes::from_static(b"GGUF"))]).boxed();
    let error = client.push_blob(Digest([7; 32]), Some(4), source).await.expect_err("mismatch");
    assert!(error.to_string().contains("digest mismatch"), "{error}");
    let source = futures::stream::iter([Err(std::io::Error::other("disk on fire"))]).boxed();
    let error = client.push_blob(Digest([7; 32]), Some(4), source).await.expect_err("no source");
    assert!(matches!(&error, RuntimeError::UploadFailed { reason } if reason == "disk on fire"), "{error}");
}

#[tokio::test]
async fn a_create_that_ends_without_success_is_broken() {
    let server = Server::start(|_| whole(200, "application/x-ndjson", "{\"status\":\"parsing GGUF\"}\n")).await;
    let error = client(&server.url).create(&"m".parse().expect("valid"), Digest([7; 32])).await.expect_err("no end");
    assert!(matches!(error, RuntimeError::Broken(_)), "{error}");
}

/// The steps of a pull, and how it ended.
async fn pulled(reply: Reply) -> (Vec<PullStep>, Option<RuntimeError>) {
    let reply = Mutex::new(Some(reply));
    let next = move || reply.lock().expect("not poisoned").take().expect("it is asked once");
    let server = Server::start(move |_| next()).await;
    let name = "127.0.0.1:7/ollamax-00112233445566ff/demo:1b".parse().expect("valid");
    let mut steps = client(&server.url).pull(&name);
    let (mut told, mut error) = (Vec::new(), None);
    while let Some(step) = steps.next().await {
        match step {
            Ok(step) => told.push(step),
            Err(broken) => error = Some(broken),
        }
    }
    let seen = server.last();
    assert!(seen.head.starts_with("POST /api/pull HTTP/1.1\r\n"), "{}", seen.head);
    let body: serde_json::Value = serde_json::from_slice(&seen.body).expect("JSON");
    let expected = serde_json::json!({ "model": name.to_string(), "insecure": true, "stream": true });
    assert_eq!(body, expected);
    (told, error)
}

#[tokio::test]
async fn a_pull_is_told_line_by_line_and_ends_with_success_or_with_why_not() {
    let lines = |text: &str| whole(200, "application/x-ndjson", text);
    let went = |status: &str, completed_bytes| PullStep::Went { status: status.to_owned(), completed_bytes };
    let begun = "{\"status\":\"pulling manifest\"}\n{\"status\":\"pulling 0102\",\"total\":9,\"completed\":4}\n\n";
    let so_far = vec![went("pulling manifest", 0), went("pulling 0102", 4)];
    for end in ["\n", ""] {
        let (told, error) = pulled(lines(&format!("{begun}{{\"status\":\"success\"}}{end}"))).await;
        assert_eq!(told, [so_far.clone(), vec![PullStep::Done]].concat());
        assert!(error.is_none(), "{error:?}");
    }
    let (told, error) = pulled(lines(&format!("{begun}{{\"error\":\"no space left on device\"}}\n"))).await;
    let refused = RuntimeError::Refused {
        path: "/api/pull".to_owned(),
        status: 200,
        message: "no space left on device".to_owned(),
    };
    assert_eq!((told, error), (so_far.clone(), Some(refused)));
    let (told, error) = pulled(lines(begun)).await;
    assert!(told == so_far && matches!(error, Some(RuntimeError::Broken(_))), "{told:?} {error:?}");
    let (told, error) = pulled(lines("<html>")).await;
    assert!(told.is_empty() && matches!(error, Some(RuntimeError::NotOllama { .. })), "{told:?} {error:?}");
    let (told, error) = pulled(whole(400, "application/json", r#"{"error":"invalid model name"}"#)).await;
    assert!(told.is_empty() && matches!(error, Some(RuntimeError::Refused { status: 400, .. })), "{told:?} {error:?}");
    let (told, error) = pulled(lines(&"x".repeat(70_000))).await;
    assert!(told.is_empty() && matches!(error, Some(RuntimeError::TooLarge { .. })), "{told:?} {error:?}");
}

/// The steps of a work, and how it ended.
async fn worked(
    mut steps: BoxStream<'static, Result<WorkStep, RuntimeError>>,
) -> (Vec<WorkStep>, Option<RuntimeError>) {
    let (mut told, mut error) = (Vec::new(), None);
    while let Some(step) = steps.next().await {
        match step {
            Ok(step) => told.push(step),
            Err(broken) => error = Some(broken),
        }
    }
    (told, error)
}

fn went(status: &str, layer: &str, total_bytes: u64, completed_bytes: u64) -> WorkStep {
    WorkStep::Went { status: status.to_owned(), layer: layer.to_owned(), total_bytes, completed_bytes }
}

#[tokio::test]
async fn a_model_is_made_as_the_body_says_and_told_line_by_line() {
    let lines = "{\"status\":\"using existing layer sha256:ab\"}\n{\"status\":\"success\"}\n";
    let server = Server::start(move |_| whole(200, "application/x-ndjson", lines)).await;
    let body = r#"{"model":"mine","from":"demo","system":"Be brief.","stream":true}"#;
    let (told, error) = worked(client(&server.url).create_with(Bytes::from_static(body.as_bytes()))).await;
    assert_eq!((told, error), (vec![went("using existing layer sha256:ab", "", 0, 0), WorkStep::Done], None));
    let seen = server.last();
    assert!(seen.head.starts_with("POST /api/create HTTP/1.1\r\n"), "{}", seen.head);
    assert!(seen.head.to_lowercase().contains("content-type: application/json"), "{}", seen.head);
    assert_eq!(seen.body, body.as_bytes());
}

/// What came of a push, and how it was asked for.
async fn pushed(reply: fn() -> Reply) -> ((Vec<WorkStep>, Option<RuntimeError>), Seen) {
    let server = Server::start(move |_| reply()).await;
    let outcome = worked(client(&server.url).push(&"me/mine".parse().expect("valid"), true)).await;
    (outcome, server.last())
}

#[tokio::test]
async fn a_push_tells_of_each_file_and_ends_with_success_or_with_why_not() {
    let ((told, error), seen) = pushed(|| {
        let file = r#"{"status":"pushing 0102","digest":"sha256:01","total":9,"completed":4}"#;
        whole(200, "application/x-ndjson", &format!("{file}\n{{\"status\":\"success\"}}"))
    })
    .await;
    assert_eq!((told, error), (vec![went("pushing 0102", "sha256:01", 9, 4), WorkStep::Done], None));
    assert!(seen.head.starts_with("POST /api/push HTTP/1.1\r\n"), "{}", seen.head);
    assert_eq!(seen.body, br#"{"model":"me/mine:latest","insecure":true,"stream":true}"#);

    let ((told, error), _) =
        pushed(|| whole(200, "application/x-ndjson", "{\"error\":\"you are not authorized\"}\n")).await;
    let message = "you are not authorized".to_owned();
    let shown = error.as_ref().map(ToString::to_string);
    assert_eq!(shown.as_deref(), Some("the runtime refused /api/push: you are not authorized"));
    assert_eq!(error, Some(RuntimeError::Refused { path: "/api/push".to_owned(), status: 200, message }));
    assert!(told.is_empty(), "{told:?}");
    // A runtime that is no whole Ollama.
    let ((_, error), _) = pushed(|| whole(404, "text/plain", "404 page not found")).await;
    let message = "it has no /api/push".to_owned();
    assert_eq!(error, Some(RuntimeError::Refused { path: "/api/push".to_owned(), status: 501, message }));
}
