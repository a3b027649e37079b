//! How many connections there may be: few that have not proved who they are, many that have.
//!
//! A stranger that holds connections open must not keep the host out, and a host that opens hundreds at once must not
//! push its own ones aside. So where there are too many unfinished handshakes, the next waits until one ends or the
//! oldest has taken longer than an honest one would, and then that one gives way.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Most handshakes at once.
pub(super) const MAX_HANDSHAKES: usize = 16;
/// How long a handshake may take while others wait.
const GRACE: Duration = Duration::from_millis(500);
/// Most authenticated connections at once.
pub(super) const MAX_CONNECTIONS: usize = 1024;

/// The counts.
#[derive(Default)]
pub(super) struct Gate {
    handshakes: RefCell<VecDeque<UnderWay>>,
    ended: Notify,
    next: Cell<u64>,
    open: Cell<usize>,
}

struct UnderWay {
    id: u64,
    since: Instant,
    evict: oneshot::Sender<()>,
}

/// A handshake that is under way. Dropped when it has ended.
pub(super) struct Handshake {
    gate: Rc<Gate>,
    id: u64,
    /// Resolves when this handshake has to give way.
    pub(super) evicted: oneshot::Receiver<()>,
}

/// An authenticated connection. Dropped when it has ended.
pub(super) struct Connection(Rc<Gate>);

impl Gate {
    /// Lets a connection begin its handshake.
    pub(super) async fn handshake(self: &Rc<Self>) -> Handshake {
        loop {
            let oldest = {
                let mut handshakes = self.handshakes.borrow_mut();
                if handshakes.len() < MAX_HANDSHAKES {
                    let id = self.next.replace(self.next.get().wrapping_add(1));
                    let (evict, evicted) = oneshot::channel();
                    handshakes.push_back(UnderWay { id, since: Instant::now(), evict });
                    return Handshake { gate: Rc::clone(self), id, evicted };
                }
                let Some(oldest) = handshakes.front().map(|oldest| oldest.since) else { continue };
                if oldest.elapsed() >= GRACE {
                    if let Some(oldest) = handshakes.pop_front() {
                        // It may have ended in this very moment.
                        let _ = oldest.evict.send(());
                    }
                    continue;
                }
                oldest
            };
            // Either is reason enough to look again.
            let _ = tokio::time::timeout_at(oldest + GRACE, self.ended.notified()).await;
        }
    }

    /// A connection has proved who it is; `None` where there are too many.
    pub(super) fn connection(self: &Rc<Self>) -> Option<Connection> {
        (self.open.get() < MAX_CONNECTIONS).then(|| {
            self.open.set(self.open.get() + 1);
            Connection(Rc::clone(self))
        })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.gate.handshakes.borrow_mut().retain(|other| other.id != self.id);
        self.gate.ended.notify_one();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_handshake_gives_way_once_it_takes_too_long() {
        let gate = Rc::new(Gate::default());
        let mut waiting = Vec::new();
        for _ in 0..MAX_HANDSHAKES {
            waiting.push(gate.handshake().await);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let start = Instant::now();
        let newest = gate.handshake().await;
        assert!(start.elapsed() < GRACE);
        assert!(waiting[0].evicted.try_recv().is_ok());
        assert!(waiting[1].evicted.try_recv().is_err());
        // One that ends makes room at once: nobody gives way.
        let start = Instant::now();
        drop(newest);
        let _next = gate.handshake().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(waiting[1].evicted.try_recv().is_err());
        drop(waiting);
        assert_eq!(gate.handshakes.borrow().len(), 1);
    }

    #[test]
    fn connections_are_counted() {
        let gate = Rc::new(Gate::default());
        let held: Vec<_> = (0..MAX_CONNECTIONS).map(|_| gate.connection().unwrap()).collect();
        assert!(gate.connection().is_none());
        drop(held);
        assert!(gate.connection().is_some());
    }
}
