//! `--icount`: an instruction is a nanosecond, vCPUs take turns on one thread, and two runs are the same.
//!
//! ```text
//! turn of vCPU 0 ─► clock += instructions ─► devices that are due ─► turn of vCPU 1 ─► ...
//!       all asleep: the clock jumps to the next deadline
//! ```
//! For devices the clock stands still during a turn; a deadline is taken at the first turn's end at or after it. The
//! TSC counts every instruction.

use std::time::{Duration, Instant};

use system::{Exit, event};

use crate::board::BoardConfig;
use crate::machine::{Machine, MachineError};
use crate::sink::ByteSink;
use crate::{MachineRequest, Nanos};

/// Instructions in a turn at most, so that no device is later than so many nanoseconds.
const TURN: u64 = 1 << 14;
/// What the RTC shows at power-on: 2026-01-01, 00:00 UTC.
const START_TIME: i64 = 1_767_225_600;
/// How long output may wait for a host that does not take it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries of that; and between two looks for something to do when no deadline is set.
const PAUSE: Duration = Duration::from_millis(1);

/// Output that waits for the host, so that its speed does not show in the guest.
struct Patient {
    to: Box<dyn ByteSink>,
    /// The host has taken nothing for too long.
    lost: bool,
}

impl ByteSink for Patient {
    fn put(&mut self, byte: u8) -> bool {
        let start = Instant::now();
        while !self.to.put(byte) {
            if self.lost || start.elapsed() > PATIENCE {
                self.lost = true;
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        self.lost = false;
        true
    }
}

/// Takes out of a board what differs from run to run.
pub fn repeatable(board: &mut BoardConfig) {
    board.start_time = START_TIME;
    for port in board.serial.iter_mut().flatten() {
        let nobody: Box<dyn ByteSink> = Box::new(crate::sink::NullSink);
        let to = std::mem::replace(&mut port.output, nobody);
        port.output = Box::new(Patient { to, lost: false });
    }
}

/// The instructions of a turn that begins at `now`.
fn length(deadline: Option<Nanos>, now: Nanos) -> u64 {
    deadline.map_or(TURN, |at| at.saturating_sub(now).clamp(1, TURN))
}

impl Machine {
    /// Gives all vCPUs turns until the machine requests something; returns that, and what a triple fault left behind.
    pub(crate) fn counted(&mut self) -> Result<(MachineRequest, Option<String>), MachineError> {
        for events in self.board.events() {
            events.lower(event::STOP);
        }
        let mut triple = None;
        let request = loop {
            if let Some(request) = self.board.requests().take() {
                break request;
            }
            let mut ran = false;
            for index in 0..self.cpus.len() {
                ran |= self.turn(index, &mut triple)?;
                if self.board.requests().peek().is_some() {
                    break;
                }
            }
            if !ran {
                self.idle();
            }
        };
        if let Some(lockstep) = &mut self.lockstep {
            lockstep.check(&mut self.cpus)?;
        }
        Ok((request, triple))
    }

    /// One vCPU's turn, and what devices do until its end. Says whether it did anything.
    fn turn(&mut self, index: usize, triple: &mut Option<String>) -> Result<bool, MachineError> {
        let clock = self.board.clock();
        let now = clock.now();
        let (budget, tsc) = (length(self.board.next_deadline(), now), clock.tsc_at(now));
        let before = self.cpus[index].vcpu.retired;
        let exit = match &mut self.lockstep {
            Some(lockstep) => lockstep.turn(&mut self.cpus, index, budget, tsc)?,
            None => vcpu::turn(&mut self.cpus[index], budget, tsc),
        };
        let vcpu = &self.cpus[index].vcpu;
        let done = vcpu.retired - before;
        self.board.advance(now + done);
        if exit == Exit::Shutdown {
            triple.get_or_insert_with(|| vcpu.dump());
            self.board.requests().request(MachineRequest::Reset);
        }
        Ok(done != 0 || exit == Exit::Budget)
    }

    /// Nobody runs: lets time pass until the next deadline.
    fn idle(&self) {
        let woken = self.cpus.iter().any(|cpu| {
            let v = &cpu.vcpu;
            v.events.pending() & v.wake_mask() != 0
        });
        if woken {
            return;
        }
        match self.board.next_deadline() {
            Some(at) => self.board.advance(at.max(self.board.clock().now())),
            None => {
                // Only the host can wake the guest now.
                self.board.events()[0].sleep(event::STOP, Some(PAUSE));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Patient, TURN, length};
    use crate::sink::ByteSink;

    #[test]
    fn turns_end_at_deadlines_and_are_never_empty() {
        assert_eq!(length(None, 5), TURN);
        assert_eq!(length(Some(0), 5), 1);
        assert_eq!(length(Some(5), 5), 1);
        assert_eq!(length(Some(105), 5), 100);
        assert_eq!(length(Some(u64::MAX), 5), TURN);
    }

    /// Takes every third try.
    struct Slow(u32, Vec<u8>);

    impl ByteSink for &mut Slow {
        fn put(&mut self, byte: u8) -> bool {
            self.0 += 1;
            if !self.0.is_multiple_of(3) {
                return false;
            }
            self.1.push(byte);
            true
        }
    }

    #[test]
    fn output_waits_for_a_slow_host() {
        let slow = Box::leak(Box::new(Slow(0, Vec::new())));
        let mut sink = Patient {
            to: Box::new(&mut *slow),
            lost: false,
        };
        assert!(b"abc".iter().all(|byte| sink.put(*byte)));
        assert!(!sink.lost);
    }
}
