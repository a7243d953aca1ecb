//! Names that go from the record because nobody has them for long: shown, and asked for before the leader does it.
//!
//! The plan is the leader's own, and each of its steps is judged again when it is applied. What cannot be changed just
//! now stays, and is no error: the leader does it by itself.

use ollamax_core::catalog::{View, read};
use ollamax_core::retention::{self, NamesPlan};
use ollamax_proto::v1;
use ollamax_types::RequestId;

use crate::grpc::daemon::AdminError;
use crate::grpc::pulls::Pulls;

/// Names that go, as many as one plan has; and how many stay for now, of these and of those behind them.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    pub(super) names: Vec<v1::OldNameView>,
    pub(super) left: u32,
}

// === impl Pulls ===

impl Pulls {
    /// Has them go, or only says which would.
    pub(super) async fn forget_names(&self, id: RequestId, dry_run: bool) -> Result<Forgotten, AdminError> {
        let metadata = self.0.metadata()?;
        let plan = retention::names_now(&*metadata.view(), metadata.log_time())?;
        let names = plan.going.iter().map(|old| v1::OldNameView { name: old.name.to_string(), since_ms: old.since.0 });
        let names = names.collect();
        let more = u32::try_from(plan.left).unwrap_or(u32::MAX);
        if dry_run {
            return Ok(Forgotten { names, left: more });
        }
        for command in plan.commands() {
            if let Err(error) = self.0.change_here(id.clone(), command).await {
                tracing::debug!(code = %error.code, error = %error.what, "forget names; the leader does it later");
                break;
            }
        }
        let left = left_of(&*metadata.view(), &plan)?;
        Ok(Forgotten { names, left: left.saturating_add(more) })
    }
}

/// How many of those that were to go are there still.
fn left_of(view: &dyn View, plan: &NamesPlan) -> Result<u32, AdminError> {
    let mut left = 0;
    for old in &plan.going {
        left += u32::from(read::model(view, &old.name)?.is_some());
    }
    Ok(left)
}
