//! How far a call is, for whoever wants to hear it.
//!
//! Always: what is done never goes back. Only the newest step is kept, so that who tells never waits for who hears.

use tokio::sync::watch;

/// How far something is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// How much is done, in whatever the tool counts: bytes, nodes, pieces.
    pub done: u64,
    /// Of how much; `None`: not known.
    pub total: Option<u64>,
    /// For people.
    pub text: String,
}

/// Where a tool says how far it is. Clones tell the same listener.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<watch::Sender<Step>>);

// === impl Progress ===

impl Progress {
    /// Nobody listens.
    #[must_use]
    pub const fn nobody() -> Self {
        Self(None)
    }

    /// Somebody does; it hears of the newest step.
    #[must_use]
    pub fn channel() -> (Self, watch::Receiver<Step>) {
        let (teller, told) = watch::channel(Step::default());
        (Self(Some(teller)), told)
    }

    /// Says how far it is. Less than was told before is told as what was.
    pub fn tell(&self, done: u64, total: Option<u64>, text: impl Into<String>) {
        let Some(teller) = &self.0 else { return };
        let text = text.into();
        teller.send_if_modified(|step| {
            let next = Step { done: step.done.max(done), total: total.or(step.total), text };
            let is_news = *step != next;
            *step = next;
            is_news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_never_goes_back_and_only_news_are_told() {
        let (progress, mut told) = Progress::channel();
        let mut check = |done, total, text: &str, expected: (u64, Option<u64>), is_news: bool| {
            progress.clone().tell(done, total, text);
            assert_eq!(told.has_changed().expect("somebody tells"), is_news, "{done} {total:?} {text}");
            let step = told.borrow_and_update().clone();
            assert_eq!(step, Step { done: expected.0, total: expected.1, text: text.to_owned() });
        };
        check(3, Some(10), "a", (3, Some(10)), true);
        check(3, Some(10), "a", (3, Some(10)), false);
        check(2, None, "b", (3, Some(10)), true);
        check(4, Some(12), "b", (4, Some(12)), true);
        Progress::nobody().tell(1, None, "nobody hears it");
    }
}
