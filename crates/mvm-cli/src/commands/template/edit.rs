//! `mvmctl template edit`.

use super::{Values, check};
use crate::Context;
use crate::interrupt::Interrupts;
use mvm_core::{ErrorKind, Fault, TemplateChange, TemplateName};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::path::Path;
use tokio::process::{Child, Command};

/// Where neither VISUAL nor EDITOR says anything (POSIX has it on every system).
const EDITOR: &str = "vi";

/// Change a template: in an editor, or the values that are given
///
/// The editor is the one of VISUAL, else of EDITOR. What is no template when it is closed is not kept. An image that is
/// built stays until the next build.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvmctl template edit site\n  mvmctl template edit site --memory 1G -p 8080:80")]
pub(super) struct EditArgs {
    /// The template
    name: TemplateName,
    /// Another flake ref
    #[arg(long, value_name = "REF")]
    flake: Option<String>,
    #[command(flatten)]
    values: Values,
}

pub(super) async fn run(args: EditArgs, ctx: &Context) -> Result<u8, Fault> {
    let change = args.values.change(args.flake.as_deref())?;
    if change == TemplateChange::default() {
        by_hand(&args.name, ctx).await
    } else {
        by_values(&args.name, &change, ctx)
    }
}

fn by_values(name: &TemplateName, change: &TemplateChange, ctx: &Context) -> Result<u8, Fault> {
    let templates = ctx.templates();
    // One that is damaged is told with its place.
    templates.get(name)?;
    let before = templates.text(name)?;
    let text = change.apply(&String::from_utf8_lossy(&before))?;
    check(text.as_bytes())?;
    templates.replace(name, &before, text.as_bytes())?;
    Ok(0)
}

async fn by_hand(name: &TemplateName, ctx: &Context) -> Result<u8, Fault> {
    let templates = ctx.templates();
    let mut interrupts = Interrupts::hear()?;
    let draft = templates.draft(name)?;
    let before = draft.read()?;
    loop {
        open_editor(&draft.file(), &mut interrupts).await?;
        let text = draft.read().map_err(|error| unchanged(error.into()))?;
        if text == before {
            ctx.ui.status("nothing was changed");
            return Ok(0);
        }
        let Err(fault) = check(&text).map_err(unchanged) else {
            templates.replace(name, &before, &text)?;
            return Ok(0);
        };
        if !ctx.ui.can_ask() {
            return Err(fault);
        }
        ctx.ui.fault(&fault);
        let again = tokio::select! {
            again = ctx.ui.confirm("edit it again?") => again,
            fault = interrupts.fault() => return Err(fault),
        };
        if !again {
            return Err(Fault::new(fault.kind, "the template stays as it was"));
        }
    }
}

fn unchanged(fault: Fault) -> Fault {
    Fault { message: format!("{}; the template stays as it was", fault.message), ..fault }
}

/// The editor's command line, by the rules of a shell but without one.
fn editor(var: impl Fn(&str) -> Option<OsString>) -> Result<Vec<String>, Fault> {
    let set = ["VISUAL", "EDITOR"].into_iter().find_map(|name| Some((name, var(name).filter(|v| !v.is_empty())?)));
    let Some((name, value)) = set else { return Ok(vec![EDITOR.into()]) };
    let wrong = |why: &str| {
        let message = format!("{name} is {}, which is no command: {why}", value.display());
        Fault::new(ErrorKind::Usage, message).with_hint(hint())
    };
    let text = value.to_str().ok_or_else(|| wrong("it is not UTF-8"))?;
    match shell_words::split(text) {
        Ok(words) if words.is_empty() => Err(wrong("it is empty")),
        Ok(words) => Ok(words),
        Err(error) => Err(wrong(&error.to_string())),
    }
}

fn hint() -> &'static str {
    "set EDITOR to an editor, or give the values themselves, as in `--memory 1G`"
}

/// Has the user edit a file. Ctrl-C is the editor's; what else would end this command ends the editor first.
async fn open_editor(file: &Path, interrupts: &mut Interrupts) -> Result<(), Fault> {
    let words = editor(|name| std::env::var_os(name))?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(file).kill_on_drop(true);
    mvm_process::signal_with_parent(command.as_std_mut(), Signal::TERM);
    let mut editor = command.spawn().map_err(|e| {
        Fault::new(ErrorKind::Usage, format!("cannot start the editor {:?}: {e}", words[0])).with_hint(hint())
    })?;
    let status = loop {
        tokio::select! {
            status = editor.wait() => break status,
            signal = interrupts.next() => {
                if signal != Signal::INT.as_raw() {
                    return Err(end(editor, signal, interrupts).await);
                }
            }
        }
    };
    let status = status.map_err(|e| Fault::unexpected("cannot wait for the editor", &e))?;
    if status.success() {
        return Ok(());
    }
    let message = format!("the editor {:?} failed ({status})", words[0]);
    Err(unchanged(Fault::new(ErrorKind::Unexpected, message).with_hint(hint())))
}

/// Hands a signal on to the editor, which may have a terminal to give back, and waits for its end or another signal.
async fn end(mut editor: Child, signal: i32, interrupts: &mut Interrupts) -> Fault {
    let pid = editor.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
        // Gone already is as good.
        let _ = kill_process(pid, signal);
    }
    tokio::select! {
        _ = editor.wait() => {}
        _ = interrupts.next() => {}
    }
    Fault::interrupted(u8::try_from(signal).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(visual: Option<&str>, editor_: Option<&str>) -> Result<Vec<String>, Fault> {
        editor(|name| if name == "VISUAL" { visual } else { editor_ }.map(Into::into))
    }

    #[test]
    fn the_editor_is_a_command_with_arguments() {
        assert_eq!(words(None, None).unwrap(), ["vi"]);
        assert_eq!(words(Some(""), Some("ed")).unwrap(), ["ed"]);
        assert_eq!(words(Some("code --wait"), Some("ed")).unwrap(), ["code", "--wait"]);
        assert_eq!(
            words(None, Some("'/my editor/e' -c 'set x; $(y)'")).unwrap(),
            ["/my editor/e", "-c", "set x; $(y)"]
        );
        for wrong in ["'", "  "] {
            let fault = words(None, Some(wrong)).unwrap_err();
            assert_eq!(fault.kind, ErrorKind::Usage);
            assert!(fault.message.starts_with("EDITOR is ") && fault.hint.is_some(), "{fault}");
        }
    }
}
