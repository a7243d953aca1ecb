//! Registries that break off, lie, refuse and tarry: what can be mended is mended, everything else is told with its
//! code, and of what is wrong nothing becomes visible.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use ollamax_testkit::fake_registry::{Fault, FaultRule, On};
use ollamax_testkit::{Cluster, FakeRegistry};
use ollamax_types::ErrorCode;

use crate::bad_models::files_below;
use crate::pull_from_a_registry::{self, MIB, blob, is_whole, model, nothing_is_left, plan, pulled, refused};

/// Two pieces and a short one.
const WEIGHTS_BYTES: u64 = 9 * MIB;
/// Less than a piece: a file that is asked for by one question at a time.
const PIECE_BYTES: u64 = 3 * MIB;
/// Silence of one answer, and of all of them, milliseconds.
const STALL_MS: u64 = 2_000;
const SILENCE_MS: u64 = 6_000;

/// A node that is not patient.
async fn start(test: &str, registry: &FakeRegistry) -> Result<Cluster> {
    let plan = plan(test, registry, 1).setting("transfer.stall_ms", STALL_MS);
    let plan = plan.setting("transfer.silence_ms", SILENCE_MS).setting("transfer.retry_ms", 10);
    pull_from_a_registry::start(plan.setting("transfer.retry_ms_max", 100)).await
}

/// The names in the list of the node.
async fn listed(cluster: &Cluster) -> Result<Vec<String>> {
    let tags = cluster.get_json(0, "/api/tags").await?;
    let models = tags["models"].as_array().with_context(|| format!("no list: {tags}"))?;
    Ok(models.iter().filter_map(|model| model["name"].as_str()).map(str::to_owned).collect())
}

fn strikes(on: On, fault: Fault, times: u32) -> FaultRule {
    FaultRule { on, fault, times: Some(times) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_waited_for_and_what_broke_off_is_fetched_again() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let cluster = start("pull-mended", &registry).await?;
    let (store, data_dir) = (cluster.node(0).store(), cluster.node(0).data_dir());
    let rows: [(&str, u64, &[FaultRule]); 9] = [
        ("cut-manifest", WEIGHTS_BYTES, &[FaultRule::once(On::Manifest, Fault::CutAfter(10))]),
        ("cut", WEIGHTS_BYTES, &[strikes(On::Direct, Fault::CutAfter(MIB), 3)]),
        ("stalled", WEIGHTS_BYTES, &[FaultRule::once(On::Direct, Fault::Stall)]),
        // The address is good for the first question, and expired at the second.
        (
            "expired",
            PIECE_BYTES,
            &[FaultRule::once(On::Direct, Fault::CutAfter(MIB)), FaultRule::once(On::Direct, Fault::Expired)],
        ),
        ("busy", WEIGHTS_BYTES, &[FaultRule::once(On::Manifest, Fault::Status(429, Some(0)))]),
        ("broken", WEIGHTS_BYTES, &[strikes(On::Blob, Fault::Status(503, None), 2)]),
        ("told-to-wait", WEIGHTS_BYTES, &[FaultRule::once(On::Direct, Fault::Status(429, Some(1)))]),
        ("without-ranges", WEIGHTS_BYTES, &[FaultRule::always(On::Direct, Fault::NoRanges)]),
        (
            "challenged",
            WEIGHTS_BYTES,
            &[FaultRule::always(On::Manifest, Fault::Challenge), FaultRule::always(On::Blob, Fault::Challenge)],
        ),
    ];
    for (seed, (what, weights_bytes, faults)) in (20..).zip(rows) {
        let model = model(seed, weights_bytes);
        registry.push(what, &model);
        faults.iter().for_each(|fault| registry.inject(*fault));
        pulled(&cluster.pull(0, what, &[]).await?).context(what)?;
        registry.heal();
        is_whole(&store, &model).context(what)?;
        nothing_is_left(&store, &data_dir).context(what)?;
    }
    let listed = listed(&cluster).await?;
    ensure!(listed.len() == rows.len(), "{listed:?}");
    ensure!(registry.record().leaked.is_empty(), "a token went to a foreign host");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_wrong_is_told_and_can_be_pulled_when_it_is_right() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let cluster = start("pull-refused", &registry).await?;
    let store = cluster.node(0).store();
    let rows = [
        ("down", On::Direct, Fault::Status(503, None), ErrorCode::OriginFailed, "busy (status 503)"),
        ("forbidden", On::Direct, Fault::Status(403, None), ErrorCode::OriginRefused, "status 403"),
        ("absent", On::Blob, Fault::Status(404, None), ErrorCode::OriginFailed, "does not have"),
        ("other-length", On::Direct, Fault::WrongTotal, ErrorCode::ManifestInvalid, "bytes instead of"),
        ("astray", On::Blob, Fault::NoLocation, ErrorCode::ManifestInvalid, "redirects"),
        ("a-page", On::Manifest, Fault::Html, ErrorCode::ManifestInvalid, "no manifest"),
        ("no-manifest", On::Manifest, Fault::Status(404, None), ErrorCode::ModelNotFound, "file does not exist"),
    ];
    for (seed, (what, on, fault, expected, words)) in (40..).zip(rows) {
        let model = model(seed, WEIGHTS_BYTES);
        registry.push(what, &model);
        registry.inject(FaultRule::always(on, fault));
        let (code, error) = refused(&cluster.pull(0, what, &[]).await?).context(what)?;
        ensure!(code == expected.as_str() && error.to_string().contains(words), "{what}: {error}");
        is_not_there(&cluster, &store, what, &blob(&store, model.weights.sha256())).await?;
        registry.heal();
        pulled(&cluster.pull(0, what, &[]).await?).with_context(|| format!("{what}, healed"))?;
        is_whole(&store, &model).with_context(|| format!("{what}, healed"))?;
    }
    cluster.finish().await
}

/// Neither the name nor the file is to be seen.
async fn is_not_there(cluster: &Cluster, store: &Path, what: &str, file: &Path) -> Result<()> {
    let listed = listed(cluster).await?;
    ensure!(!listed.contains(&format!("{what}:latest")), "{what}: {listed:?}");
    let manifests = files_below(vec![store.join("manifests")])?;
    ensure!(!manifests.iter().any(|path| path.to_string_lossy().contains(&format!("/{what}/"))), "{manifests:?}");
    ensure!(!file.exists(), "{what}: {} is in the store", file.display());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_never_seen_and_come_again_as_a_whole() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let cluster = start("pull-wrong-bytes", &registry).await?;
    let store = cluster.node(0).store();
    let model = model(60, WEIGHTS_BYTES);
    let (weights, file) = (model.weights.sha256(), blob(&store, model.weights.sha256()));
    registry.push("wrong", &model);
    registry.corrupt(weights, 5 * MIB);
    let (code, error) = refused(&cluster.pull(0, "wrong", &[]).await?)?;
    let words = format!("want sha256:{weights}");
    ensure!(code == ErrorCode::DigestMismatch.as_str() && error.to_string().contains(&words), "{error}");
    is_not_there(&cluster, &store, "wrong", &file).await?;
    let parts = files_below(vec![store.join(".ollamax")])?;
    ensure!(!parts.iter().any(|path| path.to_string_lossy().contains(&weights.to_string())), "kept: {parts:?}");
    ensure!(registry.sent(weights) == WEIGHTS_BYTES, "{} bytes sent", registry.sent(weights));

    registry.heal();
    pulled(&cluster.pull(0, "wrong", &[]).await?)?;
    is_whole(&store, &model)?;
    ensure!(registry.sent(weights) == 2 * WEIGHTS_BYTES, "{} bytes sent", registry.sent(weights));
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_cannot_be_right_touches_no_file() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let cluster = start("pull-bad-manifest", &registry).await?;
    let store = cluster.node(0).store();
    let digest = format!("sha256:{}", "7".repeat(64));
    let layer = |digest: &str, size: Value| json!({ "mediaType": "m", "digest": digest, "size": size });
    let of = |layers: Vec<Value>| json!({ "schemaVersion": 2, "layers": layers }).to_string();
    let rows = [
        ("path", of(vec![layer("sha256:../../../../etc/passwd", json!(1))])),
        ("two-to-the-63rd", of(vec![layer(&digest, json!(1_u64 << 63))])),
        ("negative", of(vec![layer(&digest, json!(-1))])),
        ("contradiction", of(vec![layer(&digest, json!(1)), layer(&digest, json!(2))])),
        ("nothing", of(Vec::new())),
        ("many-layers", of(vec![layer(&digest, json!(1)); 5_000])),
        ("too-long", format!("{{\"x\":\"{}\"}}", "y".repeat(2 << 20))),
        ("half", "{\"schemaVersion\":2,".to_owned()),
        ("schema-1", json!({ "schemaVersion": 1, "layers": [layer(&digest, json!(1))] }).to_string()),
    ];
    let before = files_below(vec![store.clone()])?;
    for (what, manifest) in rows {
        registry.push_manifest(&format!("library/{what}:latest"), manifest);
        let (code, error) = refused(&cluster.pull(0, what, &[]).await?).context(what)?;
        ensure!(code == ErrorCode::ManifestInvalid.as_str(), "{what}: {error}");
    }
    ensure!(files_below(vec![store.clone()])? == before, "files were made in the store");
    cluster.finish().await
}
