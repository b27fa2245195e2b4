//! One way to undo: a stack of named steps that runs backwards unless the operation is committed.

use crate::error::{Error, Result};

type Step<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// Steps that take back what an operation has done so far.
///
/// Push one after each thing that was made. When the operation fails, [`Undo::unwind`] runs them
/// backwards and adds to the first cause every step that could not be undone. When the operation succeeds,
/// [`Undo::commit`] forgets them. Dropping without either runs them too, so that a panic or an early return
/// leaves nothing.
#[derive(Default)]
pub struct Undo<'a> {
    steps: Vec<(&'static str, Step<'a>)>,
}

impl<'a> Undo<'a> {
    /// An empty stack.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step; `name` says what it does, as in "remove the cgroup".
    pub fn push(&mut self, name: &'static str, step: impl FnOnce() -> Result<()> + 'a) {
        self.steps.push((name, Box::new(step)));
    }

    /// Forgets all steps: what was made stays.
    pub fn commit(mut self) {
        self.steps.clear();
    }

    /// Runs all steps backwards and returns `cause`, with every step that failed added to its message.
    #[must_use]
    pub fn unwind(mut self, cause: Error) -> Error {
        match self.run() {
            None => cause,
            Some(failures) => {
                let kind = cause.kind();
                let errno = cause.errno();
                Error::from_parts(kind, format!("{cause} (and could not {failures})"), errno)
            }
        }
    }

    fn run(&mut self) -> Option<String> {
        let mut failures = Vec::new();
        while let Some((name, step)) = self.steps.pop() {
            if let Err(e) = step() {
                failures.push(format!("{name}: {e}"));
            }
        }
        (!failures.is_empty()).then(|| failures.join("; "))
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(failures) = self.run() {
            tracing::warn!("could not {failures}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::cell::RefCell;

    #[test]
    fn steps_run_backwards_and_failures_are_reported_with_the_cause() {
        let order = RefCell::new(Vec::new());
        let mut undo = Undo::new();
        undo.push("remove a", || {
            order.borrow_mut().push("a");
            Ok(())
        });
        undo.push("remove b", || {
            order.borrow_mut().push("b");
            Err(Error::from_errno(libc::EBUSY))
        });
        let e = undo.unwind(Error::new(ErrorKind::CreateFailed, "cannot create 'x'"));
        assert_eq!(*order.borrow(), ["b", "a"]);
        assert_eq!(e.kind(), ErrorKind::CreateFailed);
        assert!(e.message().starts_with("cannot create 'x' (and could not remove b: "), "{e}");
    }

    #[test]
    fn committed_steps_do_not_run() {
        let ran = RefCell::new(false);
        let mut undo = Undo::new();
        undo.push("remove", || {
            *ran.borrow_mut() = true;
            Ok(())
        });
        undo.commit();
        assert!(!*ran.borrow());
    }
}
