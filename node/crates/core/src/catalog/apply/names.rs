//! Names that nobody has any more: noted when that is seen, forgotten with their history when it was so for long.
//!
//! Which name that is about is said by [`crate::catalog::names`], asked here of the state as it is when the command is
//! applied: what was planned for a name does nothing to one that somebody has, asks for or pins by then. All of a name
//! goes in one command or nothing of it, so no number of its history is met twice in one life of the record.

use std::collections::BTreeSet;

use ollamax_types::Timestamp;
use ollamax_types::limits::{FORGET_NAMES_MAX, MODEL_KEY_BYTES_MAX};

use super::draft::Draft;
use super::limit::{check_bytes, check_count};
use super::{Applied, Scene, Step, registry};
use crate::catalog::names::{Fate, fate, returned};
use crate::catalog::read;
use crate::catalog::record::{Counts, Key, Model, Record};
use crate::catalog::view::Fault;

pub(super) fn forget(scene: &Scene<'_>, before: Timestamp, keys: &[String]) -> Step {
    check_count("the list of names", keys.len(), FORGET_NAMES_MAX)?;
    let keys: BTreeSet<&String> = keys.iter().collect();
    let draft = Draft::new(scene.view);
    let mut gone = 0;
    for key in keys {
        check_bytes("a model key", key, MODEL_KEY_BYTES_MAX)?;
        let Some(model) = read::model_at(&draft, key)? else { continue };
        let is_held = read::wish(&draft, &model.name)?.is_some() || read::has_copy(scene.view, &model.name)?;
        match fate(&model, is_held, before) {
            Fate::Stays => {}
            Fate::Returns => registry::write(&draft, returned(model, is_held)),
            Fate::Fades => {
                // On disk 0 stands for a time that was not noted.
                let unheld_since = Some(scene.entry.log_time.max(Timestamp(1)));
                registry::write(&draft, Model { unheld_since, ..model });
            }
            Fate::Goes => {
                for version in read::versions(scene.view, &model.name)? {
                    draft.delete(Key::Version(key.clone(), version.number));
                }
                draft.delete(Key::Model(key.clone()));
                gone += 1;
            }
        }
    }
    if gone > 0 {
        let counts = read::counts(&draft)?;
        let models = counts.models.checked_sub(gone);
        let models = models.ok_or_else(|| Fault::Invariant("more names than counted".to_owned()))?;
        draft.put(Key::Counts, Record::Counts(Counts { models, ..counts }));
    }
    Ok(Applied::done(draft.into_mutations()))
}
