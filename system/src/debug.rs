//! Debug registers: access rules, and what breakpoints want of the MMU and the engine (SDM vol. 3, 18.2).

use softmmu::Watch;
use x86::{Exception, LinAddr, cr4};

use crate::Vcpu;
use crate::boundary::dr6;
use crate::control::privileged;

/// DR6: the bits that read as one (BLD and RTM among them, which work the other way round).
const DR6_ONES: u64 = 0xffff_0ff0;
/// DR6: the bits that software may change.
const DR6_WRITABLE: u64 = 0xe00f;
/// DR7: the bit that reads as one.
const DR7_ONES: u64 = 0x400;
/// DR7: the bits that software may change.
const DR7_WRITABLE: u64 = 0xffff_23ff;

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
    let address = if kind == Kind::Execute {
        v.st.dr[n]
    } else {
        v.st.dr[n] & !(len - 1)
    };
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
    if v.st.dr7 & dr6::DR7_GD != 0 {
        return Err(Exception::debug(dr6::BD));
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
                Kind::Write | Kind::ReadWrite => Some(Watch {
                    lin: LinAddr(b.address),
                    len: b.len as u8,
                    on_read: b.kind == Kind::ReadWrite,
                }),
                Kind::Execute | Kind::Io => None,
            });
            self.mmu.set_watch(n, watch);
        }
    }

    /// Collects the data breakpoints that were hit into [`Vcpu::pending_debug`], for the trap after the iteration.
    pub(crate) fn collect_watch_hits(&mut self) {
        self.pending_debug |= u64::from(self.mmu.take_watch_hits());
    }

    /// Collects the I/O breakpoints that an access to `size` bytes from a port hit into [`Vcpu::pending_debug`].
    pub(crate) fn hit_io_breakpoints(&mut self, port: u16, size: u64) {
        if self.st.dr7 & dr6::DR7_ENABLED == 0 {
            return;
        }
        let port = u64::from(port);
        for n in 0..4 {
            if breakpoint(self, n).is_some_and(|b| {
                b.kind == Kind::Io
                    && port < (b.address & 0xffff) + b.len
                    && (b.address & 0xffff) < port + size
            }) {
                self.pending_debug |= 1 << n;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use x86::{Exception, cr4};

    use super::{read_dr, write_dr};
    use crate::testing::Machine;

    #[test]
    fn fixed_bits_and_upper_halves() {
        let mut m = Machine::long(0, true);
        assert_eq!(write_dr(&mut m.v, 6, 0xffff_ffff, 0), Ok(0));
        assert_eq!(read_dr(&mut m.v, 6, 0, 0), Ok(0xffff_efff));
        assert_eq!(write_dr(&mut m.v, 6, 0, 0), Ok(0));
        assert_eq!(read_dr(&mut m.v, 6, 0, 0), Ok(0xffff_0ff0));
        assert_eq!(write_dr(&mut m.v, 6, 1 << 32, 0), Err(Exception::GP0));
        assert_eq!(write_dr(&mut m.v, 7, 1 << 32, 0), Err(Exception::GP0));
        assert_eq!(write_dr(&mut m.v, 7, 0xffff_dfff, 0), Ok(0));
        assert_eq!(read_dr(&mut m.v, 7, 0, 0), Ok(0xffff_07ff));
        assert_eq!(write_dr(&mut m.v, 3, u64::MAX, 0), Ok(0));
        assert_eq!(read_dr(&mut m.v, 3, 0, 0), Ok(u64::MAX));
    }

    #[test]
    fn access_rules() {
        let mut m = Machine::protected(3);
        assert_eq!(read_dr(&mut m.v, 0, 0, 0), Err(Exception::GP0));
        let mut m = Machine::protected(0);
        assert_eq!(read_dr(&mut m.v, 4, 0, 0), Ok(0xffff_0ff0), "DR6");
        assert_eq!(read_dr(&mut m.v, 5, 0, 0), Ok(0x400), "DR7");
        m.v.st.cr4 |= cr4::DE;
        assert_eq!(read_dr(&mut m.v, 4, 0, 0), Err(Exception::UD));
        assert_eq!(write_dr(&mut m.v, 5, 0, 0), Err(Exception::UD));
        assert_eq!(read_dr(&mut m.v, 8, 0, 0), Err(Exception::UD));
        m.v.st.dr7 |= 1 << 13;
        assert_eq!(
            read_dr(&mut m.v, 0, 0, 0),
            Err(Exception::debug(1 << 13)),
            "general detect"
        );
        assert_eq!(write_dr(&mut m.v, 7, 0, 0), Err(Exception::debug(1 << 13)));
        assert_eq!(
            read_dr(&mut m.v, 4, 0, 0),
            Err(Exception::UD),
            "#UD comes first"
        );
    }

    #[test]
    fn data_breakpoints_reach_the_mmu() {
        let mut m = Machine::protected(0);
        // DR1: writes of 4 bytes, DR2: reads and writes of 1 byte, DR3 would be execution.
        for (n, value) in [
            (1, 0x3_0005),
            (2, 0x3_0010),
            (3, 0x3_0020),
            (7, 0xfc | 0x0d << 20 | 0x3 << 24),
        ] {
            assert_eq!(write_dr(&mut m.v, n, value, 0), Ok(0));
        }
        let mut hits = |write: bool, at: u64, size: u32| {
            m.v.pending_debug = 0;
            if write {
                m.v.write(at, size, 0).expect("RAM");
            } else {
                m.v.read(at, size).expect("RAM");
            }
            m.v.collect_watch_hits();
            m.v.pending_debug
        };
        assert_eq!(hits(true, 0x3_0007, 1), 2, "DR1 is aligned down to 30004h");
        assert_eq!(hits(true, 0x3_0000, 4), 0);
        assert_eq!(hits(true, 0x3_0002, 4), 2, "an overlap");
        assert_eq!(hits(false, 0x3_0004, 4), 0, "reads don't count");
        assert_eq!(hits(false, 0x3_000f, 2), 4);
        assert_eq!(hits(true, 0x3_0020, 4), 0);
        assert_eq!(write_dr(&mut m.v, 7, 0, 0), Ok(0));
        m.v.write(0x3_0004, 4, 0).expect("RAM");
        m.v.collect_watch_hits();
        assert_eq!(m.v.pending_debug, 0);
    }

    #[test]
    fn io_breakpoints_need_cr4_de() {
        let mut m = Machine::protected(0);
        m.v.st.dr[0] = 0x3f9;
        m.v.st.dr7 = 0x402 | 0x6 << 16;
        m.v.hit_io_breakpoints(0x3f8, 1);
        assert_eq!(m.v.pending_debug, 0);
        m.v.st.cr4 |= cr4::DE;
        m.v.hit_io_breakpoints(0x3fa, 1);
        assert_eq!(m.v.pending_debug, 0, "two ports from 3F8h");
        m.v.hit_io_breakpoints(0x3f6, 4);
        assert_eq!(m.v.pending_debug, 1);
    }
}
