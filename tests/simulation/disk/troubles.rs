//! Which calls to the disk fail, and how.

use crate::chance::Chance;

/// What kind of call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Open,
    Read,
    Write,
    Truncate,
    Sync,
    Delete,
}

/// What a failing call answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// EIO; a flush that answers it has marked everything clean.
    Io,
    /// ENOSPC.
    Full,
    /// The machine has no power, or the process is being killed: no call does anything any more.
    Gone,
}

/// How long a trouble lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    Once,
    ForEver,
}

/// A failure of the `call`-th call, counted from one, and of all after it if it lasts.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    pub call: u64,
    pub error: DiskError,
    pub lasting: Lasting,
}

impl Trouble {
    fn fits(self, call: Call) -> bool {
        match self.error {
            DiskError::Io | DiskError::Gone => true,
            DiskError::Full => matches!(call, Call::Write | Call::Open),
        }
    }
}

/// Everything that makes calls fail.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    /// One failure at a chosen call.
    pub chosen: Option<Trouble>,
    /// The next flush fails.
    pub flush_fails: bool,
    /// How often a call begins a row of failures, in a million.
    pub io_error_per_million: u32,
    /// Longest row of failures.
    pub io_errors_in_a_row: u64,
    row_left: u64,
    /// How many calls failed.
    pub felt: u64,
}

impl Troubles {
    /// Whether this call, the `number`-th, fails; the disk being full for want of room is not decided here.
    pub fn strike(&mut self, call: Call, number: u64, chance: &mut Chance) -> Result<(), DiskError> {
        let flush_fails = call == Call::Sync && std::mem::take(&mut self.flush_fails);
        let error = flush_fails.then_some(DiskError::Io);
        let error = error.or_else(|| self.chosen_error(call, number)).or_else(|| self.next_in_row(chance));
        match error {
            None => Ok(()),
            Some(error) => {
                self.felt += 1;
                Err(error)
            }
        }
    }

    fn chosen_error(&mut self, call: Call, number: u64) -> Option<DiskError> {
        let trouble = self.chosen.filter(|trouble| number >= trouble.call)?;
        if trouble.lasting == Lasting::Once {
            self.chosen = None;
        }
        // A single failure that does not fit its very call is none at all: the caller sees that nothing was felt.
        trouble.fits(call).then_some(trouble.error)
    }

    fn next_in_row(&mut self, chance: &mut Chance) -> Option<DiskError> {
        if self.row_left == 0 && chance.happens(self.io_error_per_million) {
            self.row_left = chance.between(1, self.io_errors_in_a_row.max(1));
        }
        self.row_left = self.row_left.checked_sub(1)?;
        Some(DiskError::Io)
    }

    /// The row of failures that may be under way is over.
    pub fn end_row(&mut self) {
        self.row_left = 0;
    }

    /// Everything works again.
    pub fn heal(&mut self) {
        *self = Self { felt: self.felt, ..Self::default() };
    }
}
