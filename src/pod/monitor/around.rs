//! What is around the containers of a pod, and what is done differently where something is: a microVM or one process of modules is made as
//! one container, in which the pod's start, end and write.

use super::Monitor;
use super::guest::{Guest, GuestSource};
use super::modules::{Modules, ModulesSource};
use crate::error::Result;
use crate::runtime::container::Container;
use crate::runtime::delete::delete;
use crate::runtime::lifecycle;
use rustix::event::PollFlags;
use std::os::fd::BorrowedFd;

/// What is around all containers of a pod.
#[derive(Debug, Default)]
pub(super) enum Around {
    /// Nothing: each is a container of the host.
    #[default]
    Nothing,
    /// Their microVM.
    Guest(Box<Guest>),
    /// The process that they are modules in.
    Modules(Modules),
}

/// What the monitor waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AroundSource {
    Guest(GuestSource),
    Modules(ModulesSource),
}

impl Around {
    pub(super) fn guest(&self) -> Option<&Guest> {
        if let Self::Guest(guest) = self { Some(guest) } else { None }
    }

    pub(super) fn guest_mut(&mut self) -> Option<&mut Guest> {
        if let Self::Guest(guest) = self { Some(guest) } else { None }
    }

    pub(super) fn modules(&self) -> Option<&Modules> {
        if let Self::Modules(modules) = self { Some(modules) } else { None }
    }

    pub(super) fn modules_mut(&mut self) -> Option<&mut Modules> {
        if let Self::Modules(modules) = self { Some(modules) } else { None }
    }

    /// What to wait for, and for which events of it.
    pub(super) fn sources(&self) -> Vec<(AroundSource, BorrowedFd<'_>, PollFlags)> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Guest(guest) => {
                guest.sources().map(|(source, fd, flags)| (AroundSource::Guest(source), fd, flags)).collect()
            }
            Self::Modules(modules) => {
                let sources = modules.sources();
                sources.map(|(source, fd)| (AroundSource::Modules(source), fd, PollFlags::IN)).collect()
            }
        }
    }
}

impl Monitor<'_> {
    pub(super) fn serve_around(&mut self, source: AroundSource) {
        match source {
            AroundSource::Guest(source) => self.serve_guest(source),
            AroundSource::Modules(source) => self.serve_modules(source),
        }
    }

    /// Starts a container that was made, and returns when its program is executed.
    pub(super) fn start_made(&mut self, number: usize) -> Result<()> {
        match &self.around {
            Around::Nothing => lifecycle::start(&self.host, &self.members[number].plan.name),
            Around::Guest(_) => self.start_in_guest(number),
            Around::Modules(modules) => modules.start(number),
        }
    }

    /// Makes a container again that has ended.
    pub(super) fn make_again(&mut self, number: usize) -> Result<()> {
        match self.around {
            Around::Nothing => self.create_member(number),
            // The guest has everything of it.
            Around::Guest(_) => Ok(()),
            Around::Modules(_) => self.prepare_module(number),
        }
    }

    /// Removes what a container that has ended leaves.
    pub(super) fn unmake(&mut self, number: usize) -> Result<()> {
        let member = &mut self.members[number];
        match self.around {
            Around::Nothing => {
                let container = Container::open(&self.host, &member.plan.name);
                member.out_of_memory = container.is_ok_and(|it| it.record.cgroup.oom_kills() > 0);
                delete(&self.host, &member.plan.name, true)
            }
            Around::Guest(_) | Around::Modules(_) => Ok(()),
        }
    }

    /// Sends a signal to the first process of a container, if that lives. What does not take it is ended, and with it the pod.
    pub(super) fn signal_member(&mut self, number: usize, signal: i32) {
        match &self.around {
            Around::Nothing => self.members[number].signal(signal),
            Around::Guest(_) => self.signal_in_guest(number, signal),
            Around::Modules(modules) => modules.end(number, signal),
        }
    }

    /// Takes note of the end of what is around the containers; false if the process was not that.
    pub(super) fn around_ended(&mut self, pid: i32) -> bool {
        match self.around {
            Around::Nothing => false,
            Around::Guest(_) => self.guest_ended(pid),
            Around::Modules(_) => self.modules_ended(pid),
        }
    }

    /// Ends what is around the containers: in good order, or at once.
    pub(super) fn stop_around(&mut self, at_once: bool) {
        match self.around {
            Around::Nothing => {}
            Around::Guest(_) => self.stop_guest(at_once),
            Around::Modules(_) => self.stop_modules(),
        }
    }
}
