//! What a node must be to have a model, and what is wrong with one that is not.
//!
//! Always holds: what may pass by itself (silence, a runtime that starts, a driver that does not answer) speaks against
//! a new copy only, never against one that lies there. A copy that must go is [`Site::misplaced`] by what people said:
//! the node is being emptied, or the wish keeps away from it. How much is free is said by who plans; where the wish
//! wants some of a disk left, a node that does not tell what it has free keeps nothing free for all that is known.

use ollamax_types::{ErrorCode, NodeId, SpareRule};

use super::Site;
use crate::catalog::{Cordon, Want};
use crate::health::Health;

/// Why a node cannot have a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It holds no models.
    Gateway,
    /// It takes no requests: it is drained, or starts or stops.
    Drained,
    /// Its runtime does not answer.
    NoRuntime,
    /// It has been silent for long.
    Dead,
    /// Its disk has too little room.
    NoRoom {
        /// What the model needs.
        needed_bytes: u64,
        /// What is free.
        free_bytes: u64,
    },
    /// It is no member, or not any more.
    Removed,
    /// A wish on record names it, and it has left or was removed since: nobody takes its place.
    Departed,
    /// It has told in this round that it cannot.
    Told(ErrorCode),
    /// It takes no new copies.
    Cordoned,
    /// The model is to be kept away from it.
    Avoided,
    /// It does not have a label that is wanted.
    Label {
        /// Which one.
        key: String,
        /// What it would have to say.
        wanted: String,
    },
    /// No GPU of it has memory enough.
    GpuMemory {
        /// What the wish says.
        needed_bytes: u64,
        /// What the largest has.
        has_bytes: u64,
    },
    /// Its disk would become too full.
    DiskWatermark {
        /// How full it may become.
        percent: u64,
    },
    /// Its disk would not keep free what the wish says.
    DiskFree {
        /// What the wish says.
        kept_bytes: u64,
        /// What would be left; `None` where it is not known what is free.
        left_bytes: Option<u64>,
    },
    /// It has a copy, and files that are not what their names say: nobody relies on it.
    Damaged,
    /// Its model store is not there.
    NoStore {
        /// Where it looks for it.
        place: String,
    },
}

// === impl Unfit ===

impl Unfit {
    /// What so much free space lacks for a copy of this size, as by this rule something stays free beside it.
    pub(super) fn of_room(size_bytes: u64, free_bytes: u64, spare: SpareRule) -> Option<Self> {
        let needed_bytes = size_bytes.saturating_add(spare.beside(size_bytes));
        (free_bytes < needed_bytes).then_some(Self::NoRoom { needed_bytes, free_bytes })
    }

    /// What a disk with so much free space lacks for a copy of this size, where so much is to stay free beside it.
    #[must_use]
    pub fn of_disk(kept_bytes: u64, size_bytes: u64, free_bytes: Option<u64>) -> Option<Self> {
        let left_bytes = free_bytes.map(|free_bytes| free_bytes.saturating_sub(size_bytes));
        let is_enough = kept_bytes == 0 || left_bytes.is_some_and(|left_bytes| left_bytes >= kept_bytes);
        (!is_enough).then_some(Self::DiskFree { kept_bytes, left_bytes })
    }

    /// What is wrong with the node of this name, for people.
    #[must_use]
    pub fn of(&self, node: &str) -> String {
        match self {
            Self::Gateway => format!("{node} is a gateway"),
            Self::Drained => format!("{node} takes no requests: it is drained, or starts or stops just now"),
            Self::NoRuntime => format!("{node} has no runtime that answers"),
            Self::Dead => format!("{node} is not heard"),
            Self::NoRoom { needed_bytes, free_bytes } => {
                format!("{node}: {} needed, {} free", size_text(*needed_bytes), size_text(*free_bytes))
            }
            Self::Removed => format!("{node} is no member"),
            Self::Departed => format!("{node} is no member any more"),
            Self::Told(code) => format!("{node} has failed ({code})"),
            Self::Cordoned => format!("{node} takes no new models"),
            Self::Avoided => format!("{node} is to be avoided"),
            Self::Label { key, wanted } => format!("{node} is not labelled {key}={wanted}"),
            Self::GpuMemory { needed_bytes: needed, has_bytes: 0 } => {
                format!("{node}: {} of GPU memory needed, none known", size_text(*needed))
            }
            Self::GpuMemory { needed_bytes, has_bytes } => {
                format!("{node}: {} of GPU memory needed, {} there", size_text(*needed_bytes), size_text(*has_bytes))
            }
            Self::DiskWatermark { percent } => format!("{node}: its disk would be more than {percent} % full"),
            Self::DiskFree { kept_bytes, left_bytes: None } => {
                format!("{node}: {} of its disk to stay free, what is free is not known", size_text(*kept_bytes))
            }
            Self::DiskFree { kept_bytes, left_bytes: Some(left_bytes) } => {
                let (kept, left) = (size_text(*kept_bytes), size_text(*left_bytes));
                format!("{node}: {kept} of its disk to stay free, {left} would be")
            }
            Self::Damaged => format!("{node} has damaged files"),
            Self::NoStore { place } => format!("{node} has no model store at {place}"),
        }
    }
}

// === impl Site ===

impl Site {
    /// What speaks against the node just now, whatever it is wanted for.
    pub(super) fn unable(&self) -> Option<Unfit> {
        if self.gateway {
            Some(Unfit::Gateway)
        } else if self.drained {
            Some(Unfit::Drained)
        } else if self.health == Health::Dead {
            Some(Unfit::Dead)
        } else if !self.runtime_up {
            Some(Unfit::NoRuntime)
        } else {
            None
        }
    }

    /// What people said against a copy there, also against one that lies there.
    pub(super) fn misplaced(&self, want: &Want) -> Option<Unfit> {
        if self.cordon == Cordon::Emptying {
            return Some(Unfit::Cordoned);
        }
        if want.avoid.contains(&self.node) {
            return Some(Unfit::Avoided);
        }
        let other = want.labels.iter().find(|(key, wanted)| self.labels.get(*key) != Some(*wanted));
        other.map(|(key, wanted)| Unfit::Label { key: key.clone(), wanted: wanted.clone() })
    }

    /// What speaks against one copy more there that nobody needs, of a model of this size.
    #[must_use]
    pub fn unfit_for(&self, want: &Want, size_bytes: u64, disk_percent_max: u64) -> Option<Unfit> {
        let unfit = self.unable().or_else(|| self.unsuited(want)).or_else(|| self.without_store());
        unfit.or_else(|| self.no_room(want, size_bytes, self.disk_free_bytes, disk_percent_max))
    }

    /// What speaks against a copy that need not be there just now, and not against one that people wait for: a store
    /// that is not there may come.
    pub(super) fn without_store(&self) -> Option<Unfit> {
        self.no_store_at.clone().map(|place| Unfit::NoStore { place })
    }

    /// What so much free space lacks for such a copy: something stays free beside it, the disk does not become fuller
    /// than people want, and what the wish wants left is left.
    pub(super) fn no_room(&self, want: &Want, size_bytes: u64, free_bytes: Option<u64>, percent: u64) -> Option<Unfit> {
        let too_full = free_bytes.and_then(|free_bytes| self.too_full(size_bytes, free_bytes, percent));
        too_full.or_else(|| Unfit::of_disk(want.disk_free_bytes_min, size_bytes, free_bytes))
    }

    fn too_full(&self, size_bytes: u64, free_bytes: u64, percent: u64) -> Option<Unfit> {
        let no_room = Unfit::of_room(size_bytes, free_bytes, self.spare);
        if no_room.is_some() {
            return no_room;
        }
        let total_bytes = u128::from(self.disk_total_bytes?);
        let left_bytes = u128::from(free_bytes - size_bytes);
        let used_bytes = total_bytes.saturating_sub(left_bytes);
        (used_bytes * 100 > total_bytes * u128::from(percent)).then_some(Unfit::DiskWatermark { percent })
    }

    /// What speaks against this model there: more against a new copy than against one that lies there.
    pub(super) fn unsuited(&self, want: &Want) -> Option<Unfit> {
        let misplaced = self.misplaced(want);
        if misplaced.is_some() || self.holds {
            return misplaced;
        }
        if self.cordon == Cordon::Cordoned {
            return Some(Unfit::Cordoned);
        }
        let (needed_bytes, has_bytes) = (want.gpu_memory_bytes_min, self.gpu_memory_bytes);
        (has_bytes < needed_bytes).then_some(Unfit::GpuMemory { needed_bytes, has_bytes })
    }
}

/// Who is not fit, with the reason.
pub(super) type Reasons = Vec<(NodeId, Unfit)>;

/// A size with the unit that fits it, as people read it.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    const UNITS: [(&str, u64); 5] = [
        ("PB", 1_000_000_000_000_000),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
    ];
    match UNITS.iter().find(|(_, scale)| bytes >= *scale) {
        None => format!("{bytes} B"),
        Some((unit, scale)) if bytes / scale >= 100 => format!("{} {unit}", bytes / scale),
        Some((unit, scale)) => format!("{}.{} {unit}", bytes / scale, bytes % scale / (scale / 10)),
    }
}
