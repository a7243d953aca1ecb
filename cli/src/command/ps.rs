//! `ollamax ps`: which models are in memory, and where.

use serde_json::{Value, json};

use crate::args::{ApiArgs, Global, Output};
use crate::error::Failure;
use crate::{http_client, output, text};

/// Asks the api listener, as any Ollama client would.
pub(crate) async fn run(global: &Global, args: &ApiArgs) -> Result<(), Failure> {
    let url = format!("{}/api/ps", http_client::base(args, global)?);
    let listed = http_client::get_json(&url).await?;
    let models = listed["models"].as_array().cloned().unwrap_or_default();
    if global.output == Output::Json {
        return output::json("ResidencyList", json!({"models": models}));
    }
    if models.is_empty() {
        output::talk(global.output, "No model is in memory.");
    }
    output::text(&table(&models))
}

fn table(models: &[Value]) -> String {
    let rows = models.iter().map(|model| {
        let size = model["size"].as_u64().unwrap_or(0);
        vec![
            model["name"].as_str().unwrap_or_default().to_owned(),
            model["node"].as_str().unwrap_or_default().to_owned(),
            text::bytes(size),
            processor(size, model["size_vram"].as_u64().unwrap_or(0)),
            model["context_length"].as_u64().map(|length| length.to_string()).unwrap_or_default(),
            model["expires_at"].as_str().unwrap_or_default().to_owned(),
        ]
    });
    output::table(&["NAME", "NODE", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"], rows.collect())
}

fn processor(size: u64, vram: u64) -> String {
    match vram {
        0 => "CPU".to_owned(),
        vram if vram >= size => "GPU".to_owned(),
        vram => format!("{} % GPU", vram.saturating_mul(100) / size.max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_where_a_model_runs() {
        let models = [
            json!({"name": "demo:latest", "node": "n2", "size": 4_000_000, "size_vram": 1_000_000, "context_length": 512, "expires_at": "soon"}),
        ];
        insta::assert_snapshot!(table(&models), @r"
        NAME         NODE  SIZE    PROCESSOR  CONTEXT  UNTIL
        demo:latest  n2    4.0 MB  25 % GPU   512      soon
        ");
        assert_eq!(processor(5, 0), "CPU");
        assert_eq!(processor(5, 5), "GPU");
    }
}
