//! Writing a backup: one pass over one view of the state, chunk by chunk, through the seal into any writer.
//!
//! Everything of it, the page too, is read from the same view. What was written so far is worth nothing until the end
//! is there; the caller writes beside the final name.

use std::io::Write;

use prost::Message;

use ollamax_core::catalog::read;
use ollamax_proto::disk;
use ollamax_proto::disk::backup_part::Part;
use ollamax_security::BackupRecipient;
use ollamax_types::{NodeId, Timestamp};

use super::frame::{self, End, Hashed};
use super::{BackupError, Facts, PAGE_BYTES, Page};
use crate::handle::Handle;
use crate::raft::term_of;
use crate::record::{Applied, RecordError};

/// What a backup is made of besides the state.
#[derive(Debug, Clone)]
pub struct Order {
    /// Wall time.
    pub taken_at: Timestamp,
    /// This node's release.
    pub release: String,
    /// Whose secret half shall open it.
    pub recipient: BackupRecipient,
}

/// How far the writing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes handed to the writer.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
}

/// A backup that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What everybody can read of it.
    pub page: Page,
    /// What only the key shows.
    pub facts: Facts,
    /// Its length.
    pub bytes: u64,
}

impl Handle {
    /// Writes the state of this moment, as this node has applied it. Waits for the disk. `watch` is asked after each
    /// chunk, and ends it by an error. Returns the writer too; nothing is synced.
    ///
    /// # Errors
    /// When the state cannot be read, the writer refuses, or `watch` says so: what was written is of no use then.
    pub fn write_backup<W: Write>(
        &self,
        order: &Order,
        to: W,
        watch: &mut dyn FnMut(Progress) -> Result<(), BackupError>,
    ) -> Result<(Written, W), BackupError> {
        let export = self.0.state.export()?;
        Writing { node: self.node(), order }.run(export, to, watch)
    }
}

/// One backup on its way.
pub(super) struct Writing<'a> {
    pub(super) node: NodeId,
    pub(super) order: &'a Order,
}

impl Writing<'_> {
    pub(super) fn run<W: Write>(
        &self,
        mut export: ollamax_store::Export,
        to: W,
        watch: &mut dyn FnMut(Progress) -> Result<(), BackupError>,
    ) -> Result<(Written, W), BackupError> {
        let failed = BackupError::io("write the backup");
        let (page, header) = self.describe(&export)?;
        let mut out = Hashed::new(to);
        out.write_all(&frame::encode_page(&page)).map_err(&failed)?;
        let mut sealing = self.order.recipient.seal(&mut out).map_err(&failed)?;
        let (mut hasher, mut parts, mut sealed_bytes) = (blake3::Hasher::new(), 0, 0);
        let mut put = |part: Part, hasher: &mut blake3::Hasher| {
            let message = disk::BackupPart { part: Some(part) }.encode_to_vec();
            hasher.update(&message);
            sealed_bytes += message.len() as u64;
            frame::write_message(&mut sealing, &message).map(|()| sealed_bytes)
        };
        put(Part::Header(header.clone()), &mut hasher).map_err(&failed)?;
        while let Some(chunk) = export.next_chunk()? {
            parts += 1;
            let bytes = put(Part::Snapshot(chunk), &mut hasher).map_err(&failed)?;
            watch(Progress { bytes, records: export.families().values().sum() })?;
        }
        let families: Vec<_> = export.families().iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let counts =
            families.iter().map(|(family, records)| disk::BackupCount { family: family.clone(), records: *records });
        let trailer = disk::BackupTrailer {
            parts,
            records: export.count(),
            blake3: hasher.finalize().as_bytes().to_vec(),
            families: counts.collect(),
        };
        put(Part::Trailer(trailer), &mut hasher).map_err(&failed)?;
        sealing.finish().map_err(&failed)?;
        let end = End { payload_bytes: out.bytes - PAGE_BYTES as u64, blake3: out.blake3() };
        out.write_all(&frame::encode_end(&end)).map_err(&failed)?;
        out.flush().map_err(&failed)?;
        let facts = facts(&header, export.count(), families);
        Ok((Written { page, facts, bytes: out.bytes }, out.inner))
    }

    /// Whose state it is, and how far it reaches.
    fn describe(&self, export: &ollamax_store::Export) -> Result<(Page, disk::BackupHeader), BackupError> {
        let cluster = read::cluster(export.view())?.ok_or(BackupError::NoCluster)?;
        let unreadable = |error: RecordError| BackupError::damaged("in the state of this node", error.to_string());
        let applied = Applied::from_store(export.meta()).map_err(unreadable)?;
        let page = Page {
            cluster: cluster.id,
            cluster_name: cluster.name,
            revision: export.meta().index,
            taken_at: self.order.taken_at,
            release: self.order.release.clone(),
            recipient: self.order.recipient.to_string(),
        };
        let header = disk::BackupHeader {
            head: Some(page.to_disk()),
            term: applied.last.as_ref().map_or(0, term_of),
            log_time_ms: applied.log_time.0,
            cluster_version: cluster.version,
            node: self.node.0,
        };
        Ok((page, header))
    }
}

/// What a header and the counts behind it say.
pub(super) fn facts(header: &disk::BackupHeader, records: u64, families: Vec<(String, u64)>) -> Facts {
    Facts {
        term: header.term,
        log_time: Timestamp(header.log_time_ms),
        cluster_version: header.cluster_version,
        node: NodeId(header.node),
        records,
        families,
    }
}
