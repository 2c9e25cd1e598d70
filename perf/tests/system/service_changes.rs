//! Services whose pods, ports and types change while clients use them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::exchange::{By, inside, through};
use lab::netns::Netns;
use lab::node::{Node, Options, Uplink};
use lab::pod::{Family, Kind, Pod};
use lab::wait::{PATIENCE, wait_until};
use serde_json::{Value, json};

use crate::nodes::Bed;
use crate::services::{FILE, address, own, refuses, service, slices, wait_for};

/// A port in both families, where nobody says otherwise.
const ANY: &str = "[::]:8080";

/// As [`slices`], and where each endpoint is.
pub(crate) fn placed(
    number: u8,
    ports: &[(&str, &str, u16)],
    endpoints: &[(&Pod, &Node, &str)],
) -> Vec<Value> {
    let conditions: Vec<(&Pod, &str)> =
        endpoints.iter().map(|(pod, _, condition)| (*pod, *condition)).collect();
    let mut all = slices(number, "all", ports, &conditions);
    for slice in &mut all {
        for (at, (_, node, _)) in endpoints.iter().enumerate() {
            slice["endpoints"][at]["nodeName"] = json!(node.site.name());
        }
    }
    all
}

/// Answers each byte with its name, on as many connections as there are, until it is dropped.
struct Server {
    name: u8,
    listener: Arc<TcpListener>,
    open: Arc<Mutex<HashMap<usize, TcpStream>>>,
    accepted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(pod: &Pod, name: u8) -> Self {
        let listener = Arc::new(inside(&pod.netns, || TcpListener::bind(ANY)).unwrap().unwrap());
        let open = Arc::new(Mutex::new(HashMap::new()));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (listens, kept, counted) = (Arc::clone(&listener), Arc::clone(&open), Arc::clone(&accepted));
        let thread = std::thread::spawn(move || {
            while let Ok((mut client, _)) = listens.accept() {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                kept.lock().unwrap().insert(number, client.try_clone().unwrap());
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || {
                    let mut word = [0];
                    while client.read_exact(&mut word).is_ok() && client.write_all(&[name]).is_ok() {}
                    kept.lock().unwrap().remove(&number);
                });
            }
        });
        Self { name, listener, open, accepted, thread: Some(thread) }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the one that accepts.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.thread.take().map(JoinHandle::join);
        for connection in self.open.lock().unwrap().values() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn connect(at: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at, PATIENCE).with_context(|| format!("to {at}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whose name it is that is answered.
fn ask(stream: &mut TcpStream) -> Result<u8> {
    let mut name = [0];
    stream.write_all(b"?")?;
    stream.read_exact(&mut name)?;
    Ok(name[0])
}

/// From where, and at which of a Service's addresses it is asked, one a family.
struct Way<'a> {
    from: &'a Netns,
    at: [SocketAddr; 2],
}

impl<'a> Way<'a> {
    fn new(from: &'a Netns, at: impl Fn(Family) -> IpAddr, port: u16) -> Self {
        Self { from, at: Family::BOTH.map(|family| SocketAddr::new(at(family), port)) }
    }

    /// Connection after connection, until there have been enough, and counts them.
    fn ask_on(&self, asked: &AtomicUsize, enough: &AtomicBool) -> Result<()> {
        inside(self.from, || {
            for at in self.at.iter().cycle() {
                if enough.load(Ordering::SeqCst) {
                    break;
                }
                let number = asked.load(Ordering::SeqCst);
                connect(*at)
                    .and_then(|mut stream| ask(&mut stream))
                    .with_context(|| format!("request {number} from {} at {at}", self.from.name()))?;
                asked.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        })?
    }

    /// A connection to this very server, in each family.
    fn reach(&self, server: &Server) -> Vec<TcpStream> {
        let to = |at: &SocketAddr| {
            wait_until("it is this one's turn", PATIENCE, || {
                let mut stream = inside(self.from, || connect(*at))??;
                let name = ask(&mut stream)?;
                ensure!(name == server.name, "{name} answered at {at}");
                Ok(stream)
            })
            .unwrap()
        };
        self.at.iter().map(to).collect()
    }
}

/// An endpoint, from before it is one until after.
struct Replica<'a> {
    node: &'a Node,
    pod: Pod,
    server: Server,
}

impl<'a> Replica<'a> {
    fn new(node: &'a Node, name: u8) -> Self {
        let pod = Pod::attach(node, &format!("web-{name}"), Kind::Kernel).unwrap();
        let server = Server::start(&pod, name);
        Self { node, pod, server }
    }

    /// Each line of `show services` that is about it.
    fn lines<'s>(&self, shown: &'s str) -> Vec<&'s str> {
        let at = Family::BOTH
            .map(|family| SocketAddr::new(self.pod.address(family).parse().unwrap(), 8080).to_string());
        shown.lines().filter(|line| at.iter().any(|own| line.contains(&format!(" {own} ")))).collect()
    }
}

/// Pods are replaced one by one, as a Deployment does it, under two Services that select them all: not one request fails, none goes to
/// who terminates once that is known, and who has a connection keeps it until the server ends it.
#[test]
fn a_rolling_update_costs_no_request_and_no_connection() {
    for uplink in [Uplink::Dedicated, Uplink::Kernel] {
        let bed = Bed::with(&Options { uplink, masquerade: true, ..Options::default() }, 2);
        let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
        let tell = |replicas: &[(&Replica<'_>, &str)]| {
            let endpoints: Vec<(&Pod, &Node, &str)> =
                replicas.iter().map(|(own, condition)| (&own.pod, own.node, *condition)).collect();
            let mut objects = Vec::new();
            for (number, port, policy) in [(7, 30_080, "Cluster"), (8, 30_081, "Local")] {
                let mut web = service(number, &[("", "TCP", 80)], &json!({}));
                web["spec"]["type"] = json!("NodePort");
                web["spec"]["externalTrafficPolicy"] = json!(policy);
                web["spec"]["ports"][0]["nodePort"] = json!(port);
                objects.push(web);
                objects.extend(placed(number, &[("", "TCP", 8080)], &endpoints));
            }
            bed.cluster.set(FILE, &objects).unwrap();
        };
        let mut replicas = vec![Replica::new(first, 1), Replica::new(second, 2)];
        tell(&[(&replicas[0], "ready"), (&replicas[1], "ready")]);
        wait_for(&bed, "they are there", |shown| {
            replicas.iter().all(|own| !own.lines(shown).is_empty()) && shown.contains(":30081")
        });
        let outside = &bed.cluster.lan.outside;
        let cluster_ip = |family| address(7, family);
        let ways = [
            Way::new(&bed.pods[0].netns, cluster_ip, 80),
            Way::new(&second.host, cluster_ip, 80),
            Way::new(outside, |family| own(first, family), 30_080),
            Way::new(outside, |family| own(second, family), 30_081),
        ];
        let (asked, enough) = (ways.each_ref().map(|_| AtomicUsize::new(0)), AtomicBool::new(false));
        let ask_all_again = |times: usize| {
            let before = asked.each_ref().map(|own| own.load(Ordering::SeqCst));
            wait_until("all have asked again", PATIENCE, || {
                let now = asked.each_ref().map(|own| own.load(Ordering::SeqCst));
                ensure!(now.iter().zip(&before).all(|(now, before)| *now >= before + times), "{now:?}");
                Ok(())
            })
            .unwrap();
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = ways
                .iter()
                .zip(&asked)
                .map(|(way, asked)| scope.spawn(|| way.ask_on(asked, &enough)))
                .collect();
            let _end = Ends(&enough);
            for name in 3..6 {
                let old = replicas.remove(0);
                let kept = &replicas[0];
                let new = Replica::new(old.node, name);
                tell(&[(&old, "ready"), (kept, "ready"), (&new, "ready")]);
                wait_for(&bed, "the new one is there", |shown| !new.lines(shown).is_empty());
                // The world is served by the one node's own alone where the policy is so.
                let near = if std::ptr::eq(old.node, second) { ways.len() } else { ways.len() - 1 };
                let mut connections: Vec<TcpStream> =
                    ways[..near].iter().flat_map(|way| way.reach(&old.server)).collect();
                let mut goes_on = || {
                    for connection in &mut connections {
                        assert_eq!(ask(connection).unwrap(), old.server.name);
                    }
                };

                tell(&[(&old, "draining"), (kept, "ready"), (&new, "ready")]);
                wait_for(&bed, "the old one drains", |shown| {
                    let lines = old.lines(shown);
                    !lines.is_empty() && lines.iter().all(|line| line.contains("draining"))
                });
                // What began before has come to its end.
                ask_all_again(2);
                let accepted = old.server.accepted();
                ask_all_again(10);
                assert_eq!(old.server.accepted(), accepted, "who drains is asked anew");
                goes_on();

                tell(&[(kept, "ready"), (&new, "ready")]);
                wait_for(&bed, "the old one is gone", |shown| old.lines(shown).is_empty());
                ask_all_again(2);
                goes_on();
                let Replica { node, pod, server } = old;
                drop(server);
                for connection in &mut connections {
                    assert_eq!(connection.read(&mut [0]).unwrap(), 0, "the server has ended it");
                }
                pod.detach(node).unwrap();
                drop(pod);
                ask_all_again(2);
                replicas.push(new);
            }
            enough.store(true, Ordering::SeqCst);
            for client in clients {
                client.join().unwrap().unwrap();
            }
        });
        println!("{uplink:?}: {asked:?} requests");
        bed.cluster.ledgers().unwrap();
    }
}

/// Has clients end, also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Answers each datagram with its name, until it is dropped.
pub(crate) struct Responder {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    pub(crate) fn start(pod: &Pod, name: u8) -> Self {
        let socket = inside(&pod.netns, || UdpSocket::bind(ANY)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                if let Ok((_, client)) = socket.recv_from(&mut [0; 8]) {
                    // Who has gone meanwhile does not want to know.
                    let _ = socket.send_to(&[name], client);
                }
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join);
    }
}

/// One socket for all that it asks: its port stays the same.
pub(crate) struct Asker {
    socket: UdpSocket,
    what: String,
}

impl Asker {
    pub(crate) fn new(from: &Netns, at: SocketAddr) -> Self {
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = inside(from, || UdpSocket::bind(any)).unwrap().unwrap();
        socket.connect(at).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, what: format!("{} at {at}", from.name()) }
    }

    /// Whose name the answer is; an answer to what was asked before is none.
    pub(crate) fn ask(&self) -> std::io::Result<u8> {
        let mut name = [0];
        self.socket.set_nonblocking(true)?;
        while self.socket.recv(&mut name).is_ok() {}
        self.socket.set_nonblocking(false)?;
        self.socket.send(b"?")?;
        self.socket.recv(&mut name)?;
        Ok(name[0])
    }

    fn is_answered_by(&self, name: u8) {
        wait_until(&format!("{name} answers {}", self.what), PATIENCE, || {
            let answered = self.ask()?;
            ensure!(answered == name, "{answered} does");
            Ok(())
        })
        .unwrap();
    }

    fn is_refused(&self) {
        wait_until(&format!("{} is refused", self.what), PATIENCE, || match self.ask() {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(anyhow::anyhow!("{other:?}")),
        })
        .unwrap();
    }
}

/// A client that goes on asking by one port finds the pod that has come in the place of another: on the same node, and on another one,
/// with a while of nobody between.
#[test]
fn datagrams_of_one_socket_follow_the_pods_that_replace_each_other() {
    for uplink in [Uplink::Dedicated, Uplink::Kernel] {
        let bed = Bed::with(&Options { uplink, masquerade: true, ..Options::default() }, 2);
        let [a, b] = [&bed.pods[0].netns, &bed.pods[1].netns];
        let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
        let tell = |endpoints: &[(&Pod, &Node, &str)]| {
            let mut objects = Vec::new();
            for number in [7, 8] {
                let mut dns = service(number, &[("", "UDP", 53)], &json!({}));
                if number == 7 {
                    dns["spec"]["type"] = json!("NodePort");
                    dns["spec"]["ports"][0]["nodePort"] = json!(30_053);
                } else {
                    dns["spec"]["internalTrafficPolicy"] = json!("Local");
                }
                objects.push(dns);
                objects.extend(placed(number, &[("", "UDP", 8080)], endpoints));
            }
            bed.cluster.set(FILE, &objects).unwrap();
        };
        let askers = |ways: &[Way<'_>]| -> Vec<Asker> {
            ways.iter().flat_map(|way| way.at.map(|at| Asker::new(way.from, at))).collect()
        };
        let cluster_ip = |family| address(7, family);
        let local_ip = |family| address(8, family);
        let [at_first, at_second] = [first, second].map(|node| move |family| own(node, family));
        let outside = &bed.cluster.lan.outside;
        let all = askers(&[
            Way::new(a, cluster_ip, 53),
            Way::new(b, cluster_ip, 53),
            // Pods of the host's network ask as it does.
            Way::new(&first.host, cluster_ip, 53),
            Way::new(&second.host, cluster_ip, 53),
            Way::new(outside, at_first, 30_053),
            Way::new(outside, at_second, 30_053),
            Way::new(&first.host, at_second, 30_053),
        ]);
        let of_first = askers(&[Way::new(a, local_ip, 53), Way::new(&first.host, local_ip, 53)]);
        let of_second = askers(&[Way::new(b, local_ip, 53), Way::new(&second.host, local_ip, 53)]);
        let mut before: Option<(&Node, Pod, Responder)> = None;
        for (name, node) in (1..).zip([second, second, first]) {
            let pod = Pod::attach(node, &format!("dns-{name}"), Kind::Kernel).unwrap();
            let responder = Responder::start(&pod, name);
            tell(&[(&pod, node, "unready")]);
            if let Some((node, pod, responder)) = before.take() {
                drop(responder);
                pod.detach(node).unwrap();
            }
            for asker in all.iter().chain(&of_first).chain(&of_second) {
                asker.is_refused();
            }
            tell(&[(&pod, node, "ready")]);
            let local = if std::ptr::eq(node, first) { &of_first } else { &of_second };
            for asker in all.iter().chain(local) {
                asker.is_answered_by(name);
            }
            before = Some((node, pod, responder));
        }
        bed.cluster.ledgers().unwrap();
    }
}

/// A word to an address that is to lead to a port of the pod.
pub(crate) fn says(from: &Netns, to: &Pod, target: u16, at: SocketAddr, by: By) -> Result<IpAddr> {
    let family = if at.is_ipv4() { Family::V4 } else { Family::V6 };
    through(from, &to.netns, SocketAddr::new(to.address(family).parse()?, target), Some(at), by)
}

/// Who tries does not get through to a port of the pod.
fn hears_nothing(from: &Netns, to: &Pod, target: u16, at: SocketAddr) {
    let listener = inside(&to.netns, || TcpListener::bind(("::", target))).unwrap().unwrap();
    let tried = inside(from, || TcpStream::connect_timeout(&at, Duration::from_millis(100))).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert!(tried.is_err() && listener.accept().is_err(), "{at}");
}

/// One of a Service's ports, and which of its pods' it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    name: &'static str,
    by: By,
    port: u16,
    node_port: u16,
    target: u16,
}

impl Port {
    const fn new(name: &'static str, by: By, port: u16, node_port: u16, target: u16) -> Self {
        Self { name, by, port, node_port, target }
    }

    const fn protocol(self) -> &'static str {
        match self.by {
            By::Tcp => "TCP",
            By::Udp => "UDP",
        }
    }
}

/// By its name alone, by its cluster address, and by the nodes' ports, in whichever order; with ports added, moved and deleted.
#[test]
fn a_service_follows_its_type_and_its_ports() {
    let bed = Bed::with(&Options { uplink: Uplink::Kernel, masquerade: true, ..Options::default() }, 2);
    let [a, b] = [&bed.pods[0], &bed.pods[1]];
    let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    let outside = &bed.cluster.lan.outside;
    let http = Port::new("http", By::Tcp, 80, 30_080, 8080);
    let dns = Port::new("dns", By::Udp, 80, 30_080, 5353);
    let more = Port::new("more", By::Tcp, 81, 30_081, 9090);
    let moved = Port { node_port: 30_082, ..http };
    let tell = |kind: &str, ports: &[Port]| {
        let numbers: Vec<_> = ports.iter().map(|own| (own.name, own.protocol(), own.port)).collect();
        let targets: Vec<_> = ports.iter().map(|own| (own.name, own.protocol(), own.target)).collect();
        let mut web = service(7, &numbers, &json!({}));
        web["spec"]["type"] = json!(kind);
        if kind == "ExternalName" {
            web["spec"] = json!({"type": kind, "externalName": "shop.example"});
        }
        for (at, own) in ports.iter().enumerate().filter(|_| kind == "NodePort") {
            web["spec"]["ports"][at]["nodePort"] = json!(own.node_port);
        }
        let mut objects = vec![web];
        objects.extend(placed(7, &targets, &[(b, second, "ready")]));
        bed.cluster.set(FILE, &objects).unwrap();
    };
    let [name, cluster, node] = ["ExternalName", "ClusterIP", "NodePort"];
    for (kind, ports) in [
        (name, &[][..]),
        (cluster, &[http][..]),
        (name, &[]),
        (node, &[http]),
        (name, &[]),
        (cluster, &[http, dns]),
        (cluster, &[dns, more]),
        (node, &[http, dns, more]),
        (node, &[moved, more]),
        (cluster, &[http]),
    ] {
        tell(kind, ports);
        let is_at = |family, own: Port| SocketAddr::new(address(7, family), own.port);
        let is_served = |own: &Port| ports.iter().any(|other| (other.by, other.port) == (own.by, own.port));
        wait_for(&bed, kind, |shown| {
            [http, dns, more].iter().all(|own| {
                let row = format!("{}/{}", is_at(Family::V6, *own), own.protocol().to_lowercase());
                shown.contains(&row) == is_served(own)
            })
        });
        for family in Family::BOTH {
            for own in ports {
                says(&a.netns, b, own.target, is_at(family, *own), own.by).unwrap();
            }
            for own in [http, more].into_iter().filter(|own| !is_served(own)) {
                hears_nothing(&a.netns, b, own.target, is_at(family, own));
            }
            for port in [http, dns, more, moved] {
                let at = SocketAddr::new(own(first, family), port.node_port);
                for from in [&a.netns, outside] {
                    if kind == node && ports.contains(&port) {
                        says(from, b, port.target, at, port.by).unwrap();
                    } else {
                        // By the node itself, which has nobody there.
                        wait_until("it is the node's", PATIENCE, || refuses(from, at, port.by)).unwrap();
                    }
                }
            }
        }
    }
    bed.cluster.ledgers().unwrap();
}

/// Services share an address that a load balancer has for them, by different protocols of one port; each comes and goes for itself.
#[test]
fn services_share_a_load_balancers_address() {
    let bed = Bed::with(&Options { uplink: Uplink::Kernel, masquerade: true, ..Options::default() }, 2);
    let [a, b] = [&bed.pods[0], &bed.pods[1]];
    let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    let outside = &bed.cluster.lan.outside;
    let shared = ["203.0.113.8", "2001:db8:203::8"];
    for (at, next_hop) in shared.iter().zip(first.site.host()) {
        outside.ip(&["route", "add", at, "via", &next_hop, "dev", "eth0"]).unwrap();
    }
    // By TCP to one pod, by UDP to another.
    let both = [(7, By::Tcp, "TCP", (a, first)), (8, By::Udp, "UDP", (b, second))];
    let present = [&both[..], &both[..1], &both[1..], &both[..]];
    for there in present {
        let mut objects = Vec::new();
        for (number, _, protocol, (pod, node)) in there {
            let mut web = service(*number, &[("", protocol, 80)], &json!({}));
            web["spec"]["type"] = json!("LoadBalancer");
            web["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
            web["status"] = json!({"loadBalancer": {"ingress": shared.map(|ip| json!({"ip": ip}))}});
            objects.push(web);
            objects.extend(placed(*number, &[("", protocol, 8080)], &[(pod, node, "ready")]));
        }
        bed.cluster.set(FILE, &objects).unwrap();
        wait_for(&bed, "they are there", |shown| {
            both.iter().all(|(number, ..)| {
                shown.contains(&format!("service-{number}")) == there.iter().any(|own| own.0 == *number)
            })
        });
        assert_eq!(first.query().warnings().unwrap(), Vec::<String>::new());
        for ip in shared {
            let at = SocketAddr::new(ip.parse().unwrap(), 80);
            for (_, by, _, (pod, _)) in there {
                for from in [&a.netns, &b.netns, &second.host, outside] {
                    wait_until("it is reached", PATIENCE, || says(from, pod, 8080, at, *by)).unwrap();
                }
            }
        }
    }
    bed.cluster.ledgers().unwrap();
}
