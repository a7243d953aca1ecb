//! `ollamax init`: makes this node the first of a new cluster, and the key that opens its backups.
//!
//! A key that could not be made does not undo the cluster: it is said how to make one.

use serde_json::{Value, json};

use ollamax_proto::v1::{InitReply, InitRequest, NewBackupKeyReply, NewBackupKeyRequest};

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
        return output::json("Cluster", shown(&made, &key));
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

fn shown(made: &InitReply, key: &Result<NewBackupKeyReply, Failure>) -> Value {
    let known = key.as_ref().ok();
    json!({
        "cluster": hex::encode(&made.cluster),
        "name": made.cluster_name,
        "node": made.node_id,
        "token": made.token,
        "peerAddresses": made.peer_addresses,
        "backupKey": known.map(|key| key.secret.as_str()),
        "backupRecipient": known.map(|key| key.recipient.as_str()),
        "backupKeyMeaning": known.map(|_| KEY_WORDS),
        "backupKeyError": key.as_ref().err().map(Failure::fields),
    })
}

async fn backup_key(global: &Global) -> Result<NewBackupKeyReply, Failure> {
    Ok(client::connect_backup(global).await?.new_backup_key(NewBackupKeyRequest {}).await?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_hear_of_a_key_that_could_not_be_made() {
        let failure = Failure::new(8, "no quorum", "", "ollamax backup new-key");
        let fields = shown(&InitReply::default(), &Err(failure.clone()));
        assert_eq!((&fields["backupKey"], &fields["backupKeyMeaning"]), (&Value::Null, &Value::Null));
        assert_eq!(fields["backupKeyError"], failure.fields());
        let key = NewBackupKeyReply { secret: "AGE-SECRET-KEY-1LAB".to_owned(), ..NewBackupKeyReply::default() };
        let fields = shown(&InitReply::default(), &Ok(key));
        assert_eq!((&fields["backupKeyMeaning"], &fields["backupKeyError"]), (&KEY_WORDS.into(), &Value::Null));
    }
}
