//! A cluster of five thousand nodes, of which two are real: the others come, go and change, and those two see nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use apiserver::ApiServer;
use lab::api;
use lab::client::Client;
use lab::exchange::inside;
use lab::netns::Netns;
use lab::node::{Node, Options, Uplink, Vxlan};
use lab::pod::Family;
use lab::wait::{PATIENCE, wait_until};
use proto::dataplane::{Request, Response, Status};
use rustix::net::{AddressFamily, RecvFlags, SocketType, netlink, sockopt};
use serde_json::{Value, json};

use crate::nodes::{Bed, pinged_while};

/// Those that are not real.
const OTHERS: u32 = 5_000;
/// Changes, one after the other.
const CHANGES: u32 = 1_000;

/// Nobody is there: their ends are behind the gateway. In another `look` it has other ranges, addresses and ends.
fn other(n: u32, look: u32) -> Value {
    let [_, _, high, low] = n.to_be_bytes();
    object(
        &format!("simulated-{n:05}"),
        [format!("10.{}.{low}.0/24", 100 + 40 * look + u32::from(high)), format!("fd01:{look}:0:{n:x}::/64")],
        [format!("172.{}.{high}.{low}", 20 + look), format!("fd02:{look}::{n:x}")],
        &format!("172.{}.{high}.{low},fd03:{look}::{n:x}", 22 + look),
    )
}

/// Each change is another node's.
const fn nth(change: u32) -> u32 {
    1 + change.wrapping_mul(7_919) % OTHERS
}

fn object(name: &str, pod_cidrs: [String; 2], addresses: [String; 2], routers: &str) -> Value {
    let address = |address: &String| json!({"type": "InternalIP", "address": address});
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": name, "annotations": {"podrouter.io/router-addresses": routers}},
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs},
        "status": {"addresses": addresses.iter().map(address).collect::<Vec<_>>()},
    })
}

fn routers_of(object: &Value) -> &str {
    object["metadata"]["annotations"]["podrouter.io/router-addresses"].as_str().unwrap()
}

/// Where its datagrams come from.
fn end_of(object: &Value) -> &str {
    routers_of(object).split(',').next().unwrap()
}

/// What nftables is to have of a node: each of its addresses and ranges in a set for those of its length, with the end that it comes from.
fn sources(object: &Value) -> Vec<String> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|own| own.as_str().unwrap().to_owned()).collect()
    };
    let addresses = object["status"]["addresses"].as_array().unwrap();
    let addresses = addresses.iter().map(|own| own["address"].as_str().unwrap());
    let routers = routers_of(object);
    let end = end_of(object);
    let of = |prefix: String| {
        let (first, length) = prefix.split_once('/').unwrap();
        match first.parse().unwrap() {
            IpAddr::V4(own) => format!("tunnel_sources_ip_{length} {end} . {:#x}", own.to_bits()),
            IpAddr::V6(own) => format!("tunnel_sources_ip6_{length} {end} . {:#x}", own.to_bits()),
        }
    };
    let host = |address: &str| format!("{address}/{}", if address.contains(':') { 128 } else { 32 });
    let hosts = addresses.chain(routers.split(',')).map(host);
    texts(&object["spec"]["podCIDRs"]).into_iter().chain(hosts).map(of).collect()
}

/// The same, as it is there.
fn sources_there(host: &Netns) -> BTreeSet<String> {
    let text = host.succeed("nft", &["list", "table", "inet", "podrouter"]).unwrap();
    let sets = text.split("\tset ").filter(|set| set.starts_with("tunnel_sources_"));
    sets.flat_map(|set| {
        let (name, rest) = set.split_once(' ').unwrap();
        let elements =
            rest.split_once("elements = {").map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
        elements.split(',').map(move |own| format!("{name} {}", own.trim()))
    })
    .collect()
}

pub(crate) fn real(node: &Node) -> Value {
    let site = node.site;
    let routers = if node.options.uplink == Uplink::Kernel { site.host() } else { site.router() };
    object(&site.name(), site.pod_cidrs(), site.host(), &routers.join(","))
}

fn client(node: &Node) -> Client {
    Client::connect(&node.query().dataplane, || Ok(())).unwrap()
}

fn status(client: &mut Client) -> anyhow::Result<Status> {
    match client.call(&Request::ShowStatus)? {
        Response::Status(status) => Ok(status),
        other => Err(anyhow::anyhow!("{other:?}")),
    }
}

fn milliseconds(delays: &[Duration], share: usize) -> f64 {
    delays[(delays.len() * share / 100).min(delays.len() - 1)].as_secs_f64() * 1e3
}

fn tell(what: &str, delays: &mut [Duration]) {
    delays.sort();
    println!(
        "a Node's change to {what} among {OTHERS}: median {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        milliseconds(delays, 50),
        milliseconds(delays, 99),
        milliseconds(delays, 100)
    );
}

/// Two real nodes, the first of which hears of all others.
struct Simulation {
    bed: Bed,
    server: ApiServer,
    /// Routes of the data plane without the others.
    few: u64,
}

impl Simulation {
    fn new(options: &Options) -> Self {
        let mut bed = Bed::with(options, 2);
        let few = status(&mut client(&bed.cluster.nodes[0])).unwrap().routes;
        let server = api::serve(&bed.cluster.nodes[0]).unwrap();
        api::follow(&mut bed.cluster.nodes[0], &server).unwrap();
        for node in &bed.cluster.nodes {
            server.set(real(node));
        }
        for n in 1..=OTHERS {
            server.set(other(n, 0));
        }
        bed.cluster.nodes[0].restart_control().unwrap();
        Self { bed, server, few }
    }

    /// One after the other comes to be another or goes, while the real ones speak; how long each took, of which `until` knows the end by the
    /// number of the node and whether it is gone.
    fn churn(&self, what: &str, mut until: impl FnMut(u32, bool, &dyn Fn()) -> Duration + Send) {
        let Self { bed, server, .. } = self;
        let (from, to) = (bed.pods[0].netns.clone(), bed.pods[1].address(Family::V4));
        let (pinged, mut delays) = pinged_while(&from, &to, 10, || {
            let delay = |change: u32| {
                let (n, gone) = (nth(change), change.is_multiple_of(4));
                until(n, gone, &|| match gone {
                    true => server.delete("Node", "", &format!("simulated-{n:05}")),
                    false => drop(server.set(other(n, 1))),
                })
            };
            (0..CHANGES).map(delay).collect::<Vec<_>>()
        });
        tell(what, &mut delays);
        assert!(pinged.complete(), "{} of {}", pinged.received, pinged.sent);
    }

    /// The others that are there after all changes, and how each looks.
    fn left() -> BTreeMap<u32, u32> {
        let mut left: BTreeMap<u32, u32> = (1..=OTHERS).map(|n| (n, 0)).collect();
        for change in 0..CHANGES {
            if change.is_multiple_of(4) {
                left.remove(&nth(change));
            } else {
                left.insert(nth(change), 1);
            }
        }
        left
    }

    /// One that has changed, one that is gone, and one that is as it was, in a text that has all routes.
    fn check(&self, routes: &str) {
        let same = (1..=OTHERS).find(|n| (0..CHANGES).all(|change| nth(change) != *n)).unwrap();
        let [changed, deleted, same] = [nth(1), nth(0), same].map(|n| {
            let ranges = |look| other(n, look)["spec"]["podCIDRs"].as_array().unwrap().clone();
            [0, 1].map(|look| ranges(look).iter().all(|prefix| routes.contains(prefix.as_str().unwrap())))
        });
        assert_eq!((changed, deleted, same), ([false, true], [false, false], [true, false]));
        self.bed.cluster.ledgers().unwrap();
    }
}

#[test]
fn five_thousand_nodes_come_go_and_change_while_two_speak() {
    let simulation = Simulation::new(&Options { vxlan: Vxlan::Always, ..Options::default() });
    let node = &simulation.bed.cluster.nodes[0];
    let mut client = client(node);
    // Two ranges and two addresses each.
    let all = |client: &mut Client, others: u32| {
        let there = status(client)?.routes;
        anyhow::ensure!(there == simulation.few + 4 * u64::from(others), "{there} routes");
        Ok(())
    };
    wait_until("all routes are there", PATIENCE, || all(&mut client, OTHERS)).unwrap();
    simulation.churn("its generation", |_, _, change| {
        let before = status(&mut client).unwrap().committed;
        let began = Instant::now();
        change();
        while status(&mut client).unwrap().committed == before {
            assert!(began.elapsed() < PATIENCE, "a change is not in force");
            std::thread::sleep(Duration::from_micros(100));
        }
        began.elapsed()
    });
    all(&mut client, OTHERS - CHANGES / 4).unwrap();
    simulation.check(&node.query().text(&["show", "routes"]).unwrap());
}

/// The same where each has to be told to the node's kernel: its route, its end of the tunnel, and whom pods reach as themselves.
#[test]
fn by_the_nodes_kernel_five_thousand_nodes_come_go_and_change_too() {
    let options = Options { uplink: Uplink::Kernel, vxlan: Vxlan::Always, ..Options::default() };
    let simulation = Simulation::new(&options);
    let host = &simulation.bed.cluster.nodes[0].host;
    let routes = || host.ip(&["route"]).unwrap() + &host.ip(&["-6", "route"]).unwrap();
    wait_until("all routes are there", PATIENCE, || {
        let there = routes().lines().filter(|line| line.contains("dev podrouter.vxlan proto 112")).count();
        anyhow::ensure!(there == 2 * (OTHERS as usize + 1), "{there} routes");
        Ok(())
    })
    .unwrap();
    let theirs = sources(&real(&simulation.bed.cluster.nodes[1]));
    let has_sources = |others: &BTreeMap<u32, u32>| {
        let others = others.iter().flat_map(|(n, look)| sources(&other(*n, *look)));
        let all: BTreeSet<String> = others.chain(theirs.clone()).collect();
        wait_until("nftables has all sources and no others", PATIENCE, || {
            let there = sources_there(host);
            let (missing, left) = (all.difference(&there).next(), there.difference(&all).next());
            anyhow::ensure!(there == all, "{missing:?} is not there, {left:?} is");
            Ok(())
        })
        .unwrap();
    };
    has_sources(&(1..=OTHERS).map(|n| (n, 0)).collect());
    let (mut heard, mut elements) = (Heard::new(host), elements_heard(host).into_iter());
    let mut taken = Vec::new();
    simulation.churn("its kernel's route", |n, gone, change| {
        let node = other(n, u32::from(!gone));
        let prefix = node["spec"]["podCIDRs"][0].as_str().unwrap();
        let expected = if gone { format!("Deleted {prefix}") } else { prefix.to_owned() };
        let octets = |address: &str| address.parse::<Ipv4Addr>().unwrap().octets();
        let key = [octets(end_of(&node)), octets(prefix.split_once('/').unwrap().0)].concat();
        let began = Instant::now();
        change();
        // Nothing else is said of it.
        let (when, _) = elements.find(|(_, said)| said.windows(8).any(|own| own == key)).unwrap();
        taken.push(when.duration_since(began));
        heard.until(|line| line.starts_with(&expected)).duration_since(began)
    });
    tell("what its kernel takes from it", &mut taken);
    simulation.check(&routes());
    has_sources(&Simulation::left());
}

/// <linux/netfilter/nfnetlink.h>: whom its changes are told.
const NFTABLES: u32 = 7;

/// What a kernel says of nftables' elements as they change, each with when it was said; `nft monitor` takes its time.
fn elements_heard(host: &Netns) -> Receiver<(Instant, Vec<u8>)> {
    let (sender, elements) = mpsc::channel();
    let open = || {
        let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))?;
        rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, 1 << (NFTABLES - 1)))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        rustix::io::Result::Ok(socket)
    };
    let socket = inside(host, open).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut said = vec![0; 1 << 16];
        while let Ok((_, length)) = rustix::net::recv(&socket, &mut said, RecvFlags::empty())
            && sender.send((Instant::now(), said[..length].to_vec())).is_ok()
        {}
    });
    elements
}

/// What a kernel says of its routes as they change.
struct Heard {
    process: Child,
    lines: Receiver<(Instant, String)>,
}

impl Heard {
    fn new(host: &Netns) -> Self {
        let mut process =
            host.command("ip").args(["-4", "monitor", "route"]).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let said = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            said.lines().map_while(Result::ok).all(|line| sender.send((Instant::now(), line)).is_ok())
        });
        // It listens once it says so much as one line.
        wait_until("it is heard", PATIENCE, || {
            for verb in ["add", "del"] {
                host.ip(&["route", verb, "198.51.100.1/32", "dev", "lo"])?;
            }
            lines.recv_timeout(Duration::from_millis(100))?;
            Ok(())
        })
        .unwrap();
        Self { process, lines }
    }

    /// When it was said.
    fn until(&mut self, is_it: impl Fn(&str) -> bool) -> Instant {
        loop {
            let (when, line) = self.lines.recv_timeout(PATIENCE).unwrap();
            if is_it(&line) {
                return when;
            }
        }
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
