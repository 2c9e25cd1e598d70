//! NetworkPolicies on real traffic: three namespaces of three pods, on two nodes, and who of them reaches whom.
//!
//! What is expected is said by each step in a few words of its own, never by how policies become rows.

use lab::artefacts::Artefacts;
use lab::bridge::bridge;
use lab::cluster::Cluster;
use lab::manifests;
use lab::node::{Options, Uplink, Vxlan};
use lab::pod::{Kind, Pod};
use lab::process::Process;
use lab::run::Run;
use serde_json::{Value, json};

use crate::policy_probes::{Ask, By, Field, Party, own_name};

pub(crate) const FILE: &str = "policies.json";
const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// And the node that each is on.
const PODS: [(&str, usize); 9] = [
    ("x/a", 0),
    ("x/b", 1),
    ("x/c", 0),
    ("y/a", 0),
    ("y/b", 1),
    ("y/c", 1),
    ("z/a", 0),
    ("z/b", 1),
    ("z/c", 0),
];
/// A DPDK pod, as client and as server.
const DPDK: &str = "y/b";

/// Everybody with these labels has that name for one port, and others for another.
const WEB: u16 = 80;
const WEB_OF_C: u16 = 81;

pub(crate) fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    })
}

/// Namespaces with their own label, the one that the API server gives each, and more.
pub(crate) fn namespaces(more: &[(&str, &str, &str)]) -> Vec<Value> {
    let namespace = |name: &&str| {
        let mut labels = json!({"ns": name, "kubernetes.io/metadata.name": name});
        for (_, key, value) in more.iter().filter(|(own, ..)| own == name) {
            labels[*key] = json!(value);
        }
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    };
    NAMESPACES.iter().map(namespace).collect()
}

/// Its label is its name, and it may have more.
pub(crate) fn pod(name: &str, more: &[(&str, &str)]) -> Value {
    let (namespace, own) = name.split_once('/').unwrap();
    let mut labels = json!({"pod": own});
    for (key, value) in more {
        labels[*key] = json!(value);
    }
    let web = if own == "c" { WEB_OF_C } else { WEB };
    manifests::pod(namespace, own, &labels, &[("web", "TCP", web), ("dns", "UDP", 81)])
}

/// All pods, and what each step begins with: no policy, and labels as they were.
struct Matrix {
    field: Field,
    _bridge: Process,
    pods: Vec<Pod>,
    cluster: Cluster,
}

impl Matrix {
    fn new(options: &Options) -> Self {
        let cluster =
            Cluster::start(&Run::start().unwrap(), &Artefacts::find().unwrap(), options, 2).unwrap();
        cluster.set("namespaces.json", &namespaces(&[])).unwrap();
        let attach = |(name, node): &(&str, usize)| {
            let kind = if *name == DPDK { Kind::VhostUser } else { Kind::Kernel };
            Pod::attach_object(&cluster.nodes[*node], &pod(name, &[]), kind, &json!({})).unwrap()
        };
        let pods: Vec<Pod> = PODS.iter().map(attach).collect();
        let at = PODS.iter().position(|(name, _)| *name == DPDK).unwrap();
        let bridge = bridge(&cluster.nodes[PODS[at].1], &pods[at]).unwrap();
        let parties = PODS.iter().zip(&pods).map(|((name, _), pod)| Party::new(name, pod)).collect();
        Self { field: Field::new(parties), _bridge: bridge, pods, cluster }
    }

    /// With these policies and no others.
    fn step(&mut self, what: &str, policies: &[Value], allowed: impl Fn(&Ask) -> bool) {
        self.cluster.set(FILE, policies).unwrap();
        self.see(what, allowed);
    }

    /// Who reaches whom now.
    fn see(&mut self, what: &str, allowed: impl Fn(&Ask) -> bool) {
        self.field
            .expect(&self.cluster.nodes, what, &allowed)
            .map_err(|error| error.context(self.cluster.nodes[1].logs(10)))
            .unwrap();
    }

    fn relabel(&self, name: &str, labels: &[(&str, &str)]) {
        let at = PODS.iter().position(|(own, _)| *own == name).unwrap();
        self.pods[at].tell(&self.cluster.nodes[PODS[at].1], &pod(name, labels)).unwrap();
    }

    /// As blocks of one address.
    fn blocks(&self, name: &str) -> [String; 2] {
        let party = self.field.parties.iter().find(|party| party.name == name).unwrap();
        let [v4, v6] = party.addresses;
        [format!("{v4}/32"), format!("{v6}/128")]
    }

    fn end(self) {
        self.cluster.ledgers().unwrap();
    }
}

fn is_on_first(name: &str) -> bool {
    PODS.iter().any(|(own, node)| *own == name && *node == 0)
}

fn deny(directions: &[&str]) -> Value {
    json!({"podSelector": {}, "policyTypes": directions})
}

fn of(name: &str) -> Value {
    json!({"matchLabels": {"pod": name}})
}

fn in_namespace(name: &str) -> Value {
    json!({"matchLabels": {"ns": name}})
}

#[test]
fn policies_deny_allow_add_up_change_and_go() {
    let mut all = Matrix::new(&Options::default());
    all.step("nobody says anything", &[], |_| true);
    let closed = policy("x", "deny", &deny(&["Ingress"]));
    all.step("what enters x is denied", std::slice::from_ref(&closed), |ask| !ask.is_to("x"));
    let shut = policy("x", "deny", &deny(&["Ingress", "Egress"]));
    all.step("all of x is denied", std::slice::from_ref(&shut), |ask| !ask.is_to("x") && !ask.is_from("x"));
    let open = policy("x", "allow", &json!({"podSelector": {}, "ingress": [{}], "egress": [{}]}));
    all.step("what is denied and allowed is allowed", &[shut.clone(), open], |_| true);
    all.step("denied again", &[shut], |ask| !ask.is_to("x") && !ask.is_from("x"));
    all.step("no policy is left", &[], |_| true);

    let from = |name: &str| {
        let rule = json!([{"from": [{"podSelector": of(name)}]}]);
        policy("x", "own", &json!({"podSelector": of("a"), "ingress": rule}))
    };
    for name in ["b", "c"] {
        all.step(&format!("x/a is asked by {name} alone"), &[from(name)], |ask| {
            ask.to != "x/a" || ask.is_from("x") && ask.is_from_pod(name)
        });
    }
    let more = json!([{"from": [{"namespaceSelector": in_namespace("z")}], "ports": [{"port": 81}]}]);
    let more = policy("x", "more", &json!({"podSelector": of("a"), "ingress": more}));
    all.step("and by z at a port", &[closed, from("b"), more], |ask| match ask.to {
        "x/a" => ask.from == "x/b" || ask.is_from("z") && (ask.by, ask.port) == (By::Tcp, 81),
        _ => !ask.is_to("x"),
    });
    all.end();
}

#[test]
fn what_leaves_a_pod_and_what_enters_it_are_governed_apart() {
    let mut all = Matrix::new(&Options::default());
    let to = |namespace: &str, name: &str, peer: &Value| {
        let spec = json!({"podSelector": of(name), "policyTypes": ["Egress"], "egress": [{"to": [peer]}]});
        policy(namespace, "out", &spec)
    };
    all.step("y/a asks b alone", &[to("y", "a", &json!({"podSelector": of("b")}))], |ask| {
        ask.from != "y/a" || ask.to == "y/b"
    });
    // A DPDK pod.
    let peer = json!({"namespaceSelector": in_namespace("x"), "podSelector": of("c")});
    all.step("y/b asks another namespace", &[to("y", "b", &peer)], |ask| {
        ask.from != "y/b" || ask.to == "x/c"
    });
    let silent = policy("y", "silent", &json!({"podSelector": of("b"), "policyTypes": ["Egress"]}));
    all.step("y/b answers and does not ask", std::slice::from_ref(&silent), |ask| ask.from != "y/b");
    let open = policy("x", "open", &json!({"podSelector": {}, "ingress": [{}]}));
    all.step("though it were heard", &[silent, open], |ask| ask.from != "y/b");
    let both = json!({
        "podSelector": of("b"), "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"namespaceSelector": in_namespace("x")}]}],
        "egress": [{"to": [{"namespaceSelector": in_namespace("z")}]}],
    });
    all.step("y/b is asked by x and asks z", &[policy("y", "both", &both)], |ask| {
        (ask.to != "y/b" || ask.is_from("x")) && (ask.from != "y/b" || ask.is_to("z"))
    });
    let [into, out] = [("Ingress", "ingress"), ("Egress", "egress")].map(|(direction, rules)| {
        policy("z", direction, &json!({"podSelector": of("c"), "policyTypes": [direction], rules: [{}]}))
    });
    let shut = policy("z", "shut", &deny(&["Ingress", "Egress"]));
    all.step("z/c may be asked", &[shut.clone(), into], |ask| {
        !ask.is_from("z") && (!ask.is_to("z") || ask.to == "z/c")
    });
    all.step("z/c may ask", &[shut, out], |ask| !ask.is_to("z") && (!ask.is_from("z") || ask.from == "z/c"));
    all.end();
}

#[test]
fn peers_are_chosen_by_their_labels_and_their_namespaces() {
    let mut all = Matrix::new(&Options { uplink: Uplink::Kernel, ..Options::default() });
    let asked_by =
        |peers: &Value| policy("x", "own", &json!({"podSelector": of("a"), "ingress": [{"from": peers}]}));
    let some = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    let name = "kubernetes.io/metadata.name";
    type Truth = fn(&Ask) -> bool;
    let cases: [(&str, Value, Truth); 11] = [
        ("pods", json!([{"podSelector": of("b")}]), |ask| ask.from == "x/b"),
        ("any pods", json!([{"podSelector": {}}]), |ask| ask.is_from("x")),
        ("a namespace", json!([{"namespaceSelector": in_namespace("y")}]), |ask| ask.is_from("y")),
        ("all namespaces", json!([{"namespaceSelector": {}}]), |_| true),
        ("either", json!([{"namespaceSelector": in_namespace("y")}, {"podSelector": of("b")}]), |ask| {
            ask.is_from("y") || ask.from == "x/b"
        }),
        ("both", json!([{"namespaceSelector": in_namespace("y"), "podSelector": of("b")}]), |ask| {
            ask.from == "y/b"
        }),
        (
            "pods of many namespaces",
            json!([{"namespaceSelector": some("ns", "NotIn", &["x"]), "podSelector": some("pod", "In", &["a", "c"])}]),
            |ask| !ask.is_from("x") && !ask.is_from_pod("b"),
        ),
        ("pods by expressions", json!([{"podSelector": some("pod", "NotIn", &["b"])}]), |ask| {
            ask.from == "x/c"
        }),
        ("a namespace by its name", json!([{"namespaceSelector": {"matchLabels": {name: "z"}}}]), |ask| {
            ask.is_from("z")
        }),
        ("all but one", json!([{"namespaceSelector": some(name, "NotIn", &["z"])}]), |ask| !ask.is_from("z")),
        ("nobody", json!([{"podSelector": of("nobody")}]), |_| false),
    ];
    for (what, peers, truth) in &cases {
        all.step(&format!("x/a is asked by {what}"), &[asked_by(peers)], |ask| ask.to != "x/a" || truth(ask));
    }
    // Several are selected, by an expression.
    let many =
        json!({"podSelector": some("pod", "In", &["a", "c"]), "ingress": [{"from": [{"podSelector": {}}]}]});
    all.step("a and c of y are y's", &[policy("y", "many", &many)], |ask| {
        !ask.is_to("y") || ask.is_to_pod("b") || ask.is_from("y")
    });

    // A pod of either kind becomes another, and a namespace does.
    let trusted = json!({"matchLabels": {"trust": "yes"}});
    let by_pod = asked_by(&json!([{"namespaceSelector": {}, "podSelector": trusted}]));
    all.step("nobody is trusted", &[by_pod], |ask| ask.to != "x/a");
    for name in ["z/a", "y/b"] {
        all.relabel(name, &[("trust", "yes")]);
        all.see(&format!("{name} is trusted"), |ask| ask.to != "x/a" || ask.from == name);
        all.relabel(name, &[]);
        all.see(&format!("{name} is trusted no more"), |ask| ask.to != "x/a");
    }
    let by_namespace = asked_by(&json!([{"namespaceSelector": trusted}]));
    all.step("no namespace is trusted", &[by_namespace], |ask| ask.to != "x/a");
    all.cluster.set("namespaces.json", &namespaces(&[("z", "trust", "yes")])).unwrap();
    all.see("z is trusted", |ask| ask.to != "x/a" || ask.is_from("z"));
    all.cluster.set("namespaces.json", &namespaces(&[])).unwrap();
    all.see("z is trusted no more", |ask| ask.to != "x/a");
    let marked = json!({"podSelector": {"matchLabels": {"closed": "yes"}}});
    all.step("nobody is closed", &[policy("y", "closed", &marked)], |_| true);
    for name in ["y/a", "y/b"] {
        all.relabel(name, &[("closed", "yes")]);
        all.see(&format!("{name} is closed"), |ask| ask.to != name);
        all.relabel(name, &[]);
        all.see(&format!("{name} is open again"), |_| true);
    }
    all.end();
}

#[test]
fn blocks_of_addresses_are_peers_but_for_their_exceptions() {
    let mut all = Matrix::new(&Options::default());
    let here = all.cluster.nodes[0].site.pod_cidrs();
    let block = |family: usize, except: &[&str]| {
        let except: Vec<String> = except.iter().map(|name| all.blocks(name)[family].clone()).collect();
        json!({"ipBlock": {"cidr": here[family], "except": except}})
    };
    let one = |family: usize, name: &str| json!({"ipBlock": {"cidr": all.blocks(name)[family]}});
    let into = |rules: &Value| policy("y", "own", &json!({"podSelector": of("b"), "ingress": rules}));
    let out = |rules: &Value| {
        policy("y", "own", &json!({"podSelector": of("b"), "policyTypes": ["Egress"], "egress": rules}))
    };
    let one_family = into(&json!([{"from": [block(0, &["y/a", "z/a"])]}]));
    let both = json!([block(0, &["y/a", "z/a"]), block(1, &["y/a"])]);
    let (into_both, out_both) = (into(&json!([{"from": both}])), out(&json!([{"to": both}])));
    let again = json!([one(0, "y/a"), one(1, "y/a")]);
    let into_again = into(&json!([{"from": both}, {"from": again, "ports": [{"port": 80}]}]));
    let out_again = out(&json!([{"to": both}, {"to": again, "ports": [{"port": 80}]}]));
    let among = |ask: &Ask, peer: &str| is_on_first(peer) && peer != "y/a" && (peer != "z/a" || !ask.v4);
    let or_again =
        move |ask: &Ask, peer: &str| among(ask, peer) || peer == "y/a" && (ask.by, ask.port) == (By::Tcp, 80);
    all.step("of one family", &[one_family], |ask| ask.to != "y/b" || ask.v4 && among(ask, ask.from));
    all.step("of both", &[into_both], |ask| ask.to != "y/b" || among(ask, ask.from));
    all.step("an exception that another rule allows", &[into_again], |ask| {
        ask.to != "y/b" || or_again(ask, ask.from)
    });
    all.step("as destinations", &[out_both], |ask| ask.from != "y/b" || among(ask, ask.to));
    all.step("such an exception as destination", &[out_again], |ask| {
        ask.from != "y/b" || or_again(ask, ask.to)
    });
    all.end();
}

#[test]
fn ports_are_allowed_by_protocol_number_range_and_name() {
    let mut all = Matrix::new(&Options { vxlan: Vxlan::Always, ..Options::default() });
    let into = |ports: &Value| policy("y", "own", &json!({"podSelector": {}, "ingress": [{"ports": ports}]}));
    type Truth = fn(&Ask) -> bool;
    let web = |name: &str| if own_name(name) == "c" { WEB_OF_C } else { WEB };
    let cases: [(&str, Value, Truth); 9] = [
        ("a port is TCP's", json!([{"port": 80}]), |ask| (ask.by, ask.port) == (By::Tcp, 80)),
        ("UDP alone", json!([{"port": 80, "protocol": "UDP"}]), |ask| (ask.by, ask.port) == (By::Udp, 80)),
        ("SCTP alone", json!([{"port": 80, "protocol": "SCTP"}]), |ask| (ask.by, ask.port) == (By::Sctp, 80)),
        ("any port of UDP", json!([{"protocol": "UDP"}]), |ask| ask.by == By::Udp),
        ("any port of SCTP", json!([{"protocol": "SCTP"}]), |ask| ask.by == By::Sctp),
        ("a range", json!([{"port": 81, "endPort": 90}]), |ask| (ask.by, ask.port) == (By::Tcp, 81)),
        ("a range of both", json!([{"port": 70, "endPort": 81, "protocol": "SCTP"}]), |ask| {
            ask.by == By::Sctp
        }),
        ("several", json!([{"port": 80}, {"port": 81, "protocol": "UDP"}]), |ask| {
            [(By::Tcp, 80), (By::Udp, 81)].contains(&(ask.by, ask.port))
        }),
        ("by no port's name", json!([{"port": "nothing"}]), |_| false),
    ];
    for (what, ports, truth) in &cases {
        all.step(&format!("into y: {what}"), &[into(ports)], |ask| !ask.is_to("y") || truth(ask));
    }
    all.step("into y: by a name", &[into(&json!([{"port": "web"}]))], |ask| {
        !ask.is_to("y") || ask.by == By::Tcp && ask.port == web(ask.to)
    });
    all.step("into y: by a name of UDP", &[into(&json!([{"port": "dns", "protocol": "UDP"}]))], |ask| {
        !ask.is_to("y") || (ask.by, ask.port) == (By::Udp, 81)
    });
    let rule = json!([{"from": [{"namespaceSelector": in_namespace("z")}], "ports": [{"port": "web"}]}]);
    let by_z = policy("y", "own", &json!({"podSelector": {}, "ingress": rule}));
    all.step("into y: from a namespace, by a name", &[by_z], |ask| {
        !ask.is_to("y") || ask.is_from("z") && ask.by == By::Tcp && ask.port == web(ask.to)
    });
    // The name is the one at whose end it is asked.
    let out = |rule: &Value| {
        policy("y", "own", &json!({"podSelector": of("b"), "policyTypes": ["Egress"], "egress": [rule]}))
    };
    all.step("out of y/b: by a name", &[out(&json!({"ports": [{"port": "web"}]}))], |ask| {
        ask.from != "y/b" || ask.by == By::Tcp && ask.port == web(ask.to)
    });
    let rule = json!({"to": [{"namespaceSelector": in_namespace("x")}], "ports": [{"port": "web"}, {"port": 81, "protocol": "UDP"}]});
    all.step("out of y/b: to a namespace, by a name and a number", &[out(&rule)], |ask| {
        let (named, numbered) =
            (ask.by == By::Tcp && ask.port == web(ask.to), (ask.by, ask.port) == (By::Udp, 81));
        ask.from != "y/b" || ask.is_to("x") && (named || numbered)
    });
    all.end();
}
