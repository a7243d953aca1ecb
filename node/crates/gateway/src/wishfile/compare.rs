//! What follows from declared wishes: the changes that make the record say what the file says.
//!
//! The words of the file get their meaning here: nodes by id or name, versions by the beginning of a digest. A word
//! without a meaning, or with two, is told with its line, and then nothing follows at all. Comparing a file again after
//! its changes were made gives nothing but `Same`, unless a node that it names could not get its copy meanwhile: then
//! that is asked for once more.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_core::catalog::{
    Command, Fault, Location, Member, NAMED_VERSION, Replicas, View, Want, Wish, read as state,
};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use super::{Declared, Wanted, Word};

/// What follows for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is asked for, or in another way than before.
    Ask {
        /// Which model.
        name: ModelName,
        /// On which nodes.
        replicas: Replicas,
        /// Which nodes may have it.
        want: Want,
        /// Its registry may be reached without TLS: as it was asked for before.
        insecure: bool,
        /// On which nodes it was wanted; `None`: on none.
        before: Option<Replicas>,
        /// Who loses its copy when those have theirs that are named now.
        leaving: BTreeSet<NodeId>,
    },
    /// It was declared and is not any more: nobody asks for it, its copies stay as found.
    Forget {
        /// Which model.
        name: ModelName,
    },
    /// It stands for this version.
    Pin {
        /// Which model.
        name: ModelName,
        /// The version.
        digest: Digest,
    },
    /// It stands for no version.
    Unpin {
        /// Which model.
        name: ModelName,
    },
    /// It is on record as it is declared.
    Same {
        /// Which model.
        name: ModelName,
    },
}

/// Nothing follows from a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// The cluster does not know what some words mean.
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
    /// The state cannot be read.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What follows from declared wishes, in the order of the file; what is no longer declared comes last.
///
/// # Errors
/// When a word has no meaning in this cluster, with all such words; when the state cannot be read.
pub fn compare(view: &dyn View, declared: &[Declared]) -> Result<Vec<Change>, CompareError> {
    let known = Known::of(view)?;
    let (mut changes, mut problems) = (Vec::new(), Vec::new());
    for model in declared {
        let versions = match &model.pin {
            Some(pin) => versions_of(view, &model.name, pin)?,
            None => BTreeSet::new(),
        };
        match known.meaning(model, &versions) {
            Ok(meaning) => {
                let leaving = known.leaving(view, &model.name, &meaning)?;
                let is_lacking = known.is_lacking(view, &model.name)?;
                changes.extend(known.changes(model, meaning, leaving, is_lacking));
            }
            Err(unclear) => problems.extend(unclear),
        }
    }
    if !problems.is_empty() {
        return Err(CompareError::Problems(problems));
    }
    let listed: BTreeSet<&ModelName> = declared.iter().map(|model| &model.name).collect();
    let left_out = known.wishes.values().filter(|wish| wish.declared && !listed.contains(&wish.name));
    changes.extend(left_out.map(|wish| Change::Forget { name: wish.name.clone() }));
    Ok(changes)
}

/// The versions of a model that begin like a pin, of all that the cluster knows.
fn versions_of(view: &dyn View, name: &ModelName, pin: &Word) -> Result<BTreeSet<Digest>, Fault> {
    let copies = state::locations_of(view, name)?.into_iter().map(|copy| copy.model.digest);
    let history = state::versions(view, name)?.into_iter().map(|version| version.digest);
    Ok(copies.chain(history).filter(|digest| pin.begins(digest)).collect())
}

/// What is on record.
struct Known {
    members: Vec<Member>,
    /// By model key.
    wishes: BTreeMap<String, Wish>,
    /// By model key.
    pins: BTreeMap<String, Digest>,
}

/// What the words of one model mean.
struct Meaning {
    replicas: Replicas,
    want: Want,
    pin: Option<Digest>,
}

// === impl Change ===

impl Change {
    /// Which model it is about.
    #[must_use]
    pub const fn name(&self) -> &ModelName {
        match self {
            Self::Ask { name, .. }
            | Self::Forget { name }
            | Self::Pin { name, .. }
            | Self::Unpin { name }
            | Self::Same { name } => name,
        }
    }

    /// The change of the state that makes it so; `None` where it is so.
    #[must_use]
    pub fn command(&self) -> Option<Command> {
        let name = self.name().clone();
        match self {
            Self::Ask { replicas, want, insecure, .. } => {
                let (replicas, want, insecure) = (replicas.clone(), want.clone(), *insecure);
                Some(Command::AskModel {
                    name,
                    replicas,
                    insecure,
                    want,
                    declared: true,
                    unsaid: false,
                    away: Default::default(),
                })
            }
            Self::Forget { .. } => Some(Command::ForgetWish { name, round: None }),
            Self::Pin { digest, .. } => Some(Command::PinModel { name, digest: Some(*digest) }),
            Self::Unpin { .. } => Some(Command::PinModel { name, digest: None }),
            Self::Same { .. } => None,
        }
    }

    /// A line for people who call the nodes by these names, without the name of the model.
    #[must_use]
    pub fn text(&self, names: &dyn Fn(NodeId) -> String) -> String {
        match self {
            Self::Ask { replicas, before: None, .. } => format!("+ wanted on {}", places(replicas, names)),
            Self::Ask { replicas, before: Some(before), .. } if before == replicas => {
                format!("~ wanted on {} as declared", places(replicas, names))
            }
            Self::Ask { replicas, before: Some(before), leaving, .. } => {
                let change = format!("~ {} → {}", short(before, names), short(replicas, names));
                if leaving.is_empty() { change } else { format!("{change}; copies go from {}", all(leaving, names)) }
            }
            Self::Forget { .. } => "- no longer declared; copies stay".to_owned(),
            Self::Pin { digest, .. } => format!("+ pinned at {}", digest.short()),
            Self::Unpin { .. } => "- not pinned any more".to_owned(),
            Self::Same { .. } => "as declared".to_owned(),
        }
    }
}

/// Where copies are wanted, for people who call the nodes by these names.
pub(crate) fn places(replicas: &Replicas, names: &dyn Fn(NodeId) -> String) -> String {
    match replicas {
        Replicas::Count(1) => "1 node".to_owned(),
        Replicas::Count(_) | Replicas::All => format!("{} nodes", short(replicas, names)),
        Replicas::Nodes(_) => short(replicas, names),
    }
}

fn short(replicas: &Replicas, names: &dyn Fn(NodeId) -> String) -> String {
    match replicas {
        Replicas::Count(count) => count.to_string(),
        Replicas::All => "all".to_owned(),
        Replicas::Nodes(nodes) => all(nodes, names),
    }
}

fn all<'a>(nodes: impl IntoIterator<Item = &'a NodeId>, names: &dyn Fn(NodeId) -> String) -> String {
    nodes.into_iter().map(|node| names(*node)).collect::<Vec<_>>().join(", ")
}

// === impl Known ===

impl Known {
    fn of(view: &dyn View) -> Result<Self, Fault> {
        let members = state::members(view)?.into_iter().filter(Member::is_standing).collect();
        let wishes = state::wishes(view)?.into_iter().map(|wish| (wish.name.key(), wish)).collect();
        let models = state::models(view)?.into_iter();
        let pins = models.filter_map(|model| Some((model.name.key(), model.pin?.digest))).collect();
        Ok(Self { members, wishes, pins })
    }

    /// What a model's words mean, or all that have no meaning. `versions` are those that begin like its pin.
    fn meaning(&self, model: &Declared, versions: &BTreeSet<Digest>) -> Result<Meaning, Vec<String>> {
        let mut problems = Vec::new();
        let replicas = match &model.replicas {
            Wanted::Count(count) => Replicas::Count(*count),
            Wanted::All => Replicas::All,
            Wanted::Nodes(words) => Replicas::Nodes(self.nodes(words, &mut problems).into_iter().collect()),
        };
        let avoid = self.nodes(&model.avoid, &mut problems);
        if let Replicas::Nodes(nodes) = &replicas
            && nodes.iter().any(|node| avoid.contains(node))
        {
            problems.push(format!("line {}: {} is wanted on a node that it is to avoid", model.line, model.name));
        }
        let pin = model.pin.as_ref().and_then(|pin| {
            if versions.len() != 1 {
                let (known, begin) =
                    if versions.is_empty() { ("no version", "begins") } else { ("several versions", "begin") };
                problems.push(pin.problem(format_args!("{known} of {} {begin} with {:?}", model.name, pin.text)));
            }
            versions.first().copied()
        });
        let want = Want {
            labels: model.labels.clone(),
            gpu_memory_bytes_min: model.gpu_memory_bytes_min,
            avoid,
            disk_free_bytes_min: model.disk_free_bytes_min,
        };
        if problems.is_empty() { Ok(Meaning { replicas, want, pin }) } else { Err(problems) }
    }

    /// The nodes that words mean, each once. As everywhere, an id comes before a name.
    fn nodes(&self, words: &[Word], problems: &mut Vec<String>) -> BTreeSet<NodeId> {
        let mut nodes = BTreeSet::new();
        for word in words {
            let id = word.text.parse::<NodeId>().ok();
            let by_id = self.members.iter().find(|member| Some(member.id) == id);
            match by_id.or_else(|| self.members.iter().find(|member| member.name == word.text)) {
                Some(member) => {
                    nodes.insert(member.id);
                }
                None => problems.push(word.problem(format_args!("there is no node {:?}", word.text))),
            }
        }
        nodes
    }

    /// Who has a model for the sake of a number where nodes are named now, or since an earlier round had too many, and
    /// is none of them. The pinned version goes from nowhere, and older clusters leave such copies.
    fn leaving(&self, view: &dyn View, name: &ModelName, meaning: &Meaning) -> Result<BTreeSet<NodeId>, Fault> {
        let (Some(wish), Replicas::Nodes(named)) = (self.wishes.get(&name.key()), &meaning.replicas) else {
            return Ok(BTreeSet::new());
        };
        if state::cluster(view)?.is_none_or(|cluster| cluster.version < NAMED_VERSION) {
            return Ok(BTreeSet::new());
        }
        let counted: &[NodeId] = match (&wish.replicas, &wish.plan) {
            (Replicas::Count(_), Some(plan)) => &plan.targets,
            _ => &[],
        };
        let is_one_of_a_number =
            |copy: &Location| Some(copy.model.digest) == wish.digest && counted.contains(&copy.node);
        let goes = |copy: &Location| {
            let stays = Some(copy.model.digest) == meaning.pin || named.contains(&copy.node);
            !stays && (is_one_of_a_number(copy) || wish.surplus.contains(&copy.node))
        };
        let copies = state::locations_of(view, name)?;
        Ok(copies.iter().filter(|copy| goes(copy)).map(|copy| copy.node).collect())
    }

    /// Whether a node that is wanted by its name could not get the model and does not have it: nobody else gets it
    /// instead, and it is not tried again by itself. What people ended or removed there stays so. Older clusters would
    /// ask for what the registry has today.
    fn is_lacking(&self, view: &dyn View, name: &ModelName) -> Result<bool, Fault> {
        let Some(wish) = self.wishes.get(&name.key()) else { return Ok(false) };
        let Replicas::Nodes(named) = &wish.replicas else { return Ok(false) };
        let could_not =
            |node: &&NodeId| wish.failures.get(*node).is_some_and(|failure| failure.code != ErrorCode::PullCancelled);
        let mut failed = named.iter().filter(could_not).peekable();
        if failed.peek().is_none() || state::cluster(view)?.is_none_or(|cluster| cluster.version < NAMED_VERSION) {
            return Ok(false);
        }
        let copies = state::locations_of(view, name)?;
        let holds =
            |node: &NodeId| copies.iter().any(|copy| copy.node == *node && Some(copy.model.digest) == wish.digest);
        Ok(failed.any(|node| !holds(node)))
    }

    /// What follows for a model. Its pin comes first, so that a new round spreads what the file says.
    fn changes(&self, model: &Declared, meaning: Meaning, leaving: BTreeSet<NodeId>, is_lacking: bool) -> Vec<Change> {
        let Meaning { replicas, want, pin } = meaning;
        let (name, key) = (model.name.clone(), model.name.key());
        let mut changes = Vec::new();
        match (pin, self.pins.get(&key)) {
            (Some(digest), pinned) if pinned != Some(&digest) => {
                changes.push(Change::Pin { name: name.clone(), digest });
            }
            (None, Some(_)) => changes.push(Change::Unpin { name: name.clone() }),
            _ => {}
        }
        let wish = self.wishes.get(&key);
        let is_so = |wish: &Wish| wish.declared && wish.replicas == replicas && wish.want == want && !is_lacking;
        if !wish.is_some_and(is_so) {
            let (insecure, before) = (wish.is_some_and(|wish| wish.insecure), wish.map(|wish| wish.replicas.clone()));
            changes.push(Change::Ask { name, replicas, want, insecure, before, leaving });
        } else if changes.is_empty() {
            changes.push(Change::Same { name });
        }
        changes
    }
}
