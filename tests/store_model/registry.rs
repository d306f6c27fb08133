//! Random calls on the registry, made on the model and on SQLite, through two connections that see each other's changes.

use forebay::{
    clock::Wall,
    identity::{Grant, Rights, Role, TokenHash},
    ids::{DeviceName, IdentityId},
    store::{Registry, StoreError},
};

use crate::{
    chance::Chance,
    model::{Devices, Outcome},
    place::Place,
};

/// Both registries; that of SQLite opened twice, as by the broker and by the command line.
pub struct Both<'a> {
    place: &'a Place,
    chance: Chance,
    model: Devices,
    broker: Registry,
    command_line: Registry,
    /// The command line has changed something that the broker was not told of yet.
    is_changed: bool,
}

impl<'a> Both<'a> {
    pub fn new(place: &'a Place, seed: u64) -> Self {
        Self {
            place,
            chance: Chance::new(seed),
            model: Devices::default(),
            broker: open(place),
            command_line: open(place),
            is_changed: false,
        }
    }

    /// Makes one call on both, and compares what can be seen.
    pub fn call(&mut self) {
        match self.chance.below(12) {
            0..7 => self.change(),
            7 => self.note_seen(),
            8 => self.find(),
            9 => self.take_changed(),
            10 => self.command_line = open(self.place),
            _ => {
                self.broker = open(self.place);
                self.is_changed = false;
            }
        }
        assert_eq!(self.broker.identities().expect("read"), self.model.all());
    }

    fn change(&mut self) {
        let name = self.name();
        let token = TokenHash::of(&format!("token-{}", self.chance.below(8)));
        let now = Wall(self.chance.below(1000) as i64);
        let registry = &mut self.command_line;
        let (found, expected) = match self.chance.below(7) {
            0 => {
                (registry.add(&name, &token, now).map(drop), self.model.add(&name, Role::Device, token, now))
            }
            4 => {
                let rights = rights(&mut self.chance);
                let expected = self.model.add(&name, Role::Client(rights.clone()), token, now);
                (registry.add_client(&name, rights, &token, now).map(drop), expected)
            }
            5 => {
                let expected = self.model.add(&name, Role::Gateway, token, now);
                (registry.add_gateway(&name, &token, now).map(drop), expected)
            }
            6 => {
                let is_gateway = self.chance.coin();
                (registry.set_gateway(&name, is_gateway).map(drop), self.model.set_gateway(&name, is_gateway))
            }
            1 => (registry.set_token(&name, &token).map(drop), self.model.set_token(&name, token)),
            2 => {
                let enabled = self.chance.coin();
                (registry.set_enabled(&name, enabled).map(drop), self.model.set_enabled(&name, enabled))
            }
            _ => (registry.remove(&name), self.model.remove(&name)),
        };
        self.is_changed |= expected == Outcome::Done;
        assert_eq!(outcome(found), expected, "{name}");
    }

    fn note_seen(&mut self) {
        let seen = (IdentityId(self.chance.below(12) as i64), Wall(self.chance.below(1000) as i64));
        self.broker.note_seen(&[seen]).expect("noted");
        self.model.note_seen(seen.0, seen.1);
    }

    fn find(&mut self) {
        let name = self.name();
        assert_eq!(self.broker.find(&name).expect("read"), self.model.find(&name));
    }

    fn take_changed(&mut self) {
        let changed = self.broker.take_changed().expect("read");
        assert_eq!(changed, self.is_changed.then(|| self.model.all()));
        self.is_changed = false;
    }

    fn name(&mut self) -> DeviceName {
        DeviceName::parse(&format!("device-{}", self.chance.below(5))).expect("a valid name")
    }
}

fn rights(chance: &mut Chance) -> Rights {
    let mut grant = || match chance.below(3) {
        0 => Grant::Ordinary,
        filters => Grant::Only((1..filters).map(|n| format!("hall {n}/#")).collect()),
    };
    Rights { publish: grant(), subscribe: grant() }
}

fn open(place: &Place) -> Registry {
    Registry::open(&place.dir(), &place.options()).expect("opened")
}

fn outcome(found: Result<(), StoreError>) -> Outcome {
    match found {
        Ok(()) => Outcome::Done,
        Err(StoreError::NotFound { .. }) => Outcome::NotFound,
        Err(StoreError::DuplicateName { .. }) => Outcome::DuplicateName,
        Err(StoreError::DuplicateToken) => Outcome::DuplicateToken,
        Err(error) => panic!("{error}"),
    }
}
