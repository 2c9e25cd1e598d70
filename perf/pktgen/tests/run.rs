//! The program itself, on devices that need neither hugepages nor a NIC.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking, in its helpers too")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

fn pktgen() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pktgen"));
    command.args(["--huge", "no", "--memory", "64", "--mbufs", "4095"]);
    command
}

fn run(line: &str) -> Output {
    pktgen().args(line.split_whitespace()).output().unwrap()
}

fn code(line: &str) -> (i32, String) {
    let output = run(line);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Runs, expects success and one JSON object alone on stdout.
fn json(line: &str) -> Value {
    let output = run(&format!("{line} --json"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A process that is ended with the test, also with one that failed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts, and waits for `ready`.
    fn start(line: &str) -> Self {
        let child = pktgen()
            .args(line.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut this = Self(child);
        let errors = this.0.stderr.take().unwrap();
        let (tell, told) = mpsc::channel();
        // It goes on reading, so that the process never waits for a full pipe.
        std::thread::spawn(move || {
            let mut all = String::new();
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                all += &line;
                all += "\n";
                if line == "ready" {
                    let _ = tell.send(());
                }
            }
            all
        });
        told.recv_timeout(Duration::from_secs(60)).unwrap();
        this
    }

    /// Asks it to end as Ctrl-C does, and reads what it says at the end.
    fn interrupt(mut self) -> Value {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.0.wait().unwrap().success());
        serde_json::from_str(&text).unwrap()
    }
}

#[test]
fn a_ring_gives_back_all_in_order() {
    let result = json("--vdev net_ring0 --rate max --count 20000 --flows 16");
    for (key, value) in [
        ("sent", 20_000),
        ("received", 20_000),
        ("lost", 0),
        ("reordered", 0),
        ("duplicates", 0),
        ("corrupt", 0),
    ] {
        assert_eq!(result[key], value, "{key}: {result}");
    }
    let latency = &result["latency_ns"];
    assert_eq!(latency["count"], 20_000);
    let at = |key: &str| latency[key].as_u64().unwrap();
    assert!(at("min") <= at("p50") && at("p50") <= at("p99") && at("p99_9") <= at("max"), "{latency}");
    assert_eq!(result["sent_bytes"], 20_000 * 60);
    assert_eq!(result["ports"][0]["driver"], "net_ring");
    assert_eq!(result["ports"][0]["stats"]["rx_packets"], 20_000);
    assert_eq!((&result["mode"], &result["hugepages"]), (&"generate".into(), &false.into()));
}

#[test]
fn ipv6_at_a_rate_after_a_warm_up() {
    let result = json("--vdev net_ring0 --rate 20k --count 2000 --warmup 0.1 --dst fd00::1 --size 1514");
    assert_eq!((&result["sent"], &result["received"]), (&2000.into(), &2000.into()), "{result}");
    assert_eq!(result["sent_bytes"], 2000 * 1514);
    // The warm-up went over the port and is not counted.
    assert!(result["ports"][0]["stats"]["tx_packets"].as_u64().unwrap() > 2000, "{result}");
}

#[test]
fn a_null_port_counts_what_was_sent() {
    let result = json("--vdev net_null0 --rate max --count 100000");
    assert_eq!(result["sent"], 100_000);
    assert_eq!((&result["received"], &result["lost"]), (&0.into(), &100_000.into()));
    assert_eq!(result["latency_ns"], Value::Null);
    assert_eq!(result["ports"][0]["stats"]["tx_packets"], 100_000);
}

#[test]
fn two_ports_in_both_directions() {
    let result = json(
        "--vdev net_ring0 --vdev net_ring1 --port net_ring0 --port net_ring1 --both --rate 50k --count 3000",
    );
    assert_eq!((&result["sent"], &result["received"]), (&6000.into(), &6000.into()), "{result}");
    for lane in result["lanes"].as_array().unwrap() {
        assert_eq!((&lane["sent"], &lane["received"]), (&3000.into(), &3000.into()), "{result}");
    }
}

fn pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = u32::try_from(frame.len()).unwrap();
        for word in [0, 0, len, len] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend_from_slice(frame);
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_capture_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("two.pcap");
    let frame = |len: usize| {
        let mut frame = vec![0x5a; len];
        // An EtherType for experiments (IEEE 802): nobody's protocol.
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        frame
    };
    pcap(&path, &[frame(60), frame(1000)]);
    let line = format!("--vdev net_ring0 --rate max --count 1001 --pcap {}", path.display());
    let result = json(&line);
    assert_eq!(result["mode"], "replay");
    assert_eq!((&result["sent"], &result["received"]), (&1001.into(), &1001.into()), "{result}");
    assert_eq!(result["sent_bytes"], 501 * 60 + 500 * 1000);
    assert_eq!(result["ports"][0]["stats"]["rx_packets"], 1001);
}

#[test]
fn a_capture_goes_both_ways_and_each_direction_is_counted_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.pcap");
    pcap(&path, &[vec![0x5a; 60]]);
    let line = "--vdev net_ring0 --vdev net_ring1 --both --rate 50k --count 2000 --pcap";
    let result = json(&format!("{line} {}", path.display()));
    assert_eq!(
        (&result["sent"], &result["received"], &result["lost"]),
        (&4000.into(), &4000.into(), &0.into())
    );
    for lane in result["lanes"].as_array().unwrap() {
        assert_eq!((&lane["received"], &lane["lost"]), (&2000.into(), &0.into()), "{result}");
    }
}

#[test]
fn dpdk_writes_and_replays_captures() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    pcap(Path::new(&file("one.pcap")), &[vec![0x5a; 60]]);
    let device =
        |from: &str, to: &str| format!("--vdev net_pcap0,rx_pcap={},tx_pcap={}", file(from), file(to));
    let result = json(&format!("{} --rate max --count 500 --flows 4", device("one.pcap", "sent.pcap")));
    assert_eq!((&result["sent"], &result["ports"][0]["driver"]), (&500.into(), &"net_pcap".into()));

    // What was written is sent back by an echo peer that reads it, and its answers are frames once more.
    let peer = device("sent.pcap", "back.pcap");
    let result =
        json(&format!("{peer} --reflect --src-mac 02:00:00:00:00:02 --min-received 500 --duration 60"));
    assert_eq!((&result["reflected"], &result["corrupt"]), (&500.into(), &0.into()), "{result}");
    let result = json(&format!("--vdev net_ring0 --rate max --count 500 --pcap {}", file("back.pcap")));
    assert_eq!((&result["sent"], &result["received"]), (&500.into(), &500.into()), "{result}");
    assert_eq!(result["sent_bytes"], 500 * 60);
}

#[test]
fn what_the_port_does_not_take_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("memif.sock");
    // Nobody is at the other end: a port that takes nothing.
    let device = format!("--vdev net_memif0,role=server,socket-abstract=no,socket={}", socket.display());
    let result = json(&format!("{device} --rate 1k --duration 0.25"));
    for (key, value) in [("sent", 0), ("unsent", 250), ("received", 0), ("lost", 0)] {
        assert_eq!(result[key], value, "{key}: {result}");
    }
    let result = json(&format!("{device} --rate 100k --duration 0.25 --count 90"));
    assert_eq!((&result["sent"], &result["unsent"]), (&0.into(), &90.into()), "{result}");
    // A port that takes all is asked for exactly what the rate comes to.
    let result = json("--vdev net_ring0 --rate 10k --duration 0.25");
    assert_eq!((&result["sent"], &result["unsent"]), (&2500.into(), &0.into()), "{result}");
}

#[test]
fn an_echo_peer_over_memif() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("memif.sock");
    let device = |role: &str| {
        format!("--vdev net_memif0,role={role},id=0,socket-abstract=no,socket={}", socket.display())
    };
    let peer = Running::start(&format!(
        "{} --reflect --address 10.9.0.5 --address fd00:9::5 --idle sleep --json",
        device("server")
    ));
    for (own, other) in [("10.9.0.6", "10.9.0.5"), ("fd00:9::6", "fd00:9::5")] {
        // The peer is its own gateway: its MAC is learned by ARP, then by neighbour discovery.
        let result = json(&format!(
            "{} --address {own} --gateway {other} --dst {other} --rate 2k --count 1000 --resolve-timeout 60 --drain 20",
            device("client")
        ));
        assert_eq!((&result["sent"], &result["received"]), (&1000.into(), &1000.into()), "{own}: {result}");
        assert_eq!((&result["reordered"], &result["corrupt"]), (&0.into(), &0.into()), "{result}");
    }
    let result = peer.interrupt();
    assert_eq!(result["mode"], "reflect");
    assert_eq!(result["reflected"], 2000, "{result}");
    assert!(result["answered"]["arp"].as_u64().unwrap() >= 1, "{result}");
    assert!(result["answered"]["neighbour"].as_u64().unwrap() >= 1, "{result}");
}

#[test]
fn interrupted_it_reports() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ready");
    let line = format!("--vdev net_ring0 --rate 1k --duration 3600 --json --ready-file {}", file.display());
    let running = Running::start(&line);
    let mut tries = 0;
    while !file.exists() {
        tries += 1;
        assert!(tries < 6000, "no ready file");
        std::thread::sleep(Duration::from_millis(10));
    }
    let result = running.interrupt();
    assert_eq!(result["sent"], result["received"], "{result}");
}

#[test]
fn interrupted_it_does_not_wait_for_stragglers_for_long() {
    let mut running = Running::start("--vdev net_null0 --rate 1k --duration 3600 --drain 3600 --json");
    let id = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let start = Instant::now();
    while running.0.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "it drains on");
        std::thread::yield_now();
    }
}

#[test]
fn results_come_also_where_nobody_reads_stderr() {
    let mut child = pktgen()
        .args("--vdev net_ring0 --rate 1k --count 1200 --progress --json".split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["received"], 1200);
}

#[test]
fn it_ends_once_enough_came() {
    let result = json("--vdev net_ring0 --rate 10k --duration 3600 --min-received 100");
    assert!(result["received"].as_u64().unwrap() >= 100, "{result}");
    let (status, text) = code("--vdev net_null0 --count 10 --drain 0 --duration 1 --min-received 5");
    assert_eq!((status, text.contains("--min-received 5")), (1, true), "{text}");
}

#[test]
fn exit_codes_tell_what_was_wrong() {
    for (line, status, part) in [
        ("--rate fast", 2, "`fast` is no rate"),
        ("--dst 10.0.0", 2, "--dst"),
        ("", 3, "no device"),
        ("--vdev net_ring0 --src 10.0.0.1 --dst fd00::1", 3, "different families"),
        ("--vdev net_ring0 --pcap /nonexistent.pcap", 3, "/nonexistent.pcap"),
        ("--vdev net_ring0 --both", 3, "--both"),
        ("--vdev net_nosuchdriver0", 4, "net_nosuchdriver0"),
        ("--vdev net_ring0 --port net_ring7", 4, "net_ring7"),
        ("--vdev net_null0 --address 10.0.0.1 --resolve-timeout 0.1", 1, "gateway"),
    ] {
        let (got, text) = code(line);
        assert_eq!(got, status, "{line}: {text}");
        assert!(text.contains(part), "{line}: `{part}` is missing: {text}");
    }
    let help = run("--help");
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes: 0 done"));
}

#[test]
fn the_table_is_for_people() {
    let output = run("--vdev net_ring0 --rate max --count 1000 --progress");
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    for row in ["sent", "received", "lost", "latency p99.9", "port"] {
        assert!(table.lines().any(|line| line.starts_with(row)), "`{row}` is missing:\n{table}");
    }
}
