//! What a report says, and when it is one of a failure.

use super::*;

fn played(number: u32, family: Family) -> Played {
    Played {
        number,
        family,
        fault: "leader killed".to_owned(),
        fault_ms: 500,
        injected: true,
        proof: "another process".to_owned(),
        outage: Outage { longest_ms: 1_230 * u64::from(number), total_ms: 2_000 },
        leader_ms: 40,
        equal_ms: 310,
        with_snapshot: family == Family::F8,
        writes_before: 200,
        writes_after: 180,
        operations: 1_000,
        answered: 990,
        refused: 4,
        unknown: 6,
    }
}

fn report() -> Report {
    Report {
        seed: 7,
        nodes: 3,
        seconds: 20,
        replay: "cargo xtask torture --seed 7".to_owned(),
        daemon_version: "0.1.0".to_owned(),
        run_seconds: 22,
        asked: vec![Family::F1, Family::F8, Family::F16],
        rounds: vec![played(1, Family::F1), played(2, Family::F8), played(3, Family::F1)],
        checked: Invariant::ALL.into_iter().map(|invariant| (invariant, 12)).collect(),
        limits: Limits { leader_ms: 3_000, equal_ms: 10_000, equal_with_snapshot_ms: 30_000, factor: 2 },
        watches_resumed: 4,
        watch_gaps: 1,
        broken: Vec::new(),
        lacking: Vec::new(),
        error: None,
        kept: None,
    }
}

#[test]
fn a_good_run_is_told_whole() {
    let text = report().to_string();
    assert!(!report().failed(), "{text}");
    let lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for wanted in [
        "torture: seed 7, 3 nodes, ollamax-node 0.1.0",
        "3 rounds in 22 s, 20 s were asked for",
        "F1 killed 2 3.69 s",
        "F8 behind until a snapshot 1 2.46 s",
        "note: not reached in this time: F16",
        "I1 one leader in a term 12 samples 0",
        "I10 leases end neither early nor undead 12 ends 0",
        "operations: 3000; 2970 answered, 12 refused, 18 without an answer",
        "success rate of clients, all faults included: 99.00 %",
        "without an acknowledged write: 3.69 s at most, 6.00 s in all",
        "writes per second, median: 200 before the faults, 180 after",
        "after a heal: a leader within 0.04 s (limit 3.00 s x 2)",
        "watches: went on elsewhere 4 times; 1 times nobody kept what came next",
        "passed; to play the same plan again: cargo xtask torture --seed 7",
    ] {
        assert!(lines.iter().any(|line| line == wanted), "{wanted:?} is not in\n{text}");
    }
}

#[test]
fn rounds_without_their_fault_are_told_and_not_counted_among_the_faults() {
    let mut report = report();
    report.rounds[2].injected = false;
    let text = report.to_string();
    let lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for wanted in ["F1 killed 1 1.23 s", "note: rounds without a fault: F1 in 1"] {
        assert!(lines.iter().any(|line| line == wanted), "{wanted:?} is not in\n{text}");
    }
    assert!(!report.failed(), "{text}");
}

#[test]
fn what_is_broken_lacking_or_cut_short_makes_a_failure_and_is_told() {
    let check = |change: &dyn Fn(&mut Report), told: &str| {
        let mut report = report();
        change(&mut report);
        let text = report.to_string();
        assert!(report.failed() && text.contains(told) && text.contains("\nFAILED; "), "{told:?}: {text}");
    };
    let broken = || Broken { round: 2, invariant: Invariant::I3, detail: "node 1 lacks k3".to_owned() };
    check(
        &|report| report.broken.push(broken()),
        "BROKEN in round 2: I3 (nothing acknowledged is lost): node 1 lacks k3\n",
    );
    check(&|report| report.lacking.push("nobody asked".to_owned()), "TOO LITTLE EVIDENCE: nobody asked\n");
    check(&|report| report.error = Some("n2 exited".to_owned()), "ENDED EARLY: n2 exited\n");
}

#[test]
fn as_json_everything_is_found_by_its_name() {
    let mut report = report();
    report.broken.push(Broken { round: 2, invariant: Invariant::I8, detail: "w".to_owned() });
    let json = serde_json::to_value(&report).expect("plain data");
    assert_eq!(json["asked"], serde_json::json!(["F1", "F8", "F16"]));
    assert_eq!(json["rounds"][1]["family"], "F8");
    assert_eq!(json["checked"]["I11"], 12);
    assert_eq!(json["broken"][0]["invariant"], "I8");
    assert_eq!(json["limits"]["factor"], 2);
}

#[test]
fn numbers_are_told_as_people_read_them() {
    assert_eq!([seconds(0), seconds(40), seconds(12_345)], ["0.00 s", "0.04 s", "12.34 s"]);
    assert_eq!([per_cent(999, 1_000), per_cent(2, 3), per_cent(0, 0)], ["99.90 %", "66.66 %", "0.00 %"]);
    assert_eq!((median(vec![3, 1, 2]), median(vec![]), median(vec![4, 1])), (2, 0, 4));
}
