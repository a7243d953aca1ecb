//! `ollamax join`: makes this node a member of an existing cluster.

use std::io::Read as _;

use serde_json::json;

use ollamax_proto::v1::JoinRequest;

use crate::args::{Global, JoinArgs, Output};
use crate::client;
use crate::error::Failure;
use crate::output;

/// Asks the node, which finds a member, checks it, and redeems the token.
pub(crate) async fn run(global: &Global, args: JoinArgs) -> Result<(), Failure> {
    let token = token(&args)?;
    let request = JoinRequest {
        token: token.trim().to_owned(),
        seeds: args.peers,
        role: args.role.unwrap_or_default(),
        node_name: args.name.unwrap_or_default(),
    };
    let joined = client::connect(global).await?.join(request).await?.into_inner();
    let unreached: Vec<_> = joined.probes.iter().filter(|probe| !probe.reached).collect();
    for probe in &unreached {
        output::talk(&format!("warning: {} was not reached back: {}", probe.address, probe.problem));
    }
    if global.output == Output::Json {
        let unreached: Vec<&str> = unreached.iter().map(|probe| probe.address.as_str()).collect();
        return output::json(
            "Membership",
            json!({
                "cluster": hex::encode(&joined.cluster),
                "name": joined.cluster_name,
                "node": joined.node_id,
                "already": joined.already,
                "unreachedAddresses": unreached,
            }),
        );
    }
    let how = if joined.already { "was a member already" } else { "joined" };
    output::text(&format!(
        "This node {how}: node {} of cluster {}.\nNext: ollamax status\n",
        joined.node_id, joined.cluster_name
    ))
}

fn token(args: &JoinArgs) -> Result<String, Failure> {
    if let Some(path) = &args.token_file {
        return std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display()), "--token-file FILE"));
    }
    let given = args.token.clone().unwrap_or_default();
    if given != "-" {
        return Ok(given);
    }
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map(|_| text).map_err(|error| Failure::usage(format!("standard input: {error}"), "ollamax join TOKEN"))
}
