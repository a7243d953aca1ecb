//! Why a model is where it is: what somebody asked for, what stands in its way, what each node has of it.
//!
//! One line a reason, in the order in which people ask: who wants it, what holds it, who has it, who has not. Lines are
//! made from the state alone. What the rules will do is told by `foretell`, and which old versions a node keeps only
//! that node knows.

use std::collections::BTreeSet;
use std::time::Duration;

use ollamax_types::{DAY_MS, Digest, ErrorCode, ModelName, NodeId, Timestamp};

use crate::catalog::models::standing_digest;
use crate::catalog::names::{Fate, fate, unheld_since};
use crate::catalog::{Failure, Fault, Location, Model, Phase, Replicas, Since, View, Wish, read};
use crate::placement::{self, size_text};

const HOUR_MS: u64 = 3_600 * 1_000;
const MINUTE_MS: u64 = 60 * 1_000;
/// What is shorter than a minute.
const A_MOMENT: &str = "a moment";

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The node that it is about; `None`: all of them.
    pub about: Option<NodeId>,
    /// For people.
    pub text: String,
}

/// Why a model is where it is, at a time and for people who call the nodes by these names. Empty where nothing is on
/// record of it.
///
/// # Errors
/// When the state cannot be read.
pub fn why(
    view: &dyn View,
    name: &ModelName,
    now: Timestamp,
    names: &dyn Fn(NodeId) -> String,
) -> Result<Vec<Reason>, Fault> {
    let copies = read::locations_of(view, name)?;
    let (wish, model) = (read::wish(view, name)?, read::model(view, name)?);
    if copies.is_empty() && wish.is_none() && model.is_none() {
        return Ok(Vec::new());
    }
    let forget_after = placement::knobs(view)?.forget_after;
    let mut case = Case { copies, wish, model, departed: BTreeSet::new(), now, names, forget_after };
    for node in case.nodes() {
        if read::has_departed(view, node)? {
            case.departed.insert(node);
        }
    }
    let whole = case.of_all().into_iter().map(|text| Reason { about: None, text });
    let nodes = case.nodes().into_iter().filter_map(|node| {
        let text = case.of_node(node)?;
        Some(Reason { about: Some(node), text })
    });
    Ok(whole.chain(nodes).collect())
}

/// What is on record of a model.
struct Case<'a> {
    copies: Vec<Location>,
    wish: Option<Wish>,
    model: Option<Model>,
    /// The nodes that there is something to say about and that are no members any more.
    departed: BTreeSet<NodeId>,
    now: Timestamp,
    names: &'a dyn Fn(NodeId) -> String,
    /// How long a name stays on record that nobody has.
    forget_after: Duration,
}

// === impl Case ===

impl Case<'_> {
    fn of_all(&self) -> Vec<String> {
        let mut lines = vec![self.wanted()];
        lines.extend(self.placed());
        let Some(model) = &self.model else { return lines };
        if let Some(pin) = &model.pin {
            lines.push(format!("pinned at {} by {}, {}", pin.digest.short(), who(&pin.by), self.ago(pin.at)));
        }
        match &model.phase {
            Phase::Active => {}
            Phase::Deprecated(since) => lines.push(self.phase("deprecated", since)),
            Phase::Disabled(since) => lines.push(self.phase("disabled", since)),
            Phase::Deleted(since) => lines.push(self.phase("deleted", since)),
        }
        if model.used_on > 0 {
            let used = Timestamp(u64::from(model.used_on).saturating_mul(DAY_MS));
            let days = self.now.ms_since(used) / DAY_MS;
            lines.push(if days == 0 { "used today".to_owned() } else { format!("used {} ago", count(days, "day")) });
        }
        lines.extend(self.fading(model));
        lines
    }

    /// Which nodes come into question, where the wish says it.
    fn placed(&self) -> Option<String> {
        let want = &self.wish.as_ref()?.want;
        let mut words: Vec<String> = want.labels.iter().map(|(key, value)| format!("labelled {key}={value}")).collect();
        if want.gpu_memory_bytes_min > 0 {
            words.push(format!("with a GPU of {}", size_text(want.gpu_memory_bytes_min)));
        }
        if want.disk_free_bytes_min > 0 {
            words.push(format!("that keep {} of their disk free", size_text(want.disk_free_bytes_min)));
        }
        if !want.avoid.is_empty() {
            let others: Vec<String> = want.avoid.iter().map(|node| (self.names)(*node)).collect();
            words.push(format!("other than {}", others.join(", ")));
        }
        (!words.is_empty()).then(|| format!("only on nodes {}", words.join(", ")))
    }

    /// Since when nobody has it, and that it is forgotten then.
    fn fading(&self, model: &Model) -> Option<String> {
        let is_held = self.wish.is_some() || !self.copies.is_empty();
        // Whatever goes later goes some day.
        if is_held || fate(model, is_held, Timestamp(u64::MAX)) != Fate::Goes {
            return None;
        }
        let since = self.since(unheld_since(model)?);
        let after = span(u64::try_from(self.forget_after.as_millis()).unwrap_or(u64::MAX));
        Some(format!("nobody has it since {since}: after {after} it is forgotten with its history"))
    }

    fn wanted(&self) -> String {
        let Some(wish) = &self.wish else {
            let is_found = !self.copies.is_empty();
            return if is_found { "nobody asked for it: as found" } else { "nobody asks for it" }.to_owned();
        };
        let wanted = match &wish.replicas {
            Replicas::Count(number) => format!("wanted on {}", count(u64::from(*number), "node")),
            Replicas::All => "wanted on all nodes".to_owned(),
            Replicas::Nodes(nodes) => {
                let names: Vec<String> = nodes.iter().map(|node| (self.names)(*node)).collect();
                format!("wanted on {}", names.join(", "))
            }
        };
        let how = if wish.declared { "declared" } else { "asked" };
        format!("{wanted}: {how} by {} {}", who(&wish.asked_by), self.ago(wish.asked_at))
    }

    fn phase(&self, word: &str, since: &Since) -> String {
        let line = format!("{word} by {} {}", who(&since.by), self.ago(since.at));
        if since.note.is_empty() { line } else { format!("{line}: {}", since.note) }
    }

    /// All that there is something to say about, by id.
    fn nodes(&self) -> BTreeSet<NodeId> {
        let mut nodes: BTreeSet<NodeId> = self.copies.iter().map(|copy| copy.node).collect();
        if let Some(wish) = &self.wish {
            nodes.extend(wish.plan.iter().flat_map(|plan| &plan.targets));
            nodes.extend(wish.failures.keys());
            if let Replicas::Nodes(wanted) = &wish.replicas {
                nodes.extend(wanted);
            }
        }
        nodes
    }

    fn of_node(&self, node: NodeId) -> Option<String> {
        let name = (self.names)(node);
        match self.copies.iter().find(|copy| copy.node == node) {
            Some(copy) => Some(self.has(&name, copy)),
            None => self.has_not(&name, node),
        }
    }

    fn has(&self, name: &str, copy: &Location) -> String {
        let since = self.since(copy.model.modified_at);
        let dropped = self.model.as_ref().and_then(|model| model.drop_of(copy.node, copy.model.digest));
        if let Some(dropped) = dropped {
            return format!("{name} is to remove it: {} said so {}", who(&dropped.by), self.ago(dropped.at));
        }
        let meant = self.wish.as_ref().and_then(|wish| wish.digest).or_else(|| self.standing());
        if meant.is_none_or(|digest| digest == copy.model.digest) {
            return format!("{name} has it since {since}");
        }
        format!("{name} has another version since {since}: {}", copy.model.digest.short())
    }

    fn standing(&self) -> Option<Digest> {
        standing_digest(&self.copies, self.model.as_ref().and_then(Model::pinned))
    }

    fn has_not(&self, name: &str, node: NodeId) -> Option<String> {
        let wish = self.wish.as_ref()?;
        if self.departed.contains(&node) {
            return Some(format!("{name} has not: it is no member any more"));
        }
        if let Some(failure) = wish.failures.get(&node) {
            return Some(format!("{name} has not: {}", reason(failure)));
        }
        Some(match wish.plan.as_ref().filter(|plan| plan.targets.contains(&node)) {
            None => format!("{name} has not: it is not planned yet"),
            Some(plan) if self.is_given_up(wish, plan.ingester) => {
                format!("{name} has not: nobody is at it, as {} has failed", (self.names)(plan.ingester))
            }
            Some(_) => format!("{name} has not yet: it is to fetch it"),
        })
    }

    /// Whether whoever the copies come from has failed, and has none.
    fn is_given_up(&self, wish: &Wish, ingester: NodeId) -> bool {
        let is_there = |copy: &Location| copy.node == ingester && Some(copy.model.digest) == wish.digest;
        wish.failures.contains_key(&ingester) && !self.copies.iter().any(is_there)
    }

    fn ago(&self, at: Timestamp) -> String {
        let since = self.since(at);
        if since == A_MOMENT { "just now".to_owned() } else { format!("{since} ago") }
    }

    /// How long ago a time was, in its largest unit.
    fn since(&self, at: Timestamp) -> String {
        span(self.now.ms_since(at))
    }
}

/// A span of time in its largest unit.
fn span(ms: u64) -> String {
    let units = [(DAY_MS, "day"), (HOUR_MS, "hour"), (MINUTE_MS, "minute")];
    match units.iter().find(|(unit_ms, _)| ms >= *unit_ms) {
        Some((unit_ms, unit)) => count(ms / unit_ms, unit),
        None => A_MOMENT.to_owned(),
    }
}

/// What a node told.
fn reason(failure: &Failure) -> &str {
    if !failure.text.is_empty() {
        &failure.text
    } else if failure.code == ErrorCode::PullCancelled {
        "somebody removed it there, or ended the pull"
    } else {
        failure.code.as_str()
    }
}

/// Who did something; nothing is known of what older releases wrote.
fn who(by: &str) -> &str {
    if by.is_empty() { "somebody" } else { by }
}

/// A number of things.
pub(super) fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}
