//! How much the tests with faults do: `MAGIKRUN_FAULTS=full` asks for everything, and `MAGIKRUN_SEED` for the sample of an earlier run.

/// True if everything is to be done instead of a sample.
pub fn full() -> bool {
    std::env::var("MAGIKRUN_FAULTS").is_ok_and(|value| value == "full")
}

/// The seed of the sample; 1 unless one is given.
pub fn seed() -> u64 {
    given_seed().unwrap_or(1)
}

/// The seed of a test that draws something new each time, unless one is given.
pub fn fresh_seed() -> u64 {
    given_seed()
        .unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs()))
}

fn given_seed() -> Option<u64> {
    std::env::var("MAGIKRUN_SEED").ok().and_then(|seed| seed.parse().ok())
}
