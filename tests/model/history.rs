//! Whether what callers were answered can be explained: an order of the operations, each somewhere between its call and its
//! answer, in which the model allows every answer.

use crate::machine::{Answer, Operation, State, take};
use std::collections::HashSet;
use std::time::Duration;

/// One operation of one caller.
#[derive(Debug, Clone)]
pub struct Entry {
    pub operation: Operation,
    pub answer: Answer,
    pub called: Duration,
    pub answered: Duration,
}

/// How far each operation is: the number of its next step, `None` when it is done.
type Progress = Vec<Option<u8>>;

struct Search<'a> {
    entries: &'a [Entry],
    short: bool,
    seen: HashSet<(Progress, State)>,
    /// The most operations that could be explained, and where that ended.
    furthest: (usize, State),
}

/// Judges the history of one container.
pub fn judge(entries: &[Entry], short: bool) -> Result<(), String> {
    let mut search = Search { entries, short, seen: HashSet::new(), furthest: (0, State::ABSENT) };
    if search.explain(vec![Some(0); entries.len()], State::ABSENT) {
        return Ok(());
    }
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by_key(|entry| entry.called);
    let lines: Vec<_> = entries
        .iter()
        .map(|e| format!("{:?} to {:?}: {:?} {:?}", e.called, e.answered, e.operation, e.answer))
        .collect();
    let (count, state) = search.furthest;
    Err(format!(
        "no order explains this (short: {short}; {count} can be, up to {state:?}):\n{}",
        lines.join("\n")
    ))
}

impl Search<'_> {
    fn explain(&mut self, progress: Progress, state: State) -> bool {
        let done = progress.iter().filter(|step| step.is_none()).count();
        if done == progress.len() {
            return true;
        }
        if done > self.furthest.0 {
            self.furthest = (done, state);
        }
        if !self.seen.insert((progress.clone(), state)) {
            return false;
        }
        // An operation can only be next if no other that is still open was answered before it was called.
        let open = || self.entries.iter().zip(&progress).filter(|(_, step)| step.is_some());
        let Some(first_answer) = open().map(|(entry, _)| entry.answered).min() else { return true };
        let next: Vec<_> = (0..self.entries.len())
            .filter(|at| progress[*at].is_some() && self.entries[*at].called <= first_answer)
            .collect();
        next.into_iter().any(|at| {
            let Some(step) = progress[at] else { return false };
            state.and_later().any(|state| {
                let entry = &self.entries[at];
                let Some((after, next)) = take(entry.operation, &entry.answer, step, state, self.short)
                else {
                    return false;
                };
                let mut progress = progress.clone();
                progress[at] = next;
                self.explain(progress, after)
            })
        })
    }
}

#[test]
fn the_model_tells_right_from_wrong() {
    let entry = |operation, answer, called, answered| Entry {
        operation,
        answer,
        called: Duration::from_millis(called),
        answered: Duration::from_millis(answered),
    };
    let status = |text: &str| Answer::Status(text.to_owned());
    let create = entry(Operation::Create, Answer::Done, 0, 10);
    let right = [
        create.clone(),
        entry(Operation::Create, Answer::Exists, 1, 2),
        entry(Operation::State, Answer::NotFound, 3, 4),
        entry(Operation::State, status("created"), 11, 12),
        entry(Operation::Start, Answer::Done, 13, 20),
        entry(Operation::Start, Answer::Invalid, 14, 19),
        entry(Operation::Delete, Answer::Done, 21, 22),
    ];
    assert!(judge(&right, true).is_ok());
    assert!(judge(&right, false).is_err(), "a running container was deleted without force");
    let wrong = [create, entry(Operation::State, status("running"), 11, 12)];
    assert!(judge(&wrong, false).is_err(), "a container that was not started runs");
}
