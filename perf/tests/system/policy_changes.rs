//! NetworkPolicies that come, go and change while somebody speaks, and what nobody may get through at any moment.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use apiserver::ApiServer;
use lab::api;
use lab::exchange::inside;
use lab::manifests;
use lab::netns::Netns;
use lab::pod::{Family, INTERFACE, Kind, Pod, configuration};
use lab::wait::{PATIENCE, wait_until};
use serde_json::{Value, json};

use crate::nodes::Bed;
use crate::policies::policy;
use crate::policy_nodes::{NAMESPACE, in_force, ip, restrict};
use crate::policy_probes::denied;
use crate::simulation::real;

/// For how many seconds policies change; a soak asks for more than CI has time for.
const SECONDS: &str = "PODROUTER_LAB_CHURN_SECONDS";

fn seconds() -> u64 {
    std::env::var(SECONDS).map_or(6, |text| text.parse().unwrap())
}

fn named(name: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"app": name}}})
}

/// Into one pod come others.
fn into(pod: &Pod, peers: &Value) -> Value {
    let spec = json!({"podSelector": {"matchLabels": {"app": pod.name}}, "ingress": [{"from": peers}]});
    policy(NAMESPACE, "into", &spec)
}

/// Both ends of a connection.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn new(from: &Netns, to: &Pod, family: Family) -> Self {
        let listener = inside(&to.netns, || TcpListener::bind((ip(to, family), 0)).unwrap()).unwrap();
        let at = listener.local_addr().unwrap();
        let client = inside(from, || TcpStream::connect_timeout(&at, PATIENCE)).unwrap().unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        let mut new = Self { client, server };
        new.talk();
        new
    }

    fn talk(&mut self) {
        let mut word = [0; 4];
        self.client.write_all(b"word").unwrap();
        self.server.read_exact(&mut word).unwrap();
        self.server.write_all(b"word").unwrap();
        self.client.read_exact(&mut word).unwrap();
    }

    /// Both say something, and say it again as TCP does, and neither is heard.
    fn is_cut(&mut self, bed: &Bed) {
        for mut stream in [&self.client, &self.server] {
            let before = denied(&bed.cluster.nodes).unwrap();
            stream.write_all(b"word").unwrap();
            let again = wait_until("it is denied, and denied again", PATIENCE, || {
                let counted = denied(&bed.cluster.nodes)? - before;
                ensure!(counted >= 3, "{counted} were denied");
                Ok(())
            });
            let heard: Vec<_> = [&self.client, &self.server].map(waits).into_iter().collect();
            bed.cluster.explain(again).map_err(|error| error.context(format!("waiting: {heard:?}"))).unwrap();
        }
        for stream in [&self.client, &self.server] {
            assert_eq!(waits(stream), 0, "what is denied has passed");
        }
    }

    /// What was not heard, and goes on.
    fn is_mended(&mut self) {
        let mut word = [0; 4];
        self.client.read_exact(&mut word).unwrap();
        self.server.read_exact(&mut word).unwrap();
        self.talk();
    }
}

/// How many bytes a stream has for its reader; the connection is there.
fn waits(stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let found = stream.peek(&mut [0; 16]);
    stream.set_nonblocking(false).unwrap();
    match found {
        Ok(length) => length,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            0
        }
    }
}

#[test]
fn a_connection_that_a_policy_forbids_ends_at_once_and_others_go_on() {
    let bed = Bed::new(2);
    let [a, b] = [&bed.pods[0], &bed.pods[1]];
    let [c, d] =
        [0, 1].map(|node| Pod::attach(&bed.cluster.nodes[node], ["c", "d"][node], Kind::Kernel).unwrap());
    let out = |peers: &Value| {
        let spec = json!({
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": [a.name, d.name]}]},
            "policyTypes": ["Egress"], "egress": [{"to": peers}],
        });
        policy(NAMESPACE, "out", &spec)
    };
    for family in Family::BOTH {
        // From another node and from the same, and one whom nobody forbids anything.
        let [mut far, mut near, mut other] = [a, &d, &c].map(|pod| Connection::new(&pod.netns, b, family));
        let mut datagrams = [a, &d].map(|pod| Stream::new(pod, b, family));
        datagrams.iter_mut().for_each(Stream::passes);
        for (policies, restricted) in
            [([into(b, &json!([named(&c.name)]))], [0, 1]), ([out(&json!([named(&c.name)]))], [1, 1])]
        {
            restrict(&bed, &policies, restricted);
            for connection in [&mut far, &mut near] {
                connection.is_cut(&bed);
            }
            datagrams.iter_mut().for_each(|stream| stream.is_cut(&bed));
            other.talk();
            // Allowed again before TCP gives up, it goes on where it was.
            restrict(&bed, &[], [0, 0]);
            for connection in [&mut far, &mut near] {
                connection.is_mended();
            }
            datagrams.iter_mut().for_each(Stream::passes);
        }
        // Whatever else changes, what is allowed goes on.
        let block =
            json!([{"ipBlock": {"cidr": format!("{}/{}", a.address(family), family.of(["32", "128"]))}}]);
        let ports = json!({"podSelector": {}, "ingress": [{"ports": [{"port": 1, "endPort": 65_535}]}]});
        for _ in 0..5 {
            for policies in [
                vec![into(b, &json!([named(&a.name)]))],
                vec![into(b, &block), shut_ingress()],
                vec![policy(NAMESPACE, "ports", &ports)],
                vec![into(b, &json!([named(&c.name), named(&a.name)])), policy(NAMESPACE, "ports", &ports)],
            ] {
                let all = policies.len() > 1 || policies[0]["metadata"]["name"] == "ports";
                restrict(&bed, &policies, if all { [2, 2] } else { [0, 1] });
                far.talk();
            }
        }
        restrict(&bed, &[], [0, 0]);
    }
    bed.cluster.ledgers().unwrap();
}

fn shut_ingress() -> Value {
    policy(NAMESPACE, "shut", &json!({"podSelector": {}, "policyTypes": ["Ingress"]}))
}

/// Datagrams from one pod to another, each with its number, from one socket after the other.
struct Stream {
    what: String,
    sockets: Vec<UdpSocket>,
    listener: UdpSocket,
    at: SocketAddr,
    /// By number: how often it was heard.
    heard: Vec<u32>,
}

impl Stream {
    fn new(from: &Pod, to: &Pod, family: Family) -> Self {
        let listener = inside(&to.netns, || UdpSocket::bind((ip(to, family), 0)).unwrap()).unwrap();
        let at = listener.local_addr().unwrap();
        let own = ip(from, family);
        let bind = || (0..16).map(|_| UdpSocket::bind((own, 0)).unwrap()).collect::<Vec<_>>();
        let sockets = inside(&from.netns, bind).unwrap();
        listener.set_nonblocking(true).unwrap();
        let what = format!("{} to {} by {family:?}", from.name, to.name);
        Self { what, sockets, listener, at, heard: Vec::new() }
    }

    fn say(&mut self) {
        let number = u32::try_from(self.heard.len()).unwrap();
        let socket = &self.sockets[self.heard.len() % self.sockets.len()];
        socket.send_to(&number.to_be_bytes(), self.at).unwrap();
        self.heard.push(0);
    }

    fn hear(&mut self) {
        let mut number = [0; 4];
        while let Ok((4, _)) = self.listener.recv_from(&mut number) {
            self.heard[usize::try_from(u32::from_be_bytes(number)).unwrap()] += 1;
        }
    }

    /// One from each socket; gives how many these are.
    fn round(&mut self) -> usize {
        let count = self.sockets.len();
        (0..count).for_each(|_| self.say());
        count
    }

    fn passes(&mut self) {
        let count = self.round();
        wait_until(&self.what.clone(), PATIENCE, || {
            self.hear();
            let last = &self.heard[self.heard.len() - count..];
            ensure!(last.iter().all(|times| *times == 1), "{last:?}");
            Ok(())
        })
        .unwrap();
    }

    fn is_cut(&mut self, bed: &Bed) {
        let before = denied(&bed.cluster.nodes).unwrap();
        let count = self.round();
        wait_until(&self.what.clone(), PATIENCE, || {
            let counted = denied(&bed.cluster.nodes)? - before;
            ensure!(counted >= u64::try_from(count)?, "{counted} were denied");
            Ok(())
        })
        .unwrap();
        self.hear();
        let last = &self.heard[self.heard.len() - count..];
        assert!(last.iter().all(|times| *times == 0), "{}: {last:?}", self.what);
    }

    fn lost(&self) -> usize {
        self.heard.iter().filter(|times| **times != 1).count()
    }
}

/// All streams go on while something happens. Of those that are always allowed nothing is lost, of others nothing comes; of the rest
/// nobody knows.
fn go_on<T>(
    always: &mut [Stream],
    never: &mut [Stream],
    rest: &mut [Stream],
    happens: impl FnOnce() -> T,
) -> T {
    let over = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let saying = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                for stream in always.iter_mut().chain(&mut *never).chain(&mut *rest) {
                    stream.say();
                    stream.hear();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            // What is denied was sent before what is waited for here.
            always.iter_mut().for_each(Stream::say);
            wait_until("all has come that may", PATIENCE, || {
                for stream in &mut *always {
                    stream.hear();
                    ensure!(
                        stream.lost() == 0,
                        "{}: {} of {} lost",
                        stream.what,
                        stream.lost(),
                        stream.heard.len()
                    );
                }
                Ok(())
            })
        });
        // The others end in any case.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(happens));
        over.store(true, Ordering::SeqCst);
        saying.join().unwrap().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    for stream in never {
        stream.hear();
        assert!(stream.heard.iter().all(|times| *times == 0), "{}: passed", stream.what);
    }
    for stream in rest {
        stream.hear();
        let passed = stream.heard.iter().filter(|times| **times > 0).count();
        println!("{}: {passed} of {} passed", stream.what, stream.heard.len());
    }
    result
}

/// Who asks one pod: from the other node and its own, always, never, and at times.
struct Crowd {
    bed: Bed,
    more: Vec<Pod>,
}

impl Crowd {
    fn new() -> Self {
        let bed = Bed::new(2);
        let more = [("friend", 1), ("foe", 0), ("foe-too", 1), ("fickle", 0)]
            .map(|(name, node)| Pod::attach(&bed.cluster.nodes[node], name, Kind::Kernel).unwrap());
        Self { bed, more: more.into() }
    }

    fn streams(&self) -> [Vec<Stream>; 3] {
        let [a, b] = [&self.bed.pods[0], &self.bed.pods[1]];
        let [friend, foe, foe_too, fickle] = [0, 1, 2, 3].map(|at| &self.more[at]);
        let streams = |pairs: &[(&Pod, &Pod)]| -> Vec<Stream> {
            let both = |(from, to): &(&Pod, &Pod)| Family::BOTH.map(|family| Stream::new(from, to, family));
            pairs.iter().flat_map(both).collect()
        };
        let never = [(foe, b), (foe_too, b), (a, foe), (b, friend)];
        [streams(&[(a, b), (friend, b)]), streams(&never), streams(&[(fickle, b)])]
    }

    /// Everybody is shut, but for b from its friends, and perhaps one more.
    fn policies(&self, more: bool) -> [Value; 2] {
        let mut peers = vec![named(&self.bed.pods[0].name), named("friend")];
        if more {
            // The same by other words, and somebody else.
            peers.reverse();
            peers.push(named("fickle"));
        }
        [shut_ingress(), into(&self.bed.pods[1], &json!(peers))]
    }
}

/// An API server for each node, with all that the cluster has.
struct Servers(Vec<ApiServer>);

impl Servers {
    /// And the nodes follow them from now on.
    fn new<'a>(bed: &mut Bed, pods: impl IntoIterator<Item = (&'a Pod, usize)>) -> Self {
        let servers = Self(bed.cluster.nodes.iter().map(|node| api::serve(node).unwrap()).collect());
        bed.cluster.nodes.iter().for_each(|node| servers.set(&real(node)));
        servers.set(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
        let tell = |pod: &Pod, node: usize| {
            let mut object = pod.object.clone();
            let ips: Vec<Value> = pod.addresses.iter().map(|own| json!({"ip": own})).collect();
            object["spec"]["nodeName"] = json!(bed.cluster.nodes[node].site.name());
            object["status"] = json!({"phase": "Running", "podIP": pod.addresses[0], "podIPs": ips});
            servers.set(&object);
        };
        bed.pods.iter().zip(0..).for_each(|(pod, node)| tell(pod, node));
        pods.into_iter().for_each(|(pod, node)| tell(pod, node));
        for (node, server) in bed.cluster.nodes.iter_mut().zip(&servers.0) {
            api::follow(node, server).unwrap();
            node.restart_control().unwrap();
        }
        servers
    }

    fn set(&self, object: &Value) {
        for server in &self.0 {
            server.set(object.clone());
        }
    }
}

/// By an API server, since a directory is read when it has fallen quiet.
#[test]
fn policies_that_change_a_hundred_times_a_second_let_nothing_through_and_lose_nothing() {
    let mut crowd = Crowd::new();
    let Crowd { bed, more } = &mut crowd;
    let servers = Servers::new(bed, more.iter().zip([1, 0, 1, 0]));
    crowd.policies(false).iter().for_each(|policy| servers.set(policy));
    in_force(&crowd.bed, [3, 3]);
    let [mut always, mut never, mut rest] = crowd.streams();
    let changes = go_on(&mut always, &mut never, &mut rest, || {
        let (began, limit) = (Instant::now(), Duration::from_secs(seconds()));
        let mut changes = 0_u32;
        while began.elapsed() < limit {
            servers.set(&crowd.policies(changes.is_multiple_of(2))[1]);
            changes += 1;
            let next = Duration::from_millis(10) * changes;
            std::thread::sleep(next.saturating_sub(began.elapsed()));
        }
        changes
    });
    println!("{changes} changes");
    crowd.bed.cluster.ledgers().unwrap();
}

#[test]
fn what_is_denied_stays_so_and_what_is_allowed_too_while_processes_are_killed() {
    let mut crowd = Crowd::new();
    restrict(&crowd.bed, &crowd.policies(false), [3, 3]);
    let [mut always, mut never, _] = crowd.streams();
    let [mut friends, mut still_never, _] = crowd.streams();
    let Crowd { bed, .. } = &mut crowd;
    go_on(&mut always, &mut never, &mut [], || {
        // At any moment of its start (Numerical Recipes, section 7.1).
        let mut series = 1u32;
        for round in 0..40 {
            series = series.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let node = &mut bed.cluster.nodes[round % 2];
            node.crash_control(Duration::from_millis(u64::from(series >> 8) % 80)).unwrap();
        }
        for node in &mut bed.cluster.nodes {
            node.settle().unwrap();
        }
    });
    // Without a data plane nothing passes, and with a new one not before it has its policies.
    go_on(&mut [], &mut still_never, &mut friends, || {
        for node in &mut bed.cluster.nodes {
            node.restart_dataplane().unwrap();
            node.restart_both().unwrap();
        }
    });
    for family in Family::BOTH {
        let [a, b] = [&bed.pods[0], &bed.pods[1]];
        Connection::new(&a.netns, b, family);
    }
    crowd.bed.cluster.ledgers().unwrap();
}

/// Says the same to all of these, again and again, whoever of them is there.
fn hail(socket: &UdpSocket, all: &[SocketAddr], over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        for at in all {
            // That there is no way yet is told here.
            let _ = socket.send_to(b"word", at);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn bound(netns: &Netns, at: &str) -> UdpSocket {
    let socket = inside(netns, || UdpSocket::bind(at)).unwrap().unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// What has come, by family.
fn count(socket: &UdpSocket) -> [usize; 2] {
    let mut counts = [0; 2];
    while let Ok((_, who)) = socket.recv_from(&mut [0; 8]) {
        counts[usize::from(!who.ip().to_canonical().is_ipv4())] += 1;
    }
    counts
}

/// This many after an address.
fn after(address: IpAddr, count: u8) -> IpAddr {
    match address {
        IpAddr::V4(own) => IpAddr::V4((own.to_bits() + u32::from(count)).into()),
        IpAddr::V6(own) => IpAddr::V6((own.to_bits() + u128::from(count)).into()),
    }
}

/// Listeners count from before there is an interface, and nobody waits with saying something.
#[test]
fn a_pod_is_restricted_from_its_first_moment_on() {
    let mut bed = Bed::new(2);
    let friend = Pod::attach(&bed.cluster.nodes[0], "friend", Kind::Kernel).unwrap();
    let servers = Servers::new(&mut bed, [(&friend, 0)]);
    let node = &bed.cluster.nodes[0];
    let foes = [&bed.pods[0], &bed.pods[1]];
    let own = json!({
        "podSelector": {"matchLabels": {"app": "late"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [named("friend")]}], "egress": [{"to": [named("friend")]}],
    });
    servers.set(&policy(NAMESPACE, "late", &own));
    // Nobody can tell whether it is for a pod of which nothing is known.
    let netns = Netns::create(&node.run, "nobody").unwrap();
    let path = netns.path();
    let environment = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "nobody"),
        ("CNI_NETNS", path.to_str().unwrap()),
        ("CNI_IFNAME", INTERFACE),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=nobody"),
    ];
    wait_until("the policy is known", PATIENCE, || {
        let finished = node.cni(&environment, &configuration(node, Kind::Kernel))?;
        if finished.status.success() {
            let gone: Vec<_> =
                [("CNI_COMMAND", "DEL")].into_iter().chain(environment[1..].iter().copied()).collect();
            node.cni(&gone, &configuration(node, Kind::Kernel))?;
        }
        let error: Value = serde_json::from_str(&finished.stdout)?;
        let why = error["msg"].as_str().unwrap_or_default();
        ensure!(error["code"] == 11 && why.contains("nobody is not known"), "{}", finished.stdout);
        Ok(())
    })
    .unwrap();
    assert!(netns.ip(&["link", "show", "dev", INTERFACE]).is_err(), "nothing of it is left");

    let before = denied(&bed.cluster.nodes).unwrap();
    let heard = foes.map(|foe| bound(&foe.netns, "[::]:7"));
    let heard_by_friend = bound(&friend.netns, "[::]:7");
    let to: Vec<SocketAddr> = foes
        .iter()
        .chain(&[&friend])
        .flat_map(|pod| pod.addresses.iter().map(|own| SocketAddr::new(*own, 7)))
        .collect();
    let mut last = friend.addresses.clone();
    for number in 0..5 {
        let name = format!("late-{number}");
        let object = manifests::pod(NAMESPACE, &name, &json!({"app": "late"}), &[]);
        let mut scheduled = object.clone();
        scheduled["spec"]["nodeName"] = json!(node.site.name());
        servers.set(&scheduled);
        let netns = Netns::create(&node.run, &name).unwrap();
        let [by_foes, by_friend] = [8, 9].map(|port| bound(&netns, &format!("[::]:{port}")));
        // One of these it will have.
        let next = |port: u16| -> Vec<SocketAddr> {
            let few = |own: &IpAddr| {
                (1..=8).map(|count| SocketAddr::new(after(*own, count), port)).collect::<Vec<_>>()
            };
            last.iter().flat_map(few).collect()
        };
        let hails: Vec<(UdpSocket, Vec<SocketAddr>)> = vec![
            (bound(&foes[0].netns, "[::]:0"), next(8)),
            (bound(&foes[1].netns, "[::]:0"), next(8)),
            (bound(&friend.netns, "[::]:0"), next(9)),
            (bound(&netns, "[::]:0"), to.clone()),
        ];
        let over = AtomicBool::new(false);
        let attached = std::thread::scope(|scope| {
            for (socket, to) in &hails {
                scope.spawn(|| hail(socket, to, &over));
            }
            let attached = Pod::attach_into(node, netns, &object, Kind::Kernel, &json!({})).and_then(|pod| {
                let mut families = [0; 4];
                wait_until("it and its friend hear each other", PATIENCE, || {
                    for (sum, more) in
                        families.iter_mut().zip([count(&by_friend), count(&heard_by_friend)].concat())
                    {
                        *sum += more;
                    }
                    ensure!(!families.contains(&0), "{families:?}");
                    Ok(())
                })?;
                Ok(pod)
            });
            over.store(true, Ordering::SeqCst);
            attached
        });
        let pod = bed.cluster.explain(attached).unwrap();
        for address in &pod.addresses {
            assert!(next(8).contains(&SocketAddr::new(*address, 8)), "{address} after {last:?}");
        }
        assert_eq!(count(&by_foes), [0, 0], "{name} was reached");
        for heard in &heard {
            assert_eq!(count(heard), [0, 0], "{name} was heard");
        }
        last = pod.addresses.clone();
    }
    assert!(denied(&bed.cluster.nodes).unwrap() > before, "somebody has tried");
    bed.cluster.ledgers().unwrap();
}
