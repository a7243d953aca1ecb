//! `ollamax leave`: takes this node out of its cluster in good order.

use serde_json::json;

use ollamax_proto::v1::status_reply::Phase;
use ollamax_proto::v1::{LeaveRequest, StatusRequest};

use crate::args::{Global, LeaveArgs, Output};
use crate::client;
use crate::consent;
use crate::error::Failure;
use crate::output;

/// Asks the node; it stops by itself afterwards.
pub(crate) async fn run(global: &Global, args: LeaveArgs) -> Result<(), Failure> {
    let mut admin = client::connect(global).await?;
    if !args.yes {
        let status = admin.status(StatusRequest {}).await?.into_inner();
        // A node that waits has nothing to lose, and one that was removed is out already.
        match status.phase() {
            Phase::Waiting => {}
            Phase::Removed => {
                let deed = "empty this node, which was removed from its cluster, and stop its daemon";
                consent::ask(global, deed, &status.node_name).await?;
            }
            _ => {
                let deed =
                    format!("take this node out of cluster {} for good and stop its daemon", status.cluster_name);
                consent::ask(global, &deed, &status.node_name).await?;
            }
        }
    }
    admin.leave(LeaveRequest { force: args.force }).await?;
    if global.output == Output::Json {
        return output::json("Departure", json!({"left": true}));
    }
    output::text(
        "This node left its cluster, and its daemon stops.\n\
         Next: start the daemon again to use this machine in another cluster\n",
    )
}
