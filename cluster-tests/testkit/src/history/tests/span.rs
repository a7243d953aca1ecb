//! Records in few words: who, from when to when, then what was asked and what came of it.

use super::{Call, Level, Operation, Outcome};

/// Who asked, about which key, and from when to when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    client: u32,
    key: &'static str,
    invoked_ns: u64,
    returned_ns: Option<u64>,
}

/// A call of a client about the key "k" that returned.
pub(super) fn by(client: u32, invoked_ns: u64, returned_ns: u64) -> Span {
    Span { client, key: "k", invoked_ns, returned_ns: Some(returned_ns) }
}

/// One that never returned.
pub(super) fn open(client: u32, invoked_ns: u64) -> Span {
    Span { client, key: "k", invoked_ns, returned_ns: None }
}

// === impl Span ===

impl Span {
    pub(super) fn on(self, key: &'static str) -> Self {
        Self { key, ..self }
    }

    pub(super) fn is(self, call: Call, outcome: Outcome) -> Operation {
        let Self { client, key, invoked_ns, returned_ns } = self;
        Operation { client, key: key.to_owned(), call, invoked_ns, returned_ns, outcome }
    }

    pub(super) fn put(self, value: u64, revision: u64) -> Operation {
        self.is(Call::Put { value }, Outcome::Written { revision, happened: true, observed_modified: None })
    }

    pub(super) fn put_unknown(self, value: u64) -> Operation {
        self.is(Call::Put { value }, Outcome::Unknown)
    }

    pub(super) fn refused_put(self, value: u64) -> Operation {
        self.is(Call::Put { value }, Outcome::Refused)
    }

    pub(super) fn cas(self, expected_modified: u64, value: u64, revision: u64) -> Operation {
        let outcome = Outcome::Written { revision, happened: true, observed_modified: None };
        self.is(Call::Cas { expected_modified, value }, outcome)
    }

    pub(super) fn cas_unknown(self, expected_modified: u64, value: u64) -> Operation {
        self.is(Call::Cas { expected_modified, value }, Outcome::Unknown)
    }

    pub(super) fn unmet(
        self,
        expected_modified: u64,
        value: u64,
        revision: u64,
        observed_modified: Option<u64>,
    ) -> Operation {
        let outcome = Outcome::Written { revision, happened: false, observed_modified };
        self.is(Call::Cas { expected_modified, value }, outcome)
    }

    pub(super) fn delete(self, revision: u64, existed: bool) -> Operation {
        self.is(Call::Delete, Outcome::Deleted { revision, existed })
    }

    pub(super) fn delete_unknown(self) -> Operation {
        self.is(Call::Delete, Outcome::Unknown)
    }

    pub(super) fn read(self, value: u64, modified: u64, at: u64) -> Operation {
        self.get(Level::Linearizable, Some((value, modified)), at)
    }

    pub(super) fn nothing(self, at: u64) -> Operation {
        self.get(Level::Linearizable, None, at)
    }

    pub(super) fn lease(self, found: Option<(u64, u64)>, at: u64) -> Operation {
        self.get(Level::Lease, found, at)
    }

    pub(super) fn stale(self, found: Option<(u64, u64)>, at: u64) -> Operation {
        self.get(Level::Stale, found, at)
    }

    /// A read of a value and its revision, or of nothing.
    pub(super) fn get(self, level: Level, found: Option<(u64, u64)>, at: u64) -> Operation {
        let (value, modified) = found.map_or((None, 0), |(value, modified)| (Some(value), modified));
        self.is(Call::Get { level }, Outcome::Read { value, modified, at, age_ms: None })
    }
}
