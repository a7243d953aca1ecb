//! `ollamax join`: makes this node a member of an existing cluster.

use std::io::{self, Read as _};
use std::path::Path;

use serde_json::json;
use tokio::io::AsyncReadExt as _;

use ollamax_proto::v1::{JoinReply, JoinRequest};
use ollamax_types::limits::TOKEN_TEXT_BYTES_MAX;

use crate::args::{Global, JoinArgs, Output};
use crate::client;
use crate::error::Failure;
use crate::output;

/// One byte more than a token has shows that it is none.
const READ_BYTES_MAX: u64 = TOKEN_TEXT_BYTES_MAX as u64 + 1;

/// What a node is told that cannot be dialled.
const LANE_ONLY: &str = "warning: no member can dial this node; it joined over its own connections, as a node \
                         without a vote: it serves all the same";

/// Asks the node, which finds a member, checks it, and redeems the token.
pub(crate) async fn run(global: &Global, args: JoinArgs) -> Result<(), Failure> {
    let token = token(&args).await?;
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
        let line = format!("warning: {} was not reached back: {}", probe.address, probe.problem);
        output::talk(global.output, &line);
    }
    if let Some(line) = renamed(&asked, &joined) {
        output::talk(global.output, &line);
    }
    if joined.lane_only {
        output::talk(global.output, LANE_ONLY);
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
                "way": if joined.lane_only { "p2p" } else { "tcp" },
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

/// The token itself; `-` for either form is standard input, which keeps it out of the process list.
async fn token(args: &JoinArgs) -> Result<String, Failure> {
    let given = args.token.clone().unwrap_or_default();
    match &args.token_file {
        Some(path) if path.as_os_str() != "-" => read_token(path),
        None if given != "-" => Ok(given),
        Some(_) | None => {
            let mut text = String::new();
            let read = tokio::io::stdin().take(READ_BYTES_MAX).read_to_string(&mut text).await;
            read.and_then(|_| bounded(text))
                .map_err(|error| Failure::usage(format!("standard input: {error}"), "ollamax join TOKEN"))
        }
    }
}

/// A token in a file that others may read is a secret no longer.
fn read_token(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let bad = |error: io::Error| Failure::usage(format!("{shown}: {error}"), "ollamax join --token-file FILE");
    let file = std::fs::File::open(path).map_err(bad)?;
    let mode = foreign_rights(&file).map_err(bad)?;
    if mode != 0 {
        let what = format!("{shown} is open to others (mode {mode:04o})");
        let why = "whoever reads a join token can bring a machine into the cluster";
        return Err(Failure::new(4, what, why, format!("chmod 600 {shown}")));
    }
    let mut text = String::new();
    file.take(READ_BYTES_MAX).read_to_string(&mut text).map_err(bad)?;
    bounded(text).map_err(bad)
}

/// What is longer is no token, and is not cut to one.
fn bounded(text: String) -> io::Result<String> {
    let fits = text.len() <= TOKEN_TEXT_BYTES_MAX;
    fits.then_some(text).ok_or_else(|| io::Error::other("too long for a token"))
}

/// The mode of a file that group or others may use; 0 for one that they may not, and for a pipe.
#[cfg(unix)]
fn foreign_rights(file: &std::fs::File) -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;

    let about = file.metadata()?;
    let mode = about.mode() & 0o7777;
    Ok(if about.is_file() && mode & 0o077 != 0 { mode } else { 0 })
}

/// Rights of files are another matter there.
#[cfg(not(unix))]
fn foreign_rights(_file: &std::fs::File) -> io::Result<u32> {
    Ok(0)
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

    #[cfg(unix)]
    #[test]
    fn a_token_file_that_others_may_read_is_refused_with_the_way_to_mend_it() {
        use std::os::unix::fs::PermissionsExt as _;

        let temp = tempfile::tempdir().expect("temp");
        let path = temp.path().join("token");
        std::fs::write(&path, "T\n").expect("written");
        for (mode, refused) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o620, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            let read = read_token(&path);
            if !refused {
                assert_eq!(read.as_deref(), Ok("T\n"), "{mode:o}");
                continue;
            }
            let what = format!("{} is open to others (mode 0{mode:o})", path.display());
            let why = "whoever reads a join token can bring a machine into the cluster";
            assert_eq!(read, Err(Failure::new(4, what, why, format!("chmod 600 {}", path.display()))));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        std::fs::write(&path, "t".repeat(5_000)).expect("written");
        assert!(read_token(&path).expect_err("too long").page(false).contains("too long for a token"));
        assert_eq!(read_token(&temp.path().join("missing")).expect_err("missing").exit(), 2);
    }
}
