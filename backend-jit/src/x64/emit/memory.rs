//! Memory: addresses, the page cache, the ways out to the TLB, and what is done at the place that they find.

use ir::{Access, FlagSet, Mem, Op, OpCode, Operand, SegBase, Width};
use x86::{Gpr, Seg};

use super::alu::{host_alu, host_shift};
use super::bits::bit_extension;
use super::{Emit, Kind};
use crate::hops::By;
use crate::x64::asm::{self, Alu, Field, Label, RAX, Reg, Rm, Section};
use crate::x64::flags::{Left, State};
use crate::x64::frame::{self, PageCache, S0, S1, cached, field};
use crate::x64::runtime::packed;
use softmmu::TlbEntry;
use system::FlagOp;

/// The page cache entries that are no register's.
pub(super) mod entry {
    pub const CONSTANT: usize = 16;
    pub const TEMP: usize = 17;
    pub const FS: usize = 18;
    pub const GS: usize = 19;
}

/// Where a segment's base is that is part of an address.
pub(super) fn segment_base(seg: SegBase) -> Option<Rm> {
    let seg = match seg {
        SegBase::None => return None,
        SegBase::Fs => Seg::Fs,
        SegBase::Gs => Seg::Gs,
    };
    frame::base(seg).map(Rm::M)
}

impl Emit<'_> {
    /// Computes an effective address, segment not added, into a register, cut to `w`. r11 is lost.
    pub(super) fn address_into(&mut self, mem: &Mem, to: Reg, w: Width) -> Option<()> {
        if mem.addr == Width::B16 {
            // Cut behind the sum.
            let wide = Mem {
                addr: Width::B32,
                ..*mem
            };
            self.address_into(&wide, to, Width::B32)?;
            self.a.movzx(Width::B16, to, Rm::R(to));
            return Some(());
        }
        if self.linear_at_hand(mem.base)? {
            if to != S0 || mem.index.is_some() {
                return None;
            }
            if mem.disp != 0 {
                self.a.lea(w, to, asm::Mem::at(S0, mem.disp));
            }
            return Some(());
        }
        let mut disp = mem.disp;
        if let Some(n) = self.constant(mem.base) {
            let sum = n.wrapping_add(i64::from(disp)).cast_unsigned();
            if mem.index == Operand::None {
                self.a.mov_imm(to, sum & w.mask());
                self.note_pc(mem.base);
                return Some(());
            }
            disp = i32::try_from(sum.cast_signed()).ok()?;
        }
        let base = match mem.base {
            Operand::None | Operand::Imm(_) | Operand::Pc(_) => None,
            operand => Some(self.place(operand)?),
        };
        let index = match mem.index {
            Operand::None => None,
            operand => Some(self.place(operand)?),
        };
        // At most one of the two may need r11, the other goes where the result will.
        let index = match index {
            None => None,
            Some(Rm::R(r)) => Some(r),
            Some(memory) => {
                self.a.load(Width::B64, S1, memory);
                Some(S1)
            }
        };
        let base = match base {
            None => None,
            Some(Rm::R(r)) => Some(r),
            Some(memory) => {
                if index == Some(to) {
                    return None;
                }
                self.a.load(Width::B64, to, memory);
                Some(to)
            }
        };
        match (base, index) {
            (Some(base), None) if disp == 0 => {
                if w == Width::B32 || base != to {
                    self.a.load(w, to, Rm::R(base));
                }
            }
            (Some(base), index) => self.a.lea(
                w,
                to,
                asm::Mem {
                    base,
                    index: index.map(|i| (i, mem.scale)),
                    disp,
                    gs: false,
                },
            ),
            (None, Some(index)) => self.a.lea_scaled(w, to, index, mem.scale, disp),
            (None, None) => self
                .a
                .mov_imm(to, i64::from(disp).cast_unsigned() & w.mask()),
        }
        Some(())
    }

    /// Which page cache entry an address goes by.
    pub(super) fn cache_entry(&self, mem: &Mem) -> usize {
        if let (Some((temp, entry)), Operand::Temp(base)) = (self.in_segment, mem.base)
            && temp == base
        {
            return entry;
        }
        match (mem.seg, mem.base) {
            (SegBase::Fs, _) => entry::FS,
            (SegBase::Gs, _) => entry::GS,
            (SegBase::None, Operand::Reg(g)) => g as usize,
            (SegBase::None, Operand::Temp(_)) => entry::TEMP,
            _ => match mem.index {
                Operand::Reg(g) => g as usize,
                Operand::Temp(_) => entry::TEMP,
                _ => entry::CONSTANT,
            },
        }
    }

    /// Finds the place of an access: `here`, by S0. r11 and the host's flags are lost, or seem to be.
    /// Returns where the cold way for stores goes on when the access is made in the bounce buffer.
    pub(super) fn access(
        &mut self,
        mem: &Mem,
        size: u32,
        write: bool,
        kind: Kind,
    ) -> Option<Option<Label>> {
        if mem.access != Access::Data {
            return None;
        }
        if self.repeat.is_some() {
            self.unchecked(mem)?;
            return Some(None);
        }
        if self.windowed(mem, kind) {
            self.through_window(mem, kind)?;
            return Some(None);
        }
        if self.merged(mem, size, write, kind).is_some() {
            return Some(None);
        }
        let w = Width::B64;
        let base = self.near(mem);
        let hops = self.hops(mem.base, mem.index);
        let kept = self.keeps(hops) && size.is_power_of_two() && !kind.masked;
        if !kept {
            self.clobber();
            if let Some(lin) = self.fixed(mem, size).filter(|_| !kind.masked) {
                return Some(self.fixed_access(lin, size, write, kind, mem.stack));
            }
        }
        if let Some(base) = base {
            if !kept {
                let to = if hops { S0 } else { S1 };
                self.a.lea(w, to, asm::Mem::at(base, mem.disp));
            }
        } else {
            self.address_into(mem, S0, mem.addr)?;
            match segment_base(mem.seg) {
                None => {}
                Some(base) if kept => {
                    self.a.load(w, S1, base);
                    self.a.lea(w, S0, asm::Mem::sum(S0, S1, 0));
                }
                Some(base) => self.a.alu(Alu::Add, w, S0, base),
            }
        }
        let mut entry = self.cache_entry(mem);
        if Gpr::ALL.get(entry).is_some_and(|g| self.holds_checked(*g)) {
            // Others rely on what that entry holds.
            entry = entry::TEMP;
        }
        let cache = cached(self.user, entry);
        let (minus, addend) = PageCache::fields(write);
        let minus = Rm::M(field(cache + minus));
        let upper = !self.user;
        let miss = self.a.label();
        let align = if kind.locked && size > 1 {
            size
        } else {
            u32::from(mem.align).max(1)
        };
        // Where the page starts on the host, less its address; in the cold way, what S0 lacks of the address.
        let (addend, lacks) = if hops {
            let tag = self.by_tlb(size, write, align, miss);
            if base.is_none() {
                self.a.alu(Alu::Add, w, S0, Rm::M(tag));
            }
            (asm::Mem::at(S1, TlbEntry::OFFSET_ADDEND as i32), Some(tag))
        } else {
            let whole = align.max(size);
            match base {
                Some(base) if kept => {
                    self.a.load(w, S0, minus);
                    self.a.lea(w, S0, asm::Mem::sum(S0, base, mem.disp));
                    self.near_kept(whole, miss);
                }
                None if kept => {
                    self.a.load(w, S1, minus);
                    self.a.lea(w, S1, asm::Mem::sum(S1, S0, 0));
                    self.far_kept(whole, miss);
                }
                _ => {
                    if base.is_none() {
                        self.a.load(w, S1, Rm::R(S0));
                    }
                    self.a.alu(Alu::Add, w, S1, minus);
                    self.in_page(S1, size, align, miss);
                }
            }
            (field(cache + addend), None)
        };
        self.here = if let Some(base) = base {
            self.a.load(w, S0, Rm::M(addend));
            asm::Mem::sum(S0, base, mem.disp)
        } else {
            if kept {
                self.a.load(w, S1, Rm::M(addend));
                self.a.lea(w, S0, asm::Mem::sum(S0, S1, 0));
            } else {
                self.a.alu(Alu::Add, w, S0, Rm::M(addend));
            }
            asm::Mem::at(S0, 0)
        };
        let here = self.a.label();
        self.a.bind(here);
        let old = self.a.section(Section::Cold);
        // What the stub finds is the place itself; hot code adds the register.
        let found = if base.is_some() || kept {
            let label = self.a.label();
            self.a.bind(label);
            if let Some(base) = base {
                self.a.alu(Alu::Sub, w, S0, Rm::R(base));
                self.a.lea(w, S0, asm::Mem::at(S0, mem.disp.wrapping_neg()));
            }
            if kept {
                self.found_kept();
            }
            self.a.jmp(here);
            label
        } else {
            here
        };
        self.a.bind(miss);
        let flags = self.flags();
        if kept {
            self.missed_kept();
        }
        if let Some(base) = base {
            self.a.lea(w, S0, asm::Mem::at(base, mem.disp));
        } else if let Some(tag) = lacks {
            self.a.alu(Alu::Add, w, S0, Rm::M(tag));
        }
        self.a
            .mov_imm(S1, u64::from(packed(cache, size, align, upper)));
        if kind.masked {
            self.masked_miss(write, found)?;
        } else {
            self.a.call(if write {
                self.stubs.write
            } else {
                self.stubs.read
            });
            let stack = mem.stack;
            self.side(Kind { stack, ..kind });
            self.a.jmp(found);
        }
        let bounce = if write && !kind.locked && !kind.masked {
            let label = self.a.label();
            self.a.bind(label);
            if kept {
                self.found_kept();
            }
            Some(label)
        } else {
            None
        };
        self.a.section(old);
        self.set_flags(flags);
        if kept {
            self.stored = None;
        }
        Some(bounce)
    }

    /// The linear address of an access if it is a constant, and the access aligned and within a page. User code's alone: in
    /// kernels, which switch address spaces all the time, the entries would not last.
    fn fixed(&self, mem: &Mem, size: u32) -> Option<u64> {
        if !self.user || mem.index.is_some() || mem.seg != SegBase::None || mem.addr == Width::B16 {
            return None;
        }
        let base = match mem.base {
            Operand::None => 0,
            operand => self.constant(operand)?,
        };
        let lin = base.wrapping_add(i64::from(mem.disp)).cast_unsigned() & mem.addr.mask();
        let align = u64::from(mem.align).max(u64::from(size.next_power_of_two()));
        let within = lin & x86::PAGE_MASK <= x86::PAGE_SIZE - u64::from(size);
        (within && (mem.align <= 1 && !mem.lock || lin.is_multiple_of(align))).then_some(lin)
    }

    /// As [`Emit::access`], for a constant address: the page is compared, the place is the addend and a constant.
    fn fixed_access(
        &mut self,
        lin: u64,
        size: u32,
        write: bool,
        kind: Kind,
        stack: bool,
    ) -> Option<Label> {
        let w = Width::B64;
        let (at, offset) = (lin & !x86::PAGE_MASK, (lin & x86::PAGE_MASK) as i32);
        let cache = frame::constant(lin);
        let entry = Field::Entry(lin.wrapping_sub(self.cx.ip).cast_signed());
        let (minus, addend) = PageCache::fields(write);
        let (minus, addend) = (Rm::M(field(cache + minus)), Rm::M(field(cache + addend)));
        let (miss, here, found) = (self.a.label(), self.a.label(), self.a.label());
        let small = |n: u64| i32::try_from(n.cast_signed()).ok();
        // What the access adds to S0.
        let disp = match (small(at.wrapping_neg()), small(lin)) {
            (Some(page), Some(disp)) if disp != i32::MIN => {
                self.a.alu_imm(Alu::Cmp, w, minus, page);
                self.a.jcc(ir::Cond::Ne, miss);
                self.a.load(w, S0, addend);
                disp
            }
            _ => {
                self.a.mov_imm(S1, at.wrapping_neg());
                self.a.note(0, Field::MinusPage);
                self.a.alu(Alu::Cmp, w, S1, minus);
                self.a.note(0, entry);
                self.a.jcc(ir::Cond::Ne, miss);
                self.a.load(w, S0, addend);
                self.a.note(0, entry);
                self.a.alu(Alu::Sub, w, S0, Rm::R(S1));
                offset
            }
        };
        self.a.bind(here);
        let old = self.a.section(Section::Cold);
        self.a.bind(found);
        self.a.lea(w, S0, asm::Mem::at(S0, disp.wrapping_neg()));
        self.a.jmp(here);
        self.a.bind(miss);
        self.a.mov_imm(S0, lin);
        self.a.note(0, Field::Address);
        let packed = packed(cache, size, 1, false);
        self.a.mov_imm(S1, u64::from(packed));
        self.a.note(0, entry);
        self.a.call(if write {
            self.stubs.write
        } else {
            self.stubs.read
        });
        self.side(Kind { stack, ..kind });
        self.a.jmp(found);
        let bounce = (write && !kind.locked).then(|| {
            let label = self.a.label();
            self.a.bind(label);
            label
        });
        self.a.section(old);
        self.here = asm::Mem::at(S0, disp);
        bounce
    }

    /// Whether accesses through a register go by the TLB: where they hop from page to page, what was used last says
    /// little. The stack does not hop, but a table there may.
    pub(super) fn hops(&self, base: Operand, index: Operand) -> bool {
        let stack = base == Operand::Reg(Gpr::Rsp) && index == Operand::None;
        self.cx.by != By::Page && !stack
    }

    /// The register of an address that is it and a displacement, and can be used as it is.
    fn near(&self, mem: &Mem) -> Option<Reg> {
        let plain = mem.index == Operand::None
            && mem.seg == SegBase::None
            && mem.addr == Width::B64
            && mem.disp != i32::MIN;
        match self.place(mem.base)? {
            Rm::R(r) if plain => Some(r),
            _ => None,
        }
    }

    /// Emits an access that writes at `here`, and again for the bounce buffer.
    pub(super) fn writing(
        &mut self,
        mem: &Mem,
        size: u32,
        kind: Kind,
        mut f: impl FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        let bounce = self.access(mem, size, true, kind)?;
        f(self)?;
        if bounce.is_some() {
            let done = self.a.label();
            self.a.bind(done);
            let old = self.a.section(Section::Cold);
            self.here = asm::Mem::at(S0, 0);
            f(self)?;
            self.a.call(self.stubs.commit);
            self.a.jmp(done);
            self.a.section(old);
        }
        Some(())
    }

    /// A load, with the op behind it where that takes its operand from memory.
    pub(super) fn load(&mut self, at: usize, to: usize, op: &Op) -> Option<usize> {
        let mem = op.mem?;
        let size = u32::from(op.width.bytes());
        if let Operand::Temp(t) = op.dst
            && self.uses[usize::from(t.0)] == 1
            && at + 1 < to
        {
            let next = self.ops[at + 1];
            if let Some(n) = self.load_and(at, op, &next)? {
                return Some(n);
            }
        }
        let flags = self.preserve_by_load(at, op.dst);
        self.access(&mem, size, false, Kind::default())?;
        self.rescue(at, flags);
        match op.dst {
            Operand::Reg(_) => {
                let reg = self.target(op.dst, S1);
                self.a.load(op.width, reg, Rm::M(self.here));
                self.finish(op.width, op.dst, reg)?;
            }
            Operand::High(_) => {
                self.a.movzx(Width::B8, S1, Rm::M(self.here));
                self.finish(op.width, op.dst, S1)?;
            }
            Operand::None => {
                self.a.movzx(op.width, S1, Rm::M(self.here));
            }
            Operand::Temp(_) => {
                self.a.movzx(op.width, S1, Rm::M(self.here));
                self.finish(op.width, op.dst, S1)?;
            }
            _ => return None,
        }
        Some(1)
    }

    /// A load and the op that alone uses it; `Some(None)` when they don't go together.
    #[expect(
        clippy::option_option,
        reason = "unknown op, or known but not together"
    )]
    fn load_and(&mut self, at: usize, op: &Op, next: &Op) -> Option<Option<usize>> {
        use OpCode as C;
        let mem = op.mem?;
        let (w, size) = (op.width, u32::from(op.width.bytes()));
        match next.code {
            C::Zext | C::Sext if next.a == op.dst => {
                let Operand::Reg(_) = next.dst else {
                    return Some(None);
                };
                let from = Width::ALL[(next.sub & 3) as usize];
                if from != w {
                    return Some(None);
                }
                let flags = self.preserve_by_load(at + 1, next.dst);
                self.access(&mem, size, false, Kind::default())?;
                self.rescue(at, flags);
                let to = self.target(next.dst, S1);
                self.extend_from(next, from, to, Rm::M(self.here));
                self.finish(next.width, next.dst, to)?;
                Some(Some(2))
            }
            C::Add | C::Sub | C::And | C::Or | C::Xor | C::Adc | C::Sbb | C::Imul
                if next.width == w
                    && next.b == op.dst
                    && next.a == next.dst
                    && matches!(self.place(next.dst), Some(Rm::R(_)))
                    && !(next.code == C::Imul && w == Width::B8) =>
            {
                let to = self.target(next.dst, S1);
                let reads = next.code.info().uses;
                if !reads.is_empty() {
                    self.flags_at_hand();
                }
                let flags = self.preserve_by_load(at + 1, next.dst);
                self.access(&mem, size, false, Kind::default())?;
                self.rescue(at, flags);
                self.at = at + 1;
                self.before_flags(next, reads);
                let wanted = !next.flags.is_empty() && !self.need[at + 2].is_empty();
                match (host_alu(next.code), Self::gpr(next.dst)) {
                    (Some(alu), Some(g)) if wanted && matches!(next.code, C::Add | C::Sub) => {
                        self.a.movzx(w, S1, Rm::M(self.here));
                        self.a.alu(alu, w, to, Rm::R(S1));
                        let by = if next.code == C::Add {
                            FlagOp::Add
                        } else {
                            FlagOp::Sub
                        };
                        self.flags_left(next, by, Left::Reg(g), Left::Scratch, true);
                    }
                    (Some(alu), _) => {
                        self.a.alu(alu, w, to, Rm::M(self.here));
                        self.flags_set(next, self.logic_desc(next));
                    }
                    (None, _) => {
                        self.a.imul(w, to, Rm::M(self.here));
                        self.flags_set(next, None);
                    }
                }
                Some(Some(2))
            }
            C::Sub | C::And if next.width == w && next.dst == Operand::None && next.a == op.dst => {
                if matches!(next.b, Operand::High(_)) {
                    return Some(None);
                }
                self.access(&mem, size, false, Kind::default())?;
                self.at = at + 1;
                self.before_flags(next, FlagSet::NONE);
                self.compare_memory(next)?;
                Some(Some(2))
            }
            C::Sub
                if next.width == w
                    && next.dst == Operand::None
                    && next.b == op.dst
                    && matches!(self.place(next.a), Some(Rm::R(_))) =>
            {
                self.access(&mem, size, false, Kind::default())?;
                self.at = at + 1;
                self.before_flags(next, FlagSet::NONE);
                let first = self.register(w, S1, next.a)?;
                match self.left(w, next.a) {
                    Some(a) if !self.need[at + 2].is_empty() => {
                        self.a.movzx(w, S1, Rm::M(self.here));
                        self.a.alu(Alu::Cmp, w, first, Rm::R(S1));
                        self.flags_left(next, FlagOp::Sub, a, Left::Scratch, false);
                    }
                    _ => {
                        self.a.alu(Alu::Cmp, w, first, Rm::M(self.here));
                        self.flags_set(next, None);
                    }
                }
                Some(Some(2))
            }
            C::JumpTo if next.a == op.dst && next.width == w && self.whole_pc(w) => {
                self.spill();
                self.hf = false;
                self.access(&mem, size, false, Kind::default())?;
                self.a.movzx(w, S1, Rm::M(self.here));
                self.at = at + 1;
                self.leave_to(0, self.user);
                Some(Some(2))
            }
            C::MulU | C::MulS if next.width == w && next.b == op.dst && next.a != op.dst => {
                let low = self.preserve_by_load(at + 1, next.dst);
                let high = self.preserve_by_load(at + 1, next.dst2);
                self.access(&mem, size, false, Kind::default())?;
                self.rescue(at, low.or(high));
                self.at = at + 1;
                self.multiply(next, Some(Rm::M(self.here)))?;
                Some(Some(2))
            }
            C::Adcx | C::Adox
                if next.width == w
                    && next.b == op.dst
                    && next.a == next.dst
                    && matches!(self.place(next.dst), Some(Rm::R(_))) =>
            {
                self.flags_at_hand();
                self.access(&mem, size, false, Kind::default())?;
                self.at = at + 1;
                self.add_with(next, Some(Rm::M(self.here)))?;
                Some(Some(2))
            }
            C::Vec if next.a == op.dst && next.b == Operand::None => {
                // A scalar source that the instruction takes from memory itself.
                self.access(&mem, size, false, Kind::default())?;
                self.at = at + 1;
                self.vec(next, Some(op.dst))?;
                Some(Some(2))
            }
            _ => Some(None),
        }
    }

    /// CMP or TEST of what is `here` with an operand. Where flags are likely to be saved, memory's part stays in r11.
    fn compare_memory(&mut self, op: &Op) -> Option<()> {
        let w = op.width;
        let (logic, here) = (op.code == OpCode::And, Rm::M(self.here));
        let imm = self.imm(w, op.b);
        let kept = match (imm, op.b) {
            _ if self.need[self.at + 1].is_empty() => None,
            _ => self.left(w, op.b),
        };
        if let Some(b) = kept {
            self.a.movzx(w, S1, here);
            match (imm, self.place(op.b)) {
                (Some(n), _) if logic => self.a.alu_imm(Alu::And, w, Rm::R(S1), n),
                (Some(n), _) => self.a.alu_imm(Alu::Cmp, w, Rm::R(S1), n),
                (None, Some(place)) if logic => self.a.alu(Alu::And, w, S1, place),
                (None, Some(place)) => self.a.alu(Alu::Cmp, w, S1, place),
                (None, None) => return None,
            }
            let by = if logic { FlagOp::Logic } else { FlagOp::Sub };
            self.flags_left(op, by, Left::Scratch, b, false);
            return Some(());
        }
        match imm {
            Some(n) if logic => self.a.test_imm(w, here, n),
            Some(n) => self.a.alu_imm(Alu::Cmp, w, here, n),
            None => {
                let second = self.register(w, S1, op.b)?;
                if logic {
                    self.a.test(w, here, second);
                } else {
                    self.a.alu_to(Alu::Cmp, w, here, second);
                }
            }
        }
        self.flags_set(op, None);
        Some(())
    }

    pub(super) fn store(&mut self, op: &Op) -> Option<()> {
        let mem = op.mem?;
        let w = op.width;
        let value = op.a;
        let imm = self.imm(w, value);
        self.writing(&mem, u32::from(w.bytes()), Kind::default(), |e| {
            match imm {
                Some(n) => e.a.store_imm(w, Rm::M(e.here), n),
                None => {
                    let reg = e.register(w, S1, value)?;
                    e.a.store(w, e.here, reg);
                }
            }
            Some(())
        })
    }

    pub(super) fn probe(&mut self, op: &Op) -> Option<()> {
        let mem = op.mem?;
        if op.a.is_some() {
            return None;
        }
        let bounce = self.access(&mem, u32::from(op.width.bytes()), true, Kind::default())?;
        if self.code64 && self.repeat.is_none() {
            // A page cache may be empty and seem to know the page: see `astray.rs`.
            self.a.movzx(Width::B8, S1, Rm::M(self.here));
        }
        if bounce.is_some() {
            let done = self.a.label();
            self.a.bind(done);
            let old = self.a.section(Section::Cold);
            self.a.jmp(done);
            self.a.section(old);
        }
        Some(())
    }

    /// The operation of `op` on the operand in memory, which is known to be `here`.
    fn alu_here(&mut self, host: Alu, op: &Op, lock: bool) -> Option<()> {
        let (w, here) = (op.width, Rm::M(self.here));
        match self.imm(w, op.a) {
            Some(n) => {
                if lock {
                    self.a.lock();
                }
                self.a.alu_imm(host, w, here, n);
            }
            None => {
                let reg = self.register(w, S1, op.a)?;
                if lock {
                    self.a.lock();
                }
                self.a.alu_to(host, w, here, reg);
            }
        }
        Some(())
    }

    pub(super) fn rmw(&mut self, op: &Op) -> Option<()> {
        use OpCode as C;
        let mem = op.mem?;
        let (w, alu) = (op.width, op.alu());
        let size = u32::from(w.bytes());
        let kind = Kind {
            rmw: true,
            locked: mem.lock,
            ..Kind::default()
        };
        if matches!(op.a, Operand::High(_)) || matches!(op.dst, Operand::High(_)) {
            return None;
        }
        let lock = mem.lock;
        match alu {
            C::Mov | C::Add if op.dst.is_some() => {
                if alu == C::Add {
                    self.before_flags(op, FlagSet::NONE);
                }
                self.preserve(op.dst);
                let Operand::Reg(_) = op.dst else { return None };
                self.writing(&mem, size, kind, |e| {
                    e.fetch(w, S1, op.a)?;
                    if alu == C::Mov {
                        e.a.xchg(w, S1, Rm::M(e.here));
                    } else {
                        if lock {
                            e.a.lock();
                        }
                        e.a.two_byte_sized(w, 0xc0, S1, Rm::M(e.here));
                    }
                    e.finish(w, op.dst, S1)
                })?;
                if alu == C::Add {
                    self.flags_set(op, None);
                }
                Some(())
            }
            _ if op.dst.is_some() => None,
            C::Add | C::Sub | C::And | C::Or | C::Xor => {
                let host = host_alu(alu)?;
                self.before_flags(op, FlagSet::NONE);
                let imm = self.imm(w, op.a);
                let wanted = !op.flags.is_empty() && !self.need[self.at + 1].is_empty();
                if let Some(b) = self.left(w, op.a).filter(|_| wanted && !lock) {
                    // The result stays in r11, for the flags.
                    self.writing(&mem, size, kind, |e| {
                        e.a.movzx(w, S1, Rm::M(e.here));
                        match imm {
                            Some(n) => e.a.alu_imm(host, w, Rm::R(S1), n),
                            None => e.a.alu(host, w, S1, e.place(op.a)?),
                        }
                        e.a.store(w, e.here, S1);
                        Some(())
                    })?;
                    let by = match alu {
                        C::Add => FlagOp::Add,
                        C::Sub => FlagOp::Sub,
                        _ => FlagOp::Logic,
                    };
                    self.flags_left(op, by, Left::Scratch, b, by != FlagOp::Logic);
                    return Some(());
                }
                self.writing(&mem, size, kind, |e| e.alu_here(host, op, lock))?;
                self.flags_set(op, None);
                Some(())
            }
            C::Adc | C::Sbb => {
                let host = host_alu(alu)?;
                // Nobody else may ask for what is lost.
                if op.flags.is_empty() && !self.need[self.at + 1].is_empty() {
                    return None;
                }
                self.flags_at_hand();
                self.writing(&mem, size, kind, |e| {
                    // Here and in the other way.
                    let hf = e.hf;
                    e.host_flags_for(FlagSet::C);
                    e.hf = hf;
                    e.alu_here(host, op, lock)
                })?;
                self.state = State::Memory;
                self.flags_set(op, None);
                Some(())
            }
            C::Inc | C::Dec | C::Neg | C::Not => {
                let carry = matches!(alu, C::Inc | C::Dec)
                    && !op.flags.is_empty()
                    && self.need[self.at + 1].contains(FlagSet::C);
                if carry {
                    self.save_carry();
                } else if alu != C::Not {
                    self.before_flags(op, FlagSet::NONE);
                }
                self.writing(&mem, size, kind, |e| {
                    if carry {
                        e.restore_carry();
                    }
                    if lock {
                        e.a.lock();
                    }
                    match alu {
                        C::Inc => e.a.incdec(w, Rm::M(e.here), false),
                        C::Dec => e.a.incdec(w, Rm::M(e.here), true),
                        C::Neg => e.a.group3(w, 3, Rm::M(e.here)),
                        _ => e.a.group3(w, 2, Rm::M(e.here)),
                    }
                    Some(())
                })?;
                if alu != C::Not {
                    self.flags_set(op, None);
                }
                Some(())
            }
            C::Shl | C::Shr | C::Sar if !lock => {
                let shift = host_shift(alu)?;
                let Operand::Imm(n) = op.a else { return None };
                let mask = if w == Width::B64 { 63 } else { 31 };
                let count = (n & mask) as u8;
                if count == 0 {
                    return None;
                }
                self.before_flags(op, FlagSet::NONE);
                self.writing(&mem, size, kind, |e| {
                    e.a.shift_imm(shift, w, Rm::M(e.here), count);
                    Some(())
                })?;
                self.flags_set(op, None);
                Some(())
            }
            C::Bts | C::Btr | C::Btc if w != Width::B8 => {
                let extension = bit_extension(alu)?;
                // The other flags stay; only where nobody wants them are they given up.
                let kept = self.need[self.at + 1].without(FlagSet::C);
                if !op.flags.is_empty() && !kept.is_empty() {
                    return self.bit_in_memory(op, extension);
                }
                self.before_flags(op, FlagSet::NONE);
                self.bit_access(op, extension)?;
                self.flags_set(op, None);
                Some(())
            }
            _ => None,
        }
    }

    /// BTS and its like where the other flags are still wanted: they are put together again behind it.
    fn bit_in_memory(&mut self, op: &Op, extension: u8) -> Option<()> {
        self.spill_for_bit();
        self.bit_access(op, extension)?;
        // Carry apart, then all flags from memory, then carry back.
        self.store_carry();
        self.a.call(self.stubs.lahf);
        self.restore_carry();
        self.state = State::Host;
        self.hf = true;
        Some(())
    }

    /// The flags into memory in a form that does not use the carry's word.
    fn spill_for_bit(&mut self) {
        self.host_flags();
        self.state = State::Host;
        self.compared = None;
        self.spill();
        self.hf = false;
    }

    fn bit_access(&mut self, op: &Op, extension: u8) -> Option<()> {
        let mem = op.mem?;
        let w = op.width;
        let kind = Kind {
            rmw: true,
            locked: mem.lock,
            ..Kind::default()
        };
        let bits = w.bits();
        self.writing(&mem, u32::from(w.bytes()), kind, |e| {
            if let Operand::Imm(n) = op.a {
                if mem.lock {
                    e.a.lock();
                }
                e.a.bit_imm(
                    w,
                    extension,
                    Rm::M(e.here),
                    (n as u64 & u64::from(bits - 1)) as u8,
                );
            } else {
                // By a register it would reach beyond the operand.
                e.fetch(w, S1, op.a)?;
                e.a.alu_imm(Alu::And, Width::B32, Rm::R(S1), bits as i32 - 1);
                if mem.lock {
                    e.a.lock();
                }
                e.a.bit_reg(w, extension, Rm::M(e.here), S1);
            }
            Some(())
        })
    }

    /// Keeps CF where the access that follows does not disturb it; the other flags are given up.
    fn save_carry(&mut self) {
        self.host_flags();
        // A fault at the access wants them all.
        self.state = State::Host;
        self.spill();
        self.store_carry();
        self.hf = false;
    }

    fn restore_carry(&mut self) {
        self.carry_back();
    }

    pub(super) fn cmpxchg(&mut self, op: &Op) -> Option<()> {
        let mem = op.mem?;
        let w = op.width;
        if op.a != Operand::Reg(Gpr::Rax) || matches!(op.b, Operand::High(_)) {
            return None;
        }
        let Operand::Temp(_) = op.dst else {
            return None;
        };
        self.before_flags(op, FlagSet::NONE);
        self.preserve(Operand::Reg(Gpr::Rax));
        let kind = Kind {
            rmw: true,
            locked: mem.lock,
            ..Kind::default()
        };
        self.writing(&mem, u32::from(w.bytes()), kind, |e| {
            let new = e.register(w, S1, op.b)?;
            if mem.lock {
                e.a.lock();
            }
            e.a.two_byte_sized(w, 0xb0, new, Rm::M(e.here));
            // Either they were equal, or the host has put the old value there, as the ops that follow will.
            e.finish(Width::B64, op.dst, RAX)
        })?;
        self.flags_set(op, None);
        Some(())
    }
}
