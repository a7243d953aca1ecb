//! On which nodes a model shall be: in records of wishes and in the commands that ask for them.

use ollamax_core::catalog::Replicas;
use ollamax_proto::disk;
use ollamax_proto::disk::replicas::Of;
use ollamax_types::NodeId;

pub(crate) fn encode(replicas: &Replicas) -> disk::Replicas {
    let of = match replicas {
        Replicas::Count(count) => Of::Count(*count),
        Replicas::All => Of::All(disk::LogBlank {}),
        Replicas::Nodes(nodes) => Of::Nodes(disk::NodeList { nodes: nodes.iter().map(|node| node.0).collect() }),
    };
    disk::Replicas { of: Some(of) }
}

/// `None`: a newer release wrote it.
pub(crate) fn decode(stored: Option<disk::Replicas>) -> Option<Replicas> {
    Some(match stored?.of? {
        Of::Count(count) => Replicas::Count(count),
        Of::All(disk::LogBlank {}) => Replicas::All,
        Of::Nodes(list) => Replicas::Nodes(list.nodes.into_iter().map(NodeId).collect()),
    })
}
