//! What lists show of a model, from its configuration blob.
//!
//! The text has the form that Ollama's `/api/tags` gives under `details`, so that a model that was found on disk looks
//! like one that a runtime listed. A configuration that cannot be read costs a model its details, nothing else.

use serde::{Deserialize, Serialize};

use ollamax_types::capabilities_of;
use ollamax_types::limits::{CONFIG_BLOB_BYTES_MAX, MODEL_DETAILS_BYTES_MAX};

use crate::manifest::Object;

/// The configuration, as far as it is shown. Ollama takes `null` for empty.
#[derive(Debug, Deserialize)]
struct Config {
    model_format: Option<String>,
    model_family: Option<String>,
    model_families: Option<Vec<String>>,
    model_type: Option<String>,
    file_type: Option<String>,
    capabilities: Option<Vec<String>>,
}

/// The fields in Ollama's order.
#[derive(Debug, Serialize)]
struct Details {
    parent_model: &'static str,
    format: String,
    family: String,
    families: Option<Vec<String>>,
    parameter_size: String,
    quantization_level: String,
}

/// The `details` object of a model with this configuration; `None` when it cannot be read, or is larger than a record
/// may hold.
#[must_use]
pub fn details_json(config: &[u8]) -> Option<String> {
    let config = read(config)?;
    let details = Details {
        // A manifest does not tell it.
        parent_model: "",
        format: config.model_format.unwrap_or_default(),
        family: config.model_family.unwrap_or_default(),
        families: config.model_families,
        parameter_size: config.model_type.unwrap_or_default(),
        quantization_level: config.file_type.unwrap_or_default(),
    };
    serde_json::to_string(&details).ok().filter(|text| text.len() <= MODEL_DETAILS_BYTES_MAX)
}

/// What the configuration says that a model can do, as records keep it; empty where it says nothing.
#[must_use]
pub fn capabilities(config: &[u8]) -> Vec<String> {
    capabilities_of(read(config).and_then(|config| config.capabilities).unwrap_or_default())
}

fn read(config: &[u8]) -> Option<Config> {
    if config.len() > CONFIG_BLOB_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(config).ok().map(|Object(config)| config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_have_ollamas_form() {
        let check = |config: &str, wanted: Option<&str>| {
            assert_eq!(details_json(config.as_bytes()).as_deref(), wanted, "{config}");
        };
        check(
            r#"{"model_format":"gguf","model_family":"llama","model_families":["llama","clip"],"model_type":"3.2B",
            "file_type":"Q4_K_M","architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["x"]}}"#,
            Some(
                r#"{"parent_model":"","format":"gguf","family":"llama","families":["llama","clip"],"parameter_size":"3.2B","quantization_level":"Q4_K_M"}"#,
            ),
        );
        let empty = r#"{"parent_model":"","format":"","family":"","families":null,"parameter_size":"","quantization_level":""}"#;
        check("{}", Some(empty));
        check(r#"{"model_format":null,"model_families":null}"#, Some(empty));
        for bad in ["", "[]", "null", r#"{"model_format":7}"#, r#"{"model_format":"gguf""#] {
            check(bad, None);
        }
        check(&format!(r#"{{"model_family":"{}"}}"#, "x".repeat(MODEL_DETAILS_BYTES_MAX)), None);
        check(&format!("{{}}{}", " ".repeat(CONFIG_BLOB_BYTES_MAX)), None);
    }

    #[test]
    fn capabilities_are_those_that_the_configuration_names() {
        let check = |config: &str, wanted: &[&str]| assert_eq!(capabilities(config.as_bytes()), wanted, "{config}");
        check(r#"{"capabilities":["tools","completion"]}"#, &["completion", "tools"]);
        check("{}", &[]);
        check(r#"{"capabilities":null}"#, &[]);
        check(r#"{"capabilities":"tools"}"#, &[]);
        check("no JSON", &[]);
    }
}
