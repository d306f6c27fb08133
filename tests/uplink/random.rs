//! Everything at once, by chance, then all is healed: nothing may be lost, and everything must drain.
//!
//! `UPLINK_SEEDS` says how many schedules, `UPLINK_SEED` picks one.

use forebay::{ids::Seq, uplink::FailureKind};

use crate::{
    hub::{HubRate, Manners, OnPoison, TooMuch, Version5},
    uploads::is_two_lanes,
    world::{MILLI, Network, SECOND, World, settings},
};

const DEVICES: [&str; 5] = ["a", "b", "c", "d", "e"];

#[test]
fn whatever_happens_nothing_is_lost_and_everything_drains() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("UPLINK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("UPLINK_SEEDS").unwrap_or(60),
    };
    for seed in seeds {
        println!("UPLINK_SEED={seed}");
        schedule(seed);
    }
}

fn schedule(seed: u64) {
    let mut world = World::new(seed, settings(), Manners::good());
    world.hub.manners = manners(&mut world);
    let has_poison = world.draw(3) == 0;
    let steps = 20 + world.draw(60);
    for _ in 0..steps {
        trouble(&mut world, has_poison);
        let pause = MILLI * (1 + world.draw(20_000) as u32);
        world.run(pause);
    }
    // Healed: the hub tells what it wants, keeps what it is sent, and the link is good.
    world.network = Network { latency: 20 * MILLI, bytes_per_second: 0, is_up: true, swallows: false };
    (world.hub.manners.acks_swallowed, world.disk_fails) = (0, 0);
    (world.hub.manners.acknowledges, world.hub.manners.takes_nothing) = (true, false);
    world.live_and_drain(&DEVICES);
    // With nothing left to send, the hub knows exactly who is here.
    let is_known = |world: &mut World| world.connected() == world.here;
    assert!(world.run_until(900 * SECOND, is_known), "{:?} {:?}", world.connected(), world.here);
    let last = *world.journal.keys().next_back().expect("readings");
    assert_eq!((world.disk.through, world.disk.beyond.len()), (Seq(last), 0));
    if std::env::var("UPLINK_SEED").is_ok() {
        let (arrivals, readings) = (world.hub.arrivals.len(), world.journal.len());
        println!("arrivals {arrivals} readings {readings} connections {}", world.connections);
    }
    if !has_poison {
        for device in DEVICES {
            let arrivals = world.first_arrivals(device);
            let turns: Vec<_> = arrivals.windows(2).filter(|pair| pair[1] < pair[0]).collect();
            assert!(is_two_lanes(&arrivals), "{device}: {turns:?}\n{:#?}", world.notices);
        }
    }
}

fn manners(world: &mut World) -> Manners {
    let mut manners = Manners::good();
    manners.version_5 =
        [Version5::Spoken, Version5::Spoken, Version5::ClosesWithoutAWord][world.draw(3) as usize];
    manners.poison = [OnPoison::Says, OnPoison::Closes, OnPoison::Hangs][world.draw(3) as usize];
    // Before 5.0 only a close can be understood.
    if manners.version_5 == Version5::Spoken {
        manners.too_much =
            [TooMuch::Closes, TooMuch::AnswersAndCloses, TooMuch::Answers][world.draw(3) as usize];
    }
    manners.tells_limits = world.draw(2) == 0;
    if world.draw(2) == 0 {
        manners.rates = vec![
            HubRate { messages: true, count: 5 + world.draw(50) as u32, period: SECOND },
            HubRate { messages: false, count: 100 + world.draw(2000) as u32, period: 5 * SECOND },
        ];
    }
    manners.receive_maximum = [0, 1, 2, 10][world.draw(4) as usize];
    manners.packet_bytes_max = [0, 500, 5000][world.draw(3) as usize];
    manners.topic_alias_maximum = [0, 1, 10][world.draw(3) as usize];
    manners.acks_swallowed = [0, 0, 2][world.draw(3) as usize];
    manners.acks_doubled = [0, 20][world.draw(2) as usize];
    manners
}

fn trouble(world: &mut World, has_poison: bool) {
    match world.draw(20) {
        0..=4 => {
            let count = 1 + world.draw(200);
            world.store_many(&DEVICES, count);
        }
        5 => {
            let count = 500 + world.draw(3000);
            world.store_many(&DEVICES, count);
        }
        6 if has_poison => {
            let device = DEVICES[world.draw(5) as usize];
            let seq = world.journal.len() + 1;
            world.store_values(device, &format!(r#"{{"poison":{seq}}}"#));
        }
        7 => {
            let kinds = [FailureKind::Reset, FailureKind::TimedOut, FailureKind::Closed];
            let kind = kinds[world.draw(3) as usize];
            world.cut(kind);
        }
        8 => world.hub_restarts(),
        9 => world.network.is_up = !world.network.is_up,
        10 => world.network.swallows = !world.network.swallows,
        11 => world.network.bytes_per_second = [0, 0, 500, 20_000][world.draw(4) as usize],
        12 => world.network.latency = MILLI * [1, 50, 800][world.draw(3) as usize],
        13 => world.crash(),
        14 => world.disk_fails = [0, 30][world.draw(2) as usize],
        16..=18 => {
            let device = DEVICES[world.draw(5) as usize];
            if world.here.contains(device) { world.goes(device) } else { world.comes(device) }
        }
        15 => world.hub.manners.acknowledges = !world.hub.manners.acknowledges,
        _ => {
            world.store(DEVICES[0]);
        }
    }
}
