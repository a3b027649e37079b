//! The real thing, with bare guests: `MVM_FIRECRACKER` names the program, and `/dev/kvm` has to open.

use super::super::super::{Console, Launched, MachineEnd, Vmm};
use super::super::vmm::{API_SOCKET, VSOCK_SOCKET, spawn};
use super::super::{Firecracker, api::*};
use super::bare_guest::{GREETING, Then, elf};
use super::{log, spec};
use crate::arrivals::Arrivals;
use mvm_core::{DriveRole, KernelFormat, LaunchSpec};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::task::LocalSet;

/// For what takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, where this machine lets it run.
fn firecracker() -> Option<Firecracker> {
    let Some(program) = std::env::var_os("MVM_FIRECRACKER").map(PathBuf::from) else {
        println!("not run against a real Firecracker: MVM_FIRECRACKER is not set");
        return None;
    };
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() || cfg!(not(target_arch = "x86_64")) {
        println!("not run against a real Firecracker: the bare guest needs an x86_64 with a /dev/kvm that opens");
        return None;
    }
    Some(Firecracker { program })
}

/// A VM of a bare guest in the folder.
fn bare(folder: &Path, then: &Then) -> LaunchSpec {
    let kernel = folder.join("bare.elf");
    std::fs::write(&kernel, elf(then)).unwrap();
    spec(folder, &kernel)
}

/// Reads the console until it has said this often enough; all that it said.
async fn says(console: &mut Console, words: &str, times: usize) -> String {
    let mut said = Vec::new();
    let read = async {
        while String::from_utf8_lossy(&said).matches(words).count() < times {
            let mut buffer = [0; 1024];
            match console.read(&mut buffer).await.unwrap() {
                0 => return false,
                n => said.extend_from_slice(&buffer[..n]),
            }
        }
        true
    };
    let done = tokio::time::timeout(PATIENCE, read).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(done, Ok(true), "{said}");
    said
}

fn api(launched: &Launched) -> Client {
    match &launched.machine.vmm {
        Vmm::Firecracker(vmm) => vmm.api.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guest_from_its_greeting_to_its_reset() {
    let Some(firecracker) = firecracker() else { return };
    let dir = tempfile::tempdir().unwrap();
    LocalSet::new()
        .run_until(async {
            let spec = bare(dir.path(), &Then::Reset);
            let mut vm = firecracker.start(&spec, &log(dir.path())).await.unwrap();
            says(&mut vm.console, GREETING, 1).await;
            assert_eq!(vm.machine.ended().await, MachineEnd::GuestPoweredOff);
            vm.machine.kill().await;
            // Nothing but the guest spoke on the console: Firecracker has a log.
            let mut rest = String::new();
            vm.console.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "");
        })
        .await;
}

#[tokio::test]
async fn pause_resume_kill_and_a_start_over_stale_sockets() {
    let Some(firecracker) = firecracker() else { return };
    let dir = tempfile::tempdir().unwrap();
    LocalSet::new()
        .run_until(async {
            let spec = bare(dir.path(), &Then::Dots);
            let mut vm = firecracker.start(&spec, &log(dir.path())).await.unwrap();
            let api = api(&vm);
            says(&mut vm.console, ".", 3).await;
            vm.machine.pause().await.unwrap();
            assert_eq!(api.instance().await.unwrap().state, InstanceState::Paused);
            vm.machine.resume().await.unwrap();
            assert_eq!(api.instance().await.unwrap().state, InstanceState::Running);
            says(&mut vm.console, ".", 3).await;

            // What cannot be done now is refused in Firecracker's words.
            for refused in [
                api.call(&MachineConfig { vcpu_count: 2, mem_size_mib: 128, track_dirty_pages: false }).await,
                api.call(&SnapshotCreate {
                    snapshot_path: "s".into(),
                    mem_file_path: "m".into(),
                    snapshot_type: SnapshotType::Full,
                })
                .await,
            ] {
                let ApiError::Refused { status: 400, fault, .. } = refused.unwrap_err() else { panic!() };
                assert!(fault.contains(' ') && !fault.contains("fault_message"), "{fault}");
            }

            vm.machine.kill().await;
            assert!(matches!(vm.machine.ended().await, MachineEnd::Died(_)));
            // As the supervisor does when all has ended.
            vm.machine.kill().await;
            assert!(dir.path().join(API_SOCKET).exists() && dir.path().join(VSOCK_SOCKET).exists(), "left behind");
            let mut vm = firecracker.start(&spec, &log(dir.path())).await.unwrap();
            says(&mut vm.console, GREETING, 1).await;
            vm.machine.kill().await;
        })
        .await;
}

#[tokio::test]
async fn a_kernel_that_is_none_is_refused_and_nothing_stays() {
    let Some(firecracker) = firecracker() else { return };
    let dir = tempfile::tempdir().unwrap();
    LocalSet::new()
        .run_until(async {
            let kernel = dir.path().join("kernel");
            std::fs::write(&kernel, "not a kernel").unwrap();
            let error = firecracker.start(&spec(dir.path(), &kernel), &log(dir.path())).await.map(|_| ()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("cannot start firecracker: PUT /") && text.contains("ernel"), "{text}");
            let missing = spec(dir.path(), Path::new("/no/such/kernel"));
            let error = firecracker.start(&missing, &log(dir.path())).await.map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("PUT /boot-source"), "{error}");
            // What it has to say itself is in the log, with the VM's name.
            let log = std::fs::read_to_string(dir.path().join("hypervisor.log")).unwrap();
            assert!(log.contains("[bare:"), "{log}");
        })
        .await;
    assert!(std::os::unix::net::UnixStream::connect(dir.path().join(API_SOCKET)).is_err(), "it still listens");
}

/// Firecracker without a machine.
async fn idle(firecracker: &Firecracker, spec: &LaunchSpec) -> (tokio::process::Child, Console, Client) {
    let folder = &spec.runtime_dir;
    let mut arrivals = Arrivals::watch(folder).unwrap();
    let (child, console, _) = spawn(firecracker, spec, &log(folder)).unwrap();
    tokio::time::timeout(PATIENCE, arrivals.connect(API_SOCKET)).await.unwrap().unwrap();
    (child, Box::new(console), Client::new(folder.join(API_SOCKET)))
}

#[tokio::test]
async fn devices_log_and_counters() {
    let Some(firecracker) = firecracker() else { return };
    let dir = tempfile::tempdir().unwrap();
    LocalSet::new()
        .run_until(async {
            let spec = bare(dir.path(), &Then::Dots);
            let (mut child, mut console, api) = idle(&firecracker, &spec).await;
            let (log_path, metrics_path) = (dir.path().join("log"), dir.path().join("metrics"));
            for file in [&log_path, &metrics_path] {
                std::fs::write(file, "").unwrap();
            }
            api.call(&Logger { log_path: log_path.clone(), level: LogLevel::Info }).await.unwrap();
            api.call(&Metrics { metrics_path: metrics_path.clone() }).await.unwrap();
            api.call(&Balloon { amount_mib: 0, deflate_on_oom: true, free_page_reporting: true }).await.unwrap();
            // A TAP of this name is made, where the user may, and goes with the process.
            let host_dev_name = format!("mvm-{}", std::process::id());
            let guest_mac = Some("06:00:00:00:00:01".into());
            let card = NetworkInterface { iface_id: "eth0".into(), host_dev_name: host_dev_name.clone(), guest_mac };
            match api.call(&card).await {
                Ok(()) => assert!(Path::new("/sys/class/net").join(&host_dev_name).exists()),
                Err(error) => {
                    assert!(error.to_string().contains("tap"), "{error}");
                    println!("not run with a network card: {error}");
                }
            }
            super::configure(&api, &spec, spec.kernel.clone(), "quiet".into()).await.unwrap();
            says(&mut console, ".", 1).await;
            api.call(&Action::FlushMetrics).await.unwrap();
            // The guest has no driver for it.
            assert!(api.call(&BalloonUpdate { amount_mib: 16 }).await.is_err());
            child.kill().await.unwrap();
            assert!(std::fs::read_to_string(log_path).unwrap().contains("/entropy"));
            let metrics = std::fs::read_to_string(metrics_path).unwrap();
            let line: serde_json::Value = serde_json::from_str(metrics.lines().next_back().unwrap()).unwrap();
            assert!(line["vcpu"].is_object() && line["put_api_requests"].is_object(), "{line}");
        })
        .await;
}

#[tokio::test]
async fn a_snapshot_goes_on_in_another_process() {
    let Some(firecracker) = firecracker() else { return };
    let (dir, clone_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    LocalSet::new()
        .run_until(async {
            let spec = bare(dir.path(), &Then::Dots);
            let mut vm = firecracker.start(&spec, &log(dir.path())).await.unwrap();
            says(&mut vm.console, ".", 1).await;
            vm.machine.pause().await.unwrap();
            let (snapshot_path, mem_file_path) = (dir.path().join("state"), dir.path().join("memory"));
            let save = SnapshotCreate {
                snapshot_path: snapshot_path.clone(),
                mem_file_path: mem_file_path.clone(),
                snapshot_type: SnapshotType::Full,
            };
            api(&vm).call(&save).await.unwrap();
            vm.machine.kill().await;
            assert_eq!(mem_file_path.metadata().unwrap().len(), 128 << 20);

            let other = LaunchSpec { runtime_dir: clone_dir.path().into(), ..spec };
            let (mut child, mut console, api) = idle(&firecracker, &other).await;
            let load = SnapshotLoad {
                snapshot_path,
                mem_backend: MemoryBackend::File { backend_path: mem_file_path },
                resume_vm: true,
                vsock_override: Some(VsockOverride { uds_path: clone_dir.path().join(VSOCK_SOCKET) }),
            };
            api.call(&load).await.unwrap();
            assert_eq!(api.instance().await.unwrap().state, InstanceState::Running);
            let said = says(&mut console, "...", 1).await;
            assert!(!said.contains(GREETING), "it began again: {said}");
            child.kill().await.unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_distributions_kernel_is_unpacked() {
    let Some(firecracker) = firecracker() else { return };
    let kernel = std::env::var_os("MVM_TEST_KERNEL_STOCK").map(PathBuf::from);
    let kernel =
        kernel.and_then(|k| k.join("boot").read_dir().ok()?.flatten().map(|e| e.path()).find(|p| is_vmlinuz(p)));
    let Some(kernel) = kernel else { return println!("not run: MVM_TEST_KERNEL_STOCK names no kernel") };
    let dir = tempfile::tempdir().unwrap();
    LocalSet::new()
        .run_until(async {
            let spec = LaunchSpec { kernel_format: KernelFormat::BzImage, ..spec(dir.path(), &kernel) };
            // Whether Linux gets far is KVM's affair; Firecracker took it.
            let mut vm = firecracker.start(&spec, &log(dir.path())).await.unwrap();
            assert_eq!(api(&vm).instance().await.unwrap().state, InstanceState::Running);
            vm.machine.kill().await;
            assert!(std::fs::read(dir.path().join("vmlinux")).unwrap().starts_with(b"\x7fELF"));
        })
        .await;
}

fn is_vmlinuz(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-"))
}

#[tokio::test]
async fn as_many_drives_as_it_takes_and_not_one_more() {
    let Some(firecracker) = firecracker() else { return };
    let dir = tempfile::tempdir().unwrap();
    LocalSet::new()
        .run_until(async {
            let mut spec = bare(dir.path(), &Then::Reset);
            let path = spec.drives[0].path.clone();
            let data = |n| mvm_core::Drive { role: DriveRole::Data(n), path: path.clone(), read_only: true };
            spec.drives.extend((0..13).map(data));
            let mut vm = firecracker.start(&spec, &log(dir.path())).await.unwrap();
            says(&mut vm.console, GREETING, 1).await;
            vm.machine.kill().await;
            spec.drives.push(data(13));
            let error = firecracker.start(&spec, &log(dir.path())).await.map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), "firecracker gives a VM at most 15 drives, not 16");
        })
        .await;
}
