//! Pods that NetworkPolicies are for: none is attached before it is known which.

use apiserver::Fault;
use serde_json::{Value, json};

use crate::harness::{Netns, Node, pod, until};

fn policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

fn object(name: &str, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "uid": "a1", "labels": {"app": app}},
        "spec": {"nodeName": "knode1", "containers": []}})
}

#[test]
fn a_pod_is_attached_with_its_policies_or_not_at_all() {
    let mut node = Node::new();
    let fake = node.fake();
    let server = node.api_server(0, 0);
    server.set(policy(
        "closed",
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"]}),
    ));
    node.start_and_sync(&fake);
    let closed =
        |name: &str| fake.contents().0.policies.get(name).is_some_and(|row| row.ingress == Some(vec![]));

    // The watch is late, and nobody else can be asked.
    let unavailable = |request: &apiserver::Request| {
        request.path.contains("/pods").then_some(Fault::status(503, "ServiceUnavailable", "not yet"))
    };
    server.set_faults(unavailable);
    server.hang_up();
    until("the watch is refused", || node.status().warnings.concat().contains("not yet"));
    server.set(object("db", "db"));
    let netns = Netns::new();
    let (code, message) = node.attach_fails(pod("db", &netns), &netns);
    assert_eq!(code, 11, "{message}");
    assert!(message.contains("shop/db is not known") && message.contains("503"), "{message}");
    assert!(netns.link("eth0").is_none());
    // One of a namespace without policies needs no such care.
    let elsewhere = Netns::new();
    let mut free = pod("free", &elsewhere);
    free.pod.as_mut().unwrap().namespace = "open".into();
    node.attach(free, &elsewhere);

    // It can be asked for, and the watch is late as before.
    server.set_faults(move |request| if request.is_watch() { unavailable(request) } else { None });
    node.attach(pod("db", &netns), &netns);
    assert!(closed("shop/db"));
    server.set(object("web", "web"));
    let second = Netns::new();
    node.attach(pod("web", &second), &second);
    assert!(
        fake.contents().0.endpoints.contains_key("shop/web")
            && !fake.contents().0.policies.contains_key("shop/web")
    );

    // One that the cluster loses while it runs is what it was at last.
    server.behave();
    server.set(object("web", "db"));
    until("it is closed", || closed("shop/web"));
    let known = node.status().pods;
    server.delete("Pod", "shop", "web");
    let behind = |name: &str| {
        let netns = Netns::new();
        let mut later = pod(name, &netns);
        later.pod.as_mut().unwrap().namespace = "open".into();
        node.attach(later, &netns);
        netns
    };
    until("it is gone", || node.status().pods == known - 1);
    let _fourth = behind("fourth");
    assert!(closed("shop/web"));

    // Whoever starts anew knows it from the journal, though the cluster has no such pod any more.
    node.kill();
    server.delete("Pod", "shop", "db");
    server.behave();
    let before = fake.contents().0;
    node.start_and_sync(&fake);
    let third = Netns::new();
    let mut later = pod("later", &third);
    later.pod.as_mut().unwrap().namespace = "open".into();
    // Behind what the start has come to.
    node.attach(later, &third);
    assert!(closed("shop/db"));
    assert_eq!(fake.contents().0.policies, before.policies);
}

#[test]
fn no_pod_is_attached_while_policies_wait_for_what_they_speak_of() {
    let mut node = Node::new();
    let fake = node.fake();
    let server = node.api_server(0, 0);
    node.start_and_sync(&fake);
    let others = |request: &apiserver::Request| {
        let fields = request.parameter("fieldSelector").unwrap_or_default();
        fields.contains("!=").then_some(Fault::status(503, "ServiceUnavailable", "not yet"))
    };
    server.set_faults(others);
    let from = json!([{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]);
    server.set(policy("open-to-web", json!({"podSelector": {}, "ingress": from})));
    until("it waits", || node.status().warnings.concat().contains("changes of NetworkPolicies wait"));
    server.set(object("db", "db"));
    let netns = Netns::new();
    let (code, message) = node.attach_fails(pod("db", &netns), &netns);
    assert!(code == 11 && message.contains("NetworkPolicies of namespace shop wait"), "{code}: {message}");
    // Pods of other namespaces need not.
    let elsewhere = Netns::new();
    let mut free = pod("free", &elsewhere);
    free.pod.as_mut().unwrap().namespace = "open".into();
    node.attach(free, &elsewhere);
    server.behave();
    until("it is in force", || !node.status().warnings.concat().contains("NetworkPolicies wait"));
    node.attach(pod("db", &netns), &netns);
    let row = fake.contents().0.policies.get("shop/db").cloned().unwrap();
    assert_eq!(row.ingress.unwrap()[0].says, "pods app=web of shop");
}
