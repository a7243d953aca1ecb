//! Files that an administrator has read again, on one node or several, and what is said of them on the wire.
//!
//! All nodes read at the same time, each one file after the other. A node that cannot be asked, or does not have the
//! model, ends the stream behind the last word of the others. What another node says is checked before it is believed.

use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use tonic::Status;

use ollamax_proto::v1;
use ollamax_proto::v1::verify_news::Sight as Word;
use ollamax_transfer::{BlobSpec, PullError, Sight, VerifyNews, VerifyOrder};
use ollamax_types::{Digest, ErrorCode, NodeId, limits};

use crate::error::words_of;
use crate::grpc::Engines;
use crate::grpc::daemon::AdminError;

use super::{Pulls, parse};

/// Most pieces of one file that are named.
const PIECES_MAX: usize = 1_024;

/// What is told of files.
pub(super) type NewsStream = BoxStream<'static, Result<v1::VerifyNews, Status>>;

/// What one node says: its id and name, and that.
type Told = (NodeId, String, Result<VerifyNews, PullError>);

// === impl Pulls ===

impl Pulls {
    /// Has the nodes that are named, or this one, read their files again.
    pub(super) fn verify_files(&self, asked: &v1::VerifyRequest) -> Result<NewsStream, AdminError> {
        let Engines { metadata, transfer, .. } = self.0.engines()?;
        let name = if asked.name.is_empty() { None } else { Some(parse(&asked.name)?) };
        let targets = self.targets(metadata.node(), &asked.nodes)?;
        let told = targets.into_iter().map(|target| {
            let order = VerifyOrder { name: name.clone(), repair: !asked.no_repair };
            let news = transfer.verify_at(target.id, order);
            news.map(move |news| (target.id, target.name.clone(), news)).boxed()
        });
        Ok(merged(stream::select_all(told)))
    }
}

/// What all nodes say, and then the first error.
fn merged(told: impl Stream<Item = Told> + Send + 'static) -> NewsStream {
    let begin = (told.boxed(), None::<AdminError>);
    let merged = stream::unfold(begin, |(mut told, mut failure)| async move {
        loop {
            match told.next().await {
                Some((node, name, Ok(news))) => {
                    return Some((Ok(to_wire(&news, (node, &name))), (told, failure)));
                }
                Some((_, name, Err(error))) => {
                    failure.get_or_insert_with(|| unread(&name, &error));
                }
                None => return Some((Err(Status::from(failure?)), (told, None))),
            }
        }
    });
    merged.boxed()
}

/// Why a node read nothing, or not all.
fn unread(node: &str, error: &PullError) -> AdminError {
    let (why, next) = match error.code() {
        ErrorCode::ModelNotFound => ("there is nothing to read", "ollamax model list"),
        ErrorCode::Overloaded => ("it has a bound", "repeat the command when one of them is over"),
        ErrorCode::PeerUnreachable => ("nothing was changed by asking", "ollamax node list"),
        // Nothing is fetched here, so it is the manifest of a model in that node's store.
        ErrorCode::ManifestInvalid => (
            "no node counts on a copy there, and a runtime does not list it",
            "where a wish has that node among its own, it comes again by itself; else: ollamax model pull NAME",
        ),
        _ => return AdminError::of_pull(node, error),
    };
    AdminError::new(error.code(), words_of(error), format!("on node {node}: {why}"), next)
}

/// As it is sent, with the node that says it.
#[must_use]
pub fn to_wire(news: &VerifyNews, (node, node_name): (NodeId, &str)) -> v1::VerifyNews {
    let (word, pieces, reason) = match &news.sight {
        None => (Word::Unspecified, Vec::new(), String::new()),
        Some(Sight::Sound) => (Word::Sound, Vec::new(), String::new()),
        Some(Sight::Damaged { pieces }) => {
            (Word::Damaged, pieces.iter().copied().take(PIECES_MAX).collect(), String::new())
        }
        Some(Sight::Gone) => (Word::Gone, Vec::new(), String::new()),
        Some(Sight::Unread { reason }) => (Word::Unread, Vec::new(), reason.clone()),
    };
    let mut message = v1::VerifyNews {
        node_id: node.0,
        node_name: node_name.to_owned(),
        sha256: news.blob.sha256.0.to_vec(),
        name: news.name.to_string(),
        size_bytes: news.blob.size_bytes,
        done_bytes: news.done_bytes,
        pieces,
        reason,
        repaired: news.repaired,
        ..v1::VerifyNews::default()
    };
    message.set_sight(word);
    message
}

/// As it was meant; `None` where it makes no sense.
#[must_use]
pub fn from_wire(message: v1::VerifyNews) -> Option<VerifyNews> {
    let (word, size_bytes, done_bytes) = (Word::try_from(message.sight).ok()?, message.size_bytes, message.done_bytes);
    if size_bytes > limits::BLOB_BYTES_MAX || done_bytes > size_bytes || message.pieces.len() > PIECES_MAX {
        return None;
    }
    let sight = match word {
        Word::Unspecified => None,
        Word::Sound => Some(Sight::Sound),
        Word::Damaged => Some(Sight::Damaged { pieces: message.pieces }),
        Word::Gone => Some(Sight::Gone),
        Word::Unread => Some(Sight::Unread { reason: message.reason }),
    };
    let sha256 = message.sha256.try_into().ok().map(Digest)?;
    let (blob, name) = (BlobSpec { sha256, size_bytes }, message.name.parse().ok()?);
    Some(VerifyNews { blob, name, done_bytes, sight, repaired: message.repaired })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(sight: Option<Sight>) -> VerifyNews {
        let blob = BlobSpec { sha256: Digest([7; 32]), size_bytes: 9 << 20 };
        VerifyNews { blob, name: "m".parse().expect("a name"), done_bytes: 4 << 20, sight, repaired: None }
    }

    #[test]
    fn what_a_node_says_comes_as_it_went() {
        let damaged = Sight::Damaged { pieces: vec![1, 2] };
        let sights = [Sight::Sound, damaged.clone(), Sight::Gone, Sight::Unread { reason: "EIO".to_owned() }];
        for sight in sights.into_iter().map(Some).chain([None]) {
            let news = news(sight);
            assert_eq!(from_wire(to_wire(&news, (NodeId(2), "n2"))), Some(news));
        }
        let mended = VerifyNews { repaired: Some(true), ..news(Some(damaged)) };
        let sent = to_wire(&mended, (NodeId(2), "n2"));
        assert_eq!((sent.node_id, sent.node_name.as_str()), (2, "n2"));
        assert_eq!(from_wire(sent), Some(mended));
        let many = news(Some(Sight::Damaged { pieces: (0..5_000).collect() }));
        assert_eq!(to_wire(&many, (NodeId(2), "n2")).pieces.len(), PIECES_MAX);
    }

    #[test]
    fn what_makes_no_sense_is_not_believed() {
        let sent = || to_wire(&news(None), (NodeId(2), "n2"));
        assert!(from_wire(sent()).is_some());
        let rows = [
            v1::VerifyNews { sha256: vec![7; 31], ..sent() },
            v1::VerifyNews { name: "/".to_owned(), ..sent() },
            v1::VerifyNews { done_bytes: u64::MAX, ..sent() },
            v1::VerifyNews { size_bytes: u64::MAX, ..sent() },
            v1::VerifyNews { sight: 99, ..sent() },
            v1::VerifyNews { pieces: vec![0; PIECES_MAX + 1], ..sent() },
        ];
        for row in rows {
            assert_eq!(from_wire(row.clone()), None, "{row:?}");
        }
    }

    #[tokio::test]
    async fn a_node_that_cannot_be_asked_is_told_behind_the_words_of_the_others() {
        let lost = PullError::Elsewhere {
            node: NodeId(3),
            code: ErrorCode::PeerUnreachable,
            text: "no connection".to_owned(),
        };
        let absent = PullError::NotHere { name: "m".parse().expect("a name") };
        let told = [
            (NodeId(3), "n3".to_owned(), Err(lost)),
            (NodeId(1), "n1".to_owned(), Ok(news(Some(Sight::Sound)))),
            (NodeId(2), "n2".to_owned(), Err(absent.clone())),
        ];
        let heard: Vec<_> = merged(stream::iter(told)).collect().await;
        assert_eq!(heard[0].as_ref().map(|news| news.node_name.clone()).ok(), Some("n1".to_owned()));
        let error = heard[1].as_ref().expect_err("one could not be asked");
        assert_eq!((heard.len(), error.message()), (2, "node 3: no connection"));
        let absent = unread("n2", &absent);
        assert_eq!(
            (absent.code, absent.why.as_str()),
            (ErrorCode::ModelNotFound, "on node n2: there is nothing to read")
        );
    }

    #[test]
    fn a_damaged_manifest_is_told_as_one_and_a_disk_that_fails_is_none() {
        let check = |error: &PullError, why: &str, next: &str| {
            let told = unread("n2", error);
            let expected = (error.code(), format!("on node n2: {why}"), next.to_owned());
            assert_eq!((told.code, told.why, told.next), expected, "{error}");
        };
        let (name, why) = ("m".parse().expect("a name"), "/models/m: no JSON".to_owned());
        let here = PullError::DamagedManifest { name, why };
        let there = PullError::Elsewhere { node: NodeId(2), code: here.code(), text: here.to_string() };
        let gone = "no node counts on a copy there, and a runtime does not list it";
        let again = "where a wish has that node among its own, it comes again by itself; else: ollamax model pull NAME";
        check(&here, gone, again);
        check(&there, gone, again);
        let (refused, log) = ("its disk refused", "on that node: ollamax logs --level error");
        check(&PullError::Disk("the index of files cannot be opened".to_owned()), refused, log);
        let text = "the index of files cannot be opened".to_owned();
        check(&PullError::Elsewhere { node: NodeId(2), code: ErrorCode::StorageFailed, text }, refused, log);
    }
}
