//! What models are asked, and how their answers are told.

use ollamax_tools::mem::{MemInference, MemLab, MemPorts};
use ollamax_tools::views::Model;
use ollamax_tools::{CallError, Caller, Catalogue, Families, Principal, Progress, Started};
use ollamax_types::RequestId;

use super::*;

fn ports() -> MemPorts {
    let model = |name: &str, able: &str| Model {
        name: name.to_owned(),
        phase: "active".to_owned(),
        capabilities: vec![able.to_owned()],
        ..Model::default()
    };
    let models = vec![model("llama3.2:latest", "completion"), model("vectors:latest", "embedding")];
    MemPorts::of(MemLab { nodes: Some(Vec::new()), models, ..MemLab::default() })
}

async fn start(ports: &MemPorts, tool: &str, arguments: Value, progress: Progress) -> Result<Value, ErrorCode> {
    let all = Catalogue::new(tools(&ports.ports()).expect("declared well"), &Families::All).expect("names differ");
    let caller = Caller { principal: Principal::loopback(), request: RequestId::default(), trace: None };
    match all.start(caller, tool, arguments, progress).await {
        Ok(Started::Answered(value)) => Ok(value),
        Err(CallError::Failed(error)) => Err(error.code),
        other => panic!("{other:?}"),
    }
}

/// What is asked of the models for a call, and what is told of their answer.
async fn asked(tool: &str, arguments: Value) -> ((&'static str, Value), Value) {
    let ports = ports();
    let told = start(&ports, tool, arguments, Progress::nobody()).await.expect("answered");
    let [asked]: [_; 1] = ports.inference.asked().try_into().expect("asked once");
    (asked, told)
}

#[tokio::test]
async fn a_conversation_is_asked_in_ollamas_words_and_its_answer_says_which_model_spoke() {
    let (asked, told) = asked(
        "chat",
        json!({
            "messages": [{"role": "user", "content": "well?"}], "system": "be short", "options": {"seed": 1},
            "format": "json",
        }),
    )
    .await;
    let messages = json!([{"role": "system", "content": "be short"}, {"role": "user", "content": "well?"}]);
    let body = json!({"model": "llama3.2:latest", "messages": messages, "options": {"seed": 1}, "format": "json"});
    assert_eq!(asked, ("/api/chat", body));
    let said = json!({
        "model": "llama3.2:latest", "text": "well", "thinking": null, "done_reason": "stop", "prompt_tokens": 1,
        "tokens": 2,
    });
    assert_eq!(told, said);
}

#[tokio::test]
async fn a_text_goes_on_with_the_model_that_is_named() {
    let (asked, told) = asked("generate", json!({"model": "other", "prompt": "Once", "system": "be short"})).await;
    assert_eq!(asked, ("/api/generate", json!({"model": "other", "prompt": "Once", "system": "be short"})));
    assert_eq!(
        (&told["model"], &told["thinking"], &told["done_reason"]),
        (&json!("other"), &json!("so"), &json!("length"))
    );
}

#[tokio::test]
async fn each_text_has_its_vector_by_a_model_that_makes_some() {
    let (asked, told) = asked("embed", json!({"input": ["a"], "dimensions": 2})).await;
    assert_eq!(asked, ("/api/embed", json!({"model": "vectors:latest", "input": ["a"], "dimensions": 2})));
    assert_eq!(told, json!({"model": "vectors:latest", "embeddings": [[0.5, -1.0]], "prompt_tokens": 1}));
    // One vector for two texts is no answer.
    let lost = start(&ports(), "embed", json!({"input": ["a", "b"]}), Progress::nobody()).await;
    assert_eq!(lost, Err(ErrorCode::RuntimeFailed));
}

#[tokio::test]
async fn what_a_model_says_is_told_as_it_comes_and_what_it_refuses_as_it_is() {
    let (progress, told) = Progress::channel();
    assert!(start(&ports(), "generate", json!({"prompt": "Once"}), progress).await.is_ok());
    assert_eq!((told.borrow().done, told.borrow().text.as_str()), (2, "well"));
    let refusal = ToolError::new(ErrorCode::Overloaded, "the queue is full", "try again");
    let ports = MemPorts { inference: MemInference::refusing(refusal), ..ports() };
    let refused = start(&ports, "generate", json!({"prompt": "Once"}), Progress::nobody()).await;
    assert_eq!(refused, Err(ErrorCode::Overloaded));
}

#[tokio::test]
async fn without_a_model_that_can_and_with_wrong_arguments_nobody_is_asked() {
    let nobody = MemPorts::of(MemLab { nodes: Some(Vec::new()), ..MemLab::default() });
    let no_cluster = MemPorts::default();
    let ports = ports();
    for (ports, tool, arguments, expected) in [
        (&nobody, "chat", json!({"messages": [{"role": "user", "content": ""}]}), ErrorCode::ModelNotFound),
        (&nobody, "embed", json!({"input": ["a"]}), ErrorCode::ModelNotFound),
        (&no_cluster, "generate", json!({"prompt": "a"}), ErrorCode::NotInitialised),
        (&ports, "chat", json!({"messages": []}), ErrorCode::BadRequest),
        (&ports, "chat", json!({"messages": [{"role": "root", "content": ""}]}), ErrorCode::BadRequest),
        (&ports, "generate", json!({"prompt": ""}), ErrorCode::BadRequest),
        (&ports, "embed", json!({"input": "a"}), ErrorCode::BadRequest),
        (&ports, "embed", json!({"input": ["a"], "dimensions": 0}), ErrorCode::BadRequest),
    ] {
        let refused = start(ports, tool, arguments.clone(), Progress::nobody()).await;
        assert_eq!(refused, Err(expected), "{tool} {arguments}");
        assert!(ports.inference.asked().is_empty(), "{tool} {arguments}");
    }
}

#[test]
fn what_is_asked_stands_in_no_log() {
    let secret = "a secret";
    for (tool, arguments) in [
        ("chat", json!({"messages": [{"role": "user", "content": secret}], "system": secret})),
        ("generate", json!({"prompt": secret, "system": secret})),
        ("embed", json!({"input": [secret]})),
    ] {
        let tools = tools(&ports().ports()).expect("declared well");
        let found = tools.iter().find(|found| found.spec().name == tool).expect("it is there");
        assert!(found.input().problems(&arguments).is_empty(), "{arguments}");
        let shown = found.input().redact(&arguments).to_string();
        assert!(!shown.contains(secret), "{shown}");
    }
}
