//! What a fake says: words and vectors that depend on the model's content, the prompt and the position, nothing else.

use sha2::{Digest as _, Sha256};

use ollamax_types::{Clock, Digest, Timestamp};

/// The token at `position`. It carries its position, so that a reordered or lost line shows.
pub(crate) fn token(voice: &Digest, position: u64) -> String {
    let byte = voice.0[usize::try_from(position % 32).unwrap_or(0)];
    let space = if position == 0 { "" } else { " " };
    format!("{space}w{position}.{byte:02x}")
}

/// What a model with this content makes of a prompt.
pub(crate) fn voice(content: &str, prompt: &str) -> Digest {
    Digest(Sha256::new().chain_update(content).chain_update([0]).chain_update(prompt).finalize().into())
}

/// An answer's whole text.
pub(crate) fn whole(voice: &Digest, tokens: u64) -> String {
    (0..tokens).map(|position| token(voice, position)).collect()
}

/// A vector of length 1.
pub(crate) fn vector(content: &str, text: &str, dimensions: usize) -> Vec<f32> {
    let mut numbers: Vec<f32> = (0..dimensions)
        .map(|index| {
            let byte = voice(content, &format!("{text}\u{0}{}", index / 32)).0[index % 32];
            f32::from(byte) - 127.5
        })
        .collect();
    let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    for number in &mut numbers {
        *number /= length;
    }
    numbers
}

/// Now, as RFC 3339.
pub(crate) fn now() -> String {
    rfc3339(Clock::system().now())
}

/// A time as RFC 3339.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| "2318-01-01T00:00:00Z".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_question_gets_the_same_answer_and_another_one_another() {
        assert_eq!(whole(&voice("m", "p"), 5), whole(&voice("m", "p"), 5));
        assert_ne!(whole(&voice("m", "p"), 5), whole(&voice("n", "p"), 5));
        assert_ne!(whole(&voice("m", "p"), 5), whole(&voice("m", "q"), 5));
    }

    #[test]
    fn vectors_have_length_one() {
        let vector = vector("m", "text", 48);
        let length: f32 = vector.iter().map(|number| number * number).sum();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
    }
}
