//! Files that come one by one, before anybody says which model they make: to the runtime beside this node.
//!
//! That is where Ollama's own clients leave them, and where a model of them is made. They lie in its store from then on
//! and nowhere else, so a model that is made of them is made here or not at all. A file that breaks off leaves nothing.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use futures::stream;

use ollamax_core::catalog::Member;
use ollamax_proto::v1;
use ollamax_types::{Digest, ErrorCode, ModelName};

use super::{Pieces, ProgressStream, Wanted};
use crate::grpc::pulls::Pulls;
use crate::grpc::{AdminError, NotDone};

// === impl Pulls ===

impl Pulls {
    /// As [`Pulls::create_model`], of files that came before.
    pub(in crate::grpc) async fn create_of_files(
        &self,
        head: v1::CreateHead,
        files: &BTreeSet<Digest>,
    ) -> Result<ProgressStream, AdminError> {
        let metadata = self.0.metadata()?;
        let wanted = Wanted::read(head)?;
        let maker = self.maker_of(&metadata, wanted.from.as_ref()).await?;
        if let (Some(from), false) = (&wanted.from, files.is_empty() || maker.id == metadata.node()) {
            return Err(lies_elsewhere(&wanted.name, from, &maker.name));
        }
        for file in files {
            if !self.has_file(*file).await? {
                return Err(not_sent(*file, &maker.name));
            }
        }
        let nothing: Pieces = stream::empty().boxed();
        self.make_at(&maker, wanted, nothing)
    }

    /// Whether the runtime beside this node has a file.
    pub(in crate::grpc) async fn has_file(&self, sha256: Digest) -> Result<bool, AdminError> {
        self.keeper()?;
        self.0.daemon.has_file(sha256).await.map_err(not_taken)
    }

    /// Hands a file to the runtime beside this node.
    pub(in crate::grpc) async fn take_file(
        &self,
        sha256: Digest,
        size_bytes: Option<u64>,
        bytes: super::FileBytes,
    ) -> Result<(), AdminError> {
        self.keeper()?;
        self.0.daemon.take_file(sha256, size_bytes, bytes).await.map_err(not_taken)
    }

    /// This node, which must be meant to hold models.
    fn keeper(&self) -> Result<Member, AdminError> {
        self.maker(&self.0.metadata()?, None)
    }
}

/// The runtime's own words stand alone: its clients know them.
fn not_taken(error: NotDone) -> AdminError {
    let next = match error.code {
        ErrorCode::BadRequest => "",
        ErrorCode::DiskFull => "free some space on this node and send it again",
        _ => "ollamax doctor",
    };
    AdminError::new(error.code, error.text, "", next)
}

/// Files beside this node, and a base that another one has.
fn lies_elsewhere(name: &ModelName, from: &ModelName, maker: &str) -> AdminError {
    let what = format!("{name} cannot be made here of {from} and files");
    let why = format!("{from} is on {maker}, and files are taken by the node that makes the model");
    let next = format!("send both to the admin socket of {maker}, or: ollamax model create {name} --modelfile FILE");
    AdminError::new(ErrorCode::BadRequest, what, why, next)
}

/// A file that nobody has sent to this node.
fn not_sent(file: Digest, node: &str) -> AdminError {
    let what = format!("blob sha256:{file} not found on {node}");
    let next = format!("POST it to /api/blobs/sha256:{file} of the same socket first");
    AdminError::new(ErrorCode::BadRequest, what, "a model is made of files that the runtime of this node has", next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_file_was_not_taken_is_told_with_what_helps() {
        let check = |code: ErrorCode, next: &str| {
            let error = not_taken(NotDone { code, text: "so it is".to_owned() });
            assert_eq!(error, AdminError::new(code, "so it is", "", next));
        };
        // A digest that is another one is told in Ollama's words alone.
        check(ErrorCode::BadRequest, "");
        check(ErrorCode::DiskFull, "free some space on this node and send it again");
        check(ErrorCode::RuntimeUnavailable, "ollamax doctor");
    }

    #[test]
    fn who_sent_files_to_another_node_is_told_which_one_makes_the_model() {
        let (name, from): (ModelName, ModelName) = ("mine".parse().expect("valid"), "base".parse().expect("valid"));
        let error = lies_elsewhere(&name, &from, "n2");
        assert_eq!((error.code, error.next.contains("admin socket of n2")), (ErrorCode::BadRequest, true), "{error:?}");
        let file = Digest([7; 32]);
        let error = not_sent(file, "n1");
        assert_eq!(error.what, format!("blob sha256:{file} not found on n1"));
        assert_eq!(error.next, format!("POST it to /api/blobs/sha256:{file} of the same socket first"));
    }
}
