//! The objects of a large cluster, each of the size that real ones have: kubelet lists images and conditions, every writer its fields.

use serde_json::{Value, json};

/// A Node object, of the size that real ones have: kubelet lists images, and every writer its fields.
pub(super) fn node(name: &str, ranges: [&str; 2], addresses: [&str; 2], routers: Option<&str>) -> Value {
    let image = |n: u32| {
        json!({"names": [format!("registry.example/team/image-{n}@sha256:{:064x}", n), format!("registry.example/team/image-{n}:v1")],
            "sizeBytes": 10_000_000 + n})
    };
    let managed = json!({"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {"f:lastHeartbeatTime": {}}}, "f:images": {}}}});
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": name, "creationTimestamp": "2026-11-23T09:18:12Z", "managedFields": [managed, managed],
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
            "annotations": routers.map(|routers| json!({"podrouter.io/router-addresses": routers})),
        },
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": addresses[0]}, {"type": "InternalIP", "address": addresses[1]},
                {"type": "Hostname", "address": name},
            ],
            "images": (0..20).map(image).collect::<Vec<_>>(),
        },
    })
}

/// Another node, by one of two next hops.
pub(super) fn other(n: u32, second: bool) -> Value {
    let [_, _, high, low] = n.to_be_bytes();
    let hop = 20 + n % 100 + if second { 100 } else { 0 };
    node(
        &format!("node-{n:05}"),
        [&format!("10.{}.{low}.0/24", 128 + high), &format!("fd01:0:0:{n:x}::/64")],
        [&format!("172.20.{high}.{low}"), &format!("fd02::{n:x}")],
        Some(&format!("192.168.78.{hop},fe80::{hop:x}")),
    )
}

/// Pods of one template.
pub(super) const REPLICAS: u32 = 30;

/// Endpoints of a Service.
const ENDPOINTS: u32 = 10;

/// Namespaces.
pub(super) const NAMESPACES: u32 = 500;

/// The node of a pod, and its place there; this node's is 0.
const fn place(pod: u32, nodes: u32) -> (u32, u32) {
    (pod % (nodes + 1), pod / (nodes + 1))
}

fn node_name(n: u32, own: &str) -> String {
    if n == 0 { own.to_owned() } else { format!("node-{n:05}") }
}

fn addresses(node: u32, place: u32) -> [String; 2] {
    let [_, _, high, low] = node.to_be_bytes();
    let host = 2 + place;
    match node {
        0 => [format!("10.244.1.{host}"), format!("fd00:10:244:1::{host:x}")],
        _ => [format!("10.{}.{low}.{host}", 128 + high), format!("fd01:0:0:{node:x}::{host:x}")],
    }
}

fn uid(kind: u32, n: u32) -> String {
    format!("{kind:08x}-5fdf-4811-952b-{n:012x}")
}

pub(super) fn namespace(n: u32) -> Value {
    json!({"kind": "Namespace", "apiVersion": "v1",
        "metadata": {"name": format!("team-{n:03}"), "uid": uid(3, n), "creationTimestamp": "2026-11-23T09:18:12Z",
            "labels": {"kubernetes.io/metadata.name": format!("team-{n:03}"), "tier": if n.is_multiple_of(2) { "a" } else { "b" }}},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
}

/// A pod of one of the Deployments, [`REPLICAS`] each.
pub(super) fn pod(n: u32, nodes: u32, own: &str) -> Value {
    let (node, place) = place(n, nodes);
    let [v4, v6] = addresses(node, place);
    let app = n / REPLICAS;
    let (app_name, hash) = (format!("app-{app:04}"), format!("{:09x}", app.wrapping_mul(2_654_435_761)));
    let time = "2026-11-23T09:18:21Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": time, "observedGeneration": 1});
    let mount = json!({"name": "kube-api-access-x2x4z", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    let container = |name: &str, port: u32| {
        json!({"name": name, "image": format!("registry.example/team/{name}:v1.{app}"), "imagePullPolicy": "IfNotPresent",
            "ports": [{"name": format!("{name}-port"), "containerPort": port, "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": port, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10},
            "volumeMounts": [mount], "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"})
    };
    let state = |name: &str| {
        json!({"name": name, "ready": true, "restartCount": 0, "started": true, "image": format!("registry.example/team/{name}:v1.{app}"),
            "imageID": format!("registry.example/team/{name}@sha256:{app:064x}"), "containerID": format!("containerd://{n:064x}"),
            "state": {"running": {"startedAt": time}}, "lastState": {}})
    };
    let managed = json!({"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": time, "subresource": "status",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {
            "f:conditions": {"k:{\"type\":\"Ready\"}": {".": {}, "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}}},
            "f:containerStatuses": {}, "f:hostIP": {}, "f:hostIPs": {}, "f:phase": {}, "f:podIP": {},
            "f:podIPs": {".": {}, format!("k:{{\"ip\":\"{v4}\"}}"): {".": {}, "f:ip": {}}}, "f:startTime": {}}}});
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": format!("{app_name}-{hash}-{:05x}", n.wrapping_mul(40_503)), "generateName": format!("{app_name}-{hash}-"),
            "namespace": format!("team-{:03}", app % NAMESPACES), "uid": uid(1, n), "creationTimestamp": time,
            "labels": {"app.kubernetes.io/name": app_name, "app.kubernetes.io/instance": format!("{app_name}-prod"),
                "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/managed-by": "Helm", "pod-template-hash": hash},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app_name}-{hash}"), "uid": uid(2, app),
                "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [managed, managed],
        },
        "spec": {
            "containers": [container("web", 8080), container("sidecar", 9090)], "nodeName": node_name(node, own),
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "serviceAccountName": "default",
            "securityContext": {}, "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": true,
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "volumes": [{"name": "kube-api-access-x2x4z", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}, {"configMap": {"name": "kube-root-ca.crt"}}]}}],
        },
        "status": {
            "phase": "Running", "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}], "startTime": time, "qosClass": "Burstable",
            "conditions": [condition("PodReadyToStartContainers"), condition("Initialized"), condition("Ready"), condition("ContainersReady"),
                condition("PodScheduled")],
            "containerStatuses": [state("web"), state("sidecar")],
        },
    })
}

/// A Service of one of the Deployments.
pub(super) fn service(n: u32) -> Value {
    let [_, high, mid, low] = n.to_be_bytes();
    let cluster_ip = format!("10.96.{mid}.{low}");
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": format!("service-{n:05}"), "namespace": format!("team-{:03}", n % NAMESPACES), "uid": uid(4, n),
            "creationTimestamp": "2026-11-23T09:18:10Z", "labels": {"app.kubernetes.io/name": format!("service-{n:05}")},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{".repeat(400)}},
        "spec": {"type": "ClusterIP", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip, format!("fd00:96::{high:x}:{n:x}")],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web-port"},
                {"name": "metrics", "protocol": "TCP", "port": 9090, "targetPort": 9090}],
            "selector": {"app.kubernetes.io/name": format!("service-{n:05}")}},
        "status": {"loadBalancer": {}},
    })
}

/// The slice of a Service's endpoints of one family. In `round`, one of them is ready in every other one.
pub(super) fn slice(n: u32, family: usize, nodes: u32, own: &str, round: u32) -> Value {
    let endpoint = |i: u32| {
        let pod = n.wrapping_mul(7).wrapping_add(i * 61) % (REPLICAS * nodes);
        let (node, place) = place(pod, nodes);
        let ready = i > 0 || round.is_multiple_of(2);
        json!({"addresses": [addresses(node, place)[family]], "conditions": {"ready": ready, "serving": ready, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": format!("team-{:03}", n % NAMESPACES), "name": format!("app-{pod:06}"), "uid": uid(1, pod)},
            "nodeName": node_name(node, own), "zone": format!("zone-{}", node % 3)})
    };
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": format!("service-{n:05}-{family}"), "namespace": format!("team-{:03}", n % NAMESPACES),
            "labels": {"kubernetes.io/service-name": format!("service-{n:05}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
        "addressType": (["IPv4", "IPv6"][family]), "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}, {"name": "metrics", "protocol": "TCP", "port": 9090}],
    })
}

/// A policy that lets pods of other namespaces in, by their labels.
pub(super) fn policy(n: u32) -> Value {
    let selector = |n: u32| json!({"matchLabels": {"app.kubernetes.io/name": format!("app-{n:04}")}});
    json!({"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": format!("policy-{n:04}"), "namespace": format!("team-{:03}", n % NAMESPACES)},
        "spec": {"podSelector": selector(n), "policyTypes": ["Ingress"], "ingress": [{
            "from": [{"namespaceSelector": {"matchLabels": {"tier": "a"}}, "podSelector": selector(n + 1)}],
            "ports": [{"protocol": "TCP", "port": 8080}]}]}})
}
