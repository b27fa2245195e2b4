//! The model: the states of a container, and what each operation may answer and do in them.

/// What callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Start,
    State,
    Kill,
    Term,
    Pause,
    Resume,
    Exec,
    Delete,
    DeleteForce,
}

/// What they are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Done,
    /// The status that `state` printed.
    Status(String),
    /// There is no such container.
    NotFound,
    /// There is one already.
    Exists,
    /// It cannot be done in this state.
    Invalid,
    /// Any other failure.
    Failed(String),
}

impl Answer {
    /// Reads exit code and output of the runtime.
    pub fn read(operation: Operation, code: i32, stdout: &str, stderr: &str) -> Self {
        if code == 0 && operation == Operation::State {
            let state: serde_json::Value = serde_json::from_str(stdout).unwrap_or_default();
            return Self::Status(state["status"].as_str().unwrap_or_default().to_owned());
        }
        let has = |words: &[&str]| words.iter().any(|word| stderr.contains(word));
        match code {
            0 => Self::Done,
            _ if has(&["container does not exist"]) => Self::NotFound,
            _ if has(&["container with given ID already exists"]) => Self::Exists,
            _ if has(&[
                "cannot start a container that has stopped",
                "cannot start an already running container",
                "cannot start a container in the paused state",
                "container not running",
                "container not paused",
                "cannot exec in a stopped container",
                "cannot exec in a paused container",
                "that is not stopped",
            ]) =>
            {
                Self::Invalid
            }
            _ => Self::Failed(format!("exit {code}: {}", stderr.trim())),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Life {
    Absent,
    /// The id is taken, the container not there yet.
    Creating,
    Created,
    Running,
    Stopped,
    /// Not there any more, the id not free yet.
    Deleting,
}

/// A state of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub life: Life,
    pub frozen: bool,
    /// It was killed, or its program ends by itself: it is stopped at any moment.
    pub dying: bool,
}

impl State {
    pub const ABSENT: Self = Self { life: Life::Absent, frozen: false, dying: false };

    fn of(life: Life) -> Self {
        Self { life, ..Self::ABSENT }
    }

    fn alive(self) -> bool {
        matches!(self.life, Life::Created | Life::Running)
    }

    fn there(self) -> bool {
        self.alive() || self.life == Life::Stopped
    }

    fn status(self) -> &'static str {
        match self.life {
            Life::Stopped => "stopped",
            _ if self.frozen => "paused",
            Life::Created => "created",
            _ => "running",
        }
    }

    /// This state, and the one that it can become by itself.
    pub fn and_later(self) -> impl Iterator<Item = Self> {
        let dead = self.dying.then_some(Self::of(Life::Stopped));
        std::iter::once(self).chain(dead)
    }
}

/// Step number `step` of an operation that was answered so: the state after it, and the number of the next step, `None`
/// after the last. Nothing if the model does not allow it in this state. `short`: the program ends at once.
pub fn take(
    operation: Operation,
    answer: &Answer,
    step: u8,
    state: State,
    short: bool,
) -> Option<(State, Option<u8>)> {
    use Operation as O;
    let last = |state| Some((state, None));
    match (operation, answer) {
        (O::Create, Answer::Exists) => (state.life != Life::Absent).then_some((state, None)),
        (_, Answer::NotFound) => (!state.there() && operation != O::DeleteForce).then_some((state, None)),
        (O::Create, Answer::Done) => match (step, state.life) {
            (0, Life::Absent) => Some((State::of(Life::Creating), Some(1))),
            (1, Life::Creating) => last(State::of(Life::Created)),
            _ => None,
        },
        (O::DeleteForce, Answer::Done) if step == 0 && state.life == Life::Absent => last(state),
        // What lives is killed first, and for a moment it is a container that has stopped.
        (O::DeleteForce | O::Delete, Answer::Done) => match step {
            0 if state.alive()
                && (operation == O::DeleteForce || (state.life == Life::Created && !state.frozen)) =>
            {
                Some((State { dying: true, frozen: false, ..state }, Some(1)))
            }
            0 if state.life == Life::Stopped => Some((state, Some(1))),
            1 if state.there() => Some((State::of(Life::Deleting), Some(2))),
            2 if state.life == Life::Deleting => last(State::ABSENT),
            _ => None,
        },
        (O::Delete, Answer::Invalid) => {
            (state.life == Life::Running || (state.alive() && state.frozen)).then_some((state, None))
        }
        (O::State, Answer::Status(status)) => {
            (state.there() && status == state.status()).then_some((state, None))
        }
        (O::Start, Answer::Done) => (state.life == Life::Created && !state.frozen)
            .then_some((State { dying: state.dying || short, ..State::of(Life::Running) }, None)),
        (O::Start, Answer::Invalid) => (state.there()
            && (state.life != Life::Created || state.frozen || state.dying))
            .then_some((state, None)),
        // It died in between; that a start was tried cannot be taken back.
        (O::Start, Answer::Failed(_)) => {
            (state.alive() && state.dying).then_some((State { life: Life::Running, ..state }, None))
        }
        (O::Exec, Answer::Failed(_)) => (state.alive() && state.dying).then_some((state, None)),
        (O::Kill, Answer::Done) => {
            state.alive().then_some((State { dying: true, frozen: false, ..state }, None))
        }
        (O::Term, Answer::Done) => state.alive().then_some((state, None)),
        (O::Kill | O::Term, Answer::Invalid) => {
            (state.life == Life::Stopped || state.dying).then_some((state, None))
        }
        (O::Pause, Answer::Done) => {
            (state.alive() && !state.frozen).then_some((State { frozen: true, ..state }, None))
        }
        (O::Pause, Answer::Invalid) => {
            (state.there() && (!state.alive() || state.frozen || state.dying)).then_some((state, None))
        }
        (O::Resume, Answer::Done) => {
            (state.alive() && state.frozen).then_some((State { frozen: false, ..state }, None))
        }
        (O::Resume, Answer::Invalid) => {
            (state.there() && (!state.alive() || !state.frozen || state.dying)).then_some((state, None))
        }
        (O::Exec, Answer::Done) => (state.alive() && !state.frozen).then_some((state, None)),
        (O::Exec, Answer::Invalid) => {
            (state.there() && (!state.alive() || state.frozen || state.dying)).then_some((state, None))
        }
        _ => None,
    }
}
