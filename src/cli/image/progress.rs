//! How far a transfer is: bars on a terminal, lines elsewhere.

use crate::image::progress::Progress;
use crate::platform::stdio;
use crate::storage::blobs::Digest;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Digits of a digest that are shown.
const DIGITS: usize = 12;
/// The line of one blob.
const TEMPLATE: &str = "{prefix} {bar:30} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {msg}";

/// Shows the progress of a transfer on standard error.
pub struct Bars {
    quiet: bool,
    terminal: bool,
    all: MultiProgress,
    bars: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Bars {
    /// Bars on a terminal, plain lines elsewhere, nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { quiet, terminal, all: MultiProgress::with_draw_target(target), bars: Mutex::default() }
    }

    fn bars(&self) -> MutexGuard<'_, HashMap<Digest, ProgressBar>> {
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.terminal {
            let _ = self.all.println(text);
        } else {
            stdio::tell(text);
        }
    }
}

fn short(blob: &Digest) -> &str {
    &blob.hex()[..DIGITS]
}

impl Progress for Bars {
    fn started(&self, blob: &Digest, size: u64) {
        if !self.terminal {
            return self.line(&format!("{} {}", short(blob), super::list::human_size(size)));
        }
        let bar = self.all.add(ProgressBar::new(size).with_prefix(short(blob).to_owned()));
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        self.bars().insert(blob.clone(), bar);
    }

    fn advanced(&self, blob: &Digest, bytes: u64) {
        if let Some(bar) = self.bars().get(blob) {
            bar.inc(bytes);
        }
    }

    fn finished(&self, blob: &Digest) {
        match self.bars().remove(blob) {
            Some(bar) => bar.finish_with_message("done"),
            None => self.line(&format!("{} done", short(blob))),
        }
    }

    fn exists(&self, blob: &Digest) {
        self.line(&format!("{} exists", short(blob)));
    }

    fn note(&self, message: &str) {
        self.line(message);
    }
}
