//! `ollamax model move`, `repair` and `rebalance`: copies that are made where they are missing, or go elsewhere.
//!
//! What is asked for goes on record as a plan, and the leader and the nodes carry it out; this command may leave.

use serde_json::{Value, json};
use tokio::time::sleep;

use ollamax_proto::v1::wish_view::State;
use ollamax_proto::v1::{MoveRequest, MoveView, OutlookReply, OutlookRequest, WishView};

use crate::args::{Global, MoveArgs, Output};
use crate::error::Failure;
use crate::{client, output, text};

use super::wishes::{LOOK_INTERVAL, LOOKS_IN_VAIN, Looks, all};

/// Has one copy go from one node to another.
pub(super) async fn run(global: &Global, args: &MoveArgs) -> Result<(), Failure> {
    let MoveArgs { name, from, to, dry_run, wait } = args;
    let request = MoveRequest { name: name.clone(), from: from.clone(), to: to.clone(), dry_run: *dry_run };
    let reply = client::connect_models(global).await?.move_model(request).await?.into_inner();
    let Some(planned) = reply.shown else {
        return Err(Failure::new(1, "no plan came back", "", "ollamax model wishes"));
    };
    if *wait {
        until_moved(global, &planned).await?;
    }
    if global.output == Output::Json {
        let fields = json!({"moves": [shown(&planned)], "dryRun": dry_run, "done": wait});
        return output::json("ModelMoves", fields);
    }
    output::line(&told(&planned))?;
    if !dry_run && !wait {
        let MoveView { leaves, to, .. } = &planned;
        let kept = format!("{leaves} keeps its copy until {} has one, and while it is in use.", to.join(", "));
        output::talk(global.output, &format!("{kept} Next: ollamax model wishes"));
    }
    Ok(())
}

/// Waits until the one copy has come and the other has gone.
async fn until_moved(global: &Global, planned: &MoveView) -> Result<(), Failure> {
    let (mut looks, mut looks_in_vain) = (Looks::default(), 0);
    loop {
        let wishes = all(global, &planned.name).await?;
        let Some(wish) = wishes.first() else {
            let why = "what nobody wishes for does not move";
            return Err(Failure::new(4, format!("{} is not wished for any more", planned.name), why, ""));
        };
        if has_moved(wish, planned) {
            return Ok(());
        }
        if let Some(failure) = looks.judge(wish) {
            return Err(failure);
        }
        looks_in_vain = if is_given_up(wish, planned) { looks_in_vain + 1 } else { 0 };
        if looks_in_vain >= LOOKS_IN_VAIN {
            let what = format!("{} did not come to {}", wish.name, planned.to.join(", "));
            let why = "its copies are where they are wanted without that";
            return Err(Failure::new(4, what, why, "ollamax model wishes"));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Nothing is on its way any more, and the one copy has not come.
fn is_given_up(wish: &WishView, planned: &MoveView) -> bool {
    wish.state() == State::Met && !planned.to.iter().all(|node| wish.holders.contains(node))
}

fn has_moved(wish: &WishView, planned: &MoveView) -> bool {
    let has_come = planned.to.iter().all(|node| wish.holders.contains(node));
    has_come && !wish.holders.contains(&planned.leaves) && wish.state() != State::Failed
}

/// Has missing copies made, or copies spread.
pub(super) async fn make(global: &Global, rebalance: bool, dry_run: bool) -> Result<(), Failure> {
    let request = OutlookRequest { rebalance, dry_run };
    let reply = client::connect_models(global).await?.outlook(request).await?.into_inner();
    if global.output == Output::Json {
        return output::json("ModelMoves", fields(&reply, dry_run));
    }
    output::text(&page(&reply, rebalance))?;
    if !dry_run && !reply.moves.is_empty() {
        output::talk(global.output, "Next: ollamax model wishes");
    }
    Ok(())
}

fn page(reply: &OutlookReply, rebalance: bool) -> String {
    let mut lines: Vec<String> = reply.moves.iter().map(told).collect();
    if lines.is_empty() {
        let nothing =
            if rebalance { "No copy is worth a move just now." } else { "No copy can be made anew just now." };
        lines.push(nothing.to_owned());
    }
    if !rebalance {
        let short = reply.short.iter();
        lines.extend(short.map(|short| format!("{} has {} of {} copies", short.name, short.has, short.wants)));
        let impossible = reply.impossible.iter();
        lines.extend(impossible.map(|told| format!("{} has no place: {}", told.name, told.why.join("; "))));
    }
    lines.join("\n") + "\n"
}

/// One move in a line.
fn told(planned: &MoveView) -> String {
    let MoveView { name, kind, from, to, leaves, size_bytes } = planned;
    let to = to.join(", ");
    let way = if leaves.is_empty() { format!("{from} gives it to {to}") } else { format!("{leaves} → {to}") };
    let size = if *size_bytes == 0 { String::new() } else { format!(", {}", text::bytes(*size_bytes)) };
    format!("{name}: {way} ({kind}{size})")
}

fn fields(reply: &OutlookReply, dry_run: bool) -> Value {
    let moves: Vec<Value> = reply.moves.iter().map(shown).collect();
    let short: Vec<Value> =
        reply.short.iter().map(|short| json!({"name": short.name, "has": short.has, "wants": short.wants})).collect();
    let impossible: Vec<Value> =
        reply.impossible.iter().map(|told| json!({"name": told.name, "why": told.why})).collect();
    json!({"moves": moves, "short": short, "impossible": impossible, "dryRun": dry_run})
}

fn shown(planned: &MoveView) -> Value {
    let MoveView { name, kind, from, to, leaves, size_bytes } = planned;
    let leaves = (!leaves.is_empty()).then_some(leaves);
    json!({"name": name, "kind": kind, "from": from, "to": to, "leaves": leaves, "sizeBytes": size_bytes})
}

#[cfg(test)]
mod tests {
    use ollamax_proto::v1::{Impossibility, Shortage};

    use super::*;

    fn planned(leaves: &str) -> MoveView {
        MoveView {
            name: "m:latest".to_owned(),
            kind: if leaves.is_empty() { "repair" } else { "rebalance" }.to_owned(),
            from: "n1".to_owned(),
            to: vec!["n3".to_owned()],
            leaves: leaves.to_owned(),
            size_bytes: 2_000_000_000,
        }
    }

    #[test]
    fn a_move_is_one_line_and_what_has_no_place_is_told_with_it() {
        assert_eq!(told(&planned("")), "m:latest: n1 gives it to n3 (repair, 2.0 GB)");
        assert_eq!(told(&planned("n2")), "m:latest: n2 → n3 (rebalance, 2.0 GB)");
        let reply = OutlookReply {
            moves: vec![],
            short: vec![Shortage { name: "a:latest".to_owned(), has: 1, wants: 2 }],
            impossible: vec![Impossibility { name: "b:latest".to_owned(), why: vec!["n2 is a gateway".to_owned()] }],
        };
        let lines = "No copy can be made anew just now.\na:latest has 1 of 2 copies\n";
        assert_eq!(page(&reply, false), format!("{lines}b:latest has no place: n2 is a gateway\n"));
        assert_eq!(page(&reply, true), "No copy is worth a move just now.\n");
    }

    #[test]
    fn a_move_is_over_when_one_copy_has_come_and_the_other_has_gone() {
        let check = |holders: &[&str], expected: bool| {
            let holders = holders.iter().map(|node| (*node).to_owned()).collect();
            let wish = WishView { holders, ..WishView::default() };
            assert_eq!(has_moved(&wish, &planned("n2")), expected, "{wish:?}");
        };
        check(&["n1", "n2"], false);
        check(&["n1", "n2", "n3"], false);
        check(&["n1"], false);
        check(&["n1", "n3"], true);
    }

    #[test]
    fn a_move_is_given_up_where_all_is_done_without_the_copy_that_was_to_come() {
        let check = |state: State, holders: &[&str], expected: bool| {
            let holders = holders.iter().map(|node| (*node).to_owned()).collect();
            let wish = WishView { holders, state: state.into(), ..WishView::default() };
            assert_eq!(is_given_up(&wish, &planned("n2")), expected, "{wish:?}");
        };
        check(State::Met, &["n1", "n2"], true);
        check(State::UnderWay, &["n1", "n2"], false);
        check(State::Met, &["n1", "n2", "n3"], false);
    }
}
