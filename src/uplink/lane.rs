//! One stretch of the journal on its way to the hub, oldest first, a bounded piece of it in memory.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    ids::{DeviceName, Seq},
    record::{Outbound, Placed},
};

use super::settled::Settled;

/// Which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneKind {
    /// What was stored before the connection came up; or everything, if there is no other lane.
    Backlog,
    /// What was stored since.
    Fresh,
}

/// Readings of one lane: those read from the journal and not yet sent, in order.
///
/// Of one device at most one message is on its way at a time, so that the hub gets its readings in order whatever
/// becomes of a message. Readings that were sent still count against the lane's bounds until they are settled.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) kind: LaneKind,
    size: LaneSize,
    /// The place before the lane's first.
    begin: Seq,
    /// Everything in the lane up to here was read.
    read_through: Seq,
    /// The lane's last place; `None` if it goes on for ever.
    end: Option<Seq>,
    waiting: VecDeque<Outbound>,
    /// Readings waiting and on their way.
    rows: usize,
    /// Bytes of their values.
    bytes: usize,
    /// How many of each device.
    by_device: BTreeMap<DeviceName, usize>,
    /// What the lane has used up of its share.
    used: u64,
}

/// What a lane may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneSize {
    /// Readings, sent or waiting.
    pub(super) rows: usize,
    /// Bytes of their values; one reading may go beyond them.
    pub(super) bytes: usize,
}

/// A piece of the journal to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) after: Seq,
    pub(super) through: Seq,
    pub(super) rows_max: usize,
    pub(super) bytes_max: usize,
}

impl Lane {
    /// A lane of everything behind `after`, up to `end`.
    pub(super) fn new(kind: LaneKind, size: LaneSize, after: Seq, end: Option<Seq>) -> Self {
        let (waiting, by_device) = (VecDeque::new(), BTreeMap::new());
        Self {
            kind,
            size,
            begin: after,
            read_through: after,
            end,
            waiting,
            rows: 0,
            bytes: 0,
            by_device,
            used: 0,
        }
    }

    /// The place before the lane's first.
    pub(super) fn begin(&self) -> Seq {
        self.begin
    }

    /// Whether `seq` is one of the lane's places.
    pub(super) fn reaches(&self, seq: Seq) -> bool {
        self.begin < seq && self.end.is_none_or(|end| seq <= end)
    }

    /// What to read next, if there is room for a piece worth the trouble.
    pub(super) fn next_piece(&self, settled: &Settled, last_seq: Seq) -> Option<Piece> {
        let limit = self.end.map_or(last_seq, |end| end.min(last_seq));
        let (after, through) = settled.gap_after(self.read_through, limit)?;
        let rows_max = self.size.rows.saturating_sub(self.rows);
        let bytes_max = self.size.bytes.saturating_sub(self.bytes);
        let is_large = rows_max >= self.size.rows / 4 && bytes_max >= self.size.bytes / 4;
        let is_needed = self.waiting.is_empty() && rows_max > 0 && bytes_max > 0;
        (is_large || is_needed).then_some(Piece { after, through, rows_max, bytes_max })
    }

    /// Takes what was read up to `covered`.
    pub(super) fn take(&mut self, covered: Seq, rows: impl Iterator<Item = Outbound>) {
        self.read_through = self.read_through.max(covered);
        for row in rows {
            self.rows += 1;
            self.bytes += row.values.len();
            match self.by_device.get_mut(&row.device) {
                Some(count) => *count += 1,
                None => _ = self.by_device.insert(row.device.clone(), 1),
            }
            self.waiting.push_back(row);
        }
    }

    /// Readings not yet sent, oldest first.
    pub(super) fn waiting(&self) -> &VecDeque<Outbound> {
        &self.waiting
    }

    /// Where `seq` is among those waiting, if it is.
    pub(super) fn place_of(&self, seq: Seq) -> Option<usize> {
        self.waiting.binary_search_by_key(&seq, |row| row.seq).ok()
    }

    /// Takes the readings at the ascending `places` among those waiting; they are on their way now.
    pub(super) fn send(&mut self, places: &[usize]) -> Vec<Outbound> {
        let in_front = places.iter().copied().eq(0..places.len());
        if in_front {
            return self.waiting.drain(..places.len()).collect();
        }
        let mut sent = Vec::with_capacity(places.len());
        let mut places = places.iter().copied().peekable();
        let mut kept = VecDeque::with_capacity(self.waiting.len());
        for (place, row) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            if places.next_if_eq(&place).is_some() { sent.push(row) } else { kept.push_back(row) }
        }
        self.waiting = kept;
        sent
    }

    /// Readings that were on their way are to be sent again; they go back to their places.
    pub(super) fn give_back(&mut self, rows: Vec<Outbound>) {
        for row in rows.into_iter().rev() {
            let place = self.waiting.partition_point(|other| other.seq < row.seq);
            self.waiting.insert(place, row);
        }
    }

    /// Readings that were on their way are not this lane's business any more.
    pub(super) fn let_go(&mut self, rows: &[Outbound]) {
        self.rows -= rows.len();
        self.bytes -= rows.iter().map(|row| row.values.len()).sum::<usize>();
        for row in rows {
            let Some(count) = self.by_device.get_mut(&row.device) else { continue };
            *count -= 1;
            if *count == 0 {
                self.by_device.remove(&row.device);
            }
        }
    }

    /// Forgets the first waiting reading whose time was not known, and all behind it, so that they are read again.
    pub(super) fn forget_pending(&mut self) {
        let is_pending = |row: &Outbound| matches!(row.time, Placed::Pending(_));
        if let Some(place) = self.waiting.iter().position(is_pending) {
            let forgotten: Vec<_> = self.waiting.drain(place..).collect();
            self.read_through = Seq(forgotten[0].seq.0 - 1);
            self.let_go(&forgotten);
        }
    }

    /// What the lane has used up of its share.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Uses up `part` of the lane's share.
    pub(super) fn use_up(&mut self, part: u64) {
        self.used += part;
    }

    /// A lane with nothing to send has no claim on the time that passed meanwhile.
    pub(super) fn catch_up(&mut self, used: u64) {
        self.used = self.used.max(used);
    }

    /// Whether any reading of `device` is waiting or on its way.
    pub(super) fn holds(&self, device: &DeviceName) -> bool {
        self.by_device.contains_key(device)
    }

    /// Whether everything there is has been read.
    pub(super) fn is_read(&self, settled: &Settled, last_seq: Seq) -> bool {
        let limit = self.end.map_or(last_seq, |end| end.min(last_seq));
        settled.gap_after(self.read_through, limit).is_none()
    }

    /// Readings waiting and on their way.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limits::{UPLINK_LANE_BYTES, UPLINK_LANE_ROWS},
        record::Settlement,
    };

    const SIZE: LaneSize = LaneSize { rows: UPLINK_LANE_ROWS, bytes: UPLINK_LANE_BYTES };

    fn row(seq: u64, device: &str, time: Placed) -> Outbound {
        let device = DeviceName::parse(device).expect("valid");
        Outbound { seq: Seq(seq), device, time, values: "{}".to_owned() }
    }

    fn rows(seqs: &[u64]) -> Vec<Outbound> {
        seqs.iter().map(|seq| row(*seq, "pump", Placed::Known(0))).collect()
    }

    fn seqs<'a>(rows: impl IntoIterator<Item = &'a Outbound>) -> Vec<u64> {
        rows.into_iter().map(|row| row.seq.0).collect()
    }

    #[test]
    fn it_reads_around_what_is_settled_and_not_past_its_end() {
        let resumed =
            Settlement { through: Seq(10), beyond: vec![(Seq(15), Seq(20))], ..Settlement::default() };
        let settled = Settled::new(&resumed);
        let mut lane = Lane::new(LaneKind::Backlog, SIZE, Seq(10), Some(Seq(30)));
        let piece = |lane: &Lane| lane.next_piece(&settled, Seq(100)).map(|p| (p.after.0, p.through.0));
        assert_eq!(piece(&lane), Some((10, 14)));
        lane.take(Seq(14), rows(&[11, 14]).into_iter());
        assert_eq!(piece(&lane), Some((20, 30)));
        lane.take(Seq(30), rows(&[25]).into_iter());
        assert_eq!(piece(&lane), None);
        assert_eq!(seqs(lane.waiting()), [11, 14, 25]);
    }

    #[test]
    fn it_holds_no_more_than_its_bound_sent_or_not() {
        let mut lane = Lane::new(LaneKind::Backlog, SIZE, Seq(0), None);
        let all: Vec<u64> = (1..=UPLINK_LANE_ROWS as u64).collect();
        lane.take(Seq(all.len() as u64), rows(&all).into_iter());
        let read =
            |lane: &Lane| lane.next_piece(&Settled::default(), Seq(1 << 40)).map(|piece| piece.rows_max);
        assert_eq!(read(&lane), None);
        let places: Vec<usize> = (0..UPLINK_LANE_ROWS / 4).collect();
        let sent = lane.send(&places);
        assert_eq!(read(&lane), None, "what is on its way counts");
        lane.let_go(&sent);
        assert_eq!(read(&lane), Some(UPLINK_LANE_ROWS / 4));
    }

    #[test]
    fn what_is_given_back_stands_where_it_stood() {
        let mut lane = Lane::new(LaneKind::Fresh, SIZE, Seq(0), None);
        lane.take(Seq(9), rows(&[1, 2, 3, 5, 8, 9]).into_iter());
        let sent = lane.send(&[1, 3, 4]);
        assert_eq!((seqs(&sent), seqs(lane.waiting())), (vec![2, 5, 8], vec![1, 3, 9]));
        lane.give_back(sent);
        assert_eq!(seqs(lane.waiting()), [1, 2, 3, 5, 8, 9]);
        assert_eq!(seqs(&lane.send(&[0, 1])), [1, 2]);
        assert_eq!(lane.rows(), 6);
    }

    #[test]
    fn readings_without_a_time_are_read_again_with_all_behind_them() {
        let mut lane = Lane::new(LaneKind::Backlog, SIZE, Seq(0), None);
        let mut read = rows(&[1, 2, 6, 7]);
        read[2].time = Placed::Pending(0);
        lane.take(Seq(7), read.into_iter());
        lane.forget_pending();
        assert_eq!((seqs(lane.waiting()), lane.rows()), (vec![1, 2], 2));
        let piece = lane.next_piece(&Settled::default(), Seq(7)).expect("to be read");
        assert_eq!((piece.after, piece.through), (Seq(5), Seq(7)));
    }
}
