//! The state machine of a VM, without I/O: what happened goes in, the next state comes out.
//!
//! ```text
//! Created ─→ Starting ─announced→ Booted ─ready→ Ready ⇄ Degraded
//!                │                   │             │ ⇅       │ ⇅
//!                │                   │           Paused ─────┘
//!                ├─ no agent to wait for ─→ Running ⇄ Paused
//!                └─────── stop ──────┴──── stop ───┴──→ Stopping ─ended→ Stopped
//!                └────── ended ──────┴──── ended ──┘ ─→ Failed
//! ```
//!
//! Demands of people are accepted or refused by state; facts (the VMM ended, the guest announced itself) always hold.

use mvm_core::VmState;

/// What someone asks of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Stop the vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// Power off.
    Stop,
}

/// A demand that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {} a VM that is {state}", match .demand { Demand::Pause => "pause", Demand::Resume => "resume", Demand::Stop => "stop" })]
pub struct Refused {
    /// What was asked.
    pub demand: Demand,
    /// The state that does not allow it.
    pub state: VmState,
}

/// A VM's state and what it returns to after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifecycle {
    state: VmState,
    healthy: bool,
    /// Whether a guest's agent tells how it is.
    agent: bool,
}

impl Lifecycle {
    /// A VM whose supervisor has just begun.
    pub const fn starting() -> Self {
        Self { state: VmState::Starting, healthy: true, agent: true }
    }

    /// The state.
    pub const fn state(self) -> VmState {
        self.state
    }

    /// A person's demand. `Ok(false)` where it holds already.
    pub fn demand(&mut self, demand: Demand) -> Result<bool, Refused> {
        use VmState::{Booted, Degraded, Paused, Ready, Running, Starting, Stopping};
        let next = match (demand, self.state) {
            (Demand::Pause, Ready | Degraded | Running) => Paused,
            (Demand::Resume, Paused) => self.going(),
            (Demand::Stop, Starting | Booted | Ready | Degraded | Running | Paused) => Stopping,
            (Demand::Pause, Paused) | (Demand::Resume, Ready | Degraded | Running) | (Demand::Stop, Stopping) => {
                return Ok(false);
            }
            (demand, state) => return Err(Refused { demand, state }),
        };
        self.state = next;
        Ok(true)
    }

    /// The guest's agent opened its first channel. Whether that changed the state.
    pub fn announced(&mut self) -> bool {
        self.enter(VmState::Starting, VmState::Booted)
    }

    /// The VMM runs a guest that has no agent: there is nothing to wait for. Whether that changed the state.
    pub fn runs_without_agent(&mut self) -> bool {
        self.agent = false;
        self.enter(VmState::Starting, VmState::Running)
    }

    /// The guest said how it is. Whether that changed the state.
    pub fn reported(&mut self, ready: bool, degraded: bool) -> bool {
        self.healthy = !degraded;
        match self.state {
            VmState::Booted if ready => self.state = self.going(),
            VmState::Ready if degraded => self.state = VmState::Degraded,
            VmState::Degraded if !degraded => self.state = VmState::Ready,
            _ => return false,
        }
        true
    }

    /// The guest powers off by itself. Whether that changed the state.
    pub fn powering_off(&mut self) -> bool {
        let from = self.state;
        if matches!(from, VmState::Booted | VmState::Ready | VmState::Degraded) {
            self.state = VmState::Stopping;
        }
        self.state != from
    }

    /// The VMM ended.
    pub fn ended(&mut self) {
        self.state = if self.state == VmState::Stopping { VmState::Stopped } else { VmState::Failed };
    }

    fn going(self) -> VmState {
        match (self.agent, self.healthy) {
            (false, _) => VmState::Running,
            (true, true) => VmState::Ready,
            (true, false) => VmState::Degraded,
        }
    }

    fn enter(&mut self, from: VmState, to: VmState) -> bool {
        let enters = self.state == from;
        if enters {
            self.state = to;
        }
        enters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Demand(Demand),
        Announced,
        NoAgent,
        Reported(bool, bool),
        PoweringOff,
        Ended,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop_oneof![Just(Demand::Pause), Just(Demand::Resume), Just(Demand::Stop)].prop_map(Step::Demand),
            Just(Step::Announced),
            Just(Step::NoAgent),
            any::<(bool, bool)>().prop_map(|(r, d)| Step::Reported(r, d)),
            Just(Step::PoweringOff),
            Just(Step::Ended),
        ]
    }

    proptest! {
        #[test]
        fn any_order_of_events_keeps_the_rules(steps in prop::collection::vec(step(), 0..40)) {
            let mut vm = Lifecycle::starting();
            for step in steps {
                let before = vm;
                match step {
                    Step::Demand(d) => match vm.demand(d) {
                        Ok(changed) => prop_assert_eq!(changed, vm != before),
                        Err(_) => prop_assert_eq!(vm, before),
                    },
                    Step::Announced => { vm.announced(); }
                    Step::NoAgent => { vm.runs_without_agent(); }
                    Step::Reported(r, d) => { vm.reported(r, d); }
                    Step::PoweringOff => { vm.powering_off(); }
                    Step::Ended => vm.ended(),
                }
                use VmState::*;
                // Nothing comes back from the dead, and stopping only ends.
                match before.state() {
                    Stopped | Failed => prop_assert!(!vm.state().is_live()),
                    Stopping => prop_assert!(matches!(vm.state(), Stopping | Stopped)),
                    _ => {}
                }
                // Readiness is reached through a boot, and a pause only from readiness.
                if vm.state() == Ready && before.state() != Ready {
                    prop_assert!(matches!(before.state(), Booted | Degraded | Paused));
                }
                if vm.state() == Paused && before.state() != Paused {
                    prop_assert!(matches!(before.state(), Ready | Degraded | Running));
                }
            }
        }
    }

    #[test]
    fn a_degraded_vm_is_degraded_again_after_a_pause() {
        let mut vm = Lifecycle::starting();
        assert!(vm.announced() && vm.reported(true, false) && vm.reported(true, true));
        assert_eq!(vm.demand(Demand::Pause), Ok(true));
        assert_eq!(vm.demand(Demand::Resume), Ok(true));
        assert_eq!(vm.state(), VmState::Degraded);
    }

    #[test]
    fn a_vm_without_agent_runs_again_after_a_pause() {
        let mut vm = Lifecycle::starting();
        assert!(vm.runs_without_agent());
        assert!(!vm.reported(true, false), "nobody can report");
        assert_eq!(vm.demand(Demand::Pause), Ok(true));
        assert_eq!(vm.demand(Demand::Resume), Ok(true));
        assert_eq!(vm.state(), VmState::Running);
    }

    #[test]
    fn an_end_that_nobody_asked_for_is_a_failure() {
        let mut vm = Lifecycle::starting();
        vm.announced();
        vm.ended();
        assert_eq!(vm.state(), VmState::Failed);
    }
}
