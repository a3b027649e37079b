//! A guest of some thirty instructions: a 64-bit x86 ELF that needs no kernel, speaks on the serial port, and then ends
//! the machine or goes on for ever. It runs even on a KVM that emulates, where Linux does not get far.

/// What it says first.
pub(super) const GREETING: &str = "hello from a bare guest\n";

/// Where it is loaded, above the first MiB.
const BASE: u64 = 0x20_0000;
/// Where its code is in the file: as far from a page's beginning as in memory.
const CODE_AT: usize = 0x1000;
const EM_X86_64: u16 = 62;

/// What it does after its greeting.
pub(super) enum Then {
    /// Resets the machine by the keyboard controller, which is how a guest ends Firecracker.
    Reset,
    /// Writes a dot now and then, for ever.
    Dots,
}

/// The ELF file.
pub(super) fn elf(then: &Then) -> Vec<u8> {
    let code = code(then);
    let mut file = Vec::new();
    // ELF64, little-endian, version 1 (elf(5)): an executable with one program header.
    file.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, EM_X86_64] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [BASE, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable and executable.
    for word in [1_u32, 5] {
        file.extend(word.to_le_bytes());
    }
    for word in [CODE_AT as u64, BASE, BASE, code.len() as u64, code.len() as u64, CODE_AT as u64] {
        file.extend(word.to_le_bytes());
    }
    file.resize(CODE_AT, 0);
    file.extend(code);
    file
}

fn code(then: &Then) -> Vec<u8> {
    let end: &[u8] = match then {
        // mov al, 0xfe · out 0x64, al · hlt · jmp -3
        Then::Reset => &[0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd],
        // mov al, '.' · mov ecx, 20000 · dec ecx · jnz -4 · out dx, al · jmp to the mov ecx
        Then::Dots => &[0xb0, b'.', 0xb9, 0x20, 0x4e, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xee, 0xeb, 0xf4],
    };
    // lodsb · out dx, al · dec ecx · jnz to the lodsb
    const SAY: [u8; 6] = [0xac, 0xee, 0xff, 0xc9, 0x75, 0xfa];
    const MOV_ECX: usize = 5;
    // From behind the lea to the greeting.
    let distance = (MOV_ECX + SAY.len() + end.len()) as u32;
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    code.extend([0x48, 0x8d, 0x35]); // lea rsi, [rip + distance]
    code.extend(distance.to_le_bytes());
    code.push(0xb9); // mov ecx, length
    code.extend((GREETING.len() as u32).to_le_bytes());
    code.extend(SAY);
    code.extend(end);
    code.extend(GREETING.as_bytes());
    code
}
