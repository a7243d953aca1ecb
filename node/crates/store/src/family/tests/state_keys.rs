//! The keys of what clients carry: round trips, a golden sample, and keys of another length.

use ollamax_core::catalog::{StateKey, StateKeys};
use ollamax_types::SecretKey;

use super::*;

pub(super) fn pair() -> impl Strategy<Value = (Key, Record)> {
    let key = (any::<u64>(), any::<[u8; 32]>(), any::<u64>()).prop_map(|(number, secret, made_at)| StateKey {
        number,
        secret: SecretKey::new(secret),
        made_at: Timestamp(made_at),
    });
    prop::collection::vec(key, 0..4).prop_map(|keys| (Key::StateKeys, Record::StateKeys(StateKeys { keys })))
}

#[test]
fn a_golden_sample_of_keys_has_not_changed() {
    let key = StateKey { number: 3, secret: SecretKey::new([7; 32]), made_at: Timestamp(300) };
    let record = Record::StateKeys(StateKeys { keys: vec![key] });
    let value_hex = format!("01 0a27 0803 1220{} 18ac02", "07".repeat(32)).replace(' ', "");
    golden(&Key::StateKeys, &record, "17", &value_hex);
}

#[test]
fn a_key_of_another_length_is_refused() {
    let of = |bytes: usize| {
        let key = disk::StateKeyRecord { number: 1, secret: vec![7; bytes], made_at_ms: 1 };
        decode_record(&Key::StateKeys, &seal(1, &disk::StateKeysRecord { keys: vec![key] }))
    };
    assert!(of(32).is_ok());
    for bytes in [0, 16, 31, 33] {
        assert!(of(bytes).is_err(), "{bytes}");
    }
}
