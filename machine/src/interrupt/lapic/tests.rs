//! Tests of the local APICs, alone and together.

use std::sync::Arc;

use system::{Events, MsrFault, event};

use super::{Acknowledge, LapicConfig};
use crate::clock::Clock;
use crate::interrupt::{Apics, Delivery, Destination, Message, Mode};
use crate::tick::TickPolicy;
use crate::timers::Timers;

const X2APIC: u64 = 0xfee0_0c00;

struct Bench {
    apics: Apics,
    events: Vec<Arc<Events>>,
    clock: Arc<Clock>,
}

impl Bench {
    /// `cpus` enabled APICs, the timer's crystal at 25 MHz (40 ns a tick).
    fn new(cpus: usize) -> Self {
        let events: Vec<_> = (0..cpus).map(|_| Arc::new(Events::default())).collect();
        let clock = Arc::new(Clock::manual(1_000_000_000));
        let config = |id| LapicConfig {
            id,
            crystal_hz: 25_000_000,
            phys_bits: 40,
            ticks: TickPolicy::Drop,
        };
        let apics = Apics::new(
            &events,
            config,
            Arc::clone(&clock),
            Arc::new(Timers::new(cpus)),
            0,
        );
        let bench = Self {
            apics,
            events,
            clock,
        };
        for cpu in 0..cpus {
            bench.write(cpu, 0xf0, 0x1ff);
        }
        bench
    }

    fn read(&self, cpu: usize, offset: u64) -> u32 {
        self.apics.mmio_read(cpu, offset)
    }

    fn write(&self, cpu: usize, offset: u64, value: u32) -> Option<u8> {
        self.apics.mmio_write(cpu, offset, value)
    }

    fn fixed(&self, dest: Destination, vector: u8) -> Delivery {
        self.apics.deliver(&Message {
            dest,
            mode: Mode::Fixed,
            vector,
            level: false,
        })
    }

    fn pending(&self, cpu: usize) -> u32 {
        self.events[cpu].pending()
    }

    /// Moves time and fires vCPU 0's timer; whether vector 40h was delivered.
    fn ticked(&self, now: u64) -> bool {
        self.clock.advance(now);
        self.apics.fire(0, now);
        let ticked = self.apics.acknowledge(0) == Acknowledge::Vector(0x40);
        self.write(0, 0xb0, 0);
        ticked
    }
}

#[test]
fn lapic_isr_irr_ppr() {
    let b = Bench::new(1);
    b.fixed(Destination::Physical(0), 0x51);
    assert_eq!(b.read(0, 0x220), 1 << 17, "IRR");
    assert_eq!(b.pending(0) & event::INTR, event::INTR);
    assert_eq!(b.apics.acknowledge(0), Acknowledge::Vector(0x51));
    assert_eq!(
        (b.read(0, 0x220), b.read(0, 0x120)),
        (0, 1 << 17),
        "moved to ISR"
    );
    assert_eq!(b.read(0, 0xa0), 0x50, "PPR");
    assert_eq!(b.pending(0) & event::INTR, 0);
    b.fixed(Destination::Physical(0), 0x52);
    assert_eq!(b.pending(0) & event::INTR, 0, "the same class waits");
    b.fixed(Destination::Physical(0), 0x61);
    assert_eq!(b.apics.acknowledge(0), Acknowledge::Vector(0x61));
    b.write(0, 0xb0, 0);
    b.write(0, 0xb0, 0);
    assert_eq!(
        b.apics.acknowledge(0),
        Acknowledge::Vector(0x52),
        "after the EOIs"
    );
}

#[test]
fn a_tpr_write_and_cr8_open_the_window() {
    let b = Bench::new(1);
    b.write(0, 0x80, 0x50);
    assert_eq!(b.apics.cr8(0), 5);
    b.fixed(Destination::Physical(0), 0x5f);
    assert_eq!(b.pending(0) & event::INTR, 0);
    assert_eq!(b.apics.acknowledge(0), Acknowledge::Nothing);
    b.apics.set_cr8(0, 4);
    assert_eq!(b.pending(0) & event::INTR, event::INTR);
    b.apics.set_cr8(0, 15);
    assert_eq!(b.pending(0) & event::INTR, 0);
    b.write(0, 0x80, 0);
    assert_eq!(b.apics.acknowledge(0), Acknowledge::Vector(0x5f));
}

#[test]
fn a_second_request_of_a_pending_vector_is_lost() {
    let b = Bench::new(1);
    assert_eq!(b.fixed(Destination::Physical(0), 0x30), Delivery::Taken);
    assert_eq!(b.fixed(Destination::Physical(0), 0x30), Delivery::Lost);
    assert_eq!(b.fixed(Destination::Physical(7), 0x30), Delivery::Masked);
    b.write(0, 0xf0, 0xff);
    assert_eq!(b.fixed(Destination::Physical(0), 0x31), Delivery::Masked);
}

#[test]
fn lapic_self_ipi() {
    let b = Bench::new(2);
    b.write(1, 0x300, 0x4_0055);
    assert_eq!(b.apics.acknowledge(1), Acknowledge::Vector(0x55));
    assert_eq!(b.pending(0), 0);
    b.apics.write_msr(1, 0x1b, X2APIC).expect("to x2APIC");
    b.apics.write_msr(1, 0x83f, 0x66).expect("SELF IPI");
    assert_eq!(b.apics.acknowledge(1), Acknowledge::Vector(0x66));
    assert_eq!(b.apics.read_msr(1, 0x83f), Err(MsrFault));
}

#[test]
fn lapic_x2apic_64_bit_icr() {
    let b = Bench::new(20);
    for cpu in 0..20 {
        let bsp = if cpu == 0 { 0x100 } else { 0 };
        b.apics
            .write_msr(cpu, 0x1b, X2APIC | bsp)
            .expect("to x2APIC");
    }
    b.apics
        .write_msr(0, 0x830, 18 << 32 | 0x41)
        .expect("physical");
    assert_eq!(b.apics.acknowledge(18), Acknowledge::Vector(0x41));
    assert_eq!(b.apics.read_msr(0, 0x830), Ok(18 << 32 | 0x41));
    assert_eq!(
        b.apics.read_msr(18, 0x80d),
        Ok(1 << 16 | 1 << 2),
        "LDR: cluster 1, member 2"
    );
    // Logical: cluster 1, members 2 and 3.
    b.apics
        .write_msr(0, 0x830, 0x0001_000c << 32 | 0x0852)
        .expect("logical");
    assert_eq!(b.apics.acknowledge(18), Acknowledge::Vector(0x52));
    assert_eq!(b.apics.acknowledge(19), Acknowledge::Vector(0x52));
    assert_eq!(b.apics.acknowledge(2), Acknowledge::Nothing);
    b.apics
        .write_msr(0, 0x830, 0xffff_ffff << 32 | 0x63)
        .expect("broadcast");
    assert!((0..20).all(|cpu| b.apics.acknowledge(cpu) == Acknowledge::Vector(0x63)));
    assert_eq!(
        b.apics.write_msr(0, 0x830, 1 << 20),
        Err(MsrFault),
        "reserved bit"
    );
    assert_eq!(
        b.apics.write_msr(0, 0x831, 0),
        Err(MsrFault),
        "no high half"
    );
}

#[test]
fn x2apic_registers_fault_where_the_sdm_says() {
    let b = Bench::new(1);
    assert_eq!(
        b.apics.read_msr(0, 0x802),
        Err(MsrFault),
        "not in xAPIC mode"
    );
    b.apics
        .write_msr(0, 0x1b, X2APIC | 0x100)
        .expect("to x2APIC");
    assert_eq!(b.apics.page(0), None);
    for msr in [0x80b, 0x80e, 0x831, 0x83f, 0x800, 0x840, 0x8ff, 0x82f] {
        assert_eq!(b.apics.read_msr(0, msr), Err(MsrFault), "read {msr:#x}");
    }
    for (msr, value) in [
        (0x802, 0),
        (0x803, 0),
        (0x80a, 0),
        (0x80d, 0),
        (0x839, 0),
        (0x80b, 1),
        (0x828, 1),
        (0x808, 0x100),
        (0x808, 1 << 32),
        (0x80f, 0x200),
        (0x83e, 4),
        (0x832, 1 << 20),
    ] {
        assert_eq!(
            b.apics.write_msr(0, msr, value),
            Err(MsrFault),
            "write {msr:#x}"
        );
    }
    assert_eq!(b.apics.read_msr(0, 0x803), Ok(0x0105_0014));
}

#[test]
fn apic_base_transitions() {
    let b = Bench::new(1);
    let base = 0xfee0_0900;
    assert_eq!(b.apics.read_msr(0, 0x1b), Ok(base));
    assert_eq!(
        b.apics.write_msr(0, 0x1b, base & !0x800 | 0x400),
        Err(MsrFault),
        "EXTD without EN"
    );
    assert_eq!(
        b.apics.write_msr(0, 0x1b, base | 1),
        Err(MsrFault),
        "reserved bit"
    );
    assert_eq!(
        b.apics.write_msr(0, 0x1b, base | 1 << 40),
        Err(MsrFault),
        "beyond MAXPHYADDR"
    );
    b.apics
        .write_msr(0, 0x1b, base | 0x400)
        .expect("xAPIC to x2APIC");
    assert_eq!(
        b.apics.write_msr(0, 0x1b, base),
        Err(MsrFault),
        "x2APIC to xAPIC"
    );
    b.apics
        .write_msr(0, 0x1b, base & !0x800)
        .expect("x2APIC to disabled");
    assert_eq!(b.apics.page(0), None);
    assert_eq!(
        b.apics.write_msr(0, 0x1b, base | 0x400),
        Err(MsrFault),
        "disabled to x2APIC"
    );
    b.apics
        .write_msr(0, 0x1b, 0xd000_0900)
        .expect("disabled to xAPIC, moved");
    assert_eq!(b.apics.page(0), Some(0xd000_0000));
    assert_eq!(b.read(0, 0xf0), 0xff, "as after power-on");
}

#[test]
fn extint_comes_through_lint0_of_the_bootstrap_processor() {
    let b = Bench::new(2);
    b.apics.set_pic_int(true);
    assert_eq!(b.pending(0) & event::INTR, 0, "LINT0 is masked after reset");
    b.write(0, 0x350, 0x700);
    assert_eq!(b.pending(0) & event::INTR, event::INTR);
    assert_eq!(b.pending(1) & event::INTR, 0);
    assert_eq!(b.apics.acknowledge(0), Acknowledge::AskPic);
    b.apics.set_pic_int(false);
    assert_eq!(b.pending(0) & event::INTR, 0);
    // A disabled APIC lets the pin through.
    b.apics.write_msr(0, 0x1b, 0xfee0_0100).expect("disable");
    b.apics.set_pic_int(true);
    assert_eq!(b.pending(0) & event::INTR, event::INTR);
}

#[test]
fn virtual_wire_and_lint1_nmi() {
    let b = Bench::new(2);
    b.apics.nmi();
    assert_eq!(b.pending(0) & event::NMI, 0, "masked");
    b.apics.set_virtual_wire();
    b.apics.set_pic_int(true);
    assert_eq!(b.apics.acknowledge(0), Acknowledge::AskPic);
    b.apics.nmi();
    assert!((0..2).all(|cpu| b.pending(cpu) & event::NMI != 0));
}

#[test]
fn init_sipi_and_nmi_reach_the_event_word() {
    let b = Bench::new(3);
    b.write(0, 0x310, 1 << 24);
    b.write(0, 0x300, 0x4500);
    assert_eq!(b.pending(1), event::INIT);
    b.write(0, 0x300, 0x8500);
    b.write(0, 0x300, 0x4699);
    assert_eq!(b.pending(1), event::INIT | event::SIPI);
    assert_eq!(b.events[1].sipi_vector(), 0x99);
    b.write(0, 0x300, 0xc_4400);
    assert_eq!(
        (b.pending(0), b.pending(2)),
        (0, event::NMI),
        "all but self"
    );
    b.write(1, 0xf0, 0x100 | 0xff);
    b.write(1, 0x80, 0x20);
    b.apics.init(1);
    assert_eq!(
        (b.read(1, 0x80), b.read(1, 0xf0), b.read(1, 0x20)),
        (0, 0xff, 1 << 24)
    );
}

#[test]
fn logical_destinations_flat_and_cluster() {
    let b = Bench::new(4);
    for cpu in 0..4 {
        b.write(cpu, 0xd0, 1 << (24 + cpu));
    }
    b.fixed(Destination::from_8_bits(0b1010, true), 0x33);
    let got = |v| {
        (0..4)
            .filter(|&cpu| b.apics.acknowledge(cpu) == Acknowledge::Vector(v))
            .collect::<Vec<_>>()
    };
    assert_eq!(got(0x33), [1, 3]);
    for (cpu, id) in [(0, 0x11), (1, 0x12), (2, 0x21), (3, 0x22)] {
        b.write(cpu, 0xe0, 0x0fff_ffff);
        b.write(cpu, 0xd0, id << 24);
        b.write(cpu, 0xb0, 0);
    }
    b.fixed(Destination::from_8_bits(0x23, true), 0x34);
    assert_eq!(got(0x34), [2, 3]);
    b.fixed(Destination::from_8_bits(0xf1, true), 0x45);
    assert_eq!(got(0x45), [0, 2], "all clusters");
}

#[test]
fn lowest_priority_goes_to_the_least_busy() {
    let b = Bench::new(3);
    b.write(0, 0x80, 0x40);
    b.write(1, 0x80, 0x20);
    b.write(2, 0xf0, 0xff);
    let m = Message {
        dest: Destination::All,
        mode: Mode::LowestPriority,
        vector: 0x71,
        level: false,
    };
    assert_eq!(b.apics.deliver(&m), Delivery::Taken);
    assert_eq!(b.apics.acknowledge(1), Acknowledge::Vector(0x71));
    assert_eq!(b.apics.acknowledge(0), Acknowledge::Nothing);
}

#[test]
fn esr_latches_and_the_error_interrupt_fires() {
    let b = Bench::new(1);
    b.write(0, 0x370, 0xfe);
    b.write(0, 0x300, 0x4_0005);
    assert_eq!(b.read(0, 0x280), 0, "not before ESR is written");
    b.write(0, 0x280, 0);
    assert_eq!(b.read(0, 0x280), 1 << 5);
    assert_eq!(b.apics.acknowledge(0), Acknowledge::Vector(0xfe));
    b.read(0, 0x3f0);
    b.write(0, 0x280, 0);
    assert_eq!(b.read(0, 0x280), 1 << 7);
    b.write(0, 0x370, 3);
    b.write(0, 0x300, 0x4_0005);
    b.write(0, 0x280, 0);
    assert_eq!(b.read(0, 0x280), 1 << 5);
}

#[test]
fn a_level_triggered_eoi_is_told_to_the_io_apic_unless_suppressed() {
    let b = Bench::new(1);
    let level = Message {
        dest: Destination::Physical(0),
        mode: Mode::Fixed,
        vector: 0x61,
        level: true,
    };
    b.apics.deliver(&level);
    assert_eq!(b.read(0, 0x1b0), 1 << 1, "TMR");
    b.apics.acknowledge(0);
    assert_eq!(b.write(0, 0xb0, 0), Some(0x61));
    b.write(0, 0xf0, 0x11ff);
    b.apics.deliver(&level);
    b.apics.acknowledge(0);
    assert_eq!(b.write(0, 0xb0, 0), None);
    b.fixed(Destination::Physical(0), 0x61);
    assert_eq!(b.read(0, 0x1b0), 0);
}

#[test]
fn the_one_shot_timer_counts_with_its_divider() {
    let b = Bench::new(1);
    b.write(0, 0x320, 0x40);
    b.write(0, 0x3e0, 0b0011);
    b.write(0, 0x380, 1000);
    b.clock.advance(1000 * 40 * 16 / 4);
    assert_eq!(b.read(0, 0x390), 750);
    assert!(!b.ticked(1000 * 40 * 16 - 1));
    assert!(b.ticked(1000 * 40 * 16));
    assert_eq!(b.read(0, 0x390), 0);
    assert!(!b.ticked(1000 * 40 * 16 * 3));
    b.write(0, 0x3e0, 0b1011);
    b.write(0, 0x380, 500);
    b.write(0, 0x380, 0);
    assert!(!b.ticked(b.clock.now() + 1_000_000));
}

#[test]
fn the_periodic_timer_reloads() {
    let b = Bench::new(1);
    b.write(0, 0x320, 0x2_0040);
    b.write(0, 0x3e0, 0b1011);
    b.write(0, 0x380, 25_000);
    assert_eq!((1..=10).filter(|ms| b.ticked(ms * 1_000_000)).count(), 10);
    b.clock.advance(10_400_000);
    assert_eq!(b.read(0, 0x390), 15_000);
    b.write(0, 0x320, 0x3_0040);
    assert!(!b.ticked(11_000_000), "masked");
}

#[test]
fn the_tsc_deadline_fires_once_and_clears_itself() {
    let b = Bench::new(1);
    b.apics.set_tsc_deadline(0, 5000);
    assert_eq!(b.apics.tsc_deadline(0), 0, "not in this mode");
    b.write(0, 0x320, 0x4_0040);
    b.apics.set_tsc_deadline(0, 5000);
    assert_eq!(b.apics.tsc_deadline(0), 5000);
    b.write(0, 0x380, 77);
    assert_eq!(b.read(0, 0x380), 0, "ignored in this mode");
    assert!(!b.ticked(4999));
    assert!(b.ticked(5000));
    assert_eq!(b.apics.tsc_deadline(0), 0);
    b.apics.set_tsc_deadline(0, 100);
    assert_eq!(
        b.apics.acknowledge(0),
        Acknowledge::Vector(0x40),
        "one in the past fires at once"
    );
    b.write(0, 0xb0, 0);
    b.apics.set_tsc_deadline(0, 50_000);
    b.apics.set_tsc_deadline(0, 0);
    assert!(!b.ticked(60_000), "disarmed");
    b.apics.set_tsc_deadline(0, 90_000);
    b.write(0, 0x320, 0x40);
    assert!(!b.ticked(95_000), "a change of mode disarms");
}
