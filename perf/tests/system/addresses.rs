//! Addresses from the router by a client that others wrote: ISC's dhclient, in a kernel pod.

use std::os::unix::fs::PermissionsExt;

use lab::node::Options;
use lab::pod::{Family, INTERFACE};

use crate::Bed;

/// Writes down what the client is told, and changes nothing.
const SCRIPT: &str = "#!/bin/sh\n[ \"$reason\" = BOUND6 ] || exit 0\n\
    echo \"$new_ip6_address/$new_ip6_prefixlen $new_max_life $new_dhcp6_name_servers $new_dhcp6_domain_search\" > \"$TOLD\"\n";

#[test]
fn a_dhcpv6_client_is_bound_to_its_pods_address() {
    let bed = Bed::new(Options::default());
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("script"), SCRIPT).unwrap();
    std::fs::set_permissions(at("script"), std::fs::Permissions::from_mode(0o755)).unwrap();
    // In the foreground, so that it ends with the test.
    let mut client = bed.a.netns.command("dhclient");
    client.args(["-6", "-1", "-v", "-d", "-cf", "/dev/null"]);
    client.arg("-sf").arg(at("script")).arg("-lf").arg(at("leases")).arg("-pf").arg(at("pid"));
    client.arg("-e").arg(format!("TOLD={}", at("told").display())).arg(INTERFACE);
    let mut client = lab::process::Process::spawn(&bed.node.run, "dhclient", &mut client).unwrap();
    let told = lab::wait::wait_until("dhclient is bound", lab::wait::PATIENCE, || {
        client.check()?;
        let told = std::fs::read_to_string(at("told"))?;
        if told.ends_with('\n') { Ok(told) } else { Err(anyhow::anyhow!("{told}")) }
    })
    .unwrap();
    client.kill().unwrap();
    let own = bed.a.address(Family::V6);
    assert_eq!(told.trim(), format!("{own}/128 86400 fd00:96::10 svc.cluster.local. cluster.local."));
    bed.talk();
    bed.node.query().ledger().unwrap();
}
