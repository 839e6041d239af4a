//! Every x87 instruction against the host CPU: whole states in, whole states out.
use iced_x86::code_asm::{CodeAssembler, dword_ptr, mm3, ptr, qword_ptr, rax, rdi};
use iced_x86::{Code, IcedError, OpCodeOperandKind, Register};
use portable::x87::{Io, Layout, X87, execute, sw};

use crate::host::{Differences, Random, Stub, encode, instruction, rounds};

const LAYOUT: Layout = Layout {
    wide: true,
    real: false,
};

/// What a stub reads and writes; offsets below.
#[repr(C, align(64))]
struct Frame {
    before: [u8; 128],
    after: [u8; 128],
    mem: [u8; 128],
    flags: u64,
    ax: u64,
    area: Area,
}

/// FXSAVE's.
#[repr(C, align(64))]
struct Area([u8; 512]);

const AFTER: i64 = 128;
const MEM: i64 = 256;
const FLAGS: i64 = 384;
const AX: i64 = 392;
const AREA: i64 = 448;

/// CF PF AF ZF SF OF.
const STATUS_FLAGS: u64 = 0x8D5;

/// FRSTOR, what `body` appends, FNSAVE.
fn stub_of(body: impl FnOnce(&mut Vec<u8>)) -> Stub {
    let head = || -> Result<Vec<u8>, IcedError> {
        let mut a = CodeAssembler::new(64)?;
        a.mov(rax, qword_ptr(rdi + FLAGS))?;
        a.push(rax)?;
        a.popfq()?;
        a.frstor(dword_ptr(rdi))?;
        a.assemble(0)
    };
    let tail = || -> Result<Vec<u8>, IcedError> {
        let mut a = CodeAssembler::new(64)?;
        a.fnsave(dword_ptr(rdi + AFTER))?;
        a.mov(qword_ptr(rdi + AX), rax)?;
        a.pushfq()?;
        a.pop(rax)?;
        a.mov(qword_ptr(rdi + FLAGS), rax)?;
        a.ret()?;
        a.assemble(0)
    };
    let mut bytes = head().unwrap();
    body(&mut bytes);
    bytes.extend(tail().unwrap());
    Stub::new(&bytes)
}

fn stub(code: Code, sti: usize) -> Stub {
    let insn = instruction(code, Some(MEM), 0, |_, kind| match kind {
        OpCodeOperandKind::sti_opcode => Register::ST0 + sti as u32,
        OpCodeOperandKind::st0 => Register::ST0,
        _ => Register::AX,
    })
    .unwrap();
    stub_of(|bytes| encode(bytes, &insn))
}

fn frame(x: &X87) -> Frame {
    let mut frame = Frame {
        before: [0; 128],
        after: [0; 128],
        mem: [0; 128],
        flags: 2,
        ax: 0,
        area: Area([0; 512]),
    };
    x.store_all(LAYOUT, &mut frame.before);
    frame
}

/// The state after the stub, with the pointers of `ours`, which are the caller's to set.
fn result(frame: &Frame, ours: &X87) -> X87 {
    let mut x = X87::default();
    x.load_all(LAYOUT, &frame.after);
    (x.fop, x.fip, x.fcs, x.fdp, x.fds) = (ours.fop, ours.fip, ours.fcs, ours.fdp, ours.fds);
    x
}

fn control_word(r: &mut Random) -> u16 {
    let masks = match r.below(4) {
        0 => r.next() as u16 & 0x3F,
        1 => 0x3F & !(1 << r.below(6)),
        _ => 0x3F,
    };
    (r.below(4) << 10 | r.below(4) << 8) as u16 | masks | 0x40
}

/// A state without pending exceptions; most registers full, with operands that suit `code`.
fn state(r: &mut Random, code: Code) -> X87 {
    use portable::float::F80;
    let mut x = X87 {
        tw: 0,
        ..X87::default()
    };
    x.set_cw(control_word(r));
    let flags = if r.one_in(2) {
        0
    } else {
        r.next() as u16 & x.cw & 0x3F
    };
    x.sw = (r.next() as u16 & 0x7F00) | flags | if r.one_in(4) { 0x40 } else { 0 };
    let mut exponent = 0;
    for i in 0..8 {
        let (mut se, sig) = r.f80();
        // Half of the neighbours have nearby exponents, so that sums cancel and quotients are small.
        if i > 0 && r.one_in(2) {
            se = se & 0x8000 | (exponent + r.below(130) as i32 - 65).clamp(0, 0x7FFF) as u16;
        }
        exponent = i32::from(se & 0x7FFF);
        x.regs[i] = F80::new(se, sig);
    }
    if r.one_in(4) {
        x.regs[x.physical(1)] = x.regs[x.physical(0)];
        let n = x.physical(1);
        x.regs[n].se ^= (r.below(2) << 15) as u16;
    }
    x.tw = match r.below(8) {
        0 => r.next() as u8,
        1 => 0xFF,
        // Room for a push.
        _ => !(1 << x.physical(7)),
    };
    let _ = code;
    x
}

fn memory(r: &mut Random, code: Code) -> [u8; 108] {
    let mut mem: [u8; 108] = std::array::from_fn(|_| r.next() as u8);
    let name = format!("{code:?}");
    if name.ends_with("m32fp") {
        mem[..4].copy_from_slice(&r.f32().to_le_bytes());
    } else if name.ends_with("m64fp") {
        mem[..8].copy_from_slice(&r.f64().to_le_bytes());
    } else if name.ends_with("m80fp") {
        let (se, sig) = r.f80();
        mem[..8].copy_from_slice(&sig.to_le_bytes());
        mem[8..10].copy_from_slice(&se.to_le_bytes());
    } else if name.ends_with("int") {
        let v = (r.next() as i64) >> r.below(64);
        mem[..8].copy_from_slice(&v.to_le_bytes());
    } else if name.contains("bcd") && !r.one_in(8) {
        for byte in &mut mem[..9] {
            *byte = (r.below(10) | r.below(10) << 4) as u8;
        }
    }
    mem
}

fn show(x: &X87) -> String {
    let st: Vec<_> = (0..8)
        .map(|i| {
            format!(
                "{:04x}.{:016x}{}",
                x.st(i).se,
                x.st(i).sig,
                if x.is_empty(i) { "e" } else { "" }
            )
        })
        .collect();
    format!(
        "cw={:04x} sw={:04x} top={} tw={:02x} [{}]",
        x.cw,
        x.sw,
        x.top(),
        x.tw,
        st.join(" ")
    )
}

fn all_codes() -> Vec<Code> {
    use iced_x86::CpuidFeature as F;
    Code::values()
        .filter(|code| {
            let features = code.cpuid_features();
            features
                .iter()
                .any(|f| matches!(f, F::FPU | F::FPU387 | F::FPU287))
                && !matches!(code, Code::Frstpm | Code::Fstdw_AX | Code::Fstsg_AX)
        })
        .collect()
}

fn transcendental(code: Code) -> bool {
    matches!(
        code,
        Code::F2xm1
            | Code::Fyl2x
            | Code::Fyl2xp1
            | Code::Fpatan
            | Code::Fptan
            | Code::Fsin
            | Code::Fcos
            | Code::Fsincos
    )
}

fn compare(code: Code, count: u64) -> Differences {
    let mut r = Random::new(code as u64);
    let mut differences = Differences::default();
    let info = code.op_code();
    let stubs: Vec<Stub> =
        if (0..info.op_count()).any(|i| info.op_kind(i) == OpCodeOperandKind::sti_opcode) {
            (0..8).map(|i| stub(code, i)).collect()
        } else {
            vec![stub(code, 0)]
        };
    for _ in 0..count {
        let before = state(&mut r, code);
        let sti = r.below(stubs.len() as u64) as usize;
        let mem = memory(&mut r, code);
        let eflags = r.next() & STATUS_FLAGS;
        let mut frame = frame(&before);
        frame.flags |= eflags;
        frame.mem[..108].copy_from_slice(&mem);
        stubs[sti].call(&mut frame);
        let mut ours = before;
        let mut io = Io {
            sti,
            mem,
            eflags: eflags as u32,
            ..Io::default()
        };
        assert_eq!(execute(code, &mut ours, &mut io), Ok(()), "{code:?}");
        let mut host = result(&frame, &ours);
        // FCOMI clears C1 on Intel's CPUs (SDM 2, "FPU Flags Affected"); AMD's leave it.
        if format!("{code:?}").contains("comi") {
            host.sw &= !sw::C1;
        }
        let mut mem_ours = mem;
        mem_ours[..io.written].copy_from_slice(&io.mem[..io.written]);
        let mut mem_host = [0; 108];
        mem_host.copy_from_slice(&frame.mem[..108]);
        let flags_ours = io.flags_out.map_or(eflags, u64::from) & STATUS_FLAGS;
        hide_pointers(code, &mut mem_ours);
        hide_pointers(code, &mut mem_host);
        let same_memory = mem_ours == mem_host;
        let same = ours == host
            && same_memory
            && flags_ours == frame.flags & STATUS_FLAGS
            && io.ax.is_none_or(|ax| u64::from(ax) == frame.ax & 0xFFFF);
        if !same {
            differences.add(|| {
                format!(
                    "sti={sti} mem={:02x?}\n      in   {}\n      host {} mem={:02x?} fl={:x}\n      ours {} mem={:02x?} fl={:x}",
                    &mem[..10],
                    show(&before),
                    show(&host),
                    &mem_host[..10],
                    frame.flags & STATUS_FLAGS,
                    show(&ours),
                    &mem_ours[..10],
                    flags_ours,
                )
            });
        }
    }
    differences
}

/// Clears an image's pointers, which the library leaves to its caller.
fn hide_pointers(code: Code, mem: &mut [u8; 108]) {
    match code {
        Code::Fnstenv_m28byte
        | Code::Fstenv_m28byte
        | Code::Fnsave_m108byte
        | Code::Fsave_m108byte => {
            mem[12..26].fill(0);
        }
        Code::Fnstenv_m14byte
        | Code::Fstenv_m14byte
        | Code::Fnsave_m94byte
        | Code::Fsave_m94byte => {
            mem[6..14].fill(0);
        }
        _ => {}
    }
}

#[test]
fn exact_instructions() {
    let only = std::env::var("DOPPEL_TEST_ONLY").ok();
    let all = all_codes()
        .into_iter()
        .filter(|&code| !transcendental(code))
        .filter(|code| {
            only.as_ref()
                .is_none_or(|only| format!("{code:?}").starts_with(only.as_str()))
        })
        .map(|code| (format!("{code:?}"), compare(code, rounds(20_000))))
        .collect();
    Differences::report(all);
}

/// Distance in units of the last place between values of one sign; large where they aren't close numbers.
fn ulps(a: portable::float::F80, b: portable::float::F80) -> u64 {
    if a == b {
        return 0;
    }
    if a.sign() != b.sign() {
        return u64::MAX;
    }
    let line = |v: portable::float::F80| {
        u128::from(v.se & 0x7FFF) << 63 | u128::from(v.sig & u64::MAX >> 1)
    };
    line(a).abs_diff(line(b)).try_into().unwrap_or(u64::MAX)
}

/// Compares within one unit in the last place; C1 (the rounding's direction) isn't compared.
fn compare_transcendental(code: Code, count: u64) -> Differences {
    let mut r = Random::new(code as u64);
    let mut differences = Differences::default();
    let stub = stub(code, 0);
    let mut distances = [0u64; 3];
    for _ in 0..count {
        let mut before = state(&mut r, code);
        if r.one_in(2) && matches!(code, Code::F2xm1 | Code::Fyl2xp1) {
            // The SDM defines these near zero only.
            let n = before.physical(0);
            let limit = if code == Code::F2xm1 { 0x3FFE } else { 0x3FFC };
            let exponent = before.regs[n].se & 0x7FFF;
            if exponent != 0x7FFF && exponent > limit {
                before.regs[n].se = before.regs[n].se & 0x8000 | (limit - (exponent & 63));
            }
        }
        let mut frame = frame(&before);
        stub.call(&mut frame);
        let mut ours = before;
        execute(code, &mut ours, &mut Io::default()).unwrap();
        let host = result(&frame, &ours);
        let distance = (0..8)
            .map(|i| ulps(host.regs[i], ours.regs[i]))
            .max()
            .unwrap_or(0);
        distances[distance.min(2) as usize] += 1;
        let same = distance <= 1
            && (ours.sw | sw::C1) == (host.sw | sw::C1)
            && ours.cw == host.cw
            && ours.tw == host.tw;
        if !same {
            differences.add(|| {
                format!(
                    "sti=0 mem=[]\n      in   {}\n      host {} mem=[] fl=0\n      ours {} mem=[] fl=0",
                    show(&before),
                    show(&host),
                    show(&ours),
                )
            });
        }
    }
    eprintln!(
        "{code:?}: {} equal, {} one unit off, {} further",
        distances[0], distances[1], distances[2]
    );
    differences
}

#[test]
fn transcendental_instructions() {
    let all = all_codes()
        .into_iter()
        .filter(|&code| transcendental(code))
        .map(|code| {
            (
                format!("{code:?}"),
                compare_transcendental(code, rounds(50_000)),
            )
        })
        .collect();
    Differences::report(all);
}

#[test]
fn mmx_registers_alias_the_stack() {
    let mut r = Random::new(1);
    let mut differences = Differences::default();
    let assemble = |body: fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        let mut a = CodeAssembler::new(64).unwrap();
        body(&mut a).unwrap();
        let code = a.assemble(0).unwrap();
        stub_of(|bytes| bytes.extend(code))
    };
    let write = assemble(|a| a.movq(mm3, qword_ptr(rdi + MEM)));
    let read = assemble(|a| a.movq(rax, mm3));
    let empty = assemble(CodeAssembler::emms);
    for _ in 0..rounds(10_000) {
        let before = state(&mut r, Code::Fnop);
        let value = r.next();
        for (i, stub) in [&write, &read, &empty].into_iter().enumerate() {
            let mut frame = frame(&before);
            frame.mem[..8].copy_from_slice(&value.to_le_bytes());
            stub.call(&mut frame);
            let mut ours = before;
            let mut mm = None;
            match i {
                0 => {
                    ours.enter_mmx();
                    ours.set_mm(3, value);
                }
                1 => {
                    ours.enter_mmx();
                    mm = Some(ours.mm(3));
                }
                _ => ours.emms(),
            }
            let host = result(&frame, &ours);
            if host != ours || mm.is_some_and(|mm| mm != frame.ax) {
                differences.add(|| {
                    format!(
                        "{i}: in {} host {} ours {}",
                        show(&before),
                        show(&host),
                        show(&ours)
                    )
                });
            }
        }
    }
    Differences::report(vec![("MMX aliasing".into(), differences)]);
}

#[test]
fn fxsave_image() {
    let mut r = Random::new(2);
    let mut differences = Differences::default();
    let code = {
        let mut a = CodeAssembler::new(64).unwrap();
        a.fxsave64(ptr(rdi + AREA)).unwrap();
        a.assemble(0).unwrap()
    };
    let save = stub_of(|bytes| bytes.extend(code));
    for _ in 0..rounds(10_000) {
        let before = state(&mut r, Code::Fnop);
        let mut frame = frame(&before);
        save.call(&mut frame);
        let mut host: [u8; 160] = frame.area.0[..160].try_into().unwrap();
        // The pointers, MXCSR and its mask.
        host[6..32].fill(0);
        let mut ours = [0; 160];
        before.fxsave(true, &mut ours);
        ours[6..32].fill(0);
        let mut back = X87::default();
        back.fxrstor(true, &host);
        if host != ours || back != before {
            differences.add(|| format!("in {} host {host:02x?} ours {ours:02x?}", show(&before)));
        }
    }
    Differences::report(vec![("FXSAVE".into(), differences)]);
}
