//! Where boots lie in wall time: known for those whose clock was set, bounded by their neighbours for the others.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::record::Placed;

/// 2024-01-01: no boot of this program lies before.
const PLAUSIBLE_MS: i64 = 1_704_067_200_000;

/// Where each boot lies, as far as that can be told now.
#[derive(Debug)]
pub(super) struct Placements(BTreeMap<i64, Placement>);

/// Where one boot lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placement {
    offset_ms: i64,
    /// The offset it cannot lie beyond, from a clock that was set.
    latest_ms: Option<i64>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Known,
    /// The present boot's clock may yet be set, and an earlier boot be placed before it.
    Pending,
    Estimated,
}

/// A boot's row.
#[derive(Clone, Copy, Debug)]
struct Row {
    boot: i64,
    offset_ms: i64,
    synchronised: bool,
    /// The running time before it.
    age_ms: i64,
}

impl Placements {
    /// Reads the boots; the last is the present one.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement =
            connection.prepare("SELECT boot, offset_ms, synchronised, age_ms FROM boots ORDER BY boot")?;
        let rows = statement.query_map([], |row| {
            Ok(Row {
                boot: row.get(0)?,
                offset_ms: row.get(1)?,
                synchronised: row.get(2)?,
                age_ms: row.get(3)?,
            })
        })?;
        Ok(Self::of(&rows.collect::<rusqlite::Result<Vec<_>>>()?))
    }

    fn of(rows: &[Row]) -> Self {
        let mut placements = BTreeMap::new();
        // The offset that the next known boot would have if the machine had run through from each earlier one.
        let mut latest: Option<(i64, i64)> = None;
        for row in rows.iter().rev() {
            if row.synchronised {
                latest = Some((row.offset_ms, row.age_ms));
            }
            let before_next =
                latest.map(|(offset_ms, age_ms)| offset_ms.saturating_sub(age_ms.saturating_sub(row.age_ms)));
            let kind = match (row.synchronised, before_next) {
                (true, _) => Kind::Known,
                (false, Some(_)) => Kind::Estimated,
                (false, None) => Kind::Pending,
            };
            let offset_ms = before_next.unwrap_or(row.offset_ms);
            placements.insert(row.boot, Placement { offset_ms, latest_ms: before_next, kind });
        }
        // What an unset clock said counts if it lies between the neighbours: it may have been saved at the last shutdown.
        let mut earliest: Option<(i64, i64)> = None;
        for row in rows {
            let after_last = earliest
                .map(|(offset_ms, age_ms)| offset_ms.saturating_add(row.age_ms.saturating_sub(age_ms)));
            if row.synchronised {
                earliest = Some((row.offset_ms, row.age_ms));
                continue;
            }
            let Some(placement) = placements.get_mut(&row.boot) else { continue };
            let lowest = after_last.unwrap_or(PLAUSIBLE_MS);
            let is_plausible = row.offset_ms >= lowest;
            placement.offset_ms = match placement.kind {
                Kind::Estimated if is_plausible && row.offset_ms <= placement.offset_ms => row.offset_ms,
                Kind::Estimated => placement.offset_ms.max(after_last.unwrap_or(i64::MIN)),
                _ if is_plausible => row.offset_ms,
                _ => after_last.unwrap_or(row.offset_ms),
            };
        }
        Self(placements)
    }

    /// Where a reading received `at_ms` after `boot` began lies, if the boot is known.
    pub(super) fn place(&self, boot: i64, at_ms: i64) -> Option<Placed> {
        let placement = self.0.get(&boot)?;
        let ts = placement.offset_ms.saturating_add(at_ms);
        Some(match placement.kind {
            Kind::Known => Placed::Known(ts),
            Kind::Pending => Placed::Pending(ts),
            Kind::Estimated => Placed::Estimated(ts),
        })
    }

    /// The time that a reading received `at_ms` after `boot` began cannot lie beyond, if a clock that was set says so.
    pub(super) fn latest(&self, boot: i64, at_ms: i64) -> Option<i64> {
        Some(self.0.get(&boot)?.latest_ms?.saturating_add(at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const T: i64 = 1_790_000_000_000;

    fn boots(rows: &[(i64, bool, i64)]) -> Placements {
        let row = |(boot, (offset_ms, synchronised, age_ms)): (usize, &(i64, bool, i64))| Row {
            boot: boot as i64,
            offset_ms: *offset_ms,
            synchronised: *synchronised,
            age_ms: *age_ms,
        };
        Placements::of(&rows.iter().enumerate().map(row).collect::<Vec<_>>())
    }

    #[test]
    fn a_known_boot_is_where_its_clock_says_and_a_present_one_without_a_clock_may_be_known_later() {
        let placements = boots(&[(T, true, 0), (5, false, HOUR)]);
        assert_eq!(placements.place(0, 7), Some(Placed::Known(T + 7)));
        assert_eq!(
            placements.place(1, 7),
            Some(Placed::Pending(T + HOUR + 7)),
            "after the last known reading"
        );
        assert_eq!(placements.place(2, 7), None);
        assert_eq!(placements.latest(0, 7), Some(T + 7));
        assert_eq!(placements.latest(1, 7), None);
    }

    #[test]
    fn a_damaged_time_is_a_wrong_time_and_no_more() {
        for age_ms in [i64::MIN, i64::MAX] {
            let placements = boots(&[(T, true, 0), (5, false, age_ms), (T, true, HOUR), (7, false, age_ms)]);
            assert!((0..4).all(|boot| placements.place(boot, 7).is_some()));
        }
    }

    #[test]
    fn boots_that_were_never_set_end_before_the_next_known_one_begins() {
        let placements = boots(&[(5, false, 0), (6, false, HOUR), (T, true, 3 * HOUR)]);
        assert_eq!(placements.place(0, 0), Some(Placed::Estimated(T - 3 * HOUR)));
        assert_eq!(placements.place(1, HOUR), Some(Placed::Estimated(T - HOUR)));
    }

    #[test]
    fn an_estimate_never_lies_before_the_last_known_boot_ended() {
        let placements = boots(&[(T, true, 0), (5, false, 2 * HOUR), (T + HOUR, true, 3 * HOUR)]);
        assert_eq!(placements.place(1, 0), Some(Placed::Estimated(T + 2 * HOUR)), "the clock was set back");
    }

    #[test]
    fn a_clock_saved_at_the_last_shutdown_is_believed_between_the_neighbours() {
        let saved = T + 2 * HOUR;
        let placements = boots(&[(T, true, 0), (saved, false, HOUR), (T + 9 * HOUR, true, 2 * HOUR)]);
        assert_eq!(placements.place(1, 5), Some(Placed::Estimated(saved + 5)));
        assert_eq!(placements.latest(1, 5), Some(T + 8 * HOUR + 5), "had the machine not stood still");
    }
}
