//! Waiting for a condition, never for a length of time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Long enough for anything that should happen at once, even on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);
/// What the operator is promised after rotate, disable and remove, with room for a busy machine.
pub const WITHIN_A_SECOND: Duration = Duration::from_millis(1_500);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Looks until `look` gives something, and gives it back.
///
/// # Panics
/// If it never did `within` the time given; `what` says what was waited for.
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain: {what}");
        thread::sleep(PAUSE);
    }
}

/// Looks until `condition` holds.
///
/// # Panics
/// As [`until`].
pub fn until_true(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    until(what, within, || condition().then_some(()));
}
