//! Statuses, texts and headers, by call.

use axum::body::Body;
use axum::http::Request;
use futures::FutureExt as _;

use ollamax_core::catalog::Phase;
use ollamax_gateway::ports::{Component, Needed, Readiness};
use ollamax_types::limits;

use crate::world::{World, call, get, header, post, text, with_m};

#[tokio::test]
async fn the_root_says_what_health_checks_compare() {
    let router = with_m().router();
    assert_eq!(text(&router, get("/")).await, (200, "Ollama is running".to_owned()));
    let head = Request::head("/").header("host", "localhost").body(Body::empty()).expect("a request");
    assert_eq!(text(&router, head).await, (200, String::new()));
}

#[tokio::test]
async fn bad_requests_get_ollamas_texts_and_codes() {
    let router = with_m().router();
    let check = async |path: &str, body: &str, status: u16, expected: &str| {
        let found = text(&router, post(path, body.to_owned())).await;
        assert_eq!(found, (status, expected.to_owned()), "{path} {body}");
    };
    check("/api/chat", "", 400, r#"{"error":"missing request body"}"#).await;
    check("/api/chat", r#"{"model":"#, 400, r#"{"error":"unexpected EOF"}"#).await;
    let syntax = r#"{"error":"invalid character 'm' looking for beginning of object key string"}"#;
    check("/api/generate", "{model}", 400, syntax).await;
    check("/api/chat", "{}", 400, r#"{"error":"model is required"}"#).await;
    check("/api/show", "{}", 400, r#"{"error":"model is required"}"#).await;
    check("/api/generate", "{}", 404, r#"{"error":"model '' not found"}"#).await;
    check("/api/embed", "{}", 404, r#"{"error":"model '' not found"}"#).await;
    check("/api/chat", r#"{"model":"a b"}"#, 400, r#"{"error":"invalid model name"}"#).await;
    check("/api/chat", r#"{"model":"No"}"#, 404, r#"{"error":"model 'No' not found"}"#).await;
    check("/api/embed", r#"{"model":"No"}"#, 404, r#"{"error":"model \"No\" not found, try pulling it first"}"#).await;
    check("/api/show", r#"{"name":"No"}"#, 404, r#"{"error":"model 'No:latest' not found"}"#).await;
    let openai = r#"{"error":{"message":"model 'No' not found","type":"not_found_error","param":null,"code":null}}"#;
    check("/v1/chat/completions", r#"{"model":"No"}"#, 404, openai).await;
    let openai = r#"{"error":{"message":"unexpected EOF","type":"invalid_request_error","param":null,"code":null}}"#;
    check("/v1/embeddings", "{", 400, openai).await;
    let openai = r#"{"error":{"message":"EOF","type":"invalid_request_error","param":null,"code":null}}"#;
    check("/v1/chat/completions", "", 400, openai).await;
    let wrong = r#"{"error":"json: cannot unmarshal number into Go struct field ChatRequest.model of type string"}"#;
    check("/api/chat", r#"{"model":7}"#, 400, wrong).await;
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_plain_text() {
    let router = with_m().router();
    let response = call(&router, get("/api/nothing")).await;
    assert_eq!(header(&response, "content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(text(&router, get("/api/nothing")).await, (404, "404 page not found".to_owned()));
    assert_eq!(text(&router, get("/api/chat")).await, (405, "405 method not allowed".to_owned()));
    assert_eq!(text(&router, post("/api/tags", "")).await.0, 405);
}

#[tokio::test]
async fn what_is_not_served_says_so_and_what_to_use() {
    let router = with_m().router();
    let blob = format!("/api/blobs/sha256:{}", "ab".repeat(32));
    for (path, instead) in [
        ("/api/create", "ollamax model create NAME --modelfile FILE"),
        (blob.as_str(), "ollamax model create NAME FILE.gguf"),
        ("/api/push", "ollamax model push NAME"),
        ("/api/copy", "ollamax model tag NAME NEW"),
        ("/api/delete", "ollamax model rm NAME"),
    ] {
        let socket = format!("curl --unix-socket DATA_DIR/admin.sock http://localhost{path}");
        let said =
            format!("{path}: this is for administrators; use: {instead}; or send it to the admin socket: {socket}");
        assert_eq!(text(&router, post(path, "{}")).await, (501, format!(r#"{{"error":"{said}"}}"#)));
    }
    let said = "/api/embeddings: this release serves inference, reads and pulls; use: /api/embed";
    assert_eq!(text(&router, post("/api/embeddings", "{}")).await, (501, format!(r#"{{"error":"{said}"}}"#)));
    let blob = Request::head("/api/blobs/sha256:ab").header("host", "localhost").body(Body::empty());
    assert_eq!(call(&router, blob.expect("a request")).await.status(), 501);
    let (status, body) = text(&router, post("/v1/messages", "{}")).await;
    assert_eq!((status, body.starts_with(r#"{"type":"error","error":{"type":"api_error""#)), (501, true), "{body}");
    let response = call(&router, post("/v1/completions", "{}")).await;
    assert_eq!(header(&response, "x-ollamamax-error"), Some("not_implemented"));
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_413_announced_or_not() {
    let router = with_m().router();
    let announced = Request::post("/api/chat").header("host", "localhost").header("content-length", 100 << 20);
    let found = text(&router, announced.body(Body::empty()).expect("a request")).await;
    let expected = (413, r#"{"error":"the request body is larger than 64 MiB"}"#.to_owned());
    assert_eq!(found, expected);
    let piece = bytes::Bytes::from(vec![b' '; 1 << 20]);
    let pieces = (0..=limits::GATEWAY_BODY_BYTES_MAX >> 20).map(move |_| Ok::<_, std::io::Error>(piece.clone()));
    let body = Body::from_stream(futures::stream::iter(pieces));
    assert_eq!(text(&router, post("/api/chat", body)).await, expected);
}

#[tokio::test]
async fn an_encoded_body_is_refused_with_its_encoding() {
    let router = with_m().router();
    let mut request = post("/v1/chat/completions", "x");
    request.headers_mut().insert("content-encoding", "zstd".parse().expect("a value"));
    let (status, body) = text(&router, request).await;
    assert_eq!((status, body.contains("content-encoding zstd")), (415, true), "{body}");
}

#[tokio::test]
async fn foreign_hosts_and_origins_get_403_with_an_empty_body() {
    let router = with_m().router();
    let check = async |host: &str, origin: Option<&str>, expected: u16| {
        let mut request = Request::get("/").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let response = call(&router, request.body(Body::empty()).expect("a request")).await;
        assert_eq!(response.status(), expected, "{host} {origin:?}");
        if expected == 403 {
            let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("whole").to_bytes();
            assert!(body.is_empty());
        } else if let Some(origin) = origin {
            assert_eq!(header(&response, "access-control-allow-origin"), Some(origin));
        }
    };
    check("evil.com", None, 403).await;
    check("gpu-1:11435", None, 200).await;
    check("127.0.0.1:11435", Some("http://evil.com"), 403).await;
    check("127.0.0.1:11435", Some("http://localhost:3000"), 200).await;
    check("evil.com", Some("http://localhost:3000"), 403).await;
}

#[tokio::test]
async fn a_preflight_is_answered_for_every_route() {
    let router = with_m().router();
    let request = Request::options("/api/chat").header("host", "localhost").header("origin", "http://localhost:3000");
    let response = call(&router, request.body(Body::empty()).expect("a request")).await;
    assert_eq!(response.status(), 204);
    assert_eq!(header(&response, "access-control-allow-origin"), Some("http://localhost:3000"));
    let allowed: Vec<_> = response.headers().get_all("access-control-allow-headers").iter().collect();
    assert!(allowed.iter().any(|line| line.to_str().is_ok_and(|line| line.contains("Authorization"))), "{allowed:?}");
    assert!(allowed.iter().any(|line| *line == "X-Request-Id"), "{allowed:?}");
    let request = Request::options("/api/chat").header("host", "localhost");
    let response = call(&router, request.body(Body::empty()).expect("a request")).await;
    assert_eq!((response.status().as_u16(), header(&response, "access-control-allow-methods")), (204, None));
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_another_replaced() {
    let router = with_m().router();
    let check = async |sent: &str, kept: bool| {
        let mut request = get("/");
        request.headers_mut().insert("x-request-id", sent.parse().expect("a value"));
        let response = call(&router, request).await;
        let id = header(&response, "x-request-id").expect("an id").to_owned();
        assert_eq!(id == sent, kept, "{sent} {id}");
        assert_eq!(header(&response, "x-ollamamax-node"), Some("n1"));
    };
    check("abc-1.2_3", true).await;
    check("with space", false).await;
    check(&"x".repeat(65), false).await;
}

#[tokio::test]
async fn health_says_what_is_missing_and_liveness_asks_less() {
    let world = World::start(1);
    let router = world.router();
    let part = |name, works, needed| Component { name, works, needed, detail: format!("{name} detail") };
    let check = async |readiness: Readiness, live: u16, ready: u16| {
        world.door.set_readiness(readiness.clone());
        for (paths, expected) in [(["/livez", "/live"], live), (["/readyz", "/ready"], ready)] {
            for path in paths {
                assert_eq!(text(&router, get(path)).await.0, expected, "{path} {readiness:?}");
            }
        }
    };
    let parts = vec![part("metadata", true, Needed::ToServe), part("runtime", false, Needed::Shown)];
    let good = Readiness { started: true, stopping: false, components: parts };
    check(good.clone(), 200, 200).await;
    check(Readiness { stopping: true, ..good.clone() }, 200, 503).await;
    check(Readiness { started: false, ..good.clone() }, 200, 503).await;
    let broken = vec![part("metadata", false, Needed::ToServe)];
    check(Readiness { components: broken, ..good.clone() }, 200, 503).await;
    assert_eq!(text(&router, get("/readyz")).await, (503, "metadata: metadata detail".to_owned()));
    assert_eq!(text(&router, get("/health")).await.0, 503);
    let dead = vec![part("consensus", false, Needed::ToLive)];
    check(Readiness { components: dead, ..good.clone() }, 503, 503).await;
    world.door.set_readiness(good);
    let verbose = include_str!("expected/readyz.json").trim_end();
    assert_eq!(text(&router, get("/readyz?verbose")).await, (200, verbose.to_owned()));
    assert_eq!(text(&router, get("/health")).await, (200, verbose.to_owned()));
    assert_eq!(text(&router, get("/startupz")).await.0, 200);
}

#[tokio::test]
async fn health_is_answered_without_waiting_for_anything() {
    let router = with_m().router();
    for path in ["/livez", "/readyz", "/startupz", "/health", "/metrics"] {
        assert!(call(&router, get(path)).now_or_never().is_some(), "{path} waits");
    }
}

#[tokio::test]
async fn a_node_without_a_cluster_is_alive_and_says_what_to_do() {
    let world = World::start(1);
    let parts = ollamax_gateway::http::Parts {
        node: std::sync::Arc::new(ollamax_gateway::mem::MemNode::new("lonely")),
        ..world.parts(ollamax_gateway::Config::default())
    };
    let router = ollamax_gateway::http::router(parts);
    assert_eq!(text(&router, get("/livez")).await.0, 200);
    assert_eq!(text(&router, get("/readyz")).await.0, 503);
    for request in [get("/api/tags"), get("/api/ps"), get("/api/version"), post("/api/chat", r#"{"model":"m"}"#)] {
        let (status, body) = text(&router, request).await;
        assert_eq!((status, body.contains("ollamax init")), (503, true), "{body}");
    }
}

#[tokio::test]
async fn metrics_count_by_route_pattern_and_status() {
    let router = with_m().router();
    text(&router, get("/api/tags")).await;
    text(&router, post("/api/chat", "{}")).await;
    text(&router, get("/some/thing/random")).await;
    let (status, metrics) = text(&router, get("/metrics")).await;
    assert_eq!(status, 200);
    for line in [
        r#"ollamax_gateway_requests_total{route="/api/tags",status="200"} 1"#,
        r#"ollamax_gateway_requests_total{route="/api/chat",status="400"} 1"#,
        r#"ollamax_gateway_requests_total{route="other",status="404"} 1"#,
        r#"ollamax_gateway_duration_seconds_count{route="/api/tags"} 1"#,
        r#"ollamax_gateway_first_byte_seconds_count{route="/api/tags"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn a_disabled_model_answers_nobody_and_can_be_looked_at_and_unloaded() {
    let mut world = with_m();
    world.set_phase("m", Phase::Disabled, "use llama3.3");
    let router = world.router();
    let said = r#"{"error":"m is disabled: use llama3.3"}"#.to_owned();
    let chat = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"stream":false}"#;
    let (prompt, input) = (r#"{"model":"m","prompt":"x"}"#, r#"{"model":"m","input":"x"}"#);
    for (path, body) in [("/api/chat", chat), ("/api/generate", prompt), ("/api/embed", input)] {
        assert_eq!(text(&router, post(path, body)).await, (403, said.clone()), "{path}");
    }
    let (status, body) = text(&router, post("/v1/chat/completions", chat)).await;
    assert_eq!((status, body.contains("m is disabled: use llama3.3")), (403, true), "{body}");
    assert!(world.nodes[0].runtime.requests.lock().expect("not poisoned").is_empty());
    for (path, body) in [("/api/show", r#"{"model":"m"}"#), ("/api/generate", r#"{"model":"m","keep_alive":0}"#)] {
        world.nodes[0].runtime.answer_whole(200, "application/json", &["{}"]);
        assert_eq!(text(&router, post(path, body)).await.0, 200, "{path}");
    }
    // A deprecated one is served.
    world.set_phase("m", Phase::Deprecated, "use llama3.3");
    world.nodes[0].runtime.answer_whole(200, "application/json", &["{}"]);
    assert_eq!(text(&world.router(), post("/api/chat", chat)).await.0, 200);
}
