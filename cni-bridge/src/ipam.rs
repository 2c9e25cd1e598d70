//! A delegated IPAM plug-in (CNI 1.1.0, section 4): it keeps account of addresses in our place.
//!
//! Runs the plug-in that `ipam.type` names, found in `CNI_PATH`, with the runtime's own environment and configuration.
//! What it says of gateways and routes is not for this network: a pod's gateway is the router, link-local, and it
//! reaches everything by it, or a secondary network's subnets.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Map, Value};
use wire::IpPrefix;

use crate::error::{Failure, code};

/// The plug-in, with what it is given.
#[derive(Debug)]
pub(crate) struct Ipam<'a> {
    program: PathBuf,
    kind: String,
    config: &'a [u8],
}

/// What it gave.
#[derive(Debug, PartialEq)]
pub(crate) struct Leased {
    pub(crate) addresses: Vec<IpAddr>,
    /// What those are in.
    pub(crate) subnets: Vec<IpPrefix>,
    /// Its result's `dns`.
    pub(crate) dns: Map<String, Value>,
}

impl<'a> Ipam<'a> {
    /// Finds the plug-in in `path`, the value of `CNI_PATH`.
    pub(crate) fn find(kind: &str, path: &str, config: &'a [u8]) -> Result<Self, Failure> {
        let found =
            path.split(':').map(|folder| PathBuf::from(folder).join(kind)).find(|path| path.is_file());
        match found {
            Some(program) => Ok(Self { program, kind: kind.to_owned(), config }),
            None => Err(Failure::new(
                code::INVALID_CONFIG,
                format!("invalid network configuration: `ipam.type` is {kind:?}: there is no such plug-in in CNI_PATH `{path}`"),
            )
            .details("install it (Debian: containernetworking-plugins), or take `ipam` out")),
        }
    }

    /// ADD: leases addresses, one a family.
    pub(crate) fn add(&self) -> Result<Leased, Failure> {
        let result = self.run("ADD")?;
        let leased = leased(&result).ok_or_else(|| {
            Failure::new(code::DECODE, format!("{}'s ADD answered no result with addresses", self.kind))
                .details(String::from_utf8_lossy(&result).chars().take(400).collect::<String>())
        });
        // Whatever it has leased nobody would ever give back.
        leased.inspect_err(|_| self.give_back())
    }

    /// DEL, CHECK, STATUS or GC: no answer is its success.
    pub(crate) fn tell(&self, command: &str) -> Result<(), Failure> {
        self.run(command).map(drop)
    }

    /// DEL after an ADD that came to nothing; that it fails too is for the log alone.
    pub(crate) fn give_back(&self) {
        if let Err(failure) = self.tell("DEL") {
            crate::log(&format!("{}: {}", self.kind, failure.msg));
        }
    }

    fn run(&self, command: &str) -> Result<Vec<u8>, Failure> {
        let io = |error: std::io::Error| {
            Failure::new(code::IO, format!("running {}: {error}", self.program.display()))
        };
        let mut child = Command::new(&self.program)
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends without reading says why on its standard output.
            let _ = stdin.write_all(self.config);
        }
        let output = child.wait_with_output().map_err(io)?;
        if output.status.success() { Ok(output.stdout) } else { Err(self.failed(command, &output.stdout)) }
    }

    /// Its own error object, with its code; or what is left to say without one.
    fn failed(&self, command: &str, stdout: &[u8]) -> Failure {
        let object: Value = serde_json::from_slice(stdout).unwrap_or_default();
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let code = object["code"].as_u64().and_then(|code| u32::try_from(code).ok()).filter(|code| *code > 0);
        let msg = if text("msg").is_empty() { "it told no reason".to_owned() } else { text("msg") };
        Failure::new(code.unwrap_or(code::IPAM), format!("{}'s {command}: {msg}", self.kind))
            .details(text("details"))
    }
}

/// The addresses of a result of any version that we speak.
fn leased(result: &[u8]) -> Option<Leased> {
    let result: Value = serde_json::from_slice(result).ok()?;
    let address = |ip: &Value| {
        let (address, len) = ip["address"].as_str()?.split_once('/')?;
        let address = address.parse().ok()?;
        Some((address, IpPrefix::containing(address, len.parse().ok()?)?))
    };
    let (addresses, subnets): (Vec<IpAddr>, _) =
        result["ips"].as_array()?.iter().map(address).collect::<Option<_>>()?;
    let dns = result["dns"].as_object().cloned().unwrap_or_default();
    (!addresses.is_empty()).then_some(Leased { addresses, subnets, dns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_each_version() {
        let addresses = vec!["10.1.2.3".parse().unwrap(), "fd00::5".parse().unwrap()];
        let subnets = vec!["10.1.2.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        let both = Leased { addresses, subnets, dns: Map::new() };
        for text in [
            r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"address":"fd00::5/64"}],"dns":{}}"#,
            r#"{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.2.3/24"},{"version":"6","address":"fd00::5/64"}]}"#,
        ] {
            assert_eq!(leased(text.as_bytes()).as_ref(), Some(&both));
        }
        for bad in [
            "",
            "{}",
            r#"{"ips":[]}"#,
            r#"{"ips":[{"address":"x/24"}]}"#,
            r#"{"ips":[{"address":"10.1.2.3/33"}]}"#,
            r#"{"ips":[{}]}"#,
        ] {
            assert_eq!(leased(bad.as_bytes()), None, "{bad}");
        }
    }
}
