//! The whole life of an EAL: from start to cleanup, and what is left behind.

use dpdk::*;

#[test]
fn cleaned_up_with_its_last_user() {
    let prefix = format!("dpdk-life-{}", std::process::id());
    let eal = Eal::init(EalConfig {
        program: "dpdk-life".into(),
        file_prefix: prefix.clone(),
        huge: Huge::No,
        memory_mb: Some(64),
        vdevs: vec!["net_ring0".into()],
        main_core: Some(0),
        ..EalConfig::default()
    })
    .unwrap();
    let pool = Pool::new(&eal, "life", PoolConfig { mbufs: 2047, ..PoolConfig::default() }).unwrap();
    let (port, rx, mut tx) = Port::open(&eal, "net_ring0", PortConfig::new(&pool)).unwrap();
    // The queue is the last user: neither EAL nor pool nor port has another handle.
    drop((eal, port, rx));
    let mut burst = Burst::new();
    assert_eq!(pool.alloc_burst(&mut burst, 8), 8);
    drop(pool);
    assert_eq!(tx[0].tx(&mut burst), 8);
    drop(tx);

    for folder in ["/var/run/dpdk", "/run/dpdk", "/tmp/dpdk"] {
        let left = std::path::Path::new(folder).join(&prefix);
        assert!(!left.exists(), "{}", left.display());
    }
    // Once a process.
    let config = EalConfig { program: "dpdk-life".into(), huge: Huge::No, ..EalConfig::default() };
    assert!(matches!(Eal::init(config), Err(EalError::AlreadyInitialised)));
}
