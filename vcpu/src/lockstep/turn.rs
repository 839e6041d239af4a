//! A turn of one vCPU: the leader runs it and notes what comes from outside; whoever runs it again is fed the same at
//! the same places.

use frontend_x86::Features;
use system::{Boundary, Engine, Exit, Vcpu, event};
use x86::Gpr;

use super::log::{Event, Log, Place};
use super::report::Undefined;
use super::tap::Tap;

/// So many instructions before a limit an engine is asked for one after the other, as its blocks would overshoot: an
/// engine that has a way of its own for single ones is checked in that, too.
const SINGLES: u64 = 64;
/// Calls of an engine in a row that complete nothing: parts of repeated string instructions.
const IDLE: u32 = 1 << 22;
/// Events that are edges.
const EDGES: u32 = event::NMI | event::INIT | event::SIPI;

/// A turn that was taken.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// The vCPU.
    pub cpu: usize,
    /// [`Vcpu::tsc_base`] during the turn.
    pub tsc_base: u64,
    /// Instructions completed before it.
    pub start: u64,
    /// Instructions completed after it.
    pub end: u64,
    /// Exceptions and interrupts delivered until its end.
    pub delivered: u64,
    /// The first event of the log that belongs to a later turn.
    pub log_end: usize,
}

/// A vCPU that runs, with its engine and the number of exceptions and interrupts delivered to it.
pub struct Runner<'a> {
    pub v: &'a mut Vcpu,
    pub engine: &'a mut dyn Engine,
    pub delivered: &'a mut u64,
    /// Follows what becomes of undefined flags, as long as instructions run one by one.
    pub watch: Option<(&'a Features, &'a mut Undefined)>,
}

impl Runner<'_> {
    fn place(&self) -> Place {
        Place {
            retired: self.v.retired,
            delivered: *self.delivered,
            rip: self.v.st.rip,
            rcx: self.v.st.gpr[Gpr::Rcx as usize],
        }
    }

    /// Runs instructions, at most `left`; an exception is delivered.
    fn advance(&mut self, left: u64) {
        // Who is watched does at least so many one by one.
        let early = if self.watch.is_some() { SINGLES } else { 0 };
        let limit = if left <= SINGLES + early {
            1
        } else {
            left - early
        };
        let retired = self.v.retired;
        let after = match &self.watch {
            Some((features, undefined)) if limit == 1 => undefined.after(self.v, features),
            _ => Undefined::default(),
        };
        if let Err(e) = self.engine.advance(self.v, limit) {
            *self.delivered += 1;
            // What can't be delivered is a shutdown, which the boundary tells.
            let _ = self.v.raise(e);
        }
        if self.v.retired != retired
            && let Some((_, undefined)) = &mut self.watch
        {
            **undefined = after;
        }
    }

    /// Takes the leader's turn: `budget` instructions, or fewer if it sleeps, is stopped or the log is full before.
    pub fn lead(&mut self, log: &Log, budget: u64) -> Exit {
        let end = self.v.retired.saturating_add(budget);
        loop {
            let (place, mark) = (self.place(), log.len());
            let before = self.v.events.pending();
            let next = self.v.boundary();
            let mut bits = before & !self.v.events.pending() & EDGES;
            if log.acknowledged(mark) {
                bits |= event::INTR;
            }
            if bits != 0 {
                let taken = Event::Taken {
                    cpu: self.v.index,
                    place,
                    bits,
                    sipi: self.v.events.sipi_vector(),
                };
                log.insert(mark, taken);
            }
            match next {
                Boundary::Run => {}
                Boundary::Delivered(_) => {
                    *self.delivered += 1;
                    continue;
                }
                Boundary::Halted => return Exit::Halted,
                Boundary::WaitForSipi => return Exit::WaitForSipi,
                Boundary::Shutdown => return Exit::Shutdown,
                Boundary::Stop => return Exit::Stop,
            }
            let left = end.saturating_sub(self.v.retired);
            if left == 0 || log.is_full() {
                return Exit::Budget;
            }
            self.advance(left);
        }
    }

    /// Takes a turn again, to its end or until `limit` instructions are completed since reset. The error says what
    /// went otherwise than the first time.
    pub fn replay(&mut self, tap: &Tap, turn: &Turn, limit: u64) -> Result<(), String> {
        let limit = limit.min(turn.end);
        tap.begin(turn.log_end);
        let mut idle = 0;
        loop {
            if let Some(text) = tap.wrong() {
                return Err(text);
            }
            let here = self.place();
            let event = match tap.peek() {
                Some(Event::Taken {
                    cpu,
                    place,
                    bits,
                    sipi,
                }) if cpu == self.v.index => Some((place, bits, sipi)),
                _ => None,
            };
            if limit < turn.end && here.retired >= limit {
                return Ok(());
            }
            if let Some((place, bits, sipi)) = event
                && place == here
            {
                tap.pass();
                self.take(bits, sipi);
                continue;
            }
            let over = here.retired == turn.end && here.delivered == turn.delivered;
            if over && tap.cursor() == turn.log_end {
                return Ok(());
            }
            let late = event.is_some_and(|(place, ..)| place.retired < here.retired);
            if late || here.delivered > turn.delivered {
                return Err(format!(
                    "{here:x?} is not on the way to {turn:x?}, {event:x?}"
                ));
            }
            match self.v.boundary() {
                Boundary::Run => {}
                Boundary::Delivered(_) => {
                    *self.delivered += 1;
                    continue;
                }
                other => {
                    return Err(tap.wrong().unwrap_or(format!(
                        "{other:?} at {here:x?}, before the end of {turn:x?}"
                    )));
                }
            }
            let goal = event.map_or(limit, |(place, ..)| place.retired.min(limit));
            // With none left, an exception or a part of a repeated instruction has still to come.
            let left = goal.saturating_sub(here.retired);
            let bound = here.retired + left;
            self.advance(left.max(1));
            idle = if self.v.retired == here.retired {
                idle + 1
            } else {
                0
            };
            if self.v.retired > bound || idle > IDLE {
                return Err(tap.wrong().unwrap_or(format!(
                    "an instruction was completed at {here:x?}, where something else came first: {event:x?}"
                )));
            }
        }
    }

    /// Has the vCPU take events from outside.
    fn take(&mut self, bits: u32, sipi: u8) {
        if bits & event::SIPI != 0 {
            self.v.events.raise_sipi(sipi);
        }
        self.v.events.raise(bits);
        if let Boundary::Delivered(_) = self.v.boundary() {
            *self.delivered += 1;
        }
        self.v.events.lower(bits);
    }
}
