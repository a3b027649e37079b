//! What a Mac has for VMs, and what follows from it.

use crate::{Lack, Part};

/// Facts about a Mac.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacHost {
    /// The major version of macOS.
    pub macos: u32,
    /// An M-series chip.
    pub apple_silicon: bool,
    /// Virtualization.framework gives its guests KVM: an M3 or later, and macOS 15 or later.
    pub nested_virtualization: bool,
    /// Virtualization.framework runs machines here: it does not in a Mac that is a VM itself.
    pub virtualization: bool,
}

/// Where a Mac's VMs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacWay {
    /// In Virtualization.framework, one supervisor a VM.
    Apple,
    /// In a Linux host inside the Mac, to which commands are handed over.
    Lima,
}

impl MacHost {
    /// The first macOS whose Virtualization.framework is used by itself.
    pub const APPLE_FROM: u32 = 26;

    /// What is chosen where nobody says otherwise. Images are for arm64 there, so a Mac with an Intel CPU has Lima only.
    pub const fn way(self) -> MacWay {
        if self.apple_silicon && self.macos >= Self::APPLE_FROM { MacWay::Apple } else { MacWay::Lima }
    }

    /// Whether Virtualization.framework can be used as a backend.
    pub fn apple(self) -> Part {
        match (self.way(), self.virtualization) {
            (MacWay::Apple, true) => Ok(()),
            (MacWay::Apple, false) => Err(Lack::hopeless("Virtualization.framework says that it cannot run VMs here")),
            (MacWay::Lima, _) => Err(Lack::new(
                format!("it takes macOS {} on Apple silicon", Self::APPLE_FROM),
                "before that VMs run in a Linux machine of Lima: `mvmctl dev up` makes it",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_macos_on_apple_silicon_goes_without_lima() {
        for (macos, apple_silicon, way) in [
            (14, true, MacWay::Lima),
            (15, true, MacWay::Lima),
            (26, true, MacWay::Apple),
            (27, true, MacWay::Apple),
            (26, false, MacWay::Lima),
        ] {
            let host = MacHost { macos, apple_silicon, nested_virtualization: false, virtualization: true };
            assert_eq!(host.way(), way, "{host:?}");
            assert_eq!(host.apple().is_ok(), way == MacWay::Apple, "{host:?}");
            assert!(MacHost { virtualization: false, ..host }.apple().is_err(), "{host:?}");
        }
    }
}
