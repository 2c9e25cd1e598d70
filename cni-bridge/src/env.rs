//! What the runtime says by environment variables (CNI 1.1.0, section 2, "Parameters"), and `CNI_ARGS`.
//!
//! Nothing else reads the environment. A variable that is empty counts as missing, as in libcni. What is missing is
//! told all at once.

use std::env::{VarError, var};
use std::path::{Path, PathBuf};

use proto::control::PodName;
use wire::MacAddr;

use crate::error::{Failure, code};

/// A command with what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Add(Attachment, PathBuf),
    Del(Attachment),
    Check(Attachment, PathBuf),
    Status,
    Gc,
    Version,
}

/// Which attachment of the network is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) container: String,
    pub(crate) interface: String,
}

/// Reads the command and its parameters; `None` when `CNI_COMMAND` is not set at all, so that no runtime is asking.
pub(crate) fn command() -> Result<Option<Command>, Failure> {
    let Some(name) = read("CNI_COMMAND")? else { return Ok(None) };
    let needed: &[&str] = match name.as_str() {
        "ADD" | "CHECK" => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
        "DEL" => &["CNI_CONTAINERID", "CNI_IFNAME"],
        "GC" => &["CNI_PATH"],
        "STATUS" | "VERSION" => &[],
        _ => {
            return Err(Failure::new(code::ENVIRONMENT, format!("CNI_COMMAND is `{name}`"))
                .details("it is one of ADD, DEL, CHECK, STATUS, GC, VERSION"));
        }
    };
    let mut values = Vec::new();
    let mut missing = Vec::new();
    for &variable in needed {
        match read(variable)? {
            Some(value) => values.push(value),
            None => missing.push(variable),
        }
    }
    if !missing.is_empty() {
        return Err(Failure::new(
            code::ENVIRONMENT,
            format!("{name} needs {}, which the environment lacks", missing.join(", ")),
        ));
    }
    let mut values = values.into_iter();
    let mut next = || values.next().unwrap_or_default();
    Ok(Some(match name.as_str() {
        "ADD" | "CHECK" => {
            let (container, netns, interface) = (next(), next(), next());
            let attachment = attachment(container, interface)?;
            let netns = PathBuf::from(netns);
            if name == "ADD" { Command::Add(attachment, netns) } else { Command::Check(attachment, netns) }
        }
        "DEL" => Command::Del(attachment(next(), next())?),
        "GC" => Command::Gc,
        "STATUS" => Command::Status,
        _ => Command::Version,
    }))
}

/// Where plug-ins are, for one that we delegate to.
pub(crate) fn path() -> Result<String, Failure> {
    Ok(read("CNI_PATH")?.unwrap_or_default())
}

/// Whether ADD may attach the namespace that the runtime itself is in; libcni's own switch for its tests.
pub(crate) fn netns_override() -> bool {
    matches!(var("CNI_NETNS_OVERRIDE").as_deref(), Ok("1" | "true"))
}

/// What ADD takes from `CNI_ARGS`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) pod: Option<PodName>,
    pub(crate) mac: Option<MacAddr>,
}

/// `CNI_ARGS` of this process.
pub(crate) fn args() -> Result<Args, Failure> {
    parse_args(&read("CNI_ARGS")?.unwrap_or_default())
}

/// As libcni's `types.LoadArgs`: pairs of `KEY=VALUE` between semicolons, each with exactly one `=`; a key that we do
/// not know is an error unless `IgnoreUnknown` is true, wherever it stands.
fn parse_args(text: &str) -> Result<Args, Failure> {
    let bad = |what: String| Failure::new(code::ENVIRONMENT, format!("CNI_ARGS: {what}"));
    let mut args = Args::default();
    let (mut namespace, mut name, mut uid) = (None, None, None);
    let mut ignore_unknown = false;
    let mut unknown = Vec::new();
    for pair in text.split(';').filter(|_| !text.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .filter(|(_, value)| !value.contains('='))
            .ok_or_else(|| bad(format!("`{pair}` is no pair KEY=VALUE")))?;
        match key {
            "IgnoreUnknown" => {
                ignore_unknown = match value.to_ascii_lowercase().as_str() {
                    "1" | "true" => true,
                    "0" | "false" => false,
                    _ => return Err(bad(format!("IgnoreUnknown is `{value}`: write 1 or 0"))),
                };
            }
            "K8S_POD_NAMESPACE" => namespace = Some(value.to_owned()),
            "K8S_POD_NAME" => name = Some(value.to_owned()),
            "K8S_POD_UID" => uid = Some(value.to_owned()).filter(|uid| !uid.is_empty()),
            // Known, and of no use to us: the container's id comes by CNI_CONTAINERID.
            "K8S_POD_INFRA_CONTAINER_ID" => {}
            "MAC" => args.mac = Some(value.parse().map_err(|error| bad(format!("MAC: {error}")))?),
            _ => unknown.push(pair),
        }
    }
    if !unknown.is_empty() && !ignore_unknown {
        let list = unknown.join(";");
        return Err(
            bad(format!("unknown {list}")).details("add IgnoreUnknown=1 if they are meant for others")
        );
    }
    args.pod = namespace
        .zip(name)
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
        .map(|(namespace, name)| PodName { namespace, name, uid });
    Ok(args)
}

fn attachment(container: String, interface: String) -> Result<Attachment, Failure> {
    let bad = |variable: &str, value: &str, rule: &str| {
        Err(Failure::new(code::ENVIRONMENT, format!("{variable} is `{value}`")).details(rule))
    };
    if !is_identifier(&container) {
        return bad("CNI_CONTAINERID", &container, IDENTIFIER);
    }
    if let Some(rule) = interface_name_fault(&interface) {
        return bad("CNI_IFNAME", &interface, rule);
    }
    Ok(Attachment { container, interface })
}

/// What the specification allows for container ids and network names (section 1 and "CNI_CONTAINERID").
pub(crate) const IDENTIFIER: &str =
    "it starts with a letter or digit, and goes on with letters, digits, `_`, `.` and `-`";

pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

/// As the kernel's `dev_valid_name`: at most 15 bytes, no `.` or `..`, none of `/`, `:` and white space.
fn interface_name_fault(name: &str) -> Option<&'static str> {
    if name.len() > 15 {
        Some("an interface's name has at most 15 bytes")
    } else if matches!(name, "." | "..") {
        Some("an interface cannot be called that")
    } else if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        Some("an interface's name has no `/`, `:` or white space")
    } else {
        None
    }
}

fn read(variable: &str) -> Result<Option<String>, Failure> {
    match var(variable) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            Err(Failure::new(code::ENVIRONMENT, format!("{variable} is not UTF-8 text")))
        }
    }
}

/// `path` as text for a message.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn args_as_libcni_reads_them() {
        let pod = PodName { namespace: "default".into(), name: "web-1".into(), uid: Some("7".into()) };
        let given = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=7;X=y";
        assert_eq!(parse_args(given), Ok(Args { pod: Some(pod), mac: None }));
        assert_eq!(parse_args("X=y;IgnoreUnknown=TRUE"), Ok(Args::default()));
        assert_eq!(parse_args(""), Ok(Args::default()));
        assert_eq!(parse_args("K8S_POD_NAME=web-1;K8S_POD_NAMESPACE="), Ok(Args::default()));
        assert_eq!(parse_args("MAC=02:00:00:00:00:09").map(|a| a.mac), Ok(Some(MacAddr([2, 0, 0, 0, 0, 9]))));
        for (bad, named) in [
            ("X=y", "X=y"),
            ("X=y;IgnoreUnknown=0", "X=y"),
            ("IgnoreUnknown=perhaps", "IgnoreUnknown is `perhaps`"),
            ("K8S_POD_NAME", "`K8S_POD_NAME`"),
            ("A=b=c;IgnoreUnknown=1", "`A=b=c`"),
            ("IgnoreUnknown=1;", "`` is no pair"),
            ("MAC=02", "`02`"),
        ] {
            let failure = parse_args(bad).unwrap_err();
            assert_eq!(failure.code, code::ENVIRONMENT);
            assert!(
                failure.msg.contains("CNI_ARGS") && failure.msg.contains(named),
                "{bad}: {}",
                failure.msg
            );
        }
    }

    #[test]
    fn names_that_cannot_be() {
        for good in ["eth0", "a", "net1.100", "fifteen-letters"] {
            assert_eq!(interface_name_fault(good), None, "{good}");
        }
        for bad in [".", "..", "a/b", "a:b", "a b", "a\tb", "sixteen-letters-"] {
            assert!(interface_name_fault(bad).is_some(), "{bad}");
        }
        assert!(
            is_identifier("0abc_d.e-f")
                && !is_identifier("-a")
                && !is_identifier("a/b")
                && !is_identifier("")
        );
    }
}
