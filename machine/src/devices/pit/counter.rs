//! One counter of the 8254 as a function of time: its count and output follow from when it was started.

/// A counter's registers. Times are in ticks of the PIT's own clock since power-on.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    // Volatile state
    /// 0..=5.
    mode: u8,
    bcd: bool,
    /// 1: low byte, 2: high byte, 3: low then high.
    access: u8,
    gate: bool,
    /// What counting starts from: 1..=65536 (10000 in BCD).
    reload: u32,
    /// The low byte of a count whose high byte hasn't come yet.
    low_byte: Option<u8>,
    /// The next read gives the high byte.
    read_high: bool,
    latched: Option<u16>,
    latched_status: Option<u8>,
    phase: Phase,
    /// Modes 2 and 3: a new count that takes over at this tick.
    next: Option<(u64, u32)>,
}

/// What the counting element does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Programmed, no count yet (or, modes 1 and 5, no trigger yet).
    Waiting,
    /// Counts down from `from` since tick `start`.
    Counting { start: u64, from: u32 },
    /// Stopped by its gate; `done` says that mode 0's or 4's terminal count was reached before.
    Stopped { count: u32, done: bool },
}

/// When a counter's output rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edges {
    None,
    /// Once, at this tick.
    Once(u64),
    /// First at this tick, then every so many.
    Every(u64, u32),
}

impl Counter {
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            bcd: false,
            access: 3,
            gate,
            reload: 0x1_0000,
            low_byte: None,
            read_high: false,
            latched: None,
            latched_status: None,
            phase: Phase::Waiting,
            next: None,
        }
    }

    /// How many values the counting element goes through.
    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// Brings a new count of modes 2 and 3 into force once its time has come.
    fn sync(&mut self, tick: u64) {
        if let Some((at, count)) = self.next {
            if tick >= at {
                self.next = None;
                self.reload = count;
                self.phase = Phase::Counting {
                    start: at,
                    from: count,
                };
            }
        }
    }

    /// The position inside the current period of modes 2 and 3.
    fn position(&self, tick: u64, start: u64) -> u64 {
        tick.saturating_sub(start) % u64::from(self.reload)
    }

    /// The counting element's value.
    fn count(&self, tick: u64) -> u32 {
        match self.phase {
            Phase::Waiting => self.reload,
            Phase::Stopped { count, .. } => count,
            Phase::Counting { start, from } => {
                let n = u64::from(self.reload);
                let value = match self.mode {
                    2 => n - self.position(tick, start),
                    3 => {
                        let (position, high) = (self.position(tick, start), n.div_ceil(2));
                        let into_half = if position < high {
                            position
                        } else {
                            position - high
                        };
                        (n & !1).saturating_sub(2 * into_half).max(1)
                    }
                    _ => {
                        let modulus = self.modulus();
                        let gone = tick.saturating_sub(start) % modulus;
                        (u64::from(from) + modulus - gone) % modulus
                    }
                };
                value as u32
            }
        }
    }

    /// The count as it is read: 16 bits, binary or four decimal digits.
    fn readable(&self, tick: u64) -> u16 {
        let value = self.count(tick);
        if !self.bcd {
            return value as u16;
        }
        let v = value % 10_000;
        ((v / 1000) << 12 | (v / 100 % 10) << 8 | (v / 10 % 10) << 4 | (v % 10)) as u16
    }

    /// The OUT pin.
    pub(super) fn out(&mut self, tick: u64) -> bool {
        self.sync(tick);
        match (self.mode, self.phase) {
            (0, Phase::Waiting) => false,
            (0, Phase::Stopped { done, .. }) => done,
            (_, Phase::Waiting | Phase::Stopped { .. }) => true,
            (0 | 1, Phase::Counting { start, from }) => {
                tick.saturating_sub(start) >= u64::from(from)
            }
            (2, Phase::Counting { start, .. }) => {
                self.position(tick, start) != u64::from(self.reload) - 1
            }
            (3, Phase::Counting { start, .. }) => {
                self.position(tick, start) < u64::from(self.reload).div_ceil(2)
            }
            // The strobe is low for one clock at the terminal count.
            (_, Phase::Counting { start, from }) => tick.saturating_sub(start) != u64::from(from),
        }
    }

    /// When OUT will rise.
    pub(super) fn edges(&self) -> Edges {
        match (self.mode, self.phase) {
            (_, Phase::Waiting | Phase::Stopped { .. }) => Edges::None,
            (0 | 1, Phase::Counting { start, from }) => Edges::Once(start + u64::from(from)),
            (2 | 3, Phase::Counting { start, .. }) => match self.next {
                Some((at, count)) => Edges::Every(at, count),
                None => Edges::Every(start + u64::from(self.reload), self.reload),
            },
            (_, Phase::Counting { start, from }) => Edges::Once(start + u64::from(from) + 1),
        }
    }

    /// Drives the GATE pin.
    pub(super) fn set_gate(&mut self, gate: bool, tick: u64) {
        self.sync(tick);
        if self.gate == gate {
            return;
        }
        let done = self.out(tick);
        self.gate = gate;
        match (self.mode, gate, self.phase) {
            (0 | 4, false, Phase::Counting { .. }) => {
                self.phase = Phase::Stopped {
                    count: self.count(tick),
                    done,
                };
            }
            (0 | 4, true, Phase::Stopped { count, done }) => {
                // Once it is over, counting on means going round: keep the terminal count in the past.
                let modulus = self.modulus();
                self.phase = if done && self.mode == 0 {
                    Phase::Counting {
                        start: tick.saturating_sub(modulus - u64::from(count) % modulus),
                        from: 0,
                    }
                } else {
                    Phase::Counting {
                        start: tick,
                        from: count,
                    }
                };
            }
            (2 | 3, false, Phase::Counting { .. }) => {
                if let Some((_, count)) = self.next.take() {
                    self.reload = count;
                }
                self.phase = Phase::Stopped {
                    count: self.count(tick),
                    done: true,
                };
            }
            (2 | 3, true, Phase::Stopped { .. }) | (1 | 5, true, _) => {
                self.phase = Phase::Counting {
                    start: tick + 1,
                    from: self.reload,
                };
            }
            _ => {}
        }
    }

    /// The control word's low 6 bits: access, mode, BCD.
    pub(super) fn control(&mut self, value: u8) {
        *self = Self {
            mode: match value >> 1 & 7 {
                6 => 2,
                7 => 3,
                mode => mode,
            },
            bcd: value & 1 != 0,
            access: value >> 4 & 3,
            ..Self::new(self.gate)
        };
    }

    /// The counter latch command.
    pub(super) fn latch(&mut self, tick: u64) {
        self.sync(tick);
        if self.latched.is_none() {
            self.latched = Some(self.readable(tick));
        }
    }

    /// The read-back command's status latch.
    pub(super) fn latch_status(&mut self, tick: u64) {
        if self.latched_status.is_none() {
            let out = u8::from(self.out(tick)) << 7;
            let null = u8::from(self.phase == Phase::Waiting || self.next.is_some()) << 6;
            self.latched_status =
                Some(out | null | self.access << 4 | self.mode << 1 | u8::from(self.bcd));
        }
    }

    pub(super) fn read(&mut self, tick: u64) -> u8 {
        self.sync(tick);
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self
            .latched
            .unwrap_or_else(|| self.readable(tick))
            .to_le_bytes();
        let (byte, last) = match self.access {
            1 => (low, true),
            2 => (high, true),
            _ => {
                self.read_high = !self.read_high;
                if self.read_high {
                    (low, false)
                } else {
                    (high, true)
                }
            }
        };
        if last {
            self.latched = None;
        }
        byte
    }

    /// Writes a byte of the count. Says whether counting was started or changed by it.
    pub(super) fn write(&mut self, value: u8, tick: u64) -> bool {
        self.sync(tick);
        let count = match (self.access, self.low_byte.take()) {
            (1, _) => u16::from(value),
            (2, _) => u16::from(value) << 8,
            (_, Some(low)) => u16::from_le_bytes([low, value]),
            (_, None) => {
                self.low_byte = Some(value);
                if self.mode == 0 {
                    // The first of two bytes stops counting, and OUT goes low.
                    self.phase = Phase::Waiting;
                    return true;
                }
                return false;
            }
        };
        self.load(count, tick);
        true
    }

    fn load(&mut self, count: u16, tick: u64) {
        let value = if self.bcd {
            let digit = |shift: u32| u32::from(count >> shift & 15);
            digit(12) * 1000 + digit(8) * 100 + digit(4) * 10 + digit(0)
        } else {
            u32::from(count)
        };
        let value = if value == 0 {
            self.modulus() as u32
        } else {
            value
        };
        match (self.mode, self.phase) {
            (2 | 3, Phase::Counting { start, .. }) => {
                let period = u64::from(self.reload);
                let periods = tick.saturating_sub(start) / period + 1;
                self.next = Some((start + periods * period, value));
            }
            // The trigger takes it.
            (1 | 5, _) => self.reload = value,
            _ => {
                self.reload = value;
                self.phase = if self.gate {
                    Phase::Counting {
                        start: tick + 1,
                        from: value,
                    }
                } else {
                    Phase::Stopped {
                        count: value,
                        done: false,
                    }
                };
            }
        }
    }
}
