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

/// Of the pods: not what a guest would have without being told.
const MTU: u16 = 1400;

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
        let dataplane = vec!["--flow-file".to_owned(), flows];
        let options = Options { dataplane, pod_mtu: Some(MTU), ..Options::default() };
        let mut bed = Bed::new(options);
        let pod = Pod::attach(&bed.node, "vm", Kind::VhostUser).unwrap();
        let mut vm = Vm::boot(&bed.node, &pod, &image, rings).unwrap();
        vm.run("ip link set eth0 up").unwrap();
        hears_of_its_router(&mut vm);
        configures_itself(&pod, &mut vm);
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

/// The guest's own clients get what the attachment says, and nobody else told it.
fn configures_itself(pod: &Pod, vm: &mut Vm) {
    let bound = vm.configure().unwrap();
    let [address, address6] = Family::BOTH.map(|family| pod.address(family));
    let [gateway, _] = lab::node::GATEWAY;
    let routes = format!("{gateway}/32 0.0.0.0 0.0.0.0/0 {gateway}");
    assert_eq!(
        bound,
        format!(
            "bound ip={address}/32 router={gateway} mtu={MTU} lease=86400 routes={routes} dns=10.96.0.10 \
             search=svc.cluster.local cluster.local"
        )
    );
    // What is in force.
    let link = vm.run("ip addr show dev eth0").unwrap();
    for part in [format!("mtu {MTU} "), format!("inet {address}/32 "), format!("inet6 {address6}/128 ")] {
        assert!(link.contains(&part), "`{part}` is missing: {link}");
    }
    let resolver = vm.run("cat /etc/resolv.conf").unwrap();
    let expected =
        "nameserver 10.96.0.10\nnameserver fd00:96::10\nsearch svc.cluster.local. cluster.local.\n";
    assert_eq!(resolver, expected);
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
    // Its link takes more still: this is the advertisement's.
    assert_eq!(vm.run("cat /sys/class/net/eth0/mtu").unwrap().trim(), "1500");
    assert_eq!(vm.run("cat /proc/sys/net/ipv6/conf/eth0/mtu").unwrap().trim(), MTU.to_string());
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
