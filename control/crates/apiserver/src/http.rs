//! HTTP/1.1, as much as an API server's clients need: requests with or without a body, answers whole or in chunks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Longest head of a request, in bytes.
const HEAD: usize = 64 << 10;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Without its query.
    pub path: String,
    /// Decoded, in order.
    pub query: Vec<(String, String)>,
    /// `Content-Type`; empty without one.
    pub media: String,
    pub body: Vec<u8>,
}

impl Request {
    /// A parameter's value.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// It asks for a watch.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        matches!(self.parameter("watch"), Some("true" | "1"))
    }

    /// The plural name of the resource that the path leads to.
    #[must_use]
    pub fn resource(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// Reads the next request; `None` at the connection's end.
pub(crate) fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.take(1 << 20).read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
        if head.len() > HEAD {
            return Err(bad("a head of a request longer than 64 KiB"));
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(&head).map_err(|error| bad(&error.to_string()))?;
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok()).unwrap_or_default()
    };
    let length = header("content-length").parse().unwrap_or(0);
    let mut body = vec![0; length];
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect(),
        media: header("content-type").to_owned(),
        body: Vec::new(),
    };
    reader.read_exact(&mut body)?;
    Ok(Some(Request { body, ..request }))
}

/// Undoes percent-encoding (RFC 3986, section 2.1) and `+` for a space.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, hex.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(first),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes a whole answer; with `cut`, breaks off after so many bytes of its body.
pub(crate) fn answer(
    mut stream: &TcpStream,
    code: u16,
    retry_after: Option<u32>,
    body: &[u8],
    cut: Option<usize>,
) -> io::Result<()> {
    let after = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {code} {code}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{after}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    match cut.and_then(|cut| body.get(..cut)) {
        Some(part) => {
            stream.write_all(part)?;
            Err(bad("told to break off"))
        }
        None => stream.write_all(body),
    }
}

/// Begins an answer in chunks.
pub(crate) fn begin_chunks(mut stream: &TcpStream) -> io::Result<()> {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
}

/// Writes a chunk; an empty one is the last (RFC 9112, section 7.1).
pub(crate) fn chunk(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
    framed.extend_from_slice(bytes);
    framed.extend_from_slice(b"\r\n");
    stream.write_all(&framed)
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        assert_eq!(decoded("spec.nodeName%3Dknode1%2Cx+y%"), "spec.nodeName=knode1,x y%");
    }
}
