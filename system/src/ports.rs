//! IN and OUT: I/O privilege, the TSS's permission bitmap, and the way to the board (SDM vol. 1, 19.5).

use x86::{Exception, attr};

use crate::Vcpu;
use crate::control::iopl;

/// Where a TSS holds the offset of its I/O permission bitmap.
const MAP_BASE: u64 = 0x66;

/// #GP(0) unless the program may access `size` bytes from a port.
pub fn check_io(v: &mut Vcpu, port: u16, size: u64) -> Result<(), Exception> {
    if v.st.real_mode() || (!v.st.vm86() && v.st.cpl() <= iopl(v)) {
        return Ok(());
    }
    let tr = v.st.tr;
    // Available and busy 32-bit (64-bit) TSS.
    let tss32 = tr.attr & (attr::S | 0xd) == 9 && tr.attr & (attr::UNUSABLE | attr::P) == attr::P;
    let limit = u64::from(tr.limit);
    if !tss32 || limit < MAP_BASE + 1 {
        return Err(Exception::GP0);
    }
    let long = v.st.long_mode();
    let at = |offset: u64| {
        let lin = tr.base.wrapping_add(offset);
        if long { lin } else { lin & 0xffff_ffff }
    };
    let map = v.read_system(at(MAP_BASE), 2)?;
    // Two bytes are always read, so that the last port needs one more behind it.
    let offset = map + u64::from(port) / 8;
    if offset + 1 > limit {
        return Err(Exception::GP0);
    }
    let bits = v.read_system(at(offset), 2)?;
    let wanted = ((1 << size) - 1) << (port & 7);
    if bits & wanted != 0 {
        Err(Exception::GP0)
    } else {
        Ok(())
    }
}

/// Reads `size` (1, 2, 4) bytes from a port, privilege checked already.
pub fn read_port(v: &mut Vcpu, port: u16, size: u8) -> u64 {
    v.hit_io_breakpoints(port, u64::from(size));
    if port.checked_add(u16::from(size) - 1).is_some() {
        return u64::from(v.platform.pio_read(v.index, port, size))
            & (u64::MAX >> (64 - 8 * u32::from(size)));
    }
    // Beyond the last port the address wraps.
    (0..size).fold(0, |value, i| {
        let byte = v
            .platform
            .pio_read(v.index, port.wrapping_add(u16::from(i)), 1)
            & 0xff;
        value | u64::from(byte) << (8 * u32::from(i))
    })
}

/// Writes the low `size` (1, 2, 4) bytes of a value to a port, privilege checked already.
pub fn write_port(v: &mut Vcpu, port: u16, size: u8, value: u64) {
    v.hit_io_breakpoints(port, u64::from(size));
    let value = value as u32 & (u32::MAX >> (32 - 8 * u32::from(size)));
    if port.checked_add(u16::from(size) - 1).is_some() {
        v.platform.pio_write(v.index, port, size, value);
        return;
    }
    for i in 0..size {
        let byte = value >> (8 * u32::from(i)) & 0xff;
        v.platform
            .pio_write(v.index, port.wrapping_add(u16::from(i)), 1, byte);
    }
}

/// The operand of a port instruction: a port and a size of 1, 2 or 4.
fn operands(a: u64, c: u64) -> (u16, u8) {
    (a as u16, if matches!(c, 1 | 2) { c as u8 } else { 4 })
}

/// IN: `c` bytes from port `a`.
pub fn port_in(v: &mut Vcpu, a: u64, _b: u64, c: u64) -> Result<u64, Exception> {
    let (port, size) = operands(a, c);
    check_io(v, port, u64::from(size))?;
    Ok(read_port(v, port, size))
}

/// OUT: `c` bytes, `b`, to port `a`.
pub fn port_out(v: &mut Vcpu, a: u64, b: u64, c: u64) -> Result<u64, Exception> {
    let (port, size) = operands(a, c);
    check_io(v, port, u64::from(size))?;
    write_port(v, port, size, b);
    // An interrupt controller may have been told something.
    Ok(0)
}

#[cfg(test)]
mod tests {
    use x86::{Exception, flags};

    use super::{port_in, port_out};
    use crate::testing::{Machine, TSS};

    const GP: Result<u64, Exception> = Err(Exception::GP0);

    #[test]
    fn sizes_and_the_last_port() {
        let mut m = Machine::real();
        for (size, all) in [(1, 0xff), (2, 0xffff), (4, 0xffff_ffff)] {
            assert_eq!(port_in(&mut m.v, 0x70, 0, size), Ok(all));
            assert_eq!(port_out(&mut m.v, 0x80, 0x1122_3344_5566_7788, size), Ok(0));
        }
        assert_eq!(port_out(&mut m.v, 0xfffe, 0x4433_2211, 4), Ok(0));
        assert_eq!(port_in(&mut m.v, 0xffff, 0, 2), Ok(0xffff));
        let wrapped = [
            (0xfffe, 1, 0x11),
            (0xffff, 1, 0x22),
            (0, 1, 0x33),
            (1, 1, 0x44),
        ];
        let outs = m.board.outs.lock();
        assert_eq!(
            outs[..3],
            [(0x80, 1, 0x88), (0x80, 2, 0x7788), (0x80, 4, 0x5566_7788)]
        );
        assert_eq!(outs[3..], wrapped);
    }

    #[test]
    fn privilege_and_the_bitmap() {
        let mut m = Machine::protected(3);
        let map = TSS + 0x88;
        for i in 0..64 {
            m.write(map + i * 8, 8, u64::MAX);
        }
        assert_eq!(port_in(&mut m.v, 0x60, 0, 1), GP);
        m.write(map + 0x60 / 8, 1, 0b1111_1110);
        assert_eq!(port_in(&mut m.v, 0x60, 0, 1), Ok(0xff));
        assert_eq!(port_in(&mut m.v, 0x60, 0, 2), GP, "61h isn't allowed");
        m.write(map + 0x60 / 8, 2, 0xfe3f);
        assert_eq!(port_out(&mut m.v, 0x66, 0, 2), Ok(0));
        assert_eq!(port_out(&mut m.v, 0x66, 0, 4), GP, "bits in two bytes");
        m.write(map + 0x60 / 8, 2, 0xfc3f);
        assert_eq!(port_out(&mut m.v, 0x66, 0, 4), Ok(0));
        m.v.st.rflags |= flags::IOPL;
        assert_eq!(port_in(&mut m.v, 0x64, 0, 1), Ok(0xff));
    }

    #[test]
    fn the_tss_must_hold_the_bitmap() {
        let mut m = Machine::protected(3);
        for i in 0..64 {
            m.write(TSS + 0x88 + i * 8, 8, 0);
        }
        assert_eq!(port_in(&mut m.v, 0x60, 0, 1), Ok(0xff));
        let tr = m.v.st.tr;
        m.v.st.tr.limit = 0x88 + 0xc + 1;
        assert_eq!(port_in(&mut m.v, 0x60, 0, 1), Ok(0xff));
        m.v.st.tr.limit = 0x88 + 0xc;
        assert_eq!(port_in(&mut m.v, 0x60, 0, 1), GP, "two bytes are read");
        m.v.st.tr.limit = 0x66;
        assert_eq!(port_in(&mut m.v, 0x60, 0, 1), GP);
        m.v.st.tr = tr;
        m.v.st.tr.attr = tr.attr & !0xf | 3;
        assert_eq!(port_in(&mut m.v, 0x60, 0, 1), GP, "a 16-bit TSS");
    }

    #[test]
    fn vm86_always_asks_the_bitmap() {
        let mut m = Machine::vm86(3);
        m.write(TSS + 0x88 + 0x60 / 8, 2, 1);
        assert_eq!(port_in(&mut m.v, 0x60, 0, 1), GP);
        assert_eq!(port_in(&mut m.v, 0x61, 0, 1), Ok(0xff));
    }
}
