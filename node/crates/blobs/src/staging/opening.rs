//! Takes up what there is of a part, or begins it anew.
//!
//! A part is begun with room for all of it, so that a full disk is met here and not in the middle. What lies there is
//! taken up when its header names the same file, its bytes have the promised length, and no second name shows them to
//! others; else it goes. Nothing is read of the bytes themselves: which of them are what they should be is for
//! [`Part::check`](super::Part::check) to find. The state file is locked for as long as the part is held, so that of
//! two processes over one store one is refused.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use ollamax_types::limits::BLOB_BYTES_MAX;

use crate::fault::Fault;
use crate::space::Space;
use crate::store::{BlobSpec, Owner};
use crate::tree::ChunkHash;

use super::disk;
use super::part::{Files, Known};
use super::slots::{self, HEADER_BYTES, Layout};

/// Where a part lies and to whom it belongs.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// The folder of all parts.
    pub(super) folder: &'a Path,
    pub(super) data_path: PathBuf,
    pub(super) state_path: PathBuf,
    pub(super) owner: Option<Owner>,
    /// What the disk has to give.
    pub(super) space: Option<Space>,
}

/// Opens the two files of a part, and reads what is known of it.
pub(super) fn open(place: &Place<'_>, spec: BlobSpec) -> Result<(Files, Known), Fault> {
    if spec.size_bytes > BLOB_BYTES_MAX {
        return Err(disk::fault("begin", &place.data_path, ErrorKind::InvalidInput, "no file of a model is so large"));
    }
    let Some(state) = disk::open_file(&place.state_path)? else { return begin(place, spec) };
    disk::lock(&state, &place.state_path)?;
    match take_up(place, spec, &state)? {
        Some((data, known)) => Ok((place.files(data, state), known)),
        // The old state stays locked until the new one is there.
        None => begin(place, spec),
    }
}

/// Opens the two files of a part as they are: no room is set aside, and nothing is made.
pub(super) fn find(place: &Place<'_>, spec: BlobSpec) -> Result<Option<(Files, Known)>, Fault> {
    let Some(state) = disk::open_file(&place.state_path)? else { return Ok(None) };
    disk::lock(&state, &place.state_path)?;
    let found = read_part(place, spec, &state)?;
    Ok(found.map(|(data, known)| (place.files(data, state), known)))
}

/// What lies there, if it is of any use, with room for all of it.
fn take_up(place: &Place<'_>, spec: BlobSpec, state: &File) -> Result<Option<(File, Known)>, Fault> {
    let found = read_part(place, spec, state)?;
    if let Some((data, _)) = &found {
        place.set_room_aside(data, spec, state)?;
    }
    Ok(found)
}

/// What lies there, if it is of any use.
fn read_part(place: &Place<'_>, spec: BlobSpec, state: &File) -> Result<Option<(File, Known)>, Fault> {
    let Some(data) = disk::open_file(&place.data_path)? else { return Ok(None) };
    let found = data.metadata().map_err(Fault::at("look at", &place.data_path))?;
    let header = read(state, &place.state_path, 0, HEADER_BYTES as u64)?;
    let Some(stated) = slots::decode_header(&header) else {
        tracing::warn!(path = %place.state_path.display(), "the state of a part is damaged; the part begins anew");
        return Ok(None);
    };
    // Bytes that have a second name are published: nothing is written to them any more.
    if stated != spec || found.len() != spec.size_bytes || found.nlink() != 1 {
        return Ok(None);
    }
    let layout = Layout::of(spec.size_bytes);
    let known = read_known(place, layout, state)?;
    Ok(Some((data, known)))
}

/// What the slots and the hashes say; where they are cut off they say nothing.
fn read_known(place: &Place<'_>, layout: Layout, state: &File) -> Result<Known, Fault> {
    let chunks = layout.chunks();
    let slot = |number: u8| read(state, &place.state_path, layout.slot_at(number), layout.slot_bytes());
    let bytes = [slot(0)?, slot(1)?];
    let Some((number, slot)) = slots::latest([0, 1].map(|number: usize| slots::decode_slot(chunks, &bytes[number])))
    else {
        if bytes.iter().flatten().any(|byte| *byte != 0) {
            let path = place.state_path.display();
            tracing::warn!(%path, "no slot of a part is sound; all of it is fetched again");
        }
        return Ok(Known::nothing(chunks));
    };
    let bytes = read(state, &place.state_path, layout.hash_at(0), layout.file_bytes() - layout.hash_at(0))?;
    let (whole, _) = bytes.as_chunks::<{ size_of::<ChunkHash>() }>();
    let (mut bits, mut hashes) = (slot.bits, whole.to_vec());
    let first_missing = u32::try_from(hashes.len()).unwrap_or(chunks);
    for index in first_missing..chunks {
        bits.clear(index);
    }
    hashes.resize(chunks as usize, ChunkHash::default());
    Ok(Known::new(bits, hashes, slot.epoch, number))
}

/// Begins a part of which nothing is there; what lies in its place goes.
fn begin(place: &Place<'_>, spec: BlobSpec) -> Result<(Files, Known), Fault> {
    place.clear()?;
    let made = make(place, spec);
    if made.is_err() {
        // What there is of it would hold room for nothing.
        drop(place.clear());
    }
    made
}

fn make(place: &Place<'_>, spec: BlobSpec) -> Result<(Files, Known), Fault> {
    let state = disk::create_file(&place.state_path, place.owner)?;
    disk::lock(&state, &place.state_path)?;
    let data = disk::create_file(&place.data_path, place.owner)?;
    place.set_room_aside(&data, spec, &state)?;
    // The header is last: where it is sound, the rest was made.
    let header = slots::encode_header(spec);
    state.write_all_at(&header, 0).map_err(Fault::at("write", &place.state_path))?;
    disk::sync_folder(place.folder)?;
    Ok((place.files(data, state), Known::nothing(Layout::of(spec.size_bytes).chunks())))
}

fn read(file: &File, path: &Path, at: u64, bytes_max: u64) -> Result<Vec<u8>, Fault> {
    disk::read_up_to(file, at, bytes_max).map_err(Fault::at("read", path))
}

// === impl Place ===

impl Place<'_> {
    fn files(&self, data: File, state: File) -> Files {
        Files { data, data_path: self.data_path.clone(), state, state_path: self.state_path.clone() }
    }

    /// Both files get all the room that they will need.
    fn set_room_aside(&self, data: &File, spec: BlobSpec, state: &File) -> Result<(), Fault> {
        let state_bytes = Layout::of(spec.size_bytes).file_bytes();
        disk::allocate(data, spec.size_bytes, self.space).map_err(Fault::at("set room aside for", &self.data_path))?;
        disk::allocate(state, state_bytes, None).map_err(Fault::at("set room aside for", &self.state_path))
    }

    fn clear(&self) -> Result<(), Fault> {
        disk::remove_file(&self.data_path)?;
        disk::remove_file(&self.state_path)
    }
}
