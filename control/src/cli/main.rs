//! `podrouter`: looks into the data plane and control by their sockets, and prints.
//!
//! It changes nothing, but for `install` and `uninstall`. What it prints goes to standard output, why it failed to standard error; exit codes are
//! [`proto::exit`]'s.

#![forbid(unsafe_code)]

mod args;
mod client;
mod doctor;
mod install;
mod render;
mod select;
mod table;
mod top;

use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::Parser;
use proto::dataplane::{FlowFilter, Protocol, Request, Response, TraceQuestion};
use proto::{control, dataplane, exit};
use serde::Serialize;

use args::{Args, Command, Show};
use table::Style;

fn main() -> ExitCode {
    let args = Args::parse();
    let stdout = io::stdout();
    let people = stdout.is_terminal();
    let style = Style { people, colour: people && wants_colour() };
    let mut out = BufWriter::new(stdout.lock());
    let done = match &args.command {
        Command::Status => status(&args, style, &mut out),
        Command::Show(what) => show(&args, what, style, &mut out).map(|()| exit::OK),
        Command::Top(what) => top::top(&args, what, style, &mut out).map(|()| exit::OK),
        Command::Trace(question) => trace(&args, question, style, &mut out).map(|()| exit::OK),
        Command::Doctor(wanted) => doctor(&args, wanted, style, &mut out),
        Command::Install(wanted) => {
            install::install(&args, wanted, |what| done(&args, what, &mut out)).map(|()| exit::OK)
        }
        Command::Uninstall(wanted) => {
            install::uninstall(&args, wanted).and_then(|what| done(&args, &what, &mut out)).map(|()| exit::OK)
        }
    };
    match done.and_then(|code| Ok(out.flush().map(|()| code)?)) {
        Ok(code) => ExitCode::from(code),
        // Who reads has seen enough: `podrouter show routes | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(exit::OK),
        Err(error) => {
            // Half a document that could not be written is not mended by another.
            if args.json && error.downcast_ref::<io::Error>().is_none() {
                // Whoever parses standard output finds the failure there too.
                let _ = json(&FailureDocument { error: format!("{error:#}") }, &mut out)
                    .and_then(|()| out.flush());
            }
            // With standard error closed too there is nobody left to tell.
            let _ = writeln!(io::stderr(), "podrouter: {error:#}");
            ExitCode::from(code_of(&error))
        }
    }
}

fn code_of(error: &anyhow::Error) -> u8 {
    let denied = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    match error.downcast_ref::<client::QueryError>() {
        Some(error) => error.code(),
        None if error.chain().any(denied) => exit::DPDK,
        None => exit::FAILURE,
    }
}

/// What `--json` prints of a failure.
#[derive(Serialize)]
struct FailureDocument {
    error: String,
}

/// What `status --json` prints.
#[derive(Serialize)]
struct StatusDocument<'a> {
    dataplane: Option<&'a dataplane::Status>,
    control: Option<&'a control::Status>,
    errors: &'a [String],
}

/// Prints what is there and what is missing; the code tells whether anything is that is needed.
fn doctor(args: &Args, wanted: &args::Doctor, style: Style, out: &mut impl Write) -> anyhow::Result<u8> {
    let checks = doctor::checks(args, wanted);
    if args.json {
        json(&checks, out)?
    } else {
        doctor::print(&checks, style, out)?
    }
    let failed = checks.iter().any(|check| check.verdict == doctor::Verdict::Failure);
    Ok(if failed { exit::FAILURE } else { exit::OK })
}

/// Prints what was done, at once.
fn done(args: &Args, done: &install::Done, out: &mut impl Write) -> anyhow::Result<()> {
    if args.json {
        json(done, out)?;
    } else {
        done.print(out)?;
    }
    Ok(out.flush()?)
}

/// Prints what answered; the code tells whether both did.
fn status(args: &Args, style: Style, out: &mut impl Write) -> anyhow::Result<u8> {
    let (mut errors, mut code) = (Vec::new(), exit::OK);
    let mut away = |error: client::QueryError| {
        code = code.max(error.code());
        errors.push(error.to_string());
    };
    let dataplane = client::dataplane_status(&args.dataplane).map_err(&mut away).ok();
    let control = client::control_status(&args.control).map_err(&mut away).ok();
    let (dataplane, control) = (dataplane.as_ref(), control.as_ref());
    if args.json {
        json(&StatusDocument { dataplane, control, errors: &errors }, out)?;
    } else {
        render::status(dataplane, control, &errors, style, out)?;
    }
    Ok(code)
}

fn trace(args: &Args, asked: &args::Trace, style: Style, out: &mut impl Write) -> anyhow::Result<()> {
    let args::Trace { source, destination, protocol, port, source_port, network, input, length } = asked;
    let (protocol, source_port) = match protocol.0 {
        // A ping, whichever family's.
        1 | 58 => (Protocol(if destination.is_ipv4() { 1 } else { 58 }), *port),
        _ => (*protocol, *source_port),
    };
    let question = TraceQuestion {
        network: *network,
        source: *source,
        destination: *destination,
        protocol,
        source_port,
        destination_port: *port,
        input: input.clone(),
        length: *length,
    };
    match client::ask_dataplane(&args.dataplane, &Request::Trace(question))? {
        answer @ Response::Trace(_) if args.json => Ok(json(&answer, out)?),
        Response::Trace(trace) => Ok(render::trace(&trace, style, out)?),
        _ => Err(client::QueryError::OutOfTurn(client::Peer::dataplane(&args.dataplane)).into()),
    }
}

fn flows(
    args: &Args,
    filter: &FlowFilter,
    limit: u32,
    style: Style,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let (flows, next) = client::flows(&args.dataplane, filter, limit)?;
    if args.json {
        json(&Response::Flows { flows, next }, out)?;
    } else {
        render::flows(&flows, style, out)?;
    }
    if next.is_some() {
        out.flush()?;
        // Beside the rows, so that whoever counts them is not misled. With standard error closed there is nobody to tell.
        let _ = writeln!(
            io::stderr(),
            "podrouter: these are the first {limit}, and there may be more: filter, or use --limit"
        );
    }
    Ok(())
}

fn show(args: &Args, what: &Show, style: Style, out: &mut impl Write) -> anyhow::Result<()> {
    let request = match what {
        Show::Flows { pod, address, port, protocol, state, limit } => {
            let filter = FlowFilter {
                endpoint: pod.clone(),
                prefix: *address,
                port: *port,
                protocol: *protocol,
                state: state.clone(),
            };
            return flows(args, &filter, *limit, style, out);
        }
        Show::Endpoints { service: (namespace, name) } => {
            let endpoints = client::endpoints(&args.control, namespace, name)?;
            if args.json {
                return Ok(json(&endpoints, out)?);
            }
            return Ok(render::endpoints(&endpoints, style, out)?);
        }
        Show::Ports { .. } => Request::ShowPorts,
        Show::Routes { .. } => Request::ShowRoutes,
        Show::Services { .. } => Request::ShowServices,
        Show::Policies { .. } => Request::ShowPolicies,
        Show::Neighbours { .. } => Request::ShowNeighbours,
        Show::Workers => Request::ShowWorkers,
        Show::Drops { .. } => Request::ShowDrops,
    };
    let chosen = choose(client::ask_dataplane(&args.dataplane, &request)?, what, &args.dataplane)?;
    if args.json {
        return Ok(json(&chosen, out)?);
    }
    match &chosen {
        Response::Ports { ports } => render::ports(ports, style, out)?,
        Response::Routes { routes, .. } => render::routes(routes, style, out)?,
        Response::Services { services } => render::services(services, style, out)?,
        Response::Policies { policies } => match what {
            Show::Policies { endpoint: Some(_) } => render::rules(policies, style, out)?,
            _ => render::policies(policies, style, out)?,
        },
        Response::Neighbours { neighbours } => render::neighbours(neighbours, style, out)?,
        Response::Workers { workers } => render::workers(workers, style, out)?,
        Response::Drops { drops } => render::drops(drops, style, out)?,
        // `choose` lets nothing else through.
        _ => {}
    }
    Ok(())
}

/// The rows that are wanted, in order; an answer to another question is a failure.
fn choose(answer: Response, what: &Show, socket: &Path) -> anyhow::Result<Response> {
    let said = |why: String| anyhow!(why);
    Ok(match (answer, what) {
        (Response::Ports { ports }, Show::Ports { name }) => {
            Response::Ports { ports: select::ports(ports, name.as_deref()).map_err(said)? }
        }
        (Response::Routes { generation, routes }, Show::Routes { filter }) => {
            Response::Routes { generation, routes: select::routes(routes, *filter) }
        }
        (Response::Services { services }, Show::Services { filter }) => {
            Response::Services { services: select::services(services, filter.as_deref()).map_err(said)? }
        }
        (Response::Policies { policies }, Show::Policies { endpoint }) => {
            Response::Policies { policies: select::policies(policies, endpoint.as_deref()).map_err(said)? }
        }
        (Response::Neighbours { neighbours }, Show::Neighbours { address }) => {
            Response::Neighbours { neighbours: select::neighbours(neighbours, *address).map_err(said)? }
        }
        (Response::Workers { workers }, Show::Workers) => {
            Response::Workers { workers: select::workers(workers) }
        }
        (Response::Drops { drops }, Show::Drops { all, port }) => {
            Response::Drops { drops: select::drops(drops, *all, port.as_deref()) }
        }
        _ => return Err(client::QueryError::OutOfTurn(client::Peer::dataplane(socket)).into()),
    })
}

fn json(document: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    // A pipe that broke comes back as the I/O error that it was.
    serde_json::to_writer_pretty(&mut *out, document).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// <https://no-color.org>: set and not empty means none; a dumb terminal cannot.
fn wants_colour() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
