//! DPDK's lookup tables: what is added is found, what is not is not, and their memory comes back.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking, in its helpers too")]

use dpdk::*;

const HERE: u32 = 0x0a01_0203;

fn eal() -> Eal {
    Eal::init(EalConfig {
        program: "dpdk-tables".into(),
        huge: Huge::No,
        memory_mb: Some(512),
        extra: vec!["--force-max-simd-bitwidth=512".into()],
        ..EalConfig::default()
    })
    .unwrap()
}

#[test]
fn tables_answer_and_give_their_memory_back() {
    let eal = eal();
    let before = eal.used_bytes();
    ipv4(&eal);
    ipv6(&eal);
    for sharing in [HashSharing::None, HashSharing::LockFree] {
        hash::<2>(&eal, sharing);
        hash::<5>(&eal, sharing);
    }
    assert_eq!(eal.used_bytes(), before);
    assert!(cycles_hz(&eal) > 1_000_000);
    let start = cycles();
    assert!(cycles() > start);
}

fn ipv4(eal: &Eal) {
    let room = RouteRoom { routes: 100, groups: 64 };
    let before = eal.used_bytes();
    let (mut lpm, mut fib) = (Lpm::new(eal, room).unwrap(), Fib::new(eal, room).unwrap());
    assert!(eal.used_bytes() - before > (2 * 4) << 24, "two tables for the first 24 bits");
    for (len, value) in [(8, 1), (24, 2), (32, 70_000)] {
        lpm.add(HERE, len, value).unwrap();
        fib.add(HERE, len, value).unwrap();
    }
    assert!(lpm.add(HERE, 33, 1).unwrap_err().to_string().contains("rte_lpm_add"));
    assert!(fib.add(HERE, 33, 1).is_err());
    let addrs: [u32; 32] = std::array::from_fn(|at| match at % 4 {
        0 => HERE,
        1 => HERE + 1,
        2 => HERE + 0x100,
        _ => HERE << 8,
    });
    let wanted = [70_000, 2, 1, 0];
    let mut answers = [0; 32];
    lpm.look_up(&addrs, &mut answers);
    assert!(answers.iter().zip(wanted.iter().cycle()).all(|(&got, &want)| Lpm::value(got) == want));
    lpm.look_up_fours(&addrs, &mut answers);
    assert!(answers.iter().zip(wanted.iter().cycle()).all(|(&got, &want)| got == want));
    let mut wide = [0; 32];
    for lookup in [FibLookup::Scalar, FibLookup::Avx512] {
        if let Err(error) = fib.select(lookup) {
            // Not every processor has it.
            assert_eq!(lookup, FibLookup::Avx512, "{error}");
            continue;
        }
        wide.fill(9);
        fib.look_up(&addrs, &mut wide);
        assert!(wide.iter().zip(wanted.iter().cycle()).all(|(&got, &want)| got == u64::from(want)));
    }
    // Nothing beyond the shorter slice.
    answers.fill(9);
    lpm.look_up(&addrs[..1], &mut answers);
    lpm.look_up_fours(&addrs[..7], &mut answers[8..]);
    assert_eq!((answers[1], answers[12]), (9, 9));
}

fn ipv6(eal: &Eal) {
    let room = RouteRoom { routes: 100, groups: 128 };
    let (mut lpm, mut fib) = (Lpm6::new(eal, room).unwrap(), Fib6::new(eal, room).unwrap());
    let here: [u8; 16] = std::array::from_fn(|at| u8::try_from(at + 0x20).unwrap());
    for (len, value) in [(32, 1), (64, 2), (128, 70_000)] {
        lpm.add(here, len, value).unwrap();
        fib.add(here, len, value).unwrap();
    }
    let addrs = [15, 7, 3].map(|byte| {
        let mut addr = here;
        addr[byte] ^= 1;
        addr
    });
    let addrs = [here, addrs[0], addrs[1], addrs[2]].repeat(8);
    let wanted = [70_000, 2, 1, 0];
    let mut answers = [0; 32];
    lpm.look_up(&addrs, &mut answers);
    assert!(answers.iter().zip(wanted.iter().cycle()).all(|(&got, &want)| got.max(0) == want));
    let mut wide = [0; 32];
    for lookup in [FibLookup::Scalar, FibLookup::Avx512] {
        if fib.select(lookup).is_ok() {
            wide.fill(9);
            fib.look_up(&addrs, &mut wide);
            let alike = |(&got, &want): (&u64, &i32)| i64::try_from(got) == Ok(i64::from(want));
            assert!(wide.iter().zip(wanted.iter().cycle()).all(alike), "{lookup:?}");
        }
    }
}

fn hash<const WORDS: usize>(eal: &Eal, sharing: HashSharing) {
    let mut hash = Hash::<WORDS>::new(eal, 2_000, sharing).unwrap();
    let key = |number: u64| [number.wrapping_mul(0x9e37_79b9_7f4a_7c15); WORDS];
    for number in 0..1_000 {
        hash.add(&key(number), 7 + usize::try_from(number).unwrap()).unwrap();
    }
    let keys: Vec<_> = (936..1_064).map(key).collect();
    let mut answers = HashAnswers::default();
    hash.look_up(&keys, &mut answers);
    assert!((0..HASH_BURST).all(|at| answers.get(at) == Some(7 + 936 + at)));
    hash.look_up(&keys[HASH_BURST..], &mut answers);
    assert!((0..=HASH_BURST).all(|at| answers.get(at).is_none()));
    hash.look_up(&[], &mut answers);
    assert_eq!(answers.get(0), None);
}
