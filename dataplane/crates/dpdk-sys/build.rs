//! Finds DPDK with pkg-config, compiles the shim, and generates bindings over a narrow allowlist.
//!
//! The allowlist is narrow on purpose: `rte_.*` gives twenty times the bindings and fails with E0588, since
//! DPDK has packed structures that hold aligned ones.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const FUNCTIONS: &[&str] = &[
    "dpdk_shim_.*",
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_hotplug_add",
    "rte_eal_hotplug_remove",
    "rte_eal_get_runtime_dir",
    "rte_dev_name",
    "rte_strerror",
    "rte_version",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_pktmbuf_free_bulk",
    "rte_mempool_avail_count",
    "rte_eth_find_next",
    "rte_eth_dev_get_name_by_port",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_configure",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_socket_id",
    "rte_eth_rx_queue_setup",
    "rte_eth_tx_queue_setup",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_close",
    "rte_eth_macaddr_get",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_set_mtu",
    "rte_eth_promiscuous_enable",
    "rte_eth_promiscuous_disable",
    "rte_eth_stats_get",
    "rte_eth_xstats_get",
    "rte_eth_xstats_get_names",
    "rte_get_tsc_hz",
    "rte_malloc_get_socket_stats",
    "rte_socket_count",
    "rte_socket_id_by_idx",
    "rte_lpm_create",
    "rte_lpm_add",
    "rte_lpm_free",
    "rte_lpm6_create",
    "rte_lpm6_free",
    "rte_fib_add",
    "rte_fib_lookup_bulk",
    "rte_fib_free",
    "rte_fib6_free",
    "rte_hash_create",
    "rte_hash_add_key_data",
    "rte_hash_lookup_bulk_data",
    "rte_hash_free",
];

const VARS: &[&str] = &[
    "DPDK_SHIM_.*",
    "rte_eth_fp_ops",
    "RTE_MAX_ETHPORTS",
    "RTE_MAX_LCORE",
    "RTE_PKTMBUF_HEADROOM",
    "RTE_ETH_NAME_MAX_LEN",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_HASH_LOOKUP_BULK_MAX",
    "RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF",
    "SOCKET_ID_ANY",
];

/// Seen only through pointers.
const OPAQUE: &[&str] =
    &["rte_mempool", "rte_device", "rte_eth_dev", "rte_eth_rxseg.*", "rte_flow.*", "rte_lpm", "rte_lpm6"];

fn main() {
    println!("cargo:rerun-if-changed=shim.c");
    println!("cargo:rerun-if-changed=shim.h");
    println!("cargo:rerun-if-env-changed=PKG_CONFIG");
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");

    if let Err(error) = pkg_config::Config::new().atleast_version("22.11").probe("libdpdk") {
        fail(&format!(
            "pkg-config does not find libdpdk 22.11 or newer.\n\
             Install DPDK's development files: `apt-get install libdpdk-dev` (Debian, Ubuntu), `dnf install dpdk-devel` \
             (Fedora); for a DPDK of your own, add the folder of its libdpdk.pc to PKG_CONFIG_PATH.\n\n{error}"
        ));
    }
    let flags = cflags();

    let mut shim = cc::Build::new();
    // The shim's functions are inline ones of DPDK's hot path: they are optimised whatever the profile.
    shim.file("shim.c").opt_level(3).warnings(true);
    for flag in &flags {
        shim.flag(flag);
    }
    shim.compile("dpdk_shim");

    let mut builder = bindgen::Builder::default()
        .header("shim.h")
        .clang_args(&flags)
        .use_core()
        .generate_comments(false)
        .layout_tests(true)
        .derive_debug(false)
        .derive_default(false)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        // The layout is written by hand in src/mbuf.rs: bindgen's would be nested anonymous unions whose names
        // change from one DPDK to the next.
        .blocklist_type("rte_mbuf")
        .raw_line("use crate::mbuf::rte_mbuf;");
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in VARS {
        builder = builder.allowlist_var(name);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    let bindings = match builder.generate() {
        Ok(bindings) => bindings,
        Err(error) => fail(&format!(
            "bindgen: {error}\nIf it is libclang that is missing: `apt-get install libclang-dev`."
        )),
    };
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else { fail("cargo did not set OUT_DIR") };
    if let Err(error) = bindings.write_to_file(out.join("bindings.rs")) {
        fail(&format!("{}: {error}", out.display()));
    }
}

/// The compiler flags as DPDK states them: the `pkg-config` crate keeps `-I` and `-D` but drops `-include
/// rte_config.h` and `-march`, without which the headers do not compile.
fn cflags() -> Vec<String> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    match Command::new(&tool).args(["--cflags", "libdpdk"]).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
        }
        Ok(output) => fail(&format!("{tool} --cflags libdpdk: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => fail(&format!("{tool}: {error}; install pkg-config")),
    }
}

fn fail(message: &str) -> ! {
    // `cargo::error` shows as an error of this package, without a panic's backtrace around it.
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    std::process::exit(1);
}
