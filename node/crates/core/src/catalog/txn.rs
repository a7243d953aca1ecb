//! What one transaction asks of the values and what it answers: conditions, then one of two lists of operations.
//!
//! All of it happens at one index or none of it does. Operations see those before them; each key is written at most
//! once, so that one revision names one value.

use super::record::Value;

/// Conditions, and what is done when all hold, or else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// All must hold; none: they hold. At most `TXN_OPS_MAX`.
    pub conditions: Vec<Condition>,
    /// Done when they hold. At most `TXN_OPS_MAX`.
    pub then: Vec<Op>,
    /// Done when one does not. At most `TXN_OPS_MAX`.
    pub otherwise: Vec<Op>,
}

/// Compares one side of a key with what is given. A key that is not there has 0 in all numbers, and no bytes: what is
/// asked of them does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Which key.
    pub key: String,
    /// What of it, and what it is compared with.
    pub operand: Operand,
    /// How the key's side must stand to the given one.
    pub relation: Relation,
}

/// A side of a key and the given value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// [`Value::version`].
    Version(u64),
    /// [`Value::created`].
    Created(u64),
    /// [`Value::modified`].
    Modified(u64),
    /// [`Value::lease`]; 0: none.
    Lease(u64),
    /// [`Value::bytes`], in the order of bytes.
    Bytes(Vec<u8>),
}

/// How two sides may stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// The key's is less.
    Less,
    /// The key's is greater.
    Greater,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Reads a key.
    Get {
        /// Which.
        key: String,
    },
    /// Writes a key.
    Put {
        /// Which.
        key: String,
        /// What it holds from now on.
        bytes: Vec<u8>,
        /// What it goes with; `None`: it stays until it is deleted.
        lease: Option<u64>,
    },
    /// Removes a key; one that is not there is no error.
    Delete {
        /// Which.
        key: String,
    },
}

/// What one operation answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// What the key held.
    Got(Option<Value>),
    /// What it held before: [`Value::modified`], 0 for a new key.
    Put {
        /// See above.
        previous: u64,
    },
    /// The same; 0 when it was not there.
    Deleted {
        /// See above.
        previous: u64,
    },
}

// === impl Condition ===

impl Condition {
    /// Whether it holds for a key's value.
    #[must_use]
    pub fn holds(&self, value: Option<&Value>) -> bool {
        let number = |of: fn(&Value) -> u64| value.map_or(0, of);
        let order = match &self.operand {
            Operand::Version(given) => number(|value| value.version).cmp(given),
            Operand::Created(given) => number(|value| value.created).cmp(given),
            Operand::Modified(given) => number(|value| value.modified).cmp(given),
            Operand::Lease(given) => number(|value| value.lease.unwrap_or(0)).cmp(given),
            Operand::Bytes(given) => match value {
                Some(value) => value.bytes.cmp(given),
                None => return false,
            },
        };
        match self.relation {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Less => order.is_lt(),
            Relation::Greater => order.is_gt(),
        }
    }
}

// === impl Op ===

impl Op {
    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Get { key } | Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// Whether it changes its key.
    #[must_use]
    pub const fn writes(&self) -> bool {
        !matches!(self, Self::Get { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> Value {
        Value { bytes: b"m".to_vec(), created: 3, modified: 7, version: 2, lease: None }
    }

    fn check(operand: &Operand, there: [bool; 4], missing: [bool; 4]) {
        let relations = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater];
        let ask = |value: Option<&Value>| {
            relations.map(|relation| Condition { key: "k".to_owned(), operand: operand.clone(), relation }.holds(value))
        };
        assert_eq!(ask(Some(&value())), there, "{operand:?}");
        assert_eq!(ask(None), missing, "{operand:?} of a key that is not there");
    }

    #[test]
    fn each_side_is_compared_in_four_ways_and_a_missing_key_has_zeros_and_no_bytes() {
        check(&Operand::Modified(7), [true, false, false, false], [false, true, true, false]);
        check(&Operand::Modified(6), [false, true, false, true], [false, true, true, false]);
        check(&Operand::Modified(0), [false, true, false, true], [true, false, false, false]);
        check(&Operand::Created(4), [false, true, true, false], [false, true, true, false]);
        check(&Operand::Version(2), [true, false, false, false], [false, true, true, false]);
        check(&Operand::Lease(0), [true, false, false, false], [true, false, false, false]);
        check(&Operand::Bytes(b"m".to_vec()), [true, false, false, false], [false; 4]);
        check(&Operand::Bytes(b"n".to_vec()), [false, true, true, false], [false; 4]);
    }
}
