//! Runs cases on both sides, a batch ahead on the host, compares, counts, and boils differences down.

use std::collections::BTreeMap;

use frontend_x86::Features;
use iced_x86::{Code, Instruction};

use crate::case::{Case, Change, Ending, NO_FAULT, Outcome};
use crate::codes::{self, Vendor};
use crate::compare::{Compare, Verdict, is_breakpoint, landed};
use crate::doppel::{Doppel, Kind, Way};
use crate::generate::{Encoding, Generator};
use crate::known::KNOWN;
use crate::native::Native;

/// How often an instruction was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// States in 64-, 32- and 16-bit code.
    pub states: [u64; 3],
    /// Those that ended in an exception.
    pub faults: u64,
    /// Those that differed.
    pub different: u64,
    /// Those that the child did not survive.
    pub lost: u64,
}

impl Count {
    /// States in all.
    pub fn total(&self) -> u64 {
        self.states.iter().sum()
    }

    /// Adds another count.
    pub fn add(&mut self, other: &Self) {
        for (a, b) in self.states.iter_mut().zip(other.states) {
            *a += b;
        }
        self.faults += other.faults;
        self.different += other.different;
        self.lost += other.lost;
    }
}

/// Counts by the name of the decoder's code; random bytes that decode to nothing are "undefined".
pub type Counts = BTreeMap<String, Count>;

/// A difference, as short as it could be made.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The instruction in words.
    pub name: String,
    /// The case's text form.
    pub case: String,
    /// The way it was run.
    pub way: Way,
    /// What differs, host's value first.
    pub text: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} [{}]\n    {}\n   {}",
            self.way, self.name, self.case, self.text
        )
    }
}

/// One way to make a case simpler.
type Simpler = Box<dyn Fn(&mut Case)>;

/// Differences kept for each instruction.
const KEPT: u64 = 3;

/// Host and engine side by side.
pub struct Oracle {
    native: Native,
    doppel: Doppel,
    generator: Generator,
    compare: Compare,
    vendor: Vendor,
    features: Features,
    /// How often each instruction was compared.
    pub counts: Counts,
    names: Vec<String>,
    by_code: Vec<Count>,
    /// Differences found.
    pub failures: Vec<Failure>,
    /// How often each row of the known differences was needed.
    pub known: Vec<u64>,
    serial: u64,
}

/// The instructions of a case.
fn instructions(case: &Case) -> Vec<Instruction> {
    let mut list = Vec::new();
    let mut at = 0;
    while at < usize::from(case.len) {
        let insn = codes::decode(&case.bytes()[at..], case.bits, case.ip + at as u64);
        // What follows an undefined instruction isn't run.
        at = if insn.is_invalid() {
            usize::from(case.len)
        } else {
            at + insn.len()
        };
        list.push(insn);
    }
    list
}

impl Oracle {
    /// Starts the child and the vCPU. An error says why this host can't be asked.
    pub fn start(seed: u64) -> Result<Self, String> {
        let native = Native::start()?;
        let features = Features::new(&crate::doppel::model().features_iced());
        let vendor = Vendor::host();
        let mut names: Vec<String> = Code::values().map(|c| format!("{c:?}")).collect();
        names.push("sequences".into());
        Ok(Self {
            generator: Generator::new(seed, features, vendor, native.abilities()),
            native,
            doppel: Doppel::new(),
            compare: Compare::new(vendor),
            vendor,
            features,
            counts: Counts::new(),
            by_code: vec![Count::default(); names.len()],
            names,
            failures: Vec::new(),
            known: vec![0; KNOWN.len()],
            serial: 0,
        })
    }

    /// Has another engine run the cases.
    #[must_use]
    pub fn by(mut self, kind: Kind) -> Self {
        self.doppel = Doppel::with(kind);
        self
    }

    /// What the translator has done, if it is one that runs the cases.
    pub fn translated(&self) -> Option<backend_jit::Counts> {
        self.doppel.counts()
    }

    /// The code widths that the host can be asked about.
    pub fn widths(&self) -> Vec<u8> {
        let abilities = self.native.abilities();
        let mut widths = vec![64];
        if abilities.compat {
            widths.push(32);
        }
        if abilities.compat && abilities.ldt {
            widths.push(16);
        }
        widths
    }

    /// Every code that is compared in some width.
    pub fn codes(&self) -> Vec<Code> {
        Code::values()
            .filter(|c| self.features.allow(*c) && codes::excluded(*c).is_none())
            .collect()
    }

    /// Times that the child died.
    pub fn deaths(&self) -> u64 {
        self.native.deaths
    }

    /// Compares `states` states of each code in each width, from a seed of their own, and as many of random bytes.
    pub fn sweep(
        &mut self,
        list: &[Code],
        widths: &[u8],
        states: u64,
        seed: u64,
    ) -> Result<(), String> {
        for &code in list {
            for &bits in widths {
                if code.op_code().is_available_in_mode(bits.into()) {
                    self.some(Some(code), bits, states, seed)?;
                }
            }
        }
        self.flush()
    }

    /// Compares sequences of instructions.
    pub fn sequences(&mut self, widths: &[u8], states: u64, seed: u64) -> Result<(), String> {
        for &bits in widths.iter().filter(|bits| **bits > 16) {
            self.generator.reseed(seed ^ u64::from(bits) << 40 ^ 0x5e9);
            for _ in 0..states.div_ceil(4) {
                let Some(encoding) = self.generator.sequence(bits) else {
                    continue;
                };
                for _ in 0..4 {
                    let case = self.generator.sequence_case(&encoding);
                    self.push(&case)?;
                }
            }
        }
        self.flush()
    }

    /// Compares random bytes as code.
    pub fn noise(&mut self, widths: &[u8], states: u64, seed: u64) -> Result<(), String> {
        for &bits in widths {
            self.some(None, bits, states, seed)?;
        }
        self.flush()
    }

    fn some(&mut self, code: Option<Code>, bits: u8, states: u64, seed: u64) -> Result<(), String> {
        let salt = code.map_or(0xffff, |c| c as u64) << 8 | u64::from(bits);
        self.generator.reseed(seed ^ salt << 40);
        let mut made = 0;
        let mut misses = 0;
        while made < states && misses < 40 {
            let encoding = match code {
                Some(code) => self.generator.encoding(code, bits),
                None => self.generator.noise(bits),
            };
            let Some(encoding) = encoding else {
                misses += 1;
                continue;
            };
            misses = 0;
            // One encoding serves a few states: translating it costs more than running it.
            for _ in 0..4.min(states - made) {
                self.put(&encoding)?;
                made += 1;
            }
        }
        Ok(())
    }

    fn put(&mut self, encoding: &Encoding) -> Result<(), String> {
        let Some(case) = self.generator.case(encoding) else {
            return Ok(());
        };
        self.push(&case)
    }

    fn push(&mut self, case: &Case) -> Result<(), String> {
        let at = self.serial as usize % Native::BATCH;
        self.native.cases()[at] = *case;
        self.serial += 1;
        if at + 1 == Native::BATCH {
            let other = self.native.under_way();
            self.native.submit(Native::BATCH);
            if other {
                self.look()?;
            }
        }
        Ok(())
    }

    /// Finishes what has been begun.
    fn flush(&mut self) -> Result<(), String> {
        let left = self.serial as usize % Native::BATCH;
        if left > 0 {
            self.native.submit(left);
            self.serial += (Native::BATCH - left) as u64;
        }
        while self.native.under_way() {
            self.look()?;
        }
        for (name, count) in self.names.iter().zip(&mut self.by_code) {
            if *count != Count::default() {
                let name = if name == "INVALID" { "undefined" } else { name };
                self.counts.entry(name.into()).or_default().add(count);
                *count = Count::default();
            }
        }
        Ok(())
    }

    /// Looks at the oldest batch.
    fn look(&mut self) -> Result<(), String> {
        let mut found = Vec::new();
        let batch = self.native.collect()?;
        for n in 0..batch.len() {
            let (case, host) = batch.get(n);
            let way = if n % 2 == 0 { Way::Step } else { Way::Chained };
            let insn = codes::decode(case.bytes(), case.bits, case.ip);
            let whole = usize::from(case.len) == insn.len() || insn.is_invalid();
            // What isn't a code stands behind the codes.
            let count = &mut self.by_code[if whole {
                insn.code() as usize
            } else {
                self.names.len() - 1
            }];
            if host.out.ending != Ending::Done {
                count.lost += 1;
                found.push((*case, way, insn, " the child did not come back".into()));
                continue;
            }
            count.states[match case.bits {
                64 => 0,
                32 => 1,
                _ => 2,
            }] += 1;
            let text = if whole {
                judge(
                    &mut self.doppel,
                    &self.compare,
                    case,
                    &[insn],
                    host.out,
                    host.changes,
                    way,
                )
            } else {
                judge(
                    &mut self.doppel,
                    &self.compare,
                    case,
                    &instructions(case),
                    host.out,
                    host.changes,
                    way,
                )
            };
            count.faults += u64::from(host.out.vector != NO_FAULT);
            match text {
                Verdict::Same => {}
                Verdict::Known(n) => self.known[n] += 1,
                Verdict::Different(text) => {
                    count.different += 1;
                    if count.different <= KEPT {
                        found.push((*case, way, insn, text));
                    }
                }
            }
        }
        for (case, way, insn, text) in found {
            self.fail(&case, way, &insn, text);
        }
        Ok(())
    }

    fn fail(&mut self, case: &Case, way: Way, insn: &Instruction, text: String) {
        let insns = instructions(case);
        let single = insns.len() == 1;
        let code = if single {
            self.names[insn.code() as usize].clone()
        } else {
            "sequences".into()
        };
        let insn = insns
            .iter()
            .map(Instruction::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        let kept = self
            .failures
            .iter()
            .filter(|f| f.name.starts_with(&format!("{code} ")))
            .count() as u64;
        if kept < KEPT {
            self.failures.push(Failure {
                name: format!("{code} {insn}"),
                case: case.text(),
                way,
                text,
            });
        }
    }

    /// Makes the kept differences as short as possible and says what differs.
    pub fn explain(&mut self) -> Result<(), String> {
        let mut failures = std::mem::take(&mut self.failures);
        for failure in &mut failures {
            let case = Case::parse(&failure.case)?;
            match self.minimise(&case, failure.way)? {
                Some((case, text)) => (failure.case, failure.text) = (case.text(), text),
                None => failure.text += " (only among others: not by itself)",
            }
        }
        self.failures = failures;
        Ok(())
    }

    /// What differs in one case.
    pub fn check(&mut self, case: &Case, way: Way) -> Result<Option<String>, String> {
        let (host, changes) = self.native.run_one(case)?;
        if host.ending != Ending::Done {
            return Ok(Some(" the child did not come back".into()));
        }
        Ok(
            match judge(
                &mut self.doppel,
                &self.compare,
                case,
                &instructions(case),
                &host,
                &changes,
                way,
            ) {
                Verdict::Different(text) => Some(text),
                Verdict::Same | Verdict::Known(_) => None,
            },
        )
    }

    /// The outcomes of one case on both sides, in words.
    pub fn show(&mut self, case: &Case, way: Way) -> Result<String, String> {
        let (mut host, changes) = self.native.run_one(case)?;
        let (mut ours, our_changes) = self.doppel.run(case, way);
        let insns = instructions(case);
        let breakpoint = insns.len() == 1 && is_breakpoint(&insns[0]);
        landed(case, breakpoint, &mut host);
        landed(case, breakpoint, &mut ours);
        let mut text = String::new();
        let ours_text = describe(&ours, our_changes);
        text += &self.doppel.ir(case);
        for insn in &insns {
            text += &format!("{:x}: {insn} ({:?})\n", insn.ip(), insn.code());
        }
        Ok(text + &format!("host {}\nours {}", describe(&host, &changes), ours_text))
    }

    fn minimise(&mut self, case: &Case, way: Way) -> Result<Option<(Case, String)>, String> {
        let Some(mut text) = self.check(case, way)? else {
            return Ok(None);
        };
        if text.contains("come back") {
            return Ok(Some((*case, text)));
        }
        let plain = Case::new(case.bits, case.bytes());
        let mut best = *case;
        let mut steps: Vec<Simpler> = Vec::new();
        for n in 0..16 {
            steps.push(Box::new(move |c| c.gpr[n] = plain.gpr[n]));
            steps.push(Box::new(move |c| c.gpr[n] = 0));
            steps.push(Box::new(move |c| c.fx.xmm_mut(n).fill(0)));
            steps.push(Box::new(move |c| c.uppers[n].fill(0)));
            steps.push(Box::new(move |c| c.wide.uppers[n].fill(0)));
            steps.push(Box::new(move |c| c.wide.high[n].fill(0)));
        }
        for n in 0..8 {
            steps.push(Box::new(move |c| c.wide.k[n] = 0));
            steps.push(Box::new(move |c| c.fx.st_mut(n).fill(0)));
        }
        for n in 0..6 {
            steps.push(Box::new(move |c| c.seg[n] = plain.seg[n]));
        }
        for bit in [0, 2, 4, 6, 7, 10, 11, 21] {
            steps.push(Box::new(move |c| c.rflags &= !(1 << bit)));
        }
        steps.push(Box::new(|c| c.fs_base = 0));
        steps.push(Box::new(|c| c.gs_base = 0));
        steps.push(Box::new(|c| c.fx.set_mxcsr(0x1f80)));
        steps.push(Box::new(move |c| c.ip = plain.ip));
        steps.push(Box::new(|c| c.fx.set_fcw(0x37f)));
        steps.push(Box::new(|c| c.fx.set_fsw(0)));
        steps.push(Box::new(|c| c.fx.set_ftw(0)));
        steps.push(Box::new(|c| c.patches = 0));
        for n in 1..4 {
            steps.push(Box::new(move |c| c.patches = c.patches.min(n)));
        }
        for step in &steps {
            let mut next = best;
            step(&mut next);
            next.fx.summarise();
            if next == best || next.cs_changed(&best) {
                continue;
            }
            if let Some(t) = self.check(&next, way)? {
                if !t.contains("come back") {
                    (best, text) = (next, t);
                }
            }
        }
        Ok(Some((best, text)))
    }

    /// The host's vendor.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }
}

impl Case {
    /// IP means something else in another code segment.
    fn cs_changed(&self, other: &Self) -> bool {
        self.seg[1] != other.seg[1]
            || !crate::layout::CODE
                .iter()
                .any(|c| self.lin().wrapping_sub(*c) < 0x2000)
    }
}

fn judge(
    doppel: &mut Doppel,
    compare: &Compare,
    case: &Case,
    insns: &[Instruction],
    host: &Outcome,
    changes: &[Change],
    way: Way,
) -> Verdict {
    let way = if insns.len() > 1 { Way::Chained } else { way };
    let (mut ours, our_changes) = doppel.run(case, way);
    let mut host = *host;
    let breakpoint = insns.len() == 1 && is_breakpoint(&insns[0]);
    landed(case, breakpoint, &mut host);
    landed(case, breakpoint, &mut ours);
    compare.differences(case, insns, (&host, changes), (&ours, our_changes))
}

fn describe(out: &Outcome, changes: &[Change]) -> String {
    let mut text = format!("{:?} ", out.ending);
    if out.vector != NO_FAULT {
        text += &format!(
            "vector {} error {:x} cr2 {:x} ",
            out.vector, out.error, out.cr2
        );
    }
    text += &format!(
        "ip {:x} rflags {:x} seg {:x?}\n    gpr {:x?}\n",
        out.ip, out.rflags, out.seg, out.gpr
    );
    text += &format!(
        "    mxcsr {:x} fcw {:x} fsw {:x} ftw {:x} fs {:x} gs {:x}\n",
        out.fx.mxcsr(),
        out.fx.fcw(),
        out.fx.fsw(),
        out.fx.ftw(),
        out.fs_base,
        out.gs_base
    );
    for i in (0..8).filter(|i| out.fx.st(*i).iter().any(|b| *b != 0)) {
        text += &format!("    st{i} {:02x?}\n", out.fx.st(i));
    }
    for n in 0..16 {
        if out.fx.xmm(n).iter().chain(&out.uppers[n]).any(|b| *b != 0) {
            text += &format!("    ymm{n} {:02x?} {:02x?}\n", out.fx.xmm(n), out.uppers[n]);
        }
    }
    for c in changes.iter().take(16) {
        text += &format!("    m{:x}={:016x}\n", c.word * 8, c.value);
    }
    text
}
