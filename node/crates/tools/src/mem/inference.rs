//! Models in memory: what they are asked is written down, and they answer in Ollama's words what a test can foresee.

use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use serde_json::{Value, json};

use ollamax_types::ErrorCode;

use crate::error::ToolError;
use crate::ports::{Answer, Inference};
use crate::principal::Caller;
use crate::progress::Progress;

/// Models in memory. Clones write into one list.
#[derive(Debug, Clone, Default)]
pub struct MemInference {
    asked: Arc<Mutex<Vec<(&'static str, Value)>>>,
    refusal: Option<ToolError>,
}

// === impl MemInference ===

impl MemInference {
    /// Those that answer with this error.
    #[must_use]
    pub fn refusing(refusal: ToolError) -> Self {
        Self { refusal: Some(refusal), ..Self::default() }
    }

    /// The paths and bodies that were asked.
    #[must_use]
    pub fn asked(&self) -> Vec<(&'static str, Value)> {
        self.list().clone()
    }

    fn list(&self) -> MutexGuard<'_, Vec<(&'static str, Value)>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inference for MemInference {
    fn ask(&self, _by: &Caller, path: &'static str, body: Value, progress: Progress) -> Answer<Value> {
        let model = body["model"].clone();
        self.list().push((path, body));
        progress.say(2, "well");
        let answer = match path {
            "/api/chat" => json!({
                "model": model, "message": {"role": "assistant", "content": "well"}, "done": true,
                "done_reason": "stop", "prompt_eval_count": 1, "eval_count": 2,
            }),
            "/api/generate" => json!({
                "model": model, "response": "well", "thinking": "so", "done": true, "done_reason": "length",
                "prompt_eval_count": 1, "eval_count": 2,
            }),
            "/api/embed" => json!({"model": model, "embeddings": [[0.5, -1.0]], "prompt_eval_count": 1}),
            _ => Value::Null,
        };
        let nothing = || ToolError::new(ErrorCode::NotImplemented, format!("{path} is not there"), "");
        ready(match &self.refusal {
            Some(refusal) => Err(refusal.clone()),
            None if answer.is_null() => Err(nothing()),
            None => Ok(answer),
        })
        .boxed()
    }
}
