//! Two 8259A interrupt controllers, the second one on the first one's IR2 (Intel 8259A data sheet).
//!
//! Pure state: the [`Router`](super::Router) holds it under its lock and tells LINT0 when [`PicPair::int`] changes.

use super::message::Delivery;

/// The master's input that the slave's INT is wired to.
const CASCADE: u8 = 2;

/// One 8259A.
#[derive(Clone, Debug)]
struct Chip {
    // Static configuration
    master: bool,
    /// Bits of ELCR that can be set: system timer, keyboard, cascade, RTC and FPU are always edge-triggered.
    elcr_mask: u8,
    // Volatile state
    /// The levels of the inputs.
    lines: u8,
    /// Interrupt request register.
    irr: u8,
    /// Interrupt mask register.
    imr: u8,
    /// In-service register.
    isr: u8,
    /// Edge/level control: 1 is level.
    elcr: u8,
    /// Vector of IR0 (a multiple of 8).
    base: u8,
    /// The input with the highest priority, when rotated.
    top: u8,
    /// 0: initialised; 2, 3, 4: this initialisation command word comes next.
    icw: u8,
    needs_icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_fully_nested: bool,
    read_isr: bool,
    poll: bool,
}

impl Chip {
    fn new(master: bool) -> Self {
        Self {
            master,
            elcr_mask: if master { 0xf8 } else { 0xde },
            lines: 0,
            irr: 0,
            imr: 0xff,
            isr: 0,
            elcr: 0,
            base: if master { 0x08 } else { 0x70 },
            top: 0,
            icw: 0,
            needs_icw4: false,
            single: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            special_fully_nested: false,
            read_isr: false,
            poll: false,
        }
    }

    /// Power-on, the input levels kept: they belong to others.
    fn reset(&mut self) {
        *self = Self {
            lines: self.lines,
            ..Self::new(self.master)
        };
    }

    /// The position of the most important bit of `bits`, 0 the most important; 8 if there is none.
    fn priority(&self, bits: u8) -> u8 {
        bits.rotate_right(u32::from(self.top))
            .trailing_zeros()
            .min(8) as u8
    }

    /// The input to be serviced now, if any.
    fn pending(&self) -> Option<u8> {
        let request = self.priority(self.irr & !self.imr);
        if request == 8 {
            return None;
        }
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_fully_nested && self.master {
            // A more important input of the slave may interrupt a less important one of the slave.
            in_service &= !(1 << CASCADE);
        }
        (request < self.priority(in_service)).then_some((request + self.top) & 7)
    }

    fn set_line(&mut self, line: u8, level: bool) -> Delivery {
        let bit = 1 << line;
        let rising = level && self.lines & bit == 0;
        let was_pending = self.irr & bit != 0;
        if level {
            self.lines |= bit;
            if rising || self.elcr & bit != 0 {
                self.irr |= bit;
            }
        } else {
            // An input that goes away before it is acknowledged is no request any more: an INTA then finds none and
            // answers with input 7.
            self.lines &= !bit;
            self.irr &= !bit;
        }
        match (self.imr & bit != 0, was_pending) {
            (true, _) => Delivery::Masked,
            (false, true) => Delivery::Lost,
            (false, false) => Delivery::Taken,
        }
    }

    /// The INTA cycle's effect on `line`.
    fn acknowledge(&mut self, line: u8) {
        let bit = 1 << line;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.top = (line + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1: edges must come again, and everything else returns to its default.
            *self = Self {
                lines: self.lines,
                irr: self.lines & self.elcr,
                elcr: self.elcr,
                imr: 0,
                base: self.base,
                icw: 2,
                needs_icw4: value & 1 != 0,
                single: value & 2 != 0,
                ..Self::new(self.master)
            };
        } else if value & 0x08 != 0 {
            // OCW3
            if value & 4 != 0 {
                self.poll = true;
            }
            if value & 2 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.write_ocw2(value >> 5, value & 7);
        }
    }

    fn write_ocw2(&mut self, command: u8, level: u8) {
        match command {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            1 | 5 => {
                // Non-specific: the most important one in service. Under special mask a masked one is passed over.
                let isr = if self.special_mask {
                    self.isr & !self.imr
                } else {
                    self.isr
                };
                let position = self.priority(isr);
                if position < 8 {
                    let line = (position + self.top) & 7;
                    self.isr &= !(1 << line);
                    if command == 5 {
                        self.top = (line + 1) & 7;
                    }
                }
            }
            3 => self.isr &= !(1 << level),
            7 => {
                self.isr &= !(1 << level);
                self.top = (level + 1) & 7;
            }
            6 => self.top = (level + 1) & 7,
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.icw {
            0 => self.imr = value,
            2 => {
                self.base = value & 0xf8;
                self.icw = match (self.single, self.needs_icw4) {
                    (false, _) => 3,
                    (true, true) => 4,
                    (true, false) => 0,
                };
            }
            // ICW3 names the cascade input, which is wired.
            3 => self.icw = if self.needs_icw4 { 4 } else { 0 },
            _ => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 2 != 0;
                self.icw = 0;
            }
        }
    }

    fn read_command(&self) -> u8 {
        if self.read_isr { self.isr } else { self.irr }
    }
}

/// Both controllers, as an AT wires them.
#[derive(Clone, Debug)]
pub struct PicPair {
    master: Chip,
    slave: Chip,
}

impl Default for PicPair {
    fn default() -> Self {
        Self {
            master: Chip::new(true),
            slave: Chip::new(false),
        }
    }
}

impl PicPair {
    /// Power-on state; all inputs masked until the guest initialises the pair.
    pub fn reset(&mut self) {
        self.master.reset();
        self.slave.reset();
        self.cascade();
    }

    /// The INT output.
    pub fn int(&self) -> bool {
        self.master.pending().is_some()
    }

    /// Drives input `irq` (0..=15; 2 is the cascade and can't be driven).
    pub fn set_irq(&mut self, irq: u8, level: bool) -> Delivery {
        let delivery = match irq {
            CASCADE => return Delivery::Masked,
            0..=7 => self.master.set_line(irq, level),
            _ => self.slave.set_line(irq & 7, level),
        };
        self.cascade();
        delivery
    }

    /// Whether a request of input `irq` is pending (masked or not).
    pub fn is_requested(&self, irq: u8) -> bool {
        let chip = if irq < 8 { &self.master } else { &self.slave };
        chip.irr & (1 << (irq & 7)) != 0
    }

    /// Whether input `irq` is masked.
    pub fn is_masked(&self, irq: u8) -> bool {
        let chip = if irq < 8 { &self.master } else { &self.slave };
        chip.imr & (1 << (irq & 7)) != 0
    }

    /// Passes the slave's INT on to the master.
    fn cascade(&mut self) {
        let int = self.slave.pending().is_some();
        if int != (self.master.lines & (1 << CASCADE) != 0) {
            self.master.set_line(CASCADE, int);
        }
    }

    /// The INTA cycle: the vector of the most important request, now in service. Where the request has gone
    /// meanwhile it is that of input 7, of the master or of the slave, which isn't in service then.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(line) = self.master.pending() else {
            return self.master.base + 7;
        };
        self.master.acknowledge(line);
        if line != CASCADE {
            return self.master.base + line;
        }
        let vector = match self.slave.pending() {
            Some(line) => {
                self.slave.acknowledge(line);
                self.slave.base + line
            }
            None => self.slave.base + 7,
        };
        // The slave's INT drops in the INTA cycle; what else it has makes a new edge.
        self.master.set_line(CASCADE, false);
        self.cascade();
        vector
    }

    /// Reads port 20h, 21h, A0h, A1h, 4D0h or 4D1h.
    pub fn read(&mut self, port: u16) -> u8 {
        let slave = port == 0xa0 || port == 0xa1;
        let chip = if slave {
            &mut self.slave
        } else {
            &mut self.master
        };
        match port {
            0x4d0 => self.master.elcr,
            0x4d1 => self.slave.elcr,
            _ if chip.poll => {
                chip.poll = false;
                let answer = match chip.pending() {
                    Some(line) => {
                        chip.acknowledge(line);
                        0x80 | line
                    }
                    None => 0,
                };
                self.cascade();
                answer
            }
            0x20 | 0xa0 => chip.read_command(),
            _ => chip.imr,
        }
    }

    /// Writes port 20h, 21h, A0h, A1h, 4D0h or 4D1h.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.master.write_command(value),
            0x21 => self.master.write_data(value),
            0xa0 => self.slave.write_command(value),
            0xa1 => self.slave.write_data(value),
            0x4d0 | 0x4d1 => {
                let chip = if port == 0x4d0 {
                    &mut self.master
                } else {
                    &mut self.slave
                };
                chip.elcr = value & chip.elcr_mask;
                chip.irr |= chip.lines & chip.elcr;
            }
            _ => {}
        }
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::PicPair;

    /// A pair as a BIOS or Linux sets it up: vectors 20h and 28h, nothing masked.
    fn pair(icw4: u8) -> PicPair {
        let mut pic = PicPair::default();
        for (port, base, icw3) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
            pic.write(port, 0x11);
            pic.write(port + 1, base);
            pic.write(port + 1, icw3);
            pic.write(port + 1, icw4);
            pic.write(port + 1, 0);
        }
        pic
    }

    fn isr(pic: &mut PicPair, port: u16) -> u8 {
        pic.write(port, 0x0b);
        pic.read(port)
    }

    #[test]
    fn pic_spurious_irq_7() {
        let mut pic = pair(1);
        pic.set_irq(4, true);
        assert!(pic.int());
        pic.set_irq(4, false);
        assert_eq!(pic.acknowledge(), 0x27);
        assert_eq!(
            isr(&mut pic, 0x20),
            0,
            "a spurious interrupt isn't in service"
        );
        pic.set_irq(7, true);
        assert_eq!(pic.acknowledge(), 0x27);
        assert_eq!(isr(&mut pic, 0x20), 0x80, "a real one is");
    }

    #[test]
    fn pic_spurious_irq_15() {
        let mut pic = pair(1);
        pic.set_irq(12, true);
        // The slave's request goes away between the master's INT and the slave's INTA.
        pic.slave.set_line(4, false);
        assert_eq!(pic.acknowledge(), 0x2f);
        assert_eq!(isr(&mut pic, 0xa0), 0, "not in service at the slave");
        assert_eq!(
            isr(&mut pic, 0x20),
            4,
            "but at the master, which needs its EOI"
        );
    }

    #[test]
    fn priorities_nest() {
        let mut pic = pair(1);
        pic.set_irq(4, true);
        assert_eq!(pic.acknowledge(), 0x24);
        pic.set_irq(5, true);
        assert!(!pic.int(), "less important than what is in service");
        pic.set_irq(1, true);
        assert_eq!(pic.acknowledge(), 0x21);
        pic.write(0x20, 0x20);
        assert_eq!(isr(&mut pic, 0x20), 1 << 4);
        pic.write(0x20, 0x64);
        assert_eq!(pic.acknowledge(), 0x25);
    }

    #[test]
    fn the_slave_comes_through_ir2() {
        let mut pic = pair(1);
        pic.set_irq(8, true);
        assert_eq!(pic.acknowledge(), 0x28);
        assert_eq!((isr(&mut pic, 0x20), isr(&mut pic, 0xa0)), (4, 1));
        pic.set_irq(14, true);
        assert!(!pic.int());
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), 0x2e);
    }

    #[test]
    fn special_fully_nested_mode_lets_the_slave_nest() {
        let mut pic = pair(0x11);
        pic.set_irq(14, true);
        assert_eq!(pic.acknowledge(), 0x2e);
        pic.set_irq(8, true);
        assert_eq!(pic.acknowledge(), 0x28);
    }

    #[test]
    fn an_edge_counts_once_and_a_level_until_it_drops() {
        let mut pic = pair(1);
        pic.set_irq(5, true);
        pic.acknowledge();
        pic.write(0x20, 0x20);
        assert!(!pic.int());
        pic.set_irq(5, false);
        pic.write(0x4d0, 0xff);
        assert_eq!(pic.read(0x4d0), 0xf8, "0..2 stay edge-triggered");
        pic.set_irq(5, true);
        pic.acknowledge();
        pic.write(0x20, 0x20);
        assert!(pic.int(), "still up");
        pic.set_irq(5, false);
        assert!(!pic.int());
    }

    #[test]
    fn poll_mode_acknowledges() {
        let mut pic = pair(1);
        pic.set_irq(3, true);
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0x83);
        assert_eq!(isr(&mut pic, 0x20), 8);
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0);
    }

    #[test]
    fn special_mask_mode_lets_lower_ones_through() {
        let mut pic = pair(1);
        pic.set_irq(1, true);
        pic.acknowledge();
        pic.set_irq(6, true);
        assert!(!pic.int());
        pic.write(0x20, 0x68);
        pic.write(0x21, 0x02);
        assert_eq!(pic.acknowledge(), 0x26);
        pic.write(0x20, 0x48);
        assert!(!pic.int());
    }

    #[test]
    fn automatic_eoi_and_rotation() {
        let mut pic = pair(3);
        pic.write(0x20, 0x80);
        pic.set_irq(3, true);
        assert_eq!(pic.acknowledge(), 0x23);
        assert_eq!(isr(&mut pic, 0x20), 0);
        pic.set_irq(3, false);
        pic.set_irq(3, true);
        pic.set_irq(4, true);
        assert_eq!(pic.acknowledge(), 0x24, "3 went to the end of the queue");
    }

    #[test]
    fn rotate_and_set_priority() {
        let mut pic = pair(1);
        pic.write(0x20, 0xc3);
        pic.set_irq(0, true);
        pic.set_irq(4, true);
        assert_eq!(
            pic.acknowledge(),
            0x24,
            "3 is the least important, 4 the most"
        );
        pic.write(0x20, 0xa0);
        pic.set_irq(5, true);
        assert_eq!(pic.acknowledge(), 0x25, "rotated on EOI");
    }

    #[test]
    fn icw1_forgets_edges_and_the_mask() {
        let mut pic = pair(1);
        pic.set_irq(4, true);
        pic.write(0x21, 0xff);
        pic.write(0x20, 0x11);
        pic.write(0x21, 0x30);
        pic.write(0x21, 4);
        pic.write(0x21, 1);
        assert_eq!(pic.read(0x21), 0);
        assert!(!pic.int(), "the line is still up, but its edge was before");
        pic.set_irq(4, false);
        pic.set_irq(4, true);
        assert_eq!(pic.acknowledge(), 0x34);
    }
}
