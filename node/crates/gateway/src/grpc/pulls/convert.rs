//! A pull's progress on the wire, both ways.
//!
//! A failure travels as its code and its text, and comes back as [`PullError::Elsewhere`]. What a node says is checked
//! before it is believed; sums are not taken from it, they are made of its parts.

use std::time::Duration;

use ollamax_core::rates::MINUTES_PER_DAY;
use ollamax_proto::v1;
use ollamax_proto::v1::pull_progress::{Stage as Step, Wait as Cause};
use ollamax_transfer::{BlobProgress, BlobSpec, PullError, PullProgress, Source, SourceProgress, Stage, Wait};
use ollamax_types::{Digest, ErrorCode, NodeId, limits};

use crate::error::words_of;

/// Most files that one message may name: layers and the configuration.
const BLOBS_MAX: usize = limits::MANIFEST_LAYERS_MAX + 1;
/// Most sources that one message may name: all members, the registry, a bundle, and what was there.
const SOURCES_MAX: usize = limits::MEMBERS_MAX + 3;

/// As it is sent; `name_of` names nodes as people know them.
#[must_use]
pub fn to_wire(progress: &PullProgress, name_of: &dyn Fn(NodeId) -> String) -> v1::PullProgress {
    let (code, error) = match &progress.stage {
        Stage::Failed(error) => (error.code().as_str().to_owned(), words_of(error)),
        _ => (String::new(), String::new()),
    };
    let blob = |blob: &BlobProgress| v1::BlobProgress {
        sha256: blob.blob.sha256.0.to_vec(),
        size_bytes: blob.blob.size_bytes,
        verified_bytes: blob.verified_bytes,
    };
    let source = |from: &SourceProgress| v1::SourceProgress { source: from.source.to_string(), bytes: from.bytes };
    let mut message = v1::PullProgress {
        name: progress.name.to_string(),
        node_id: progress.node.0,
        node_name: name_of(progress.node),
        digest: progress.digest.map(|digest| digest.0.to_vec()).unwrap_or_default(),
        blobs: progress.blobs.iter().map(blob).collect(),
        sources: progress.sources.iter().map(source).collect(),
        verified_bytes: progress.verified_bytes(),
        total_bytes: progress.total_bytes(),
        bytes_per_second: progress.bytes_per_second,
        left_ms: progress.left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        code,
        error,
        remark: progress.remark.as_deref().unwrap_or_default().to_owned(),
        ..v1::PullProgress::default()
    };
    message.set_stage(step_of(&progress.stage));
    message.set_wait(progress.wait.as_ref().map_or(Cause::Unspecified, cause_of));
    match &progress.wait {
        Some(Wait::Window { until_minute }) => message.wait_until_minute = until_minute.map(u32::from),
        Some(Wait::Store { reason }) => message.wait_reason.clone_from(reason),
        Some(Wait::FirstCopy | Wait::Quorum | Wait::Runtime) | None => {}
    }
    message
}

/// As it was meant; `None` where it makes no sense.
#[must_use]
pub fn from_wire(message: v1::PullProgress) -> Option<PullProgress> {
    if message.blobs.len() > BLOBS_MAX || message.sources.len() > SOURCES_MAX {
        return None;
    }
    let stage = stage_of(&message)?;
    let digest = if message.digest.is_empty() { None } else { Some(digest_of(&message.digest)?) };
    let blob = |blob: &v1::BlobProgress| {
        let (size_bytes, verified_bytes) = (blob.size_bytes, blob.verified_bytes);
        let blob = BlobSpec { sha256: digest_of(&blob.sha256)?, size_bytes };
        (verified_bytes <= size_bytes).then_some(BlobProgress { blob, verified_bytes })
    };
    let source =
        |from: &v1::SourceProgress| Some(SourceProgress { source: source_of(&from.source)?, bytes: from.bytes });
    Some(PullProgress {
        name: message.name.parse().ok()?,
        node: Some(NodeId(message.node_id)).filter(|node| node.0 != 0)?,
        stage,
        digest,
        blobs: message.blobs.iter().map(blob).collect::<Option<_>>()?,
        sources: message.sources.iter().map(source).collect::<Option<_>>()?,
        bytes_per_second: message.bytes_per_second,
        left: message.left_ms.map(Duration::from_millis),
        wait: wait_of(&message),
        remark: (!message.remark.is_empty()).then(|| message.remark.as_str().into()),
    })
}

const fn cause_of(wait: &Wait) -> Cause {
    match wait {
        Wait::FirstCopy => Cause::FirstCopy,
        Wait::Quorum => Cause::Quorum,
        Wait::Window { .. } => Cause::Window,
        Wait::Store { .. } => Cause::Store,
        Wait::Runtime => Cause::Runtime,
    }
}

/// What a later release may wait for has no name here.
fn wait_of(message: &v1::PullProgress) -> Option<Wait> {
    match message.wait() {
        Cause::Unspecified => None,
        Cause::FirstCopy => Some(Wait::FirstCopy),
        Cause::Quorum => Some(Wait::Quorum),
        Cause::Window => {
            let minute = message.wait_until_minute.filter(|minute| *minute < MINUTES_PER_DAY);
            Some(Wait::Window { until_minute: minute.and_then(|minute| u16::try_from(minute).ok()) })
        }
        Cause::Store => Some(Wait::Store { reason: message.wait_reason.clone() }),
        Cause::Runtime => Some(Wait::Runtime),
    }
}

const fn step_of(stage: &Stage) -> Step {
    match stage {
        Stage::Waiting => Step::Waiting,
        Stage::Resolving => Step::Resolving,
        Stage::Checking => Step::Checking,
        Stage::Fetching => Step::Fetching,
        Stage::Verifying => Step::Verifying,
        Stage::Publishing => Step::Publishing,
        Stage::Settling => Step::Settling,
        Stage::Done => Step::Done,
        Stage::Failed(_) => Step::Failed,
    }
}

fn stage_of(message: &v1::PullProgress) -> Option<Stage> {
    Some(match message.stage() {
        Step::Unspecified => return None,
        Step::Waiting => Stage::Waiting,
        Step::Resolving => Stage::Resolving,
        Step::Checking => Stage::Checking,
        Step::Fetching => Stage::Fetching,
        Step::Verifying => Stage::Verifying,
        Step::Publishing => Stage::Publishing,
        Step::Settling => Stage::Settling,
        Step::Done => Stage::Done,
        Step::Failed => Stage::Failed(PullError::Elsewhere {
            node: NodeId(message.node_id),
            // A later release may know more codes.
            code: ErrorCode::from_text(&message.code).unwrap_or(ErrorCode::Internal),
            text: message.error.clone(),
        }),
    })
}

fn source_of(text: &str) -> Option<Source> {
    match text {
        "origin" => Some(Source::Origin),
        "here" => Some(Source::Here),
        "bundle" => Some(Source::Bundle),
        _ => text.strip_prefix("node/")?.parse().ok().map(Source::Node),
    }
}

fn digest_of(bytes: &[u8]) -> Option<Digest> {
    Some(Digest(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(stage: Stage) -> PullProgress {
        let blob = |byte, size_bytes, verified_bytes| BlobProgress {
            blob: BlobSpec { sha256: Digest([byte; 32]), size_bytes },
            verified_bytes,
        };
        let source = |source, bytes| SourceProgress { source, bytes };
        PullProgress {
            name: "127.0.0.1:5000/library/Tiny:v1".parse().expect("a name"),
            node: NodeId(2),
            stage,
            digest: Some(Digest([7; 32])),
            blobs: [blob(1, 9, 4), blob(2, 0, 0)].into(),
            sources: vec![
                source(Source::Origin, 3),
                source(Source::Here, 1),
                source(Source::Node(NodeId(3)), 0),
                source(Source::Bundle, 9),
            ],
            bytes_per_second: Some(5),
            left: Some(Duration::from_millis(1_500)),
            wait: None,
            remark: None,
        }
    }

    fn sent(progress: &PullProgress) -> v1::PullProgress {
        to_wire(progress, &|node| format!("n{node}"))
    }

    #[test]
    fn what_is_sent_comes_back() {
        use Stage::{Checking, Done, Fetching, Publishing, Resolving, Settling, Verifying, Waiting};
        for stage in [Waiting, Resolving, Checking, Fetching, Verifying, Publishing, Settling, Done] {
            let progress = progress(stage);
            let message = sent(&progress);
            assert_eq!((message.node_name.as_str(), message.verified_bytes, message.total_bytes), ("n2", 4, 9));
            assert_eq!(from_wire(message), Some(progress));
        }
        let window = |until_minute| Wait::Window { until_minute };
        let store = Wait::Store { reason: "none at /models".to_owned() };
        for wait in [Wait::FirstCopy, Wait::Quorum, window(Some(1_439)), window(None), store, Wait::Runtime] {
            let waiting = PullProgress { wait: Some(wait), ..progress(Waiting) };
            assert_eq!(from_wire(sent(&waiting)), Some(waiting));
        }
        let odd = PullProgress { wait: Some(window(Some(1_440))), ..progress(Waiting) };
        assert_eq!(from_wire(sent(&odd)).map(|odd| odd.wait), Some(Some(window(None))));
        let later = v1::PullProgress { wait: 99, ..sent(&progress(Waiting)) };
        assert_eq!(from_wire(later), Some(progress(Waiting)));
        let remark = Some("the registry did not answer".into());
        let remarked = PullProgress { remark, ..progress(Waiting) };
        assert_eq!(from_wire(sent(&remarked)), Some(remarked));
        let bare = PullProgress { digest: None, bytes_per_second: None, left: None, ..progress(Resolving) };
        assert_eq!(from_wire(sent(&bare)), Some(bare));
    }

    #[test]
    fn a_failure_comes_back_as_that_of_its_node() {
        let message = sent(&progress(Stage::Failed(PullError::Cancelled)));
        assert_eq!((message.code.as_str(), message.error.as_str()), ("pull_cancelled", "the pull was cancelled"));
        let failed = |code: &str| {
            let message = v1::PullProgress { code: code.to_owned(), ..message.clone() };
            from_wire(message).map(|progress| progress.stage)
        };
        let expected = |code| {
            let text = "the pull was cancelled".to_owned();
            Some(Stage::Failed(PullError::Elsewhere { node: NodeId(2), code, text }))
        };
        assert_eq!(failed("pull_cancelled"), expected(ErrorCode::PullCancelled));
        // And goes on as it came.
        let again = failed("pull_cancelled").map(|stage| sent(&progress(stage)));
        assert_eq!(again, Some(message.clone()));
        assert_eq!(failed("of_a_later_release"), expected(ErrorCode::Internal));
    }

    #[test]
    fn what_makes_no_sense_is_not_believed() {
        let good = sent(&progress(Stage::Fetching));
        let check = |change: &dyn Fn(&mut v1::PullProgress)| {
            let mut message = good.clone();
            change(&mut message);
            assert_eq!(from_wire(message.clone()), None, "{message:?}");
        };
        check(&|message| message.stage = 0);
        check(&|message| message.stage = 99);
        check(&|message| message.node_id = 0);
        check(&|message| message.name = "../x".to_owned());
        check(&|message| message.digest = vec![7; 31]);
        check(&|message| message.blobs[0].sha256.clear());
        check(&|message| message.blobs[0].verified_bytes = 10);
        check(&|message| message.blobs = vec![message.blobs[0].clone(); BLOBS_MAX + 1]);
        check(&|message| message.sources[0].source = "node/x".to_owned());
        check(&|message| message.sources[0].source = "moon".to_owned());
        check(&|message| message.sources = vec![message.sources[0].clone(); SOURCES_MAX + 1]);
    }
}
