//! `ollamax init`: makes this node the first of a new cluster.

use serde_json::json;

use ollamax_proto::v1::InitRequest;

use crate::args::{Global, InitArgs, Output};
use crate::client;
use crate::error::Failure;
use crate::output;

/// Asks the node and shows the line to type on the other machines.
pub(crate) async fn run(global: &Global, args: InitArgs) -> Result<(), Failure> {
    let request = InitRequest { cluster_name: args.cluster, node_name: args.name.unwrap_or_default() };
    let made = client::connect(global).await?.init(request).await?.into_inner();
    if global.output == Output::Json {
        return output::json(
            "Cluster",
            json!({
                "cluster": hex::encode(&made.cluster),
                "name": made.cluster_name,
                "node": made.node_id,
                "token": made.token,
                "peerAddresses": made.peer_addresses,
            }),
        );
    }
    let peers: Vec<String> = made.peer_addresses.iter().map(|address| format!("--peer {address}")).collect();
    output::text(&format!(
        "Cluster {} is made; this is node {}.\n\
         On the next machine, within an hour (the token serves one machine):\n\n    ollamax join {} {}\n\n\
         Next: ollamax status\n",
        made.cluster_name,
        made.node_id,
        made.token,
        peers.join(" "),
    ))
}
