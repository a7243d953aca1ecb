//! Models on disk: upload, create, list, show, delete, and what is refused.

use anyhow::Result;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::server::{Server, demo, digest};

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_file_becomes_a_model_that_every_list_shows() -> Result<()> {
    let server = Server::start().await?;
    assert_eq!(server.get("/api/tags").await?, json!({"models": []}));
    assert_eq!(server.get("/v1/models").await?, json!({"object": "list", "data": null}));
    let path = format!("/api/blobs/{}", digest(&demo()));
    assert_eq!(server.send(Method::HEAD, &path, None).await?.status(), StatusCode::NOT_FOUND);
    assert_eq!(server.raw(Method::POST, &path, &[], demo()).await?.status(), StatusCode::CREATED);
    assert_eq!(server.raw(Method::POST, &path, &[], demo()).await?.status(), StatusCode::OK);
    assert_eq!(server.send(Method::HEAD, &path, None).await?.status(), StatusCode::OK);

    let create = json!({"model": "Demo", "files": {"demo.gguf": digest(&demo())}, "parameters": {"stop": ["\n\n"]}});
    let lines = server.lines("/api/create", create).await?;
    assert_eq!(lines.first().map(String::as_str), Some(r#"{"status":"parsing GGUF"}"#));
    assert_eq!(lines.last().map(String::as_str), Some(r#"{"status":"success"}"#));

    let tags = server.get("/api/tags").await?;
    let model = &tags["models"][0];
    assert_eq!((&model["name"], &model["model"]), (&json!("Demo:latest"), &json!("Demo:latest")));
    let details = &model["details"];
    assert_eq!((&details["format"], &details["family"]), (&json!("gguf"), &json!("llama")));
    assert_eq!((&details["quantization_level"], &details["parameter_size"]), (&json!("Q8_0"), &json!("1.97M")));
    assert!(model["size"].as_u64() > Some(demo().len() as u64));
    assert_eq!(model["digest"].as_str().map(str::len), Some(64));

    let show = server.post("/api/show", json!({"model": "demo"})).await?;
    assert_eq!(show["capabilities"], json!(["completion"]));
    assert_eq!(show["model_info"]["llama.context_length"], json!(512));
    assert_eq!(show["model_info"]["tokenizer.ggml.tokens"], json!([]));
    assert_eq!(show["parameters"], json!("stop                           \"\\n\\n\""));
    assert!(show["template"].as_str().is_some_and(|text| text.contains("<|im_start|>")));
    let modelfile = show["modelfile"].as_str().unwrap_or_default();
    let from = modelfile.lines().find(|line| line.starts_with("FROM /")).unwrap_or_default();
    assert!(from.ends_with(&digest(&demo()).replace(':', "-")), "nodes read the weights from it: {modelfile}");
    assert_eq!(show["tensors"].as_array().map(Vec::len), Some(39));
    let fields: Vec<&str> = show.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let order =
        ["modelfile", "parameters", "template", "details", "model_info", "tensors", "capabilities", "modified_at"];
    assert_eq!(fields, order, "as Ollama writes them; what is empty is left out");
    let verbose = server.post("/api/show", json!({"model": "", "name": "demo", "verbose": true})).await?;
    assert!(verbose["model_info"]["tokenizer.ggml.tokens"].as_array().is_some_and(|tokens| !tokens.is_empty()));
    assert_eq!(server.get("/v1/models").await?["data"][0]["id"], json!("Demo:latest"));
    let one = server.get("/v1/models/demo").await?;
    assert_eq!((&one["id"], &one["owned_by"]), (&json!("demo"), &json!("library")), "under the name asked for");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_last_user_of_weights_leaves_an_empty_folder() -> Result<()> {
    let server = Server::with_demo().await?;
    server
        .post("/api/create", json!({"model": "terse", "from": "demo", "system": "Be brief.", "stream": false}))
        .await?;
    // As Ollama's command line asks: the key that it does not use is empty.
    let delete = |name: &str| server.ask(Method::DELETE, "/api/delete", Some(json!({"model": "", "name": name})));
    assert_eq!(delete("").await?, (StatusCode::BAD_REQUEST, json!({"error": "model is required"})));
    assert_eq!(delete("demo").await?, (StatusCode::OK, Value::Null));
    assert_eq!(server.post("/api/show", json!({"model": "terse"})).await?["system"], json!("Be brief."));
    assert_eq!(delete("TERSE:latest").await?, (StatusCode::OK, Value::Null));
    assert!(server.files("").is_empty(), "{:?}", server.files(""));
    assert_eq!(delete("terse").await?, (StatusCode::NOT_FOUND, json!({"error": "model 'terse' not found"})));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_the_same_model_under_a_second_name() -> Result<()> {
    let server = Server::with_demo().await?;
    let copy = |source: &str, destination: &str| {
        let body = json!({"source": source, "destination": destination});
        server.ask(Method::POST, "/api/copy", Some(body))
    };
    let digest = |tags: &Value, name: &str| {
        let models = tags["models"].as_array().cloned().unwrap_or_default();
        models.into_iter().find(|model| model["name"] == name).map(|model| model["digest"].clone())
    };
    assert_eq!(copy("DEMO", "h/me/twin:1").await?, (StatusCode::OK, Value::Null));
    let tags = server.get("/api/tags").await?;
    assert_eq!(digest(&tags, "h/me/twin:1"), digest(&tags, "demo:latest"));

    server.post("/api/create", json!({"model": "x", "from": "demo", "system": "Brief.", "stream": false})).await?;
    let files = server.files("blobs").len();
    assert_eq!(copy("demo", "X:latest").await?.0, StatusCode::OK);
    let tags = server.get("/api/tags").await?;
    assert_eq!(tags["models"].as_array().map(Vec::len), Some(3), "the old name goes on, whatever its case: {tags}");
    assert_eq!(digest(&tags, "x:latest"), digest(&tags, "demo:latest"));
    assert!(server.files("blobs").len() < files, "what the replaced model alone used is gone");

    let error = |text: &str| json!({"error": text});
    assert_eq!(copy("no", "y").await?, (StatusCode::NOT_FOUND, error("model \"no\" not found")));
    assert_eq!(copy("../x", "y").await?, (StatusCode::BAD_REQUEST, error("source \"../x\" is invalid")));
    assert_eq!(copy("demo", "").await?, (StatusCode::BAD_REQUEST, error("destination \"\" is invalid")));
    assert_eq!(copy("demo", "demo").await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_cut_in_half_is_refused_and_changes_nothing() -> Result<()> {
    let server = Server::with_demo().await?;
    let (before, files) = (server.get("/api/tags").await?, server.files(""));
    let half = server.upload(&demo()[..demo().len() / 2]).await?;
    let body = json!({"model": "demo", "files": {"demo.gguf": half}});
    let (status, answer) = server.ask(Method::POST, "/api/create", Some(body)).await?;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer["error"].as_str().is_some_and(|text| text.contains("truncated")), "{answer}");
    assert_eq!(server.get("/api/tags").await?, before);
    assert_eq!(server.files(""), files, "the refused upload is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_not_what_it_says_leaves_nothing() -> Result<()> {
    let server = Server::start().await?;
    let path = format!("/api/blobs/{}", digest(b"right"));
    let response = server.raw(Method::POST, &path, &[], b"wrong".to_vec()).await?;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(response.text().await?.contains("digest mismatch, expected"));
    let bad = server.raw(Method::POST, "/api/blobs/sha256:12", &[], Vec::new()).await?;
    assert_eq!(bad.text().await?, r#"{"error":"invalid digest format"}"#);
    assert!(server.files("").is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_client_leaves_leaves_nothing() -> Result<()> {
    let server = Server::start().await?;
    let address = server.url.trim_start_matches("http://");
    let mut client = TcpStream::connect(address).await?;
    let path = format!("/api/blobs/{}", digest(b"whole"));
    let half = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 5\r\n\r\nwho");
    client.write_all(half.as_bytes()).await?;
    server.has_files(1).await?;
    drop(client);
    server.has_files(0).await?;
    let response = server.raw(Method::HEAD, &path, &[], Vec::new()).await?;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn create_says_what_is_missing() -> Result<()> {
    let server = Server::start().await?;
    let garbage = server.upload(b"<html>not a model</html>").await?;
    let check = async |body: Value, status: u16, text: &str| -> Result<()> {
        let (got, answer) = server.ask(Method::POST, "/api/create", Some(body.clone())).await?;
        assert_eq!(got.as_u16(), status, "{body} {answer}");
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(text)), "{body} {answer}");
        Ok(())
    };
    let absent = digest(b"absent");
    check(json!({"model": "x"}), 400, "neither 'from' or 'files' was specified").await?;
    check(json!({"model": "../x", "from": "y"}), 400, "invalid model name").await?;
    check(json!({"model": "x", "from": "y"}), 404, "model 'y:latest' not found").await?;
    check(json!({"model": "x", "files": {"a": "zzz"}}), 400, "invalid digest format").await?;
    check(json!({"model": "x", "files": {"a": absent}}), 400, "is not here; upload it").await?;
    check(json!({"model": "x", "files": {"a": garbage}}), 400, "not a GGUF file").await?;
    check(json!({"model": "x", "files": {"a": garbage}, "template": "{{ .Prompt }}"}), 400, "Go template").await?;
    check(json!({"model": "x", "files": {"a": garbage}, "quantize": "q4_0"}), 400, "quantize").await?;
    check(json!({"model": "x", "files": {"a": garbage}, "parameters": {"top_k": "a"}}), 400, "top_k").await?;
    assert!(server.files("manifests").is_empty());
    Ok(())
}
