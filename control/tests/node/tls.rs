//! The control process on an API server that speaks TLS: whom it trusts, and whom it says why it does not.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::harness::{Node, until};

/// Who signs certificates, and its own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as files have them.
struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Good for `name`, until the end of `year`.
    fn sign(&self, name: &str, year: i32) -> Pair {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// Speaks TLS in the node's namespace, before what listens at `port` there, to whoever has a certificate of `clients`; gives
/// the port that it is at.
fn front(node: &Node, port: u16, own: &Pair, clients: &Authority) -> u16 {
    let host = std::fs::File::open(node.host.path()).unwrap();
    let listener = tap::netns::in_netns(host.as_fd(), || TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(clients.pem.as_bytes()).unwrap()).unwrap();
    let config = ServerConfig::builder()
        .with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let at = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    // It ends with the tests' process.
    std::thread::spawn(move || {
        let serve = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        let mut stream = acceptor.accept(stream).await?;
                        let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
                        tokio::io::copy_bidirectional(&mut stream, &mut server).await
                    });
                }
            });
        };
        tap::netns::in_netns(host.as_fd(), serve)
    });
    at
}

/// Has the node follow the server at `port`, trusting `authority`, as `client`.
fn trust(node: &Node, port: u16, authority: &Authority, client: &Pair) {
    let write = |name: &str, text: &str| {
        let path = node.path(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (authority, certificate, key) = (
        write("ca.pem", &authority.pem),
        write("client.pem", &client.certificate),
        write("client.key", &client.key),
    );
    write(
        "kubeconfig",
        &format!(
            "{{kind: Config, apiVersion: v1, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
             users: [{{name: u, user: {{client-certificate: {certificate}, client-key: {key}}}}}], \
             clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:{port}\", certificate-authority: {authority}}}}}]}}"
        ),
    );
}

#[test]
fn who_is_not_known_is_not_believed_and_who_is_not_trusted_is_told() {
    let mut node = Node::new();
    let fake = node.fake();
    let server = node.api_server(0, 0);
    let port: u16 = server.url().rsplit(':').next().unwrap().parse().unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = front(&node, port, &ours.sign("127.0.0.1", 2099), &ours);
    let expired = front(&node, port, &ours.sign("127.0.0.1", 2020), &ours);
    let elsewhere = front(&node, port, &ours.sign("10.0.0.1", 2099), &ours);
    let client = ours.sign("podrouter", 2099);
    for (port, authority, client, why) in [
        (good, &theirs, &client, "UnknownIssuer"),
        (expired, &ours, &client, "certificate expired"),
        (elsewhere, &ours, &client, "not valid for name"),
        (good, &ours, &theirs.sign("podrouter", 2099), "fatal alert: UnknownCA"),
    ] {
        trust(&node, port, authority, client);
        node.start();
        until(why, || {
            let warnings = node.status().warnings.concat();
            warnings.contains(why) && warnings.contains("nodes: ")
        });
        assert!(!node.status().synced, "{why}");
        node.kill();
    }
    fake.with(|state| assert!(state.log.iter().all(|line| line.starts_with("duplicate")), "{:?}", state.log));
    trust(&node, good, &ours, &client);
    node.start_and_sync(&fake);
    assert_eq!(node.status().source, format!("API server https://127.0.0.1:{good}"));
}
