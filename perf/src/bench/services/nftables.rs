//! A node of the kernel's: pods on veth pairs, as the plug-in `ptp` makes them, and kube-proxy's rules.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::exchange::inside;
use lab::netns::{Netns, veth};
use lab::pod::INTERFACE;
use lab::run::Run;
use lab::signals;

use super::objects::Service;
use super::{MTU, Node, kube_proxy};
use crate::bench::machine;

/// The node's end of each pair, and the node's own address.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);

/// Services of one transaction. kube-proxy has all in one, for which the kernel takes the square of their number: some seconds for 2,000,
/// and more than five minutes for 20,000. In parts it is sooner done.
pub(super) const A_TRANSACTION: usize = 1_000;

/// A namespace that forwards between its pods.
pub(super) struct Nftables {
    host: Netns,
    pods: [Netns; 3],
}

impl Nftables {
    pub(super) fn start(run: &Arc<Run>) -> Result<Self> {
        let host = Netns::create(run, "veth-node")?;
        host.sysctl("net.ipv4.ip_forward", "1")?;
        let pods = [0, 1, 2].map(|n| Self::pod(run, &host, n));
        let [a, b, c] = pods;
        let this = Self { host, pods: [a?, b?, c?] };
        this.load(&kube_proxy::base(GATEWAY)).context("the table of kube-proxy")?;
        Ok(this)
    }

    fn pod(run: &Arc<Run>, host: &Netns, n: usize) -> Result<Netns> {
        let pod = Netns::create(run, &format!("veth-pod{n}"))?;
        let (device, address) = (format!("veth{n}"), format!("{}/32", Self::address(n)));
        let gateway = format!("{GATEWAY}/32");
        veth(host, &device, &pod, INTERFACE)?;
        for (netns, device) in [(host, device.as_str()), (&pod, INTERFACE)] {
            netns.ip(&["link", "set", device, "mtu", &MTU.to_string()])?;
        }
        host.add_address(&device, &gateway)?;
        host.ip(&["route", "add", &address, "dev", &device])?;
        pod.add_address(INTERFACE, &address)?;
        pod.ip(&["route", "add", &gateway, "dev", INTERFACE])?;
        pod.ip(&["route", "add", "default", "via", &GATEWAY.to_string(), "dev", INTERFACE])?;
        Ok(pod)
    }

    fn address(n: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(GATEWAY.to_bits() + 1 + u32::try_from(n).unwrap_or(0))
    }

    /// As `nft` tells it. What a transaction costs differs with it: each reads what it needs to know of the table.
    pub(super) fn version(&self) -> Result<String> {
        Ok(self.host.succeed("nft", &["--version"])?.trim().to_owned())
    }

    /// One transaction, by `nft -f -`, as kube-proxy has it; from the program's start to its end, at which the rules are in force.
    fn load(&self, rules: &str) -> Result<Duration> {
        inside(&self.host, || {
            let mut nft = Command::new("nft");
            nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let began = Instant::now();
            let mut nft = nft.spawn().context("nft cannot be started; is the package nftables installed?")?;
            if let Some(mut stdin) = nft.stdin.take() {
                // One that reads nothing has said why.
                let _ = stdin.write_all(rules.as_bytes());
            }
            let done = nft.wait_with_output().context("nft did not end")?;
            let took = began.elapsed();
            let said = String::from_utf8_lossy(&done.stderr);
            let said = said.lines().take(5).collect::<Vec<_>>().join("; ");
            ensure!(done.status.success(), "nft in {} refused the rules: {said}", self.host.name());
            Ok(took)
        })?
    }
}

impl Node for Nftables {
    fn name(&self) -> &'static str {
        "veth and nftables"
    }

    fn pod(&self, n: usize) -> (&Netns, Ipv4Addr) {
        (&self.pods[n], Self::address(n))
    }

    fn add(&mut self, services: &[Service]) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for some in services.chunks(A_TRANSACTION) {
            signals::check()?;
            let rules: String = some.iter().map(kube_proxy::added).collect();
            sum += self.load(&rules)?;
        }
        Ok(sum)
    }

    fn change(&mut self, before: &Service, after: &Service) -> Result<Duration> {
        self.load(&kube_proxy::changed(before, after))
    }
    fn memory(&self) -> Result<Vec<(&'static str, f64)>> {
        let path = "/proc/meminfo";
        let text = fs::read_to_string(path).with_context(|| format!("{path} cannot be read"))?;
        let field = "SUnreclaim";
        let found = machine::megabytes(&text, field).with_context(|| format!("{path} has no {field}"))?;
        Ok(vec![("all of the kernel's slabs", found)])
    }
}
