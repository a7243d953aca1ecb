//! What is said of nodes for placement: their labels, and whether they take new copies.
//!
//! People's labels and those that a node gives itself lie apart, so that neither wipes the other. A node's own ones are
//! its own word: [`crate::catalog::principal`] sees to that.

use std::collections::BTreeMap;

use ollamax_types::NodeId;
use ollamax_types::limits::{LABEL_BYTES_MAX, LABELS_MAX, WISH_TARGETS_MAX};

use super::limit::{check_bytes, check_count};
use super::{Applied, Scene, Step, Stop, invalid, members, put};
use crate::catalog::record::{Cordon, Key, Member, Record, Want};

pub(super) type Labels = BTreeMap<String, String>;

pub(super) fn set_labels(scene: &Scene<'_>, node: NodeId, own: bool, set: &Labels, unset: &[String]) -> Step {
    check_labels(set)?;
    check_count("the list of labels", unset.len(), LABELS_MAX)?;
    let member = members::standing(scene, node)?;
    let mut moved = member.clone();
    let labels = if own { &mut moved.own_labels } else { &mut moved.labels };
    for key in unset {
        labels.remove(key);
    }
    labels.extend(set.iter().map(|(key, value)| (key.clone(), value.clone())));
    check_count("the list of labels", labels.len(), LABELS_MAX)?;
    Ok(written(&member, moved))
}

pub(super) fn set_cordon(scene: &Scene<'_>, node: NodeId, cordon: Cordon) -> Step {
    let member = members::holder(scene, node)?;
    let moved = Member { cordon, ..member.clone() };
    Ok(written(&member, moved))
}

fn written(before: &Member, member: Member) -> Applied {
    if *before == member {
        return Applied::done(Vec::new());
    }
    Applied::done(vec![put(Key::Member(member.id), Record::Member(member))])
}

/// What a wish says of its nodes. Those that it leaves out need not be members any more.
pub(super) fn check_want(want: &Want) -> Result<(), Stop> {
    check_labels(&want.labels)?;
    check_count("the list of nodes to avoid", want.avoid.len(), WISH_TARGETS_MAX)
}

fn check_labels(labels: &Labels) -> Result<(), Stop> {
    check_count("the list of labels", labels.len(), LABELS_MAX)?;
    for (key, value) in labels {
        check_bytes("a label", key, LABEL_BYTES_MAX)?;
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        if !key.chars().all(fits) {
            return Err(invalid(format!("label {key:?} holds more than a-z, 0-9, dots, dashes and underscores")));
        }
        if value.len() > LABEL_BYTES_MAX || value.chars().any(char::is_control) {
            return Err(invalid(format!(
                "the value of label {key} is longer than {LABEL_BYTES_MAX} bytes or holds a control character"
            )));
        }
    }
    Ok(())
}
