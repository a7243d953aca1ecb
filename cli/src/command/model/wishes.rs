//! `ollamax model plan`, `apply` and `wishes`: what is wished for, by a file or by people, and how far it is.
//!
//! The daemon reads the file and says what follows; this command shows it, asks before it is done, and where somebody
//! waits, looks until every model is where the file wants it. A wish that fails or cannot be met ends the waiting only
//! when that has stood for some looks: a plan that is made anew mends much by itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::time::sleep;

use ollamax_proto::v1::wish_change::Kind;
use ollamax_proto::v1::wish_view::State;
use ollamax_proto::v1::{ListWishesRequest, NodeLabel, WishChange, WishFile, WishView};

use crate::args::{ApplyArgs, Global, Output};
use crate::error::Failure;
use crate::{client, consent, output, text};

/// Largest file that is read; the daemon takes no larger one.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What is typed to agree.
const CONSENT: &str = "apply";
/// Between two looks at wishes that somebody waits for.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many looks in a row a wish must stand still before it is given up.
pub(super) const LOOKS_IN_VAIN: u32 = 10;

/// Shows what would change.
pub(super) async fn plan(global: &Global, file: &Path) -> Result<(), Failure> {
    let wanted = WishFile { text: read(file).await? };
    let changes = client::connect_models(global).await?.plan_wishes(wanted).await?.into_inner().changes;
    show(global, "WishPlan", &changes)?;
    if changes.iter().any(is_one) {
        output::talk(global.output, &format!("Next: ollamax model apply {}", file.display()));
    }
    Ok(())
}

/// Has the file say what is wished for.
pub(super) async fn apply(global: &Global, args: &ApplyArgs) -> Result<(), Failure> {
    let text = read(&args.file).await?;
    let mut models = client::connect_models(global).await?;
    let planned = models.plan_wishes(WishFile { text: text.clone() }).await?.into_inner().changes;
    let count = planned.iter().filter(|change| is_one(change)).count();
    if count > 0 {
        if !args.yes {
            output::talk(global.output, table(&planned).trim_end());
            consent::ask(global, &format!("make {}", text::count(count, "change")), CONSENT).await?;
        }
        let made = models.apply_wishes(WishFile { text }).await?.into_inner().changes;
        if !args.wait || global.output == Output::Table {
            show(global, "WishChanges", &made)?;
        }
    } else if !args.wait {
        return show(global, "WishChanges", &[]);
    }
    if !args.wait {
        output::talk(global.output, "Next: ollamax model wishes");
        return Ok(());
    }
    let asked = planned.into_iter().filter(|change| change.kind() != Kind::Forget).map(|change| change.name);
    let met = until_met(global, asked.collect()).await?;
    if global.output == Output::Json {
        return output::json("WishList", json!({"wishes": met.iter().map(shown).collect::<Vec<_>>()}));
    }
    output::line(&format!(
        "{} where the file wants {}",
        standing(met.len()),
        if met.len() == 1 { "it" } else { "them" }
    ))
}

fn standing(models: usize) -> String {
    format!("{} {}", text::count(models, "model"), if models == 1 { "is" } else { "are" })
}

/// Shows all wishes.
pub(super) async fn list(global: &Global) -> Result<(), Failure> {
    let wishes = all(global, "").await?;
    if global.output == Output::Json {
        return output::json("WishList", json!({"wishes": wishes.iter().map(shown).collect::<Vec<_>>()}));
    }
    if wishes.is_empty() {
        output::talk(global.output, "Nobody asked for a model yet. Next: ollamax model pull NAME --replicas 2");
    }
    output::text(&rows(&wishes))
}

/// The wishes, or that for one model.
pub(super) async fn all(global: &Global, name: &str) -> Result<Vec<WishView>, Failure> {
    let asked = ListWishesRequest { name: name.to_owned() };
    Ok(client::connect_models(global).await?.list_wishes(asked).await?.into_inner().wishes)
}

/// Waits until these are met.
async fn until_met(global: &Global, names: Vec<String>) -> Result<Vec<WishView>, Failure> {
    let mut looks = Looks::default();
    loop {
        let wishes: Vec<WishView> =
            all(global, "").await?.into_iter().filter(|wish| names.contains(&wish.name)).collect();
        if wishes.iter().all(|wish| wish.state() == State::Met) {
            return Ok(wishes);
        }
        if let Some(failure) = wishes.iter().find_map(|wish| looks.judge(wish)) {
            return Err(failure);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// How often in a row each wish stood still, by its model.
#[derive(Debug, Default)]
pub(super) struct Looks(BTreeMap<String, u32>);

// === impl Looks ===

impl Looks {
    /// Why a wish is waited for no longer; `None` while it is.
    pub(super) fn judge(&mut self, wish: &WishView) -> Option<Failure> {
        let looks = self.0.entry(wish.name.clone()).or_default();
        let what = match wish.state() {
            State::Impossible => format!("{} cannot come to where it is wanted", wish.name),
            State::Failed => format!("{} did not come to where it is wanted", wish.name),
            State::Met | State::UnderWay | State::Short | State::Unspecified => {
                *looks = 0;
                return None;
            }
        };
        *looks += 1;
        (*looks >= LOOKS_IN_VAIN).then(|| Failure::new(4, what, wish.reason.clone(), "ollamax model wishes"))
    }
}

async fn read(file: &Path) -> Result<String, Failure> {
    let again = "ollamax model plan FILE; docs/operations/replication.md says what it may hold";
    let unread = |why: String| Failure::usage(format!("{}: {why}", file.display()), again);
    let mut bytes = Vec::new();
    let result = if file == Path::new("-") {
        tokio::io::stdin().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).await
    } else {
        let opened = tokio::fs::File::open(file).await.map_err(|error| unread(error.to_string()))?;
        opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).await
    };
    result.map_err(|error| unread(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unread(format!("has more than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| unread("is no text".to_owned()))
}

fn is_one(change: &WishChange) -> bool {
    change.kind() != Kind::Same
}

fn show(global: &Global, kind: &str, changes: &[WishChange]) -> Result<(), Failure> {
    if global.output == Output::Json {
        let changes: Vec<Value> = changes.iter().map(change).collect();
        return output::json(kind, json!({"changes": changes}));
    }
    if !changes.iter().any(is_one) {
        return output::line("Nothing to do: every wish is as the file says it.");
    }
    output::text(&table(changes))
}

fn change(change: &WishChange) -> Value {
    let kind = change.kind().as_str_name().to_lowercase();
    json!({"name": change.name, "kind": kind, "text": change.text})
}

/// What is as it was declared needs no line.
fn table(changes: &[WishChange]) -> String {
    let changes = changes.iter().filter(|change| is_one(change));
    output::table(&["NAME", "CHANGE"], changes.map(|change| vec![change.name.clone(), change.text.clone()]).collect())
}

fn rows(wishes: &[WishView]) -> String {
    let rows = wishes.iter().map(|wish| {
        vec![
            wish.name.clone(),
            wanted(wish),
            counted(wish).to_string(),
            places(wish),
            if wish.declared { "declared".to_owned() } else { wish.asked_by.clone() },
            state(wish),
        ]
    });
    output::table(&["NAME", "WANTED", "HAS", "WHERE", "FROM", "STATE"], rows.collect())
}

fn wanted(wish: &WishView) -> String {
    match wish.count {
        Some(count) => count.to_string(),
        None if wish.all => "all".to_owned(),
        None => wish.nodes.join(", "),
    }
}

/// Copies that the wish wants: of one that names nodes, those on them.
fn counted(wish: &WishView) -> usize {
    let is_wanted = |holder: &&String| wish.nodes.is_empty() || wish.nodes.contains(holder);
    wish.holders.iter().filter(is_wanted).count()
}

/// Which nodes come into question; nothing where all do.
fn places(wish: &WishView) -> String {
    let mut parts: Vec<String> = wish.labels.iter().map(label).collect();
    if wish.gpu_memory_bytes_min > 0 {
        parts.push(format!("GPU of {}", text::bytes(wish.gpu_memory_bytes_min)));
    }
    if wish.disk_free_bytes_min > 0 {
        parts.push(format!("{} of disk left free", text::bytes(wish.disk_free_bytes_min)));
    }
    parts.extend(wish.avoid.iter().map(|node| format!("not {node}")));
    parts.join(", ")
}

fn label(label: &NodeLabel) -> String {
    format!("{}={}", label.key, label.value)
}

/// How far it is, for what, and why no further.
fn state(wish: &WishView) -> String {
    let mut state = word(wish.state()).replace('_', " ");
    if wish.state() == State::UnderWay && !matches!(wish.kind.as_str(), "" | "asked") {
        state += &format!(" ({})", wish.kind);
    }
    if !wish.reason.is_empty() {
        state += &format!(": {}", text::in_one_line(wish.reason.as_bytes()));
    }
    state
}

/// How a state is called; one of a later release has no name here.
fn word(state: State) -> String {
    match state {
        State::Unspecified => "unknown".to_owned(),
        state => state.as_str_name().to_lowercase(),
    }
}

fn shown(wish: &WishView) -> Value {
    let labels: serde_json::Map<String, Value> =
        wish.labels.iter().map(|label| (label.key.clone(), label.value.clone().into())).collect();
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "name": wish.name,
        "count": wish.count,
        "all": wish.all,
        "nodes": wish.nodes,
        "holders": wish.holders,
        "labels": labels,
        "gpuMemoryBytesMin": wish.gpu_memory_bytes_min,
        "diskFreeBytesMin": wish.disk_free_bytes_min,
        "avoid": wish.avoid,
        "declared": wish.declared,
        "askedBy": wish.asked_by,
        "askedAtMs": wish.asked_at_ms,
        "digest": known(&hex::encode(&wish.digest)),
        "sizeBytes": wish.size_bytes,
        "state": word(wish.state()),
        "reason": known(&wish.reason),
        "kind": known(&wish.kind),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(state: State) -> WishView {
        let mut wish = WishView {
            name: "llama3.2:latest".to_owned(),
            count: Some(2),
            holders: vec!["n1".to_owned()],
            asked_by: "node/1 for admin".to_owned(),
            ..WishView::default()
        };
        wish.set_state(state);
        wish
    }

    #[test]
    fn wishes_are_listed_with_where_they_come_from_and_how_far_they_are() {
        let repaired = WishView { kind: "repair".to_owned(), ..wish(State::UnderWay) };
        let room = NodeLabel { key: "room".to_owned(), value: "a".to_owned() };
        let impossible = WishView {
            count: None,
            nodes: vec!["n2".to_owned(), "n3".to_owned()],
            declared: true,
            labels: vec![room],
            gpu_memory_bytes_min: 16_000_000_000,
            avoid: vec!["n4".to_owned()],
            reason: "n2 is a gateway".to_owned(),
            ..wish(State::Impossible)
        };
        let everywhere = WishView { count: None, all: true, kind: "asked".to_owned(), ..wish(State::UnderWay) };
        insta::assert_snapshot!(rows(&[wish(State::Met), repaired, impossible, everywhere]), @r"
        NAME             WANTED  HAS  WHERE                           FROM              STATE
        llama3.2:latest  2       1                                    node/1 for admin  met
        llama3.2:latest  2       1                                    node/1 for admin  under way (repair)
        llama3.2:latest  n2, n3  0    room=a, GPU of 16.0 GB, not n4  declared          impossible: n2 is a gateway
        llama3.2:latest  all     1                                    node/1 for admin  under way
        ");
        assert_eq!(shown(&wish(State::UnderWay))["state"], "under_way");
        assert_eq!(word(State::Unspecified), "unknown");
    }

    #[test]
    fn what_is_as_it_was_declared_needs_no_line() {
        let change = |kind: Kind, text: &str| WishChange {
            name: "m:latest".to_owned(),
            kind: kind.into(),
            text: text.to_owned(),
        };
        let changes = [change(Kind::Same, "as declared"), change(Kind::Ask, "+ wanted on 3 nodes")];
        assert_eq!(table(&changes), "NAME      CHANGE\nm:latest  + wanted on 3 nodes\n");
        assert_eq!(changes.iter().map(is_one).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_wish_is_given_up_when_it_stands_still_for_some_looks() {
        let mut looks = Looks::default();
        for _ in 1..LOOKS_IN_VAIN {
            assert_eq!(looks.judge(&wish(State::Failed)), None);
        }
        assert_eq!(looks.judge(&wish(State::UnderWay)), None, "it goes on, and is counted anew");
        for _ in 1..LOOKS_IN_VAIN {
            assert_eq!(looks.judge(&wish(State::Impossible)), None);
        }
        assert_eq!(looks.judge(&wish(State::Impossible)).map(|failure| failure.exit()), Some(4));
    }
}
