//! A port that stays the same while the broker behind it comes and goes.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Where a relay sends its connections: `None` while nothing is behind it.
type Target = Arc<Mutex<Option<SocketAddr>>>;

/// Passes connections on to whatever is behind it, and lets them in for nothing while nothing is.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    target: Target,
    links: Arc<Mutex<Vec<TcpStream>>>,
    carried: Arc<Carried>,
}

/// Bytes carried, of TCP's content.
#[derive(Debug, Default)]
struct Carried {
    there: AtomicU64,
    back: AtomicU64,
}

impl Relay {
    /// A relay with nothing behind it.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let relay =
            Self { address, target: Target::default(), links: Arc::default(), carried: Arc::default() };
        let (target, links) = (Arc::clone(&relay.target), Arc::clone(&relay.links));
        let carried = Arc::clone(&relay.carried);
        // It ends with the process; nothing else is ever behind this port.
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let behind = *target.lock().expect("nobody panics here");
                let Some(far) = behind.and_then(|address| TcpStream::connect(address).ok()) else { continue };
                let mut links = links.lock().expect("nobody panics here");
                links.extend([near.try_clone().expect("a handle"), far.try_clone().expect("a handle")]);
                let (near_too, far_too) =
                    (near.try_clone().expect("a handle"), far.try_clone().expect("a handle"));
                let (there, back) = (Arc::clone(&carried), Arc::clone(&carried));
                thread::spawn(move || carry(near, far, &there.there));
                thread::spawn(move || carry(far_too, near_too, &back.back));
            }
        });
        relay
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts `target` behind it.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().expect("nobody panics here") = Some(target);
    }

    /// Bytes carried to what is behind it, and back.
    pub fn carried(&self) -> (u64, u64) {
        (self.carried.there.load(Ordering::Relaxed), self.carried.back.load(Ordering::Relaxed))
    }

    /// Takes away what is behind it, and cuts every connection.
    pub fn cut(&self) {
        *self.target.lock().expect("nobody panics here") = None;
        for link in self.links.lock().expect("nobody panics here").drain(..) {
            // It may be over already.
            let _ = link.shutdown(Shutdown::Both);
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, carried: &AtomicU64) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        carried.fetch_add(n as u64, Ordering::Relaxed);
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
