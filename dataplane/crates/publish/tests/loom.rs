//! Every interleaving of small scenes, by loom: `RUSTFLAGS="--cfg loom" cargo test -p publish --release --test loom`.
//!
//! A value counts, with relaxed operations, who is using it. Loom lets a relaxed load return any value that the memory
//! model allows, so an acknowledgement that orders too little shows as a use that is not over yet.
#![cfg(loom)]

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use publish::{Publisher, Reader};

struct Value {
    generation: u64,
    in_use: AtomicUsize,
    /// Set by the writer once no one may use it.
    retired: AtomicBool,
}

fn value(generation: u64) -> Arc<Value> {
    Arc::new(Value { generation, in_use: AtomicUsize::new(0), retired: AtomicBool::new(false) })
}

/// A burst. Fails if the value is already retired.
fn burst(reader: &Reader<Value>) {
    let value = reader.get();
    assert_eq!(value.generation, reader.generation());
    value.in_use.fetch_add(1, Ordering::Relaxed);
    assert!(!value.retired.load(Ordering::Relaxed), "a reader uses a value that is retired");
    value.in_use.fetch_sub(1, Ordering::Relaxed);
}

/// What the writer does with an old value once the generation after it is committed.
fn retire_if_committed(publisher: &Publisher<Value>, old: &Value) -> bool {
    let done = publisher.committed() > old.generation;
    if done {
        assert_eq!(old.in_use.load(Ordering::Relaxed), 0, "committed while a reader uses the old value");
        old.retired.store(true, Ordering::Relaxed);
    }
    done
}

fn model(scene: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(scene);
}

#[test]
fn a_generation_never_goes_back_and_committed_means_unused() {
    model(|| {
        let old = value(1);
        let mut publisher = Publisher::new(Arc::clone(&old), 1);
        let mut reader = publisher.reader();
        let worker = thread::spawn(move || {
            let mut last = reader.generation();
            for _ in 0..3 {
                burst(&reader);
                reader.refresh();
                assert!(reader.generation() >= last);
                last = reader.generation();
            }
            burst(&reader);
            reader
        });
        publisher.publish(value(2), 2).unwrap();
        retire_if_committed(&publisher, &old);
        publisher.publish(value(3), 3).unwrap();
        retire_if_committed(&publisher, &old);
        let mut reader = worker.join().unwrap();
        // At rest the newest generation is one refresh away.
        reader.refresh();
        assert_eq!((reader.generation(), publisher.committed()), (3, 3));
        assert!(retire_if_committed(&publisher, &old));
    });
}

#[test]
fn park_against_publish() {
    model(|| {
        let old = value(1);
        let mut publisher = Publisher::new(Arc::clone(&old), 1);
        let mut reader = publisher.reader();
        let worker = thread::spawn(move || {
            burst(&reader);
            let parked = reader.park();
            if !parked {
                assert_eq!(reader.generation(), 2, "not parked, but without the newer generation");
                burst(&reader);
            }
            (parked, reader)
        });
        publisher.publish(value(2), 2).unwrap();
        let committed = retire_if_committed(&publisher, &old);
        let (parked, reader) = worker.join().unwrap();
        // Asleep, and the writer saw it; or awake and up to date: one look after publishing is enough to know whom to wake.
        assert!(if parked { committed } else { reader.generation() == 2 });
        assert!(retire_if_committed(&publisher, &old));
    });
}

#[test]
fn unpark_takes_the_current_value_before_a_packet() {
    model(|| {
        let old = value(1);
        let mut publisher = Publisher::new(Arc::clone(&old), 1);
        let mut reader = publisher.reader();
        assert!(reader.park());
        let worker = thread::spawn(move || {
            reader.unpark();
            burst(&reader);
            reader.refresh();
            burst(&reader);
        });
        publisher.publish(value(2), 2).unwrap();
        retire_if_committed(&publisher, &old);
        worker.join().unwrap();
        assert!(retire_if_committed(&publisher, &old));
    });
}

#[test]
fn park_and_unpark_around_a_publish() {
    model(|| {
        let old = value(1);
        let mut publisher = Publisher::new(Arc::clone(&old), 1);
        let mut reader = publisher.reader();
        let worker = thread::spawn(move || {
            for _ in 0..2 {
                if reader.park() {
                    reader.unpark();
                }
                burst(&reader);
            }
        });
        publisher.publish(value(2), 2).unwrap();
        retire_if_committed(&publisher, &old);
        worker.join().unwrap();
        assert!(retire_if_committed(&publisher, &old));
    });
}

#[test]
fn two_readers() {
    model(|| {
        let old = value(1);
        let mut publisher = Publisher::new(Arc::clone(&old), 1);
        let workers = [publisher.reader(), publisher.reader()].map(|mut reader| {
            thread::spawn(move || {
                burst(&reader);
                reader.refresh();
                burst(&reader);
                reader
            })
        });
        publisher.publish(value(2), 2).unwrap();
        retire_if_committed(&publisher, &old);
        let readers = workers.map(|worker| worker.join().unwrap());
        let lowest = readers.iter().map(Reader::generation).min().unwrap();
        assert_eq!(publisher.committed(), lowest);
    });
}

#[test]
fn a_reader_leaves_and_its_value_is_freed_by_the_writer() {
    model(|| {
        let old = value(1);
        let mut publisher = Publisher::new(Arc::clone(&old), 1);
        let mut reader = publisher.reader();
        let worker = thread::spawn(move || {
            burst(&reader);
            reader.refresh();
            burst(&reader);
        });
        publisher.publish(value(2), 2).unwrap();
        retire_if_committed(&publisher, &old);
        worker.join().unwrap();
        assert!(retire_if_committed(&publisher, &old));
        publisher.reclaim();
        assert_eq!(Arc::strong_count(&old), 1);
        assert_eq!(Arc::strong_count(publisher.current()), 1);
        assert_eq!(publisher.reclaim(), 0);
    });
}
