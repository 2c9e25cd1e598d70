//! An EAL that does not start says why.

use dpdk::*;

#[test]
fn an_unknown_device_is_named() {
    let error = Eal::init(EalConfig {
        program: "dpdk-refused".into(),
        huge: Huge::No,
        memory_mb: Some(64),
        vdevs: vec!["net_nosuchdriver0".into()],
        ..EalConfig::default()
    })
    .err()
    .unwrap()
    .to_string();
    for part in ["rte_eal_init", "net_nosuchdriver0", "errno", "librte-net-", "DPDK:"] {
        assert!(error.contains(part), "`{part}` is missing: {error}");
    }
    let left = std::path::Path::new("/var/run/dpdk").join(format!("dpdk-refused-{}", std::process::id()));
    assert!(!left.exists(), "{}", left.display());
}
