//! `ollamax model pin` and `unpin`: a name that stands for one version.

use serde_json::json;

use ollamax_proto::v1::PinModelRequest;

use crate::args::{Global, Output};
use crate::client;
use crate::error::Failure;
use crate::{output, text};

/// Holds it.
pub(super) async fn pin(global: &Global, name: String, version: Option<String>) -> Result<(), Failure> {
    let request = PinModelRequest { name, version: version.unwrap_or_default(), unpin: false };
    let pinned = client::connect_models(global).await?.pin_model(request).await?.into_inner();
    if global.output == Output::Json {
        let digest = hex::encode(&pinned.digest);
        return output::json("ModelPin", json!({"name": pinned.name, "pinned": true, "digest": digest}));
    }
    output::line(&format!("{} is pinned at {}.", pinned.name, text::digest(&pinned.digest)))?;
    let next = format!("No pull moves it. Next: ollamax model unpin {}", pinned.name);
    output::talk(global.output, &next);
    Ok(())
}

/// Lets it go.
pub(super) async fn unpin(global: &Global, name: String) -> Result<(), Failure> {
    let request = PinModelRequest { name, version: String::new(), unpin: true };
    let before = client::connect_models(global).await?.pin_model(request).await?.into_inner();
    let was = (!before.digest.is_empty()).then_some(before.digest);
    if global.output == Output::Json {
        let digest = was.map(hex::encode);
        return output::json("ModelPin", json!({"name": before.name, "pinned": false, "digest": digest}));
    }
    match was {
        Some(digest) => {
            output::line(&format!("{} was pinned at {}; it is not any more.", before.name, text::digest(&digest)))
        }
        None => output::line(&format!("{} is not pinned.", before.name)),
    }
}
