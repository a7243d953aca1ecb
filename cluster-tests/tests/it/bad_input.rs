//! Bad input: one clear line that says what and what to do, the right status or exit code, everything as it was.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;

use ollamax_proto::v1;
use ollamax_testkit::cluster::{Admin, CallError, run_to_exit};
use ollamax_testkit::fake_ollama::{Fault, FaultRule, On};
use ollamax_testkit::{Cluster, copy_directory, wait};
use ollamax_types::ErrorCode;

use crate::model_owners::{self, PATIENCE};

const EXIT_LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_ollamas_words_at_any_node() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("bad-requests", |_| {}).await?;
    let rows: [(&str, &str, u16, &str); 8] = [
        ("/api/chat", "{\"model\":", 400, "unexpected EOF"),
        ("/api/chat", "", 400, "missing request body"),
        ("/api/chat", "{\"model\":\"demo\",\"messages\":3}", 400, "cannot unmarshal"),
        ("/api/chat", "{\"model\":7}", 400, "cannot unmarshal"),
        ("/api/chat", "{\"model\":\"nope\",\"messages\":[]}", 404, "model 'nope' not found"),
        (
            "/api/embed",
            "{\"model\":\"nope\",\"input\":\"x\"}",
            404,
            "model \\\"nope\\\" not found, try pulling it first",
        ),
        ("/api/generate", "{\"model\":\"a b\",\"prompt\":\"x\"}", 400, "invalid model name"),
        ("/v1/chat/completions", "{\"model\":\"nope\",\"messages\":[]}", 404, "not_found_error"),
    ];
    for index in 0..2 {
        for (path, body, status, text) in rows {
            let answer = cluster.http().call(Method::POST, &cluster.url(index, path)?, body).await?;
            let found = answer.status;
            let answer = answer.text().await?;
            ensure!(found == status && answer.contains(text), "node {index} {path} {body}: {found} {answer}");
            ensure!(answer.contains("\"error\""), "{path} {body}: {answer}");
        }
    }
    ensure!(cluster.chat(0, "demo", "still there?", false).await?.status == 200, "the node goes on");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_answers_html_is_named_and_left_out() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("html", |_| {}).await?;
    for index in [1, 2] {
        cluster.fake(index)?.inject(FaultRule::always(On::Everything, Fault::Garbage));
    }
    wait::until("the runtimes to be called down", PATIENCE, || async {
        let status = cluster.status(0).await?;
        let down = v1::runtime::State::Down as i32;
        let reasons = status.nodes.iter().filter_map(|node| node.runtime.as_ref()).filter(|it| it.state == down);
        let reasons: Vec<&str> = reasons.map(|runtime| runtime.reason.as_str()).collect();
        let all_named = reasons.iter().all(|reason| reason.contains("text/html") && reason.contains("runtime.url"));
        ensure!(reasons.len() == 2 && all_named, "down: {reasons:?}");
        Ok(())
    })
    .await?;
    let answer = cluster.chat(0, "demo", "hello", false).await?;
    let (status, code) = (answer.status, answer.header("x-ollamamax-error").to_owned());
    let text = answer.text().await?;
    ensure!(status == 503 && code == "runtime_unavailable", "{status} {code}: {text}");
    ensure!(!text.contains("<html>") && text.contains("\"error\""), "{text}");
    for index in [1, 2] {
        cluster.fake(index)?.heal();
    }
    wait::until("the runtimes to come back", PATIENCE, || async {
        let answer = cluster.chat(0, "demo", "hello", false).await?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    })
    .await?;
    cluster.finish().await
}

/// A refusal with this code, in one line that says what is wrong, and with this to do.
fn refused<T>(answer: Result<T, CallError>, code: ErrorCode, says: &str, next: &str) -> Result<()> {
    let error = answer.err().with_context(|| format!("{says:?}: was let in"))?;
    ensure!(error.code == Some(code), "{says:?}: {error}");
    let line = format!("{}; {}", error.message, error.why);
    ensure!(line.contains(says) && !line.contains('\n'), "{says:?}: one clear line: {error}");
    ensure!(error.next.contains(next), "{says:?}: what to do: {error}");
    Ok(())
}

/// What is on record of a token.
async fn token_of(home: &Admin, text: &str) -> Result<v1::Token> {
    home.tokens().await?.into_iter().find(|token| text.contains(&token.id)).context("a token on record")
}

/// `ollamax join` at a node, with all that it says.
async fn join_by_command(cluster: &Cluster, index: usize, token: &str) -> Result<Output> {
    let (data_dir, peer) = (cluster.node(index).data_dir().display().to_string(), cluster.node(0).advertised());
    run_to_exit("ollamax", &["--data-dir", &data_dir, "join", token, "--peer", &peer], EXIT_LIMIT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tokens_and_foreign_clusters_are_refused_and_change_nothing() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("tokens").nodes(4).unformed().start().await?;
    let (home, foreign) = (cluster.node(0).admin()?, cluster.node(1).admin()?);
    home.init("home", "n1").await?;
    foreign.init("foreign", "n2").await?;
    let joiner = cluster.node(2).admin()?;
    let seeds = || vec![cluster.node(0).advertised()];
    let join = async |token: &str| joiner.join(token, seeds(), "n3").await;

    let (invalid, create) = (ErrorCode::TokenInvalid, "ollamax token create");
    refused(join("not a token").await, invalid, "not an OllamaMax join token", create)?;
    refused(join(&foreign.create_token("voter", 1).await?).await, invalid, "for another cluster", create)?;
    let short = v1::CreateTokenRequest { role: "voter".to_owned(), ttl_ms: 1, uses: 1 };
    let short = home.create_token_as(short).await?;
    let (made, noted) = (short.record.clone().context("its record")?, token_of(&home, &short.token).await?);
    let times = |token: &v1::Token| (token.created_at_ms, token.expires_at_ms);
    ensure!(times(&made) == times(&noted), "{made:?} instead of {noted:?}");
    wait::until("the token to expire", PATIENCE, || async {
        // Log time moves with the log.
        home.set("log time", b"moves on").await?;
        let tokens = home.tokens().await?;
        ensure!(tokens.iter().any(|token| token.expired && short.token.contains(&token.id)), "{tokens:?}");
        anyhow::Ok(())
    })
    .await?;
    refused(join(&short.token).await, invalid, "token is expired", create)?;
    let once = home.create_token("voter", 1).await?;
    ensure!(cluster.status(2).await?.phase == v1::status_reply::Phase::Waiting as i32, "refusals leave it waiting");
    join(&once).await.context("a good token")?;
    let late = cluster.node(3).admin()?;
    refused(late.join(&once, seeds(), "n4").await, invalid, "token is used up", create)?;
    let told = join_by_command(&cluster, 3, &once).await?;
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    ensure!(told.status.code() == Some(5) && said.lines().count() == 4, "{}: {said}", told.status);
    ensure!(said.contains("token is used up") && said.contains("  try: on a member: ollamax token create"), "{said}");
    let other = home.create_token("voter", 1).await?;
    let answer = cluster.node(1).admin()?.join(&other, seeds(), "n2").await;
    refused(answer, ErrorCode::AlreadyMember, "foreign", "ollamax leave")?;
    ensure!(cluster.status(0).await?.nodes.len() == 2, "two members, nobody else");
    ensure!(cluster.status(1).await?.cluster_name == "foreign", "the other cluster stands as it was");
    let spare = token_of(&home, &other).await?;
    ensure!(spare.uses_left == 1, "a refused join used the token up");

    // The state of one cluster in the directory of the other's node.
    cluster.kill(&[0, 1]).await?;
    swap_state(&cluster)?;
    for index in [0, 1] {
        let said = refuses_to_start(&cluster.node(index).data_dir(), "the state of another cluster").await?;
        ensure!(said.contains("belongs to node 1 of cluster"), "{said}");
    }
    swap_state(&cluster)?;
    cluster.restart(&[0, 1]).await.context("refusals left everything as it was")?;
    for (index, name) in [(0, "home"), (1, "foreign")] {
        wait::until("both clusters to stand as they were", PATIENCE, || async {
            let found = cluster.status(index).await?.cluster_name;
            ensure!(found == name, "node {index} is in {found:?}");
            Ok(())
        })
        .await?;
    }
    cluster.finish().await
}

/// Exchanges the replicated state of the first two nodes.
fn swap_state(cluster: &Cluster) -> Result<()> {
    let [one, other] = [0, 1].map(|index| cluster.node(index).data_dir().join("raft"));
    let aside = cluster.directory().join("aside");
    std::fs::rename(&one, &aside)?;
    std::fs::rename(&other, &one)?;
    Ok(std::fs::rename(&aside, &other)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_is_told_in_full_before_anything_is_touched() -> Result<()> {
    let _turn = crate::turn().await;
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let taken = taken.local_addr()?.to_string();
    let write = |name: &str, text: &str| -> Result<String> {
        let path = home.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let missing = home.path().join("missing.toml").display().to_string();
    let half = write("half.toml", "[api]\nlisten = \"127.0.0.1:0\"\n[peer\n")?;
    let unknown = write("unknown.toml", "[raft]\nhartbeat_ms = 5\n[api]\nlisten = \"nowhere\"\n")?;
    let rows: [(&[&str], i32, &[&str]); 6] = [
        (&["--config", &missing], 2, &["missing.toml"]),
        (&["--config", &half], 2, &["half.toml", "line 3"]),
        (&["--config", &unknown], 2, &["hartbeat_ms", "heartbeat_ms", "api.listen"]),
        (&["--api.listen", &taken], 1, &["api.listen", &taken]),
        (&["--peer.listen", &taken], 1, &["peer.listen", &taken]),
        (&["--p2p.listen", &taken], 1, &["p2p.listen", &taken]),
    ];
    let data_text = data.display().to_string();
    for (extra, code, expected) in rows {
        let mut arguments = vec!["run", "--data-dir", &data_text, "--p2p.mdns", "false", "--runtime.kind", "none"];
        for listener in ["--api.listen", "--peer.listen", "--p2p.listen"] {
            if !extra.contains(&"--config") && !extra.contains(&listener) {
                arguments.extend([listener, "127.0.0.1:0"]);
            }
        }
        arguments.extend(extra);
        let output = run_to_exit("ollamax-node", &arguments, EXIT_LIMIT).await?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(code), "{extra:?}: {}: {text}", output.status);
        for word in expected.iter().chain(&["try:"]) {
            ensure!(text.contains(word), "{extra:?}: no word of {word:?} in {text}");
        }
        ensure!(!text.contains("panicked"), "{extra:?}: {text}");
        ensure!(!data.exists(), "{extra:?} left a data directory behind");
    }
    Ok(())
}

/// Starts a daemon that must refuse, and returns what it said.
async fn refuses_to_start(data: &Path, why: &str) -> Result<String> {
    refuses_to_start_at(data, ["127.0.0.1:0"; 2], why).await
}

/// The same, at given addresses of `api` and `peer`.
async fn refuses_to_start_at(data: &Path, [api, peer]: [&str; 2], why: &str) -> Result<String> {
    let data = data.display().to_string();
    let any = "127.0.0.1:0";
    let flags = ["--api.listen", api, "--peer.listen", peer, "--p2p.listen", any, "--p2p.mdns", "false"];
    let arguments: Vec<&str> =
        ["run", "--data-dir", &data, "--runtime.kind", "none"].into_iter().chain(flags).collect();
    let output = run_to_exit("ollamax-node", &arguments, EXIT_LIMIT).await.with_context(|| why.to_owned())?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1), "{why}: {}: {text}", output.status);
    ensure!(text.contains(&data) && text.contains("try:"), "{why}: says what and what to do: {text}");
    ensure!(!text.contains("panicked"), "{why}: {text}");
    Ok(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_wiped_or_busy_data_directory_is_recognised() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("copied").nodes(2).start().await?;
    let data = cluster.node(1).data_dir();
    // The same command once more is told about the daemon that runs, not about the ports that it has taken.
    let (api, peer) = (cluster.node(1).api()?, cluster.node(1).advertised());
    let same = [api.trim_start_matches("http://"), &peer];
    let in_use = format!("in use by process {}", cluster.node(1).facts()?.pid);
    for addresses in [["127.0.0.1:0"; 2], same] {
        let busy = refuses_to_start_at(&data, addresses, "two daemons on one data directory").await?;
        ensure!(busy.contains(&in_use) && busy.contains("stop that daemon"), "{busy}");
        cluster.set(1, "after", b"the second daemon").await.context("the first one goes on")?;
        cluster.get_json(1, "/health").await.context("the first one goes on")?;
    }

    cluster.kill(&[1]).await?;
    let copy = cluster.directory().join("copy");
    copy_directory(&data, &copy)?;
    let copied = refuses_to_start(&copy, "a copy").await?;
    ensure!(copied.contains("adopt --data-dir"), "{copied}");

    let (raft, aside) = (data.join("raft"), cluster.directory().join("raft-aside"));
    std::fs::rename(&raft, &aside)?;
    let wiped = refuses_to_start(&data, "a wiped state").await?;
    ensure!(wiped.contains("ollamax node remove"), "{wiped}");
    if raft.exists() {
        std::fs::remove_dir_all(&raft)?;
    }
    std::fs::rename(&aside, &raft)?;

    cluster.restart(&[1]).await.context("refusals left everything as it was")?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_whose_state_did_not_open_is_finished_by_the_next_join() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("half-joined").nodes(2).unformed().start().await?;
    let home = cluster.node(0).admin()?;
    home.init("home", "n1").await?;
    let token = home.create_token("voter", 1).await?;
    let in_the_way = cluster.node(1).data_dir().join("raft");
    std::fs::write(&in_the_way, "a file where a directory belongs")?;
    let joiner = cluster.node(1).admin()?;
    let seeds = || vec![cluster.node(0).advertised()];
    let error = joiner.join(&token, seeds(), "n2").await.err().context("joined without a place for its state")?;
    ensure!(error.code == Some(ErrorCode::StorageFailed), "{error}");
    std::fs::remove_file(&in_the_way)?;
    let joined = joiner.join(&token, seeds(), "n2").await?;
    ensure!(joined.already && joined.node_id == 2, "{joined:?}");
    cluster.set(1, "through", b"the second member").await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloned_machine_is_refused_by_the_members_and_does_not_start_again() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("cloned").start().await?;
    cluster.kill(&[2]).await?;
    let clone = cluster.directory().join("clone");
    copy_directory(&cluster.node(2).data_dir(), &clone)?;
    cluster.restart(&[2]).await?;
    cluster.settled(PATIENCE).await?;
    // A clone has the machine id and the inodes of the original; an adopted copy looks the same to the daemon.
    let adopted =
        run_to_exit("ollamax-node", &["adopt", "--data-dir", &clone.display().to_string()], EXIT_LIMIT).await?;
    ensure!(adopted.status.success(), "{adopted:?}");
    let refused = refuses_to_start(&clone, "a clone while the original is on").await?;
    ensure!(refused.contains("another live process with this node's identity"), "{refused}");
    ensure!(refused.contains("identity_conflict") && refused.contains("adopt --data-dir"), "{refused}");
    let again = refuses_to_start(&clone, "the clone again").await?;
    ensure!(again.contains("adopt --data-dir"), "{again}");
    cluster.set(2, "original", b"goes on").await?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_whose_clock_is_an_hour_off_is_refused() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("late-joiner").nodes(2).unformed().start().await?;
    let home = cluster.node(0).admin()?;
    home.init("home", "n1").await?;
    cluster.kill(&[1]).await?;
    cluster.node(1).set_environment("OLLAMAX_TEST_CLOCK_OFFSET_MS", -3_600_000);
    cluster.restart(&[1]).await?;
    let token = home.create_token("voter", 1).await?;
    let seeds = || vec![cluster.node(0).advertised()];
    let answer = cluster.node(1).admin()?.join(&token, seeds(), "n2").await;
    refused(answer, ErrorCode::PreconditionFailed, "the clock of this machine is 3", "timedatectl set-ntp true")?;
    let (waiting, alone) = (cluster.status(1).await?.phase(), cluster.status(0).await?.nodes.len());
    ensure!(waiting == v1::status_reply::Phase::Waiting && alone == 1, "{waiting:?}, {alone} members");
    cluster.kill(&[1]).await?;
    cluster.node(1).set_environment("OLLAMAX_TEST_CLOCK_OFFSET_MS", 0);
    cluster.restart(&[1]).await?;
    cluster.node(1).admin()?.join(&token, seeds(), "n2").await.context("the refusal spent the token")?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_an_hour_off_is_told_and_breaks_nothing() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("clock").start().await?;
    cluster.kill(&[2]).await?;
    cluster.node(2).set_environment("OLLAMAX_TEST_CLOCK_OFFSET_MS", 3_600_000);
    cluster.restart(&[2]).await?;
    cluster.settled(PATIENCE).await?;
    wait::until("the clock to be noticed", PATIENCE, || async {
        let status = cluster.status(0).await?;
        let skewed = status.nodes.iter().filter(|node| node.clock_skew_ms.abs() > 3_000_000).count();
        ensure!(skewed == 1, "{skewed} clocks are an hour off");
        let entry = status.attention.iter().find(|entry| entry.id == "clock_skew").context("nobody is told")?;
        ensure!(entry.what.contains("the clock of n3 is") && entry.next.contains("timedatectl"), "{entry:?}");
        Ok(())
    })
    .await?;
    cluster.set(2, "through", b"the wrong clock").await?;
    let request = v1::CreateTokenRequest { role: "voter".to_owned(), ttl_ms: 3_600_000, uses: 1 };
    let record = cluster.node(0).admin()?.create_token_as(request).await?.record.context("no record")?;
    ensure!(!record.expired, "one bad clock expired a fresh token");
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}
