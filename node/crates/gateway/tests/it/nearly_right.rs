//! Messages that are nearly right: whatever becomes of some bytes, the assistants' door answers, and goes on.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::json;
use tokio::time::timeout;

use crate::mcp::{ask, door, legacy, modern_call};
use crate::world::call;

/// How long a message may be looked at.
const PATIENCE: Duration = Duration::from_secs(10);

/// What becomes of one byte of a message.
#[derive(Debug, Clone)]
enum Edit {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
}

// === impl Edit ===

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Insert(at, byte) => bytes.insert(at.index(bytes.len() + 1), *byte),
            Self::Replace(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Remove(at) if !bytes.is_empty() => {
                bytes.remove(at.index(bytes.len()));
            }
            Self::Replace(..) | Self::Remove(_) => {}
        }
    }
}

/// Mostly of what JSON is made of.
fn edit() -> impl Strategy<Value = Edit> {
    let byte = prop_oneof![3 => select(b"{}[]\":,\\0123456789-+.eEnulltrufas ".to_vec()), 1 => any::<u8>()];
    (0..3_u8, any::<Index>(), byte).prop_map(|(kind, at, byte)| match kind {
        0 => Edit::Replace(at, byte),
        1 => Edit::Insert(at, byte),
        _ => Edit::Remove(at),
    })
}

/// A call as a client of either era sends it, and then edited.
async fn edited(is_modern: bool, edits: &[Edit]) -> Request<Body> {
    let arguments = json!({"words": "x"});
    let whole = if is_modern {
        modern_call("says", arguments)
    } else {
        legacy("tools/call", json!({"name": "says", "arguments": arguments}))
    };
    let (head, body) = whole.into_parts();
    let mut bytes = body.collect().await.expect("whole").to_bytes().to_vec();
    edits.iter().for_each(|edit| edit.apply(&mut bytes));
    Request::from_parts(head, Body::from(bytes))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_message_that_is_nearly_right_is_answered_and_the_next_one_too(
        edits in vec(edit(), 1..8),
        is_modern in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let router = door();
            let answered = timeout(PATIENCE, call(&router, edited(is_modern, &edits).await)).await;
            let status = answered.map(|response| response.status().as_u16()).unwrap_or_default();
            prop_assert!((200..500).contains(&status), "{status} (0: none in time)");
            let next = json!({"words": "y"});
            let (status, told) = ask(&router, modern_call("says", next.clone())).await;
            prop_assert!(status == 200 && told["result"]["structuredContent"] == next, "{status} {told}");
            Ok::<(), TestCaseError>(())
        })?;
    }
}
