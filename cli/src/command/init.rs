//! `ollamax init`: makes this node the first of a new cluster, and the key that opens its backups.
//!
//! A key that could not be made does not undo the cluster: it is said how to make one.

use serde_json::json;

use ollamax_proto::v1::{InitRequest, NewBackupKeyReply, NewBackupKeyRequest};

use crate::args::{Global, InitArgs, Output};
use crate::client;
use crate::command::backup::KEY_WORDS;
use crate::error::Failure;
use crate::output;

/// Asks the node and shows the line to type on the other machines.
pub(crate) async fn run(global: &Global, args: InitArgs) -> Result<(), Failure> {
    let request = InitRequest { cluster_name: args.cluster, node_name: args.name.unwrap_or_default() };
    let made = client::connect(global).await?.init(request).await?.into_inner();
    let key = backup_key(global).await;
    if global.output == Output::Json {
        let known = key.as_ref().ok();
        return output::json(
            "Cluster",
            json!({
                "cluster": hex::encode(&made.cluster),
                "name": made.cluster_name,
                "node": made.node_id,
                "token": made.token,
                "peerAddresses": made.peer_addresses,
                "backupKey": known.map(|key| key.secret.as_str()),
                "backupRecipient": known.map(|key| key.recipient.as_str()),
                "backupKeyMeaning": KEY_WORDS,
            }),
        );
    }
    let peers: Vec<String> = made.peer_addresses.iter().map(|address| format!("--peer {address}")).collect();
    output::text(&format!(
        "Cluster {} is made; this is node {}.\n\
         On the next machine, within an hour (the token serves one machine):\n\n    ollamax join {} {}\n\n\
         {}\n\nNext: ollamax status\n",
        made.cluster_name,
        made.node_id,
        made.token,
        peers.join(" "),
        match &key {
            Ok(key) => format!("{KEY_WORDS}\n\n    {}", key.secret),
            Err(failure) =>
                format!("No backup key was made: make one with `ollamax backup new-key`.\n{}", failure.page(false)),
        },
    ))
}

async fn backup_key(global: &Global) -> Result<NewBackupKeyReply, Failure> {
    Ok(client::connect_backup(global).await?.new_backup_key(NewBackupKeyRequest {}).await?.into_inner())
}
