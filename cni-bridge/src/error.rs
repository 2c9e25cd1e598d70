//! What goes wrong, as the runtime reads it: the CNI specification's error object (CNI 1.1.0, section 5).
//!
//! Owns the codes. Every failure of this program becomes one of these, on standard output, with exit code 1; standard
//! error carries logs alone, since libcni does not parse it.

use serde::Serialize;

/// Error codes: below 100 the specification's, 100 to 109 control's, which come through as they are, from 110 our own.
pub(crate) mod code {
    /// The configuration's version, or the command within that version, is not one of ours.
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    /// A key of the configuration asks for what we do not do; the message holds key and value.
    pub(crate) const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is not known, and there is nothing to clean up.
    pub(crate) const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or unusable; the message names it.
    pub(crate) const ENVIRONMENT: u32 = 4;
    /// Reading, writing or talking to control failed.
    pub(crate) const IO: u32 = 5;
    /// Standard input is not a network configuration.
    pub(crate) const DECODE: u32 = 6;
    /// A key of the configuration has a value that is no good; the message holds key and value.
    pub(crate) const INVALID_CONFIG: u32 = 7;
    /// It may work later: control is away.
    pub(crate) const TRY_AGAIN: u32 = 11;
    /// STATUS: no ADD can be served.
    pub(crate) const NOT_AVAILABLE: u32 = 50;
    /// Control speaks another protocol than this binary, or answers out of turn.
    pub(crate) const PROTOCOL: u32 = 110;
    /// CHECK: an attachment is no longer as its ADD left it.
    pub(crate) const CHANGED: u32 = 111;
    /// GC: something stale could not be removed.
    pub(crate) const NOT_COLLECTED: u32 = 112;
    /// The delegated IPAM plug-in failed without a code.
    pub(crate) const IPAM: u32 = 113;
}

/// A failure without the version that the runtime asked in; [`Failure::in_version`] adds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u32,
    /// What failed, where.
    pub(crate) msg: String,
    /// What to do about it, or the cause; may be empty.
    pub(crate) details: String,
}

impl Failure {
    pub(crate) fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    #[must_use]
    pub(crate) fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The object that is printed. `version` is what the configuration named, as the specification asks, even where
    /// that is a version we do not know.
    pub(crate) fn in_version(&self, version: &str) -> String {
        let object = Object { cni_version: version, code: self.code, msg: &self.msg, details: &self.details };
        // Strings and a number always serialise.
        serde_json::to_string(&object).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Object<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_specifications_keys() {
        let failure = Failure::new(code::INVALID_CONFIG, "`mtu`: \"x\"").details("write a number");
        assert_eq!(
            failure.in_version("1.0.0"),
            r#"{"cniVersion":"1.0.0","code":7,"msg":"`mtu`: \"x\"","details":"write a number"}"#
        );
        assert_eq!(Failure::new(5, "m").in_version("9"), r#"{"cniVersion":"9","code":5,"msg":"m"}"#);
    }
}
