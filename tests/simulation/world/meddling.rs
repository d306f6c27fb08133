//! What is done to the journal behind everybody's back, to show that it is noticed.

use rusqlite::{Connection, OpenFlags};

use super::{World, inspection::Undisturbed};
use crate::{machine::data_dir, sabotage::Sabotage};

const REMOVE_UNSETTLED: &str = "DELETE FROM journal WHERE seq =
    (SELECT min(seq) FROM journal WHERE seq > coalesce((SELECT through FROM settled), 0))";
const FORGET_DROPPED: &str = "UPDATE removed SET too_old = 0, no_space = 0";

/// In how many of a million steps it happens.
const RATE: u32 = 50_000;

impl World {
    pub(super) fn meddle(&mut self) {
        let statement = match self.plan.sabotage {
            Sabotage::RemoveUnsettled => REMOVE_UNSETTLED,
            Sabotage::ForgetDropped => FORGET_DROPPED,
            _ => return,
        };
        if !self.chance.happens(RATE) || self.gateway.is_none() || self.disk.storage().is_gone() {
            return;
        }
        let undisturbed = Undisturbed::new(&self.disk);
        let path = data_dir().buffer_path();
        let done =
            Connection::open_with_flags_and_vfs(&path, OpenFlags::SQLITE_OPEN_READ_WRITE, self.disk.vfs())
                .and_then(|db| db.execute(statement, []));
        drop(undisturbed);
        if done.is_ok_and(|rows| rows > 0) {
            self.trace.count("something done behind everybody's back");
        }
    }
}
