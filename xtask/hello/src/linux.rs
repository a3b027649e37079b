//! AF_VSOCK without anything around it.

use rustix::fs::{Mode, OFlags, open};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Command, ExitCode};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

/// The port of the host that mvm's guests announce themselves at.
const ANNOUNCE_PORT: u32 = 17_178;
/// Bytes that go over the channel at once: as many as `cp` puts into a frame.
const CHUNK: usize = 128 * 1024;
/// Where `serve` keeps bytes: in the guest's memory.
const FILE: &str = "/tmp/bare";

pub(crate) fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let done = match (words.next().as_deref(), words.next().and_then(|port| port.parse().ok())) {
        _ if rustix::process::getpid().is_init() => hello(),
        (Some("serve"), Some(port)) => serve(port),
        (Some("nothing"), _) => return ExitCode::SUCCESS,
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    let Err(error) = done;
    // A guest's console or the standard error of `serve`: there is nobody else to tell.
    let _ = writeln!(io::stderr(), "hello: {error}");
    ExitCode::FAILURE
}

/// PID 1: says hello. The host then ends the machine.
fn hello() -> io::Result<Infallible> {
    let mut modules: Vec<_> = std::fs::read_dir("/modules")?.filter_map(|e| Some(e.ok()?.path())).collect();
    modules.sort();
    for module in modules {
        let file = open(&module, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // One that is missing is missed by the connection below.
        let _ = rustix::system::finit_module(&file, c"", 0);
    }
    let mut host = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, ANNOUNCE_PORT)?;
    host.write_all(b"h")?;
    loop {
        // The kernel panics when its PID 1 ends.
        std::thread::park();
    }
}

/// One connection after the other. Its first byte says what is wanted:
///
/// | byte | then |
/// |---|---|
/// | `e` | a process is started and waited for; the byte comes back |
/// | `d` | 8 bytes of length (big-endian) and so many bytes come in; the byte comes back |
/// | `D` | the same, into [`FILE`] |
/// | `s` | 8 bytes of length come in and so many bytes go out |
/// | `S` | the same, from [`FILE`] |
fn serve(port: u32) -> io::Result<Infallible> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)?;
    io::stdout().write_all(b"listening\n")?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let (mut stream, _) = listener.accept()?;
        // A host that breaks off has no more to ask.
        let _ = answer(&mut stream, &mut buffer);
    }
}

fn answer(stream: &mut VsockStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut wanted = [0];
    stream.read_exact(&mut wanted)?;
    if wanted == *b"e" {
        Command::new("/proc/self/exe").arg("nothing").status()?;
        return stream.write_all(&wanted);
    }
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    match wanted[0] {
        b'd' => pass(stream, &mut io::sink(), length, buffer)?,
        b'D' => pass(stream, &mut File::create(FILE)?, length, buffer)?,
        b's' => return pass(&mut io::repeat(0x5a), stream, length, buffer),
        b'S' => return pass(&mut File::open(FILE)?, stream, length, buffer),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    stream.write_all(&wanted)
}

/// So many bytes, through `buffer`.
fn pass(from: &mut impl Read, to: &mut impl Write, bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(buffer.len());
        let n = from.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&buffer[..n])?;
        left -= n as u64;
    }
    Ok(())
}
