//! What becomes of a request: a list, a watch, or a fault.

use std::io::{self, BufReader};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{self, Request};
use crate::store::{Event, Kind, Object, Selection, State, merge, namespace_of};
use crate::{Fault, Shared, locked};

/// The annotation of the bookmark that ends a watch's first objects.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// Of a watch's first objects, so many bytes are sent together.
const PIECE: usize = 64 << 10;

/// Answers one request after the other, until the client goes.
pub(crate) fn converse(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = http::read(&mut reader)? {
        locked(&shared.log).push(request.clone());
        let fault = locked(&shared.faults).as_ref().and_then(|faults| faults(&request));
        let cut = match fault {
            Some(Fault::Status { code, reason, message, retry_after }) => {
                http::answer(stream, code, retry_after, &status(code, reason, message), None)?;
                continue;
            }
            Some(Fault::Silence) => {
                // Until either side hangs up.
                http::read(&mut reader)?;
                return Ok(());
            }
            Some(Fault::Cut(bytes)) => Some(bytes),
            _ => None,
        };
        match Kind::at(&request.path) {
            _ if request.method != "GET" => {
                let (code, body) = write(shared, &request);
                http::answer(stream, code, None, &body, cut)?;
            }
            Some(kind) if request.is_watch() => watch(shared, stream, &request, kind, fault)?,
            Some(kind) => {
                let (code, body) = list(&mut shared.store.lock(), &request, kind);
                http::answer(stream, code, None, &body, cut)?;
            }
            None if Kind::of_one(&request.path).is_some() => {
                let (code, body) = read(shared, &request);
                http::answer(stream, code, None, &body, cut)?;
            }
            None => {
                let body = status(404, "NotFound", "the server could not find the requested resource");
                http::answer(stream, 404, None, &body, None)?;
            }
        }
    }
    Ok(())
}

/// GET of one object.
fn read(shared: &Shared, request: &Request) -> (u16, Vec<u8>) {
    let found = Kind::of_one(&request.path)
        .and_then(|(kind, (namespace, name))| shared.store.get(kind.name(), &namespace, &name));
    match found {
        Some(object) => (200, object.to_string().into_bytes()),
        None => (404, status(404, "NotFound", &format!("{:?} not found", request.path))),
    }
}

/// POST and PATCH, of an object or of its status; nothing else is written by those who are tested.
fn write(shared: &Shared, request: &Request) -> (u16, Vec<u8>) {
    let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
        return (400, status(400, "BadRequest", "the body is no JSON"));
    };
    let (code, mut object) = match (request.method.as_str(), Kind::of_one(&request.path)) {
        ("POST", _) if Kind::at(&request.path).is_some() => (201, body),
        ("PATCH", Some((kind, (namespace, name)))) => {
            let Some(mut object) = shared.store.get(kind.name(), &namespace, &name) else {
                return (404, status(404, "NotFound", &format!("{} {name:?} not found", kind.name())));
            };
            merge(&mut object, &body, request.media.contains("strategic"));
            (200, object)
        }
        _ => {
            return (
                405,
                status(405, "MethodNotAllowed", "the server does not allow this method on the resource"),
            );
        }
    };
    if let Some(kind) = Kind::at(&request.path).or(Kind::of_one(&request.path).map(|(kind, _)| kind)) {
        object["kind"] = json!(kind.name());
        if let Some(namespace) = namespace_of(&request.path) {
            object["metadata"]["namespace"] = json!(namespace);
        }
    }
    shared.store.set(object.clone());
    (code, object.to_string().into_bytes())
}

fn status(code: u16, reason: &str, message: &str) -> Vec<u8> {
    status_object(code, reason, message).to_string().into_bytes()
}

fn status_object(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code
    })
}

/// A list, or the next chunk of one: all chunks are of one version.
fn list(state: &mut State, request: &Request, kind: Kind) -> (u16, Vec<u8>) {
    let (version, mut objects) = match request.parameter("continue").filter(|token| !token.is_empty()) {
        None => (state.version, objects(state, kind, request)),
        Some(token) => match state.chunks.remove(token) {
            Some(rest) => rest,
            None => {
                let why = "The provided continue parameter is too old to display a consistent list result.";
                return (410, status(410, "Expired", why));
            }
        },
    };
    let limit = request.parameter("limit").and_then(|text| text.parse().ok()).filter(|limit| *limit > 0);
    let rest = objects.split_off(limit.unwrap_or(usize::MAX).min(objects.len()));
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if !rest.is_empty() {
        let token = format!("{version}-{}", rest.len());
        metadata["continue"] = json!(token);
        metadata["remainingItemCount"] = json!(rest.len());
        state.chunks.insert(token, (version, rest));
    }
    // As the real one does, a list's items do not repeat kind and version.
    let items: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut item = Value::clone(object);
            if let Some(fields) = item.as_object_mut() {
                fields.retain(|name, _| name != "kind" && name != "apiVersion");
            }
            item
        })
        .collect();
    let kind_name = format!("{}List", kind.name());
    let text = |value: &Value| value.to_string();
    let items = items.iter().map(text).collect::<Vec<_>>().join(",");
    let head = format!(
        "{{\"kind\":\"{kind_name}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[{items}]}}\n",
        kind.api_version()
    );
    (200, head.into_bytes())
}

fn selection(request: &Request) -> Selection<'_> {
    Selection {
        fields: request.parameter("fieldSelector").unwrap_or_default(),
        labels: request.parameter("labelSelector").unwrap_or_default(),
    }
}

fn objects(state: &State, kind: Kind, request: &Request) -> Vec<Object> {
    let selection = selection(request);
    let own = state.objects.iter().filter(|((other, _), _)| *other == kind).map(|(_, object)| object);
    own.filter(|object| selection.takes(object)).cloned().collect()
}

fn watch(
    shared: &Shared,
    stream: &TcpStream,
    request: &Request,
    kind: Kind,
    fault: Option<Fault>,
) -> io::Result<()> {
    let begins_with_list = request.parameter("sendInitialEvents") == Some("true");
    let from: u64 = request.parameter("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
    let seconds = request.parameter("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(1800);
    let end = Instant::now() + Duration::from_secs(seconds);
    let selection = selection(request);
    http::begin_chunks(stream)?;
    let mut cut = match fault {
        Some(Fault::Ended) => return http::chunk(stream, b""),
        Some(Fault::Cut(bytes)) => Some(bytes),
        _ => None,
    };
    let mut send = |text: String| {
        if let Some(left) = &mut cut {
            if *left < text.len() {
                http::chunk(stream, &text.as_bytes()[..*left])?;
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "told to break off"));
            }
            *left -= text.len();
        }
        http::chunk(stream, text.as_bytes())
    };
    let mut seen = from;
    if begins_with_list || from == 0 {
        let (version, objects) = {
            let state = shared.store.lock();
            (state.version, objects(&state, kind, request))
        };
        let mut text = String::new();
        for object in objects {
            text += &line("ADDED", &object.text);
            if text.len() >= PIECE {
                send(std::mem::take(&mut text))?;
            }
        }
        if !text.is_empty() {
            send(text)?;
        }
        if begins_with_list {
            send(bookmark(kind, version, true))?;
            *locked(&shared.listed) = Some(Instant::now());
        }
        seen = version;
    }
    if let Some(Fault::Line(text)) = fault {
        send(format!("{text}\n"))?;
    }
    let mut bookmarks = shared.store.lock().bookmarks;
    loop {
        let mut lines = Vec::new();
        {
            let mut state = shared.store.lock();
            while state.version == seen && state.bookmarks == bookmarks {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() || shared.stopped.load(Ordering::Relaxed) || is_gone(stream) {
                    return http::chunk(stream, b"");
                }
                state = shared.store.wait(state, left.min(Duration::from_secs(1)));
            }
            if seen < state.forgotten {
                let message = format!("too old resource version: {seen} ({})", state.forgotten);
                lines.push(line("ERROR", &status_object(410, "Expired", &message).to_string()));
                seen = u64::MAX;
            } else {
                let from = state.events.partition_point(|event| event.version <= seen);
                let new = state.events[from..].iter().filter(|event| event.kind == kind);
                lines.extend(new.filter_map(|event| told(event, selection)));
                seen = state.version;
            }
            if bookmarks != state.bookmarks && seen != u64::MAX {
                bookmarks = state.bookmarks;
                lines.push(bookmark(kind, seen, false));
            }
        }
        for line in lines {
            send(line)?;
        }
        if seen == u64::MAX {
            return http::chunk(stream, b"");
        }
    }
}

/// An event as a watch with a selector sees it: who is selected no more is gone, and who is only now is new.
fn told(event: &Event, selection: Selection<'_>) -> Option<String> {
    let before = event.before.as_ref().is_some_and(|object| selection.takes(object));
    let now = !event.deleted && selection.takes(&event.object);
    let kind = match (before, now) {
        (false, false) => return None,
        (false, true) => "ADDED",
        (true, true) => "MODIFIED",
        (true, false) => "DELETED",
    };
    Some(line(kind, &event.object.text))
}

fn line(kind: &str, object: &str) -> String {
    // `type` comes first, as the real one writes it.
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn bookmark(kind: Kind, version: u64, ends_initial: bool) -> String {
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if ends_initial {
        metadata["annotations"] = json!({INITIAL_END: "true"});
    }
    let object = json!({"kind": kind.name(), "apiVersion": kind.api_version(), "metadata": metadata});
    line("BOOKMARK", &object.to_string())
}

/// The client has hung up.
fn is_gone(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let looked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut byte));
    let _ = stream.set_nonblocking(false);
    matches!(looked, Ok(0)) || looked.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
}
