//! What goes for good with a node that leaves or is removed: models that nobody else has, and wishes that name it.
//!
//! It is said before somebody agrees, and again when it is done. Where the daemon does not tell it, that is said, and
//! keeps nobody from going.

use serde_json::{Value, json};

use ollamax_proto::v1::{ListModelsRequest, ListWishesRequest, ModelView, WishView};

use crate::args::Global;
use crate::client;
use crate::error::Failure;

/// Models that are named one by one; programs get all.
const NAMED_MAX: usize = 8;

/// What goes with a node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parting {
    node: String,
    /// Models of which the served version is on that node alone.
    only: Vec<String>,
    /// Models that are wished for on that node by its name.
    wished: Vec<String>,
}

// === impl Parting ===

impl Parting {
    /// Asks for it; `None` where the daemon does not tell.
    pub(crate) async fn of(global: &Global, id: u64, name: &str) -> Option<Self> {
        Self::asked(global, id, name).await.ok()
    }

    async fn asked(global: &Global, id: u64, name: &str) -> Result<Self, Failure> {
        let models = client::connect(global).await?.list_models(ListModelsRequest::default()).await?.into_inner();
        let wishes =
            client::connect_models(global).await?.list_wishes(ListWishesRequest::default()).await?.into_inner();
        Ok(Self::among(&models.models, &wishes.wishes, id, name))
    }

    fn among(models: &[ModelView], wishes: &[WishView], id: u64, name: &str) -> Self {
        let is_only_there = |model: &&ModelView| {
            let mut served = model.copies.iter().filter(|copy| copy.served).peekable();
            served.peek().is_some() && served.all(|copy| copy.node_id == id)
        };
        let names_it = |wish: &&WishView| wish.nodes.iter().any(|node| node == name);
        Self {
            node: name.to_owned(),
            only: models.iter().filter(is_only_there).map(|model| model.name.clone()).collect(),
            wished: wishes.iter().filter(names_it).map(|wish| wish.name.clone()).collect(),
        }
    }

    /// What is added to what a command would do; nothing where nothing goes.
    pub(crate) fn words(found: Option<&Self>) -> String {
        let Some(Self { node, only, wished }) = found else {
            return "; which models only it has is not known".to_owned();
        };
        let mut words = String::new();
        if !only.is_empty() {
            let look = format!("ollamax node drain {node} --models --dry-run");
            words += &format!("; nobody else has {} ({look} tells what can go elsewhere first)", listed(only));
        }
        if !wished.is_empty() {
            words += &format!("; {} {} wished for on it by name", listed(wished), verb(wished));
        }
        words
    }

    /// What is said when it is done: a line for each thing that somebody may want to mend.
    pub(crate) fn told(found: Option<&Self>) -> Vec<String> {
        let Some(Self { node, only, wished }) = found else { return Vec::new() };
        let mut lines = Vec::new();
        if !only.is_empty() {
            lines.push(format!("Nobody else had {}.", listed(only)));
        }
        if let Some(first) = wished.first() {
            let still = format!("{} {} still wished for on {node}, which left.", listed(wished), verb(wished));
            lines.push(format!("{still} To want it elsewhere: ollamax model pull {first} --node NODE"));
        }
        lines
    }

    /// For programs; `null` where it is not known.
    pub(crate) fn fields(found: Option<&Self>) -> (Value, Value) {
        found.map_or((Value::Null, Value::Null), |found| (json!(found.only), json!(found.wished)))
    }
}

fn listed(names: &[String]) -> String {
    let named = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn verb(names: &[String]) -> &'static str {
    if names.len() == 1 { "is" } else { "are" }
}

#[cfg(test)]
mod tests {
    use ollamax_proto::v1::ModelCopy;

    use super::*;

    fn model(name: &str, copies: &[(u64, bool)]) -> ModelView {
        let copy =
            |(node_id, served): &(u64, bool)| ModelCopy { node_id: *node_id, served: *served, ..ModelCopy::default() };
        ModelView { name: name.to_owned(), copies: copies.iter().map(copy).collect(), ..ModelView::default() }
    }

    fn wish(name: &str, nodes: &[&str]) -> WishView {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        WishView { name: name.to_owned(), nodes, ..WishView::default() }
    }

    #[test]
    fn what_only_one_node_has_and_what_names_it_goes_with_it() {
        let models = [
            model("a", &[(3, true)]),
            model("b", &[(1, true), (3, true)]),
            // What others have is an older version.
            model("c", &[(1, false), (3, true)]),
            model("d", &[(1, true), (3, false)]),
            model("e", &[]),
        ];
        let wishes = [wish("a", &["n3"]), wish("b", &["n1", "n3"]), wish("c", &["n3 (left)"]), wish("d", &[])];
        let found = Parting::among(&models, &wishes, 3, "n3");
        assert_eq!(
            (&found.only, &found.wished),
            (&vec!["a".to_owned(), "c".to_owned()], &vec!["a".to_owned(), "b".to_owned()])
        );
        let look = "ollamax node drain n3 --models --dry-run tells what can go elsewhere first";
        let words = format!("; nobody else has a, c ({look}); a, b are wished for on it by name");
        assert_eq!(Parting::words(Some(&found)), words);
        let told = [
            "Nobody else had a, c.",
            "a, b are still wished for on n3, which left. To want it elsewhere: ollamax model pull a --node NODE",
        ];
        assert_eq!(Parting::told(Some(&found)), told);
        assert_eq!(Parting::fields(Some(&found)), (json!(["a", "c"]), json!(["a", "b"])));
    }

    #[test]
    fn where_nothing_goes_nothing_is_said_and_what_is_not_known_is() {
        let nothing = Parting::default();
        assert_eq!((Parting::words(Some(&nothing)), Parting::told(Some(&nothing))), (String::new(), vec![]));
        assert_eq!(Parting::words(None), "; which models only it has is not known");
        assert_eq!(Parting::fields(None), (Value::Null, Value::Null));
        let many: Vec<String> = (0..10).map(|number| format!("m{number}")).collect();
        assert_eq!(listed(&many), "m0, m1, m2, m3, m4, m5, m6, m7 and 2 more");
    }
}
