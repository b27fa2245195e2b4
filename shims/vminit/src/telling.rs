//! What connections are told: answers that had to wait, and logs.

use crate::connection::{Connection, Role};
use crate::container::Container;
use crate::guest::Guest;
use vm_protocol::message::Reply;

impl Guest {
    /// Feeds and sends, and drops what is over.
    pub(crate) fn flush(&mut self) {
        let status = Reply::Status(self.status());
        let (ready, failed) = (matches!(&status, Reply::Status(status) if status.ready), self.failed.clone());
        let mut told = false;
        for connection in self.connections.values_mut() {
            connection.send();
            match connection.role {
                Role::Ready | Role::Watch(_) | Role::Start(_) if failed.is_some() => {
                    failed.iter().for_each(|failure| connection.fail(failure.clone()));
                    told = true;
                }
                Role::Ready if ready => {
                    connection.finish(&status);
                    told = true;
                }
                Role::Start(index) if self.containers[index].is_started() => connection.finish(&Reply::Done),
                Role::Watch(true) if connection.is_flushed() => {
                    connection.reply(&status);
                    connection.role = Role::Watch(false);
                    told |= ready;
                }
                Role::Input(index) if self.containers[index].code().is_some() => {
                    connection.finish(&Reply::Done);
                }
                Role::Logs { container, next, end } => {
                    feed(connection, &self.containers[container], next, end);
                }
                _ => {}
            }
            connection.send();
        }
        if told {
            self.tell();
        }
        let over: Vec<u64> =
            self.connections.iter().filter(|(_, it)| it.is_over()).map(|(number, _)| *number).collect();
        over.into_iter().for_each(|number| self.drop_connection(number));
    }

    /// The process of an exec does not outlive its connection.
    fn drop_connection(&mut self, number: u64) {
        self.connections.remove(&number);
        for exec in self.execs.values_mut().filter(|exec| exec.connection == Some(number)) {
            exec.connection = None;
            let _ = exec.running.signal(libc::SIGKILL);
        }
    }
}

/// Gives the reader of a log what it has room for.
fn feed(connection: &mut Connection, container: &Container, mut next: u64, end: Option<u64>) {
    // What the other side takes at once makes room for more, and nobody would wake us up for that.
    while connection.has_room() && end.is_none_or(|end| next < end) {
        let Some((kind, data, after)) = container.log.piece(next) else { break };
        connection.data(kind, data);
        connection.send();
        next = after;
    }
    connection.role = Role::Logs { container: index_of(connection.role), next, end };
    let all = next >= end.unwrap_or(container.log.end());
    if all && (end.is_some() || container.is_over()) {
        connection.finish(&Reply::Done);
    }
}

fn index_of(role: Role) -> usize {
    match role {
        Role::Logs { container, .. } => container,
        _ => 0,
    }
}
