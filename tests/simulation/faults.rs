//! What goes wrong in one run, and how often: drawn from the seed before anything else.

use crate::{
    chance::Chance,
    disk::{Loss, Storage},
};

/// How often something happens, in a million steps; for the disk, in a million calls.
pub type Rate = u32;

/// The faults of one run; many are zero, so that each is also met alone.
#[derive(Clone, Debug)]
pub struct Faults {
    /// A connection is reset.
    pub resets: Rate,
    /// A connection falls silent for a while, or for good.
    pub silences: Rate,
    /// Longest time bytes are under way, in microseconds.
    pub delay_max_us: u64,
    /// A client stops reading for good.
    pub deaf: Rate,
    /// A client connects anew while its connection still stands.
    pub takeovers: Rate,
    /// Somebody comes who speaks no MQTT, or bad MQTT.
    pub strangers: Rate,
    /// The operator changes a device in the registry.
    pub operations: Rate,
    /// Somebody comes to read the journal.
    pub followers: Rate,
    /// The power goes.
    pub power_cuts: Rate,
    /// The process is killed.
    pub kills: Rate,
    /// The program is stopped and started in good order, perhaps with other limits.
    pub restarts: Rate,
    /// The hub, or the way to it, goes wrong.
    pub upstream: Rate,
    /// A call to the disk begins a row of failures.
    pub io_errors: Rate,
    /// Longest row of failing calls.
    pub io_errors_in_a_row: u64,
    /// What a failed flush loses.
    pub sync_failure: Loss,
    /// The disk fills up, for a while.
    pub full: Rate,
    /// Longest flush, in microseconds.
    pub slowest_sync_us: u64,
    /// The wall clock jumps by up to years.
    pub clock_jumps: Rate,
}

/// What is lost in a power cut is drawn for each cut.
pub const LOSSES: [Loss; 5] = Loss::ALL;

impl Faults {
    pub fn draw(chance: &mut Chance) -> Self {
        Self {
            resets: rate(chance, 60_000),
            silences: rate(chance, 40_000),
            delay_max_us: if chance.coin() { 2_000 } else { chance.between(2_000, 2_000_000) },
            deaf: rate(chance, 5_000),
            takeovers: rate(chance, 40_000),
            strangers: rate(chance, 100_000),
            operations: rate(chance, 40_000),
            followers: rate(chance, 40_000),
            power_cuts: rate(chance, 60_000),
            kills: rate(chance, 30_000),
            restarts: rate(chance, 20_000),
            upstream: rate(chance, 150_000),
            io_errors: rate(chance, 8_000),
            io_errors_in_a_row: chance.between(1, 12),
            sync_failure: *chance.pick(&LOSSES),
            full: rate(chance, 20_000),
            slowest_sync_us: if chance.coin() { 0 } else { chance.between(1_000, 3_000_000) },
            clock_jumps: rate(chance, 20_000),
        }
    }

    /// Power cuts, one after the other, and little else: for many of them in little time.
    pub fn draw_many_cuts(chance: &mut Chance) -> Self {
        let power_cuts = chance.between(50_000, 200_000) as Rate;
        Self { power_cuts, io_errors: rate(chance, 2_000), ..Self::draw(chance) }
    }

    /// Nothing goes wrong any more.
    pub fn none() -> Self {
        Self {
            resets: 0,
            silences: 0,
            delay_max_us: 1_000,
            deaf: 0,
            takeovers: 0,
            strangers: 0,
            operations: 0,
            followers: 0,
            power_cuts: 0,
            kills: 0,
            restarts: 0,
            upstream: 0,
            io_errors: 0,
            io_errors_in_a_row: 1,
            sync_failure: Loss::All,
            full: 0,
            slowest_sync_us: 0,
            clock_jumps: 0,
        }
    }

    /// Whether the disk does as it is told except when the power goes.
    pub fn disk_is_sound(&self) -> bool {
        self.io_errors == 0 && self.full == 0
    }

    /// Makes the disk fail as often as drawn.
    pub fn set_up(&self, storage: &mut Storage) {
        storage.troubles.io_error_per_million = self.io_errors;
        storage.troubles.io_errors_in_a_row = self.io_errors_in_a_row;
        storage.sync_failure = self.sync_failure;
        storage.slowest_sync_us = self.slowest_sync_us;
    }
}

/// Nothing at all, a little, or up to `high`; small rates are as likely as large ones.
fn rate(chance: &mut Chance, high: Rate) -> Rate {
    if chance.below(3) == 0 { 0 } else { high >> chance.below(5) }
}
