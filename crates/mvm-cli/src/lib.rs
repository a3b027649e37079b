//! The command line of mvm: what is typed becomes calls of the libraries, and what they say becomes text.

mod boot;
mod build_events;
mod changes;
mod commands;
mod creation;
mod follow;
mod interrupt;
mod lima;
mod nix_build;
mod own_flake;
mod preset;
mod progress;
mod secret_files;
mod source;
mod template_build;
mod terminal;
mod ui;

use clap::error::ContextKind;
use clap::{Parser, Subcommand};
use commands::*;
use mvm_core::{
    Diagnostic, Dirs, ErrorKind, Fault, NameError, PortForwardError, SecretError, SizeError, UnknownHypervisor, VmName,
    VolumeError,
};
use mvm_runtime::lima::Lima;
use mvm_runtime::{Registry, SuperviseOptions, Templates};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use ui::Ui;

/// From a Nix flake to a running microVM in one command.
#[derive(Debug, Parser)]
#[command(name = "mvmctl", version, after_help = EXAMPLES)]
struct Cli {
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// The mark of a hand-over; given by the mvmctl of a Mac.
    #[arg(long, hide = true, value_name = "MARK")]
    handed_over: Option<String>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  mvmctl up                         a VM of the built-in image; Ctrl-C stops it
  mvmctl up web --flake .#web -d    build a flake and run it in the background
  mvmctl exec web -- uname -a       run a command in it
  mvmctl exec -- cat /proc/version  run a command in a VM made for it
  mvmctl down web --rm              stop it and remove it";

#[derive(Debug, Subcommand)]
enum Command {
    #[command(visible_aliases = ["run", "start"])]
    Up(up::UpArgs),
    #[command(visible_aliases = ["ps", "status"])]
    Ls(ls::LsArgs),
    Inspect(inspect::InspectArgs),
    Logs(logs::LogsArgs),
    Exec(exec::ExecArgs),
    Console(console::ConsoleArgs),
    Down(down::DownArgs),
    Rm(rm::RmArgs),
    Pause(pause::PauseArgs),
    Resume(resume::ResumeArgs),
    Wait(wait::WaitArgs),
    Forward(forward::ForwardArgs),
    Cp(cp::CpArgs),
    Build(build::BuildArgs),
    Dev(dev::DevArgs),
    Doctor(doctor::DoctorArgs),
    Template(template::TemplateArgs),
    Flake(flake::FlakeArgs),
    Image(image::ImageArgs),
    /// The process that owns a VM; started by `up`.
    #[command(name = "__supervise", hide = true)]
    Supervise {
        /// The VM
        name: VmName,
        /// Seconds until the guest has to be ready
        #[arg(long)]
        boot_timeout: u64,
    },
    /// Whether KVM works here.
    #[command(name = "__probe-kvm", hide = true)]
    ProbeKvm,
    /// Signals a command that was handed over.
    #[command(name = "__signal", hide = true)]
    Signal {
        /// Its mark
        mark: OsString,
        /// The signal's number
        signal: i32,
    },
}

impl Command {
    /// Whether it is for this very machine, wherever its VMs run.
    fn stays(&self) -> bool {
        matches!(self, Self::Dev(_) | Self::Doctor(_) | Self::Supervise { .. } | Self::ProbeKvm | Self::Signal { .. })
    }
}

/// What every command is given.
struct Context {
    ui: Ui,
    registry: Registry,
}

impl Context {
    fn dirs(&self) -> &Dirs {
        self.registry.dirs()
    }

    fn templates(&self) -> Templates {
        Templates::new(self.dirs().clone())
    }
}

/// Parses the command line, does it, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => match wrong_value(&error) {
            Some(fault) => return Ui::new(false).fault(&fault),
            None => error.exit(),
        },
    };
    if let Command::ProbeKvm = cli.command {
        return probe_kvm();
    }
    let supervises = matches!(cli.command, Command::Supervise { .. });
    ui::log_to_stderr(if supervises { "info" } else { "error" });
    let ui = Ui::new(cli.quiet);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return ui.fault(&Fault::unexpected("cannot start", &e)),
    };
    let dirs = match Dirs::from_env() {
        Ok(dirs) => dirs,
        Err(e) => return ui.fault(&e.into()),
    };
    let ctx = Context { ui, registry: Registry::new(dirs) };
    let work = async {
        if cli.handed_over.is_some() {
            mvm_runtime::lima::handed_over();
        } else if !cli.command.stays()
            && let Some(lima) = Lima::of_this_machine()?
        {
            return lima::hand_over(&ctx, &lima).await;
        }
        dispatch(cli.command, &ctx).await
    };
    let done = tokio::task::LocalSet::new().block_on(&runtime, work);
    // A read of stdin that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    match done.and_then(|code| ctx.ui.lost().map_or(Ok(code), Err)) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => ctx.ui.fault(&fault),
    }
}

/// A value that one of our own types refuses is told like any other error of ours, with its hint.
fn wrong_value(error: &clap::Error) -> Option<Fault> {
    let source = std::error::Error::source(error)?;
    let hint = source
        .downcast_ref::<NameError>()
        .map(Diagnostic::hint)
        .or_else(|| source.downcast_ref::<SizeError>().map(Diagnostic::hint))
        .or_else(|| source.downcast_ref::<PortForwardError>().map(Diagnostic::hint))
        .or_else(|| source.downcast_ref::<UnknownHypervisor>().map(Diagnostic::hint))
        .or_else(|| source.downcast_ref::<VolumeError>().map(Diagnostic::hint))
        .or_else(|| source.downcast_ref::<SecretError>().map(Diagnostic::hint))?;
    let argument = error.get(ContextKind::InvalidArg).map_or(String::new(), |a| format!(" for {a}"));
    let fault = Fault::new(ErrorKind::Usage, format!("wrong value{argument}: {source}"));
    Some(Fault { hint, ..fault })
}

async fn dispatch(command: Command, ctx: &Context) -> Result<u8, Fault> {
    match command {
        Command::Up(args) => up::run(args, ctx).await,
        Command::Ls(args) => ls::run(args, ctx).await,
        Command::Inspect(args) => inspect::run(args, ctx).await,
        Command::Logs(args) => logs::run(args, ctx).await,
        Command::Exec(args) => exec::run(args, ctx).await,
        Command::Console(args) => console::run(args, ctx).await,
        Command::Down(args) => down::run(args, ctx).await,
        Command::Rm(args) => rm::run(args, ctx).await,
        Command::Pause(args) => pause::run(args, ctx).await,
        Command::Resume(args) => resume::run(args, ctx).await,
        Command::Wait(args) => wait::run(args, ctx).await,
        Command::Forward(args) => forward::run(args, ctx).await,
        Command::Cp(args) => cp::run(args, ctx).await,
        Command::Build(args) => build::run(args, ctx).await,
        Command::Dev(args) => dev::run(args, ctx).await,
        Command::Doctor(args) => doctor::run(args, ctx).await,
        Command::Template(args) => template::run(args, ctx).await,
        Command::Flake(args) => flake::run(args, ctx).await,
        Command::Image(args) => image::run(args, ctx).await,
        Command::Supervise { name, boot_timeout } => {
            // Out of the terminal's reach. A process that leads a group cannot leave its session: it is in the
            // background of the terminal then, and all that can still reach it is a hang-up, which it survives.
            let _hangups = match rustix::process::setsid() {
                Ok(_) => None,
                Err(_) => signal(SignalKind::hangup()).ok(),
            };
            let options = SuperviseOptions { name, boot_deadline: Duration::from_secs(boot_timeout) };
            let fine = mvm_runtime::supervise(ctx.dirs().clone(), options).await;
            Ok(if fine { 0 } else { ErrorKind::Unexpected.exit_code() })
        }
        Command::ProbeKvm => Ok(0),
        Command::Signal { mark, signal } => match mvm_runtime::lima::pass_signal(&mark, signal) {
            Ok(()) => Ok(0),
            Err(e) => Err(Fault::unexpected("cannot signal the command", &e)),
        },
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn probe_kvm() -> ExitCode {
    match mvm_runtime::run_kvm_probe() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            Ui::new(false).error(&why);
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn probe_kvm() -> ExitCode {
    Ui::new(false).error("this build has no KVM probe");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_name_is_given_once() {
        assert!(Cli::try_parse_from(["mvmctl", "up", "a", "--name", "b"]).is_err());
        assert!(Cli::try_parse_from(["mvmctl", "start", "a"]).is_ok());
        assert!(Cli::try_parse_from(["mvmctl", "exec", "--", "true"]).is_ok());
        assert!(Cli::try_parse_from(["mvmctl", "exec", "a"]).is_err());
        assert!(Cli::try_parse_from(["mvmctl", "down"]).is_err());
    }
}
