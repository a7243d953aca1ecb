//! Merged lists, as clients see them.

use serde_json::{Value, json};

use ollamax_types::{Digest, ModelRecord};

use crate::world::{World, get, model, resident, text};

fn two_nodes() -> World {
    let mut world = World::start(2);
    let loaded = resident("b", 2, "2026-08-01T12:00:00+02:00");
    world.set(1, "0.12.3", &[model("a", 1, 1_785_578_400_123), model("b", 2, 5_000)], &[loaded]);
    let loaded = resident("a", 1, "2026-08-01T10:30:00Z");
    world.set(2, "0.9.10", &[model("a", 1, 1_785_578_400_123)], &[loaded]);
    world
}

#[tokio::test]
async fn tags_are_merged_newest_first_with_the_holders() {
    let (status, body) = text(&two_nodes().router(), get("/api/tags")).await;
    let expected = include_str!("expected/tags.json").trim_end();
    assert_eq!((status, body.as_str()), (200, expected));
}

#[tokio::test]
async fn tags_show_the_pinned_version_where_another_node_has_a_newer_one() {
    let mut world = World::start(2);
    world.set(1, "0.12.3", &[model("a", 1, 5_000)], &[]);
    world.set(2, "0.12.3", &[model("a", 2, 9_000)], &[]);
    let shown = async |world: &World| {
        let (_, body) = text(&world.router(), get("/api/tags")).await;
        let tags: Value = serde_json::from_str(&body).expect("JSON");
        (tags["models"][0]["digest"].clone(), tags["models"][0]["node"].clone())
    };
    assert_eq!(shown(&world).await, (json!("02".repeat(32)), json!(["n2"])));
    world.pin("a", Digest([1; 32]));
    assert_eq!(shown(&world).await, (json!("01".repeat(32)), json!(["n1"])));
    let (_, body) = text(&world.router(), get("/v1/models/a")).await;
    assert_eq!(body, r#"{"id":"a","object":"model","created":5,"owned_by":"library"}"#);
}

#[tokio::test]
async fn tags_say_what_a_model_can_where_that_is_known() {
    let mut world = World::start(1);
    let capabilities = vec!["completion".to_owned(), "tools".to_owned()];
    let known = ModelRecord { capabilities, ..model("a", 1, 9_000) };
    world.set(1, "0.12.3", &[known, model("b", 2, 5_000)], &[]);
    let (_, body) = text(&world.router(), get("/api/tags")).await;
    let tags: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(tags["models"][0]["capabilities"], json!(["completion", "tools"]), "{body}");
    assert!(tags["models"][1].get("capabilities").is_none(), "{body}");
}

#[tokio::test]
async fn openai_models_are_the_same_list_and_null_when_empty() {
    let (status, body) = text(&two_nodes().router(), get("/v1/models")).await;
    let expected = include_str!("expected/v1-models.json").trim_end();
    assert_eq!((status, body.as_str()), (200, expected));
    let (_, body) = text(&World::start(1).router(), get("/v1/models")).await;
    assert_eq!(body, r#"{"object":"list","data":null}"#);
    let (_, body) = text(&World::start(1).router(), get("/api/tags")).await;
    assert_eq!(body, r#"{"models":[]}"#);
}

#[tokio::test]
async fn one_openai_model_is_shown_under_the_name_asked_for() {
    let router = two_nodes().router();
    let check = async |name: &str, status: u16, expected: &str| {
        let found = text(&router, get(&format!("/v1/models/{name}"))).await;
        assert_eq!(found, (status, expected.to_owned()), "{name}");
    };
    check("b", 200, r#"{"id":"b","object":"model","created":5,"owned_by":"library"}"#).await;
    check("B:latest", 200, r#"{"id":"B:latest","object":"model","created":5,"owned_by":"library"}"#).await;
    let error = |text: &str, kind: &str| {
        format!(r#"{{"error":{{"message":"{text}","type":"{kind}","param":null,"code":null}}}}"#)
    };
    check("c", 404, &error("model 'c' not found", "not_found_error")).await;
    check("-", 400, &error("invalid model name", "invalid_request_error")).await;
}

#[tokio::test]
async fn loaded_models_of_all_nodes_are_shown_latest_expiry_first() {
    let (status, body) = text(&two_nodes().router(), get("/api/ps")).await;
    let expected = include_str!("expected/ps.json").trim_end();
    assert_eq!((status, body.as_str()), (200, expected));
}

#[tokio::test]
async fn an_engine_counts_as_the_ollama_that_it_speaks() {
    let beside = async |ollama: &str| {
        let mut world = World::start(2);
        world.set(1, ollama, &[], &[]);
        world.set(2, "0.24.0", &[], &[]);
        text(&world.router(), get("/api/version")).await.1
    };
    assert_eq!(beside("0.33.0-rc2").await, r#"{"version":"0.24.0"}"#);
    assert_eq!(beside("0.12.3").await, r#"{"version":"0.12.3"}"#);
}

#[tokio::test]
async fn the_version_is_the_lowest_of_all_runtimes() {
    assert_eq!(text(&two_nodes().router(), get("/api/version")).await, (200, r#"{"version":"0.9.10"}"#.to_owned()));
    let (status, body) = text(&World::start(1).router(), get("/api/version")).await;
    assert_eq!((status, body.contains("no node's model runtime answers")), (503, true), "{body}");
}
