//! Random bytes from the operating system, for secrets and identifiers.
//!
//! This is the only source of randomness for anything secret or unique: keys, tokens, incarnations. Only `age` draws
//! backup keys by itself, from the same place.
//! When the system gives none, the caller gets an error and makes nothing; there is no weaker source behind it. Only a
//! request id may be empty then: nothing fails for want of a name in the log.

use rand::TryRng;
use rand::rngs::SysRng;

use ollamax_types::{RequestId, Trace};

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct RandomError(#[from] rand::rngs::SysError);

/// `N` bytes that nobody can guess.
///
/// # Errors
/// When the operating system gives none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes)?;
    Ok(bytes)
}

/// An id for a request that came without one.
#[must_use]
pub fn draw_request_id() -> RequestId {
    let drawn = random_bytes().map(u128::from_le_bytes);
    RequestId(drawn.map(|number| format!("{number:032x}")).unwrap_or_default())
}

/// A trace as it goes on from here, under a span of its own; where no bytes are to be had, under its caller's.
#[must_use]
pub fn draw_span(trace: &Trace) -> Trace {
    trace.under(random_bytes().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(random_bytes::<32>().unwrap(), random_bytes::<32>().unwrap());
        assert_ne!(draw_request_id(), draw_request_id());
    }

    #[test]
    fn a_trace_goes_on_under_spans_that_differ() {
        let said = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = Trace::parse(said).expect("a trace");
        let (first, second) = (draw_span(&trace), draw_span(&trace));
        assert_eq!((first.id(), second.id()), (trace.id(), trace.id()));
        assert!(first != second && first != trace, "{first:?} {second:?}");
    }

    #[test]
    fn a_drawn_request_id_is_one_that_a_caller_may_choose() {
        let drawn = draw_request_id();
        assert_eq!(RequestId::chosen(&drawn.0), Some(drawn));
    }
}
