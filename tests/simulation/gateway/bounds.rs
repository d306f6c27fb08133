//! What must hold of a running broker: nothing beyond its bound, nobody cut off too early or kept for too long.

use std::time::Duration;

use forebay::{limits::READ_BYTES_PER_TURN, session::CloseReason};

use super::{Gateway, PUT_OFF_MAX, Room, Socket};
use crate::network::{LinkId, Network};

impl Gateway {
    /// Nobody is cut off who kept in touch.
    pub(super) fn check_timeout(&mut self, socket: &Socket, reason: CloseReason, room: &Room<'_>) {
        let silence = room.now.mono.since(socket.last_drained);
        if let Some(longest) = self.longest_silence(socket.link, room.network)
            && reason == CloseReason::KeepAliveTimeout
            && silence < longest
        {
            self.broken =
                Some(format!("KEEP-ALIVE: {:?} was closed after {silence:?} of {longest:?}", socket.conn));
        }
    }

    /// Nobody is kept who is silent for too long. [MQTT-3.1.2-24]
    pub(super) fn check_silence(&mut self, room: &Room<'_>) {
        for socket in self.sockets.values() {
            let silence = room.now.mono.since(socket.last_read);
            if let Some(longest) = self.longest_silence(socket.link, room.network)
                // What was read last may have waited for the client to read, for all but as long again.
                && silence > 2 * longest + PUT_OFF_MAX
            {
                self.broken =
                    Some(format!("KEEP-ALIVE: {:?} is silent for {silence:?} of {longest:?}", socket.conn));
            }
        }
    }

    fn longest_silence(&self, link: LinkId, network: &Network) -> Option<Duration> {
        let keep_alive = network.keep_alive(link)?;
        let own = u64::from(keep_alive.seconds);
        let seconds =
            if keep_alive.may_be_shortened { own.min(self.limits.keep_alive_max_s.into()) } else { own };
        Some(Duration::from_millis(seconds * 1500))
    }

    /// Nothing has grown beyond its bound, and nothing took too long or too short a time.
    pub fn check_bounds(&mut self) -> Result<(), String> {
        if let Some(words) = self.broken.take() {
            return Err(words);
        }
        let connections = self.broker.connection_count();
        if connections > self.limits.connections as usize {
            return Err(format!("BOUND: {connections} connections"));
        }
        if connections != self.sockets.len() {
            return Err(format!("LEAK: {connections} connections and {} sockets", self.sockets.len()));
        }
        // One portion is answered before the queue is looked at again, and what was held is released at once.
        let outbox_max = self.limits.outbox_bytes as usize + 2 * READ_BYTES_PER_TURN;
        for socket in self.sockets.values() {
            let waiting = self.broker.output(socket.conn).map_or(0, |outbox| outbox.len());
            if waiting > outbox_max {
                return Err(format!("BOUND: {waiting} bytes wait for {:?}", socket.conn));
            }
        }
        match self.buffer.quarantine_len() {
            Ok(rows) if rows > self.quarantine_max => Err(format!("BOUND: {rows} payloads in quarantine")),
            _ => Ok(()),
        }
    }
}
