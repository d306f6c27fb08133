//! One uplink as it runs in the loop: the pure client, its way to the hub, and its page of the journal.
//!
//! Between events it costs nothing: it is served when something has happened to it, or when its time has come.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use mio::{Poll, Token, event::Event};

use crate::{
    clock::{Mono, Now},
    ids::DeviceName,
    limits::{UPLINK_PAGE_BYTES, UPLINK_PAGE_ROWS},
    net::{
        resolver::{Answer, Resolver},
        scratch::Scratch,
    },
    store::{Buffer, Stretch, Whose},
    uplink::{Notice, ReadRequest, Uplink},
};

use super::uplink_link::{Arrival, Attempt, HubPlace, Link, Way};

/// Wait before the store is asked again after it could not tell.
pub(super) const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Running {
    pub(super) uplink: Uplink,
    place: Rc<HubPlace>,
    token: Token,
    link: Link,
    /// The page that is read next.
    wanted: Option<ReadRequest>,
    /// The journal could not be read, that was told, and it is tried again then.
    read_again: Option<Mono>,
    /// Something has happened to it since it was served.
    is_touched: bool,
    /// When it is to be served otherwise.
    due: Option<Mono>,
}

impl Running {
    pub(super) fn new(uplink: Uplink, place: Rc<HubPlace>, token: Token) -> Self {
        let link = Link::new();
        Self { uplink, place, token, link, wanted: None, read_again: None, is_touched: true, due: None }
    }

    /// The uplink, to be told of something.
    pub(super) fn touch(&mut self) -> &mut Uplink {
        self.is_touched = true;
        &mut self.uplink
    }

    pub(super) fn on_event(&mut self, event: &Event) {
        self.is_touched = true;
        self.link.on_event(event);
    }

    pub(super) fn on_answer(&mut self, answer: &Answer, poll: &Poll, now: Now) {
        let place = Rc::clone(&self.place);
        let way = Way { place: &place, registry: poll.registry(), token: self.token };
        let attempt = self.link.on_answer(answer, way, now.mono);
        if !matches!(attempt, Attempt::Pending) {
            self.is_touched = true;
        }
        self.on_attempt(attempt, now);
    }

    fn on_attempt(&mut self, attempt: Attempt, now: Now) {
        match attempt {
            Attempt::Pending => {}
            Attempt::Connected => self.uplink.handle_connected(now),
            Attempt::Failed(failure) => self.uplink.handle_connect_failed(failure, now),
        }
    }

    /// Takes what the hub has sent.
    pub(super) fn read(&mut self, scratch: &mut Scratch, now: Now) {
        let Some(arrival) = self.link.read(scratch, &self.place) else { return };
        self.is_touched = true;
        if !scratch.plaintext().is_empty() {
            self.uplink.handle_bytes(scratch.plaintext(), now);
        }
        if let Arrival::End(failure) = arrival {
            self.uplink.handle_disconnected(failure, now);
        }
    }

    /// Everything it wants in this turn but its page; lines for the log are given to `tell`.
    pub(super) fn serve(
        &mut self,
        resolver: &mut Resolver,
        poll: &Poll,
        now: Now,
        mut tell: impl FnMut(Notice),
    ) {
        if !self.is_touched && self.due.is_none_or(|due| due > now.mono) {
            return;
        }
        self.is_touched = false;
        if self.uplink.poll_timeout().is_some_and(|at| at <= now.mono) {
            self.uplink.handle_timeout(now);
        }
        self.connect(resolver, poll, now);
        if self.wanted.is_none() {
            self.wanted = self.uplink.poll_read();
        }
        self.write(now);
        while let Some(notice) = self.uplink.poll_notice() {
            tell(notice);
        }
        self.plan();
    }

    fn connect(&mut self, resolver: &mut Resolver, poll: &Poll, now: Now) {
        let place = Rc::clone(&self.place);
        let way = Way { place: &place, registry: poll.registry(), token: self.token };
        let attempt = self.link.advance(way, now.mono);
        self.on_attempt(attempt, now);
        if self.uplink.poll_connect() {
            let attempt = self.link.begin(way, resolver, now.mono);
            self.on_attempt(attempt, now);
        }
    }

    /// Whether there is a page to read now.
    pub(super) fn wants_page(&self, now: Mono) -> bool {
        self.wanted.is_some() && self.read_again.is_none_or(|at| at <= now)
    }

    /// Reads its page, if it wants one; gives back how many readings were looked at, whoever's they are.
    pub(super) fn read_page(&mut self, buffer: &mut Buffer, whose: &Whose<'_>, now: Now) -> u64 {
        let Some(mut request) = self.wanted.take() else { return 0 };
        self.is_touched = true;
        request.rows_max = request.rows_max.min(UPLINK_PAGE_ROWS);
        request.bytes_max = request.bytes_max.min(UPLINK_PAGE_BYTES);
        let (after, through, rows_max, bytes_max) =
            (request.after, request.through, request.rows_max, request.bytes_max);
        match buffer.outbound_of(whose, &Stretch { after, through, rows_max, bytes_max }) {
            Ok(found) => {
                self.read_again = None;
                // A page cut short by its bounds holds readings; else the search has come as far as it says.
                request.through = found.looked_through.min(through);
                self.uplink.handle_rows(request, found.readings, now);
                found.looked_through.0.saturating_sub(after.0)
            }
            Err(error) => {
                if self.read_again.replace(now.mono + RETRY).is_none() {
                    log::error!("{error}; nothing is uploaded until that works again");
                }
                self.uplink.handle_read_failed(request, now);
                0
            }
        }
    }

    pub(super) fn write(&mut self, now: Now) {
        if let Err(failure) = self.link.write(self.uplink.output(), &self.place) {
            self.uplink.handle_disconnected(failure, now);
        }
        if self.uplink.poll_close() {
            self.link.close();
        }
    }

    /// Ends the connection, or the attempt at one.
    pub(super) fn close(&mut self) {
        self.link.close();
    }

    fn plan(&mut self) {
        self.due =
            [self.uplink.poll_timeout(), self.link.deadline(), self.read_again].into_iter().flatten().min();
    }

    /// Whether the next turn has something to do at once.
    pub(super) fn is_busy(&self, store_is_open: bool) -> bool {
        let reads = store_is_open && self.wanted.is_some() && self.read_again.is_none();
        let settles = store_is_open && self.uplink.settlement_is_due();
        self.is_touched || self.link.can_read() || reads || settles
    }

    /// When it wants to be looked at.
    pub(super) fn due(&self) -> Option<Mono> {
        self.due
    }
}

/// Whose readings the uplink of `device` is given, `forwarded` being those with uplinks of their own.
pub(super) fn whose<'a>(device: Option<&'a DeviceName>, forwarded: &'a BTreeSet<DeviceName>) -> Whose<'a> {
    match device {
        Some(device) => Whose::Only(device),
        None if forwarded.is_empty() => Whose::Everybody,
        None => Whose::AllBut(forwarded),
    }
}
