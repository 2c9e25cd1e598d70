//! A table in a file outlasts a process that is killed at any instant: a thousand times, under load.
//!
//! The test runs itself as a child, which takes the file over, checks it, and then makes, uses and ends flows with two threads until
//! it is killed. What a child checks is what the one before it left.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail by panicking"
)]

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{env, fs, thread};

use flow::{
    Action, Binding, Direction, Family, Flows, FlowsConfig, Inserted, Key4, Local, NewFlow, Row, Seat,
    Seconds, Signal, State, Timeouts, Tuple, V4,
};

const ROUNDS: u32 = 1000;
/// So few that flows are evicted all the time; and more than two workers can use up, with all that they keep back.
const SIZES: [u32; 2] = [256, 4096];
/// Names the file to a child.
const FILE: &str = "FLOW_TEST_FILE";
/// Says for how many records.
const SIZE: &str = "FLOW_TEST_SIZE";
/// Whether the file has the keepers: flows that nobody ends, and that each process finds again if nothing is evicted.
const KEPT: &str = "FLOW_TEST_KEPT";
const KEEPERS: u32 = 16;
const KEEPER: u16 = 1;
const BUSY: u16 = 2;
const NOW: Seconds = Seconds(5000);
/// Said by a child whose checks are done.
const CHECKED: &str = "checked";

#[test]
fn killed_a_thousand_times() {
    if let Some(file) = env::var_os(FILE) {
        let size = env::var(SIZE).unwrap().parse().unwrap();
        child(Path::new(&file), size, env::var_os(KEPT).is_some());
    }
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let file = dir.path().join("flows");
    let seed = RandomState::new().hash_one(0);
    let mut random = Random(seed);
    let (mut kept, mut size) = (false, 0);
    for round in 0..ROUNDS {
        if round % 50 == 0 {
            size = SIZES[usize::try_from(round / 50 % 2).unwrap()];
            // Storage that was never laid out, or laid out for another size, for a kill in the middle of that.
            if round % 200 == 0 {
                let _absent = fs::remove_file(&file);
            }
            kept = false;
        }
        let mut child = Killed::start(&file, size, kept && size > SIZES[0]);
        // Open until the child is dead, or it would end of a broken pipe.
        let mut output = BufReader::new(child.0.stdout.take().unwrap());
        if random.below(8) == 0 {
            // While it starts, lays out or takes over.
            for _ in 0..random.below(3_000_000) {
                std::hint::spin_loop();
            }
        } else {
            let mut line = String::new();
            while !line.contains(CHECKED) {
                line.clear();
                let read = output.read_line(&mut line).unwrap();
                assert!(read > 0, "round {round} of seed {seed}: a child found the table broken");
            }
            kept = true;
            // A byte for each few hundred operations; then a moment, so that it does not always die as it writes one.
            let mut bytes = vec![0; usize::try_from(random.below(6)).unwrap()];
            output.read_exact(&mut bytes).unwrap();
            for _ in 0..random.below(20_000) {
                std::hint::spin_loop();
            }
        }
        let status = child.kill();
        assert_eq!(status.signal(), Some(9), "round {round} of seed {seed}: a child ended by itself");
    }
}

/// A child of ours, ended also when the test fails.
struct Killed(Child);

impl Killed {
    fn start(file: &Path, size: u32, kept: bool) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "killed_a_thousand_times", "--nocapture"]).env(FILE, file);
        command.env(SIZE, size.to_string());
        if kept {
            command.env(KEPT, "1");
        }
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    fn kill(&mut self) -> std::process::ExitStatus {
        self.0.kill().unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Never returns: it works until it is killed.
fn child(file: &Path, size: u32, kept: bool) -> ! {
    let seeds = [1, 2, 3].map(|n| RandomState::new().hash_one(n));
    let config = FlowsConfig { v4: size, v6: 64, seats: 2, seeds, timeouts: Timeouts::default() };
    let words = shm::file(file, Flows::words(&config)).unwrap();
    let (flows, adopted) = Flows::adopt(words, &config).unwrap();
    check_what_is_there(&flows, adopted.v4);
    let mut local = Local::new(Seat(0));
    flows.epochs.wake(local.seat);
    // In the small table they would have to go for others.
    let keepers = if size > SIZES[0] { KEEPERS } else { 0 };
    for number in 0..keepers {
        let (key, reply) = (key(KEEPER, number), reply_key(KEEPER, number));
        let inserted = insert(&flows, &mut local, KEEPER, key, [reply]);
        match inserted {
            Inserted::Exists(found) => assert!(found.life.is_live()),
            Inserted::New(_) => assert!(!kept, "flow {number} of before is lost"),
            other => panic!("{other:?}"),
        }
    }
    check_what_is_free(&flows, &mut local);
    println!("{CHECKED}");

    thread::scope(|scope| {
        scope.spawn(|| work(&flows, Local::new(Seat(1))));
        work(&flows, local);
    })
}

fn check_what_is_there(flows: &Flows, adopted: u32) {
    let rows: Vec<Row<Ipv4Addr>> =
        (0..flows.v4.capacity()).filter_map(|record| flows.v4.row(record)).collect();
    assert_eq!(rows.len(), adopted as usize);
    assert_eq!(rows.len(), flows.v4.len() as usize);
    let mut keys = BTreeSet::new();
    for row in &rows {
        let (forward, reply) = (V4::key(&row.forward), V4::key(&row.reply));
        assert!(keys.insert(forward) && keys.insert(reply), "two flows have one key: {row:?}");
        for (key, direction) in [(forward, Direction::Forward), (reply, Direction::Reply)] {
            let found = flows.v4.find(flows.v4.hash(&key), &key).expect("a live flow is not found");
            assert!(found.life.is_live() && found.handle.direction() == direction);
            assert_eq!((flows.v4.key(found.handle), found.life), (key, row.life));
        }
        // What was decided was by tables that are gone; the rest is all of one flow.
        assert_eq!(row.actions, [Action::NONE; 2]);
        let (binding, rules) = described(row.binding.owner, &forward);
        assert_eq!((row.binding, row.rules), (binding, rules));
        assert!([BUSY, KEEPER].contains(&row.binding.owner));
    }
}

/// Takes them all. Nothing that is ended meanwhile comes back, for this worker's burst goes on.
fn check_what_is_free(flows: &Flows, local: &mut Local) {
    let free = flows.v4.capacity() - flows.v4.len();
    let (mut made, mut refused_before, mut refused, mut number) = (0, 0, 0, 1 << 20);
    while refused < 32 {
        number += 1;
        match insert(flows, local, BUSY, key(BUSY, number), [reply_key(BUSY, number)]) {
            Inserted::New(_) => {
                made += 1;
                refused_before += refused;
                refused = 0;
            }
            // For want of a record; or of a lane for either key, and then it has spent a record.
            Inserted::Full | Inserted::ReplyTaken => refused += 1,
            // From a child that was killed right here.
            Inserted::Exists(_) => {}
            Inserted::Contended => panic!("there is no other worker"),
        }
    }
    let spent = made + refused_before;
    assert!(spent <= free && free <= spent + refused, "{free} records are free, {spent} could be had");
    for number in (1 << 20)..=number {
        flows.epochs.quiesce(local.seat);
        let key = key(BUSY, number);
        if let Some(found) = flows.v4.find(flows.v4.hash(&key), &key) {
            assert!(flows.v4.end(&mut local.v4, &flows.epochs, found.handle));
        }
    }
}

/// Makes, uses and ends flows of few keys, so that both workers often want the same.
fn work(flows: &Flows, mut local: Local) -> ! {
    let mut random = Random(RandomState::new().hash_one(local.seat.0));
    flows.epochs.wake(local.seat);
    let mut output = std::io::stdout();
    let mut turn = 0_u64;
    loop {
        turn += 1;
        flows.epochs.quiesce(local.seat);
        for _ in 0..8 {
            let number = u32::try_from(random.below(400)).unwrap();
            let key = key(BUSY, number);
            match flows.v4.find(flows.v4.hash(&key), &key) {
                Some(found) if random.below(2) == 0 => {
                    flows.v4.end(&mut local.v4, &flows.epochs, found.handle);
                }
                Some(found) => {
                    let seen = Seconds(NOW.0 + u32::try_from(random.below(4)).unwrap());
                    flows.v4.touch(found.handle, found.life, Signal::Data, seen);
                    let old = flows.v4.decided(found.handle);
                    flows.v4.decide(found.handle, old, Action::new(number, 1, 1, true));
                }
                None => {
                    // Neighbours want the same answers.
                    let replies = [0, 1, 2].map(|more| reply_key(BUSY, number / 2 + more));
                    insert(flows, &mut local, BUSY, key, replies);
                }
            }
        }
        if turn.is_multiple_of(4) {
            let late = Seconds(NOW.0 + 31);
            flows.v4.expire(&mut local.v4, &flows.epochs, flows.timeouts(), late, 8);
        }
        if local.seat == Seat(0) && turn.is_multiple_of(16) {
            // Nobody listens any more: nobody will kill this process either.
            if output.write_all(b".").and_then(|()| output.flush()).is_err() {
                std::process::exit(1);
            }
        }
    }
}

fn insert(
    flows: &Flows,
    local: &mut Local,
    owner: u16,
    key: Key4,
    replies: impl IntoIterator<Item = Key4>,
) -> Inserted {
    let (binding, rules) = described(owner, &key);
    let state = if owner == KEEPER { State::Established } else { State::New };
    let actions = [1, 2].map(|adjacency| Action::new(1, adjacency, owner, false));
    let new = NewFlow { key, state, binding, actions, rules };
    flows.v4.insert(&mut local.v4, &flows.epochs, &new, replies, NOW)
}

/// All that a record says beside its keys follows from them, so that a record of two halves shows.
fn described(owner: u16, key: &Key4) -> (Binding, [u32; 2]) {
    let port = V4::tuple(key).src_port;
    let binding =
        Binding { owner, service: port % 2 == 1, since: Seconds(port.into()), ..Binding::default() };
    (binding, [port.into(), !u32::from(port)])
}

fn key(owner: u16, number: u32) -> Key4 {
    tuple_key(Ipv4Addr::from_bits(0x0a00_0000 + number), owner, number)
}

fn reply_key(owner: u16, number: u32) -> Key4 {
    tuple_key(Ipv4Addr::from_bits(0xc000_0000 + number), owner, number)
}

fn tuple_key(src: Ipv4Addr, owner: u16, number: u32) -> Key4 {
    let dst = Ipv4Addr::new(198, 51, 100, 1);
    let src_port = u16::try_from(number % 50_000).unwrap();
    let protocol = if owner == KEEPER { 6 } else { 17 };
    V4::key(&Tuple { src, dst, src_port, dst_port: 53, network: 0, protocol })
}

/// splitmix64 (Steele et al., OOPSLA 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % end
    }
}
