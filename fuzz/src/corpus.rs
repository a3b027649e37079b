//! A bounded fuzz run without a fuzzer: the kept corpus, and mutations of it from a fixed seed.
//!
//! Compiled into tests of the crates by path, not into this one.

use std::path::Path;

/// Runs a body over `fuzz/corpus/TARGET` and so many mutations of each file.
pub fn run(target: &str, mutations: u32, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    for file in files {
        let seed = std::fs::read(&file).unwrap();
        body(&seed);
        for _ in 0..mutations {
            let mut input = seed.clone();
            for _ in 0..=random.below(4) {
                mutate(&mut input, &mut random);
            }
            let outcome = std::panic::catch_unwind(|| body(&input));
            assert!(outcome.is_ok(), "a mutation of {}: {:?}", file.display(), input.escape_ascii().to_string());
        }
    }
}

fn mutate(input: &mut Vec<u8>, random: &mut Xorshift) {
    let at = random.below(input.len());
    match random.below(6) {
        0 => input.truncate(at),
        1 => input.insert(at, random.next() as u8),
        2 if !input.is_empty() => drop(input.remove(at)),
        3 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        4 => {
            let piece = input[at..(at + random.below(16)).min(input.len())].to_vec();
            input.splice(at..at, piece);
        }
        _ if !input.is_empty() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'/', b'.'][random.below(8)],
        _ => {}
    }
}

struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }
}
