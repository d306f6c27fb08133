//! What the broker counts, for people.

/// Totals since the start, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Readings on disk.
    pub readings_stored: u64,
    /// Readings whose commit failed; their QoS 1 senders were cut off without an answer.
    pub readings_failed: u64,
    /// Messages with readings that were refused, or dropped if they had QoS 0, because there was no room.
    pub messages_without_room: u64,
    /// Payloads set aside.
    pub payloads_quarantined: u64,
    /// Messages answered but not kept: topics nobody serves.
    pub messages_refused: u64,
    /// CONNECTs refused.
    pub connects_refused: u64,
    /// Devices enrolled because the hub knows their tokens.
    pub devices_learned: u64,
    /// Tokens unknown here that the hub does not know either.
    pub tokens_rejected: u64,
    /// Trials of unknown tokens that came to no verdict.
    pub trials_undecided: u64,
    /// Connections ended for something the peer did wrong.
    pub connections_faulted: u64,
    /// Batches on disk.
    pub commits: u64,
    /// Messages sent to subscribers.
    pub messages_sent: u64,
    /// Messages not sent to a subscriber that did not keep up, or takes no packet of their size.
    pub messages_dropped: u64,
    /// Messages whose time was over before they could be sent.
    pub messages_expired: u64,
    /// Messages of the hub that a device was sent, or will be.
    pub downlinks_delivered: u64,
    /// Messages of the hub for devices that were not there, or had not subscribed.
    pub downlinks_undelivered: u64,
    /// Answers of devices to commands that could not go to the hub.
    pub rpc_answers_refused: u64,
    /// Messages that could not be retained for want of room.
    pub retained_refused: u64,
    /// Packets received, of every kind.
    pub packets_received: u64,
    /// Packets sent, of every kind.
    pub packets_sent: u64,
    /// Bytes of the packets received.
    pub bytes_received: u64,
    /// Bytes of the packets sent.
    pub bytes_sent: u64,
    /// Messages published by clients and devices.
    pub publishes_received: u64,
    /// Clients let in.
    pub clients_admitted: u64,
    /// Most clients connected at once.
    pub clients_connected_max: u64,
}

impl Counters {
    /// A packet of so many bytes goes out.
    pub(super) fn note_sent(&mut self, bytes: usize) {
        self.packets_sent += 1;
        self.bytes_sent += bytes as u64;
    }
}
