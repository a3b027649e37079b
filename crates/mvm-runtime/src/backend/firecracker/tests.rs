//! Requests against the API's description, the sequence of a start against a stand-in that validates, and all of it
//! against a real Firecracker where `MVM_FIRECRACKER` names one.

mod bare_guest;
mod description;
mod real;
mod stand_in;

use super::Firecracker;
use super::api::*;
use super::vmm::{LOG_LIMIT, configure, keep_log};
use description::Description;
use mvm_core::{DriveRole, KernelFormat, LaunchSpec, MemorySize, VmName};
use stand_in::StandIn;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::task::LocalSet;

/// A VM whose drives are files of the folder.
fn spec(folder: &Path, kernel: &Path) -> LaunchSpec {
    let drive = |role, name: &str, read_only| {
        let path = folder.join(name);
        std::fs::write(&path, [0; 4096]).unwrap();
        mvm_core::Drive { role, path, read_only }
    };
    LaunchSpec {
        name: VmName::new("bare").unwrap(),
        vcpus: 1,
        memory: MemorySize::from_mib(128).unwrap(),
        kernel: kernel.into(),
        kernel_format: KernelFormat::Elf,
        initrd: None,
        cmdline: "quiet".into(),
        drives: vec![drive(DriveRole::Root, "root", true), drive(DriveRole::Writable, "rw", false)],
        config: serde_json::from_str(
            r#"{"schema":1,"name":"bare","machineId":"0","hostPublicKey":"k","guestSecretKey":"s"}"#,
        )
        .unwrap(),
        agent: serde_json::from_str(r#"{"protocol":1,"version":"0.1.0"}"#).unwrap(),
        runtime_dir: folder.into(),
    }
}

fn log(folder: &Path) -> std::fs::File {
    std::fs::File::options().create(true).append(true).open(folder.join("hypervisor.log")).unwrap()
}

fn body(call: &impl Call) -> (String, String, serde_json::Value) {
    (method_of(call), call.path().into_owned(), serde_json::to_value(call).unwrap())
}

fn method_of<C: Call>(_: &C) -> String {
    C::METHOD.to_string()
}

#[test]
fn every_request_is_what_the_description_says() {
    let api = Description::read();
    let p = || PathBuf::from("/a file");
    let network = |guest_mac| NetworkInterface { iface_id: "eth0".into(), host_dev_name: "tap0".into(), guest_mac };
    let snapshot = |snapshot_type| SnapshotCreate { snapshot_path: p(), mem_file_path: p(), snapshot_type };
    let drive = |is_read_only, cache_type| Drive {
        drive_id: "root".into(),
        path_on_host: p(),
        is_read_only,
        is_root_device: false,
        cache_type,
    };
    let load = |vsock_override| SnapshotLoad {
        snapshot_path: p(),
        mem_backend: MemoryBackend::File { backend_path: p() },
        resume_vm: true,
        vsock_override,
    };
    let boot = |initrd_path| BootSource { kernel_image_path: p(), initrd_path, boot_args: "quiet".into() };
    for (method, path, value) in [
        body(&MachineConfig { vcpu_count: 32, mem_size_mib: 128, track_dirty_pages: true }),
        body(&boot(None)),
        body(&boot(Some(p()))),
        body(&drive(true, CacheType::Unsafe)),
        body(&drive(false, CacheType::Writeback)),
        body(&Vsock { guest_cid: 3, uds_path: "v.sock".into() }),
        body(&network(None)),
        body(&network(Some("06:00:00:00:00:01".into()))),
        body(&Entropy {}),
        body(&Balloon { amount_mib: 0, deflate_on_oom: true, free_page_reporting: true }),
        body(&BalloonUpdate { amount_mib: 16 }),
        body(&Logger { log_path: p(), level: LogLevel::Error }),
        body(&Logger { log_path: p(), level: LogLevel::Warning }),
        body(&Logger { log_path: p(), level: LogLevel::Info }),
        body(&Metrics { metrics_path: p() }),
        body(&Action::InstanceStart),
        body(&Action::FlushMetrics),
        body(&Action::SendCtrlAltDel),
        body(&VmState::Paused),
        body(&VmState::Resumed),
        body(&snapshot(SnapshotType::Full)),
        body(&snapshot(SnapshotType::Diff)),
        body(&load(None)),
        body(&load(Some(VsockOverride { uds_path: p() }))),
    ] {
        api.check_request(&method, &path, Some(&value)).unwrap_or_else(|e| panic!("{method} {path} {value}: {e}"));
    }
    api.check_request("GET", "/", None).unwrap();
}

#[tokio::test]
async fn a_machine_is_configured_and_started_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), Path::new("/kernel"));
    LocalSet::new()
        .run_until(async {
            let stand_in = StandIn::listen(dir.path());
            let api = stand_in.client();
            assert_eq!(api.instance().await.unwrap().state, InstanceState::NotStarted);
            configure(&api, &spec, spec.kernel.clone(), "quiet".into()).await.unwrap();
            assert_eq!(api.instance().await.unwrap().state, InstanceState::Running);
            let requests = [
                "GET /",
                "PUT /machine-config",
                "PUT /boot-source",
                "PUT /drives/root",
                "PUT /drives/rw",
                "PUT /vsock",
                "PUT /entropy",
                "PUT /actions",
                "GET /",
            ];
            assert_eq!(stand_in.requests(), requests);
            for socket in ["firecracker.sock", "v.sock"] {
                let mode = dir.path().join(socket).metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{socket}");
            }
        })
        .await;
}

#[tokio::test]
async fn a_refusal_is_told_in_firecrackers_words() {
    let dir = tempfile::tempdir().unwrap();
    LocalSet::new()
        .run_until(async {
            let api = StandIn::listen(dir.path()).client();
            let error = api.call(&Action::InstanceStart).await.unwrap_err();
            assert!(matches!(error, ApiError::Refused { status: 400, .. }), "{error}");
            assert_eq!(error.to_string(), "PUT /actions: there is no kernel (400)");
            let error = api.call(&MachineConfig { vcpu_count: 33, mem_size_mib: 1, track_dirty_pages: false }).await;
            assert!(error.unwrap_err().to_string().contains("vcpu_count: 33 is more than 32"));
            let nobody = Client::new(dir.path().join("nobody")).call(&Entropy {}).await.unwrap_err();
            assert!(nobody.to_string().starts_with("PUT /entropy: "), "{nobody}");
        })
        .await;
}

/// Starts a script in Firecracker's place; what became of it, once no process is left in its folder.
async fn start_script(script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("firecracker");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let start = async {
        let spec = spec(dir.path(), Path::new("/kernel"));
        Firecracker { program }.start(&spec, &log(dir.path())).await.map(|_| ()).unwrap_err().to_string()
    };
    let error = LocalSet::new().run_until(start).await;
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let cwd = |process: std::fs::DirEntry| std::fs::read_link(process.path().join("cwd")).ok();
    assert_eq!(processes.filter_map(cwd).find(|cwd| cwd == dir.path()), None, "it lives on");
    error
}

#[tokio::test]
async fn a_program_that_ends_at_once_is_an_error() {
    let error = start_script("exit 3").await;
    assert!(error.contains("cannot start firecracker") && error.contains("ended at once (exit status: 3)"), "{error}");
}

// The clock of the test jumps to the deadline as soon as there is nothing left to do.
#[tokio::test(start_paused = true)]
async fn a_program_that_never_listens_is_killed() {
    let error = start_script("exec sleep 100000").await;
    assert!(error.contains("it does not answer"), "{error}");
}

#[tokio::test]
async fn a_guest_that_makes_it_warn_for_ever_fills_no_disk() {
    use tokio::io::AsyncWriteExt;
    let dir = tempfile::tempdir().unwrap();
    let (mut sender, receiver) = tokio::net::unix::pipe::pipe().unwrap();
    let flood = async move {
        for _ in 0..=LOG_LIMIT / 4096 {
            sender.write_all(&[b'x'; 4096]).await.unwrap();
        }
    };
    tokio::join!(flood, keep_log(receiver, tokio::fs::File::from_std(log(dir.path()))));
    assert_eq!(dir.path().join("hypervisor.log").metadata().unwrap().len(), LOG_LIMIT);
}
