//! ACPI power management: PM1a event and control, PM timer, a GPE block, the reset register (ACPI 6.5, section 4.8).

use std::sync::Arc;

use crate::clock::{Nanos, SECOND, scale, scale_up};
use crate::device::{Device, Pio, PortRange, Timer};
use crate::inbox::Inbox;
use crate::interrupt::IrqLine;
use crate::requests::{MachineRequest, MachineRequests};
use crate::timers::Waker;

/// PM1a event block: status, then enable, 16 bits each.
pub const PM1A_EVENT: u16 = 0x600;
/// PM1a control block, 16 bits.
pub const PM1A_CONTROL: u16 = 0x604;
/// The PM timer, 32 bits.
pub const PM_TIMER: u16 = 0x608;
/// General purpose events: 16 bits of status, 16 of enable.
pub const GPE0: u16 = 0x620;
/// The reset control register.
pub const RESET_PORT: u16 = 0xcf9;
/// What the reset register takes: a hard reset.
pub const RESET_VALUE: u8 = 0x06;
/// The sleep type that the DSDT's \_S5 names.
pub const S5_TYPE: u8 = 5;

/// The PM timer's rate in Hz.
pub const TIMER_HZ: u64 = 3_579_545;

const TIMER_STATUS: u16 = 1 << 0;
const GLOBAL_STATUS: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const RTC_STATUS: u16 = 1 << 10;
const WAKE_STATUS: u16 = 1 << 15;
const STATUS_BITS: u16 =
    TIMER_STATUS | 1 << 4 | GLOBAL_STATUS | POWER_BUTTON | 1 << 9 | RTC_STATUS | WAKE_STATUS;
const ENABLE_BITS: u16 = TIMER_STATUS | GLOBAL_STATUS | POWER_BUTTON | 1 << 9 | RTC_STATUS;

const SCI_ENABLE: u16 = 1;
const SLEEP_ENABLE: u16 = 1 << 13;

/// Counts between two changes of the PM timer's bit 31.
const HALF: u64 = 1 << 31;

/// The power management block.
#[derive(Debug)]
pub struct Pm {
    // Runtime glue
    sci: IrqLine,
    requests: Arc<MachineRequests>,
    /// Presses of the power button.
    button: Inbox<()>,
    // Volatile state
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u16,
    gpe_enable: u16,
    reset_control: u8,
    /// Changes of the timer's top bit accounted for.
    overflows: u64,
}

/// The PM timer's count at `now`, not yet cut to 32 bits.
fn count_at(now: Nanos) -> u64 {
    scale(now, TIMER_HZ, SECOND)
}

impl Pm {
    /// A power management block with the SCI's line; the user's presses of the power button come through `button`.
    pub fn new(sci: IrqLine, requests: Arc<MachineRequests>, button: Inbox<()>) -> Self {
        Self {
            sci,
            requests,
            button,
            status: 0,
            enable: 0,
            // SMI_CMD is 0: the machine is in ACPI mode from the start.
            control: SCI_ENABLE,
            gpe_status: 0,
            gpe_enable: 0,
            reset_control: 0,
            overflows: 0,
        }
    }

    fn sync(&mut self, now: Nanos) {
        let overflows = count_at(now) / HALF;
        if overflows > self.overflows {
            self.overflows = overflows;
            self.status |= TIMER_STATUS;
        }
        self.update_sci();
    }

    fn update_sci(&self) {
        let fixed = self.status & self.enable & ENABLE_BITS != 0;
        let general = self.gpe_status & self.gpe_enable != 0;
        self.sci
            .set(self.control & SCI_ENABLE != 0 && (fixed || general));
    }

    /// Reads the 16-bit register that holds `port`.
    fn read_word(&self, now: Nanos, port: u16) -> u16 {
        match port & !1 {
            PM1A_EVENT => self.status,
            0x602 => self.enable,
            PM1A_CONTROL => self.control,
            PM_TIMER => count_at(now) as u16,
            0x60a => (count_at(now) >> 16) as u16,
            GPE0 => self.gpe_status,
            0x622 => self.gpe_enable,
            _ => 0,
        }
    }

    /// Writes those bits of a 16-bit register that `mask` names.
    fn write_word(&mut self, port: u16, value: u16, mask: u16) {
        let merge = |old: u16| (old & !mask) | (value & mask);
        match port & !1 {
            PM1A_EVENT => self.status &= !(value & mask & STATUS_BITS),
            0x602 => self.enable = merge(self.enable) & ENABLE_BITS,
            PM1A_CONTROL => {
                let new = merge(self.control);
                // SLP_EN reads as zero, and there is no SMI handler that would take SCI_EN down.
                self.control = new & !SLEEP_ENABLE | SCI_ENABLE;
                if new & SLEEP_ENABLE != 0 && new >> 10 & 7 == u16::from(S5_TYPE) {
                    self.requests.request(MachineRequest::PowerOff);
                }
            }
            GPE0 => self.gpe_status &= !(value & mask),
            0x622 => self.gpe_enable = merge(self.gpe_enable),
            _ => {}
        }
        self.update_sci();
    }
}

impl Device for Pm {
    fn name(&self) -> &'static str {
        "acpi-pm"
    }

    fn reset(&mut self, now: Nanos) {
        *self = Self::new(
            self.sci.clone(),
            Arc::clone(&self.requests),
            self.button.clone(),
        );
        self.overflows = count_at(now) / HALF;
        self.update_sci();
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }

    fn timer(&mut self) -> Option<&mut dyn Timer> {
        Some(self)
    }
}

impl Pio for Pm {
    fn ports(&self) -> Vec<PortRange> {
        // SMI_CMD is 0 in the FADT. CF9h is one byte inside PCI's CF8h; wider accesses there are PCI's.
        vec![
            PortRange::wide(PM1A_EVENT, 12),
            PortRange::wide(GPE0, 4),
            PortRange::bytes(RESET_PORT, 1),
        ]
    }

    fn pio_read(&mut self, now: Nanos, port: u16, size: u8) -> u32 {
        self.sync(now);
        if port == RESET_PORT {
            return u32::from(self.reset_control);
        }
        (0..u16::from(size)).fold(0, |value, byte| {
            let at = port + byte;
            let word = self.read_word(now, at);
            value | u32::from(word.to_le_bytes()[usize::from(at & 1)]) << (8 * byte)
        })
    }

    fn pio_write(&mut self, now: Nanos, port: u16, size: u8, value: u32) {
        self.sync(now);
        if port == RESET_PORT {
            let value = value.to_le_bytes()[0];
            self.reset_control = value & !4;
            if value & 4 != 0 {
                self.requests.request(MachineRequest::Reset);
            }
            return;
        }
        // Whole words at once, so that SLP_TYP and SLP_EN are seen together.
        let (mut port, mut left, mut value) = (port, size, value);
        while left > 0 {
            let odd = port & 1 != 0;
            let bytes = if odd { 1 } else { left.min(2) };
            let (word, mask) = match (odd, bytes) {
                (true, _) => ((value as u8 as u16) << 8, 0xff00),
                (false, 1) => (value as u16, 0x00ff),
                _ => (value as u16, 0xffff),
            };
            self.write_word(port, word, mask);
            port += u16::from(bytes);
            left -= bytes;
            value = value.checked_shr(8 * u32::from(bytes)).unwrap_or(0);
        }
    }
}

impl Timer for Pm {
    fn deadline(&self) -> Option<Nanos> {
        (self.enable & !self.status & TIMER_STATUS != 0)
            .then(|| scale_up((self.overflows + 1).saturating_mul(HALF), SECOND, TIMER_HZ))
    }

    fn fire(&mut self, now: Nanos) {
        while self.button.pop().is_some() {
            self.status |= POWER_BUTTON;
        }
        self.sync(now);
    }

    fn set_waker(&mut self, waker: Waker) {
        self.button.set_waker(waker);
    }
}

#[cfg(test)]
mod tests {
    use crate::board::tests::Machine;
    use crate::clock::SECOND;
    use crate::requests::MachineRequest;

    #[test]
    fn slp_en_with_the_dsdts_type_powers_off() {
        let m = Machine::new();
        assert_eq!(m.inw(0x604) & 1, 1, "SCI_EN is set, SMI_CMD is 0");
        m.outw(0x604, 0x2000 | 1 << 10);
        assert_eq!(m.board.requests().take(), None, "another sleep type");
        m.outw(0x604, 0x2000 | 5 << 10);
        assert_eq!(m.board.requests().take(), Some(MachineRequest::PowerOff));
        assert_eq!(m.inw(0x604) & 0x2001, 1);
    }

    #[test]
    fn the_reset_register_resets() {
        let m = Machine::new();
        m.outb(0xcf9, 0x02);
        assert_eq!(m.board.requests().take(), None);
        m.outb(0xcf9, 0x06);
        assert_eq!(m.board.requests().take(), Some(MachineRequest::Reset));
    }

    #[test]
    fn the_pm_timer_counts_and_its_overflow_raises_sci_9_level() {
        let m = Machine::new();
        m.enable_apic();
        m.ioapic(9, 0x8059);
        m.outw(0x602, 1);
        m.advance(SECOND);
        assert_eq!(m.inl(0x608), 3_579_545);
        assert_eq!(m.ack(), None);
        m.advance(600 * SECOND);
        assert_eq!(m.ack(), Some(0x59));
        assert_eq!(m.inw(0x600) & 1, 1);
        m.eoi();
        assert_eq!(
            m.ack(),
            Some(0x59),
            "level: again until the status is cleared"
        );
        m.outw(0x600, 1);
        m.eoi();
        assert_eq!(m.ack(), None);
        assert_eq!(m.inl(0x608), (600u64 * 3_579_545) as u32);
    }

    #[test]
    fn the_power_button_is_an_event() {
        let m = Machine::new();
        m.enable_apic();
        m.ioapic(9, 0x8059);
        m.board.press_power_button();
        m.advance(1);
        assert_eq!(m.ack(), None, "not enabled");
        m.outw(0x602, 1 << 8);
        assert_eq!(m.ack(), Some(0x59));
        m.outb(0x601, 1);
        assert_eq!(m.inw(0x600), 0, "byte accesses work");
    }
}
