//! EVEX forms: kernels as elsewhere, with a broadcast before them, and behind them a mask that says which elements count.
//!
//! ```text
//! memory element --spread--> operands --neutral where masked out--> kernel --merge or zero by mask--> dst or k
//! ```
//! Most kernels are those of the VEX form of the same name (`derived`), which work on any number of lanes. Elements that
//! the mask leaves out raise nothing: a float kernel is shown ones there.

mod float;
mod integer;
mod mask;
mod moves;

use std::collections::HashMap;
use std::sync::LazyLock;

use iced_x86::{Code, EncodingKind, OpCodeOperandKind as K};

use super::lanes::Lane;
use super::vex::{name, plain};
use super::{Fault, Form, Kernel, Row, VecOperands, Vector, run};

pub(super) use mask::rows as mask_rows;

/// Rounding that an EVEX prefix asks for; exceptions are suppressed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Static {
    /// In this direction, as in MXCSR's RC field.
    Direction(u8),
    /// In MXCSR's direction.
    Suppress,
}

/// What an EVEX prefix adds to an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evex {
    /// The opmask's value.
    pub mask: u64,
    /// There is one.
    pub masked: bool,
    /// Elements that it leaves out become zero; else they stay.
    pub zeroing: bool,
    /// Rounding, and whether exceptions are suppressed.
    pub rounding: Option<Static>,
    /// The memory operand is one element, for all places.
    pub broadcast: bool,
}

/// What an instruction writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Result {
    Vector,
    /// A mask: the sign bits of the kernel's lanes.
    Mask,
    /// A general register, or flags.
    Other,
}

/// A kernel with how its operands are arranged.
struct Spec {
    kernel: Kernel,
    form: Form,
    /// Bytes written, of how many that the vectors have, and whether the rest becomes zero: where not all is written.
    part: Option<(usize, bool)>,
}

impl Spec {
    fn new(form: Form, kernel: Kernel) -> Option<Self> {
        Some(Self {
            kernel,
            form,
            part: None,
        })
    }
}

/// How to run one instruction.
#[derive(Clone, Copy)]
struct EvexRow {
    row: Row,
    form: Form,
    result: Result,
    /// Bytes of the elements that mask bits stand for, in the destination.
    lane: usize,
    /// How many there are.
    count: usize,
    /// Bytes of a source's elements, where exceptions depend on them.
    source: Option<usize>,
    /// The place of the operand that may be in memory, and bytes of what is broadcast.
    memory: (usize, usize),
    /// What stays is the first source's, not the destination's.
    blends: bool,
    /// The result is dense: as many elements as the mask has bits.
    dense: bool,
}

/// Bytes of the widest vector operand.
fn length(kinds: &[K]) -> usize {
    let any = |list: [K; 4]| kinds.iter().any(|kind| list.contains(kind));
    if any([K::zmm_reg, K::zmm_vvvv, K::zmm_or_mem, K::zmm_rm]) {
        64
    } else if any([K::ymm_reg, K::ymm_vvvv, K::ymm_or_mem, K::ymm_rm]) {
        32
    } else {
        16
    }
}

/// Bytes of the destination's elements, by the end of the name.
fn lane_of(name: &str) -> usize {
    if let Some(rest) = name
        .strip_prefix("vpunpckl")
        .or_else(|| name.strip_prefix("vpunpckh"))
    {
        return match rest {
            "bw" => 1,
            "wd" => 2,
            "dq" => 4,
            _ => 8,
        };
    }
    let ends = |list: &[&str]| list.iter().any(|end| name.ends_with(end));
    // Integers, whose names may end as those of floating-point operations do.
    let whole = name.starts_with("vp") && !name.starts_with("vperm");
    if let Some(to) = name.strip_suffix("2m") {
        return lane_of(to);
    }
    if !whole && ends(&["ps", "ss", "2dq", "2udq", "shdup", "sldup"])
        || ends(&["busds", "wssds"])
        || name.contains("32x")
    {
        4
    } else if !whole && ends(&["pd", "sd", "2qq", "2uqq", "ddup"]) || name.contains("64x") {
        8
    } else if ends(&["2ph", "u16"]) {
        2
    } else if ends(&["u32", "a32"]) {
        4
    } else if ends(&["u64", "a64"]) {
        8
    } else if ends(&["u8", "lignr"]) {
        1
    } else {
        match name.as_bytes().last() {
            Some(b'b') => 1,
            Some(b'w') => 2,
            Some(b'd') => 4,
            _ => 8,
        }
    }
}

/// Bytes of a conversion's source elements; `None` for what is no conversion.
fn converted(name: &str) -> Option<usize> {
    let rest = name
        .strip_prefix("vcvtt")
        .or_else(|| name.strip_prefix("vcvt"))?;
    Some(match rest.split('2').next()? {
        "ps" | "ss" | "dq" | "udq" => 4,
        "ph" => 2,
        _ => 8,
    })
}

/// Rows of VEX instructions by name and operands.
fn derived(rows: &[Option<Row>]) -> HashMap<(String, Vec<K>), (Row, Form)> {
    Code::values()
        .filter(|code| code.op_code().encoding() == EncodingKind::VEX)
        .filter_map(|code| {
            let row = rows[code as usize]?;
            Some(((name(code), plain(code)), (row, row.form)))
        })
        .collect()
}

/// The VEX instruction that an EVEX one with elements of a size is.
fn without_size(name: &str) -> &str {
    match name {
        "vpandd" | "vpandq" => "vpand",
        "vpandnd" | "vpandnq" => "vpandn",
        "vpord" | "vporq" => "vpor",
        "vpxord" | "vpxorq" => "vpxor",
        _ => name,
    }
}

static TABLE: LazyLock<Vec<Option<EvexRow>>> = LazyLock::new(|| {
    let known = derived(&super::TABLE);
    let mut table = vec![None; Code::values().count()];
    for code in Code::values().filter(|c| c.op_code().encoding() == EncodingKind::EVEX) {
        table[code as usize] = row(code, &known);
    }
    table
});

fn row(code: Code, known: &HashMap<(String, Vec<K>), (Row, Form)>) -> Option<EvexRow> {
    let info = code.op_code();
    let kinds = info.op_kinds();
    let name = name(code);
    let len = length(kinds);
    let spec = integer::kernel(&name, kinds)
        .or_else(|| moves::kernel(&name, code, len))
        .or_else(|| float::kernel(&name, kinds))
        .or_else(|| {
            let &(row, form) = known.get(&(without_size(&name).to_owned(), plain(code)))?;
            let active = usize::from(row.active) * len / usize::from(row.len);
            Some(Spec {
                kernel: row.kernel,
                form,
                part: (active < len).then_some((active, row.zero_rest)),
            })
        })?;
    let memory_size = info.memory_size();
    let scalar = ["ss", "sd"].iter().any(|end| name.ends_with(end))
        && !name.starts_with("vbroadcast")
        && info.memory_size().element_count() <= 1;
    let lane = lane_of(&name);
    let result = match kinds.first()? {
        K::k_reg => Result::Mask,
        K::r32_reg | K::r64_reg | K::r32_or_mem | K::r64_or_mem => Result::Other,
        _ if spec.form == Form::VexReads => Result::Other,
        _ => Result::Vector,
    };
    let stores = matches!(kinds.first()?, K::xmm_or_mem | K::ymm_or_mem);
    let (active, zero_rest) = match spec.part {
        Some(part) => part,
        None if scalar => (lane, false),
        // Narrower than its source.
        None if stores => (memory_size.size().min(len), true),
        None => (len, false),
    };
    let float = matches!(
        spec.kernel,
        Kernel::Float(_) | Kernel::Staged(_) | Kernel::SpecialFloat(_)
    );
    let place = kinds
        .iter()
        .position(|k| matches!(k, K::xmm_or_mem | K::ymm_or_mem | K::zmm_or_mem));
    Some(EvexRow {
        row: Row {
            len: len as u8,
            active: active as u8,
            zero_rest,
            form: Form::Legacy,
            kernel: spec.kernel,
        },
        form: spec.form,
        result,
        lane,
        count: if scalar { 1 } else { active / lane },
        source: float.then(|| converted(&name).unwrap_or(lane)),
        memory: (
            place.unwrap_or(0),
            info.broadcast_memory_size().element_size(),
        ),
        blends: name.starts_with("vpblendm") || name.starts_with("vblendm"),
        dense: name.starts_with("vpcompress") || name.starts_with("vcompress"),
    })
}

/// Whether [`execute_evex`] knows the instruction.
pub fn covers_evex(code: Code) -> bool {
    TABLE[code as usize].is_some()
}

/// Copies the first `bytes` bytes all over a vector.
fn spread(vector: &mut Vector, bytes: usize) {
    let element = *vector;
    for chunk in vector.chunks_exact_mut(bytes.max(1)) {
        chunk.copy_from_slice(&element[..chunk.len()]);
    }
}

/// One, in a lane of floating-point numbers.
fn put_one(vector: &mut Vector, i: usize, bytes: usize) {
    match bytes {
        2 => 0x3C00_u16.put(vector, i),
        4 => 1.0f32.to_bits().put(vector, i),
        _ => 1.0f64.to_bits().put(vector, i),
    }
}

fn low(bits: usize) -> u64 {
    if bits < 64 { (1 << bits) - 1 } else { u64::MAX }
}

/// Runs one EVEX instruction. MXCSR's sticky flags are updated in any case.
///
/// # Errors
/// As [`super::execute`]'s.
pub fn execute_evex(
    code: Code,
    prefix: Evex,
    ops: &mut VecOperands,
    mxcsr: &mut u32,
) -> std::result::Result<(), Fault> {
    let Some(row) = &TABLE[code as usize] else {
        return Err(Fault::Unknown);
    };
    let mut new = ops.clone();
    if prefix.broadcast {
        let (place, bytes) = row.memory;
        match place {
            1 => spread(&mut new.src1, bytes),
            2 => spread(&mut new.src2, bytes),
            _ => spread(&mut new.src3, bytes),
        }
    }
    let first = new.src1;
    if row.form == Form::VexOwn {
        (new.dst, new.src1, new.xmm0) = (new.src1, new.src2, new.src3);
    }
    let mask = if prefix.masked { prefix.mask } else { u64::MAX } & low(row.count);
    new.mask = mask;
    if let Some(bytes) = row.source.filter(|_| prefix.masked) {
        for i in (0..row.count).filter(|i| mask >> i & 1 == 0) {
            put_one(&mut new.dst, i, row.lane);
            for vector in [&mut new.src1, &mut new.src2] {
                put_one(vector, i, bytes);
            }
        }
    }
    /// All exceptions masked.
    const MASKS: u32 = 0x1F80;
    let mut control = match prefix.rounding {
        None => *mxcsr,
        Some(Static::Suppress) => *mxcsr | MASKS,
        Some(Static::Direction(rc)) => *mxcsr & !0x6000 | u32::from(rc & 3) << 13 | MASKS,
    };
    let done = run(&row.row, &mut new, &mut control);
    if prefix.rounding.is_none() {
        *mxcsr = control;
    }
    done?;
    match row.result {
        Result::Mask => {
            let sign = |i: usize| new.dst[(i + 1) * row.lane - 1] >> 7;
            let bits = (0..row.count).fold(0, |bits, i| bits | u64::from(sign(i)) << i);
            ops.k_dst = bits & mask;
        }
        Result::Other => (ops.gpr_out, ops.flags_out) = (new.gpr_out, new.flags_out),
        Result::Vector => {
            let kept = if row.blends { first } else { ops.dst };
            let mask = if row.dense {
                low(mask.count_ones() as usize)
            } else {
                mask
            };
            if prefix.masked || row.dense {
                for i in (0..row.count).filter(|i| mask >> i & 1 == 0) {
                    let at = i * row.lane..(i + 1) * row.lane;
                    if prefix.zeroing {
                        new.dst[at].fill(0);
                    } else {
                        new.dst[at.clone()].copy_from_slice(&kept[at]);
                    }
                }
            }
            let beyond = if row.row.zero_rest {
                row.row.active
            } else {
                row.row.len
            };
            new.dst[usize::from(beyond)..].fill(0);
            ops.dst = new.dst;
        }
    }
    Ok(())
}
