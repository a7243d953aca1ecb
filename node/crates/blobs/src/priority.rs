//! The priority of threads that read and hash while nobody waits.
//!
//! Whoever has stepped back gets the processor when nobody else wants it. The disk goes by the same word: as long as a
//! thread has no priority of its own there, Linux takes it from this one. A thread that stepped back cannot come back
//! without a right that a daemon does not have, so only threads do that which end with their work. Where the system
//! refuses, or is another one, the work is done all the same.

/// The lowest that there is.
#[cfg(target_os = "linux")]
const LEAST: i32 = 19;

/// Gives the calling thread the lowest priority, for as long as it lives.
pub fn step_back() {
    // To Linux a process is a thread here, and none that is named is the one that asks.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, LEAST) {
        tracing::debug!(%error, "lower the priority of a thread");
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::thread;

    use super::*;

    fn priority() -> i32 {
        rustix::process::getpriority_process(None).expect("it is told")
    }

    #[test]
    fn a_thread_that_steps_back_does_so_alone() {
        let before = priority();
        let inside = thread::spawn(|| {
            step_back();
            priority()
        });
        assert_eq!(inside.join().expect("it ends"), LEAST);
        assert_eq!(priority(), before, "nobody else is slower for it");
        assert_eq!(thread::spawn(priority).join().expect("it ends"), before, "nor the next one");
    }
}
