//! Jobs over a real folder: what comes back, in which order, and what is set aside.

use tempfile::TempDir;

use super::*;

fn jobs() -> (TempDir, Jobs) {
    let folder = tempfile::tempdir().expect("temp");
    let jobs = Jobs::open(&folder.path().join("transfer/jobs")).expect("ours");
    (folder, jobs)
}

fn job(name: &str, asked_at_ms: u64) -> JobFile {
    JobFile {
        version: JOB_VERSION,
        name: name.to_owned(),
        insecure: false,
        manifest_hex: hex::encode(format!("manifest of {name}")),
        asked_by: "the administrator".to_owned(),
        asked_at_ms,
    }
}

fn key(name: &str) -> String {
    name.parse::<ModelName>().expect("a name").key()
}

#[test]
fn jobs_come_back_in_the_order_in_which_they_were_asked_for() {
    let (_folder, folder) = jobs();
    assert!(folder.all().expect("readable").is_empty());
    let jobs = [job("llama3.2", 5), job("127.0.0.1:5000/library/tiny:latest", 6), job("a:1b", 7)];
    for job in [&jobs[2], &jobs[0], &jobs[1]] {
        folder.write(job).expect("there is room");
    }
    assert_eq!(folder.all().expect("readable"), jobs);
    folder.remove(&key("llama3.2")).expect("ours");
    folder.remove(&key("llama3.2")).expect("it is gone already");
    assert_eq!(folder.all().expect("readable"), jobs[1..]);
}

#[test]
fn one_model_has_one_job_however_its_name_is_spelled() {
    let (folder, jobs) = jobs();
    jobs.write(&job("llama3.2", 5)).expect("there is room");
    // What a writer left that was killed.
    let draft = jobs.path(&stem_of(&key("llama3.2"))).with_extension(DRAFT_ENDING);
    fs::write(draft, b"{").expect("there is room");
    let again = JobFile { insecure: true, ..job("LLAMA3.2:Latest", 6) };
    jobs.write(&again).expect("there is room");
    assert_eq!(jobs.all().expect("readable"), [again]);
    assert_eq!(fs::read_dir(folder.path().join("transfer/jobs")).expect("readable").count(), 1);
}

#[test]
fn a_new_process_finds_the_jobs_of_the_old_one() {
    let (folder, jobs) = jobs();
    jobs.write(&job("llama3.2", 5)).expect("there is room");
    drop(jobs);
    let jobs = Jobs::open(&folder.path().join("transfer/jobs")).expect("ours");
    assert_eq!(jobs.all().expect("readable"), [job("llama3.2", 5)]);
}

#[test]
fn the_golden_sample_has_not_changed() {
    let (_folder, jobs) = jobs();
    jobs.write(&job("llama3.2", 5)).expect("there is room");
    let text = r#"{"version":1,"name":"llama3.2","insecure":false,"manifest_hex":"6d616e6966657374206f66206c6c616d61332e32","asked_by":"the administrator","asked_at_ms":5}"#;
    // sha256 of "registry.ollama.ai/library/llama3.2:latest"
    let path = jobs.path("5bf22ef832c849373d06a8524f05008bc5eb5d6f709bffe48f8590d01fb337a8");
    assert_eq!(fs::read_to_string(&path).expect("readable"), text);
    fs::write(&path, text).expect("ours");
    assert_eq!(jobs.all().expect("readable"), [job("llama3.2", 5)]);
}

#[test]
fn what_is_no_job_is_set_aside_and_hides_no_other() {
    let good = job("llama3.2", 5);
    let text = serde_json::to_string(&job("a", 1)).expect("JSON");
    let rows = [
        ("garbage", String::new()),
        ("half a job", text[..40].to_owned()),
        ("another version", text.replace("\"version\":1", "\"version\":2")),
        ("a field that nobody knows", text.replace("\"version\":1", "\"version\":1,\"odd\":1")),
        ("another model's", text.replace("\"name\":\"a\"", "\"name\":\"b\"")),
        ("a path", text.replace("\"name\":\"a\"", "\"name\":\"../../a\"")),
        ("no manifest", text.replace("\"manifest_hex\":\"", "\"manifest_hex\":\"x")),
        ("too long", format!("{text}{}", " ".repeat(JOB_BYTES_MAX))),
    ];
    let (_folder, jobs) = jobs();
    jobs.write(&good).expect("there is room");
    let path = jobs.path(&stem_of(&key("a")));
    for (what, text) in rows {
        fs::write(&path, text).expect("there is room");
        assert_eq!(jobs.all().expect("readable"), std::slice::from_ref(&good), "{what}");
        assert!(!path.exists() && path.with_extension("damaged").exists(), "{what}");
        assert_eq!(jobs.all().expect("readable"), std::slice::from_ref(&good), "{what}");
    }
    jobs.write(&job("a", 1)).expect("there is room");
    assert_eq!(jobs.all().expect("readable"), [job("a", 1), good]);
}

#[test]
fn what_could_not_be_taken_up_is_not_written() {
    let (_folder, jobs) = jobs();
    let refused = |job: JobFile| jobs.write(&job).expect_err("no job").source.to_string();
    assert_eq!(refused(JobFile { version: 2, ..job("a", 1) }), "its version is another");
    assert_eq!(refused(job("a b", 1)), "it names no model");
    assert_eq!(refused(JobFile { manifest_hex: "7".to_owned(), ..job("a", 1) }), "its manifest is none");
    let long = "ab".repeat(MANIFEST_BYTES_MAX + 1);
    assert_eq!(refused(JobFile { manifest_hex: long, ..job("a", 1) }), "its manifest is none");
    jobs.write(&JobFile { manifest_hex: "ab".repeat(MANIFEST_BYTES_MAX), ..job("a", 1) }).expect("the longest");
    assert_eq!(jobs.all().expect("readable").len(), 1);
}
