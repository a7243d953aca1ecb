//! `ollamax model rollback`: an earlier version of a name.
//!
//! What is done is on record before this waits for anything, so it goes on whoever leaves.

use serde_json::{Value, json};

use ollamax_proto::v1::{FixedReply, RollbackRequest};
use ollamax_types::ErrorCode;

use super::{pull, tell};
use crate::args::{Global, Output, RollbackArgs};
use crate::client;
use crate::error::{Failure, exit_of};
use crate::{output, text};

/// Goes back to a version, or says to which one it would.
pub(super) async fn run(global: &Global, args: RollbackArgs) -> Result<(), Failure> {
    let RollbackArgs { name, to, dry_run, wait } = args;
    let request = RollbackRequest { name, to: to.unwrap_or_default(), dry_run };
    let fixed = client::connect_models(global).await?.rollback(request).await?.into_inner();
    if dry_run {
        if global.output == Output::Json {
            return output::json("ModelRollback", shown(&fixed, true, &[]));
        }
        return output::line(&foretold(&fixed));
    }
    let seen = pull::follow_wish(global, &fixed.name, wait).await.map_err(|failure| unkept(failure, &fixed))?;
    if global.output == Output::Json {
        let copies: Vec<Value> = seen.values().map(pull::copy).collect();
        return output::json("ModelRollback", shown(&fixed, false, &copies));
    }
    tell(seen.values())?;
    output::talk(global.output, &format!("Next: ollamax model pin {}, so that no pull moves it", fixed.name));
    Ok(())
}

fn foretold(fixed: &FixedReply) -> String {
    let size = if fixed.size_bytes == 0 { String::new() } else { format!(", {}", text::bytes(fixed.size_bytes)) };
    let on = if fixed.nodes.is_empty() { String::new() } else { format!(" on {}", fixed.nodes.join(", ")) };
    let FixedReply { name, number, digest, .. } = fixed;
    format!("{name} would go back to version {number} ({}{size}){on}", text::digest(digest))
}

/// A version that no node keeps, and that its registry gave away as well.
fn unkept(failure: Failure, fixed: &FixedReply) -> Failure {
    if failure.exit() != exit_of(ErrorCode::ModelNotFound) {
        return failure;
    }
    let what = format!("nobody keeps version {} of {}", fixed.number, fixed.name);
    let next = format!("ollamax model history {}", fixed.name);
    Failure::told(ErrorCode::ModelNotFound, &what, "its registry does not have it by digest", &next)
}

fn shown(fixed: &FixedReply, dry_run: bool, copies: &[Value]) -> Value {
    json!({
        "name": fixed.name,
        "version": fixed.number,
        "digest": hex::encode(&fixed.digest),
        "sizeBytes": fixed.size_bytes,
        "nodes": fixed.nodes,
        "dryRun": dry_run,
        "copies": copies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(size_bytes: u64, nodes: &[&str]) -> FixedReply {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        FixedReply { name: "m:latest".to_owned(), number: 3, digest: vec![7; 32], size_bytes, round: 0, nodes }
    }

    #[test]
    fn what_would_be_done_is_told_as_far_as_it_is_known() {
        let all = "m:latest would go back to version 3 (070707070707, 2.0 GB) on n1, n2";
        assert_eq!(foretold(&fixed(2_000_000_000, &["n1", "n2"])), all);
        assert_eq!(foretold(&fixed(0, &[])), "m:latest would go back to version 3 (070707070707)");
    }

    #[test]
    fn only_a_version_that_is_nowhere_is_told_as_such() {
        let failed = |code| unkept(Failure::told(code, "it broke", "", ""), &fixed(0, &[]));
        assert_eq!(failed(ErrorCode::DiskFull).what(), "it broke");
        let gone = failed(ErrorCode::ModelNotFound);
        assert_eq!((gone.exit(), gone.what()), (3, "nobody keeps version 3 of m:latest"));
        assert_eq!(gone.next(), "ollamax model history m:latest");
    }
}
