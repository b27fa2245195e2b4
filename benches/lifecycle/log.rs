//! What the log costs an operation that nobody wants a log of.

use std::time::Instant;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

/// Messages in a row, of which the mean is taken.
const MESSAGES: u32 = 10_000_000;

/// Drops what it gets, which is nothing here.
struct Nowhere;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Nowhere {}

/// Nanoseconds of a message, and of a span, below the level that the commands log at without `--debug`.
pub(crate) fn off() -> (f64, f64) {
    let subscriber = tracing_subscriber::registry().with(Nowhere.with_filter(LevelFilter::WARN));
    tracing::subscriber::with_default(subscriber, || {
        let message = mean(|number| tracing::debug!("message {number}"));
        (message, mean(|number| drop(tracing::debug_span!("span", number).entered())))
    })
}

fn mean(log: impl Fn(u32)) -> f64 {
    let begin = Instant::now();
    (0..MESSAGES).for_each(|number| log(std::hint::black_box(number)));
    begin.elapsed().as_nanos() as f64 / f64::from(MESSAGES)
}
