//! Leases: granted, renewed, and ended together with the values that go with them.
//!
//! Only log time counts. A lease that has passed its time is as good as gone at once: it cannot be renewed, and no
//! value can go with it. What lies in the state of it goes with the next [`super::expire`].

use ollamax_types::Timestamp;
use ollamax_types::limits::{LEASE_TTL_MAX, LEASE_TTL_MIN, LEASE_VALUES_MAX, LEASES_MAX};

use super::draft::Draft;
use super::limit::{check_ttl, exceeded};
use super::{Applied, Scene, Step, Stop, put, values};
use crate::catalog::command::{Answer, Refusal};
use crate::catalog::read;
use crate::catalog::record::{Counts, Due, Key, Lease, Record};
use crate::catalog::view::{Fault, View};

pub(super) fn grant(scene: &Scene<'_>, ttl_ms: u64) -> Step {
    check_ttl("a lease", ttl_ms, LEASE_TTL_MIN, LEASE_TTL_MAX)?;
    let counts = read::counts(scene.view)?;
    if counts.leases >= LEASES_MAX {
        return Err(exceeded("this cluster", counts.leases + 1, LEASES_MAX, "leases"));
    }
    let (id, ends_at) = (scene.index, scene.entry.log_time.plus_ms(ttl_ms));
    let mutations = vec![
        put(Key::Counts, Record::Counts(Counts { leases: counts.leases + 1, ..counts })),
        put(Key::Lease(id), Record::Lease(Lease { ttl_ms, ends_at, values: 0, due_at: scene.noted(ends_at) })),
        put(Key::Deadline(ends_at, Due::Lease(id)), Record::Present),
    ];
    Ok(Applied::new(mutations, Answer::Lease { lease: id, ttl_ms }))
}

pub(super) fn renew(scene: &Scene<'_>, id: u64) -> Step {
    let mut lease = running(scene.view, id, scene.entry.log_time)?;
    let renewed = scene.entry.log_time.plus_ms(lease.ttl_ms);
    // The deadline stays where it is; when it comes, it moves to where the lease ends then.
    lease.ends_at = lease.ends_at.max(renewed);
    let mutations = vec![put(Key::Lease(id), Record::Lease(lease))];
    Ok(Applied::new(mutations, Answer::Lease { lease: id, ttl_ms: lease.ttl_ms }))
}

pub(super) fn revoke(scene: &Scene<'_>, id: u64) -> Step {
    let lease = read::lease(scene.view, id)?.ok_or(Refusal::LeaseNotFound(id))?;
    let draft = Draft::new(scene.view);
    end(&draft, id, lease)?;
    Ok(Applied::done(draft.into_mutations()))
}

/// A lease that has not passed its time.
pub(super) fn running(view: &dyn View, id: u64, now: Timestamp) -> Result<Lease, Stop> {
    let lease = read::lease(view, id)?.filter(|lease| lease.ends_at > now);
    Ok(lease.ok_or(Refusal::LeaseNotFound(id))?)
}

/// Removes a lease and what goes with it. A deadline that is not noted stays, and finds nothing when it comes.
pub(super) fn end(draft: &Draft<'_>, id: u64, lease: Lease) -> Result<(), Stop> {
    let held = read::values_of_lease(draft, id, LEASE_VALUES_MAX as usize)?;
    if held.len() != lease.values as usize {
        let what = format!("lease {id} counts {} values and holds {}", lease.values, held.len());
        return Err(Fault::Invariant(what).into());
    }
    for (namespace, key) in held {
        values::delete(draft, &namespace, &key)?;
    }
    draft.delete(Key::Lease(id));
    if let Some(at) = lease.due_at {
        draft.delete(Key::Deadline(at, Due::Lease(id)));
    }
    let counts = read::counts(draft)?;
    let leases = counts.leases.checked_sub(1).ok_or_else(|| Fault::Invariant("more leases than counted".to_owned()))?;
    draft.put(Key::Counts, Record::Counts(Counts { leases, ..counts }));
    Ok(())
}
