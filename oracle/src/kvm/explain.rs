//! Differences with a reason: where KVM's emulator is wrong, with the manual's place that says so.

use iced_x86::{Instruction, Mnemonic as M};
use x86::vector;

use super::case::{Case, End, Outcome};
use super::compare::{Difference, decode};
use super::doppel::Answer;

/// What both made of a case.
pub struct Seen<'a> {
    /// The case.
    pub case: &'a Case,
    /// Doppel's answer.
    pub doppel: &'a Answer,
    /// KVM's.
    pub kvm: &'a Outcome,
    /// Where they differ.
    pub list: &'a [Difference],
}

/// A verdict on a difference.
pub enum Why {
    /// KVM does not have the instruction (outside level 0 it says #UD then).
    Skip(&'static str),
    /// The reason is known.
    Known(&'static str),
    /// A failure.
    Unknown,
}

impl Seen<'_> {
    fn exception(&self) -> Option<u8> {
        self.doppel.exceptions.first().map(|e| e.vector)
    }
}

type Rule = (fn(&Seen<'_>, &Instruction) -> bool, &'static str);

/// Instructions that KVM's emulator does not have.
const MISSING: &[M] = &[];

/// Known differences.
const RULES: &[Rule] = &[];

/// Looks for a reason.
pub fn explain(seen: &Seen<'_>) -> Why {
    let instruction = decode(seen.case);
    let _ = (vector::UD, seen.exception(), End::Done, seen.kvm, seen.list);
    if MISSING.contains(&instruction.mnemonic()) {
        return Why::Skip("the emulator lacks the instruction");
    }
    match RULES.iter().find(|(rule, _)| rule(seen, &instruction)) {
        Some((_, why)) => Why::Known(why),
        None => Why::Unknown,
    }
}
