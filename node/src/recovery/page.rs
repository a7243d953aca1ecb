//! What the recovery commands show to people.

use std::collections::BTreeSet;

use ollamax_core::recover::Plan;
use ollamax_metadata::recover::Made;
use ollamax_types::NodeId;

use super::survivor_file::SurvivorFile;
use crate::offline::utc;

/// What one survivor holds.
#[must_use]
pub(crate) fn survivor(file: &SurvivorFile) -> String {
    let voters: Vec<String> = file.voters.iter().map(|set| numbers(set.iter().copied())).collect();
    let rows = [
        ("log", format!("ends at entry {} of term {}", file.last_index, file.last_term)),
        ("committed", format!("up to entry {} as far as it knows", file.committed_index)),
        ("vote", format!("of term {}", file.vote_term)),
        ("voters", voters.join(" to become ")),
        ("learners", numbers(file.learners.iter().copied())),
        ("on disk", format!("state at entry {}; the log leads on from there", file.applied_index)),
        ("with log", format!("{} members, {} models, {} values", file.members, file.models, file.values)),
        ("hash", file.state_hash.clone()),
        ("changed", time(file.log_time_ms)),
    ];
    let mut page = format!("Node {} ({}) of cluster {} ({})\n", file.node, file.name, file.cluster_name, file.cluster);
    if let Some(from) = &file.recovered_from {
        page += &format!("  recovered   from cluster {from}\n");
    }
    if !file.standing {
        page += "  removed     it is no member by its own state\n";
    }
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        page += &format!("  {name:<11} {value}\n");
    }
    page + &uncommitted(file)
}

fn uncommitted(file: &SurvivorFile) -> String {
    if file.uncommitted.is_empty() {
        return String::new();
    }
    let mut page =
        "  It does not know whether these were committed. They may have been acknowledged, and a recovery keeps \
                    them:\n"
            .to_owned();
    let left_out = file.uncommitted_count.saturating_sub(file.uncommitted.len() as u64);
    if left_out > 0 {
        page += &format!("    {left_out} before\n");
    }
    for entry in &file.uncommitted {
        let line = format!("    {}  term {}  {}  {}", entry.index, entry.term, entry.word, entry.principal);
        page += line.trim_end();
        page.push('\n');
    }
    page
}

/// What to do with the survivors.
#[must_use]
pub(crate) fn plan(plan: &Plan, cluster_name: &str, alone: bool) -> String {
    let Plan { needed, safest, voters, missing, may_lose } = plan;
    if !needed {
        let here: BTreeSet<NodeId> = voters.difference(missing).copied().collect();
        let (here, all) = (ids(&here), ids(voters));
        return format!(
            "\nA majority of the voters is here: {here} of {all}. Nothing that was acknowledged is lost.\n\
             Do not recover: it would give up what needs not be given up.\n\
             Next: start ollamax-node on {here}\n"
        );
    }
    let gone = ids(missing);
    let lost = if *may_lose {
        format!("changes that were acknowledged by {gone} alone; nobody here can know of them")
    } else {
        "nothing that was acknowledged: every such change is on one of the survivors at least".to_owned()
    };
    let rows = [
        ("voters", ids(voters)),
        ("not here", gone),
        ("safest", format!("node {safest}: no other survivor's log ends later")),
        ("lost", lost),
    ];
    let mut page = "\n".to_owned();
    for (name, value) in rows {
        page += &format!("{name:<11} {value}\n");
    }
    if alone {
        page += "\nOnly this node was looked at. If others survive, run `ollamax recover plan --write FILE` on each, bring\n\
                 the files here, and repeat this with `--with FILE` for each of them.\n";
    }
    page += &format!(
        "\nA recovery gives up the old cluster: node {safest} goes on alone as a new one, and no old member can return\n\
         to it. If one of the missing voters can still be started, start it instead.\n\
         Next: keep a copy of node {safest}'s data directory; then, on node {safest}: ollamax recover apply --confirm \
         {cluster_name}\n"
    );
    page
}

/// What was done.
#[must_use]
pub(crate) fn made(file: &SurvivorFile, made: &Made, cluster: &str) -> String {
    let departed: BTreeSet<NodeId> = made.departed.iter().copied().collect();
    let departed = if departed.is_empty() { "nobody".to_owned() } else { ids(&departed) };
    format!(
        "Node {} is the only member of a new cluster {} ({cluster}).\n\
         It has all that its log had, up to entry {} of term {}, and goes on at revision {}.\n\
         Departed: {departed}. Join tokens of before are void.\n{}",
        file.node,
        file.cluster_name,
        file.last_index,
        file.last_term,
        made.revision,
        next()
    )
}

/// What was done before.
#[must_use]
pub(crate) fn already(file: &SurvivorFile) -> String {
    format!(
        "Node {} was recovered already: it is the only voter of cluster {} ({}).\n{}",
        file.node,
        file.cluster_name,
        file.cluster,
        next()
    )
}

fn next() -> String {
    "Next: start ollamax-node here, then ollamax token create, and ollamax join on other machines.\n\
     Before an old member is started again, on its machine: ollamax reset --confirm\n"
        .to_owned()
}

fn ids(nodes: &BTreeSet<NodeId>) -> String {
    numbers(nodes.iter().map(|node| node.0))
}

fn numbers(nodes: impl Iterator<Item = u64>) -> String {
    nodes.map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
}

fn time(millis: u64) -> String {
    let stamp = utc(millis).filter(|_| millis > 0);
    stamp.map_or_else(String::new, |stamp| format!("{stamp} by cluster time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::survivor_file::tests::sample;

    #[test]
    fn a_survivor_shows_what_it_holds() {
        let expected = "\
Node 3 (n3) of cluster lab (01010101010101010101010101010101)
  log         ends at entry 41 of term 7
  committed   up to entry 40 as far as it knows
  vote        of term 7
  voters      1, 2, 3
  on disk     state at entry 0; the log leads on from there
  with log    3 members, 5 models, 2 values
  hash        cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
  changed     2026-01-02 03:04:05 UTC by cluster time
  It does not know whether these were committed. They may have been acknowledged, and a recovery keeps them:
    41  term 7  txn  node/1 for admin
";
        assert_eq!(survivor(&sample()), expected);
    }

    #[test]
    fn a_plan_says_what_is_lost_and_what_to_type() {
        let set = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<BTreeSet<NodeId>>();
        let lossy =
            Plan { needed: true, safest: NodeId(3), voters: set(&[1, 2, 3]), missing: set(&[1, 2]), may_lose: true };
        let page = plan(&lossy, "lab", true);
        for part in ["not here    1, 2\n", "safest      node 3", "acknowledged by 1, 2 alone", "--with FILE"] {
            assert!(page.contains(part), "{part:?} in {page}");
        }
        assert!(page.ends_with("on node 3: ollamax recover apply --confirm lab\n"), "{page}");
        let whole = Plan { may_lose: false, ..lossy.clone() };
        let page = plan(&whole, "lab", false);
        assert!(page.contains("nothing that was acknowledged") && !page.contains("--with"), "{page}");
        let needless = Plan { needed: false, missing: set(&[1]), may_lose: false, ..lossy };
        let page = plan(&needless, "lab", false);
        assert!(page.contains("2, 3 of 1, 2, 3") && page.contains("start ollamax-node on 2, 3"), "{page}");
        assert!(!page.contains("recover apply"), "{page}");
    }
}
