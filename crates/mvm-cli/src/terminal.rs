//! The terminal in raw mode, for as long as a console has it.

use mvm_core::Fault;
use mvm_protocol::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Gives the terminal back as it was when dropped.
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Makes the terminal at stdin raw.
    pub(crate) fn enter() -> Result<Self, Fault> {
        let stdin = rustix::stdio::stdin();
        let cannot = |e| Fault::unexpected("cannot prepare the terminal", &std::io::Error::from(e));
        let before = tcgetattr(stdin).map_err(cannot)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).map_err(cannot)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Fails only where the terminal is gone.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The size of the terminal at stdin; 24 × 80 where nobody knows.
pub(crate) fn size() -> TerminalSize {
    match tcgetwinsize(rustix::stdio::stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize { rows: size.ws_row, cols: size.ws_col },
        _ => TerminalSize::default(),
    }
}
