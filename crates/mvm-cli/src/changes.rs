//! Waiting for a log to grow or to be replaced: by inotify(7) on Linux, kqueue(2) on macOS.

pub(crate) use system::Changes;

#[cfg(target_os = "linux")]
mod system {
    use futures_util::StreamExt;
    use inotify::{EventStream, Inotify, WatchMask};
    use std::fs::File;
    use std::io;
    use std::path::Path;

    /// What happens to the files of a folder.
    pub(crate) struct Changes(EventStream<[u8; 4096]>);

    impl Changes {
        /// From now on.
        pub(crate) fn of(folder: &Path) -> io::Result<Self> {
            let inotify = Inotify::init()?;
            inotify.watches().add(folder, WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO)?;
            Ok(Self(inotify.into_event_stream([0; 4096])?))
        }

        /// A file of the folder that matters. Here all of them do already.
        pub(crate) fn also_of(&self, _file: &File) -> io::Result<()> {
            Ok(())
        }

        /// Returns when something has happened. Cancel-safe.
        pub(crate) async fn next(&mut self) {
            if self.0.next().await.is_none() {
                std::future::pending().await
            }
        }
    }
}

#[cfg(target_os = "macos")]
#[allow(unsafe_code)]
mod system {
    use rustix::event::kqueue::{Event, EventFilter, EventFlags, VnodeEvents, kevent, kqueue};
    use std::fs::File;
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::path::Path;
    use std::time::Duration;
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// What happens to a folder's list of files and to those files of it that were named.
    pub(crate) struct Changes {
        queue: AsyncFd<OwnedFd>,
        _folder: File,
    }

    impl Changes {
        /// From now on.
        pub(crate) fn of(folder: &Path) -> io::Result<Self> {
            let folder = File::open(folder)?;
            // SAFETY: the queue's descriptor is owned, and so open and the same for as long as it is registered.
            let queue = unsafe { AsyncFd::register_with_interest(kqueue()?, Interest::READABLE)? };
            let changes = Self { queue, _folder: folder.try_clone()? };
            changes.also_of(&folder)?;
            Ok(changes)
        }

        /// A file of the folder that matters. kqueue(2) forgets it when its last descriptor is closed.
        pub(crate) fn also_of(&self, file: &File) -> io::Result<()> {
            let filter =
                EventFilter::Vnode { vnode: file.as_raw_fd(), flags: VnodeEvents::WRITE | VnodeEvents::EXTEND };
            let watch = Event::new(filter, EventFlags::ADD | EventFlags::CLEAR, std::ptr::null_mut());
            // SAFETY: the descriptor is open, and a closed one is taken out of the queue by the kernel.
            unsafe { kevent(self.queue.get_ref(), &[watch], &mut [] as &mut [Event], None)? };
            Ok(())
        }

        /// Returns when something has happened. Cancel-safe.
        pub(crate) async fn next(&mut self) {
            let Ok(mut ready) = self.queue.readable().await else { return std::future::pending().await };
            let mut events = [MaybeUninit::uninit(); 8];
            // Taken off the queue, or it would be readable for ever; who asks reads all that there is anyway.
            // SAFETY: no descriptors are named.
            let taken = unsafe { kevent(ready.get_inner(), &[], &mut events[..], Some(Duration::ZERO)) };
            if taken.is_ok_and(|(events, _)| events.len() < 8) {
                ready.clear_ready();
            }
        }
    }
}
