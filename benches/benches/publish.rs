//! What publication costs: the check at each burst, one round on one thread, and a commit by busy workers.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use publish::Publisher;

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish");
    group.bench_function("refresh, nothing new", |b| {
        let mut publisher = Publisher::new(Arc::new(0_u64), 0);
        let mut reader = publisher.reader();
        b.iter(|| black_box(&mut reader).refresh());
    });
    for readers in [1, 4, 16] {
        group.bench_function(BenchmarkId::new("publish, refresh, reclaim on one thread", readers), |b| {
            let mut publisher = Publisher::new(Arc::new(0_u64), 0);
            let mut readers: Vec<_> = (0..readers).map(|_| publisher.reader()).collect();
            b.iter(|| {
                let generation = publisher.generation() + 1;
                let published = publisher.publish(Arc::new(generation), generation);
                for reader in &mut readers {
                    reader.refresh();
                }
                (published, publisher.committed(), publisher.reclaim())
            });
        });
    }
    group.bench_function("publish until committed by a busy worker", |b| {
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
            b.iter(|| {
                let generation = publisher.generation() + 1;
                let published = publisher.publish(Arc::new(generation), generation);
                while publisher.committed() < generation {
                    std::hint::spin_loop();
                }
                published
            });
            stop.store(true, Ordering::Relaxed);
        });
    });
    group.finish();
}

criterion_group!(benches, publish);
criterion_main!(benches);
