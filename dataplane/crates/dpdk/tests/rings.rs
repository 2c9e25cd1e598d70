//! Pools, bursts, ports and queues on net_ring and net_null, with neither hugepages nor NICs.
//!
//! A process has one EAL: all cases share it, each with pools and devices of its own.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking, in its helpers too")]

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use dpdk::*;

fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        Eal::init(EalConfig {
            program: "dpdk-tests".into(),
            huge: Huge::No,
            memory_mb: Some(512),
            vdevs: vec!["net_null7".into()],
            ..EalConfig::default()
        })
        .unwrap()
    })
}

fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}{}", 100 + NEXT.fetch_add(1, Ordering::Relaxed))
}

const SMALL: PoolConfig = PoolConfig { mbufs: 2047, cache: 0, data_room: 2048 + PoolConfig::HEADROOM };

fn pool() -> Pool {
    Pool::new(eal(), &unique("pool"), SMALL).unwrap()
}

/// A device of its own, detached at the end, also of a case that failed.
struct Device(String);

impl Device {
    fn new(driver: &str, args: &str) -> Self {
        let name = unique(driver);
        assert_eq!(eal().attach(&format!("{name}{args}")).unwrap(), name);
        Self(name)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let result = eal().detach(&self.0);
        if !std::thread::panicking() {
            result.unwrap();
        }
    }
}

fn numbered(pool: &Pool, count: usize, from: u32) -> Burst {
    let mut burst = Burst::new();
    assert_eq!(pool.alloc_burst(&mut burst, count), count);
    for (number, mbuf) in (from..).zip(&mut burst) {
        mbuf.append(60).unwrap().fill(0xee);
        mbuf.data_mut()[..4].copy_from_slice(&number.to_be_bytes());
    }
    burst
}

fn number(mbuf: &Mbuf) -> u32 {
    u32::from_be_bytes(mbuf.data()[..4].try_into().unwrap())
}

#[test]
fn a_ring_gives_back_what_it_was_sent_in_order() {
    let pool = pool();
    let device = Device::new("net_ring", "");
    let (port, mut rx, mut tx) = Port::open(eal(), &device.0, PortConfig::new(&pool)).unwrap();
    let mut out = numbered(&pool, 40, 0);
    assert_eq!(tx[0].tx(&mut out), 40);
    assert!(out.is_empty());
    assert_eq!(pool.in_use(), 40);

    let mut back = Burst::new();
    // The room of the burst bounds what is taken.
    let held = numbered(&pool, 30, 1000);
    for mbuf in held {
        back.push(mbuf).unwrap();
    }
    assert_eq!(rx[0].rx(&mut back), 34);
    assert!(back.is_full());
    assert_eq!(rx[0].rx(&mut back), 0);
    let numbers: Vec<u32> = back.iter().map(number).collect();
    assert_eq!(numbers, (1000..1030).chain(0..34).collect::<Vec<_>>());
    assert!(back.iter().all(|mbuf| mbuf.total_len() == 60 && mbuf.segment_count() == 1));
    back.clear();
    assert_eq!(rx[0].rx_at_most(&mut back, 2), 2);
    assert_eq!(rx[0].rx(&mut back), 4);
    assert_eq!(number(&back.as_slice()[5]), 39);

    let stats = port.stats().unwrap();
    assert_eq!((stats.tx_packets, stats.rx_packets), (40, 40));
    drop(back);
    assert_eq!(pool.available(), pool.size());
}

#[test]
fn a_full_ring_takes_part_and_the_rest_stays_in_order() {
    let pool = pool();
    let device = Device::new("net_ring", "");
    let (port, mut rx, mut tx) = Port::open(eal(), &device.0, PortConfig::new(&pool)).unwrap();
    let mut sent = 0_u32;
    let mut refused = loop {
        let mut burst = numbered(&pool, 50, sent);
        let went = tx[0].tx(&mut burst);
        assert_eq!(went + burst.len(), 50);
        sent += u32::try_from(went).unwrap();
        if !burst.is_empty() {
            break burst;
        }
    };
    // The ring was full part-way: both halves of the burst are tested.
    assert!(refused.len() < 50, "net_ring's size is a multiple of 50 now: choose another burst");
    let first = sent;
    assert_eq!(
        refused.iter().map(number).collect::<Vec<_>>(),
        (first..).take(refused.len()).collect::<Vec<_>>()
    );
    assert_eq!(tx[0].tx(&mut refused), 0);

    // Every packet is somewhere, once.
    assert_eq!(pool.in_use(), sent + u32::try_from(refused.len()).unwrap());
    let mut back = Burst::new();
    let mut next = 0;
    assert_eq!(rx[0].rx(&mut back), 64);
    next += drain_in_order(&mut back, next);
    let held = refused.len();
    assert_eq!(tx[0].tx(&mut refused), held);
    while rx[0].rx(&mut back) > 0 {
        next += drain_in_order(&mut back, next);
    }
    assert_eq!(next, sent + u32::try_from(held).unwrap());
    assert_eq!(pool.available(), pool.size());
    assert_eq!(port.stats().unwrap().tx_packets, u64::from(next));
}

fn drain_in_order(burst: &mut Burst, from: u32) -> u32 {
    let mut count = 0;
    for mbuf in burst.drain() {
        assert_eq!(number(&mbuf), from + count);
        count += 1;
    }
    count
}

#[test]
fn closing_a_ring_frees_what_is_in_it() {
    let pool = pool();
    let device = Device::new("net_ring", "");
    let (port, rx, mut tx) = Port::open(eal(), &device.0, PortConfig::new(&pool)).unwrap();
    let mut burst = numbered(&pool, 64, 0);
    assert_eq!(tx[0].tx(&mut burst), 64);
    drop((port, rx));
    // The last queue keeps the port running.
    let mut more = numbered(&pool, 64, 0);
    assert_eq!(tx[0].tx(&mut more), 64);
    assert_eq!(pool.in_use(), 128);
    drop(tx);
    assert_eq!(pool.available(), pool.size());
}

#[test]
fn a_null_port_makes_and_swallows_packets() {
    let pool = pool();
    let device = Device::new("net_null", ",size=100");
    let config = PortConfig { rx_queues: 2, tx_queues: 2, ..PortConfig::new(&pool) };
    let (port, mut rx, mut tx) = Port::open(eal(), &device.0, config).unwrap();
    let mut burst = Burst::new();
    for (queue, id) in [(0, 0_u16), (1, 1)] {
        assert_eq!(rx[queue].rx(&mut burst), 64);
        assert!(burst.iter().all(|mbuf| mbuf.total_len() == 100 && mbuf.data().len() == 100));
        assert!(burst.iter().all(|mbuf| mbuf.port() == port.id()));
        assert_eq!(tx[queue].tx(&mut burst), 64);
        assert_eq!((rx[queue].queue_id(), tx[queue].queue_id()), (id, id));
    }
    assert_eq!(pool.available(), pool.size());
    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (128, 128));
    let xstats = port.xstats().unwrap();
    assert!(xstats.contains(&("rx_good_packets".into(), 128)), "{xstats:?}");
    let info = port.info().unwrap();
    assert_eq!(info.driver, "net_null");
    assert!(info.max_rx_queues >= 2);
    assert_eq!(port.name(), device.0);
}

#[test]
fn link_mac_and_mtu() {
    let pool = pool();
    let device = Device::new("net_null", "");
    let config = PortConfig { mtu: Some(1400), ..PortConfig::new(&pool) };
    let (port, _rx, _tx) = Port::open(eal(), &device.0, config).unwrap();
    assert!(port.link().unwrap().up);
    assert_eq!(port.link().unwrap().speed, Some(10_000));
    assert_eq!(port.mac().unwrap()[0] & 1, 0, "a station's address");
    assert_eq!(port.mtu().unwrap(), 1400);
    match port.set_mtu(9000) {
        Ok(()) => assert_eq!(port.mtu().unwrap(), 9000),
        Err(error) => assert!(error.to_string().contains("rte_eth_dev_set_mtu"), "{error}"),
    }
    let error = port.set_mtu(20).unwrap_err().to_string();
    assert!(error.contains("mtu = 20") && error.contains("allowed are"), "{error}");
}

#[test]
fn chains_are_built_cut_copied_and_freed_whole() {
    let pool = pool();
    let chain = |parts: &[&[u8]]| {
        let mut parts = parts.iter().map(|part| {
            let mut mbuf = pool.alloc().unwrap();
            mbuf.append(part.len()).unwrap().copy_from_slice(part);
            mbuf
        });
        let mut head = parts.next().unwrap();
        for tail in parts {
            head.chain(tail).unwrap();
        }
        head
    };
    let mut packet = chain(&[b"abc", b"", b"defgh", b"ij"]);
    assert_eq!((packet.segment_count(), packet.total_len(), packet.data()), (4, 10, &b"abc"[..]));
    let text = |mbuf: &Mbuf| {
        let mut text = Vec::new();
        mbuf.copy_into(&mut text);
        String::from_utf8(text).unwrap()
    };
    assert_eq!(text(&packet), "abcdefghij");
    let mut part = [0; 7];
    assert_eq!(packet.copy_to_slice(&mut part), 7);
    assert_eq!(&part, b"abcdefg");
    assert_eq!(packet.segments().map(<[u8]>::len).collect::<Vec<_>>(), [3, 0, 5, 2]);
    for segment in packet.segments_mut() {
        segment.make_ascii_uppercase();
    }
    packet.append(1).unwrap()[0] = b'!';
    packet.prepend(1).unwrap()[0] = b'<';
    assert_eq!(text(&packet), "<ABCDEFGHIJ!");
    assert!(packet.adj(1) && !packet.adj(4));
    assert_eq!(pool.in_use(), 4);
    packet.truncate(99);
    assert_eq!(text(&packet), "ABCDEFGHIJ!");
    packet.truncate(8);
    assert_eq!((text(&packet).as_str(), packet.segment_count(), pool.in_use()), ("ABCDEFGH", 3, 3));
    packet.truncate(3);
    assert_eq!((text(&packet).as_str(), packet.segment_count(), pool.in_use()), ("ABC", 1, 1));
    packet.chain(chain(&[b"x", b"y"])).unwrap();
    assert_eq!((text(&packet).as_str(), packet.segment_count()), ("ABCxy", 3));
    packet.reset();
    assert_eq!((packet.total_len(), packet.segment_count(), pool.in_use()), (0, 1, 1));
    packet.truncate(0);
    drop(packet);

    let mut burst = Burst::new();
    for _ in 0..20 {
        burst.push(chain(&[b"1", b"2", b"3"])).unwrap();
    }
    assert_eq!(pool.in_use(), 60);
    drop(burst);
    assert_eq!(pool.available(), pool.size());
}

#[test]
fn lengths_end_where_buffers_end() {
    let pool = pool();
    let mut mbuf = pool.alloc().unwrap();
    assert_eq!((mbuf.headroom(), mbuf.tailroom(), mbuf.total_len()), (128, 2048, 0));
    assert_eq!(mbuf.port(), u16::MAX);
    assert!(mbuf.append(2049).is_none() && mbuf.prepend(129).is_none() && !mbuf.adj(1));
    assert_eq!(mbuf.append(2048).unwrap().len(), 2048);
    assert_eq!(mbuf.prepend(128).unwrap().len(), 128);
    assert_eq!((mbuf.headroom(), mbuf.tailroom(), mbuf.total_len()), (0, 0, 2176));
    assert!(mbuf.append(usize::MAX).is_none() && mbuf.prepend(usize::MAX).is_none() && !mbuf.adj(usize::MAX));
    assert!(!mbuf.set_data_len(2177) && mbuf.set_data_len(10));
    assert_eq!((mbuf.data().len(), mbuf.total_len(), mbuf.tailroom()), (10, 10, 2166));
    assert!(mbuf.append(usize::from(u16::MAX) + 1).is_none());
}

#[test]
fn offloads_stay_within_the_headers() {
    let pool = pool();
    let mut mbuf = pool.alloc().unwrap();
    let wanted = TxOffload {
        flags: ol_flags::TX_IPV4 | ol_flags::TX_TCP_CKSUM | ol_flags::TX_TCP_SEG,
        l2_len: 14,
        l3_len: 20,
        l4_len: 20,
        tso_segsz: 1448,
    };
    assert!(!mbuf.set_tx_offload(wanted), "there are no headers yet");
    let _ = mbuf.append(54).unwrap();
    assert!(mbuf.set_tx_offload(wanted));
    assert_eq!(mbuf.ol_flags(), wanted.flags);
    assert!(!mbuf.set_tx_offload(TxOffload { l2_len: 15, ..wanted }));
    // Whose buffer it is cannot be changed from outside, nor can anything be asked for whose data is not there.
    for bit in (0..64).filter(|bit| wanted.flags >> bit & 1 == 0) {
        let flags = 1 << bit;
        let known = [ol_flags::TX_IPV6, ol_flags::TX_IP_CKSUM, ol_flags::TX_UDP_SEG, ol_flags::TX_SCTP_CKSUM];
        let taken = mbuf.set_tx_offload(TxOffload { flags, ..TxOffload::default() });
        assert_eq!(taken, known.contains(&flags), "bit {bit}");
    }
    assert!(mbuf.set_tx_offload(TxOffload::default()));
    assert_eq!((mbuf.ol_flags(), mbuf.rss_hash()), (0, None));
    assert_eq!((mbuf.rx_ip_checksum(), mbuf.rx_l4_checksum()), (RxChecksum::Unknown, RxChecksum::Unknown));
}

#[test]
fn bursts_own_exactly_what_they_hold() {
    let pool = pool();
    let mut burst = numbered(&pool, Burst::CAPACITY, 0);
    let extra = pool.alloc().unwrap();
    let extra = burst.push(extra).unwrap_err();
    drop(extra);
    assert_eq!(pool.in_use(), 64);
    assert_eq!(burst.pop().map(|mbuf| number(&mbuf)), Some(63));
    assert_eq!(pool.in_use(), 63);

    let mut drain = burst.drain();
    assert_eq!(drain.len(), 63);
    assert_eq!(drain.next().map(|mbuf| number(&mbuf)), Some(0));
    drop(drain);
    assert!(burst.is_empty());
    assert_eq!(pool.in_use(), 0);

    let mut left = numbered(&pool, 10, 0);
    let mut right = numbered(&pool, 60, 10);
    assert_eq!(left.append(&mut right), 54);
    assert_eq!(left.iter().map(number).collect::<Vec<_>>(), (0..64).collect::<Vec<_>>());
    assert_eq!(right.iter().map(number).collect::<Vec<_>>(), (64..70).collect::<Vec<_>>());
    right.as_mut_slice().swap(0, 5);
    let mut rest = right.into_iter();
    assert_eq!(rest.next().map(|mbuf| number(&mbuf)), Some(69));
    drop(rest);
    assert_eq!(pool.in_use(), 64);
    drop(left);
    assert!(burst.pop().is_none());
    assert_eq!(pool.available(), pool.size());
}

#[test]
fn an_empty_pool_gives_what_it_has() {
    let config = PoolConfig { mbufs: 70, ..SMALL };
    let pool = Pool::new(eal(), &unique("pool"), config).unwrap();
    let (mut first, mut second) = (Burst::new(), Burst::new());
    assert_eq!(pool.alloc_burst(&mut first, 100), 64);
    assert_eq!(pool.alloc_burst(&mut second, 64), 6);
    assert_eq!(pool.alloc_burst(&mut second, 64), 0);
    assert!(pool.alloc().is_none());
    let addresses: HashSet<_> = first.iter().chain(&second).map(|mbuf| mbuf.data().as_ptr()).collect();
    assert_eq!(addresses.len(), 70);
    drop(first);
    assert!(pool.alloc().is_some());
}

#[test]
fn a_dropped_pool_sleeps_and_its_mbufs_stay() {
    let name = unique("pool");
    let pool = Pool::new(eal(), &name, SMALL).unwrap();
    assert!(matches!(Pool::new(eal(), &name, SMALL), Err(PoolError::Exists(_))));
    let mut mbuf = pool.alloc().unwrap();
    drop(pool);
    mbuf.append(3).unwrap().copy_from_slice(b"yes");
    assert_eq!(mbuf.data(), b"yes");
    let again = Pool::new(eal(), &name, SMALL).unwrap();
    assert_eq!(again.in_use(), 1);
    drop(mbuf);
    assert_eq!(again.in_use(), 0);
    drop(again);
    assert!(matches!(Pool::new(eal(), &name, PoolConfig { mbufs: 5, ..SMALL }), Err(PoolError::Exists(_))));
}

#[test]
fn registered_threads_share_a_pool_and_a_ring() {
    let config = PoolConfig { cache: 128, ..SMALL };
    let pool = Pool::new(eal(), &unique("pool"), config).unwrap();
    let device = Device::new("net_ring", "");
    let (port, mut rx, mut tx) = Port::open(eal(), &device.0, PortConfig::new(&pool)).unwrap();
    let (mut rx, mut tx) = (rx.remove(0), tx.remove(0));
    let total = 20_000_u32;
    let start = Arc::new(Barrier::new(2));
    let sender = std::thread::spawn({
        let (pool, start) = (pool.clone(), Arc::clone(&start));
        move || {
            let _token = eal().register_thread().unwrap();
            let again = eal().register_thread().err().map(|error| error.to_string());
            assert!(again.is_some_and(|text| text.contains("registered")));
            start.wait();
            let (mut burst, mut made) = (Burst::new(), 0);
            while made < total || !burst.is_empty() {
                if burst.is_empty() {
                    let got = pool.alloc_burst(&mut burst, usize::try_from(total - made).unwrap());
                    for mbuf in &mut burst {
                        mbuf.append(60).unwrap()[..4].copy_from_slice(&made.to_be_bytes());
                        made += 1;
                    }
                    if got == 0 {
                        std::thread::yield_now();
                    }
                }
                if tx.tx(&mut burst) == 0 {
                    std::thread::yield_now();
                }
            }
        }
    });
    let receiver = std::thread::spawn(move || {
        let _token = eal().register_thread().unwrap();
        start.wait();
        let (mut burst, mut next) = (Burst::new(), 0);
        while next < total {
            if rx.rx(&mut burst) == 0 {
                std::thread::yield_now();
            }
            next += drain_in_order(&mut burst, next);
        }
    });
    sender.join().unwrap();
    receiver.join().unwrap();
    assert_eq!(port.stats().unwrap().rx_packets, u64::from(total));
    assert_eq!(pool.available(), pool.size(), "what the threads' caches hold counts as available");
}

#[test]
fn devices_come_and_go() {
    let pool = pool();
    assert!(eal().devices().contains(&"net_null7".into()));
    let name = unique("net_ring");
    for _ in 0..3 {
        assert_eq!(eal().attach(&name).unwrap(), name);
        assert!(eal().devices().contains(&name));
        let error = eal().attach(&name).unwrap_err().to_string();
        assert!(error.contains("attached already"), "{error}");
        let (port, rx, tx) = Port::open(eal(), &name, PortConfig::new(&pool)).unwrap();
        let error = eal().detach(&name).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains("drop"), "{error}");
        let error = Port::open(eal(), &name, PortConfig::new(&pool)).err().unwrap().to_string();
        assert!(error.contains("open already"), "{error}");
        drop((port, rx, tx));
        assert!(!eal().devices().contains(&name));
        eal().detach(&name).unwrap();
    }
    let error = eal().detach(&name).unwrap_err().to_string();
    assert!(error.contains("rte_eal_hotplug_remove") && error.contains(&name), "{error}");
}

#[test]
fn a_device_stays_while_a_port_of_another_name_is_open() {
    let pool = pool();
    // A net_ring device may give its ports names of their own, as a NIC of several ports does.
    let (device, port_name) = (unique("net_ring"), unique("other"));
    assert_eq!(eal().attach(&format!("{device},nodeaction={port_name}:0:CREATE")).unwrap(), port_name);
    let (port, rx, mut tx) = Port::open(eal(), &port_name, PortConfig::new(&pool)).unwrap();
    assert_eq!(port.info().unwrap().device, device);
    let error = eal().detach(&device).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    let mut burst = numbered(&pool, 8, 0);
    assert_eq!(tx[0].tx(&mut burst), 8);
    drop((port, rx, tx));
    assert_eq!(pool.available(), pool.size());
    eal().detach(&device).unwrap();
}

#[test]
fn errors_say_what_failed_and_what_to_do() {
    let pool = pool();
    let error = Port::open(eal(), "net_none", PortConfig::new(&pool)).err().unwrap().to_string();
    assert!(
        error.contains("`net_none`") && error.contains("net_null7") && error.contains("--vdev"),
        "{error}"
    );

    let device = Device::new("net_null", "");
    let config = PortConfig { rx_queues: 9999, ..PortConfig::new(&pool) };
    let error = Port::open(eal(), &device.0, config).err().unwrap().to_string();
    assert!(error.contains("rx_queues = 9999") && error.contains("net_null"), "{error}");
    let config = PortConfig { mtu: Some(1), ..PortConfig::new(&pool) };
    let error = Port::open(eal(), &device.0, config).err().unwrap().to_string();
    assert!(error.contains("mtu = 1,"), "{error}");
    // It opens all the same with what it can do, and so leaves a clean house.
    drop(Port::open(eal(), &device.0, PortConfig::new(&pool)).unwrap());

    let error = eal().attach("net_nosuchdriver0").unwrap_err().to_string();
    assert!(error.contains("rte_eal_hotplug_add") && error.contains("librte-net-"), "{error}");
    assert!(error.contains("DPDK:"), "DPDK's own words: {error}");
    assert!(matches!(eal().attach(",x"), Err(HotplugError::Name(_))));

    let huge = PoolConfig { mbufs: 10_000_000, ..SMALL };
    let error = Pool::new(eal(), &unique("pool"), huge).err().unwrap().to_string();
    assert!(error.contains("rte_pktmbuf_pool_create") && error.contains("more MB"), "{error}");
    for (config, field) in [
        (PoolConfig { mbufs: 0, ..SMALL }, "mbufs = 0"),
        (PoolConfig { cache: 513, ..SMALL }, "cache = 513"),
        (PoolConfig { mbufs: 100, cache: 70, ..SMALL }, "cache = 70"),
        (PoolConfig { data_room: 100, ..SMALL }, "data_room = 100"),
    ] {
        let error = Pool::new(eal(), &unique("pool"), config).err().unwrap().to_string();
        assert!(error.contains(field), "{error}");
    }
    let error = Pool::new(eal(), &"x".repeat(40), SMALL).err().unwrap().to_string();
    assert!(error.contains("pool name"), "{error}");

    let again = Eal::init(EalConfig { huge: Huge::No, ..EalConfig::default() }).err().unwrap();
    assert!(matches!(again, EalError::FilePrefix(_) | EalError::AlreadyInitialised), "{again}");
    let config = EalConfig { program: "x".into(), huge: Huge::No, ..EalConfig::default() };
    assert!(matches!(Eal::init(config), Err(EalError::AlreadyInitialised)));
    assert!(!eal().hugepages());
    assert!(Eal::version().starts_with("DPDK "));
}

#[test]
fn init_leaves_its_callers_affinity() {
    eal();
    let mine = rustix::thread::sched_getaffinity(None).unwrap();
    let other = std::thread::spawn(|| rustix::thread::sched_getaffinity(None).unwrap()).join().unwrap();
    let whole = rustix::thread::sched_getaffinity(Some(rustix::process::getpid())).unwrap();
    assert_eq!(mine.count(), whole.count());
    assert_eq!(other.count(), whole.count());
}
