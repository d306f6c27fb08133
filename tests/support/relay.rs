//! A port that stays the same while the broker behind it comes and goes.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
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
}

impl Relay {
    /// A relay with nothing behind it.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let relay = Self { address, target: Target::default(), links: Arc::default() };
        let (target, links) = (Arc::clone(&relay.target), Arc::clone(&relay.links));
        // It ends with the process; nothing else is ever behind this port.
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let behind = *target.lock().expect("nobody panics here");
                let Some(far) = behind.and_then(|address| TcpStream::connect(address).ok()) else { continue };
                let mut links = links.lock().expect("nobody panics here");
                links.extend([near.try_clone().expect("a handle"), far.try_clone().expect("a handle")]);
                let (near_too, far_too) =
                    (near.try_clone().expect("a handle"), far.try_clone().expect("a handle"));
                thread::spawn(move || carry(near, far));
                thread::spawn(move || carry(far_too, near_too));
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

    /// Takes away what is behind it, and cuts every connection.
    pub fn cut(&self) {
        *self.target.lock().expect("nobody panics here") = None;
        for link in self.links.lock().expect("nobody panics here").drain(..) {
            // It may be over already.
            let _ = link.shutdown(Shutdown::Both);
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
