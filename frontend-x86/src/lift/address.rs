//! Memory operands: effective addresses, and the segment's part in them.
//!
//! Where base and limit of a segment need no look (64-bit mode, flat segments) the IR's memory operand holds the whole
//! address. Elsewhere a `seglin` op checks the access and yields its linear address.

use iced_x86::Register;
use ir::{Mem, Op, OpCode, Operand, SegBase, Width};
use x86::{Gpr, Seg};

use super::Lifter;
use super::operand::{gpr, segment, width_of};

/// An effective address and the segment that it goes through.
#[derive(Clone, Copy)]
pub(super) struct Ea {
    /// The offset, without anything of the segment's.
    pub mem: Mem,
    /// The segment. In 64-bit mode only SS (for #SS), FS and GS differ from DS.
    pub seg: Seg,
}

impl Lifter<'_> {
    /// The effective address of the instruction's memory operand.
    pub(super) fn ea(&mut self) -> Ea {
        let insn = &self.insn;
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let disp = insn.memory_displacement64();
        let next = insn.next_ip();
        let addr = [base, index]
            .into_iter()
            .find(|&r| r != Register::None)
            .map_or_else(
                || {
                    if insn.memory_displ_size() == 0 {
                        self.mode.ip()
                    } else {
                        width_of(insn.memory_displ_size() as usize)
                    }
                },
                |r| width_of(r.size()),
            );
        let mut mem = Mem {
            addr,
            ..Mem::at(Operand::None, 0)
        };
        match base {
            Register::None => {}
            Register::RIP => {
                mem.base = Operand::Pc(next as i32);
                mem.disp = disp.wrapping_sub(next) as i32;
            }
            Register::EIP => {
                mem.base = Operand::Pc(next as i32);
                mem.disp = (disp as i32).wrapping_sub(next as i32);
            }
            _ => mem.base = gpr(base),
        }
        if index != Register::None {
            mem.index = gpr(index);
            mem.scale = insn.memory_index_scale().trailing_zeros() as u8;
        }
        let seg = self.data_segment(base);
        if !matches!(base, Register::RIP | Register::EIP) {
            mem.disp = match addr {
                Width::B16 => i32::from(disp as i16),
                Width::B64 if i64::from(disp as i32) as u64 != disp => {
                    // A 64-bit absolute address (MOV's A0-A3).
                    mem.base = self.b.temp();
                    self.b.mov(Width::B64, mem.base, Operand::Imm(disp as i64));
                    0
                }
                _ => disp as i32,
            };
        }
        Ea { mem, seg }
    }

    /// The segment of a memory operand with this base register. In 64-bit mode the overrides of CS, DS, ES and SS are
    /// no overrides at all: the base register alone decides between #SS and #GP.
    pub(super) fn data_segment(&self, base: Register) -> Seg {
        let seg = segment(self.insn.memory_segment()).unwrap_or(Seg::Ds);
        if !self.mode.code64() || matches!(seg, Seg::Fs | Seg::Gs) {
            return seg;
        }
        match base {
            Register::RSP | Register::RBP | Register::ESP | Register::EBP => Seg::Ss,
            _ => Seg::Ds,
        }
    }

    /// The memory operand for an access of `size` bytes.
    pub(super) fn mem(&mut self, size: u32, write: bool) -> Mem {
        let ea = self.ea();
        self.place(ea, size, write)
    }

    /// The memory operand for a read-modify-write of width `w`, with LOCK if the instruction has it.
    pub(super) fn mem_rmw(&mut self, w: Width) -> Mem {
        let lock = self.insn.has_lock_prefix();
        Mem {
            lock,
            ..self.mem(u32::from(w.bytes()), true)
        }
    }

    /// The memory operand for an access of `size` bytes at an effective address.
    pub(super) fn place(&mut self, ea: Ea, size: u32, write: bool) -> Mem {
        let stack = ea.seg == Seg::Ss;
        if self.mode.code64() {
            let seg = match ea.seg {
                Seg::Fs => SegBase::Fs,
                Seg::Gs => SegBase::Gs,
                _ => SegBase::None,
            };
            return Mem {
                seg,
                stack,
                ..ea.mem
            };
        }
        if self.mode.flat(ea.seg) && !(write && ea.seg == Seg::Cs) {
            return Mem { stack, ..ea.mem };
        }
        let linear = self.linear(ea, size, write);
        Mem {
            stack,
            ..Mem::at(linear, 0)
        }
    }

    /// The effective address as a value.
    pub(super) fn offset(&mut self, ea: Ea) -> Operand {
        let mem = ea.mem;
        if mem.disp == 0
            && mem.index == Operand::None
            && matches!(mem.base, Operand::Reg(_) | Operand::Temp(_))
        {
            return mem.base;
        }
        let offset = self.b.temp();
        self.b.lea(mem.addr, offset, mem);
        offset
    }

    /// The linear address of `size` bytes, checked, for helpers and for segments that need it.
    pub(super) fn linear(&mut self, ea: Ea, size: u32, write: bool) -> Operand {
        let a = self.offset(ea);
        let dst = self.b.temp();
        let c = if write {
            Operand::Imm(1)
        } else {
            Operand::None
        };
        let b = Operand::Imm(i64::from(size));
        self.b.push(Op {
            dst,
            a,
            b,
            c,
            sub: ea.seg as u32,
            ..Op::new(OpCode::SegLin, ea.mem.addr)
        });
        dst
    }

    /// The linear address of the instruction's memory operand of `size` bytes.
    pub(super) fn linear_operand(&mut self, size: u32, write: bool) -> Operand {
        let ea = self.ea();
        self.linear(ea, size, write)
    }

    /// The place `bytes` after a memory operand, in the same object.
    pub(super) fn plus(&mut self, mem: Mem, bytes: i32) -> Mem {
        if mem.addr != Width::B16 {
            if let Some(disp) = mem.disp.checked_add(bytes) {
                return Mem { disp, ..mem };
            }
        }
        // Objects do not wrap inside themselves where their address does.
        let start = self.b.temp();
        self.b.lea(
            mem.addr,
            start,
            Mem {
                seg: SegBase::None,
                ..mem
            },
        );
        let start = if mem.addr == Width::B16 {
            self.zext(Width::B16, start)
        } else {
            start
        };
        let addr = if mem.addr == Width::B16 {
            Width::B32
        } else {
            mem.addr
        };
        Mem {
            base: start,
            index: Operand::None,
            scale: 0,
            disp: bytes,
            addr,
            ..mem
        }
    }

    /// `[base + disp]` through a segment, with the address width given.
    pub(super) fn simple(&self, base: Gpr, disp: i32, addr: Width, seg: Seg) -> Ea {
        Ea {
            mem: Mem {
                addr,
                ..Mem::at(Operand::Reg(base), disp)
            },
            seg,
        }
    }
}
