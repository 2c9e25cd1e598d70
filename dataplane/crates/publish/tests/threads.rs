//! With real threads: what loom's small scenes leave out is many generations and who frees them.
#![cfg(not(loom))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use publish::{NotNewer, Publisher};

/// Notes on which thread it is freed.
struct Value {
    generation: u64,
    using: AtomicU64,
    retired: AtomicBool,
    writer: ThreadId,
    freed: Arc<AtomicU64>,
    freed_elsewhere: Arc<AtomicU64>,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.freed.fetch_add(1, Ordering::Relaxed);
        if thread::current().id() != self.writer {
            self.freed_elsewhere.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// To be called on the writer's thread.
fn value(generation: u64, freed: &Arc<AtomicU64>, freed_elsewhere: &Arc<AtomicU64>) -> Arc<Value> {
    Arc::new(Value {
        generation,
        using: AtomicU64::new(0),
        retired: AtomicBool::new(false),
        writer: thread::current().id(),
        freed: Arc::clone(freed),
        freed_elsewhere: Arc::clone(freed_elsewhere),
    })
}

#[test]
fn readers_follow_and_the_writer_frees() {
    const GENERATIONS: u64 = 5000;
    let (freed, freed_elsewhere) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let value = |generation| value(generation, &freed, &freed_elsewhere);
    let mut publisher = Publisher::new(value(0), 0);
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4).map(|_| publisher.reader()).collect();
    let workers: Vec<_> = readers
        .into_iter()
        .enumerate()
        .map(|(number, mut reader)| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let (mut last, mut bursts) = (reader.generation(), 0_u64);
                while !stop.load(Ordering::Relaxed) {
                    reader.refresh();
                    let value = reader.get();
                    value.using.fetch_add(1, Ordering::Relaxed);
                    assert!(value.generation >= last, "went back from {last} to {}", value.generation);
                    assert!(!value.retired.load(Ordering::Relaxed));
                    last = value.generation;
                    value.using.fetch_sub(1, Ordering::Relaxed);
                    bursts += 1;
                    // Some sleep now and then, some always, some never.
                    if number > 0 && bursts.is_multiple_of(1 << (2 * number)) && reader.park() {
                        thread::yield_now();
                        reader.unpark();
                    }
                    if bursts.is_multiple_of(16) {
                        thread::yield_now();
                    }
                }
                last
            })
        })
        .collect();

    let limit = Instant::now() + Duration::from_secs(120);
    let mut old = Arc::clone(publisher.current());
    for generation in 1..=GENERATIONS {
        publisher.publish(value(generation), generation).unwrap();
        // Every eighth time wait for all; otherwise run ahead, so that readers skip generations.
        while generation % 8 == 0 && publisher.committed() < generation {
            assert!(Instant::now() < limit, "not committed: {} of {generation}", publisher.committed());
            thread::yield_now();
        }
        if publisher.committed() == generation {
            assert_eq!(old.using.load(Ordering::Relaxed), 0);
            old.retired.store(true, Ordering::Relaxed);
        }
        old = Arc::clone(publisher.current());
        publisher.reclaim();
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        assert!(worker.join().unwrap() <= GENERATIONS);
    }
    drop(old);
    publisher.reclaim();
    assert_eq!(publisher.committed(), GENERATIONS);
    assert_eq!(freed.load(Ordering::Relaxed), GENERATIONS, "all but the current one are freed");
    assert_eq!(freed_elsewhere.load(Ordering::Relaxed), 0, "a worker freed a value");
}

#[test]
fn a_reader_that_leaves_frees_nothing() {
    let (freed, freed_elsewhere) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let value = |generation| value(generation, &freed, &freed_elsewhere);
    let mut publisher = Publisher::new(value(0), 0);
    let (leaving, arrivals) = std::sync::mpsc::sync_channel::<publish::Reader<Value>>(1);
    let worker = thread::spawn(move || arrivals.into_iter().for_each(drop));
    for generation in 1..=5000 {
        leaving.send(publisher.reader()).unwrap();
        // The reader may be at any point of its departure while these take its mailbox.
        publisher.publish(value(generation), generation).unwrap();
        publisher.reclaim();
    }
    drop(leaving);
    worker.join().unwrap();
    publisher.reclaim();
    assert_eq!(freed.load(Ordering::Relaxed), 5000);
    assert_eq!(freed_elsewhere.load(Ordering::Relaxed), 0, "a leaving reader freed a value");
}

#[test]
fn a_reader_that_does_nothing_holds_back_the_commit_until_it_parks_or_leaves() {
    let mut publisher = Publisher::new(Arc::new("one"), 1);
    let (mut busy, mut idle) = (publisher.reader(), publisher.reader());
    publisher.publish(Arc::new("two"), 2).unwrap();
    assert!(busy.refresh() && !busy.refresh());
    assert_eq!((*busy.get(), *idle.get(), publisher.committed()), ("two", "one", 1));
    assert!(!idle.park(), "there is a newer generation");
    assert_eq!((*idle.get(), idle.generation(), publisher.committed()), ("two", 2, 2));
    assert!(idle.park());
    publisher.publish(Arc::new("three"), 3).unwrap();
    publisher.publish(Arc::new("four"), 4).unwrap();
    assert_eq!(publisher.committed(), 2);
    drop(busy);
    assert_eq!(publisher.committed(), 4);
    idle.unpark();
    assert_eq!((*idle.get(), publisher.committed()), ("four", 4));
    // From busy: what it held, for it had taken "two" and the publish of "three" fetched "one". From idle: "two".
    assert_eq!((publisher.reclaim(), publisher.reclaim()), (2, 0));
}

#[test]
fn numbers_must_rise() {
    let mut publisher = Publisher::new(Arc::new(()), 7);
    let refused = publisher.publish(Arc::new(()), 7).unwrap_err();
    assert_eq!(refused, NotNewer { offered: 7, current: 7 });
    assert_eq!(refused.to_string(), "generation 7 was not published: it must be above the current one, 7");
    assert_eq!((publisher.generation(), publisher.committed()), (7, 7));
}

#[test]
fn readers_outlive_their_publisher() {
    let mut publisher = Publisher::new(Arc::new(1), 1);
    let mut reader = publisher.reader();
    publisher.publish(Arc::new(2), 2).unwrap();
    drop(publisher);
    assert!(reader.refresh());
    assert_eq!(*reader.get(), 2);
}
