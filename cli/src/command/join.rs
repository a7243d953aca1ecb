//! `ollamax join`: makes this node a member of an existing cluster.

use std::io::Read as _;

use serde_json::json;

use ollamax_proto::v1::{JoinReply, JoinRequest};

use crate::args::{Global, JoinArgs, Output};
use crate::client;
use crate::error::Failure;
use crate::output;

/// Asks the node, which finds a member, checks it, and redeems the token.
pub(crate) async fn run(global: &Global, args: JoinArgs) -> Result<(), Failure> {
    let token = token(&args)?;
    let asked = args.name.unwrap_or_default();
    let request = JoinRequest {
        token: token.trim().to_owned(),
        seeds: args.peers,
        role: args.role.unwrap_or_default(),
        node_name: asked.clone(),
    };
    let joined = client::connect(global).await?.join(request).await?.into_inner();
    let unreached: Vec<_> = joined.probes.iter().filter(|probe| !probe.reached).collect();
    for probe in &unreached {
        output::talk(&format!("warning: {} was not reached back: {}", probe.address, probe.problem));
    }
    if let Some(line) = renamed(&asked, &joined) {
        output::talk(&line);
    }
    if global.output == Output::Json {
        let unreached: Vec<&str> = unreached.iter().map(|probe| probe.address.as_str()).collect();
        return output::json(
            "Membership",
            json!({
                "cluster": hex::encode(&joined.cluster),
                "name": joined.cluster_name,
                "node": joined.node_id,
                "nodeName": joined.node_name,
                "already": joined.already,
                "unreachedAddresses": unreached,
            }),
        );
    }
    output::text(&page(&joined))
}

fn page(joined: &JoinReply) -> String {
    let how = if joined.already { "was a member already" } else { "joined" };
    let JoinReply { node_id, node_name, cluster_name, .. } = joined;
    format!("This node {how}: node {node_id} ({node_name}) of cluster {cluster_name}.\nNext: ollamax status\n")
}

/// What to say of the name; nothing when it is the one that was asked for.
fn renamed(asked: &str, joined: &JoinReply) -> Option<String> {
    let other = !asked.is_empty() && asked != joined.node_name;
    let why = if joined.already { "it had one before" } else { "another member has that name" };
    other.then(|| format!("warning: this node is called {}, not {asked}: {why}", joined.node_name))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(name: &str, already: bool) -> JoinReply {
        let (node_name, cluster_name) = (name.to_owned(), "lab".to_owned());
        JoinReply { node_id: 4, node_name, cluster_name, already, ..JoinReply::default() }
    }

    #[test]
    fn the_name_is_told_and_why_it_is_another_one() {
        let expected = "This node joined: node 4 (gpu-2) of cluster lab.\nNext: ollamax status\n";
        assert_eq!(page(&joined("gpu-2", false)), expected);
        let rows = [
            ("", joined("gpu-2", false), None),
            ("gpu", joined("gpu", false), None),
            (
                "gpu",
                joined("gpu-2", false),
                Some("warning: this node is called gpu-2, not gpu: another member has that name"),
            ),
            ("gpu", joined("n4", true), Some("warning: this node is called n4, not gpu: it had one before")),
        ];
        for (asked, joined, expected) in rows {
            assert_eq!(renamed(asked, &joined).as_deref(), expected, "{asked} {joined:?}");
        }
    }
}
