//! Values at the doors of three nodes: revisions, races, watches, leases, sessions, and what happens to them when the
//! leader dies.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;

use ollamax_proto::v1;
use ollamax_testkit::cluster::{Changed, Level, Values, Watch};
use ollamax_testkit::{Cluster, wait};
use ollamax_types::ErrorCode;

const PATIENCE: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(5);
const LEVELS: [Level; 3] = [Level::Linearizable, Level::Lease, Level::Stale];

async fn three(test: &str) -> Result<(Cluster, Vec<Values>)> {
    let cluster = Cluster::builder(test).start().await?;
    let values = (0..cluster.size()).map(|index| cluster.node(index).values()).collect::<Result<_>>()?;
    Ok((cluster, values))
}

/// Changes up to and with the one that ends it.
async fn changes_until(watch: &mut Watch, key: &str) -> Result<Vec<(u64, String, Option<Vec<u8>>)>> {
    let mut seen = Vec::new();
    loop {
        for event in watch.next().await?.events {
            let ended = event.key == key;
            seen.push((event.revision, event.key, event.value.map(|value| value.value)));
            if ended {
                return Ok(seen);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_the_same_at_every_door_and_a_race_has_one_winner() -> Result<()> {
    let _turn = crate::turn().await;
    let (cluster, values) = three("values").await?;
    let first = values[0].put("user/a", b"1", 0, None).await?;
    for (index, door) in values.iter().enumerate() {
        for level in LEVELS {
            wait::until("the value", PATIENCE, || async {
                let found = door.get("user/a", level).await?;
                let value = found.value.context("not there")?;
                ensure!((value.value.as_slice(), value.modified) == (b"1", first.header.revision), "{value:?}");
                ensure!(found.header.revision >= value.modified, "complete up to {}", found.header.revision);
                ensure!(found.header.age_ms.is_some() == (level == Level::Stale), "{:?}", found.header);
                Ok(())
            })
            .await
            .with_context(|| format!("node {index}, {level:?}"))?;
        }
    }

    // Every door tries to be the one that changes it next.
    let tries = values.iter().enumerate().flat_map(|(index, door)| {
        (0..4).map(move |attempt| async move {
            let name = format!("{index}/{attempt}");
            let done = door.cas("user/a", first.header.revision, name.as_bytes(), None).await;
            done.map(|done| (name, done))
        })
    });
    let done = join_all(tries).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let winners: Vec<_> = done.iter().filter(|(_, done)| done.held).collect();
    ensure!(winners.len() == 1, "{winners:?}");
    let (name, won) = winners[0];
    let found = values[2].get("user/a", Level::Linearizable).await?.value.context("gone")?;
    ensure!((&found.value, found.modified) == (&name.clone().into_bytes(), won.header.revision), "{found:?}");
    ensure!((found.created, found.version) == (first.header.revision, 2), "{found:?}");

    let gone = values[1].delete("user/a", None).await?;
    ensure!(gone.previous == won.header.revision, "{gone:?}");
    let error = values[1].put("elsewhere", b"", 0, None).await.expect_err("no such place");
    ensure!(error.code == Some(ErrorCode::BadRequest), "{error}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_every_change_in_order_and_goes_on_at_another_node_when_its_own_dies() -> Result<()> {
    let _turn = crate::turn().await;
    // What was flushed is not applied again after a restart.
    let cluster = Cluster::builder("values-watch").setting("store.flush_entries_max", 10).start().await?;
    let values = (0..cluster.size()).map(|index| cluster.node(index).values()).collect::<Result<Vec<_>>>()?;
    let leader = cluster.leader(PATIENCE).await?;
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut watch = values[follower].watch("user/w/", 0).await?;
    let begin = watch.next().await?;
    ensure!(begin.events.is_empty(), "{begin:?}");

    let mut expected = Vec::new();
    for number in 0..20_u8 {
        let door = &values[usize::from(number) % 3];
        let key = format!("user/w/{}", number % 3);
        let done = door.put(&key, &[number], 0, None).await?;
        values[other].put("user/elsewhere", &[number], 0, None).await?;
        expected.push((done.header.revision, key, Some(vec![number])));
    }
    let done = values[leader].delete("user/w/0", None).await?;
    expected.push((done.header.revision, "user/w/0".to_owned(), None));
    let end = values[leader].put("user/w/end", b"", 0, None).await?;
    expected.push((end.header.revision, "user/w/end".to_owned(), Some(Vec::new())));
    ensure!(changes_until(&mut watch, "user/w/end").await? == expected, "what was told, against {expected:?}");

    // From the middle, at another node, after the one that was watched has died.
    cluster.kill(&[follower]).await?;
    let middle = expected[7].0;
    let mut again = values[other].watch("user/w/", middle).await?;
    ensure!(changes_until(&mut again, "user/w/end").await? == expected[7..], "the rest again");

    // A node that has begun anew does not keep what was before, and says so.
    cluster.restart(&[follower]).await?;
    cluster.converged(PATIENCE).await?;
    let mut early = values[follower].watch("user/w/", 1).await?;
    early.next().await?;
    let error = early.next().await.expect_err("it is not kept");
    ensure!(error.code == Some(ErrorCode::Compacted), "{error}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_takes_its_values_along_unless_it_is_renewed_also_across_the_death_of_a_leader() -> Result<()> {
    let _turn = crate::turn().await;
    let (cluster, values) = three("values-lease").await?;
    let leader = cluster.leader(PATIENCE).await?;
    let door = &values[(leader + 1) % 3];
    // Longer than an election takes on a busy machine.
    let (kept, left) = (door.grant(LEASE).await?, door.grant(LEASE).await?);
    door.put("user/kept", b"k", kept, None).await?;
    let last = door.put("user/left", b"l", left, None).await?;
    // From a revision: this node may not have applied what the leader has answered.
    let mut watch = door.watch("user/", last.header.revision + 1).await?;
    cluster.kill(&[leader]).await?;
    let renewing = async {
        loop {
            // While there is no leader nobody can renew it.
            drop(door.renew(kept).await);
            wait::pause(Duration::from_millis(200)).await;
        }
    };
    let seen = tokio::select! {
        seen = changes_until(&mut watch, "user/left") => seen?,
        () = renewing => bail!("renewing never ends by itself"),
    };
    ensure!(seen.len() == 1 && seen[0].2.is_none(), "{seen:?}");
    ensure!(door.get("user/kept", Level::Linearizable).await?.value.is_some(), "renewed and gone");
    let error = door.renew(left).await.expect_err("it has ended");
    ensure!(error.code == Some(ErrorCode::LeaseNotFound), "{error}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_a_session_has_one_effect_at_whichever_door_it_comes_again() -> Result<()> {
    let _turn = crate::turn().await;
    let (cluster, values) = three("values-session").await?;
    let session = values[0].open_session(Duration::from_secs(60), 8).await?;
    let first = values[0].put("user/s", b"1", 0, Some((session, 1))).await?;
    let other = values[1].put("user/s", b"other", 0, None).await?;
    for door in &values {
        let again = door.put("user/s", b"1", 0, Some((session, 1))).await?;
        ensure!(again == as_told_by(&first, &again), "{again:?} instead of {first:?}");
    }
    let leader = cluster.leader(PATIENCE).await?;
    cluster.kill(&[leader]).await?;
    let door = &values[(leader + 1) % 3];
    let again =
        wait::until("an answer of the new leader", PATIENCE, || door.put("user/s", b"1", 0, Some((session, 1))));
    ensure!(again.await?.header.revision == first.header.revision, "done twice");
    let found = door.get("user/s", Level::Linearizable).await?.value.context("gone")?;
    ensure!((found.value.as_slice(), found.modified) == (b"other", other.header.revision), "{found:?}");

    door.put("user/s", b"9", 0, Some((session, 9))).await?;
    let error = door.put("user/s", b"1", 0, Some((session, 1))).await.expect_err("its answer is forgotten");
    ensure!(error.code == Some(ErrorCode::SequenceTooOld), "{error}");
    let error = door.put("user/s", b"1", 0, Some((session + 1, 1))).await.expect_err("no such session");
    ensure!(error.code == Some(ErrorCode::SessionExpired), "{error}");
    cluster.finish().await
}

/// The first answer as another node tells it.
fn as_told_by(first: &Changed, again: &Changed) -> Changed {
    let header = v1::KvHeader { node_id: again.header.node_id, ..first.header };
    Changed { header, ..first.clone() }
}
