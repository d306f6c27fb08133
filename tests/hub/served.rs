//! The model hub behind a real socket: one thread for each connection, all of them at one hub.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use forebay::clock::Mono;

use crate::hub::{Hub, Manners};

/// A hub that listens.
pub struct ServedHub {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    hub: Mutex<Hub>,
    started: Instant,
    /// Bytes that came, over all connections.
    received: AtomicU64,
}

impl ServedHub {
    /// A hub with these manners on a free port.
    pub fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let hub = Mutex::new(Hub::new(manners, 1));
        let shared = Arc::new(Shared { hub, started: Instant::now(), received: AtomicU64::new(0) });
        let served = Self { address, shared: Arc::clone(&shared) };
        // It ends with the process, as its connections do with their peers.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &shared));
            }
        });
        served
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The hub, to be looked at or to be given other manners; its connections stand still meanwhile.
    ///
    /// # Panics
    /// If a connection has panicked: it was sent what no client may send.
    pub fn lock(&self) -> MutexGuard<'_, Hub> {
        self.shared.hub.lock().expect("what it is sent is well-formed")
    }

    /// Bytes that came, over all connections.
    pub fn bytes_received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    // Answers are small and must not wait for one another.
    stream.set_nodelay(true).expect("a TCP option");
    let now = || Mono(u64::try_from(shared.started.elapsed().as_micros()).expect("not that long"));
    let Ok(hub) = shared.hub.lock() else { return };
    let mut connection = hub.accept(now());
    drop(hub);
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut bytes) {
        shared.received.fetch_add(n as u64, Ordering::Relaxed);
        let Ok(mut hub) = shared.hub.lock() else { return };
        let reaction = hub.receive(&mut connection, &bytes[..n], now());
        drop(hub);
        if stream.write_all(&reaction.bytes).is_err() || reaction.closes {
            break;
        }
    }
    // The peer may be gone already.
    let _ = stream.shutdown(Shutdown::Both);
}
