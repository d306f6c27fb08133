//! The checksum each row carries: a flipped bit on the card changes a reading, and SQLite alone does not notice.

use crc32fast::Hasher;
use rusqlite::types::ValueRef;

/// Most values of a row that is summed up by [`row_checksum`].
pub(super) const VALUES_MAX: usize = 12;
/// Bytes each of them has in the head of the sum.
const VALUE_BYTES: usize = 9;
/// The columns of a delivery from which on values change while it is under way: packet identifier, and whether PUBREC came.
const DELIVERY_CHANGES_FROM: usize = 7;
/// The columns of a retained message from which on they say who published it.
const RETAINED_PUBLISHER_FROM: usize = 6;
/// What each of those counts in the row's sum: a packet identifier has 16 bits.
const DELIVERY_WEIGHTS: [i64; 2] = [1, 1 << 17];

/// What a row of the journal says, in the order it is summed up.
#[derive(Clone, Copy, Debug)]
pub(super) struct JournalRow<'a> {
    pub(super) seq: i64,
    pub(super) device: i64,
    pub(super) boot: i64,
    pub(super) at_ms: i64,
    pub(super) device_ts: Option<i64>,
    pub(super) payload: &'a [u8],
}

impl JournalRow<'_> {
    /// CRC-32 over the row: four numbers, one byte whether there is a device time, that time or 0, the payload.
    ///
    /// Numbers are 8 bytes, little-endian. Holding `seq`, it also tells a row that came back in another's place.
    pub(super) fn checksum(&self) -> i64 {
        let mut hasher = Hasher::new();
        for number in [self.seq, self.device, self.boot, self.at_ms] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&[u8::from(self.device_ts.is_some())]);
        hasher.update(&self.device_ts.unwrap_or(0).to_le_bytes());
        hasher.update(self.payload);
        hasher.finalize().into()
    }
}

/// CRC-32 over what decides who is let in: id, enabled and creation time as 8 bytes each, the hash, the name.
pub(super) fn device_checksum(
    id: i64,
    enabled: bool,
    created_ms: i64,
    token_hash: &[u8; 32],
    name: &str,
) -> i64 {
    let mut hasher = Hasher::new();
    for number in [id, enabled.into(), created_ms] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(token_hash);
    hasher.update(name.as_bytes());
    hasher.finalize().into()
}

/// CRC-32 over a client's row: what a device's has, the byte 1, then where it may publish and where it may subscribe.
///
/// Each of the two is the byte 0 for no filters, else the byte 1, the length of the text as 8 bytes, the text.
pub(super) fn client_checksum(device_checksum: i64, publish: Option<&str>, subscribe: Option<&str>) -> i64 {
    let mut hasher = Hasher::new_with_initial(device_checksum as u32);
    hasher.update(&[1]);
    for filters in [publish, subscribe] {
        hasher.update(&[u8::from(filters.is_some())]);
        if let Some(text) = filters {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
    hasher.finalize().into()
}

/// CRC-32 over the values of a row: nine bytes for each, then the bytes of every text and blob, in their order.
///
/// The nine are the byte 0 for NULL, 1 for an integer, 2 for a text, 3 for a blob; then the integer, or how many bytes
/// there are, as 8 bytes, little-endian.
///
/// # Panics
/// If there are more than twelve values.
pub(super) fn row_checksum(values: &[ValueRef<'_>]) -> i64 {
    let mut head = [0; VALUES_MAX * VALUE_BYTES];
    let (places, rest) = head.as_chunks_mut::<VALUE_BYTES>();
    assert!(values.len() <= places.len() && rest.is_empty(), "a row of {} values", values.len());
    for (place, value) in places.iter_mut().zip(values) {
        let (kind, number) = match value {
            ValueRef::Null => (0, 0),
            ValueRef::Integer(number) => (1, number.cast_unsigned()),
            ValueRef::Text(bytes) => (2, bytes.len() as u64),
            ValueRef::Blob(bytes) => (3, bytes.len() as u64),
            // No table has such a column; a damaged row may say that it has.
            ValueRef::Real(number) => (4, number.to_bits()),
        };
        place[0] = kind;
        place[1..].copy_from_slice(&number.to_le_bytes());
    }
    let mut hasher = Hasher::new();
    hasher.update(&head[..values.len() * VALUE_BYTES]);
    for value in values {
        if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = value {
            hasher.update(bytes);
        }
    }
    hasher.finalize().into()
}

/// The sum of a delivery's row: that of what stays as it is, and a number for each value that changes, so that a change
/// needs to know nothing but itself.
///
/// A number is 0 for NULL, else one more than the integer; that of `received` counts 131,072 times.
pub(super) fn delivery_checksum(values: &[ValueRef<'_>]) -> i64 {
    let (fixed, changing) = values.split_at(DELIVERY_CHANGES_FROM.min(values.len()));
    let parts = DELIVERY_WEIGHTS.iter().zip(changing).map(|(weight, value)| part(*weight, *value));
    parts.fold(row_checksum(fixed), i64::wrapping_add)
}

/// The sum of a retained message's row: one that does not say who published it has the sum it had when there were no
/// columns for that.
pub(super) fn retained_checksum(values: &[ValueRef<'_>]) -> i64 {
    let (before, publisher) = values.split_at(RETAINED_PUBLISHER_FROM.min(values.len()));
    let is_known = publisher.iter().any(|value| *value != ValueRef::Null);
    row_checksum(if is_known { values } else { before })
}

/// By how much the sum of a delivery's row grows when PUBREC has come for it.
pub(super) const GROWTH_WHEN_RECEIVED: i64 = DELIVERY_WEIGHTS[1];

fn part(weight: i64, value: ValueRef<'_>) -> i64 {
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(number) => number.wrapping_add(1).wrapping_mul(weight),
        // Nothing that was written: no sum comes to this.
        ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => i64::MIN,
    }
}

/// CRC-32 over a gateway's row: what a device's has, and the byte 2.
pub(super) fn gateway_checksum(device_checksum: i64) -> i64 {
    let mut hasher = Hasher::new_with_initial(device_checksum as u32);
    hasher.update(&[2]);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: JournalRow<'_> =
        JournalRow { seq: 7, device: 2, boot: 1, at_ms: 1234, device_ts: None, payload: b"{\"t\":21.5}" };

    #[test]
    fn the_layout_never_changes() {
        // Computed independently from the documented layout; a change would condemn every journal in the field.
        assert_eq!(ROW.checksum(), 3_183_089_728);
        assert_eq!(device_checksum(1, true, 1_700_000_000_000, &[7; 32], "pump"), 1_878_113_216);
        let values =
            [ValueRef::Integer(-2), ValueRef::Text(b"hall"), ValueRef::Null, ValueRef::Blob(b"\x00\xFF")];
        assert_eq!(row_checksum(&values), 1_454_051_546);
        let delivery = [1, 2, 3, 1, 0].map(ValueRef::Integer);
        let more = [ValueRef::Text(b"4 5"), ValueRef::Null, ValueRef::Integer(9), ValueRef::Integer(1)];
        assert_eq!(delivery_checksum(&[&delivery[..], &more].concat()), 614_648_230);
    }

    #[test]
    fn every_part_of_a_row_counts() {
        let changed = [
            JournalRow { seq: 8, ..ROW },
            JournalRow { device: 3, ..ROW },
            JournalRow { boot: 2, ..ROW },
            JournalRow { at_ms: 1235, ..ROW },
            JournalRow { device_ts: Some(0), ..ROW },
            JournalRow { payload: b"{\"t\":21.4}", ..ROW },
        ];
        for row in changed {
            assert_ne!(row.checksum(), ROW.checksum(), "{row:?}");
        }
    }

    #[test]
    fn every_value_of_a_row_counts_and_where_it_stands() {
        let row = [ValueRef::Integer(1), ValueRef::Text(b"ab"), ValueRef::Null, ValueRef::Blob(b"c")];
        let others: [&[ValueRef<'_>]; 9] = [
            &[ValueRef::Integer(2), row[1], row[2], row[3]],
            &[row[0], ValueRef::Text(b"aa"), row[2], row[3]],
            &[row[0], ValueRef::Blob(b"ab"), row[2], row[3]],
            &[row[0], row[1], ValueRef::Integer(0), row[3]],
            &[row[0], row[1], ValueRef::Text(b""), row[3]],
            &[row[0], ValueRef::Text(b"a"), row[2], ValueRef::Blob(b"bc")],
            &[row[0], ValueRef::Text(b"abc"), row[2], ValueRef::Blob(b"")],
            &row[..3],
            &[row[1], row[0], row[2], row[3]],
        ];
        let mut sums: Vec<i64> = others.iter().map(|values| row_checksum(values)).collect();
        sums.extend([row_checksum(&row), row_checksum(&[])]);
        let count = sums.len();
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), count);
    }

    #[test]
    fn the_sum_of_a_delivery_grows_with_what_changes_whatever_else_it_says() {
        let row = |packet_id, received| {
            let fixed = [7, 1, 3, 1, 0].map(ValueRef::Integer);
            let all =
                [&fixed[..], &[ValueRef::Text(b""), ValueRef::Null, packet_id, ValueRef::Integer(received)]];
            delivery_checksum(&all.concat())
        };
        let (none, five) = (ValueRef::Null, ValueRef::Integer(5));
        assert_eq!(row(none, 0) + 5 + 1, row(five, 0), "what `sessions` adds in SQL");
        assert_eq!(row(five, 0) + GROWTH_WHEN_RECEIVED, row(five, 1));
        assert_ne!(row(five, 0), row(five, 1));
        assert_ne!(row(none, 0), row(five, 0));
    }

    #[test]
    fn a_retained_message_of_nobody_has_the_sum_of_its_first_six_columns() {
        let before = [1, 2, 3, 4, 5, 6].map(ValueRef::Integer);
        let sum = |identity, client_id| retained_checksum(&[&before[..], &[identity, client_id]].concat());
        let (identity, client_id) = (ValueRef::Integer(7), ValueRef::Text(b"panel"));
        assert_eq!(sum(ValueRef::Null, ValueRef::Null), row_checksum(&before));
        let mut sums = vec![row_checksum(&before), sum(identity, client_id), sum(identity, ValueRef::Null)];
        sums.extend([sum(ValueRef::Null, client_id), sum(identity, ValueRef::Text(b""))]);
        let count = sums.len();
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), count);
    }

    #[test]
    fn every_part_of_a_client_counts_and_it_is_no_device_and_no_gateway() {
        let device = device_checksum(1, false, 5, &[0; 32], "pump");
        let rights = [(None, None), (Some("[]"), None), (None, Some("[]")), (Some("[]"), Some("[]"))];
        let mut sums: Vec<i64> = rights.map(|(p, s)| client_checksum(device, p, s)).to_vec();
        sums.extend([device, gateway_checksum(device), client_checksum(device + 1, None, None)]);
        sums.push(client_checksum(device, Some("[\"a\"]"), None));
        let count = sums.len();
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), count);
    }

    #[test]
    fn every_part_of_a_device_counts() {
        let sum = device_checksum(1, false, 5, &[0; 32], "pump");
        assert_ne!(device_checksum(2, false, 5, &[0; 32], "pump"), sum);
        assert_ne!(device_checksum(1, true, 5, &[0; 32], "pump"), sum);
        assert_ne!(device_checksum(1, false, 6, &[0; 32], "pump"), sum);
        assert_ne!(device_checksum(1, false, 5, &[1; 32], "pump"), sum);
        assert_ne!(device_checksum(1, false, 5, &[0; 32], "pumq"), sum);
    }
}
