//! The checksum each row carries: a flipped bit on the card changes a reading, and SQLite alone does not notice.

use crc32fast::Hasher;

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
