//! Every check of the house style, over the working tree: a failure lists each finding with its place.

use tidy::finding::Finding;
use tidy::tree::Tree;
use tidy::{error_codes, imports, layout, lints, lock, log_lines, manifest, owners, style};

/// Where time may pass: what tests poll through, what delays bytes because a test asked for it, a world that moves its
/// paused clock, and `cargo xtask`.
const POLLING: &[&str] = &[
    "cluster-tests/testkit/src/wait.rs",
    "cluster-tests/testkit/src/link.rs",
    "cluster-tests/xtask/src/waiting.rs",
    "node/crates/metadata/tests/it/world.rs",
    "node/crates/scheduler/tests/it/world.rs",
];

fn clean(check: impl Fn(&Tree) -> Vec<Finding>) {
    let tree = Tree::open().expect("the working tree is readable");
    let mut findings = check(&tree);
    findings.sort();
    let list: String = findings.iter().map(|finding| format!("  {finding}\n")).collect();
    assert!(findings.is_empty(), "{} findings:\n{list}", findings.len());
}

#[test]
fn only_what_is_listed_lies_at_the_top_level() {
    clean(layout::top_level);
}

#[test]
fn files_and_folders_are_nouns_of_the_system() {
    clean(layout::names);
}

#[test]
fn modules_lie_where_their_names_say() {
    clean(layout::module_paths);
}

#[test]
fn every_engine_crate_has_its_design_page() {
    clean(layout::design_pages);
}

#[test]
fn manifests_take_versions_and_lints_from_the_workspace() {
    clean(manifest::well_formed);
}

#[test]
fn crates_import_lower_levels_only() {
    clean(imports::levels);
}

#[test]
fn heavy_libraries_stay_with_their_owners() {
    clean(owners::libraries);
}

#[test]
fn the_lock_file_is_current() {
    clean(lock::is_current);
}

#[test]
fn pinned_versions_stay_pinned() {
    clean(lock::pins);
}

#[test]
fn the_lints_of_the_house_are_set() {
    clean(lints::workspace_lints);
}

#[test]
fn widths_and_limits_are_the_agreed_numbers() {
    clean(lints::numbers);
}

#[test]
fn the_lints_of_core_repeat_those_of_the_root() {
    clean(lints::core_repeats_the_root);
}

#[test]
fn every_error_code_is_explained() {
    clean(error_codes::are_explained);
}

#[test]
fn log_lines_have_their_fields() {
    clean(log_lines::are_well_formed);
}

#[test]
fn every_file_says_what_it_owns() {
    clean(style::headers);
}

#[test]
fn files_keep_their_limits_and_end_with_their_tests() {
    clean(style::lengths);
}

#[test]
fn no_line_is_too_wide() {
    clean(style::widths);
}

#[test]
fn imports_stand_in_four_groups() {
    clean(style::import_groups);
}

#[test]
fn nothing_is_left_for_later() {
    clean(style::open_ends);
}

#[test]
fn no_test_is_switched_off() {
    clean(style::ignored_tests);
}

#[test]
fn no_test_waits_for_a_guessed_time() {
    clean(|tree| style::sleeps(tree, POLLING));
}

#[test]
fn libraries_forbid_unsafe_code() {
    clean(style::unsafe_code);
}

#[test]
fn lints_are_excepted_with_expect() {
    clean(style::allowed_lints);
}

#[test]
fn errors_list_what_can_happen() {
    clean(style::vague_errors);
}

#[test]
fn words_and_decisions_do_nothing() {
    clean(style::purity);
}

#[test]
fn the_test_kit_stays_out_of_unit_tests() {
    clean(style::kit_in_unit_tests);
}
