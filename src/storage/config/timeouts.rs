//! How long things may take, and who is asked for images.

use crate::limits::{CONTAINER_START_TIMEOUT, DEFAULT_GRACE_PERIOD, EXEC_TIMEOUT, IMAGE_PULL_TIMEOUT};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

/// How long things may take, in seconds.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// Until the infra container of a pod is ready, a postStart hook has ended, or a startup probe has succeeded that does not
    /// say itself how long it may take.
    pub start: NonZeroU32,
    /// Between SIGTERM and SIGKILL, for pods that do not say it themselves.
    pub grace: u32,
    /// Without progress of a pull or a push.
    pub pull: NonZeroU32,
    /// For commands that the library or the socket of a pod executes.
    pub exec: NonZeroU32,
}

impl Timeouts {
    /// [`Timeouts::start`].
    pub fn start(&self) -> Duration {
        seconds(self.start)
    }

    /// [`Timeouts::exec`].
    pub fn exec(&self) -> Duration {
        seconds(self.exec)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let whole = |time: Duration| u32::try_from(time.as_secs()).ok().and_then(NonZeroU32::new);
        let whole = |time| whole(time).unwrap_or(NonZeroU32::MAX);
        Self {
            start: whole(CONTAINER_START_TIMEOUT),
            grace: whole(DEFAULT_GRACE_PERIOD).get(),
            pull: whole(IMAGE_PULL_TIMEOUT),
            exec: whole(EXEC_TIMEOUT),
        }
    }
}

fn seconds(number: NonZeroU32) -> Duration {
    Duration::from_secs(number.get().into())
}

/// Servers that are asked before a registry, by its name or the beginning of a repository's.
pub type Mirrors = BTreeMap<String, Vec<String>>;

/// What the operator says of registries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registries {
    /// Who is asked first.
    pub mirrors: Mirrors,
    /// How long a transfer may make no progress.
    pub patience: Duration,
}

impl Registries {
    /// What a configuration says.
    pub fn new(mirrors: Mirrors, timeouts: &Timeouts) -> Self {
        Self { mirrors, patience: seconds(timeouts.pull) }
    }
}

impl Default for Registries {
    fn default() -> Self {
        Self::new(Mirrors::new(), &Timeouts::default())
    }
}
