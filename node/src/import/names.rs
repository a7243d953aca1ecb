//! The names that an import uses until it is finished: the journal of what it has done beside one runtime.
//!
//! A temporary name is the final one with a mark before its host: `unfinished.<id>.import.ollamax.<host>/…`. So it says
//! of which import and of which model it is, is never a name that somebody meant, and needs no file of our own. Such
//! names are never reported to the cluster.

use ollamax_types::ModelName;

/// Stands between the id of the import and the host of the final name.
const MARK: &str = ".import.ollamax.";
/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 16;

/// What a temporary name keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The new model. While it is there, the import is not finished.
    Unfinished,
    /// The model that had the final name before.
    Replaced,
    /// Nothing of its own: it says that nobody had the final name before.
    Added,
}

/// A temporary name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Temporary {
    /// What it keeps.
    pub(crate) kind: Kind,
    /// Of which import.
    pub(crate) id: String,
    /// The final name.
    pub(crate) target: ModelName,
}

/// All names of one import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// Which import.
    pub(crate) id: String,
    /// The final name.
    pub(crate) target: ModelName,
    /// See [`Kind::Unfinished`].
    pub(crate) unfinished: ModelName,
    /// See [`Kind::Replaced`].
    pub(crate) replaced: ModelName,
    /// See [`Kind::Added`].
    pub(crate) added: ModelName,
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 3] = [Self::Unfinished, Self::Replaced, Self::Added];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Replaced => "replaced",
            Self::Added => "added",
        }
    }
}

// === impl Temporary ===

impl Temporary {
    /// Takes a name apart; `None` when it is no temporary one.
    #[must_use]
    pub(crate) fn of(name: &ModelName) -> Option<Self> {
        let [host, namespace, model, tag] = name.parts();
        let (front, host) = host.split_once(MARK)?;
        let (kind, id) = front.split_once('.')?;
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
        let target = format!("{host}/{namespace}/{model}:{tag}").parse().ok()?;
        is_id(id).then(|| Self { kind, id: id.to_owned(), target })
    }
}

// === impl Names ===

impl Names {
    /// The names of the import `id`; `None` when the id is none, or the final name is marked itself or leaves no room.
    #[must_use]
    pub(crate) fn new(id: &str, target: &ModelName) -> Option<Self> {
        if !is_id(id) || Temporary::of(target).is_some() {
            return None;
        }
        let [host, namespace, model, tag] = target.parts();
        let marked = |kind: Kind| {
            format!("{}.{id}{MARK}{host}/{namespace}/{model}:{tag}", kind.as_str()).parse::<ModelName>().ok()
        };
        Some(Self {
            id: id.to_owned(),
            target: target.clone(),
            unfinished: marked(Kind::Unfinished)?,
            replaced: marked(Kind::Replaced)?,
            added: marked(Kind::Added)?,
        })
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00112233445566ff";

    fn name(text: &str) -> ModelName {
        text.parse().expect("a name")
    }

    #[test]
    fn every_temporary_name_leads_back_to_the_final_one() {
        for target in ["demo", "me/demo:1b", "h:5000/me/Demo.v2:q4_K_M"].map(name) {
            let names = Names::new(ID, &target).expect("room");
            let kept = [&names.unfinished, &names.replaced, &names.added];
            for (kind, kept) in Kind::ALL.into_iter().zip(kept) {
                assert_eq!(Temporary::of(kept), Some(Temporary { kind, id: ID.to_owned(), target: target.clone() }));
                assert_eq!(name(&kept.to_string()), *kept, "a runtime lists it as it was made");
            }
        }
    }

    #[test]
    fn a_name_that_somebody_chose_is_no_temporary_one() {
        for text in [
            "demo",
            "unfinished",
            "import-00ff:unfinished",
            "import.ollamax.dev/me/demo",
            "unfinished.import.ollamax.h/me/demo",
            "unfinished.0011.import.ollamax.h/me/demo",
            "unfinished.00112233445566FF.import.ollamax.h/me/demo",
            "kept.00112233445566ff.import.ollamax.h/me/demo",
        ] {
            assert_eq!(Temporary::of(&name(text)), None, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_marked_is_refused() {
        let temporary = Names::new(ID, &name("demo")).expect("room").unfinished;
        assert_eq!(Names::new(ID, &temporary), None);
        assert_eq!(Names::new("x", &name("demo")), None);
        assert_eq!(Names::new(ID, &name(&format!("{}/me/demo", "h".repeat(340)))), None);
    }
}
