//! A real virtual machine: its own kernel's driver on the other end of the rings.

use std::time::Duration;

use lab::node::Options;
use lab::ping::Ping;
use lab::pod::{Family, Kind, Pod};
use lab::process::succeed;
use lab::vm::{Image, Rings, Vm, fetch_sum, web_server};
use lab::wait::{PATIENCE, wait_until};

use crate::{Bed, reach};

/// Bytes that a transfer moves: some hundreds of large segments.
const BYTES: usize = 8 << 20;

/// Feature bits (VIRTIO 1.2, 5.1.3 and 6): checksums and large segments in both directions, merging, packed rings.
const OFFLOADS: [usize; 7] = [0, 1, 7, 8, 11, 12, 15];
const PACKED: usize = 34;

fn url(address: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("http://{address}/data"),
        Family::V6 => format!("http://[{address}]/data"),
    }
}

#[test]
fn a_virtual_machine_talks_and_goes_on_when_the_data_plane_is_killed() {
    let image = Image::prepare().unwrap();
    for rings in [Rings::Split, Rings::Packed] {
        let state = tempfile::tempdir().unwrap();
        let flows = state.path().join("flows").display().to_string();
        let options = Options { dataplane: vec!["--flow-file".to_owned(), flows], ..Options::default() };
        let mut bed = Bed::new(options);
        let pod = Pod::attach(&bed.node, "vm", Kind::VhostUser).unwrap();
        let mut vm = Vm::boot(&bed.node, &pod, &image, rings).unwrap();
        learns(&pod, &mut vm);
        hears_of_its_router(&mut vm);
        vm.configure(&pod).unwrap();
        vm.run("httpd -p '[::]:80' -h /www").unwrap();
        let features = vm.features().unwrap();
        let missing: Vec<_> = OFFLOADS.iter().filter(|bit| !features.contains(bit)).collect();
        assert!(missing.is_empty(), "{missing:?} of {features:?}");
        assert_eq!(features.contains(&PACKED), rings == Rings::Packed, "{features:?}");

        talks(&bed, &pod, &mut vm);
        transfers(&bed, &pod, &mut vm);

        // Killed while a ping runs in the guest, which is not told of anything.
        let uptime = |vm: &mut Vm| vm.run("cat /proc/sys/kernel/random/boot_id").unwrap();
        let booted = uptime(&mut vm);
        let gone = bed.a.address(Family::V4);
        vm.run(&format!("ping -i 0.2 {gone} > /tmp/ping & echo $! > /tmp/pid")).unwrap();
        bed.node.restart_dataplane().unwrap();
        wait_until("the machine is back", PATIENCE, || {
            let once = Ping { count: 1, patience: Duration::from_secs(1), ..Ping::default() };
            let pinged = once.run(&bed.a.netns, &pod.address(Family::V4))?;
            if pinged.complete() { Ok(()) } else { Err(anyhow::anyhow!("{}", pinged.text)) }
        })
        .unwrap();
        let replies = |vm: &mut Vm| vm.run("grep -c ttl= /tmp/ping").unwrap().trim().parse::<u32>().unwrap();
        let before = replies(&mut vm);
        wait_until("the guest's ping goes on", PATIENCE, || {
            let now = replies(&mut vm);
            if now > before + 3 { Ok(()) } else { Err(anyhow::anyhow!("{now} replies, {before} before")) }
        })
        .unwrap();
        vm.run("kill -INT $(cat /tmp/pid)").unwrap();
        assert_eq!(uptime(&mut vm), booted, "it has not booted again");
        talks(&bed, &pod, &mut vm);
        transfers(&bed, &pod, &mut vm);
        bed.node.query().ledger().unwrap();
    }
}

/// The guest's own client gets what the attachment says, and nobody told it.
fn learns(pod: &Pod, vm: &mut Vm) {
    // busybox hands what it is told to a script, in its environment.
    vm.run("printf '#!/bin/sh\\necho $1 ip=$ip/$mask router=$router mtu=$mtu lease=$lease routes=$staticroutes\\n' > /tmp/s")
        .unwrap();
    vm.run("chmod 755 /tmp/s && ip link set eth0 up").unwrap();
    let printed =
        vm.run("udhcpc -i eth0 -n -q -t 20 -T 1 -O mtu -O staticroutes -s /tmp/s 2>/dev/null").unwrap();
    let bound = printed.lines().find(|line| line.starts_with("bound ")).unwrap_or(&printed);
    let (address, gateway) = (pod.address(Family::V4), lab::node::GATEWAY[0]);
    let routes = format!("{gateway}/32 0.0.0.0 0.0.0.0/0 {gateway}");
    assert_eq!(bound, format!("bound ip={address}/32 router={gateway} mtu=1500 lease=86400 routes={routes}"));
}

/// The guest's kernel follows a router advertisement: it has a default route, for a time, that nobody set.
fn hears_of_its_router(vm: &mut Vm) {
    let default = format!("default via {} dev eth0", lab::node::GATEWAY[1]);
    let route = wait_until("the guest has a default route", PATIENCE, || {
        let routes = vm.run("ip -6 route")?;
        let route = routes.lines().find(|line| line.starts_with(&default)).map(str::to_owned);
        route.ok_or_else(|| anyhow::anyhow!("{routes}"))
    })
    .unwrap();
    assert!(route.contains("expires"), "{route}");
    // No prefix is on the link but its own.
    let routes = vm.run("ip -6 route").unwrap();
    let others = routes.lines().filter(|line| !line.starts_with("default") && line.contains("/64"));
    assert!(others.clone().all(|line| line.starts_with("fe80::/64")), "{routes}");
}

/// Pings both ways, in both families; from the guest to another pod, the host and its gateway.
fn talks(bed: &Bed, pod: &Pod, vm: &mut Vm) {
    for family in Family::BOTH {
        for from in [&bed.a.netns, &bed.node.host, &bed.node.outside] {
            reach(&bed.node, from, &pod.address(family));
        }
        for to in [bed.a.address(family), family.of(lab::node::HOST).to_owned()] {
            vm.run(&format!("ping -c 3 -i 0.2 {to}")).unwrap();
        }
    }
}

/// The same bytes there and back, over TCP in both families: what arrives is what was sent.
fn transfers(bed: &Bed, pod: &Pod, vm: &mut Vm) {
    let folder = bed.node.run.dir().join("www");
    std::fs::create_dir_all(&folder).unwrap();
    let byte = |at: usize| (at * 31 + at / 251 + at / 65_537).to_le_bytes()[0];
    let bytes: Vec<u8> = (0..BYTES).map(byte).collect();
    std::fs::write(folder.join("data"), &bytes).unwrap();
    let sum = succeed(std::process::Command::new("md5sum").arg(folder.join("data")), PATIENCE).unwrap();
    let sum = sum.split_whitespace().next().unwrap();
    let mut server = web_server(&bed.node, &bed.a, &folder).unwrap();
    for family in Family::BOTH {
        let from = url(&bed.a.address(family), family);
        let fetch = format!("wget -q -O /www/data '{from}' && md5sum /www/data");
        wait_until("the guest has fetched", PATIENCE, || vm.run(&fetch))
            .map(|printed| {
                assert!(printed.starts_with(sum), "{printed}");
            })
            .unwrap();
        assert_eq!(fetch_sum(&bed.a, &url(&pod.address(family), family)).unwrap(), sum, "{family:?}");
    }
    server.kill().unwrap();
}
