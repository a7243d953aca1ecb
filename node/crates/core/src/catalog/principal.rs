//! Who asked for a change, as the log tells it: `node/3` for a node's own word, `node/3 for admin` for a word that it
//! passes on.
//!
//! The node in front is the one whose key was proved, written by whoever puts the entry into the log. What follows
//! ` for ` is that node's claim: it is kept for the record, names no other node, and grants nothing. Every member's
//! administrators are trusted, so a member may ask for any change, except to speak of another node in its place.

use ollamax_types::NodeId;
use ollamax_types::limits::IDENTIFIER_BYTES_MAX;

use super::command::Command;

/// How the principal of a node begins.
const NODE: &str = "node/";

/// What a node says of who asked cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrue {
    /// It uses another node's name.
    #[error("node {node} speaks for node {claims}")]
    OtherNode {
        /// Whose key was proved.
        node: NodeId,
        /// Whose name it used.
        claims: NodeId,
    },
    /// The text can be nobody's name.
    #[error("{0:?} cannot be who asked for a change")]
    Malformed(String),
}

/// The principal for the log: `node`, whose key was proved, asks for a change and says that it does so for `claimed`.
///
/// # Errors
/// When `claimed` is another node, or a text that could be mistaken for something else in the log.
pub fn stamped(node: NodeId, claimed: &str) -> Result<String, Untrue> {
    let malformed = || Untrue::Malformed(claimed.chars().take(IDENTIFIER_BYTES_MAX).collect());
    if let Some(id) = claimed.strip_prefix(NODE) {
        let claims: NodeId = id.parse().map_err(|_| malformed())?;
        return if claims == node { Ok(format!("{NODE}{node}")) } else { Err(Untrue::OtherNode { node, claims }) };
    }
    let unclear = |c: char| c.is_whitespace() || c.is_control();
    if claimed.is_empty() || claimed.len() > IDENTIFIER_BYTES_MAX || claimed.contains(unclear) {
        return Err(malformed());
    }
    Ok(format!("{NODE}{node} for {claimed}"))
}

/// The node that a principal of the log begins with: the one whose key was proved.
#[must_use]
pub fn node_of(stamped: &str) -> Option<NodeId> {
    let id = stamped.strip_prefix(NODE)?;
    id.split_once(' ').map_or(id, |(id, _)| id).parse().ok()
}

/// For whom a principal of the log asks: whom the node in front speaks for, else who stands there.
#[must_use]
pub fn asker_of(stamped: &str) -> &str {
    stamped.split_once(" for ").map_or(stamped, |(_, asker)| asker)
}

/// Checks that `node` does not say of another what only that one can know: its addresses, its models, which files it
/// has read, which models it uses, the labels that it gives itself, and how it fares with a wish or a task.
///
/// # Errors
/// When it does.
pub fn check_subject(node: NodeId, command: &Command) -> Result<(), Untrue> {
    match command {
        Command::SetAddresses { node: subject, .. }
        | Command::ReportModels { node: subject, .. }
        | Command::BindBlobs { node: subject, .. }
        | Command::ResolveWish { node: subject, .. }
        | Command::TellPull { node: subject, .. }
        | Command::NoteUse { node: subject, .. }
        | Command::NoteCopy { node: subject, .. }
        | Command::TellTasks { node: subject, .. }
        | Command::EndTask { node: subject, .. }
        | Command::SetLabels { node: subject, own: true, .. }
            if *subject != node =>
        {
            Err(Untrue::OtherNode { node, claims: *subject })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use ollamax_types::{Digest, ErrorCode, Incarnation, ModelName, TaskId};

    use super::*;
    use crate::catalog::record::TaskOutcome;

    #[test]
    fn the_proven_node_is_read_from_a_principal_of_the_log() {
        for (principal, expected) in [
            ("node/3", Some(3)),
            ("node/12 for admin", Some(12)),
            ("admin", None),
            ("node/x", None),
            ("node/0", None),
            ("admin for node/7", None),
        ] {
            assert_eq!(node_of(principal), expected.map(NodeId), "{principal:?}");
        }
    }

    #[test]
    fn the_log_names_the_proven_node_and_its_claim_behind_it() {
        let check = |claimed: &str, expected: Result<&str, Untrue>| {
            assert_eq!(stamped(NodeId(3), claimed), expected.map(str::to_owned), "{claimed:?}");
        };
        let malformed = |text: &str| Err(Untrue::Malformed(text.to_owned()));
        check("node/3", Ok("node/3"));
        check("node/03", Ok("node/3"));
        check("admin", Ok("node/3 for admin"));
        check("user/anna@lab", Ok("node/3 for user/anna@lab"));
        check("node/7", Err(Untrue::OtherNode { node: NodeId(3), claims: NodeId(7) }));
        for text in ["", "node/", "node/x", "node/7 for admin", "admin for node/7", "a\nnode/7", "\u{0}"] {
            check(text, malformed(text));
        }
        let long = "x".repeat(IDENTIFIER_BYTES_MAX + 1);
        check(&long, malformed(&long[1..]));
    }

    #[test]
    fn a_node_tells_its_own_addresses_models_files_and_failures_only() {
        let of = |node| {
            let (present, absent, none) = (Vec::new(), Vec::new(), Vec::new);
            let incarnation = Incarnation([1; 16]);
            let (peer_addresses, p2p_addresses, api_addresses) = (none(), none(), none());
            let name = || "m".parse::<ModelName>().expect("a name");
            let (round, digest, code, text) = (1, Digest([1; 32]), ErrorCode::DiskFull, String::new());
            [
                Command::ReportModels { node, present, absent, removed: Vec::new() },
                Command::SetAddresses { node, incarnation, peer_addresses, p2p_addresses, api_addresses },
                Command::BindBlobs { node, blobs: Vec::new() },
                Command::ResolveWish { node, name: name(), round, digest, size_bytes: 1 },
                Command::TellPull { node, name: name(), round, code, text },
                Command::NoteUse { node, day: 1, names: Vec::new() },
                Command::NoteCopy { node, name: name(), round, course: Box::default() },
                Command::TellTasks { node, tasks: Vec::new() },
                Command::EndTask {
                    node,
                    id: TaskId([1; 16]),
                    attempt: 1,
                    outcome: TaskOutcome::Cancelled { text: String::new() },
                },
                Command::SetLabels { node, own: true, set: Default::default(), unset: Vec::new() },
            ]
        };
        let other = Err(Untrue::OtherNode { node: NodeId(3), claims: NodeId(7) });
        assert!(of(NodeId(3)).iter().all(|command| check_subject(NodeId(3), command) == Ok(())));
        assert!(of(NodeId(7)).iter().all(|command| check_subject(NodeId(3), command) == other));
        // What an administrator may ask for through any member, and what a leader decides.
        let name = || "m".parse::<ModelName>().expect("a name");
        let (ingester, targets) = (NodeId(7), vec![NodeId(7)]);
        for command in [
            Command::RemoveMember { node: NodeId(7) },
            Command::PlanPull { name: name(), round: 1, ingester, targets, kind: Default::default() },
            Command::SetLabels { node: NodeId(7), own: false, set: Default::default(), unset: Vec::new() },
            Command::ForgetWish { name: name(), round: None },
            Command::AssignTask { id: TaskId([1; 16]), node: NodeId(7) },
            Command::CancelTask { id: TaskId([1; 16]) },
        ] {
            assert_eq!(check_subject(NodeId(3), &command), Ok(()), "{command:?}");
        }
    }
}
