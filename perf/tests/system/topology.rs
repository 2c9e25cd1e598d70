//! The topologies themselves: a test can be trusted only as far as what it stands on.

use std::process::Command;

use lab::netns::{Netns, veth};
use lab::ping::reaches;
use lab::process::{Process, succeed};
use lab::run::{Run, Sweep, sweep};
use lab::wait::{PATIENCE, wait_until};

fn namespaces() -> String {
    succeed(Command::new("ip").args(["netns", "list"]), PATIENCE).unwrap()
}

#[test]
fn namespaces_talk_over_a_veth_pair_and_are_gone_after() {
    let run = Run::start().unwrap();
    let (left, right) = (Netns::create(&run, "left").unwrap(), Netns::create(&run, "right").unwrap());
    veth(&left, "left0", &right, "right0").unwrap();
    for (netns, device, addresses) in
        [(&left, "left0", ["10.9.9.1/24", "fd09::1/64"]), (&right, "right0", ["10.9.9.2/24", "fd09::2/64"])]
    {
        for address in addresses {
            netns.add_address(device, address).unwrap();
        }
    }
    reaches(&left, "10.9.9.2").unwrap();
    reaches(&right, "fd09::1").unwrap();
    let dir = run.dir().to_path_buf();
    let name = left.name().to_owned();
    assert!(namespaces().contains(&name));
    drop((left, right, run));
    assert!(!namespaces().contains(&name));
    assert!(!dir.exists());
}

#[test]
fn what_a_killed_run_leaves_is_swept() {
    // A process that owns a run is played by one that only says it did: the journal is all a sweep goes by.
    let run = Run::start().unwrap();
    let netns = Netns::create(&run, "left").unwrap();
    let mut sleeper = Process::spawn(&run, "sleeper", netns.command("sleep").arg("1000")).unwrap();
    assert_eq!(sweep(Sweep::Kept).unwrap(), 0, "a run whose owner lives is left alone");
    sleeper.check().unwrap();
    std::fs::write(run.dir().join("owner"), "1 1").unwrap();
    run.keep().unwrap();
    assert_eq!(sweep(Sweep::Abandoned).unwrap(), 0, "what was kept on purpose stays");
    assert_eq!(sweep(Sweep::Kept).unwrap(), 1);
    wait_until("the process is gone", PATIENCE, || match sleeper.check() {
        Err(_) => Ok(()),
        Ok(()) => Err(anyhow::anyhow!("it runs")),
    })
    .unwrap();
    assert!(!namespaces().contains(netns.name()));
    assert!(!run.dir().exists());
}
