//! The knobs of replication as the cluster has set them.
//!
//! Always holds: what is not set, or is set to a text that is no value of its knob, has its default.

use ollamax_types::{ReplicaKnob, ReplicaKnobs};

use crate::catalog::{Fault, View, read};

/// All knobs as they are set.
///
/// # Errors
/// When the state cannot be read.
pub fn knobs(view: &dyn View) -> Result<ReplicaKnobs, Fault> {
    let mut knobs = ReplicaKnobs::default();
    for knob in ReplicaKnob::ALL {
        let key = knob.setting();
        if let Some(setting) = read::setting(view, &key)? {
            // The door lets no other text in; what came before there was a door changes nothing.
            drop(knobs.take(&key, &setting.value));
        }
    }
    Ok(knobs)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::catalog::mem::MemView;
    use crate::catalog::{Key, Mutation, Record};

    #[test]
    fn what_is_set_counts_and_what_is_no_value_does_not() {
        let set = |key: &str, value: &str| {
            let setting = crate::catalog::Setting { value: value.as_bytes().to_vec(), revision: 1 };
            Mutation::Put(Key::Setting(key.to_owned()), Record::Setting(setting))
        };
        let mut view = MemView::default();
        assert_eq!(knobs(&view), Ok(ReplicaKnobs::default()));
        view.write(&[
            set("models/repair_after_ms", "3000"),
            set("models/rebalance", "true"),
            set("models/moves_max", "many"),
            set("models/rules", "{}"),
        ]);
        let expected =
            ReplicaKnobs { repair_after: Duration::from_secs(3), rebalance: true, ..ReplicaKnobs::default() };
        assert_eq!(knobs(&view), Ok(expected));
    }
}
