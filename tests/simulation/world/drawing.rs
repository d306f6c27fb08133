//! How a run's broker is set up: drawn before anything else.

use std::time::Duration;

use forebay::{
    limits::Limits,
    store::{Budget, Policy},
};

use crate::chance::Chance;

/// The defaults, or much smaller ones.
pub(super) fn draw_limits(chance: &mut Chance) -> Limits {
    let mut limits = Limits::default();
    if chance.coin() {
        return limits;
    }
    limits.connections = chance.between(6, 20) as u32;
    limits.connections_per_device = chance.between(1, 3) as u32;
    limits.connections_unauthenticated = chance.between(1, 5) as u32;
    limits.receive_maximum = chance.between(2, 6) as u32;
    limits.outbox_bytes = 1024;
    limits.commit_wait_ms = chance.between(0, 2_000) as u32;
    limits.commit_records = chance.between(1, 10) as u32;
    limits.quarantine_rows = chance.between(1, 4) as u32;
    limits.keep_alive_max_s = chance.between(10, 60) as u32;
    limits.window = chance.between(1, 4) as u32;
    if chance.below(3) == 0 {
        limits.client_queue_messages = chance.between(3, 12) as u32;
    }
    limits
}

/// Room for everything, or little of it, or not for long.
pub(super) fn draw_budget(is_chatty: bool, chance: &mut Chance) -> Budget {
    let mut budget = Budget {
        max_bytes: u64::MAX,
        keep_free: 0,
        max_age: None,
        keep_uploaded: chance.below(3) == 0,
        policy: Policy::DropOldest,
    };
    match chance.below(6) {
        0 => budget.max_age = Some(Duration::from_secs(chance.between(5, 200))),
        1..4 if is_chatty => budget.max_bytes = chance.between(200_000, 800_000),
        1 | 2 => {
            budget.max_bytes = chance.between(200_000, 1_200_000);
            if chance.below(3) == 0 {
                budget.policy = Policy::RefuseNew;
            }
        }
        3 => budget.keep_free = chance.between(10_000, 100_000),
        _ => {}
    }
    budget
}

pub(super) fn may_drop(budget: &Budget) -> bool {
    let is_small = budget.max_bytes < u64::MAX || budget.keep_free > 0;
    budget.max_age.is_some() || is_small && budget.policy == Policy::DropOldest
}
