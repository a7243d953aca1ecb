//! The configuration as its users meet it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::*;

fn load(toml: &str) -> Result<Effective<NodeConfig>, Vec<Problem>> {
    let temp = tempfile::NamedTempFile::new().expect("temp");
    fs::write(temp.path(), toml).expect("written");
    NodeConfig::load(Some(temp.path()), Vec::new(), Vec::new(), false)
}

#[test]
fn the_defaults_are_valid() {
    assert_eq!(NodeConfig::default().validate(), Vec::new());
}

#[test]
fn every_key_has_a_meaning_and_can_be_set_by_its_environment_variable_and_flag() {
    let defaults = serde_json::to_value(NodeConfig::default()).expect("plain");
    let meanings = example::meanings();
    let mut variables = BTreeMap::new();
    for (key, value) in layers::leaves(&defaults) {
        assert!(meanings.get(&key).is_some_and(|text| !text.is_empty()), "{key} has no meaning");
        let text = match &value {
            Value::String(text) => text.clone(),
            Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        let twin = variables.insert(layers::env_name(&key), key.clone());
        assert_eq!(twin, None, "two keys share {}", layers::env_name(&key));
        let env = NodeConfig::load(None, vec![(layers::env_name(&key), text.clone())], Vec::new(), false);
        let flag = NodeConfig::load(None, Vec::new(), vec![(key.clone(), text)], false);
        for (effective, what) in [(env, "environment"), (flag, "flag")] {
            let effective = effective.unwrap_or_else(|problems| panic!("{key} by {what}: {problems:?}"));
            assert_eq!(effective.config, NodeConfig::default(), "{key} by {what}");
            assert_ne!(effective.origins[&key], layers::Origin::Default, "{key} by {what}");
        }
    }
}

#[test]
fn a_bucket_is_reached_with_the_configuration_of_a_machine_that_is_lost() {
    let temp = tempfile::NamedTempFile::new().expect("temp");
    let lost = "[node]\nadmin_group = \"nobody-here-has-it\"\n[api]\nlisten = \"nowhere\"\n[cluster]\nx = 1\n";
    let bucket = "[backup.s3]\nendpoint = \"http://nas.lan:9000\"\naccess_key_id = \"lab\"\n";
    fs::write(temp.path(), format!("{lost}{bucket}")).expect("written");
    let key = |name: &str, text: &str| (layers::env_name(&format!("backup.s3.{name}")), text.to_owned());
    let found = NodeConfig::load_bucket(Some(temp.path()), vec![key("region", "eu")]).expect("valid");
    assert_eq!((found.endpoint.as_str(), found.region.as_str()), ("http://nas.lan:9000", "eu"));
    let words = vec![key("endpoint", "https://s3.lan"), key("access_key_id", "lab"), key("path_style", "false")];
    let found = NodeConfig::load_bucket(None, words).expect("no file is needed");
    assert!(found.endpoint == "https://s3.lan" && !found.path_style, "{found:?}");

    let check = |file: Option<&Path>, env: Vec<(String, String)>, expected: &str| {
        let problems = NodeConfig::load_bucket(file, env).expect_err(expected);
        assert!(problems.iter().any(|problem| problem.subject == expected), "{expected} in {problems:?}");
    };
    check(None, vec![], "backup.s3.endpoint");
    check(None, vec![key("endpont", "http://nas.lan")], "OLLAMAX_BACKUP_S3_ENDPONT");
    check(Some(temp.path()), vec![key("path_style", "perhaps")], "backup.s3.path_style");
    check(Some(Path::new("/no/such/file")), vec![], "/no/such/file");
    fs::write(temp.path(), "[backup.s3]\nendpont = \"http://nas.lan\"\n").expect("written");
    check(Some(temp.path()), vec![], "backup.s3.endpont");
    // Only beside what is missing.
    fs::write(temp.path(), "[backup]\nkep = 3\n").expect("written");
    check(Some(temp.path()), vec![], "backup.kep");
    check(None, vec![("OLLAMAX_BACKUP_ENDPOINT".to_owned(), "x".to_owned())], "OLLAMAX_BACKUP_ENDPOINT");
    let enough = vec![key("endpoint", "https://s3.lan"), key("access_key_id", "lab")];
    NodeConfig::load_bucket(Some(temp.path()), enough).expect("nothing is missing");
}

#[test]
fn the_example_file_is_the_one_that_is_shipped() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/ollamax-node.example.toml");
    let shipped = fs::read_to_string(&path).unwrap_or_default();
    if shipped != example::example() {
        let fresh = std::env::temp_dir().join("ollamax-node.example.toml");
        fs::write(&fresh, example::example()).expect("written");
        panic!("{} is out of date; the right one was written to {}", path.display(), fresh.display());
    }
}

#[test]
fn the_example_file_sets_nothing_and_what_is_printed_can_be_read_again() {
    let effective = load(&example::example()).expect("valid");
    assert_eq!(effective.config, NodeConfig::default());
    let printed = example::effective(&effective);
    assert_eq!(load(&printed).expect("valid").config, NodeConfig::default(), "{printed}");
}

#[test]
fn a_half_written_file_is_one_clear_line_with_its_place() {
    let check = |toml: &str, place: &str| {
        let problems = load(toml).expect_err("cut in half");
        assert_eq!(problems.len(), 1, "{problems:?}");
        let (message, shown) = (&problems[0].message, problems[0].to_string());
        assert!(message.len() > place.len() && message.starts_with(place), "{shown}");
        assert!(!shown.contains('\n'), "{shown:?}");
    };
    check("[api", "line 1: ");
    check("[api]\nlisten = \"127.0.0.1:1", "line 2: ");
    check("[api]\nlisten = \"127.0.0.1:0\"\n[peer\n", "line 3: ");
    check("[node]\nname = \"a\"\nname = \"b\"\n", "line 3: ");
    let missing = NodeConfig::load(Some(Path::new("/nonexistent/f.toml")), Vec::new(), Vec::new(), false);
    let problems = missing.expect_err("missing");
    assert!(problems[0].to_string().starts_with("/nonexistent/f.toml: No such file"), "{}", problems[0]);
}

#[test]
fn bad_values_of_all_crates_are_reported_at_once() {
    let toml = "[node]\nname = \"a b\"\n[raft]\nheartbeat_ms = 1\n[peer]\nconnect_timeout_ms = 0\n[log]\nlevel = \"trace\"\n\
                [shutdown]\ngrace_s = 99999\n[cluster]\nrole = \"boss\"\nseeds = [\"b.lan\"]\n\
                [registry]\nallow = [\"lab\"]\n[tools]\nfamilies = [\"memory\"]\n";
    let problems = load(toml).expect_err("nine problems");
    let subjects: Vec<&str> = problems.iter().map(|problem| problem.subject.as_str()).collect();
    for key in [
        "node.name",
        "raft.heartbeat_ms",
        "peer.connect_timeout_ms",
        "log.level",
        "shutdown.grace_s",
        "cluster.role",
        "cluster.seeds",
        "registry.allow",
        "tools.families",
    ] {
        assert!(subjects.contains(&key), "{key} in {problems:?}");
    }
}

#[test]
fn the_clients_door_gets_what_is_set_for_assistants() {
    let door = |toml: &str| load(toml).expect("valid").config.door();
    assert!(!door("").mcp.legacy_sse);
    let set = door("[api]\nconnections_max = 7\n[mcp]\nlegacy_sse = true\n");
    assert!(set.mcp.legacy_sse && set.connections_max == 7, "{set:?}");
    load("[api.mcp]\nlegacy_sse = true\n").expect_err("it stands at one place");
}

#[test]
fn a_bucket_needs_its_way_and_a_folder_its_whole_path() {
    let check = |toml: &str, subject: &str| {
        let problems = load(&format!("[backup]\n{toml}\n")).expect_err(subject);
        assert!(problems.iter().any(|problem| problem.subject == subject), "{subject} in {problems:?}");
    };
    check("to = \"nas\"", "backup.to");
    check("to = \"s3://x\"", "backup.to");
    check("to = \"s3://lab-backups\"", "backup.s3.endpoint");
    check("to = \"s3://lab-backups\"", "backup.s3.access_key_id");
    check("every_hours = 9000", "backup.every_hours");
    check("keep = 9999", "backup.keep");
    let good = "to = \"s3://lab-backups/x\"\n[backup.s3]\nendpoint = \"http://nas.lan:9000\"\naccess_key_id = \"lab\"";
    load(&format!("[backup]\n{good}\n")).expect("valid");
}

#[test]
fn a_token_file_is_looked_at_before_anything_starts() {
    let temp = tempfile::tempdir().expect("temp");
    let path = temp.path().join("token");
    let load = |needs_token| {
        let flags = vec![("cluster.token_file".to_owned(), path.display().to_string())];
        let problems = NodeConfig::load(None, Vec::new(), flags, needs_token).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert!(load(true).starts_with("cluster.token_file: "), "{}", load(true));
    assert!(load(true).ends_with("No such file or directory (os error 2); write the token there, mode 0600"));
    assert_eq!(load(false), "", "a member needs none");
    fs::write(&path, "omxj1.a.b.c").expect("written");
    for mode in [0o644, 0o640, 0o604] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        assert!(load(true).ends_with(&format!("has mode {mode:04o}; chmod 600 {}", path.display())));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    assert_eq!(load(true), "");
    fs::write(&path, "t".repeat(5_000)).expect("written");
    assert!(load(true).contains("too long for a token"), "{}", load(true));
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    assert!(load(true).contains("is no file"), "{}", load(true));
}

#[test]
fn a_group_that_this_machine_has_not_is_told() {
    let problems = load("[node]\nadmin_group = \"no-such-group-here\"\n").expect_err("no such group");
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected =
        "node.admin_group: this machine has no group \"no-such-group-here\"; make it: groupadd no-such-group-here";
    assert_eq!(texts, [expected]);
    assert!(load("[node]\nadmin_group = \"root\"\n").is_ok());
    assert!(load("[node]\nadmin_group = \"\"\n").is_ok());
}
