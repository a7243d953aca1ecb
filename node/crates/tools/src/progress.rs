//! How far a call is, for whoever wants to hear it.
//!
//! Always: what is done never goes back. Only the newest step is kept, so that who tells never waits for who hears; of
//! words that are said piece by piece it has all that were not heard yet, up to [`UNHEARD_BYTES_MAX`].

use tokio::sync::watch;

/// So much of what is said waits for whoever hears it; what is more is left out, and that shows.
pub const UNHEARD_BYTES_MAX: usize = 16 << 10;
/// Stands where words are left out.
const LEFT_OUT: char = '…';

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

    /// Says the next words, behind those that nobody has taken yet.
    pub fn say(&self, done: u64, words: &str) {
        let Some(teller) = &self.0 else { return };
        teller.send_if_modified(|step| {
            let is_news = done > step.done || !words.is_empty();
            step.done = step.done.max(done);
            join(&mut step.text, words);
            is_news
        });
    }

    /// What was told last, for the one who hears it: words that are taken are not told again. Wakes nobody.
    #[must_use]
    pub fn take(&self) -> Step {
        let Some(teller) = &self.0 else { return Step::default() };
        let mut taken = Step::default();
        teller.send_if_modified(|step| {
            taken = step.clone();
            step.text.clear();
            false
        });
        taken
    }
}

/// Adds words as far as there is room for them.
fn join(text: &mut String, words: &str) {
    let room = UNHEARD_BYTES_MAX.saturating_sub(text.len());
    if words.len() <= room {
        text.push_str(words);
    } else if !text.ends_with(LEFT_OUT) || room > 0 {
        text.push_str(words.split_at(words.floor_char_boundary(room)).0);
        text.push(LEFT_OUT);
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

    #[test]
    fn words_that_were_not_heard_yet_are_heard_together_and_once() {
        let (progress, mut told) = Progress::channel();
        let heard = |expected: (u64, &str)| {
            let step = progress.take();
            assert_eq!((step.done, step.text.as_str()), expected);
        };
        progress.say(1, "a ");
        progress.say(2, "majority");
        assert!(told.has_changed().expect("somebody tells"));
        told.mark_unchanged();
        heard((2, "a majority"));
        assert!(!told.has_changed().expect("somebody tells"), "taking wakes nobody");
        heard((2, ""));
        progress.say(3, " of");
        progress.say(4, "");
        assert!(told.has_changed().expect("somebody tells"));
        heard((4, " of"));
        Progress::nobody().say(1, "nobody hears it");
        assert_eq!(Progress::nobody().take(), Step::default());
    }

    #[test]
    fn words_that_nobody_hears_take_no_more_room_than_there_is_and_what_is_left_out_shows() {
        let check = |said: &[&str], expected: String| {
            let (progress, _told) = Progress::channel();
            for words in said {
                progress.say(1, words);
            }
            assert_eq!(progress.take().text, expected);
        };
        let full = "x".repeat(UNHEARD_BYTES_MAX);
        check(&[full.as_str()], full.clone());
        check(&[full.as_str(), "", "y", "z"], format!("{full}…"));
        check(&[&full[1..], "ä", "z"], format!("{}…", &full[1..]));
    }
}
