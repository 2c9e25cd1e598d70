//! What goes wrong around control, or to it: killed at any moment, a data plane that hangs, devices and namespaces that
//! somebody takes away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use proto::control::{AttachPort, AttachRequest, Attached, PodName, Request, Response};
use rustix::process::{Signal, kill_process};

use crate::fake::Fake;
use crate::harness::{Netns, Node, detach, pod, until};

/// ADDs and DELs, answered or not, in the test that kills control at any moment of them.
const STEPS: u32 = 1_000;

/// How long a released address is nobody's, less what the answer took.
const HELD: Duration = Duration::from_secs(59);

/// A series that is the same in each run (Numerical Recipes, section 7.1).
struct Series(u32);

impl Series {
    fn next(&mut self, below: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) % below
    }
}

/// Pods that ask for attachment, and what they were told.
struct Pods {
    all: Vec<(AttachRequest, Netns)>,
    answered: BTreeMap<usize, Attached>,
    /// Whose ADD or DEL was never answered.
    in_doubt: BTreeSet<usize>,
    released: Vec<(IpAddr, Instant)>,
    steps: u32,
}

impl Pods {
    /// One ADD or DEL; `None` if control went before it answered.
    fn step(&mut self, node: &Node, n: usize) -> Option<()> {
        let (request, netns) = &self.all[n];
        self.in_doubt.insert(n);
        self.steps += 1;
        if let Some(attached) = self.answered.remove(&n) {
            assert_eq!(node.try_call(&detach(request), None).ok()?, Response::Detached);
            self.released.extend(attached.addresses.into_iter().map(|own| (own, Instant::now())));
        } else {
            match node.try_call(&Request::Attach(request.clone()), Some(netns)).ok()? {
                Response::Attached(attached) => {
                    let own =
                        |other: &Attached| other.addresses.iter().any(|own| attached.addresses.contains(own));
                    assert!(!self.answered.values().any(own), "given twice: {attached:?}");
                    let soon = |(own, at): &(IpAddr, Instant)| {
                        attached.addresses.contains(own) && at.elapsed() < HELD
                    };
                    assert!(!self.released.iter().any(soon), "given again too soon: {attached:?}");
                    self.answered.insert(n, attached);
                }
                other => panic!("{other:?}\n{}", node.log()),
            }
        }
        self.in_doubt.remove(&n);
        Some(())
    }

    /// After a start: what was answered is there, and what was not can be had.
    fn check(&mut self, node: &Node, fake: &Fake) {
        until("data plane and manifests", || node.status().connected && node.status().synced);
        let status = node.status();
        assert!(!status.warnings.iter().any(|text| text.contains("journal")), "{status:?}");
        assert!(!node.path("state/attachments.journal.damaged").exists());
        for (n, attached) in &self.answered {
            let (request, netns) = &self.all[*n];
            let name = format!("shop/{}", request.pod.as_ref().unwrap().name);
            until("the endpoint", || {
                fake.with(|state| state.rows.endpoints.get(&name).map(|own| own.addresses.clone()))
                    == Some(attached.addresses.clone())
            });
            assert_eq!(netns.link("eth0").unwrap()["address"], attached.mac.to_string());
            assert_eq!(node.attach_fails(request.clone(), netns).0, 100);
        }
        for n in std::mem::take(&mut self.in_doubt) {
            let (request, netns) = &self.all[n];
            // Asked again as it was: attached, or attached already by the one that was not answered.
            match node.call(&Request::Attach(request.clone()), Some(netns)) {
                Response::Attached(_) | Response::Failed { code: 100, .. } => node.detach(request),
                other => panic!("{other:?}\n{}", node.log()),
            }
            assert!(netns.link("eth0").is_none());
        }
        assert_eq!(node.status().attachments as usize, self.answered.len());
    }
}

#[test]
fn killed_at_any_moment_it_knows_what_it_answered_and_nothing_is_lost() {
    let mut node = Node::new();
    node.manifest(
        "cluster.yaml",
        "kind: Node\nmetadata: {name: knode1}\nspec: {podCIDRs: [10.244.0.0/22]}\n\
         status: {addresses: [{type: InternalIP, address: 192.168.77.11}]}\n",
    );
    let fake = node.fake();
    let request = |n: usize| {
        let netns = Netns::new();
        (pod(&format!("pod{n}"), &netns), netns)
    };
    let mut pods = Pods {
        all: (0..4).map(request).collect(),
        answered: BTreeMap::new(),
        in_doubt: BTreeSet::new(),
        released: vec![],
        steps: 0,
    };
    let mut series = Series(1);
    let mut interrupted = 0;
    while pods.steps < STEPS {
        node.start();
        pods.check(&node, &fake);
        let (pid, delay) = (node.pid(), Duration::from_millis(series.next(200).into()));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(delay);
                kill_process(pid, Signal::KILL).unwrap();
            });
            while pods.step(&node, series.next(4) as usize).is_some() {}
        });
        interrupted += pods.in_doubt.len();
        node.kill();
    }
    assert!(interrupted > 0);
    node.start();
    pods.check(&node, &fake);
    for (request, _) in &pods.all {
        node.detach(request);
    }
    assert_eq!(
        (node.status().attachments, fake.contents().0.endpoints.len(), fake.contents().1.len()),
        (0, 1, 2)
    );
    // Once a minute is over, all 1,021 addresses can be had again. It is over at once by what the journal says.
    node.kill();
    let long_ago = |line: &str| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        if record["record"] == "detach" {
            record["at"] = 0.into();
        }
        (record["record"] != "released").then(|| record.to_string() + "\n")
    };
    let journal: String = node.journal().lines().filter_map(long_ago).collect();
    std::fs::write(node.path("state/attachments.journal"), journal).unwrap();
    node.start();
    until("data plane and manifests", || node.status().connected && node.status().synced);
    let vm = |n: u32| AttachRequest {
        container: format!("vm{n}"),
        port: AttachPort::VhostUser,
        pod: Some(PodName { namespace: "shop".into(), name: format!("vm{n}"), uid: None }),
        ..pods.all[0].0.clone()
    };
    let all = (0..1021).map(|n| node.attach(vm(n), &pods.all[0].1).addresses).collect::<BTreeSet<_>>();
    assert_eq!(all.len(), 1021);
    let (code, reason) = node.attach_fails(vm(1021), &pods.all[0].1);
    assert!(code == 11 && reason.contains("10.244.0.0/22"), "{code}: {reason}");
}

#[test]
fn a_data_plane_that_hangs_fails_an_attach_in_time_and_has_the_right_device_afterwards() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let netns = Netns::new();
    let request = pod("front", &netns);
    fake.with(|state| state.hang = true);
    // The harness gives up where the CNI plug-in would.
    let (code, reason) = node.attach_fails(request.clone(), &netns);
    assert!(code == 11 && reason.contains("did not commit"), "{code}: {reason}");
    assert!(netns.link("eth0").is_none());
    assert_eq!(node.status().attachments, 0);

    // Asked again, its port has the same name as the one that the data plane is still to make of the first device.
    let attached = std::thread::scope(|scope| {
        let again = scope.spawn(|| node.attach(request.clone(), &netns));
        until("the second device", || node.status().attachments == 1);
        fake.with(|state| state.hang = false);
        again.join().unwrap()
    });
    let endpoint = fake.with(|state| state.rows.endpoints["shop/front"].clone());
    assert_eq!(endpoint.addresses, attached.addresses);
    assert!(fake.has_device(&endpoint.port));
    assert!(netns.has_carrier("eth0"));
    node.detach(&request);
    assert_eq!((fake.contents().0.endpoints.len(), fake.contents().1.len()), (1, 2));
}

#[test]
fn a_pod_whose_sandbox_went_without_a_del_is_released() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let (gone, elsewhere, stays) = (Netns::new(), Netns::new(), Netns::new());
    let request = pod("front", &gone);
    node.attach(request.clone(), &gone);
    // As where control sees nothing of the runtime's mounts: no reason to think that the pod is gone.
    node.attach(
        AttachRequest { netns: "/nonexistent/netns".into(), ..pod("elsewhere", &elsewhere) },
        &elsewhere,
    );
    node.attach(pod("stays", &stays), &stays);
    let directory = format!("/proc/{}/fd", node.pid().as_raw_nonzero());
    let descriptors = || {
        let links =
            std::fs::read_dir(&directory).unwrap().filter_map(|entry| entry.unwrap().path().read_link().ok());
        links.filter(|target| target.as_os_str() == "/dev/net/tun").count()
    };
    assert_eq!(descriptors(), 4);

    drop(gone);
    until("the pod is released", || !fake.contents().0.endpoints.contains_key("shop/front"));
    until("its descriptors are closed", || descriptors() == 3 && fake.with(|state| state.taps.len() == 3));
    until("its record is there", || node.journal().contains("\"record\":\"detach\""));
    assert!(node.log().contains("no DEL came"), "{}", node.log());
    assert_eq!(node.status().attachments, 2);
    assert!(elsewhere.has_carrier("eth0") && stays.has_carrier("eth0"));
    node.detach(&request);
}

#[test]
fn the_hosts_device_is_mended_whatever_is_done_to_it() {
    let mut node = Node::new();
    let fake = node.fake();
    node.host.ip(&["route", "add", "10.244.2.0/24", "dev", "lo"]);
    node.start_and_sync(&fake);
    // A route of somebody else's is not ours to take.
    until("the warning", || node.status().warnings.iter().any(|text| text.contains("10.244.2.0/24")));
    assert!(node.host.ip(&["route", "show", "10.244.2.0/24"]).contains("dev lo"));
    node.host.ip(&["route", "del", "10.244.2.0/24"]);

    let whole = || {
        let addresses = node.host.ip(&["addr", "show", "dev", "podrouter0"]);
        let routes = node.host.ip(&["route"]) + &node.host.ip(&["-6", "route"]);
        addresses.contains("169.254.1.2/32")
            && addresses.contains("mtu 1500")
            && ["10.244.1.0/24", "10.244.2.0/24", "fd00:10:244:1::/64", "fd00:10:244:2::/64"]
                .iter()
                .all(|prefix| routes.contains(&format!("{prefix} via")))
            && node.host.has_carrier("podrouter0")
            && node.status().warnings.is_empty()
    };
    until("all is there", whole);
    let before = fake.contents();
    for harm in [
        "link set podrouter0 down",
        "route del 10.244.2.0/24",
        "addr flush dev podrouter0",
        "link set podrouter0 mtu 1400",
        "link del podrouter0",
    ] {
        node.host.ip(&harm.split(' ').collect::<Vec<_>>());
        until(harm, || node.host.link("podrouter0").is_some() && whole());
    }
    until("the data plane has the new device", || fake.has_device("host") && fake.contents() == before);
    // Also while nobody looks.
    node.kill();
    node.host.ip(&["link", "del", "podrouter0"]);
    node.start_and_sync(&fake);
    until("the data plane has the newest device", || fake.has_device("host") && fake.contents() == before);
}

#[test]
fn one_pod_attached_many_times_at_once_has_endpoints_of_different_names() {
    let mut node = Node::new();
    // In the podCIDR, and not for pods.
    node.extra.extend(["--uplink-address".into(), "10.244.1.2/32".into()]);
    let fake = node.fake();
    node.start_and_sync(&fake);
    let all: Vec<Netns> = (0..6).map(|_| Netns::new()).collect();
    let shared = &node;
    let addresses: BTreeSet<_> = std::thread::scope(|scope| {
        let attach = |(n, netns)| {
            let request = AttachRequest { container: format!("sandbox{n}"), ..pod("front", netns) };
            scope.spawn(move || shared.attach(request, netns).addresses)
        };
        let threads: Vec<_> = all.iter().enumerate().map(attach).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!((addresses.len(), fake.contents().0.endpoints.len()), (12, 7));
    assert!(!addresses.contains(&"10.244.1.2".parse().unwrap()));
}
