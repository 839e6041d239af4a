//! Interrupt messages: what IPIs, the I/O APIC and MSIs put on the bus for the local APICs.

use x86::PhysAddr;

/// The delivery mode of a message or an LVT entry (SDM vol. 3, 11.5.1 and 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The vector, to every destination.
    Fixed,
    /// The vector, to the one destination that does the least important work.
    LowestPriority,
    /// System management interrupt; the machine has none, so it goes nowhere.
    Smi,
    /// Encoding 3, which means nothing.
    Reserved,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI; the vector is the page at which the CPU starts.
    StartUp,
    /// The vector comes from the PIC.
    ExtInt,
}

impl Mode {
    /// The mode in a register's 3-bit field.
    pub fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => Self::Reserved,
        }
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The local APIC with this id.
    Physical(u32),
    /// An 8-bit logical destination (xAPIC's ICR, I/O APIC, MSI).
    Logical8(u8),
    /// A 32-bit logical destination (x2APIC's ICR).
    Logical32(u32),
    /// The vCPU with this index.
    Cpu(usize),
    /// Everyone.
    All,
    /// Everyone but the vCPU with this index.
    AllBut(usize),
}

impl Destination {
    /// An 8-bit destination field with its mode bit. FFh is everyone in either mode.
    pub fn from_8_bits(dest: u8, logical: bool) -> Self {
        match (dest, logical) {
            (0xff, _) => Self::All,
            (_, true) => Self::Logical8(dest),
            (_, false) => Self::Physical(u32::from(dest)),
        }
    }

    /// A 32-bit destination field with its mode bit. FFFF_FFFFh is everyone in either mode.
    pub fn from_32_bits(dest: u32, logical: bool) -> Self {
        match (dest, logical) {
            (u32::MAX, _) => Self::All,
            (_, true) => Self::Logical32(dest),
            (_, false) => Self::Physical(dest),
        }
    }
}

/// One message on the interrupt bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whom it is for.
    pub dest: Destination,
    /// What it does there.
    pub mode: Mode,
    /// The vector (or the start-up page).
    pub vector: u8,
    /// Level-triggered: the EOI must be told to the I/O APIC.
    pub level: bool,
}

impl Message {
    /// The message that a write of `data` to `addr` (FEEx_xxxxh) stands for (SDM vol. 3, 11.11).
    pub fn from_msi(addr: PhysAddr, data: u32) -> Self {
        let [vector, control, ..] = data.to_le_bytes();
        let dest = (addr.0 >> 12) as u8;
        let logical = addr.0 & (1 << 2) != 0;
        let redirectable = addr.0 & (1 << 3) != 0;
        let mode = match Mode::from_bits(u32::from(control)) {
            Mode::Fixed if redirectable && logical => Mode::LowestPriority,
            mode => mode,
        };
        let dest = Destination::from_8_bits(dest, logical);
        Self {
            dest,
            mode,
            vector,
            level: control & 0x80 != 0,
        }
    }
}

/// What became of an interrupt request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivery {
    /// Nobody wanted it: masked, or no such destination.
    Masked,
    /// It was already pending, so the guest will see one where two were sent.
    Lost,
    /// Somebody got it.
    Taken,
}

#[cfg(test)]
mod tests {
    use super::{Destination, Message, Mode};
    use x86::PhysAddr;

    #[test]
    fn msi_fields_are_where_the_sdm_has_them() {
        let m = Message::from_msi(PhysAddr(0xfee0_3000), 0x0041);
        assert_eq!(
            m,
            Message {
                dest: Destination::Physical(3),
                mode: Mode::Fixed,
                vector: 0x41,
                level: false
            }
        );
        let m = Message::from_msi(PhysAddr(0xfee0_f00c), 0x0141);
        assert_eq!(
            (m.dest, m.mode),
            (Destination::Logical8(0x0f), Mode::LowestPriority)
        );
        let m = Message::from_msi(PhysAddr(0xfeef_f000), 0xc030);
        assert_eq!((m.dest, m.level), (Destination::All, true));
    }
}
