//! Merged lists, as clients see them.

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
    let (one, two) = ("01".repeat(32), "02".repeat(32));
    let expected = format!(
        r#"{{"models":[{{"name":"a:latest","model":"a:latest","modified_at":"2026-08-01T10:00:00.123Z","size":1000,"digest":"{one}","details":{{"family":"llama"}},"node":["n1","n2"]}},{{"name":"b:latest","model":"b:latest","modified_at":"1970-01-01T00:00:05Z","size":1000,"digest":"{two}","details":{{"family":"llama"}},"node":["n1"]}}]}}"#
    );
    assert_eq!((status, body), (200, expected));
}

#[tokio::test]
async fn openai_models_are_the_same_list_and_null_when_empty() {
    let (status, body) = text(&two_nodes().router(), get("/v1/models")).await;
    let expected = r#"{"object":"list","data":[{"id":"a:latest","object":"model","created":1785578400,"owned_by":"library"},{"id":"b:latest","object":"model","created":5,"owned_by":"library"}]}"#;
    assert_eq!((status, body.as_str()), (200, expected));
    let (_, body) = text(&World::start(1).router(), get("/v1/models")).await;
    assert_eq!(body, r#"{"object":"list","data":null}"#);
    let (_, body) = text(&World::start(1).router(), get("/api/tags")).await;
    assert_eq!(body, r#"{"models":[]}"#);
}

#[tokio::test]
async fn loaded_models_of_all_nodes_are_shown_latest_expiry_first() {
    let (status, body) = text(&two_nodes().router(), get("/api/ps")).await;
    let (one, two) = ("01".repeat(32), "02".repeat(32));
    let expected = format!(
        r#"{{"models":[{{"name":"a:latest","model":"a:latest","size":2000,"digest":"{one}","details":{{"family":"llama"}},"expires_at":"2026-08-01T10:30:00Z","size_vram":500,"context_length":4096,"node":"n2"}},{{"name":"b:latest","model":"b:latest","size":2000,"digest":"{two}","details":{{"family":"llama"}},"expires_at":"2026-08-01T12:00:00+02:00","size_vram":500,"context_length":4096,"node":"n1"}}]}}"#
    );
    assert_eq!((status, body), (200, expected));
}

#[tokio::test]
async fn the_version_is_the_lowest_of_all_runtimes() {
    assert_eq!(text(&two_nodes().router(), get("/api/version")).await, (200, r#"{"version":"0.9.10"}"#.to_owned()));
    let (status, body) = text(&World::start(1).router(), get("/api/version")).await;
    assert_eq!((status, body.contains("no node's model runtime answers")), (503, true), "{body}");
}
