//! Files in and out.

use super::channel::Bare;
use super::row::{Against, Row};
use super::sample::{in_turns, timed};
use super::user::User;
use super::{Effort, Failure};
use std::fmt;
use std::fs::File;
use std::io::Write;

const PROMISED: f64 = 1.3;
const MIB: u64 = 256;

/// Where bare bytes come from and go to.
#[derive(Clone, Copy)]
enum Ends {
    Memory,
    Files,
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory to memory",
            Self::Files => "file to file",
        })
    }
}

pub(super) fn measure(user: &User, vm: &str, bare: &Bare, effort: Effort) -> Result<Vec<Row>, Failure> {
    let (source, dest) = (user.home().join("in"), user.home().join("out"));
    let bare_dest = user.home().join("bare");
    let mut file = File::create(&source)?;
    for at in 0..MIB {
        file.write_all(&vec![at as u8; 1 << 20])?;
    }
    // Written back now, not while something is measured.
    file.sync_all()?;
    let text = |path: &std::path::Path| path.to_str().map(String::from).ok_or("the temporary folder is not UTF-8");
    let (from, to, guest) = (text(&source)?, text(&dest)?, format!("{vm}:/tmp/file"));
    let push = || timed(|| user.mvmctl(&["cp", &from, &guest]));
    let pull = || timed(|| user.mvmctl(&["cp", &guest, &to]));
    let bytes = MIB << 20;
    let mut rows = Vec::new();
    for (ends, promised) in [(Ends::Memory, Some(PROMISED)), (Ends::Files, None)] {
        let mut row = |what: &str, (ours, theirs)| {
            let against = Against::Measured { what: format!("bare bytes, {ends}"), samples: theirs };
            rows.push(Row { what: format!("`mvmctl cp` of {MIB} MiB {what}"), ours, unit: "ms", against, promised });
        };
        let send = || match ends {
            Ends::Memory => timed(|| bare.send(&mut std::io::repeat(0x5a), bytes, false)),
            Ends::Files => timed(|| bare.send(&mut File::open(&source)?, bytes, true)),
        };
        row("into a VM", in_turns(effort.copies, push, send)?);
        let receive = || match ends {
            Ends::Memory => timed(|| bare.receive(&mut std::io::sink(), bytes, false)),
            Ends::Files => timed(|| bare.receive(&mut File::create(&bare_dest)?, bytes, true)),
        };
        row("out of a VM", in_turns(effort.copies, pull, receive)?);
    }
    if std::fs::read(&source)? != std::fs::read(&dest)? {
        return Err("what came back is not what went in".into());
    }
    if std::fs::metadata(&bare_dest)?.len() != bytes {
        return Err("the bare channel has lost something".into());
    }
    Ok(rows)
}
