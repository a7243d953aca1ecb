//! One name with all that is on record of it: which versions it had, who has which, and which one somebody means.
//!
//! A person names a version by its number in the history or by the first digits of its digest. What could be two
//! versions is refused and nothing is guessed.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_core::catalog::models::standing_digest;
use ollamax_core::catalog::{How, Location, Model, Phase, Replicas, Version, View, Wish, read};
use ollamax_proto::v1;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use super::{Keeping, bounded, no_version};
use crate::grpc::daemon::AdminError;
use crate::grpc::wishes::Names;
use crate::order;

/// Fewest digits of a digest that name a version.
const DIGITS_MIN: usize = 4;

/// What is on record of a name.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: ModelName,
    pub(super) copies: Vec<Location>,
    pub(super) wish: Option<Wish>,
    pub(super) model: Option<Model>,
    /// By number.
    pub(super) versions: Vec<Version>,
}

/// A version that somebody means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Its newest number in the history; 0: nobody has noted it.
    pub(super) number: u64,
    pub(super) digest: Digest,
    /// Bytes of its files; 0: not known.
    pub(super) size_bytes: u64,
}

// === impl Case ===

impl Case {
    /// What is on record; an error where nothing is.
    pub(super) fn read(view: &dyn View, name: ModelName) -> Result<Self, AdminError> {
        let (copies, wish) = (read::locations_of(view, &name)?, read::wish(view, &name)?);
        let (model, versions) = (read::model(view, &name)?, read::versions(view, &name)?);
        if copies.is_empty() && wish.is_none() && model.is_none() {
            return Err(unknown(&name));
        }
        Ok(Self { name, copies, wish, model, versions })
    }

    /// The version that it is pinned at.
    pub(super) fn pinned(&self) -> Option<Digest> {
        self.model.as_ref().and_then(Model::pinned)
    }

    /// The version that the name stands for.
    pub(super) fn standing(&self) -> Result<Chosen, AdminError> {
        let served = standing_digest(&self.copies, self.pinned());
        served.map(|digest| self.of(digest)).ok_or_else(|| unknown(&self.name))
    }

    /// Whether the version that was asked for has come, and the history does not end with it yet.
    pub(super) fn is_behind(&self) -> bool {
        let Some(asked) = self.wish.as_ref().and_then(|wish| wish.digest) else { return false };
        let has_come = standing_digest(&self.copies, self.pinned()) == Some(asked);
        has_come && self.versions.last().is_none_or(|newest| newest.digest != asked)
    }

    /// The version before the newest one.
    pub(super) fn before(&self) -> Result<Chosen, AdminError> {
        let newest = self.versions.last();
        let is_other = |version: &&Version| newest.is_some_and(|newest| newest.digest != version.digest);
        self.versions.iter().rfind(is_other).map(Chosen::of).ok_or_else(|| {
            let what = format!("{} had no other version", self.name);
            let next = format!("ollamax model history {}", self.name);
            AdminError::new(ErrorCode::ModelNotFound, what, "its history has one version or none", next)
        })
    }

    /// The version that is meant, out of the history.
    pub(super) fn noted(&self, text: &str) -> Result<Chosen, AdminError> {
        let chosen = self.chosen(text)?;
        if chosen.number == 0 { Err(no_version(&self.name, text)) } else { Ok(chosen) }
    }

    /// The version that is meant, out of the history and what nodes have.
    pub(super) fn chosen(&self, text: &str) -> Result<Chosen, AdminError> {
        let number = text.parse::<u64>().ok();
        if let Some(version) = self.versions.iter().find(|version| Some(version.number) == number) {
            return Ok(Chosen::of(version));
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text).to_lowercase();
        let known = self.versions.iter().map(|version| version.digest);
        let known = known.chain(self.copies.iter().map(|copy| copy.model.digest));
        let meant: BTreeSet<Digest> = known.filter(|digest| digest.to_string().starts_with(&digits)).collect();
        if digits.len() < DIGITS_MIN {
            // What may be a number was meant as one, and nothing at all begins every digest.
            let is_digits = number.is_none() && !digits.is_empty() && !meant.is_empty();
            return Err(if is_digits { too_few_digits(&self.name, text) } else { no_version(&self.name, text) });
        }
        match (meant.first(), meant.len()) {
            (Some(digest), 1) => Ok(self.of(*digest)),
            (Some(_), count) => {
                let what = format!("{count} versions of {} begin with {digits}", self.name);
                let next = format!("ollamax model history {}", self.name);
                Err(AdminError::new(ErrorCode::BadRequest, what, "nothing is guessed", next))
            }
            (None, _) => Err(no_version(&self.name, text)),
        }
    }

    /// What is known of a version.
    fn of(&self, digest: Digest) -> Chosen {
        let copy = self.copies.iter().find(|copy| copy.model.digest == digest);
        let size_bytes = copy.map_or(0, |copy| copy.model.size_bytes);
        let noted = self.versions.iter().rfind(|version| version.digest == digest);
        noted.map_or(Chosen { number: 0, digest, size_bytes }, Chosen::of)
    }

    /// The newest number of a version.
    pub(super) fn number_of(&self, digest: Digest) -> Option<u64> {
        Some(self.of(digest).number).filter(|number| *number > 0)
    }

    /// Whether a node has a version under this name.
    pub(super) fn has(&self, node: NodeId, digest: Digest) -> bool {
        self.copies.iter().any(|copy| copy.node == node && copy.model.digest == digest)
    }

    /// Who has a version under this name, as many as one command may name.
    pub(super) fn holders(&self, digest: Digest) -> Vec<NodeId> {
        bounded(self.copies.iter().filter(|copy| copy.model.digest == digest).map(|copy| copy.node).collect())
    }

    /// The nodes that have the name, whatever it is there; where none has, as many as a pull takes.
    pub(super) fn everywhere(&self) -> Replicas {
        if self.copies.is_empty() {
            return Replicas::Count(order::REPLICAS);
        }
        Replicas::Nodes(bounded(self.copies.iter().map(|copy| copy.node).collect()))
    }

    /// Where a version shall be, as far as that is known before it is planned.
    pub(super) fn targets(&self, replicas: Option<&Replicas>) -> Vec<NodeId> {
        match replicas.or_else(|| self.wish.as_ref().map(|wish| &wish.replicas)) {
            Some(Replicas::Nodes(nodes)) => nodes.clone(),
            Some(Replicas::Count(_) | Replicas::All) | None => {
                let planned = self.wish.as_ref().and_then(|wish| wish.plan.as_ref());
                planned.map_or_else(Vec::new, |plan| plan.targets.clone())
            }
        }
    }

    /// Its versions, the newest first, with who has each.
    pub(super) fn history(&self, names: &Names, keeping: &Keeping) -> v1::HistoryReply {
        let keepers = self.keepers(names, keeping);
        let noted = self.versions.iter().rev().map(|version| {
            let keepers = keepers.get(&version.digest).cloned().unwrap_or_default();
            v1::VersionView { keepers, ..shown(version) }
        });
        let mut versions: Vec<v1::VersionView> = noted.collect();
        if let Some(newest) = versions.first_mut() {
            newest.is_head = true;
        }
        let is_noted = |digest: &Digest| self.versions.iter().any(|version| version.digest == *digest);
        let others = keepers.iter().filter(|(digest, _)| !is_noted(digest));
        versions.extend(others.map(|(digest, keepers)| v1::VersionView {
            digest: digest.0.to_vec(),
            size_bytes: self.of(*digest).size_bytes,
            keepers: keepers.clone(),
            ..v1::VersionView::default()
        }));
        let phase = self.model.as_ref().map(|model| &model.phase);
        v1::HistoryReply {
            name: self.name.to_string(),
            versions,
            pinned: self.pinned().map(|digest| digest.0.to_vec()).unwrap_or_default(),
            phase: phase.map_or(Phase::Active.as_str(), Phase::as_str).to_owned(),
            note: phase.and_then(Phase::since).map(|since| since.note.clone()).unwrap_or_default(),
            silent: keeping.silent.clone(),
        }
    }

    /// Who has which version under this name, and then who keeps its files.
    fn keepers(&self, names: &Names, keeping: &Keeping) -> BTreeMap<Digest, Vec<v1::Keeper>> {
        let mut keepers: BTreeMap<Digest, Vec<v1::Keeper>> = BTreeMap::new();
        for copy in &self.copies {
            let (node_id, node_name) = (copy.node.0, names.name(copy.node));
            let keeper = v1::Keeper { node_id, node_name, is_kept: false, until_ms: None };
            keepers.entry(copy.model.digest).or_default().push(keeper);
        }
        for (member, kept) in &keeping.kept {
            // What lies aside and under the name as well is simply there.
            if !self.has(member.id, kept.digest) {
                let (node_name, until_ms) = (member.name.clone(), kept.until.map(|until| until.0));
                let keeper = v1::Keeper { node_id: member.id.0, node_name, is_kept: true, until_ms };
                keepers.entry(kept.digest).or_default().push(keeper);
            }
        }
        keepers
    }
}

// === impl Chosen ===

impl Chosen {
    fn of(version: &Version) -> Self {
        Self { number: version.number, digest: version.digest, size_bytes: version.size_bytes }
    }
}

/// The beginning of a digest that is too short to mean it.
fn too_few_digits(name: &ModelName, text: &str) -> AdminError {
    let what = format!("{text} has too few digits for a version of {name}");
    let why = format!("it takes its number in the history, or {DIGITS_MIN} digits of its digest or more");
    AdminError::new(ErrorCode::BadRequest, what, why, format!("ollamax model history {name}"))
}

/// Nothing is on record of it.
pub(super) fn unknown(name: &ModelName) -> AdminError {
    let (what, next) = (format!("model {name} not found"), format!("ollamax model pull {name}"));
    AdminError::new(ErrorCode::ModelNotFound, what, "no node has it", next)
}

fn shown(version: &Version) -> v1::VersionView {
    let (how, to, from) = match &version.how {
        How::Found => ("found", 0, String::new()),
        How::Pulled => ("pulled", 0, String::new()),
        How::RolledBack { to } => ("rolled_back", *to, String::new()),
        How::Tagged { from } => ("tagged", 0, from.to_string()),
    };
    v1::VersionView {
        number: version.number,
        digest: version.digest.0.to_vec(),
        size_bytes: version.size_bytes,
        at_ms: version.at.0,
        how: how.to_owned(),
        to,
        from,
        by: version.by.clone(),
        is_head: false,
        keepers: Vec::new(),
    }
}
