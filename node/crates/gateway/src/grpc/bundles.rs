//! Bundles, as an administrator takes them out of this node and brings them in.
//!
//! A model leaves from the node that is asked and comes to it; no other node has a part in that. What leaves and breaks
//! off ends with an error, so nobody takes it for whole. What comes is told like a pull of one node, with the error
//! behind its last word.

use std::future::ready;
use std::io::{self, ErrorKind};

use futures::stream::{self, BoxStream, StreamExt as _};
use tonic::{Status, Streaming};

use ollamax_core::catalog::{Location, models, read};
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_proto::v1::{export_part, import_part};
use ollamax_transfer::{ComeOrder, PullError};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use super::pulls::{ASKED_BY, PullStream, Pulls, merged, parse};
use super::{AdminError, Engines};
use crate::order;

/// A bundle that leaves.
pub(super) type ExportStream = BoxStream<'static, Result<v1::ExportPart, Status>>;

// === impl Pulls ===

impl Pulls {
    /// A model of this node as one file; of a pinned name the pinned version, or nothing.
    pub(super) async fn export_bundle(&self, asked: v1::ExportRequest) -> Result<ExportStream, AdminError> {
        let Engines { metadata, transfer, .. } = self.0.engines()?;
        let name = parse(&asked.name)?;
        let own = name_of(&metadata, metadata.node());
        let pin = models::pin_of(&*metadata.view(), &name)?;
        if let Some(pin) = pin {
            check_pinned(&metadata, &name, pin)?;
        }
        let leaving = match transfer.leave(&name, pin).await {
            Ok(leaving) => leaving,
            Err(error) => {
                return Err(match (error.code(), pin) {
                    (ErrorCode::ModelNotFound, None) => not_here(&name, &own, &holders(&metadata, &name)?),
                    (ErrorCode::ModelNotFound, Some(pin)) => {
                        pinned_elsewhere(&name, &have_pinned(&metadata, &name, pin)?)
                    }
                    // The record is behind the store.
                    (ErrorCode::DigestConflict, Some(pin)) => {
                        not_the_pinned(&name, pin, &have_pinned(&metadata, &name, pin)?)
                    }
                    _ => not_whole(&own, &name, pin, &error),
                });
            }
        };
        let digest = leaving.digest.0.to_vec();
        let head = v1::ExportHead { digest, length_bytes: leaving.length_bytes, name: leaving.name.to_string() };
        let first = v1::ExportPart { part: Some(export_part::Part::Head(head)) };
        let rest = leaving.bytes.map(move |piece| match piece {
            Ok(data) => Ok(v1::ExportPart { part: Some(export_part::Part::Data(data)) }),
            Err(error) => Err(Status::from(not_whole(&own, &name, pin, &error))),
        });
        Ok(stream::once(ready(Ok(first))).chain(rest).boxed())
    }

    /// A model onto this node from such a file.
    pub(super) async fn import_bundle(&self, mut parts: Streaming<v1::ImportPart>) -> Result<PullStream, AdminError> {
        let Engines { metadata, transfer, .. } = self.0.engines()?;
        let first = parts.message().await.ok().flatten().and_then(|part| part.part);
        let Some(import_part::Part::Head(head)) = first else {
            let next = "ollamax model import FILE";
            return Err(AdminError::new(ErrorCode::BadRequest, "the bundle has no head", "", next));
        };
        let name = if head.name.is_empty() { None } else { Some(parse(&head.name)?) };
        let (only_check, replace) = (head.only_check, head.replace);
        let wanted = ComeOrder { name, only_check, replace, asked_by: ASKED_BY.to_owned() };
        let pieces = parts.map(|part| match part.map(|part| part.part) {
            Ok(Some(import_part::Part::Data(data))) => Ok(data),
            Ok(_) => Err(io::Error::new(ErrorKind::InvalidData, "a part of it has no bytes")),
            Err(status) => Err(io::Error::other(status.message().to_owned())),
        });
        let own = name_of(&metadata, metadata.node());
        match transfer.come(pieces.boxed(), wanted).await {
            Ok(watch) => Ok(merged(order::begun(watch).map(move |state| (own.clone(), state)))),
            Err(error) => Err(AdminError::of_pull(&own, &error)),
        }
    }
}

// === impl AdminError ===

impl AdminError {
    /// A bundle that did not come to this node.
    pub(super) fn of_bundle(node: &str, code: ErrorCode, text: &str) -> Self {
        let (why, next) = match code {
            ErrorCode::DigestMismatch => ("nothing of it is visible to anybody", "copy the file again"),
            ErrorCode::BadRequest => {
                ("nothing was changed", "ollamax model import FILE, a bundle of `ollamax model export`")
            }
            ErrorCode::DigestConflict => (
                "a bundle does not replace another version by accident",
                "ollamax model import FILE --replace, or --name NAME",
            ),
            ErrorCode::PreconditionFailed => ("one name is fetched once at a time", "ollamax model pulls"),
            ErrorCode::Overloaded => ("it has a bound", "repeat the command when one of them is over"),
            ErrorCode::Draining => ("what came so far is kept", "repeat the command when that node has started"),
            _ => ("see its log", "on that node: ollamax logs --level warn"),
        };
        Self::new(code, text, format!("on node {node}: {why}"), next)
    }
}

/// What people call a node.
pub(super) fn name_of(metadata: &metadata::Handle, node: NodeId) -> String {
    let member = read::member(&*metadata.view(), node).ok().flatten();
    member.map_or_else(|| node.to_string(), |member| member.name)
}

/// The nodes that have a model, as people call them.
pub(super) fn holders(metadata: &metadata::Handle, name: &ModelName) -> Result<Vec<String>, AdminError> {
    let locations = read::locations_of(&*metadata.view(), name)?;
    Ok(locations.into_iter().map(|location| name_of(metadata, location.node)).collect())
}

/// That this node has no other version of a pinned name, as far as that is on record.
fn check_pinned(metadata: &metadata::Handle, name: &ModelName, pin: Digest) -> Result<(), AdminError> {
    let own = metadata.node();
    let is_other = |copy: &Location| copy.node == own && copy.model.digest != pin;
    if read::locations_of(&*metadata.view(), name)?.iter().any(is_other) {
        return Err(not_the_pinned(name, pin, &have_pinned(metadata, name, pin)?));
    }
    Ok(())
}

/// The nodes that have the pinned version of a name, as people call them.
fn have_pinned(metadata: &metadata::Handle, name: &ModelName, pin: Digest) -> Result<Vec<String>, AdminError> {
    let locations = read::locations_of(&*metadata.view(), name)?;
    let holders = models::holders(Some(pin), None, &locations);
    Ok(holders.into_iter().map(|node| name_of(metadata, node)).collect())
}

/// A pinned model of which another version lies here.
fn not_the_pinned(name: &ModelName, pin: Digest, holders: &[String]) -> AdminError {
    let what = format!("{name} is pinned at {}, and this node has another version", pin.short());
    let (why, next) = where_pinned(name, holders);
    AdminError::new(ErrorCode::PreconditionFailed, what, why, next)
}

/// A pinned model of which no version lies here.
fn pinned_elsewhere(name: &ModelName, holders: &[String]) -> AdminError {
    let (why, next) = where_pinned(name, holders);
    AdminError::new(ErrorCode::ModelNotFound, format!("{name} is not on this node"), why, next)
}

/// Who has the pinned version, and what to do then.
fn where_pinned(name: &ModelName, holders: &[String]) -> (String, String) {
    match holders {
        [] => ("no node has the pinned one".to_owned(), format!("ollamax model unpin {name}")),
        [one] => (format!("{one} has the pinned one"), format!("on {one}: ollamax model export {name} FILE")),
        [first, ..] => (
            format!("{} have the pinned one", holders.join(" and ")),
            format!("on {first}: ollamax model export {name} FILE"),
        ),
    }
}

/// A model that lies elsewhere, or nowhere.
fn not_here(name: &ModelName, own: &str, holders: &[String]) -> AdminError {
    let what = format!("{name} is not on this node");
    let (why, next) = match holders {
        [] => ("no node has it".to_owned(), format!("ollamax model pull {name} --node {own} --wait")),
        [one] => (format!("{one} has it"), format!("on {one}: ollamax model export {name} FILE")),
        [first, ..] => {
            (format!("{} have it", holders.join(" and ")), format!("on {first}: ollamax model export {name} FILE"))
        }
    };
    AdminError::new(ErrorCode::ModelNotFound, what, why, next)
}

/// A model that does not leave. What a registry has today need not be what a name is pinned at.
fn not_whole(own: &str, name: &ModelName, pin: Option<Digest>, error: &PullError) -> AdminError {
    let code = error.code();
    let (why, next) = match code {
        ErrorCode::DigestMismatch | ErrorCode::StorageCorrupt | ErrorCode::StorageFailed => (
            "what lies in the store is damaged; what was written of the bundle is none",
            match pin {
                Some(_) => format!("ollamax model verify {name} --node {own}"),
                None => format!("remove it from the runtime there, then on {own}: ollama pull {name}"),
            },
        ),
        ErrorCode::Overloaded => ("it has a bound", "repeat the command when one of them is over".to_owned()),
        _ => return AdminError::of_pull(own, error),
    };
    AdminError::new(code, error.to_string(), format!("on node {own}: {why}"), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_elsewhere_is_told_with_where() {
        let name: ModelName = "llama3.2".parse().expect("a name");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let check = |holders: &[&str], why: &str, next: &str| {
            let error = not_here(&name, "n1", &names(holders));
            assert_eq!(
                (error.code, error.what.as_str()),
                (ErrorCode::ModelNotFound, "llama3.2:latest is not on this node")
            );
            assert_eq!((error.why.as_str(), error.next.as_str()), (why, next));
        };
        check(&[], "no node has it", "ollamax model pull llama3.2:latest --node n1 --wait");
        check(&["n2"], "n2 has it", "on n2: ollamax model export llama3.2:latest FILE");
        check(&["n2", "n3"], "n2 and n3 have it", "on n2: ollamax model export llama3.2:latest FILE");
    }

    #[test]
    fn what_is_wrong_with_a_bundle_is_told_with_what_helps() {
        let told = |code| {
            let text = "piece 3 of it is damaged".to_owned();
            AdminError::of_pull("n1", &PullError::Bundle { code, text })
        };
        let damaged = told(ErrorCode::DigestMismatch);
        assert_eq!((damaged.what.as_str(), damaged.next.as_str()), ("piece 3 of it is damaged", "copy the file again"));
        assert_eq!(damaged.why, "on node n1: nothing of it is visible to anybody");
        assert_eq!(told(ErrorCode::DigestConflict).next, "ollamax model import FILE --replace, or --name NAME");
        let name: ModelName = "m".parse().expect("a name");
        let error = PullError::Bundle { code: ErrorCode::DigestMismatch, text: "piece 3 is damaged".to_owned() };
        let next = |pin| not_whole("n1", &name, pin, &error).next;
        assert_eq!(next(None), "remove it from the runtime there, then on n1: ollama pull m:latest");
        assert_eq!(next(Some(Digest([1; 32]))), "ollamax model verify m:latest --node n1");
    }
}
