//! Nodes beside Ollama's own programs, of as many releases as somebody names: their stores are adopted, a model goes
//! from the store of one to that of another, or of the bundled engine, and both answer, what `ollama rm` takes away
//! stays away until it is asked for again, and `ollama pull` gets models from a node.
//!
//! It runs where `OLLAMA_BINS` names programs; `OLLAMA_BINS=a:b cargo xtask test ollama` runs it alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use ollamax_testkit::cluster::{Builder, Runtime};
use ollamax_testkit::{Cluster, FakeRegistry, port, wait};

use crate::a_store_of_another_user::{NOBODY, no_other_user};
use crate::model_owners::PATIENCE;
use crate::ollama_program::{Listed, Ollama, VARIABLE, answers_at, listed_at, programs};
use crate::pull_from_a_registry::{plan, start};

const MODEL: &str = "demo";
const LISTED: &str = "demo:latest";
/// Certificates for this machine, and the root that they are signed by.
const PAPERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../node/crates/gateway/tests/it/lab");

/// The programs that are named; none, and that is said, where nobody names any.
fn programs_or_left_out(test: &str) -> Result<Vec<PathBuf>> {
    let programs = programs()?;
    if programs.is_empty() {
        let why = format!("{VARIABLE} names no Ollama; see docs/development/README.md");
        crate::say_left_out(&format!("real_ollama: {test}"), &why)?;
    }
    Ok(programs)
}

/// Each program with the one after it, around: both ways for two.
fn pairs(programs: &[PathBuf]) -> impl Iterator<Item = (&Path, &Path)> {
    let after = programs.iter().cycle().skip(1);
    programs.iter().zip(after).map(|(from, to)| (from.as_path(), to.as_path()))
}

/// Puts a node beside an Ollama and its store.
fn beside(plan: Builder, index: usize, ollama: &Ollama) -> Builder {
    let store = ("OLLAMA_MODELS".to_owned(), ollama.store().display().to_string());
    plan.node(index, |node| {
        node.runtime = Runtime::Url(ollama.url());
        node.environment.push(store);
    })
}

/// What an Ollama lists of the model, which it must have.
async fn has(ollama: &Ollama) -> Result<Listed> {
    ollama.listed(LISTED).await?.with_context(|| format!("{} does not list it", ollama.url()))
}

/// Two nodes of which the first has the model; the registry outside knows of nothing.
async fn two_nodes(test: &str, registry: &FakeRegistry, ollamas: [&Ollama; 2]) -> Result<Cluster> {
    let [first, second] = ollamas;
    start(beside(beside(plan(test, registry, 2), 0, first), 1, second)).await
}

/// Both nodes and their Ollamas have the same model, by digest and size, and answer with it.
async fn is_the_same_everywhere(cluster: &Cluster, ollamas: [&Ollama; 2], expected: &Listed) -> Result<()> {
    cluster.model_known(MODEL, 2, PATIENCE).await?;
    for (index, ollama) in ollamas.into_iter().enumerate() {
        let (own, at_node) = (has(ollama).await?, listed_at(cluster.http(), &cluster.url(index, "")?, LISTED).await?);
        ensure!(own == *expected && at_node.as_ref() == Some(expected), "{own:?}, {at_node:?}, not {expected:?}");
        ollama.answers(MODEL).await?;
        answers_at(cluster.http(), &cluster.url(index, "")?, MODEL).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_goes_from_the_store_of_one_release_to_that_of_another() -> Result<()> {
    let _turn = crate::turn().await;
    let programs = programs_or_left_out("stores of two releases")?;
    for (from, to) in pairs(&programs) {
        goes_over(from, to).await.with_context(|| format!("from {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

async fn goes_over(from: &Path, to: &Path) -> Result<()> {
    let registry = FakeRegistry::start().await?;
    let (first, second) = (Ollama::start(from, None).await?, Ollama::start(to, None).await?);
    first.create(MODEL).await?;
    let made = has(&first).await?;
    let cluster = two_nodes("real-ollama", &registry, [&first, &second]).await?;
    // It lay there before there was a node.
    cluster.model_known(MODEL, 1, PATIENCE).await?;
    answers_at(cluster.http(), &cluster.url(1, "")?, MODEL).await?;

    let pull = || cluster.pull(0, MODEL, &["--node", "n1,n2"]);
    let told = pull().await?;
    ensure!(told.status.success(), "{told:?}");
    is_the_same_everywhere(&cluster, [&first, &second], &made).await?;

    // What its user takes away stays away until somebody asks for it.
    second.command(&["rm", MODEL]).await?;
    cluster.model_known(MODEL, 1, PATIENCE).await?;
    ensure!(second.listed(LISTED).await?.is_none(), "it was put back");
    ensure!(has(&first).await? == made, "the other one lost it too");
    let told = pull().await?;
    ensure!(told.status.success(), "{told:?}");
    is_the_same_everywhere(&cluster, [&first, &second], &made).await?;
    // The registry outside does not know the name.
    let asked = registry.record().count("/v2/library/demo/blobs/");
    ensure!(asked == 0, "it was asked for {asked} files");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_goes_from_the_store_of_each_release_to_the_bundled_engine() -> Result<()> {
    let _turn = crate::turn().await;
    for program in programs_or_left_out("a store of Ollama and the bundled engine")? {
        goes_to_the_engine(&program).await.with_context(|| format!("from {}", program.display()))?;
    }
    Ok(())
}

async fn goes_to_the_engine(from: &Path) -> Result<()> {
    let (registry, ollama) = (FakeRegistry::start().await?, Ollama::start(from, None).await?);
    ollama.create(MODEL).await?;
    let made = has(&ollama).await?;
    let plan = beside(plan("real-ollama-engine", &registry, 2), 0, &ollama);
    let cluster = start(plan.node(1, |node| node.runtime = Runtime::Engine)).await?;
    cluster.model_known(MODEL, 1, PATIENCE).await?;
    let told = cluster.pull(1, MODEL, &["--node", "n1,n2"]).await?;
    ensure!(told.status.success(), "{told:?}");
    cluster.model_known(MODEL, 2, PATIENCE).await?;
    let at_node = listed_at(cluster.http(), &cluster.url(1, "")?, LISTED).await?;
    ensure!(at_node.as_ref() == Some(&made), "{at_node:?}, not {made:?}");
    ollama.answers(MODEL).await?;
    // Nobody else answers for the engine.
    cluster.kill(&[0]).await?;
    answers_at(cluster.http(), &cluster.url(1, "")?, MODEL).await?;
    cluster.restart(&[0]).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ollama_that_is_no_member_pulls_from_a_node() -> Result<()> {
    let _turn = crate::turn().await;
    let programs = programs_or_left_out("the registry for the lab")?;
    let papers = tempfile::tempdir()?;
    let copied = |name: &str| -> Result<PathBuf> {
        let to = papers.path().join(name);
        fs::copy(Path::new(PAPERS).join(name), &to).with_context(|| format!("copy {name}"))?;
        fs::set_permissions(&to, Permissions::from_mode(0o600))?;
        Ok(to)
    };
    let (root, certificate, key) = (copied("ca.pem")?, copied("cert.pem")?, copied("key.pem")?);
    let over_tls = |plan: Builder| {
        plan.setting("registry.certificate_file", certificate.display()).setting("registry.key_file", key.display())
    };
    let rows: [(&str, &[&str], Option<&Path>); 2] =
        [("over http", &["pull", "--insecure"], None), ("over TLS", &["pull"], Some(root.as_path()))];
    for (node, machine) in pairs(&programs) {
        for (how, words, roots) in rows {
            let change = |plan| if roots.is_some() { over_tls(plan) } else { plan };
            let pulled = pulls_from_a_node(node, machine, (words, roots), change).await;
            pulled.with_context(|| format!("{} from {}, {how}", machine.display(), node.display()))?;
        }
    }
    Ok(())
}

async fn pulls_from_a_node(
    node: &Path,
    machine: &Path,
    (words, roots): (&[&str], Option<&Path>),
    change: impl FnOnce(Builder) -> Builder,
) -> Result<()> {
    let registry = FakeRegistry::start().await?;
    let (owner, machine) = (Ollama::start(node, None).await?, Ollama::start(machine, roots).await?);
    owner.create(MODEL).await?;
    let made = has(&owner).await?;
    let host = format!("127.0.0.1:{}", port::free()?);
    let plan = beside(plan("real-ollama-registry", &registry, 1), 0, &owner).setting("registry.listen", &host);
    let cluster = start(change(plan)).await?;
    cluster.model_known(MODEL, 1, PATIENCE).await?;
    let name = format!("{host}/library/{MODEL}");
    // The model is lent as soon as it is hashed.
    wait::until("the machine to get it", PATIENCE, || async {
        let words: Vec<&str> = words.iter().copied().chain([name.as_str()]).collect();
        machine.command(&words).await
    })
    .await?;
    let found = machine.listed(&format!("{name}:latest")).await?.with_context(|| format!("{name} is not listed"))?;
    ensure!(found.size_bytes == made.size_bytes, "{found:?}, not {made:?}");
    let (pulled, owned) = (machine.files(&host, MODEL)?, owner.files("registry.ollama.ai", MODEL)?);
    ensure!(pulled == owned, "{pulled:?}, not {owned:?}");
    machine.answers(&name).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ollama_whose_store_its_node_may_only_read_fetches_from_that_node() -> Result<()> {
    let _turn = crate::turn().await;
    let programs = programs_or_left_out("a store of another user")?;
    let test = "real_ollama: a store of another user";
    if programs.is_empty() {
        return Ok(());
    }
    if let Some(why) = no_other_user(test)? {
        return crate::say_left_out(test, &why);
    }
    let mut fetched = 0;
    for (from, to) in pairs(&programs) {
        let registry = FakeRegistry::start().await?;
        let (first, second) = (Ollama::start(from, None).await?, Ollama::start(to, None).await?);
        first.create(MODEL).await?;
        let made = has(&first).await?;
        let plan = beside(beside(plan("real-ollama-user", &registry, 2), 0, &first), 1, &second);
        let cluster = start(plan.node(1, |node| node.user = Some(NOBODY))).await?;
        cluster.model_known(MODEL, 1, PATIENCE).await?;
        let told = cluster.pull(0, MODEL, &["--node", "n1,n2"]).await?;
        let has_come = told.status.success();
        if has_come {
            is_the_same_everywhere(&cluster, [&first, &second], &made).await?;
            fetched += 1;
        } else {
            // Old ones write anew what they pull. `create` ends its line, which they do not: that is another version.
            ensure!(String::from_utf8_lossy(&told.stderr).contains("\"digest_conflict\""), "{told:?}");
            ensure!(first.manifest("registry.ollama.ai", MODEL)?.ends_with(b"\n"), "it would have stayed the same");
        }
        let names = second.command(&["list"]).await?;
        let expected = 1 + usize::from(has_come);
        ensure!(names.lines().count() == expected, "a name of the way is left: {names}");
        cluster.finish().await?;
    }
    ensure!(fetched > 0, "none of these fetches what another one made");
    Ok(())
}
