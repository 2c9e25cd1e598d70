//! Connections, and the steps of a trace.

use std::io::{self, Write};
use std::net::SocketAddr;

use proto::dataplane::{FlowStatus, FlowWay, Trace, TraceVerdict};

use crate::table::{Cell, Style, Table, duration};

/// A line each connection. OUT and BACK are where its packets leave, as they go and as they come back; `-`: not decided.
pub(crate) fn flows(flows: &[FlowStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let [age, idle, left] = if style.people {
        [">AGE", ">IDLE", ">LEFT"]
    } else {
        [">AGE-SECONDS", ">IDLE-SECONDS", ">LEFT-SECONDS"]
    };
    let mut table = Table::new(&[
        "PROTOCOL",
        "CLIENT",
        "SERVICE",
        "DESTINATION",
        "SOURCE",
        "STATE",
        age,
        idle,
        left,
        "PORT",
        "OUT",
        "BACK",
        "RULES",
    ]);
    let seconds = |n: u64| if style.people { duration(n) } else { n.to_string() };
    let way = |way: &Option<FlowWay>| match way {
        Some(FlowWay { output, next_hop: Some(next_hop), .. }) => format!("{output}:{next_hop}"),
        Some(FlowWay { output, next_hop: None, .. }) => output.clone(),
        None => String::new(),
    };
    let socket = |socket: Option<SocketAddr>| socket.map_or_else(String::new, |socket| socket.to_string());
    let rule = |rule: Option<u32>, name: &Option<String>| match (rule, name) {
        (None, _) => "-".to_owned(),
        (Some(_), Some(name)) => name.clone(),
        (Some(rule), None) => rule.to_string(),
    };
    for flow in flows {
        let rules = match (flow.egress_rule, flow.ingress_rule) {
            (None, None) => String::new(),
            (egress, ingress) => format!(
                "{}, {}",
                rule(egress, &flow.egress_rule_name),
                rule(ingress, &flow.ingress_rule_name)
            ),
        };
        table.row([
            flow.protocol.to_string().into(),
            flow.client.to_string().into(),
            socket(flow.service).into(),
            flow.destination.to_string().into(),
            socket(flow.masqueraded).into(),
            flow.state.as_str().into(),
            seconds(flow.age_seconds).into(),
            seconds(flow.idle_seconds).into(),
            seconds(flow.left_seconds).into(),
            flow.owner.as_str().into(),
            way(&flow.forward).into(),
            way(&flow.reply).into(),
            rules.into(),
        ]);
    }
    table.print(style, out)
}

/// A line each step; the last one is the verdict.
pub(crate) fn trace(trace: &Trace, style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["STEP", "SAYS"]);
    let last = trace.steps.len().saturating_sub(1);
    let dropped = matches!(trace.verdict, TraceVerdict::Drop { .. });
    for (at, step) in trace.steps.iter().enumerate() {
        table
            .row([step.step.as_str().into(), Cell::from(step.says.as_str()).alert_if(dropped && at == last)]);
    }
    table.print(style, out)
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    const PEOPLE: Style = Style { people: true, colour: false };

    #[test]
    fn a_flow_and_a_trace() {
        let way = |output: &str, next_hop| FlowWay {
            input: "p1".into(),
            output: output.into(),
            next_hop,
            generation: 42,
        };
        let plain = FlowStatus {
            network: 0,
            protocol: proto::dataplane::Protocol(58),
            client: "[fd00::2]:9".parse().unwrap(),
            service: None,
            destination: "[fd00::3]:0".parse().unwrap(),
            masqueraded: None,
            state: "new".into(),
            joined: false,
            age_seconds: 61,
            idle_seconds: 1,
            left_seconds: 30,
            owner: "p1".into(),
            forward: Some(way("p2", None)),
            reply: None,
            egress_rule: None,
            ingress_rule: None,
            egress_rule_name: None,
            ingress_rule_name: None,
        };
        let translated = FlowStatus {
            protocol: proto::dataplane::Protocol(6),
            client: "10.0.0.1:4000".parse().unwrap(),
            service: Some("10.96.0.1:80".parse().unwrap()),
            destination: "10.0.0.2:8080".parse().unwrap(),
            masqueraded: Some("192.0.2.1:4000".parse().unwrap()),
            state: "established".into(),
            forward: Some(way("uplink", Some("192.0.2.9".parse().unwrap()))),
            reply: Some(way("p1", None)),
            egress_rule: Some(2),
            ingress_rule: Some(7),
            ingress_rule_name: Some("shop/web ingress[1]".into()),
            ..plain.clone()
        };
        assert_eq!(
            text(|out| flows(&[translated, plain], PEOPLE, out)),
            "\
PROTOCOL  CLIENT         SERVICE       DESTINATION    SOURCE          STATE         AGE  IDLE  LEFT  PORT  OUT               BACK  RULES
tcp       10.0.0.1:4000  10.96.0.1:80  10.0.0.2:8080  192.0.2.1:4000  established  1m1s    1s   30s  p1    uplink:192.0.2.9  p1    2, shop/web ingress[1]
icmpv6    [fd00::2]:9    -             [fd00::3]:0    -               new          1m1s    1s   30s  p1    p2                -     -
"
        );
        let step =
            |step: &str, says: &str| proto::dataplane::TraceStep { step: step.into(), says: says.into() };
        let trace_of = Trace {
            generation: 1,
            steps: vec![step("flow", "not known: it is decided"), step("verdict", "dropped as no-route")],
            verdict: TraceVerdict::Drop { reason: "no-route".into(), description: String::new(), told: true },
        };
        assert_eq!(
            text(|out| trace(&trace_of, PEOPLE, out)),
            "STEP     SAYS\nflow     not known: it is decided\nverdict  dropped as no-route\n"
        );
    }
}
