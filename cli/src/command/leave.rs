//! `ollamax leave`: takes this node out of its cluster in good order.

use serde_json::json;

use ollamax_proto::v1::status_reply::Phase;
use ollamax_proto::v1::{LeaveRequest, StatusRequest};

use crate::args::{Global, LeaveArgs, Output};
use crate::client;
use crate::command::parting::Parting;
use crate::consent;
use crate::error::Failure;
use crate::output;

/// Asks the node; it stops by itself afterwards.
pub(crate) async fn run(global: &Global, args: LeaveArgs) -> Result<(), Failure> {
    let mut admin = client::connect(global).await?;
    let status = admin.status(StatusRequest {}).await.map(tonic::Response::into_inner);
    // Who agreed already is kept from nothing by a daemon that does not answer this.
    let status = if args.yes { status.unwrap_or_default() } else { status? };
    let has_models = !matches!(status.phase(), Phase::Waiting | Phase::Removed | Phase::Unspecified);
    let parting = if has_models { Parting::of(global, status.node_id, &status.node_name).await } else { None };
    if !args.yes {
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
                let deed = deed + &Parting::words(parting.as_ref());
                consent::ask(global, &deed, &status.node_name).await?;
            }
        }
    }
    admin.leave(LeaveRequest { force: args.force }).await?;
    if global.output == Output::Json {
        let (only, wishes) = Parting::fields(parting.as_ref());
        return output::json("Departure", json!({"left": true, "onlyCopies": only, "wishes": wishes}));
    }
    for line in Parting::told(parting.as_ref()) {
        output::talk(global.output, &line);
    }
    output::text(
        "This node left its cluster, and its daemon stops.\n\
         Next: start the daemon again to use this machine in another cluster\n",
    )
}
