//! What goes wrong at a fake registry, where, and how often; and a hand on its stream of bytes.

use std::sync::Arc;

use tokio::sync::watch;

/// Which requests a fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Manifests.
    Manifest,
    /// The registry's own answer to the question for a file. What concerns bytes makes it send the file itself.
    Blob,
    /// The answer at the address to which it redirects.
    Direct,
    /// Tokens.
    Token,
    /// Whatever arrives.
    Everything,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This status, with `Retry-After` in seconds where given.
    Status(u16, Option<u64>),
    /// The head as ever; the connection breaks off after so many bytes of the body.
    CutAfter(u64),
    /// Nothing comes behind the head of a manifest or of a file; where none of them is sent, no head either.
    Stall,
    /// So many bytes in a second.
    Trickle(u64),
    /// The whole file, whatever range is asked for.
    NoRanges,
    /// A range that says that the file is a byte longer.
    WrongTotal,
    /// A page, with status 200.
    Html,
    /// A redirect to itself.
    RedirectLoop,
    /// A redirect that does not say where to.
    NoLocation,
    /// A redirect to plain HTTP at another name of this machine, which who came by TLS must not follow.
    Downgrade,
    /// 403 at every address that was given out so far; elsewhere just 403.
    Expired,
    /// 401 with a challenge to all who show no token.
    Challenge,
}

/// A fault and when it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultRule {
    /// Which requests.
    pub on: On,
    /// What happens to them.
    pub fault: Fault,
    /// How often; `None` means always.
    pub times: Option<u32>,
}

/// A hand on the bytes of one file: when so many have been sent in all, no more are until it lets go.
#[derive(Debug, Clone)]
pub struct Hold(Arc<State>);

#[derive(Debug)]
struct State {
    bytes: u64,
    reached: watch::Sender<bool>,
    released: watch::Sender<bool>,
}

// === impl FaultRule ===

impl FaultRule {
    /// Strikes every time.
    #[must_use]
    pub const fn always(on: On, fault: Fault) -> Self {
        Self { on, fault, times: None }
    }

    /// Strikes the next time only.
    #[must_use]
    pub const fn once(on: On, fault: Fault) -> Self {
        Self { on, fault, times: Some(1) }
    }
}

/// Finds the fault that meets a request and counts it down. Rules that are used up are dropped.
pub(super) fn take(rules: &mut Vec<FaultRule>, on: On, is_authorised: bool) -> Option<Fault> {
    let index = rules.iter().position(|rule| {
        let is_answered = is_authorised && rule.fault == Fault::Challenge;
        (rule.on == on || rule.on == On::Everything) && !is_answered
    })?;
    let FaultRule { fault, times, .. } = &mut rules[index];
    let fault = *fault;
    if let Some(left) = times {
        *left = left.saturating_sub(1);
        if *left == 0 {
            rules.remove(index);
        }
    }
    Some(fault)
}

// === impl Hold ===

impl Hold {
    pub(super) fn new(bytes: u64) -> Self {
        Self(Arc::new(State { bytes, reached: watch::Sender::new(false), released: watch::Sender::new(false) }))
    }

    /// Resolves when all the bytes that may go have gone.
    pub async fn reached(&self) {
        is_true(&self.0.reached).await;
    }

    /// Lets the rest go.
    pub fn release(&self) {
        self.0.released.send_replace(true);
    }

    /// How many bytes may still go when so many have gone; nothing is in the way once it has let go.
    pub(super) fn leaves(&self, sent: u64) -> u64 {
        if *self.0.released.borrow() {
            return u64::MAX;
        }
        let left = self.0.bytes.saturating_sub(sent);
        if left == 0 {
            self.0.reached.send_replace(true);
        }
        left
    }

    /// Resolves when it has let go.
    pub(super) async fn released(&self) {
        is_true(&self.0.released).await;
    }
}

async fn is_true(word: &watch::Sender<bool>) {
    // It cannot end before it is true: its sender is here.
    drop(word.subscribe().wait_for(|word| *word).await);
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_rule_strikes_as_often_as_it_says_and_a_challenge_those_without_a_token() {
        let mut rules = vec![
            FaultRule::once(On::Direct, Fault::Expired),
            FaultRule::always(On::Manifest, Fault::Challenge),
            FaultRule { on: On::Everything, fault: Fault::Stall, times: Some(2) },
        ];
        assert_eq!(take(&mut rules, On::Direct, false), Some(Fault::Expired));
        assert_eq!(take(&mut rules, On::Direct, false), Some(Fault::Stall));
        assert_eq!(take(&mut rules, On::Manifest, false), Some(Fault::Challenge));
        assert_eq!(take(&mut rules, On::Manifest, false), Some(Fault::Challenge));
        assert_eq!(take(&mut rules, On::Manifest, true), Some(Fault::Stall));
        assert_eq!(take(&mut rules, On::Manifest, true), None);
        assert_eq!(take(&mut rules, On::Token, false), None);
    }

    #[test]
    fn a_hold_lets_go_of_as_much_as_it_says_and_then_of_the_rest() {
        let hold = Hold::new(10);
        assert_eq!(hold.leaves(4), 6);
        assert!(hold.reached().now_or_never().is_none() && hold.released().now_or_never().is_none());
        assert_eq!(hold.leaves(10), 0);
        assert!(hold.reached().now_or_never().is_some() && hold.released().now_or_never().is_none());
        hold.release();
        assert!(hold.released().now_or_never().is_some());
        assert_eq!(hold.leaves(10), u64::MAX);
    }
}
