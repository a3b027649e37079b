//! The page.

use super::row::{Missing, Row};
use std::fmt::Write;

const HEAD: &str = "\
# Performance

Written by `just bench` (`cargo run --release -p xtask -- bench`); do not edit.

What counts is the ratio of two medians that were taken in turns on one machine in one run: seconds differ from machine
to machine, ratios hardly. In parentheses the least and the greatest sample. A promise is the most that the ratio may
be, or the number itself where nothing is beside it.

";

const NOTES: &str = "
How each is measured:

- **Boot**: `mvmctl up -d` as a whole, image and kernel in the cache, until it returns because the agent is ready.
  Against it the same QEMU with the same arguments, kernel, command line and drives and the same vsock device, started by
  hand, with the same initrd but for its `/init`: that one loads the same modules, sends one byte to the host and does
  no more; the time ends when the host has that byte. Reading the image, the new VM's folder, drives and keys, the
  handshake, the overlay root, init and its services are all on our side.
- **exec**: the whole command, from its start to its end. Against it, in the same VM over the same vsock device: a
  connection, a byte, a process started and waited for in the guest, and the byte back, without authentication.
- **cp**: the whole command, from a file of the host to one in the guest's memory (`/tmp`) and back. Against it, in the
  same VM over the same vsock device: as many bytes without frames or authentication: from memory to memory, for which the promise is made, and from file to
  file in the same places. The difference between the two is what files cost, in a guest above all, and no protocol saves.
- **Commands**: whole processes, from start to end. The figures of the namesake were measured once, earlier, on such a
  machine, and are not measured again here.
- **Builds**: whole processes, of an image of the tests in a Git work tree, built already, with its lock file, on a Nix without
  network. What has to be evaluated differs from the time before in a comment; both sides evaluate a tree that neither has seen.
- **Catalog**: whole processes with a `PATH` on which nothing is found, in turns with the namesake's `image list`, whose
  program `MVM_BENCH_NAMESAKE` names.
- **Memory**: `VmRSS` of the supervisor while its VM idles, and of PID 1 in the guest.

Where a promise is missed here, and why:

- **`up`**: what `mvmctl` does more than a guest that says hello takes some 0.2 s with either kernel, most of it in the
  emulated guest, measured step by step with our own kernel: 70 ms for the root (10 to find the drives, 20 to mount two, 26 for the
  overlay), 80 ms for init (15 to read the config drive, 15 to 20 for names and hosts, 20 for the loopback), 20 to 30 ms for the
  handshake. Code that runs once is translated once, and that is what it costs. The better the kernel the smaller is the
  baseline, and the greater the same difference as a ratio: 0.5 s is too little to hide it in.
- **`cp` out of a VM**: explained in part. To read the file takes the emulated guest 0.13 s, and that is in no bare transfer from memory.
  Some 0.25 s more are not explained: the host's file costs nothing that can be measured (as long into memory), and neither blocking
  reads in place of the asynchronous ones on the host nor frames that fill the packets of vsock exactly were faster.
";

pub(super) fn page(rows: &[Row], missing: &[Missing], facts: &[(&str, String)], quick: bool) -> String {
    let mut page = String::from(HEAD);
    page.push_str("| what | against | ours, median | theirs, median | ratio | promised at most | held | samples |\n");
    page.push_str("|---|---|---|---|---|---|---|---|\n");
    let mut line = |cells: &[String]| {
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    };
    rows.iter().for_each(|row| line(&row.cells()));
    for Missing { what, why } in missing {
        let why = why.replace('|', "\\|").replace('\n', " ");
        let dash = || "–".to_string();
        line(&[what.clone(), format!("not measured: {why}"), dash(), dash(), dash(), dash(), "unknown".into(), dash()]);
    }
    let promises: Vec<bool> = rows.iter().filter_map(Row::held).collect();
    let kept = promises.iter().filter(|held| **held).count();
    let _ = write!(page, "\n{kept} of {} promises held", promises.len());
    let _ = match missing.len() {
        0 => writeln!(page, "."),
        n => writeln!(page, "; {n} could not be measured."),
    };
    page.push_str(NOTES);
    page.push_str("\nMeasured on:\n\n| fact | value |\n|---|---|\n");
    for (name, value) in facts {
        let _ = writeln!(page, "| {name} | {value} |");
    }
    let command = if quick { "just bench --quick" } else { "just bench" };
    let _ = writeln!(page, "| command | `{command}` |");
    page
}
