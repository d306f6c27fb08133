//! mosquitto as it comes, without persistence: what there is to be compared with.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{
    Peer,
    support::{
        home::Home,
        wait::{SOON, until},
    },
};

/// A running mosquitto.
pub struct Mosquitto {
    child: Child,
    plain: SocketAddr,
    tls: SocketAddr,
    ca_root: PathBuf,
    /// Its configuration and certificates go away with it.
    _home: Home,
}

impl Mosquitto {
    /// On two free ports, with certificates of forebay's making.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// The same with further lines in its configuration.
    pub fn start_with(further: &str) -> Self {
        let home = Home::new();
        let certificates = home.certificates();
        let (plain, tls) = (free_address(), free_address());
        let at = |file: &str| certificates.join(file).display().to_string();
        // It announces no port of its own choosing, so free ones are looked for and handed over.
        let config = format!(
            "user root\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\nlog_type error\n\
             listener {} 127.0.0.1\nlistener {} 127.0.0.1\ncertfile {}\nkeyfile {}\n{further}\n",
            plain.port(),
            tls.port(),
            at("server.pem"),
            at("server.key")
        );
        let file = home.path().join("mosquitto.conf");
        fs::write(&file, config).expect("written");
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("mosquitto is installed");
        for address in [plain, tls] {
            until("mosquitto listens", SOON, || TcpStream::connect(address).ok());
        }
        Self { child, plain, tls, ca_root: certificates.join("ca-root.pem"), _home: home }
    }

    /// How it is reached.
    pub fn peer(&self) -> Peer {
        Peer {
            pid: self.child.id(),
            plain: self.plain,
            tls: self.tls,
            ca_root: self.ca_root.clone(),
            token: "anybody".to_owned(),
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}
