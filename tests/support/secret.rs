//! A secret, and the search for places that have it and should not.

use rustix::fs::SeekFrom;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A secret of bytes that no text has, in a file that is nobody's concern.
pub struct Secret {
    content: Vec<u8>,
    file: tempfile::NamedTempFile,
}

impl Secret {
    /// One that nobody else has.
    pub fn new() -> Self {
        let mut content = vec![0, 0xff, b'\n'];
        File::open("/dev/urandom").unwrap().take(61).read_to_end(&mut content).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, &content).unwrap();
        Self { content, file }
    }

    /// What `--secret` takes.
    pub fn argument(&self, name: &str) -> String {
        format!("{name}={}", self.file.path().display())
    }

    /// Its bytes as `od -An -v -tx1` shows them, without the spaces.
    pub fn hex(&self) -> String {
        self.content.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Asserts that no file below a folder has it, as it is or in hexadecimal digits.
    pub fn assert_nowhere(&self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                self.assert_nowhere(&path);
            } else if kind.is_file() {
                let data = data(&path);
                for form in [&self.content[..], self.hex().as_bytes()] {
                    assert!(
                        !data.windows(form.len()).any(|window| window == form),
                        "{} has the secret",
                        path.display()
                    );
                }
            }
        }
    }
}

/// A file without its holes, which are gibibytes.
fn data(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap();
    let (mut data, mut at) = (Vec::new(), 0);
    while let Ok(begin) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, SeekFrom::Hole(begin)).unwrap();
        let mut part = vec![0; (at - begin) as usize];
        file.read_exact_at(&mut part, begin).unwrap();
        data.append(&mut part);
    }
    data
}
