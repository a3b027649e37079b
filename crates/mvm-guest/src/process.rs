//! Children, and the one place that waits for processes: PID 1 must reap whatever dies, its own or not.

use mvm_protocol::ExitStatus;
use rustix::process::{Pid, WaitOptions, wait};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::rc::Rc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

/// A process that was started.
#[derive(Debug)]
pub struct Child {
    /// Its id.
    pub pid: Pid,
    /// How it ended, once it has.
    pub exit: oneshot::Receiver<ExitStatus>,
}

/// The only caller of wait4(2). It lives on the one thread of the runtime, so that between the start of a child and
/// the note of its id nothing can be reaped.
#[derive(Debug, Default)]
pub struct Reaper {
    children: RefCell<HashMap<Pid, oneshot::Sender<ExitStatus>>>,
    /// Told whenever something was reaped.
    reaped: Notify,
    /// Whether no child is left at all.
    alone: Cell<bool>,
}

impl Reaper {
    /// Starts a child.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let (tell, exit) = oneshot::channel();
        self.children.borrow_mut().insert(pid, tell);
        self.alone.set(false);
        Ok(Child { pid, exit })
    }

    /// Reaps for as long as it is polled. Must run on the runtime's own thread.
    pub async fn run(self: Rc<Self>) -> io::Result<()> {
        let mut sigchld = signal(SignalKind::child())?;
        loop {
            self.reap();
            if sigchld.recv().await.is_none() {
                return Ok(());
            }
        }
    }

    /// Returns when no child is left.
    pub async fn wait_until_alone(&self) {
        while !self.alone.get() {
            self.reaped.notified().await;
        }
    }

    /// Kills the process group of every child that was started and lives.
    #[cfg(test)]
    pub fn kill_children(&self) {
        for pid in self.children.borrow().keys() {
            let _ = rustix::process::kill_process_group(*pid, rustix::process::Signal::KILL);
        }
    }

    fn reap(&self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let exit = ExitStatus { code: status.exit_status(), signal: status.terminating_signal() };
                    if let Some(tell) = self.children.borrow_mut().remove(&pid) {
                        // Nobody may be waiting any more.
                        let _ = tell.send(exit);
                    }
                }
                Ok(None) => break self.alone.set(false),
                Err(_) => break self.alone.set(true),
            }
        }
        self.reaped.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::in_guest;
    use serde_json::json;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn each_child_gets_its_own_end() {
        in_guest(json!({}), async |guest| {
            let children: Vec<_> =
                (0..20).map(|code| guest.reaper.spawn(sh(&format!("exit {code}"))).unwrap()).collect();
            let killed = guest.reaper.spawn(sh("kill -9 $$")).unwrap();
            for (code, child) in (0..).zip(children) {
                assert_eq!(child.exit.await.unwrap(), ExitStatus { code: Some(code), signal: None });
            }
            assert_eq!(killed.exit.await.unwrap(), ExitStatus { code: None, signal: Some(9) });
            guest.reaper.wait_until_alone().await;
        });
    }

    #[test]
    fn orphans_are_reaped() {
        in_guest(json!({}), async |guest| {
            let (reader, writer) = io::pipe().unwrap();
            let mut command = sh("exec 3<&0; (read line <&3) & exit 0");
            command.stdin(reader);
            assert_eq!(guest.reaper.spawn(command).unwrap().exit.await.unwrap().code, Some(0));
            // The orphan lives as long as its input: nobody is alone yet.
            let early = tokio::time::timeout(std::time::Duration::ZERO, guest.reaper.wait_until_alone());
            assert!(early.await.is_err());
            drop(writer);
            guest.reaper.wait_until_alone().await;
        });
    }

    #[test]
    fn what_cannot_be_started_leaves_nothing() {
        in_guest(json!({}), async |guest| {
            assert_eq!(guest.reaper.spawn(Command::new("/no/such")).unwrap_err().kind(), io::ErrorKind::NotFound);
            assert!(guest.reaper.children.borrow().is_empty());
            guest.reaper.wait_until_alone().await;
        });
    }
}
