//! Which backend a machine offers: decided here from facts that others gather by trying.

use crate::Hypervisor;
use serde::Serialize;

/// What a machine lacks, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lack {
    /// One line.
    pub why: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Lack {
    /// With advice.
    pub fn new(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { why: why.into(), hint: Some(hint.into()) }
    }

    /// Where there is none.
    pub fn hopeless(why: impl Into<String>) -> Self {
        Self { why: why.into(), hint: None }
    }
}

/// What became of a try to run a guest with KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Kvm {
    /// A vCPU ran.
    Works,
    /// There is no `/dev/kvm`.
    NoDevice,
    /// The device may not be opened.
    Denied {
        /// The group whose members may.
        #[serde(skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// The user is in it on paper, but not in this login.
        on_paper: bool,
    },
    /// The device opens, but a vCPU does not get through a small loop in time.
    Stalls,
    /// The device is there and cannot be opened for another reason.
    Broken {
        /// The system's words.
        detail: String,
    },
    /// This build does not try: it is for another system or CPU.
    NotTried,
}

impl Kvm {
    /// Why guests do not run with KVM; `None` where they do.
    pub fn lack(&self) -> Option<Lack> {
        Some(match self {
            Self::Works => return None,
            Self::NoDevice => Lack::new(
                "there is no /dev/kvm",
                "switch virtualisation on in the firmware, or nested virtualisation where this is a VM; `modprobe kvm_intel` or \
                 `kvm_amd` loads the driver",
            ),
            Self::Denied { group: Some(group), on_paper: true } => Lack::new(
                format!("you are in the group {group}, which may use /dev/kvm, but not in this login"),
                format!("log in again, or `newgrp {group}`"),
            ),
            Self::Denied { group: Some(group), on_paper: false } => Lack::new(
                format!("/dev/kvm is for the group {group}, and you are not in it"),
                format!("`sudo usermod -aG {group} $USER`, then log in again"),
            ),
            Self::Denied { group: None, .. } => Lack::new(
                "you may not open /dev/kvm",
                "have its owner let you: `sudo chmod 666 /dev/kvm`, or a udev rule",
            ),
            Self::Stalls => Lack::hopeless(
                "/dev/kvm opens, but a vCPU does not get through a loop that hardware does in a millisecond: this KVM emulates",
            ),
            Self::Broken { detail } => Lack::hopeless(format!("/dev/kvm cannot be opened: {detail}")),
            Self::NotTried => Lack::hopeless("this build of mvm does not use KVM"),
        })
    }
}

/// A part that a backend needs: there, or what is wrong with it.
pub type Part = Result<(), Lack>;

/// What was found on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// KVM, by trying.
    pub kvm: Kvm,
    /// Firecracker.
    pub firecracker: Part,
    /// The system emulator.
    pub qemu: Part,
    /// A vsock device for QEMU: the kernel's, or the program.
    pub vsock: Part,
    /// A Docker daemon that answers.
    pub docker: Part,
    /// Nix, which builds what `microvm-nix` runs.
    pub nix: Part,
    /// Apple's Virtualization.framework.
    pub apple: Part,
}

/// What a machine offers of one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Which backend.
    pub hypervisor: Hypervisor,
    /// Whether it can run a VM here.
    pub usable: bool,
    /// How vCPUs would run: `kvm`, `tcg` or `vz`, or `container` where they are the host's; absent where it
    /// cannot be told or does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<&'static str>,
    /// Why not, or why not better.
    #[serde(flatten)]
    pub lack: Option<Lack>,
}

/// What would run a VM for which no hypervisor was named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// Which; none where nothing can.
    pub hypervisor: Option<Hypervisor>,
    /// One line.
    pub why: String,
}

impl HostFacts {
    /// Every backend of this build, in the order in which they are preferred.
    pub fn verdicts(&self) -> Vec<Verdict> {
        Hypervisor::ALL.into_iter().map(|hypervisor| self.verdict(hypervisor)).collect()
    }

    /// What the machine offers of one backend.
    pub fn verdict(&self, hypervisor: Hypervisor) -> Verdict {
        let no = |lack: &Lack| Verdict { hypervisor, usable: false, accelerator: None, lack: Some(lack.clone()) };
        let yes = |accelerator, lack| Verdict { hypervisor, usable: true, accelerator, lack };
        match hypervisor {
            Hypervisor::Firecracker => match (self.kvm.lack(), &self.firecracker) {
                (Some(lack), _) => no(&lack),
                (None, Err(lack)) => no(lack),
                (None, Ok(())) => yes(Some("kvm"), None),
            },
            Hypervisor::Qemu => match (&self.qemu, &self.vsock) {
                (Err(lack), _) | (_, Err(lack)) => no(lack),
                (Ok(()), Ok(())) => {
                    let slow = self.kvm.lack();
                    yes(Some(if slow.is_none() { "kvm" } else { "tcg" }), slow)
                }
            },
            Hypervisor::Docker => match &self.docker {
                Err(lack) => no(lack),
                Ok(()) => yes(Some("container"), None),
            },
            Hypervisor::MicrovmNix => match &self.nix {
                Err(lack) => no(lack),
                // The hypervisor is the configuration's, and Nix brings it along.
                Ok(()) => yes(None, None),
            },
            Hypervisor::Apple => match &self.apple {
                Err(lack) => no(lack),
                Ok(()) => yes(Some("vz"), None),
            },
        }
    }

    /// What runs a VM where the user names nothing.
    pub fn choose(&self) -> Choice {
        if self.apple.is_ok() {
            return Choice {
                hypervisor: Some(Hypervisor::Apple),
                why: "Virtualization.framework runs guests here".into(),
            };
        }
        if self.verdict(Hypervisor::Firecracker).usable {
            return Choice { hypervisor: Some(Hypervisor::Firecracker), why: "KVM runs guests here".into() };
        }
        let qemu = self.verdict(Hypervisor::Qemu);
        let lack = qemu.lack.map_or(String::new(), |lack| lack.why);
        match (qemu.usable, qemu.accelerator) {
            (true, Some("kvm")) => {
                Choice { hypervisor: Some(Hypervisor::Qemu), why: "with KVM, for Firecracker is not here".into() }
            }
            _ if self.docker.is_ok() => {
                let why = format!("Docker runs, and VMs would be slow or not run at all: {lack}");
                Choice { hypervisor: Some(Hypervisor::Docker), why }
            }
            (true, _) => {
                Choice { hypervisor: Some(Hypervisor::Qemu), why: format!("in software, which is slow: {lack}") }
            }
            (false, _) => Choice { hypervisor: None, why: lack },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(what: &str) -> Part {
        Err(Lack::new(format!("no {what}"), format!("install {what}")))
    }

    fn everything() -> HostFacts {
        HostFacts {
            kvm: Kvm::Works,
            firecracker: Ok(()),
            qemu: Ok(()),
            vsock: Ok(()),
            docker: missing("docker"),
            nix: Ok(()),
            apple: missing("framework"),
        }
    }

    #[test]
    fn what_a_machine_offers_decides() {
        let stalls = || HostFacts { kvm: Kvm::Stalls, ..everything() };
        for (facts, chosen, why) in [
            (everything(), Some(Hypervisor::Firecracker), "KVM runs"),
            (HostFacts { qemu: missing("qemu"), ..everything() }, Some(Hypervisor::Firecracker), "KVM runs"),
            (HostFacts { firecracker: missing("firecracker"), ..everything() }, Some(Hypervisor::Qemu), "with KVM"),
            (stalls(), Some(Hypervisor::Qemu), "this KVM emulates"),
            (HostFacts { kvm: Kvm::NoDevice, ..everything() }, Some(Hypervisor::Qemu), "no /dev/kvm"),
            (HostFacts { qemu: missing("qemu"), ..stalls() }, None, "no qemu"),
            (HostFacts { vsock: missing("vsock"), ..stalls() }, None, "no vsock"),
            (HostFacts { nix: missing("nix"), ..stalls() }, Some(Hypervisor::Qemu), "in software"),
            (HostFacts { docker: Ok(()), ..everything() }, Some(Hypervisor::Firecracker), "KVM runs"),
            (HostFacts { docker: Ok(()), ..stalls() }, Some(Hypervisor::Docker), "this KVM emulates"),
            (HostFacts { docker: Ok(()), qemu: missing("qemu"), ..stalls() }, Some(Hypervisor::Docker), "no qemu"),
            (HostFacts { qemu: missing("qemu"), apple: Ok(()), ..stalls() }, Some(Hypervisor::Apple), "framework"),
        ] {
            let choice = facts.choose();
            assert_eq!(choice.hypervisor, chosen, "{facts:?}");
            assert!(choice.why.contains(why), "{choice:?}");
            // What is chosen can run, and what cannot run says why.
            for verdict in facts.verdicts() {
                assert!(verdict.usable || verdict.lack.is_some(), "{verdict:?}");
                assert!(verdict.usable || Some(verdict.hypervisor) != choice.hypervisor, "{verdict:?}");
            }
        }
    }

    #[test]
    fn what_is_missing_comes_with_its_advice() {
        let facts =
            HostFacts { firecracker: missing("fc"), qemu: missing("qemu"), nix: missing("nix"), ..everything() };
        let hints: Vec<_> = facts.verdicts().into_iter().map(|v| v.lack.unwrap().hint.unwrap()).collect();
        assert_eq!(hints, ["install fc", "install qemu", "install docker", "install nix", "install framework"]);
    }

    #[test]
    fn kvm_says_what_is_in_its_way() {
        let kvm = |group: Option<&str>, on_paper| Kvm::Denied { group: group.map(Into::into), on_paper };
        for (kvm, words, hint) in [
            (Kvm::NoDevice, "no /dev/kvm", "firmware"),
            (kvm(Some("kvm"), true), "not in this login", "newgrp kvm"),
            (kvm(Some("kvm"), false), "you are not in it", "usermod -aG kvm"),
            (kvm(None, false), "may not open", "udev"),
        ] {
            let lack = kvm.lack().unwrap();
            assert!(lack.why.contains(words) && lack.hint.unwrap().contains(hint), "{kvm:?}");
        }
        assert!(Kvm::Stalls.lack().unwrap().hint.is_none(), "nothing helps");
        assert_eq!(Kvm::Works.lack(), None);
    }
}
