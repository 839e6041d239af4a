//! Are leader and follower the same? Registers, flags, and the pages of RAM that either wrote.

use std::collections::BTreeSet;
use std::fmt::Write;

use softmmu::GuestRam;
use system::Vcpu;
use x86::{CpuState, PAGE_SIZE, PhysAddr, flags};

/// Differing pages that are described.
const PAGES: usize = 6;
/// DR6 bits of [`Vcpu::pending_debug`]; the others are notes of one instruction.
const PENDING: u64 = 0xe00f;

/// How leader and follower differ.
#[derive(Debug, Default)]
pub struct Differences {
    /// What differs, a line each.
    pub text: String,
    /// Status flags that differ, and of which vCPU.
    pub flags: Vec<(usize, u64)>,
    /// General registers that differ as [`is_image`] says, and of which vCPU.
    pub images: Vec<(usize, usize)>,
    /// RAM differs.
    pub memory: bool,
    /// Anything else differs.
    pub more: bool,
}

impl Differences {
    /// Nothing but status flags differs.
    pub fn only_flags(&self) -> bool {
        self.images.is_empty() && !self.memory && !self.more
    }

    /// Nothing but RAM differs.
    pub fn only_memory(&self) -> bool {
        self.flags.is_empty() && self.images.is_empty() && self.memory && !self.more
    }
}

/// Whether two words are images of RFLAGS that differ in AF alone. It is undefined after shifts, logic and
/// multiplications, and whatever pushes the flags or SYSCALL leaves it where nobody looks at it.
pub fn is_image(a: u32, b: u32) -> bool {
    // Bit 1 is set, bits 3, 5, 15 and those from 22 up are clear.
    const RESERVED: u32 = 0xffc0_802a;
    a ^ b == flags::AF as u32 && a & RESERVED == 2
}

/// As [`is_image`], for words of memory: the upper half may have been overwritten since.
pub fn was_image(a: u32, b: u32) -> bool {
    a ^ b == flags::AF as u32 && is_image(a & 0xffff, b & 0xffff)
}

/// The state without what engines need not agree on: where the last x87 instruction and its operand were.
fn comparable(st: &CpuState) -> CpuState {
    let mut st = st.clone();
    let fpu = &mut st.fpu;
    (fpu.fop, fpu.fcs, fpu.fds, fpu.fip, fpu.fdp) = (0, 0, 0, 0, 0);
    st
}

/// Whether two vCPUs are the same.
fn same(a: &Vcpu, b: &Vcpu) -> bool {
    a.retired == b.retired
        && a.random == b.random
        && (a.pending_debug ^ b.pending_debug) & PENDING == 0
        && (a.st == b.st || comparable(&a.st) == comparable(&b.st))
}

/// Compares vCPUs in pairs.
pub fn vcpus<'a>(
    pairs: impl Iterator<Item = (&'a Vcpu, &'a Vcpu)>,
    names: [&str; 2],
) -> Option<Differences> {
    let mut found: Option<Differences> = None;
    for (a, b) in pairs.filter(|(a, b)| !same(a, b)) {
        let found = found.get_or_insert_default();
        found.text.push_str(&describe(a, b, names));
        let diff = a.st.rflags ^ b.st.rflags;
        if diff != 0 {
            found.flags.push((a.index, diff));
        }
        let (one, mut other) = (comparable(&a.st), comparable(&b.st));
        for (n, (x, y)) in one.gpr.iter().zip(&mut other.gpr).enumerate() {
            if x >> 32 == *y >> 32 && is_image(*x as u32, *y as u32) {
                found.images.push((a.index, n));
                *y = *x;
            }
        }
        other.rflags = one.rflags;
        found.more |= diff & !flags::STATUS != 0
            || one != other
            || a.retired != b.retired
            || a.random != b.random
            || (a.pending_debug ^ b.pending_debug) & PENDING != 0;
    }
    found
}

const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// The fields in which two vCPUs differ, a line each.
fn describe(a: &Vcpu, b: &Vcpu, [one, other]: [&str; 2]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, x: u64, y: u64| {
        if x != y {
            let _ = writeln!(
                text,
                "  vCPU {} {name}: {x:#x} {one}, {y:#x} {other}",
                a.index
            );
        }
    };
    line("instructions completed", a.retired, b.retired);
    line(
        "pending debug traps",
        a.pending_debug & PENDING,
        b.pending_debug & PENDING,
    );
    line("random state", a.random, b.random);
    for (n, name) in GPR.iter().enumerate() {
        line(name, a.st.gpr[n], b.st.gpr[n]);
    }
    line("rip", a.st.rip, b.st.rip);
    line("rflags", a.st.rflags, b.st.rflags);
    line("mxcsr", u64::from(a.st.mxcsr), u64::from(b.st.mxcsr));
    for (n, (x, y)) in a.st.vec.iter().zip(&b.st.vec).enumerate() {
        if x != y {
            let _ = writeln!(
                text,
                "  vCPU {} zmm{n}: {} {one}, {} {other}",
                a.index,
                hex(x),
                hex(y)
            );
        }
    }
    let (mut x, mut y) = (comparable(&a.st), comparable(&b.st));
    (y.gpr, y.rip, y.rflags, y.mxcsr, y.vec) = (x.gpr, x.rip, x.rflags, x.mxcsr, x.vec);
    if x != y {
        // All the rest is rare: by its debug form.
        x.vec = [[0; 64]; 32];
        y.vec = x.vec;
        let (x, y) = (format!("{x:#x?}"), format!("{y:#x?}"));
        let mut field = "";
        for (x, y) in x.lines().zip(y.lines()) {
            if x.starts_with("    ") && !x.starts_with("     ") {
                field = x.trim();
            }
            if x != y {
                let _ = writeln!(
                    text,
                    "  vCPU {} {field} {} {one}, {} {other}",
                    a.index,
                    x.trim(),
                    y.trim()
                );
            }
        }
    }
    text
}

/// Bytes, lowest address first, without the zeros at the end.
fn hex(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(1, |n| n + 1);
    bytes[..end].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a page; false where there is no RAM.
pub fn read(ram: &GuestRam, page: u64, bytes: &mut [u8; PAGE_SIZE as usize]) -> bool {
    ram.read(PhysAddr(page), bytes).is_ok()
}

/// The bytes of RAM that differ, by physical address; many at most.
pub fn bytes(a: &GuestRam, b: &GuestRam, touched: &BTreeSet<u64>) -> Vec<u64> {
    let (mut x, mut y) = ([0; PAGE_SIZE as usize], [0; PAGE_SIZE as usize]);
    let mut found = Vec::new();
    for &page in touched {
        if !read(a, page, &mut x) || !read(b, page, &mut y) || x == y {
            continue;
        }
        let differ = x.iter().zip(&y).enumerate().filter(|(_, (x, y))| x != y);
        found.extend(differ.map(|(n, _)| page + n as u64));
        if found.len() > PAGE_SIZE as usize {
            break;
        }
    }
    found
}

/// Compares pages of RAM; the lines that describe the differences.
pub fn pages(
    a: &GuestRam,
    b: &GuestRam,
    touched: &BTreeSet<u64>,
    [one, other]: [&str; 2],
) -> Option<String> {
    let (mut x, mut y) = ([0; PAGE_SIZE as usize], [0; PAGE_SIZE as usize]);
    let (mut text, mut count) = (String::new(), 0);
    for &page in touched {
        if !read(a, page, &mut x) || !read(b, page, &mut y) || x == y {
            continue;
        }
        count += 1;
        if count > PAGES {
            continue;
        }
        let Some(first) = x.iter().zip(&y).position(|(x, y)| x != y) else {
            continue;
        };
        let bytes = x.iter().zip(&y).filter(|(x, y)| x != y).count();
        let line = first & !15;
        let _ = writeln!(
            text,
            "  {bytes} bytes of the page at {page:#x} differ, at {:#x} {} {one}, {} {other}",
            page + line as u64,
            hex(&x[line..line + 16]),
            hex(&y[line..line + 16])
        );
    }
    if count > PAGES {
        let _ = writeln!(text, "  and {} pages more", count - PAGES);
    }
    (count > 0).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::{is_image, was_image};

    #[test]
    fn images_of_rflags_differ_in_af_alone() {
        assert!(is_image(0x246, 0x256) && is_image(0x256, 0x246) && is_image(0x12, 0x2));
        assert!(!is_image(0x246, 0x246), "the same");
        assert!(!is_image(0x246, 0x247), "CF");
        assert!(!is_image(0x246, 0x257), "CF, too");
        assert!(!is_image(0x244, 0x254), "bit 1 is always set");
        assert!(!is_image(0x24a, 0x25a), "bit 3 never");
        assert!(!is_image(0x8000_0246, 0x8000_0256), "nor are high ones");
        assert!(was_image(0x0100_0202, 0x0100_0212) && was_image(0x246, 0x256));
        assert!(!was_image(0x0100_0202, 0x0200_0212), "more differs");
        assert!(!was_image(0x8202, 0x8212), "bit 15 is always clear");
    }
}
