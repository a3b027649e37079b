//! The framework's objects. A machine's are made, used and freed on its own serial queue and nowhere else; answers leave
//! the queue through channels.
#![allow(unsafe_code)]

use super::configuration::{Configuration, Disk, Limits};
use crate::backend::MachineEnd;
use block2::RcBlock;
use dispatch2::{DispatchQueue, DispatchRetained};
use mvm_core::MacHost;
use objc2::rc::{Allocated, Retained};
use objc2::runtime::{NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::{NSArray, NSError, NSFileHandle, NSProcessInfo, NSString, NSURL};
use objc2_virtualization::*;
use std::cell::Cell;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// What a machine tells by itself.
pub(super) struct Events {
    /// Its end.
    pub(super) ends: mpsc::UnboundedSender<MachineEnd>,
    /// Streams that the guest opens.
    pub(super) opened: mpsc::Sender<OwnedFd>,
    /// The port of the host on which it may.
    pub(super) port: u32,
}

/// What a machine can be told to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    Start,
    Pause,
    Resume,
    Stop,
}

/// What the framework allows here.
pub(super) fn limits() -> Limits {
    // SAFETY: class properties without preconditions.
    unsafe {
        Limits {
            vcpus: VZVirtualMachineConfiguration::minimumAllowedCPUCount() as u64
                ..=VZVirtualMachineConfiguration::maximumAllowedCPUCount() as u64,
            memory: VZVirtualMachineConfiguration::minimumAllowedMemorySize()
                ..=VZVirtualMachineConfiguration::maximumAllowedMemorySize(),
        }
    }
}

/// This Mac.
pub fn mac_host() -> MacHost {
    /// The first macOS whose framework can be asked for nested virtualization.
    const NESTED_FROM: u32 = 15;
    let version = NSProcessInfo::processInfo().operatingSystemVersion();
    let macos = u32::try_from(version.majorVersion).unwrap_or_default();
    // SAFETY: a class property, which every macOS from 15 on has.
    let nested = || unsafe { VZGenericPlatformConfiguration::isNestedVirtualizationSupported() };
    let apple_silicon = cfg!(target_arch = "aarch64");
    MacHost {
        macos,
        apple_silicon,
        nested_virtualization: apple_silicon && macos >= NESTED_FROM && nested(),
        // SAFETY: a class property without preconditions.
        virtualization: unsafe { VZVirtualMachine::isSupported() },
    }
}

/// The objects of one machine.
struct Objects {
    machine: Retained<VZVirtualMachine>,
    socket: Retained<VZVirtioSocketDevice>,
    /// The framework holds its delegates weakly.
    _delegate: Retained<Delegate>,
    _listener: (Retained<VZVirtioSocketListener>, Retained<Listener>),
}

/// Objects that are used on one queue only.
struct Confined(Objects);
// SAFETY: `Vm` hands them to closures on the machine's serial queue only, the last of which frees them.
unsafe impl Send for Confined {}
// SAFETY: as above; a serial queue runs one closure at a time.
unsafe impl Sync for Confined {}

/// A machine, from the outside of its queue.
pub(super) struct Vm {
    queue: DispatchRetained<DispatchQueue>,
    objects: Option<Arc<Confined>>,
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm").finish_non_exhaustive()
    }
}

impl Vm {
    /// Makes a machine, not started yet. `console` is the guest's serial port.
    pub(super) async fn make(configuration: Configuration, console: OwnedFd, events: Events) -> Result<Self, String> {
        let queue = DispatchQueue::new("mvm", None);
        let (tell, told) = oneshot::channel();
        let own = queue.clone();
        queue.exec_async(move || {
            let _ = tell.send(objects(&configuration, console, events, &own).map(|made| Arc::new(Confined(made))));
        });
        let objects = told.await.unwrap_or_else(|_| Err("it did not come to making the machine".into()))?;
        Ok(Self { queue, objects: Some(objects) })
    }

    /// Gives an order and waits until it is carried out.
    pub(super) async fn order(&self, order: Order) -> Result<(), String> {
        self.ask(move |objects, tell| {
            let tell = Cell::new(Some(tell));
            let done = RcBlock::new(move |error: *mut NSError| {
                if let Some(tell) = tell.take() {
                    // SAFETY: the framework gives a valid error or none.
                    let _ = tell.send(unsafe { error.as_ref() }.map_or(Ok(()), |error| Err(said(error))));
                }
            });
            // SAFETY: on the machine's queue; an order that its state does not allow is answered by an error.
            unsafe {
                match order {
                    Order::Start => objects.machine.startWithCompletionHandler(&done),
                    Order::Pause => objects.machine.pauseWithCompletionHandler(&done),
                    Order::Resume => objects.machine.resumeWithCompletionHandler(&done),
                    Order::Stop => objects.machine.stopWithCompletionHandler(&done),
                }
            }
        })
        .await
    }

    /// Opens a stream to a port of the guest.
    pub(super) async fn connect(&self, port: u32) -> Result<OwnedFd, String> {
        self.ask(move |objects, tell| {
            let tell = Cell::new(Some(tell));
            let done = RcBlock::new(move |connection: *mut VZVirtioSocketConnection, error: *mut NSError| {
                let Some(tell) = tell.take() else { return };
                // SAFETY: the framework gives a valid connection or a valid error.
                let answer = match (unsafe { connection.as_ref() }, unsafe { error.as_ref() }) {
                    (Some(connection), _) => descriptor(connection),
                    (None, error) => Err(error.map_or("it is refused".into(), said)),
                };
                let _ = tell.send(answer);
            });
            // SAFETY: on the machine's queue.
            unsafe { objects.socket.connectToPort_completionHandler(port, &done) };
        })
        .await
    }

    /// Runs `ask` on the queue and waits for what it tells.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Objects, oneshot::Sender<Result<T, String>>) + Send + 'static,
    ) -> Result<T, String> {
        let (tell, told) = oneshot::channel();
        if let Some(objects) = self.objects.clone() {
            self.queue.exec_async(move || ask(&objects.0, tell));
        }
        told.await.unwrap_or_else(|_| Err("the machine is gone".into()))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let objects = self.objects.take();
        // After all that was asked before, and where the objects belong.
        self.queue.exec_async(move || drop(objects));
    }
}

/// Makes a machine's objects. On its queue.
fn objects(
    configuration: &Configuration,
    console: OwnedFd,
    events: Events,
    queue: &DispatchQueue,
) -> Result<Objects, String> {
    let Events { ends, opened, port } = events;
    let made = framework_configuration(configuration, console)?;
    // SAFETY: a validated configuration, and the queue that this runs on.
    let machine = unsafe { VZVirtualMachine::initWithConfiguration_queue(VZVirtualMachine::alloc(), &made, queue) };
    let delegate = Delegate::new(ends);
    let listens = Listener::new(opened);
    // SAFETY: on the machine's queue; the delegates live as long as the machine.
    unsafe {
        machine.setDelegate(Some(ProtocolObject::from_ref(&*delegate)));
        let devices = machine.socketDevices();
        let socket = devices.firstObject().and_then(|device| device.downcast::<VZVirtioSocketDevice>().ok());
        let socket = socket.ok_or("the machine has no socket device")?;
        let listener = VZVirtioSocketListener::new();
        listener.setDelegate(Some(ProtocolObject::from_ref(&*listens)));
        socket.setSocketListener_forPort(&listener, port);
        Ok(Objects { machine, socket, _delegate: delegate, _listener: (listener, listens) })
    }
}

fn framework_configuration(
    plan: &Configuration,
    console: OwnedFd,
) -> Result<Retained<VZVirtualMachineConfiguration>, String> {
    // SAFETY: plain objects that nobody else has yet; what they are given is valid for as long as they hold it.
    unsafe {
        let made = VZVirtualMachineConfiguration::new();
        let loader = VZLinuxBootLoader::initWithKernelURL(VZLinuxBootLoader::alloc(), &url(&plan.kernel));
        loader.setCommandLine(&NSString::from_str(&plan.command_line));
        if let Some(initrd) = &plan.initrd {
            loader.setInitialRamdiskURL(Some(&url(initrd)));
        }
        made.setBootLoader(Some(&loader));
        made.setCPUCount(plan.vcpus as usize);
        made.setMemorySize(plan.memory);

        let disks = plan.disks.iter().map(disk).collect::<Result<Vec<_>, _>>()?;
        made.setStorageDevices(&NSArray::from_retained_slice(&disks));

        // It reads and writes one socket, which it closes with its last use.
        let handle =
            NSFileHandle::initWithFileDescriptor_closeOnDealloc(NSFileHandle::alloc(), console.into_raw_fd(), true);
        let port = VZVirtioConsoleDeviceSerialPortConfiguration::new();
        port.setAttachment(Some(&VZFileHandleSerialPortAttachment::initWithFileHandleForReading_fileHandleForWriting(
            VZFileHandleSerialPortAttachment::alloc(),
            Some(&handle),
            Some(&handle),
        )));
        made.setSerialPorts(&NSArray::from_retained_slice(&[port.into_super()]));
        made.setSocketDevices(&NSArray::from_retained_slice(&[VZVirtioSocketDeviceConfiguration::new().into_super()]));
        made.setEntropyDevices(&NSArray::from_retained_slice(
            &[VZVirtioEntropyDeviceConfiguration::new().into_super()],
        ));
        made.setMemoryBalloonDevices(&NSArray::from_retained_slice(&[
            VZVirtioTraditionalMemoryBalloonDeviceConfiguration::new().into_super(),
        ]));
        made.validateWithError().map_err(|error| said(&error))?;
        Ok(made)
    }
}

fn disk(disk: &Disk) -> Result<Retained<VZStorageDeviceConfiguration>, String> {
    let unattached = VZDiskImageStorageDeviceAttachment::alloc();
    // SAFETY: plain objects that nobody else has yet.
    unsafe {
        let attachment = VZDiskImageStorageDeviceAttachment::initWithURL_readOnly_error(
            unattached,
            &url(&disk.path),
            disk.read_only,
        )
        .map_err(|error| format!("{}: {}", disk.path, said(&error)))?;
        let device: Allocated<VZVirtioBlockDeviceConfiguration> = VZVirtioBlockDeviceConfiguration::alloc();
        Ok(VZVirtioBlockDeviceConfiguration::initWithAttachment(device, &attachment).into_super())
    }
}

fn url(path: &str) -> Retained<NSURL> {
    NSURL::fileURLWithPath(&NSString::from_str(path))
}

fn said(error: &NSError) -> String {
    error.localizedDescription().to_string()
}

/// A connection's descriptor, to be kept: the connection closes its own when it is freed.
fn descriptor(connection: &VZVirtioSocketConnection) -> Result<OwnedFd, String> {
    // SAFETY: the connection is alive; it answers -1 where it is closed already.
    let raw = unsafe { connection.fileDescriptor() };
    if raw < 0 {
        return Err("the guest closed the stream at once".into());
    }
    // SAFETY: open for as long as the connection lives, which is longer than this borrow.
    unsafe { BorrowedFd::borrow_raw(raw) }.try_clone_to_owned().map_err(|e| e.to_string())
}

define_class!(
    // SAFETY: NSObject asks nothing of its subclasses, and this one implements no Drop.
    #[unsafe(super(NSObject))]
    #[name = "MvmMachineDelegate"]
    #[ivars = mpsc::UnboundedSender<MachineEnd>]
    struct Delegate;

    unsafe impl NSObjectProtocol for Delegate {}

    unsafe impl VZVirtualMachineDelegate for Delegate {
        #[unsafe(method(guestDidStopVirtualMachine:))]
        fn guest_did_stop(&self, _machine: &VZVirtualMachine) {
            // Nobody listens where the supervisor is ending.
            let _ = self.ivars().send(MachineEnd::GuestPoweredOff);
        }

        #[unsafe(method(virtualMachine:didStopWithError:))]
        fn did_stop_with_error(&self, _machine: &VZVirtualMachine, error: &NSError) {
            let _ = self.ivars().send(MachineEnd::Died(said(error)));
        }
    }
);

impl Delegate {
    fn new(ends: mpsc::UnboundedSender<MachineEnd>) -> Retained<Self> {
        let this = Self::alloc().set_ivars(ends);
        // SAFETY: NSObject's initialiser, as it is declared.
        unsafe { msg_send![super(this), init] }
    }
}

define_class!(
    // SAFETY: NSObject asks nothing of its subclasses, and this one implements no Drop.
    #[unsafe(super(NSObject))]
    #[name = "MvmSocketListener"]
    #[ivars = mpsc::Sender<OwnedFd>]
    struct Listener;

    unsafe impl NSObjectProtocol for Listener {}

    unsafe impl VZVirtioSocketListenerDelegate for Listener {
        #[unsafe(method(listener:shouldAcceptNewConnection:fromSocketDevice:))]
        fn should_accept(
            &self,
            _listener: &VZVirtioSocketListener,
            connection: &VZVirtioSocketConnection,
            _device: &VZVirtioSocketDevice,
        ) -> bool {
            descriptor(connection).is_ok_and(|stream| self.ivars().try_send(stream).is_ok())
        }
    }
);

impl Listener {
    fn new(opened: mpsc::Sender<OwnedFd>) -> Retained<Self> {
        let this = Self::alloc().set_ivars(opened);
        // SAFETY: NSObject's initialiser, as it is declared.
        unsafe { msg_send![super(this), init] }
    }
}
