//! The same work for each of many things, on all processors.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, ScopedJoinHandle, available_parallelism, scope};

/// Things that a thread takes at a time.
const PORTION: usize = 32;
/// Fewer things than this are not worth a thread, which takes as long as some ten of them.
const MANY: usize = 128;

/// What `work` makes of each item, in the order of the items. The calling thread works too, and alone where none can be made.
pub fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.len() <= MANY {
        return items.iter().map(work).collect();
    }
    let helpers = available_parallelism().map_or(1, usize::from).min(items.len().div_ceil(PORTION)) - 1;
    let next = AtomicUsize::new(0);
    let portions = || -> Vec<(usize, Vec<R>)> {
        let take = || items.chunks(PORTION).enumerate().nth(next.fetch_add(1, Ordering::Relaxed));
        let done = |(number, portion): (usize, &[T])| (number, portion.iter().map(&work).collect());
        std::iter::from_fn(|| take().map(done)).collect()
    };
    let mut all = scope(|scope| {
        let spawn = |_| Builder::new().spawn_scoped(scope, portions).ok();
        let threads: Vec<ScopedJoinHandle<'_, _>> = (0..helpers).filter_map(spawn).collect();
        let own = portions();
        let others = threads.into_iter().flat_map(|thread| match thread.join() {
            Ok(portions) => portions,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        own.into_iter().chain(others).collect::<Vec<_>>()
    });
    all.sort_unstable_by_key(|(number, _)| *number);
    all.into_iter().flat_map(|(_, results)| results).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items_however_many_there_are() {
        for count in [0, 1, MANY, MANY + 1, 10 * MANY + 7] {
            let items: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = items.iter().map(|item| item * 2).collect();
            assert_eq!(map(&items, |item| item * 2), doubled, "{count} items");
        }
    }

    #[test]
    fn many_items_are_shared_among_threads() {
        let items = [(); 10 * MANY];
        let threads: std::collections::HashSet<_> = map(&items, |()| {
            std::thread::sleep(std::time::Duration::from_micros(100));
            std::thread::current().id()
        })
        .into_iter()
        .collect();
        let processors = available_parallelism().map_or(1, usize::from);
        assert_eq!(threads.len() > 1, processors > 1, "{} threads", threads.len());
    }
}
