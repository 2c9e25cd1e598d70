//! Datagrams of one socket, sent again and again from before their port led anywhere: they get there once it does, without a pause that
//! would have the node's kernel forget them by itself.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::netns::Netns;
use lab::node::{Node, Options, Uplink};
use lab::pod::{Family, Kind, Pod};
use lab::wait::{PATIENCE, wait_until};
use serde_json::json;

use crate::nodes::Bed;
use crate::service_changes::{Asker, Responder, placed};
use crate::services::{FILE, own, service};

const INTERVAL: Duration = Duration::from_millis(100);
/// A third of the time after which the kernel forgets a flow (`nf_conntrack_udp_timeout`).
const PAUSE: Duration = Duration::from_secs(10);
const HELD: [&str; 2] = ["203.0.113.77", "2001:db8:203::77"];

/// What was heard last, how often it was asked, and the longest time between two questions.
#[derive(Debug, Clone, Copy)]
struct Heard {
    name: Result<u8, ErrorKind>,
    asked: u32,
    pause: Duration,
}

/// Asks by one socket until it is dropped.
struct Persistent {
    what: String,
    heard: Arc<Mutex<Heard>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Persistent {
    fn start(from: &Netns, at: SocketAddr) -> Self {
        let asker = Asker::new(from, at);
        let first = Heard { name: Err(ErrorKind::NotConnected), asked: 0, pause: Duration::ZERO };
        let (heard, over) = (Arc::new(Mutex::new(first)), Arc::new(AtomicBool::new(false)));
        let (shared, ends) = (Arc::clone(&heard), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut before = Instant::now();
            while !ends.load(Ordering::SeqCst) {
                let now = Instant::now();
                let name = asker.ask().map_err(|error| error.kind());
                let Heard { asked, pause, .. } = *shared.lock().unwrap();
                let pause = pause.max(now - before);
                *shared.lock().unwrap() = Heard { name, asked: asked + 1, pause };
                before = now;
                std::thread::sleep(INTERVAL.saturating_sub(now.elapsed()));
            }
        });
        Self { what: format!("{} at {at}", from.name()), heard, over, thread: Some(thread) }
    }

    /// It goes on, until this is so.
    fn hears(&self, name: Result<u8, ErrorKind>) {
        let before = self.heard.lock().unwrap().asked;
        wait_until(&format!("{name:?} is heard by {}", self.what), PATIENCE, || {
            let heard = *self.heard.lock().unwrap();
            ensure!(heard.name == name && heard.asked > before + 2, "{heard:?}");
            Ok(())
        })
        .unwrap();
        let pause = self.heard.lock().unwrap().pause;
        assert!(pause < PAUSE, "{}: {pause:?}", self.what);
    }
}

impl Drop for Persistent {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Of whom the kernel is on the way, each at the node's own addresses, at loopback's, and at one more that its kernel has.
fn askers(bed: &Bed, uplink: Uplink, port: u16, more: Option<u16>) -> Vec<Persistent> {
    let first = &bed.cluster.nodes[0];
    let outside = (uplink == Uplink::Kernel).then_some(&bed.cluster.lan.outside);
    let mut at: Vec<SocketAddr> = Family::BOTH.map(|family| SocketAddr::new(own(first, family), port)).into();
    at.extend(more.iter().flat_map(|port| HELD.map(|held| SocketAddr::new(held.parse().unwrap(), *port))));
    let mut askers: Vec<Persistent> = at
        .iter()
        .flat_map(|at| {
            [Some(&first.host), outside].into_iter().flatten().map(|from| Persistent::start(from, *at))
        })
        .collect();
    let loopback = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port);
    askers.push(Persistent::start(&first.host, loopback));
    askers
}

const REFUSED: Result<u8, ErrorKind> = Err(ErrorKind::ConnectionRefused);

#[test]
fn datagrams_find_a_service_that_comes_after_they_began() {
    for uplink in [Uplink::Dedicated, Uplink::Kernel] {
        let bed = Bed::with(&Options { uplink, masquerade: true, ..Options::default() }, 2);
        let (first, outside) = (&bed.cluster.nodes[0], &bed.cluster.lan.outside);
        for (held, next_hop) in HELD.into_iter().zip(first.site.host()) {
            first.host.add_address("lo", held).unwrap();
            if uplink == Uplink::Kernel {
                outside.ip(&["route", "add", held, "via", &next_hop, "dev", "eth0"]).unwrap();
            }
        }
        let _responder = Responder::start(&bed.pods[1], 2);
        let tell = |is_there: bool| {
            let mut dns = service(7, &[("", "UDP", 53)], &json!({}));
            if is_there {
                dns["spec"]["type"] = json!("LoadBalancer");
                dns["spec"]["ports"][0]["nodePort"] = json!(30_053);
                dns["status"] = json!({"loadBalancer": {"ingress": HELD.map(|own| json!({"ip": own}))}});
            }
            let mut objects = vec![dns];
            let endpoint = (&bed.pods[1], &bed.cluster.nodes[1], "ready");
            objects.extend(placed(7, &[("", "UDP", 8080)], &[endpoint]));
            bed.cluster.set(FILE, &objects).unwrap();
        };
        let askers = askers(&bed, uplink, 30_053, Some(53));
        for (is_there, heard) in [(false, REFUSED), (true, Ok(2)), (false, REFUSED), (true, Ok(2))] {
            tell(is_there);
            askers.iter().for_each(|asker| asker.hears(heard));
        }
        drop(askers);
        bed.cluster.ledgers().unwrap();
    }
}

fn pod_at(node: &Node, name: &str, port: u16) -> Pod {
    let mapping = json!({"hostPort": port, "containerPort": 8080, "protocol": "udp", "hostIP": ""});
    Pod::attach_with(node, name, Kind::Kernel, &json!({"portMappings": [mapping]})).unwrap()
}

#[test]
fn datagrams_follow_the_pods_that_have_a_nodes_port_one_after_the_other() {
    for uplink in [Uplink::Dedicated, Uplink::Kernel] {
        let bed = Bed::with(&Options { uplink, ..Options::default() }, 1);
        let first = &bed.cluster.nodes[0];
        let askers = askers(&bed, uplink, 5_353, None);
        for name in 1..4 {
            askers.iter().for_each(|asker| asker.hears(REFUSED));
            let pod = pod_at(first, &format!("dns-{name}"), 5_353);
            let responder = Responder::start(&pod, name);
            askers.iter().for_each(|asker| asker.hears(Ok(name)));
            drop(responder);
            pod.detach(first).unwrap();
        }
        drop(askers);
        bed.cluster.ledgers().unwrap();
    }
}
