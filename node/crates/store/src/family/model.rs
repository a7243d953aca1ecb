//! What is kept of names, by model.
//!
//! Key: `13`, model key (open text). Value: version 1, `ModelRow`. Made when something is first done with a name,
//! replaced ever after, gone when nobody has had the name for long.

use std::collections::BTreeMap;

use ollamax_core::catalog::{Drop, Key, Model, Phase, Pin, Since};
use ollamax_proto::disk;
use ollamax_types::{Digest, ModelName, NodeId, Timestamp};

use super::text;
use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x13;
const VERSION: u8 = 1;
const WHAT: &str = "model record";

pub(super) fn encode_key(model: &str) -> Vec<u8> {
    text::prefixed(PREFIX, model)
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::Model(text::read("model key", rest)?))
}

pub(super) fn encode(record: &Model) -> Vec<u8> {
    let (pin, since) = (record.pin.as_ref(), record.phase.since());
    let message = disk::ModelRow {
        name: record.name.full(),
        phase: phase(&record.phase),
        phase_at_ms: since.map_or(0, |since| since.at.0),
        phase_by: since.map(|since| since.by.clone()).unwrap_or_default(),
        phase_note: since.map(|since| since.note.clone()).unwrap_or_default(),
        pin_digest: pin.map(|pin| pin.digest.0.to_vec()).unwrap_or_default(),
        pin_by: pin.map(|pin| pin.by.clone()).unwrap_or_default(),
        pin_at_ms: pin.map_or(0, |pin| pin.at.0),
        head: record.head,
        first: record.first,
        drops: record.drops.iter().map(|(node, dropped)| drop_row(*node, dropped)).collect(),
        used_on: record.used_on,
        noted_at_ms: record.noted_at.0,
        unheld_since_ms: record.unheld_since.map_or(0, |since| since.0),
    };
    seal(VERSION, &message)
}

const fn phase(phase: &Phase) -> u32 {
    match phase {
        Phase::Active => 0,
        Phase::Deprecated(_) => 1,
        Phase::Disabled(_) => 2,
        Phase::Deleted(_) => 3,
    }
}

fn drop_row(node: NodeId, dropped: &Drop) -> disk::DropRow {
    let Drop { digest, at, by, insisted } = dropped;
    disk::DropRow { node: node.0, digest: digest.0.to_vec(), at_ms: at.0, by: by.clone(), insisted: *insisted }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Model, Malformed> {
    let message: disk::ModelRow = unseal(WHAT, VERSION, bytes)?;
    let name: ModelName =
        message.name.parse().map_err(|_| Malformed::new(WHAT, format!("{:?} is not a model name", message.name)))?;
    let since = Since { at: Timestamp(message.phase_at_ms), by: message.phase_by, note: message.phase_note };
    let phase = match message.phase {
        0 => Phase::Active,
        1 => Phase::Deprecated(since),
        2 => Phase::Disabled(since),
        3 => Phase::Deleted(since),
        other => return Err(Malformed::new(WHAT, format!("phase {other} is not known"))),
    };
    let pin = if message.pin_digest.is_empty() {
        None
    } else {
        let digest = Digest(fixed(WHAT, &message.pin_digest)?);
        Some(Pin { digest, by: message.pin_by, at: Timestamp(message.pin_at_ms) })
    };
    let (head, first, used_on) = (message.head, message.first, message.used_on);
    let drops = message.drops.into_iter().map(dropped).collect::<Result<BTreeMap<_, _>, _>>()?;
    let (noted_at, unheld) = (Timestamp(message.noted_at_ms), Timestamp(message.unheld_since_ms));
    let unheld_since = Some(unheld).filter(|since| since.0 > 0);
    Ok(Model { name, phase, pin, head, first, drops, used_on, noted_at, unheld_since })
}

fn dropped(message: disk::DropRow) -> Result<(NodeId, Drop), Malformed> {
    let digest = Digest(fixed(WHAT, &message.digest)?);
    let (at, by, insisted) = (Timestamp(message.at_ms), message.by, message.insisted);
    Ok((NodeId(message.node), Drop { digest, at, by, insisted }))
}
