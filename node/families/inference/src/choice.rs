//! Which model answers where nobody names one.
//!
//! Always: one that is active and known to be able to; among those one that is loaded; among those the first by name.
//! The same records give the same model on every node.

use ollamax_tools::views::Model;
use ollamax_types::Capability;

/// The model that is taken; `None` where none can do it.
pub(crate) fn choose(models: &[Model], able: Capability) -> Option<&str> {
    let fits = |model: &&Model| model.phase == "active" && able.is_told_by(&model.capabilities);
    let found = models.iter().filter(fits).min_by_key(|model| (!is_loaded(model), model.name.as_str()));
    found.map(|model| model.name.as_str())
}

/// The version that is served is in memory somewhere.
fn is_loaded(model: &Model) -> bool {
    model.copies.iter().any(|copy| copy.served && copy.loaded)
}

#[cfg(test)]
mod tests {
    use ollamax_tools::views::ModelCopy;

    use super::*;

    /// A model by its name, its phase, what it can do, and whether it is served and loaded.
    type Row = (&'static str, &'static str, &'static [&'static str], (bool, bool));

    fn model((name, phase, able, (served, loaded)): Row) -> Model {
        Model {
            name: name.to_owned(),
            phase: phase.to_owned(),
            capabilities: able.iter().map(ToString::to_string).collect(),
            copies: vec![ModelCopy { served, loaded, ..ModelCopy::default() }],
            ..Model::default()
        }
    }

    #[test]
    fn the_one_that_is_loaded_answers_and_else_the_first_that_can() {
        const TEXT: &[&str] = &["completion", "tools"];
        const VECTORS: &[&str] = &["embedding"];
        const UNKNOWN: &[&str] = &[];
        let (cold, warm, old) = ((true, false), (true, true), (false, true));
        let check = |rows: &[Row], able: Capability, expected: Option<&str>| {
            let models: Vec<Model> = rows.iter().copied().map(model).collect();
            assert_eq!(choose(&models, able), expected, "{rows:?}");
            let reversed: Vec<Model> = rows.iter().rev().copied().map(model).collect();
            assert_eq!(choose(&reversed, able), expected, "{rows:?}, reversed");
        };
        let completion = Capability::Completion;
        check(&[], completion, None);
        check(&[("b", "active", TEXT, cold), ("a", "active", TEXT, cold)], completion, Some("a"));
        check(&[("a", "active", TEXT, cold), ("b", "active", TEXT, warm)], completion, Some("b"));
        check(&[("a", "active", TEXT, cold), ("b", "active", TEXT, old)], completion, Some("a"));
        check(&[("a", "active", VECTORS, warm), ("b", "active", TEXT, cold)], completion, Some("b"));
        check(&[("a", "active", VECTORS, cold), ("b", "active", TEXT, warm)], Capability::Embedding, Some("a"));
        check(&[("a", "deprecated", TEXT, warm), ("b", "disabled", TEXT, warm)], completion, None);
        check(&[("a", "active", UNKNOWN, warm)], completion, None);
    }
}
