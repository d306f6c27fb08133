//! Who may come in: the registry's devices as the broker holds them, and their live connections.

use std::collections::{BTreeMap, HashMap};

use crate::{
    clock::Wall,
    identity::{Identity, Role, TokenHash},
    ids::{ConnId, DeviceName, IdentityId},
};

/// The devices, found by what their tokens hash to.
#[derive(Debug, Default)]
pub struct IdentityTable {
    by_hash: HashMap<TokenHash, IdentityId>,
    by_name: HashMap<DeviceName, IdentityId>,
    entries: BTreeMap<IdentityId, Entry>,
}

#[derive(Debug)]
struct Entry {
    device: Identity,
    /// Live connections, oldest first.
    connections: Vec<ConnId>,
    /// Seen since the last [`IdentityTable::take_seen`].
    seen: Option<Wall>,
}

impl IdentityTable {
    /// The table of `devices`, none of them connected.
    pub fn new(devices: Vec<Identity>) -> Self {
        let mut table = Self::default();
        table.replace(devices);
        table
    }

    /// The enabled device whose token is `token`.
    ///
    /// A miss does the same work as a hit: one hash, one look-up, one comparison in constant time.
    pub fn authenticate(&self, token: &str) -> Option<&Identity> {
        let hash = TokenHash::of(token);
        let found = self.by_hash.get(&hash).and_then(|id| self.entries.get(id)).map(|entry| &entry.device);
        let stored = found.map_or(TokenHash([0; 32]), |device| device.token_hash);
        let equal = stored.equals(&hash);
        found.filter(|device| equal && device.enabled)
    }

    /// Whether somebody has `token`, let in or not.
    pub fn knows(&self, token: &TokenHash) -> bool {
        self.by_hash.contains_key(token)
    }

    /// Adds a device that has just been enrolled.
    pub fn add(&mut self, device: Identity) {
        self.by_hash.insert(device.token_hash, device.id);
        self.by_name.insert(device.name.clone(), device.id);
        self.entries.insert(device.id, Entry { device, connections: Vec::new(), seen: None });
    }

    /// The identity `id`, if it is let in.
    pub fn enabled(&self, id: IdentityId) -> Option<&Identity> {
        self.entries.get(&id).map(|entry| &entry.device).filter(|device| device.enabled)
    }

    /// The device called `name`; a local client is none.
    pub fn device(&self, name: &DeviceName) -> Option<IdentityId> {
        let id = self.by_name.get(name)?;
        self.enabled(*id).filter(|found| found.role.is_device()).map(|found| found.id)
    }

    /// Whether a device or local client is called `name`, let in or not.
    pub fn has(&self, name: &DeviceName) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether `id` is a device with others behind it.
    pub fn is_gateway(&self, id: IdentityId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.device.role == Role::Gateway)
    }

    /// The devices with a connection.
    pub fn connected_devices(&self) -> impl Iterator<Item = &DeviceName> {
        let connected = self.entries.values().filter(|entry| !entry.connections.is_empty());
        connected.map(|entry| &entry.device).filter(|found| found.role.is_device()).map(|d| &d.name)
    }

    /// Takes over the registry as it is now and gives back who has lost their right, with their connections: the
    /// identity's token changed, or it was disabled or removed.
    pub fn replace(&mut self, devices: Vec<Identity>) -> Vec<(IdentityId, Vec<ConnId>)> {
        let mut before = std::mem::take(&mut self.entries);
        self.by_hash = devices.iter().map(|device| (device.token_hash, device.id)).collect();
        self.by_name = devices.iter().map(|device| (device.name.clone(), device.id)).collect();
        let mut lost = Vec::new();
        for device in devices {
            let (mut connections, seen) = match before.remove(&device.id) {
                Some(old) if old.device.token_hash == device.token_hash && device.enabled => {
                    (old.connections, old.seen)
                }
                Some(old) => {
                    lost.push((device.id, old.connections));
                    (Vec::new(), old.seen)
                }
                None => (Vec::new(), None),
            };
            connections.shrink_to_fit();
            self.entries.insert(device.id, Entry { device, connections, seen });
        }
        lost.extend(before.into_iter().map(|(id, entry)| (id, entry.connections)));
        lost
    }

    /// Notes that `conn` now speaks for `device`.
    pub fn add_connection(&mut self, device: IdentityId, conn: ConnId) {
        if let Some(entry) = self.entries.get_mut(&device) {
            entry.connections.push(conn);
        }
    }

    /// Forgets that `conn` speaks for `device`.
    pub fn remove_connection(&mut self, device: IdentityId, conn: ConnId) {
        if let Some(entry) = self.entries.get_mut(&device) {
            entry.connections.retain(|other| *other != conn);
        }
    }

    /// The live connections of `device`, oldest first.
    pub fn connections(&self, device: IdentityId) -> &[ConnId] {
        self.entries.get(&device).map_or(&[], |entry| &entry.connections)
    }

    /// Notes that `device` showed itself; whether that was for the first time.
    pub fn note_seen(&mut self, device: IdentityId, at: Wall) -> bool {
        let Some(entry) = self.entries.get_mut(&device) else { return false };
        entry.seen = Some(at);
        entry.device.last_seen.replace(at).is_none()
    }

    /// The devices that showed themselves since the last call, and when.
    pub fn take_seen(&mut self) -> Vec<(IdentityId, Wall)> {
        self.entries.iter_mut().filter_map(|(id, entry)| entry.seen.take().map(|at| (*id, at))).collect()
    }

    /// How many devices there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Panics if the two indexes disagree.
    pub fn check_invariants(&self) {
        assert_eq!(self.by_hash.len(), self.entries.len(), "two devices share a token");
        assert_eq!(self.by_name.len(), self.entries.len(), "two devices share a name");
        assert!(
            self.entries
                .values()
                .all(|entry| self.by_hash.get(&entry.device.token_hash) == Some(&entry.device.id))
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: i64, token: &str) -> Identity {
        Identity {
            id: IdentityId(id),
            name: DeviceName::parse(&format!("device {id}")).expect("valid"),
            role: Role::Device,
            token_hash: TokenHash::of(token),
            enabled: true,
            created: Wall(0),
            last_seen: None,
        }
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, epoch: 0 }
    }

    #[test]
    fn a_token_lets_its_own_device_in_and_nobody_else() {
        let table = IdentityTable::new(vec![device(1, "one"), device(2, "two")]);
        assert_eq!(table.authenticate("two").map(|d| d.id), Some(IdentityId(2)));
        for wrong in ["", " ", "One", "one ", "' OR 1=1 --", "three"] {
            assert!(table.authenticate(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_disabled_device_is_not_let_in() {
        let mut pump = device(1, "one");
        pump.enabled = false;
        assert!(IdentityTable::new(vec![pump]).authenticate("one").is_none());
    }

    #[test]
    fn an_empty_registry_lets_nobody_in() {
        assert!(IdentityTable::new(Vec::new()).authenticate("").is_none());
    }

    #[test]
    fn connections_of_changed_disabled_and_removed_devices_lose_their_right() {
        let mut table = IdentityTable::new((1..=4).map(|id| device(id, &format!("token {id}"))).collect());
        for id in 1..=4 {
            table.add_connection(IdentityId(id), conn(id as u32));
        }
        let mut disabled = device(3, "token 3");
        disabled.enabled = false;
        let lost = table.replace(vec![device(1, "token 1"), device(2, "rotated"), disabled]);
        let expected = [2, 3, 4].map(|id| (IdentityId(id), vec![conn(id as u32)]));
        assert_eq!(lost, expected);
        assert_eq!(table.connections(IdentityId(1)), [conn(1)]);
        assert!(table.authenticate("token 2").is_none() && table.authenticate("rotated").is_some());
        table.check_invariants();
    }

    #[test]
    fn a_device_is_reported_seen_once() {
        let mut table = IdentityTable::new(vec![device(1, "one")]);
        table.note_seen(IdentityId(1), Wall(5));
        table.note_seen(IdentityId(1), Wall(9));
        assert_eq!(table.take_seen(), [(IdentityId(1), Wall(9))]);
        assert!(table.take_seen().is_empty());
    }
}
