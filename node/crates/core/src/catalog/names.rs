//! When the record of a name goes: which of them nobody has, asks for or pins any more, and since when.
//!
//! Always holds: a name that somebody has, asks for or pins stays, and so does one that is disabled, for that is what
//! somebody said of it. Of the others it is noted since when they are so; a name that was removed as a whole tells that
//! itself. One that comes back is counted anew. `apply` asks this again on the state of then, so that what was planned
//! for a name does nothing to one that came back meanwhile. Time is log time.

use ollamax_types::Timestamp;

use super::record::{Model, Phase};

/// What becomes of the record of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Nothing.
    Stays,
    /// Nobody has it for so long that it goes, with its history.
    Goes,
    /// It was on its way out, or removed, and somebody has it again.
    Returns,
    /// Nobody has it: from now on that is counted.
    Fades,
}

/// What becomes of a record. `is_held`: some node has a copy, or somebody asks for it. It goes when nobody did since
/// before `before`.
#[must_use]
pub fn fate(model: &Model, is_held: bool, before: Timestamp) -> Fate {
    if is_held || model.pin.is_some() || matches!(model.phase, Phase::Disabled(_)) {
        return if model.unheld_since.is_some() || is_back(model, is_held) { Fate::Returns } else { Fate::Stays };
    }
    match unheld_since(model) {
        None => Fate::Fades,
        Some(since) if since < before => Fate::Goes,
        Some(_) => Fate::Stays,
    }
}

/// Since when nobody has a name, as far as that was noted: no earlier than anything was done with it.
#[must_use]
pub fn unheld_since(model: &Model) -> Option<Timestamp> {
    let phase_at = model.phase.since().map(|since| since.at);
    let removed_at = phase_at.filter(|_| matches!(model.phase, Phase::Deleted(_)));
    let noted = model.unheld_since.or(removed_at)?;
    Some(noted.max(model.noted_at).max(phase_at.unwrap_or_default()))
}

/// The record of a name that came back: what was removed is in use again.
pub(super) fn returned(model: Model, is_held: bool) -> Model {
    let phase = if is_back(&model, is_held) { Phase::Active } else { model.phase };
    Model { phase, unheld_since: None, ..model }
}

/// It was removed, all copies went, and there is one again. While some are still to go, it is not known which one.
fn is_back(model: &Model, is_held: bool) -> bool {
    is_held && model.drops.is_empty() && matches!(model.phase, Phase::Deleted(_))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ollamax_types::{Digest, NodeId};

    use super::*;
    use crate::catalog::record::{Drop, Pin, Since};

    const BEFORE: Timestamp = Timestamp(100);

    /// Noted at 10.
    fn model() -> Model {
        Model::new("m".parse().expect("a name"), Timestamp(10))
    }

    fn since(at: u64) -> Since {
        Since { at: Timestamp(at), by: "admin".to_owned(), note: String::new() }
    }

    fn unheld(at: u64) -> Model {
        Model { unheld_since: Some(Timestamp(at)), ..model() }
    }

    fn deleted(at: u64) -> Model {
        Model { phase: Phase::Deleted(since(at)), ..model() }
    }

    #[test]
    fn a_name_goes_when_nobody_has_it_for_long_and_is_counted_from_when_that_was_seen() {
        let check = |what: &str, model: &Model, is_held: bool, expected: Fate| {
            assert_eq!(fate(model, is_held, BEFORE), expected, "{what}");
        };
        check("somebody has it", &model(), true, Fate::Stays);
        check("nobody does", &model(), false, Fate::Fades);
        check("not for long", &unheld(100), false, Fate::Stays);
        check("for long", &unheld(99), false, Fate::Goes);
        check("it is back", &unheld(99), true, Fate::Returns);
        check("a version was noted since", &Model { noted_at: Timestamp(100), ..unheld(9) }, false, Fate::Stays);
        let pin = || Some(Pin { digest: Digest([1; 32]), by: "admin".to_owned(), at: Timestamp(1) });
        check("pinned", &Model { pin: pin(), ..model() }, false, Fate::Stays);
        check("pinned since", &Model { pin: pin(), ..unheld(1) }, false, Fate::Returns);
        let phase = |phase, at| Model { phase, ..unheld(at) };
        check("deprecated", &phase(Phase::Deprecated(since(5)), 99), false, Fate::Goes);
        check("deprecated since", &phase(Phase::Deprecated(since(100)), 99), false, Fate::Stays);
        check("disabled", &Model { phase: Phase::Disabled(since(5)), ..model() }, false, Fate::Stays);
        check("disabled since", &phase(Phase::Disabled(since(5)), 99), false, Fate::Returns);
        check("removed long ago", &deleted(99), false, Fate::Goes);
        check("removed lately", &deleted(100), false, Fate::Stays);
        check("removed, and there again", &deleted(1), true, Fate::Returns);
        let (digest, by) = (Digest([1; 32]), "admin".to_owned());
        let drop = Drop { digest, at: Timestamp(1), by, insisted: true };
        let going = Model { drops: BTreeMap::from([(NodeId(1), drop)]), ..deleted(1) };
        check("removed, and not gone yet", &going, true, Fate::Stays);
    }

    #[test]
    fn what_comes_back_is_in_use_again_if_it_was_removed_and_else_stays_what_it_is() {
        let back = Model { unheld_since: Some(Timestamp(5)), ..deleted(1) };
        assert_eq!(returned(back, true), model());
        let deprecated = Model { phase: Phase::Deprecated(since(5)), ..unheld(9) };
        assert_eq!(returned(deprecated.clone(), true), Model { unheld_since: None, ..deprecated });
        let pinned = Model { unheld_since: Some(Timestamp(5)), ..deleted(1) };
        assert_eq!(returned(pinned, false), deleted(1), "nobody has it");
    }
}
