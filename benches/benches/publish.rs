//! What publication costs: the check at each burst, one round on one thread, and a commit by busy workers.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{Criterion, criterion_group, criterion_main};
use measured::Group;
use publish::Publisher;

mod measured;

fn publish(c: &mut Criterion) {
    let mut group = Group::new(c, "publish", 1);
    for readers in [1, 4, 16] {
        let mut publisher = Publisher::new(Arc::new(0_u64), 0);
        let mut readers_of: Vec<_> = (0..readers).map(|_| publisher.reader()).collect();
        if let [reader] = readers_of.as_mut_slice() {
            group.bench("refresh, nothing new", readers, || black_box(&mut *reader).refresh());
        }
        group.bench("publish, refresh, reclaim on one thread", readers, || {
            let generation = publisher.generation() + 1;
            let published = publisher.publish(Arc::new(generation), generation);
            for reader in &mut readers_of {
                reader.refresh();
            }
            (published, publisher.committed(), publisher.reclaim())
        });
    }
    let mut publisher = Publisher::new(Arc::new(0_u64), 0);
    let mut reader = publisher.reader();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                reader.refresh();
                std::hint::spin_loop();
            }
        });
        group.bench("publish until committed by a busy worker", 1, || {
            let generation = publisher.generation() + 1;
            let published = publisher.publish(Arc::new(generation), generation);
            while publisher.committed() < generation {
                std::hint::spin_loop();
            }
            published
        });
        stop.store(true, Ordering::Relaxed);
    });
}

criterion_group!(benches, publish);
criterion_main!(benches);
