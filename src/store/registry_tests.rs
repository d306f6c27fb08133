//! Tests of the registry: who is found, who is refused, and what damage does.

use super::*;
use crate::{
    identity::Grant,
    store::{
        schema::REGISTRY_BEFORE_CLIENTS,
        test_bench::{Bench, name},
    },
};

const NOW: Wall = Wall(1_700_000_000_000);

fn token(text: &str) -> TokenHash {
    TokenHash::of(text)
}

/// A registry with a device "pump" whose token is "p".
fn with_pump() -> (Bench, Registry) {
    let bench = Bench::new();
    let mut registry = bench.registry();
    registry.add(&name("pump"), &token("p"), NOW).expect("added");
    (bench, registry)
}

fn damage(registry: &Registry, change: &str) {
    let sql = format!("PRAGMA ignore_check_constraints=ON; UPDATE identities SET {change}");
    registry.connection.execute_batch(&sql).expect("changed");
}

#[test]
fn a_device_is_found_again_after_a_restart() {
    let (bench, registry) = with_pump();
    drop(registry);
    let registry = bench.registry();
    let pump = registry.find(&name("pump")).expect("read").expect("there");
    let expected = Identity {
        id: IdentityId(1),
        name: name("pump"),
        role: Role::Device,
        token_hash: token("p"),
        enabled: true,
        created: NOW,
        last_seen: None,
    };
    assert_eq!(pump, expected);
    assert_eq!(registry.find(&name("Pump")).expect("read"), None);
}

#[test]
fn a_row_with_a_name_that_was_let_pass_once_lets_nobody_in_and_keeps_nobody_out() {
    let (_bench, registry) = with_pump();
    let old = "fan\u{FFFE}";
    let sum = device_checksum(7, true, NOW.0, &token("f").0, old);
    registry
        .connection
        .execute(
            "INSERT INTO identities (id, name, kind, gateway, token_hash, enabled, created_ms, checksum)
             VALUES (7, ?1, 0, 0, ?2, 1, ?3, ?4)",
            params![old, token("f").0, NOW.0, sum],
        )
        .expect("inserted");
    let names: Vec<_> = registry.identities().expect("read").into_iter().map(|device| device.name).collect();
    assert_eq!(names, [name("pump")]);
    damage(&registry, "checksum = checksum + 1 WHERE id = 7");
    assert!(matches!(registry.identities(), Err(StoreError::Corrupt(_))), "a damaged one is told from it");
}

#[test]
fn devices_come_sorted_by_name() {
    let (_bench, mut registry) = with_pump();
    registry.add(&name("fan"), &token("f"), NOW).expect("added");
    registry.add(&name("valve"), &token("v"), NOW).expect("added");
    let names: Vec<_> = registry.identities().expect("read").into_iter().map(|device| device.name).collect();
    assert_eq!(names, [name("fan"), name("pump"), name("valve")]);
}

#[test]
fn a_name_or_a_token_is_given_once() {
    let (_bench, mut registry) = with_pump();
    let error = registry.add(&name("pump"), &token("x"), NOW).expect_err("the name is taken");
    assert!(matches!(&error, StoreError::DuplicateName { name } if name.as_str() == "pump"));
    assert!(error.to_string().contains("a device or client named pump exists already"));
    let error = registry.add(&name("fan"), &token("p"), NOW).expect_err("the token is taken");
    assert!(matches!(error, StoreError::DuplicateToken));
    assert!(!error.to_string().contains("pump"), "whose token it is, is not said");
    registry.add(&name("fan"), &token("f"), NOW).expect("added");
    assert!(matches!(registry.set_token(&name("fan"), &token("p")), Err(StoreError::DuplicateToken)));
    assert_eq!(registry.identities().expect("read").len(), 2);
}

#[test]
fn a_new_token_takes_the_place_of_the_old_one() {
    let (_bench, mut registry) = with_pump();
    let pump = registry.set_token(&name("pump"), &token("new")).expect("set");
    assert_eq!(registry.find(&name("pump")).expect("read"), Some(pump.clone()));
    assert_eq!(pump.token_hash, token("new"));
    registry.set_token(&name("pump"), &token("new")).expect("its own token is no duplicate");
    registry.add(&name("fan"), &token("p"), NOW).expect("the old token is free");
}

#[test]
fn a_device_is_kept_out_and_let_in_again() {
    let (_bench, mut registry) = with_pump();
    for enabled in [false, true] {
        assert_eq!(registry.set_enabled(&name("pump"), enabled).expect("set").enabled, enabled);
        assert_eq!(registry.find(&name("pump")).expect("read").expect("there").enabled, enabled);
    }
}

#[test]
fn a_device_is_made_a_gateway_and_a_plain_device_again() {
    let (bench, mut registry) = with_pump();
    let site = registry.add_gateway(&name("site"), &token("s"), NOW).expect("added");
    assert_eq!(site.role, Role::Gateway);
    for (is_gateway, role) in [(true, Role::Gateway), (false, Role::Device)] {
        assert_eq!(registry.set_gateway(&name("pump"), is_gateway).expect("set").role, role);
        registry.set_enabled(&name("pump"), true).expect("set");
        assert_eq!(registry.find(&name("pump")).expect("read").expect("there").role, role);
    }
    registry.set_gateway(&name("pump"), true).expect("set");
    registry.add_client(&name("red"), Rights::default(), &token("r"), NOW).expect("added");
    let red = registry.set_gateway(&name("red"), true).expect("left as it is");
    assert_eq!(red.role, Role::Client(Rights::default()));
    drop(registry);
    let roles: Vec<_> = bench.registry().identities().expect("read").into_iter().map(|d| d.role).collect();
    assert_eq!(roles, [Role::Gateway, Role::Client(Rights::default()), Role::Gateway]);
}

#[test]
fn nobody_becomes_a_gateway_by_a_flipped_bit() {
    let (_bench, registry) = with_pump();
    for gateway in [1, 2] {
        damage(&registry, &format!("gateway = {gateway}"));
        assert!(matches!(registry.find(&name("pump")), Err(StoreError::Corrupt(_))), "{gateway}");
    }
}

#[test]
fn a_device_that_is_not_there_is_named_in_the_error() {
    let (_bench, mut registry) = with_pump();
    let fan = name("fan");
    let errors = [
        registry.set_token(&fan, &token("f")).expect_err("no fan"),
        registry.set_enabled(&fan, false).expect_err("no fan"),
        registry.set_gateway(&fan, true).expect_err("no fan"),
        registry.remove(&fan).expect_err("no fan"),
    ];
    for error in errors {
        assert!(matches!(&error, StoreError::NotFound { name } if *name == fan));
        assert!(error.to_string().contains("fan"));
    }
}

#[test]
fn the_id_of_a_removed_device_is_never_given_again() {
    let (bench, mut registry) = with_pump();
    registry.remove(&name("pump")).expect("removed");
    assert_eq!(registry.identities().expect("read"), []);
    drop(registry);
    let again = bench.registry().add(&name("pump"), &token("p"), NOW).expect("added");
    assert_eq!(again.id, IdentityId(2));
}

#[test]
fn when_devices_were_seen_is_noted_and_removed_ones_are_passed_over() {
    let (_bench, mut registry) = with_pump();
    registry.note_seen(&[(IdentityId(1), Wall(5)), (IdentityId(99), Wall(6))]).expect("noted");
    registry.note_seen(&[]).expect("nothing to note");
    assert_eq!(registry.find(&name("pump")).expect("read").expect("there").last_seen, Some(Wall(5)));
}

#[test]
fn only_changes_of_others_are_reported_and_each_once() {
    let (bench, mut registry) = with_pump();
    assert!(registry.take_changed().expect("asked").is_none());
    registry.set_enabled(&name("pump"), false).expect("set");
    assert!(registry.take_changed().expect("its own change").is_none());
    let mut command_line = bench.registry();
    assert!(registry.take_changed().expect("opening changes nothing").is_none());
    command_line.set_enabled(&name("pump"), true).expect("set");
    let devices = registry.take_changed().expect("asked").expect("changed");
    assert!(devices[0].enabled);
    assert!(registry.take_changed().expect("asked").is_none());
}

#[test]
fn a_damaged_row_is_an_error_and_lets_nobody_in() {
    let changes = [
        "enabled = 1 - enabled",
        "enabled = 7",
        "token_hash = zeroblob(32)",
        "token_hash = x'00'",
        "created_ms = created_ms + 1",
        "checksum = checksum + 1",
        "id = 8",
        "kind = 1",
        "kind = 7",
        "subscribe = '[]'",
    ];
    for change in changes {
        let (_bench, registry) = with_pump();
        damage(&registry, change);
        for error in
            [registry.find(&name("pump")).expect_err(change), registry.identities().expect_err(change)]
        {
            assert!(matches!(&error, StoreError::Corrupt(_)), "{change}: {error}");
            assert!(error.to_string().contains("row of the device or client with id "), "{error}");
        }
    }
}

#[test]
fn a_row_with_a_damaged_name_is_an_error_too() {
    for change in ["name = 'pumq'", "name = 'a/b'", "name = ''"] {
        let (_bench, registry) = with_pump();
        damage(&registry, change);
        assert!(matches!(registry.identities(), Err(StoreError::Corrupt(_))), "{change}");
        assert_eq!(registry.find(&name("pump")).expect("read"), None);
    }
}

#[test]
fn a_damaged_device_cannot_be_changed_but_can_be_removed() {
    let (_bench, mut registry) = with_pump();
    damage(&registry, "enabled = 7");
    assert!(matches!(registry.set_enabled(&name("pump"), true), Err(StoreError::Corrupt(_))));
    registry.remove(&name("pump")).expect("removed");
    assert_eq!(registry.identities().expect("sound again"), []);
}

#[test]
fn processes_that_start_together_make_one_registry() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for number in 0..6 {
            let bench = &bench;
            scope.spawn(move || {
                let device = format!("device {number}");
                bench.registry().add(&name(&device), &token(&device), NOW).expect("added");
            });
        }
    });
    assert_eq!(bench.registry().identities().expect("read").len(), 6);
}

#[test]
fn no_token_hash_shows_in_an_error() {
    let (_bench, mut registry) = with_pump();
    let hash: String = token("p").0.iter().map(|byte| format!("{byte:02x}")).collect();
    registry.connection.execute_batch("DROP TABLE identities").expect("dropped");
    for error in [
        registry.add(&name("fan"), &token("p"), NOW).expect_err("no table"),
        registry.find(&name("pump")).map(drop).expect_err("no table"),
    ] {
        assert!(matches!(error, StoreError::Other(_)));
        assert!(!format!("{error} {error:?}").to_lowercase().contains(&hash[..8]));
    }
}

fn only(filters: &[&str]) -> Grant {
    Grant::Only(filters.iter().map(|filter| (*filter).to_owned()).collect())
}

/// A registry with a client "red" that may publish to `hall/#` and nowhere else.
fn with_red() -> (Bench, Registry, Identity) {
    let bench = Bench::new();
    let mut registry = bench.registry();
    let rights = Rights { publish: only(&["hall/#"]), subscribe: Grant::Ordinary };
    let red = registry.add_client(&name("red"), rights, &token("r"), NOW).expect("added");
    (bench, registry, red)
}

#[test]
fn a_client_is_found_again_with_its_rights_after_every_change() {
    let (bench, mut registry, red) = with_red();
    registry.add(&name("pump"), &token("p"), NOW).expect("added");
    registry.set_enabled(&name("red"), false).expect("set");
    registry.set_token(&name("red"), &token("new")).expect("set");
    registry.note_seen(&[(red.id, Wall(5))]).expect("noted");
    drop(registry);
    let found = bench.registry().find(&name("red")).expect("read").expect("there");
    let expected = Identity { enabled: false, token_hash: token("new"), last_seen: Some(Wall(5)), ..red };
    assert_eq!(found, expected);
    let names: Vec<_> =
        bench.registry().identities().expect("read").into_iter().map(|found| found.name).collect();
    assert_eq!(names, [name("pump"), name("red")]);
    bench.registry().remove(&name("red")).expect("removed");
    assert_eq!(bench.registry().find(&name("red")).expect("read"), None);
}

#[test]
fn a_device_and_a_client_share_neither_name_nor_token() {
    let (_bench, mut registry, _) = with_red();
    let add = registry.add(&name("red"), &token("x"), NOW);
    assert!(matches!(add, Err(StoreError::DuplicateName { .. })));
    assert!(matches!(registry.add(&name("pump"), &token("r"), NOW), Err(StoreError::DuplicateToken)));
    registry.add(&name("pump"), &token("p"), NOW).expect("added");
    let add = registry.add_client(&name("pump"), Rights::default(), &token("x"), NOW);
    assert!(matches!(add, Err(StoreError::DuplicateName { .. })));
    let add = registry.add_client(&name("blue"), Rights::default(), &token("p"), NOW);
    assert!(matches!(add, Err(StoreError::DuplicateToken)));
}

#[test]
fn damage_to_a_clients_rights_is_noticed() {
    for change in [
        "kind = 0",
        "kind = 0, publish = NULL",
        "publish = NULL",
        "publish = '[\"#\"]'",
        "publish = 'hall/#'",
        "subscribe = '[]'",
        "publish = NULL, subscribe = publish",
    ] {
        let (_bench, registry, _) = with_red();
        damage(&registry, change);
        assert!(matches!(registry.find(&name("red")), Err(StoreError::Corrupt(_))), "{change}");
        assert!(matches!(registry.identities(), Err(StoreError::Corrupt(_))), "{change}");
    }
}

/// Version 1 of the registry, with the devices "pump" and "fan", both sound.
fn version_1(bench: &Bench) -> Connection {
    let path = bench.dir.registry_path();
    let connection = open::open_writer(&path, &REGISTRY_BEFORE_CLIENTS, &bench.options).expect("made");
    for (id, device) in [(1, "pump"), (3, "fan")] {
        let (hash, sum) = (token(device), device_checksum(id, true, NOW.0, &token(device).0, device));
        connection
            .execute(
                "INSERT INTO devices VALUES (?1, ?2, ?3, 1, ?4, 7, ?5)",
                params![id, device, hash.0, NOW.0, sum],
            )
            .expect("inserted");
    }
    connection
}

#[test]
fn devices_of_version_1_are_all_there_with_their_tokens() {
    let bench = Bench::new();
    let old = version_1(&bench);
    old.execute_batch("DELETE FROM devices WHERE id = 3").expect("removed");
    drop(old);
    let mut registry = bench.registry();
    let pump = Identity {
        id: IdentityId(1),
        name: name("pump"),
        role: Role::Device,
        token_hash: token("pump"),
        enabled: true,
        created: NOW,
        last_seen: Some(Wall(7)),
    };
    assert_eq!(registry.identities().expect("sound"), [pump]);
    let red = registry.add_client(&name("red"), Rights::default(), &token("r"), NOW).expect("added");
    assert_eq!(red.id, IdentityId(4), "an id given before is not given again");
}

#[test]
fn a_row_damaged_in_version_1_stays_damaged_and_can_be_removed() {
    for change in ["enabled = 7", "token_hash = x'00'", "created_ms = created_ms + 1"] {
        let bench = Bench::new();
        let old = version_1(&bench);
        let sql = format!("PRAGMA ignore_check_constraints=ON; UPDATE devices SET {change} WHERE id = 3");
        old.execute_batch(&sql).expect("changed");
        drop(old);
        let mut registry = bench.registry();
        assert!(matches!(registry.find(&name("fan")), Err(StoreError::Corrupt(_))), "{change}");
        registry.remove(&name("fan")).expect("removed");
        assert_eq!(registry.identities().expect("sound again").len(), 1);
        let unchecked = registry.connection.execute_batch("UPDATE identities SET enabled = 7");
        assert!(unchecked.is_err(), "constraints hold again after the migration");
    }
}
