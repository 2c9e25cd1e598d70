//! Packets that outlive every handle: their memory stays.

use dpdk::*;

#[test]
fn an_mbuf_may_be_the_last_to_go() {
    let eal = Eal::init(EalConfig {
        program: "dpdk-outlived".into(),
        huge: Huge::No,
        memory_mb: Some(64),
        ..EalConfig::default()
    })
    .unwrap();
    let pool = Pool::new(&eal, "outlived", PoolConfig { mbufs: 1023, ..PoolConfig::default() }).unwrap();
    let mut burst = Burst::new();
    assert_eq!(pool.alloc_burst(&mut burst, 8), 8);
    let mut last = pool.alloc().unwrap();
    // A thread's cache goes with the thread; the mbufs in it do not.
    let keeper = std::thread::spawn({
        let (eal, pool) = (eal.clone(), pool.clone());
        move || {
            let _token = eal.register_thread().unwrap();
            pool.alloc().unwrap()
        }
    });
    let kept = keeper.join().unwrap();
    drop((eal, pool));
    for mbuf in burst.iter_mut().chain([&mut last]) {
        mbuf.append(2048).unwrap().fill(0x5a);
    }
    drop(burst);
    assert_eq!(last.data(), [0x5a; 2048]);
    drop((last, kept));
}
