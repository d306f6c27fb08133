//! The uplink, driven as the event loop drives it, over the simulated way to the hub.

use std::time::Duration;

use forebay::{
    clock::{Mono, Now},
    limits::{UPLINK_PAGE_BYTES, UPLINK_PAGE_ROWS},
    store::{Buffer, StoreError, Stretch, Whose},
    uplink::{Failure, FailureKind, ReadRequest, Uplink},
};

use crate::{
    trace::{Trace, note},
    upstream::{FromHub, Upstream},
};

/// Wait before the store is asked again after it could not tell.
const RETRY: Duration = Duration::from_secs(1);

/// The uplink as it runs in the loop.
pub struct Uploading {
    pub uplink: Uplink,
    /// The page that is read next.
    wanted: Option<ReadRequest>,
    read_again: Option<Mono>,
}

impl Uploading {
    /// Begins where the store says.
    pub fn begin(
        buffer: &Buffer,
        upstream: &Upstream,
        seed: u64,
        synchronised: bool,
        now: Now,
    ) -> Result<Self, StoreError> {
        let resumed = buffer.settlement()?;
        let mut uplink = Uplink::new(upstream.settings(), resumed, buffer.last_seq(), seed, now);
        uplink.handle_clock(synchronised, now);
        Ok(Self { uplink, wanted: None, read_again: None })
    }

    /// When it wants to be looked at; at once if it has something to do.
    pub fn due(&self, store_is_open: bool) -> Option<Mono> {
        let reads = store_is_open && self.wanted.is_some() && self.read_again.is_none();
        if reads || store_is_open && self.uplink.settlement_is_due() {
            return Some(Mono(0));
        }
        [self.uplink.poll_timeout(), self.read_again].into_iter().flatten().min()
    }

    /// Takes what the hub has sent.
    pub fn read(&mut self, upstream: &mut Upstream, net_now: u64, now: Now) {
        let failure = match upstream.read(net_now) {
            FromHub::Nothing => return,
            FromHub::Bytes(bytes) => return self.uplink.handle_bytes(&bytes, now),
            FromHub::Closed => Failure::new(FailureKind::Closed, "closed by the hub"),
            FromHub::Reset => Failure::new(FailureKind::Reset, "reset"),
        };
        self.uplink.handle_disconnected(failure, now);
    }

    /// Everything else it wants in a turn.
    pub fn serve(
        &mut self,
        upstream: &mut Upstream,
        buffer: &mut Buffer,
        (net_now, now): (u64, Now),
        trace: &mut Trace,
    ) {
        if self.uplink.poll_timeout().is_some_and(|at| at <= now.mono) {
            self.uplink.handle_timeout(now);
        }
        match upstream.attempt(net_now) {
            None => {}
            Some(true) => self.uplink.handle_connected(now),
            Some(false) => {
                let failure = Failure::new(FailureKind::Unreachable, "there is no way to the hub");
                self.uplink.handle_connect_failed(failure, now);
            }
        }
        if self.uplink.poll_connect() {
            upstream.connect(net_now);
        }
        if self.wanted.is_none() {
            self.wanted = self.uplink.poll_read();
        }
        self.write(upstream, net_now, trace);
        upstream.note_suspected(self.uplink.status(now).suspected, trace);
        while let Some(notice) = self.uplink.poll_notice() {
            note!(trace, "uplink: {}", notice.words);
        }
        if buffer.is_open() && self.read_again.is_none_or(|at| at <= now.mono) {
            self.read_page(buffer, now, trace);
        }
    }

    fn write(&mut self, upstream: &mut Upstream, net_now: u64, trace: &mut Trace) {
        let output = self.uplink.output();
        let bytes = [output.as_slices().0, output.as_slices().1].concat();
        if !bytes.is_empty() {
            output.consume(upstream.write(&bytes, net_now));
        }
        if self.uplink.poll_close() {
            upstream.close(net_now, trace);
        }
    }

    fn read_page(&mut self, buffer: &mut Buffer, now: Now, trace: &mut Trace) {
        let Some(mut request) = self.wanted.take() else { return };
        request.rows_max = request.rows_max.min(UPLINK_PAGE_ROWS);
        request.bytes_max = request.bytes_max.min(UPLINK_PAGE_BYTES);
        let (after, through, rows_max, bytes_max) =
            (request.after, request.through, request.rows_max, request.bytes_max);
        match buffer.outbound_of(&Whose::Everybody, &Stretch { after, through, rows_max, bytes_max }) {
            Ok(found) => {
                self.read_again = None;
                request.through = found.looked_through.min(through);
                self.uplink.handle_rows(request, found.readings, now);
            }
            Err(error) => {
                note!(trace, "the uplink cannot read: {error}");
                trace.count("a journal the uplink cannot read");
                self.read_again = Some(now.mono + RETRY);
                self.uplink.handle_read_failed(request, now);
            }
        }
    }

    /// Says goodbye to the hub; what became of readings is to be put on disk at last.
    pub fn stop(&mut self, upstream: &mut Upstream, net_now: u64, now: Now, trace: &mut Trace) {
        self.uplink.handle_stop(now);
        self.write(upstream, net_now, trace);
        self.uplink.settle_now();
    }
}
