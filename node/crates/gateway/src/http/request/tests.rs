//! Bodies as clients send them, good and bad: what routing reads, and Ollama's words for what it cannot.

use super::*;

fn read(body: &str) -> Fields {
    read_fields(Api::Chat, body.as_bytes()).expect("readable")
}

fn refused(api: Api, body: &str, expected: &str) {
    let text = read_fields(api, body.as_bytes()).map_or_else(|error| error.to_string(), |fields| format!("{fields:?}"));
    assert_eq!(text, expected, "{body}");
}

#[test]
fn keys_match_without_case_and_the_last_duplicate_wins() {
    let fields = read(r#"{"Model":"a","MODEL":"b","stream":true,"Stream":false,"x":{"model":"deep"}}"#);
    assert_eq!((fields.model(Api::Chat), fields.stream), ("b", Some(false)));
}

#[test]
fn only_show_takes_the_old_key_name() {
    let fields = read(r#"{"name":"old"}"#);
    assert_eq!((fields.model(Api::Show), fields.model(Api::Chat)), ("old", ""));
    let fields = read(r#"{"name":"old","model":"new"}"#);
    assert_eq!(fields.model(Api::Show), "new");
}

#[test]
fn native_routes_stream_unless_told_not_to_and_v1_only_when_told() {
    let check = |body: &str, native: bool, openai: bool| {
        let fields = read(body);
        let all = [Api::Generate, Api::Chat, Api::OpenAiChat, Api::Embed].map(|api| fields.streams(api));
        assert_eq!(all, [native, native, openai, false], "{body}");
    };
    check("{}", true, false);
    check(r#"{"stream":null}"#, true, false);
    check(r#"{"stream":false}"#, false, false);
    check(r#"{"stream":true}"#, true, true);
    check(r#"{"stream":"yes"}"#, true, false);
}

#[test]
fn num_ctx_is_read_from_options_of_any_shape() {
    let check = |body: &str, expected: Option<u32>| assert_eq!(read(body).num_ctx, expected, "{body}");
    check(r#"{"options":{"num_ctx":8192,"stop":["a"]}}"#, Some(8192));
    check(r#"{"options":{"num_ctx":8192.0}}"#, Some(8192));
    check(r#"{"options":{"num_ctx":1},"options":{"seed":1}}"#, Some(1));
    for none in [r#"{"options":{"num_ctx":-1}}"#, r#"{"options":{"num_ctx":"8"}}"#, r#"{"options":[1]}"#, "{}"] {
        check(none, None);
    }
    check(r#"{"options":null}"#, None);
}

#[test]
fn keep_alive_zero_without_work_is_an_unload() {
    let check = |body: &str, expected: bool| assert_eq!(read(body).is_unload(Api::Chat), expected, "{body}");
    for zero in ["0", "0.0", "\"0\"", "\"0s\"", "\"0m0s\"", "\"-0s\""] {
        check(&format!(r#"{{"keep_alive":{zero}}}"#), true);
    }
    for other in ["-1", "300", "\"5m\"", "\"s\"", "\"\"", "null", "\"10s\""] {
        check(&format!(r#"{{"keep_alive":{other}}}"#), false);
    }
    check(r#"{"keep_alive":0,"messages":[]}"#, true);
    check(r#"{"keep_alive":0,"messages":[{"role":"user"}]}"#, false);
    let generate = |body: &str| read(body).is_unload(Api::Generate);
    assert!(generate(r#"{"keep_alive":0,"prompt":""}"#));
    assert!(!generate(r#"{"keep_alive":0,"prompt":"hi"}"#));
}

#[test]
fn every_body_of_the_papers_is_refused_as_they_say() {
    let papers = include_str!("../../../../../../docs/api/ollama.md");
    let (_, section) = papers.split_once("### Told by both doors").expect("the section");
    let (section, _) = section.split_once("\n### ").expect("the next section");
    let lines: Vec<&str> = section.lines().collect();
    let pairs = lines.windows(2).filter(|pair| pair[0].starts_with('/'));
    for pair in pairs.clone() {
        let (route, body) = pair[0].split_once(' ').unwrap_or((pair[0], ""));
        refused(Api::from_path(route).expect("a route"), body, pair[1].trim());
    }
    assert!(pairs.count() > 20);
}

#[test]
fn a_pull_takes_both_keys_of_its_model_and_streams_unless_told_not_to() {
    let check = |body: &str, model: &str, streams: bool, insecure: bool| {
        let fields = read_change_fields(Change::Pull, body.as_bytes()).expect("readable");
        assert_eq!((fields.model(), fields.streams(), fields.is_insecure()), (model, streams, insecure), "{body}");
    };
    check(r#"{"model":"a"}"#, "a", true, false);
    check(r#"{"Name":"a","INSECURE":true}"#, "a", true, true);
    check(r#"{"name":"old","model":"new","stream":false}"#, "new", false, false);
    check(r#"{"name":"old","model":"","stream":true,"username":7}"#, "old", true, false);
    check(r#"{"model":"a","model":"b","stream":null,"insecure":null}"#, "b", true, false);
    check(r#"{"model":"a","MODEL":null}"#, "a", true, false);
    check(r#"{"model":"a","insecure":true,"insecure":null}"#, "a", true, true);
    check(r#"{"model":"a","insecure":true,"insecure":false}"#, "a", true, false);
    check(r#"{"model":"a","stream":false,"stream":null}"#, "a", true, false);
    check("{}", "", true, false);
    check("null", "", true, false);
}

#[test]
fn a_pull_that_makes_no_sense_is_refused_in_gos_words() {
    let check = |body: &str, expected: &str| {
        let text = read_change_fields(Change::Pull, body.as_bytes())
            .map_or_else(|error| error.to_string(), |_| "none".to_owned());
        assert_eq!(text, expected, "{body}");
    };
    check("", "missing request body");
    check(r#"{"model":"a""#, "unexpected EOF");
    check("[1]", "json: cannot unmarshal array into Go value of type api.PullRequest");
    let wrong = |found: &str, field: &str, wanted: &str| {
        format!("json: cannot unmarshal {found} into Go struct field PullRequest.{field} of type {wanted}")
    };
    check(r#"{"model":7}"#, &wrong("number", "model", "string"));
    check(r#"{"model":7,"model":"a"}"#, &wrong("number", "model", "string"));
    check(r#"{"model":"a","name":[]}"#, &wrong("array", "name", "string"));
    check(r#"{"model":"a","stream":"no"}"#, &wrong("string", "stream", "bool"));
    check(r#"{"model":"a","insecure":{}}"#, &wrong("object", "insecure", "bool"));
    check(r#"{"model":"a","insecure":7,"insecure":true}"#, &wrong("number", "insecure", "bool"));
    check(r#"{"model":"a","stream":7,"stream":null}"#, &wrong("number", "stream", "bool"));
}

#[test]
fn of_each_change_of_models_only_what_counts_for_it_is_checked() {
    let check = |change: Change, body: &str, expected: &str| {
        let read = read_change_fields(change, body.as_bytes());
        let text = read.map_or_else(|error| error.to_string(), |_| "taken".to_owned());
        assert_eq!(text, expected, "{change:?} {body}");
    };
    let wrong = |change: Change, found: &str, field: &str, wanted: &str| {
        let request = change.request();
        format!("json: cannot unmarshal {found} into Go struct field {request}.{field} of type {wanted}")
    };
    let (texts, flags) = (["model", "name", "from", "source", "destination"], ["insecure", "stream"]);
    let rows: [(Change, &[&str]); 5] = [
        (Change::Pull, &["model", "name", "insecure", "stream"]),
        (Change::Push, &["model", "name", "insecure", "stream"]),
        (Change::Copy, &["source", "destination"]),
        (Change::Delete, &["model", "name"]),
        (Change::Create, &["model", "name", "from", "stream"]),
    ];
    for (change, counting) in rows {
        let fields = texts.map(|field| (field, "string")).into_iter().chain(flags.map(|field| (field, "bool")));
        for (field, wanted) in fields {
            let expected =
                if counting.contains(&field) { wrong(change, "array", field, wanted) } else { "taken".into() };
            check(change, &format!(r#"{{"{field}":[]}}"#), &expected);
        }
        check(change, "", "missing request body");
        check(change, "7", &format!("json: cannot unmarshal number into Go value of type api.{}", change.request()));
    }
    let fields = read_change_fields(Change::Copy, br#"{"Source":"a","DESTINATION":"b"}"#).expect("readable");
    assert_eq!((fields.source(), fields.destination(), fields.base()), ("a", "b", ""));
    let fields = read_change_fields(Change::Create, br#"{"name":"a","FROM":"b","stream":false}"#).expect("readable");
    assert_eq!((fields.model(), fields.base(), fields.streams()), ("a", "b", false));
}

#[test]
fn a_body_that_only_this_node_cannot_read_is_not_called_wrong() {
    refused(Api::Chat, " \n", "missing request body");
    let error = read_fields(Api::Chat, b"{\"model\":\"a\xff\"}").expect_err("refused").to_string();
    assert!(error.starts_with("JSON that this node cannot read: invalid unicode"), "{error}");
}

#[test]
fn text_behind_the_first_value_and_null_are_taken_as_go_takes_them() {
    assert_eq!(read("null"), Fields::default());
    assert_eq!(read(r#"{"model":"a"} trailing"#).model(Api::Chat), "a");
    assert_eq!(read(r#"{"model":null}"#).model(Api::Chat), "");
}

proptest::proptest! {
    #[test]
    fn no_body_makes_it_panic_and_skipped_values_change_nothing(body: Vec<u8>, junk: String) {
        drop(read_fields(Api::Chat, &body));
        drop(read_change_fields(Change::Create, &body));
        let junk = serde_json::to_string(&junk).expect("a text");
        let fields = read(&format!(r#"{{"x":{junk},"model":"a","y":[{{"model":{junk}}}]}}"#));
        assert_eq!(fields.model(Api::Chat), "a");
    }
}
