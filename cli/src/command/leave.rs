//! `ollamax leave`: takes this node out of its cluster in good order.

use serde_json::json;

use ollamax_proto::v1::LeaveRequest;

use crate::args::{Global, LeaveArgs, Output};
use crate::client;
use crate::error::Failure;
use crate::output;

/// Asks the node; it stops by itself afterwards.
pub(crate) async fn run(global: &Global, args: LeaveArgs) -> Result<(), Failure> {
    client::connect(global).await?.leave(LeaveRequest { force: args.force }).await?;
    if global.output == Output::Json {
        return output::json("Departure", json!({"left": true}));
    }
    output::text(
        "This node left its cluster, and its daemon stops.\n\
         Next: start the daemon again to use this machine in another cluster\n",
    )
}
