//! Random numbers that can be had again: the seed is told with every failure, and `SEED` sets it.

use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator (xorshift64*).
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// From `SEED`, or from the time of day; prints which, for the harness to show if the test fails.
    pub fn of_today() -> Self {
        let today = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(today);
        println!("SEED={seed}");
        Self(seed | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }

    /// So many bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}
