//! What the broker and everybody's uplink have to say to each other beside readings: what the hub sends to devices, what
//! they answer, who is there.
//!
//! Devices that are forwarded as themselves are none of the gateway's business, so nothing is said of them.

use crate::{
    broker::Reached,
    clock::Now,
    device_api::downlink::{Downlink, DownlinkKind, rpc_error},
    ids::DeviceName,
};

use super::EventLoop;

impl EventLoop {
    /// Hands on what the hub has sent in this turn, before the commit, so that what is kept for sessions without a
    /// connection rides in it.
    pub(super) fn hand_on_downlinks(&mut self, now: Now) {
        while let Some(downlink) = self.uploading.poll_downlink() {
            let reached = match self.uploading.goes_by_gateway(&downlink.device) {
                true => self.broker.handle_downlink(&downlink, now),
                false => Reached::NotConnected,
            };
            self.answer_for_absent(&downlink, reached, now);
        }
    }

    /// Somebody waits for the answer to a command: who cannot be asked is answered for.
    fn answer_for_absent(&mut self, downlink: &Downlink, reached: Reached, now: Now) {
        let why = match reached {
            Reached::Device => return,
            Reached::NotSubscribed => "device has not subscribed to commands",
            Reached::NotConnected => "device is not connected",
        };
        if let DownlinkKind::Rpc(id) = downlink.kind {
            self.uploading.answer_rpc(&downlink.device, id, rpc_error(why).as_bytes(), now);
        }
    }

    /// Gives the uplink what devices have answered and who has come or gone since the last turn.
    pub(super) fn tell_uplink(&mut self, now: Now) {
        while let Some((device, is_here)) = self.broker.poll_presence() {
            self.uploading.tell_presence(&device, is_here, now);
        }
        while let Some(answer) = self.broker.poll_rpc_answer() {
            self.uploading.answer_rpc(&answer.device, answer.id, &answer.payload, now);
        }
    }

    /// Tells a new uplink of everybody who is there.
    pub(super) fn tell_all_presence(&mut self, now: Now) {
        let all: Vec<DeviceName> = self.broker.connected_devices().cloned().collect();
        for device in all {
            self.uploading.tell_presence(&device, true, now);
        }
    }
}
