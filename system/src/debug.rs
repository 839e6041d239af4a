//! Debug registers: access rules, and what breakpoints want of the MMU and the engine (SDM vol. 3, 18.2).

use softmmu::Watch;
use x86::{Exception, LinAddr, Seg, cr4, flags};

use crate::Vcpu;
use crate::control::privileged;

/// DR6: the access to a debug register that DR7.GD forbids.
pub const DR6_BD: u64 = 1 << 13;
/// DR6: single step.
pub const DR6_BS: u64 = 1 << 14;
/// DR6: task switch.
pub const DR6_BT: u64 = 1 << 15;
/// DR6: the bits that read as one (BLD and RTM among them, which work the other way round).
pub const DR6_ONES: u64 = 0xffff_0ff0;
/// DR6: the bits that software may change.
const DR6_WRITABLE: u64 = 0xe00f;
/// DR7: general detect.
pub const DR7_GD: u64 = 1 << 13;
/// DR7: the bit that reads as one.
const DR7_ONES: u64 = 0x400;
/// DR7: the bits that software may change.
const DR7_WRITABLE: u64 = 0xffff_23ff;
/// DR7: L0-L3 and G0-G3.
const DR7_ENABLES: u64 = 0xff;

/// What a breakpoint waits for (DR7.R/W).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Execute,
    Write,
    Io,
    ReadWrite,
}

/// An enabled breakpoint.
#[derive(Clone, Copy, Debug)]
struct Breakpoint {
    kind: Kind,
    /// First byte (linear address or port), aligned to `len` but for execution.
    address: u64,
    len: u64,
}

/// Breakpoint `n` of DR0-DR3, if DR7 enables it.
fn breakpoint(v: &Vcpu, n: usize) -> Option<Breakpoint> {
    if v.st.dr7 >> (n * 2) & 3 == 0 {
        return None;
    }
    let control = v.st.dr7 >> (16 + n * 4);
    let kind = match control & 3 {
        0 => Kind::Execute,
        1 => Kind::Write,
        // Undefined without CR4.DE: nothing.
        2 if v.st.cr4 & cr4::DE != 0 => Kind::Io,
        2 => return None,
        _ => Kind::ReadWrite,
    };
    let len = [1, 2, 8, 4][(control >> 2 & 3) as usize];
    let address = if kind == Kind::Execute { v.st.dr[n] } else { v.st.dr[n] & !(len - 1) };
    Some(Breakpoint { kind, address, len })
}

/// The register that DR`n` means: DR4 and DR5 are DR6 and DR7, or nothing with CR4.DE.
fn register(v: &Vcpu, n: u64) -> Result<usize, Exception> {
    privileged(v)?;
    let n = match n {
        4 | 5 if v.st.cr4 & cr4::DE != 0 => return Err(Exception::UD),
        4 | 5 => n + 2,
        0..=7 => n,
        _ => return Err(Exception::UD),
    };
    if v.st.dr7 & DR7_GD != 0 {
        return Err(Exception::debug(DR6_BD));
    }
    Ok(n as usize)
}

/// MOV from DR`a`.
pub fn read_dr(v: &mut Vcpu, a: u64, _b: u64, _c: u64) -> Result<u64, Exception> {
    Ok(match register(v, a)? {
        6 => (v.st.dr6 & DR6_WRITABLE) | DR6_ONES,
        7 => (v.st.dr7 & DR7_WRITABLE) | DR7_ONES,
        n => v.st.dr[n],
    })
}

/// MOV to DR`a`: `b`.
pub fn write_dr(v: &mut Vcpu, a: u64, b: u64, _c: u64) -> Result<u64, Exception> {
    let n = register(v, a)?;
    if n >= 6 && b >> 32 != 0 {
        return Err(Exception::GP0);
    }
    match n {
        6 => v.st.dr6 = (b & DR6_WRITABLE) | DR6_ONES,
        7 => v.st.dr7 = (b & DR7_WRITABLE) | DR7_ONES,
        n => v.st.dr[n] = b,
    }
    v.sync_watches();
    Ok(0)
}

impl Vcpu {
    /// Tells the MMU which data breakpoints there are, after anything that changed DR0-DR3, DR7 or CR4.DE.
    pub fn sync_watches(&mut self) {
        for n in 0..4 {
            let watch = breakpoint(self, n).and_then(|b| match b.kind {
                Kind::Write | Kind::ReadWrite => {
                    Some(Watch { lin: LinAddr(b.address), len: b.len as u8, on_read: b.kind == Kind::ReadWrite })
                }
                Kind::Execute | Kind::Io => None,
            });
            self.mmu.set_watch(n, watch);
        }
    }

    /// Collects the data breakpoints that the last instruction hit into [`Vcpu::pending_debug`], for the trap after it.
    pub fn collect_watch_hits(&mut self) {
        self.pending_debug |= u64::from(self.mmu.take_watch_hits());
    }

    /// The DR6 bits of the instruction breakpoints at an offset in CS, unless RFLAGS.RF masks them: #DB, a fault.
    pub fn instruction_breakpoint(&self, rip: u64) -> Option<u64> {
        if self.st.dr7 & DR7_ENABLES == 0 || self.st.rflags & flags::RF != 0 {
            return None;
        }
        let lin = if self.st.code64() {
            rip
        } else {
            self.seg(Seg::Cs).base.wrapping_add(rip & 0xffff_ffff) & 0xffff_ffff
        };
        let hit = |n: &usize| {
            breakpoint(self, *n).is_some_and(|b| b.kind == Kind::Execute && b.len == 1 && b.address == lin)
        };
        let bits = (0..4).filter(hit).fold(0, |bits, n| bits | 1 << n);
        (bits != 0).then_some(bits)
    }

    /// Whether the engine must run one instruction at a time: single step, an enabled breakpoint, a trap that waits.
    pub fn stepping(&self) -> bool {
        self.st.rflags & flags::TF != 0 || self.st.dr7 & DR7_ENABLES != 0 || self.pending_debug != 0
    }

    /// Whether a breakpoint watches the linear addresses from `lin` on.
    pub fn watched(&self, lin: u64, len: u64) -> bool {
        if self.st.dr7 & DR7_ENABLES == 0 {
            return false;
        }
        let touches = |b: Breakpoint| {
            matches!(b.kind, Kind::Write | Kind::ReadWrite)
                && (b.address.wrapping_sub(lin) < len || lin.wrapping_sub(b.address) < b.len)
        };
        (0..4).filter_map(|n| breakpoint(self, n)).any(touches)
    }

    /// Collects the I/O breakpoints that an access to `size` bytes from a port hit into [`Vcpu::pending_debug`].
    pub fn hit_io_breakpoints(&mut self, port: u16, size: u64) {
        if self.st.dr7 & DR7_ENABLES == 0 {
            return;
        }
        let port = u64::from(port);
        for n in 0..4 {
            if breakpoint(self, n).is_some_and(|b| {
                b.kind == Kind::Io && port < (b.address & 0xffff) + b.len && (b.address & 0xffff) < port + size
            }) {
                self.pending_debug |= 1 << n;
            }
        }
    }
}
