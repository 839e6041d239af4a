//! How vCPUs reach the board: ports, device memory, PCI configuration, the local APIC, interrupts, time.

use softmmu::Bus;
use system::ticks::Ticks;
use system::{MsrFault, Platform};
use x86::{PAGE_SIZE, PhysAddr};

use crate::board::Board;
use crate::interrupt::Message;
use crate::interrupt::lapic::Acknowledge;
use crate::pci::{ADDRESS_PORT, DATA_PORT, DevFn, Space};

/// Memory writes in here are interrupt messages.
const MSI_START: u64 = 0xfee0_0000;
const MSI_END: u64 = 0xfef0_0000;

/// All ones, `size` bytes wide.
fn ones(size: u8) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (8 * size)) - 1
    }
}

impl Board {
    fn function(&self, devfn: DevFn) -> Option<usize> {
        self.functions
            .iter()
            .find(|&&(at, _)| at == devfn)
            .map(|&(_, index)| index)
    }

    /// Reads PCI configuration space of a function on bus 0.
    pub fn config_read(&self, devfn: DevFn, offset: u8, size: u8) -> u32 {
        let value = self.function(devfn).and_then(|index| {
            self.with_device(index, |device, now| {
                device.pci().map(|f| f.config_read(now, offset, size))
            })
        });
        value.unwrap_or(ones(size) as u32)
    }

    /// Writes PCI configuration space of a function on bus 0.
    pub fn config_write(&self, devfn: DevFn, offset: u8, size: u8, value: u32) {
        if let Some(index) = self.function(devfn) {
            self.with_device(index, |device, now| {
                if let Some(function) = device.pci() {
                    function.config_write(now, offset, size, value);
                }
            });
            self.refresh_windows(index);
        }
    }

    /// What CONFIG_ADDRESS and a data port select: the function and the offset.
    fn config_target(&self, port: u16) -> Option<(DevFn, u8)> {
        let address = *self.config_address.lock();
        let [offset, devfn, bus, flags] = address.to_le_bytes();
        (flags & 0x80 != 0 && bus == 0).then_some((DevFn(devfn), offset & 0xfc | (port & 3) as u8))
    }

    /// Sends the interrupt that a device's write of `data` to `addr` (FEEx_xxxxh) means.
    pub fn send_msi(&self, addr: PhysAddr, data: u32) {
        self.apics.deliver(&Message::from_msi(addr, data));
    }

    fn window(&self, space: Space, at: u64, size: u8) -> Option<(usize, usize, u64)> {
        let windows = self.windows.read();
        windows.iter().find_map(|open| {
            let offset = at.checked_sub(open.window.start)?;
            let fits = open.window.space == space && offset < open.window.len;
            (fits && open.window.len - offset >= u64::from(size)).then_some((
                open.device,
                open.window.bar,
                offset,
            ))
        })
    }

    fn window_read(&self, space: Space, at: u64, size: u8) -> Option<u64> {
        let (device, bar, offset) = self.window(space, at, size)?;
        self.with_device(device, |device, now| {
            device.pci().map(|f| f.bar_read(now, bar, offset, size))
        })
    }

    fn window_write(&self, space: Space, at: u64, size: u8, value: u64) -> bool {
        let Some((device, bar, offset)) = self.window(space, at, size) else {
            return false;
        };
        self.with_device(device, |device, now| {
            if let Some(function) = device.pci() {
                function.bar_write(now, bar, offset, size, value);
            }
        });
        true
    }

    /// The device whose range takes this whole access at once.
    fn port_device(&self, port: u16, size: u8) -> Option<usize> {
        let (range, device) = self.ports.find(port)?;
        let left = range.count - (port - range.first);
        (size <= range.width && u16::from(size) <= left).then_some(*device)
    }

    /// The offset into vCPU `cpu`'s local APIC page.
    fn apic_offset(&self, cpu: usize, addr: PhysAddr) -> Option<u64> {
        (self.apics.page(cpu)? == addr.page().0).then(|| addr.page_offset())
    }

    fn port_read(&self, port: u16, size: u8) -> u32 {
        if let Some(index) = self.port_device(port, size) {
            let value =
                self.with_device(index, |d, now| d.pio().map(|p| p.pio_read(now, port, size)));
            return value.unwrap_or(u32::MAX) & ones(size) as u32;
        }
        if port == ADDRESS_PORT && size == 4 {
            return *self.config_address.lock();
        }
        if port & !3 == DATA_PORT && (port & 3) + u16::from(size) <= 4 {
            let target = self.config_target(port);
            let value = target.map_or(u32::MAX, |(devfn, offset)| {
                self.config_read(devfn, offset, size)
            });
            return value & ones(size) as u32;
        }
        if let Some(value) = self.window_read(Space::Io, u64::from(port), size) {
            return value as u32 & ones(size) as u32;
        }
        if size == 1 {
            return 0xff;
        }
        // An 8-bit bus makes several accesses of it.
        (0..size).fold(0, |value, byte| {
            value | self.port_read(port.wrapping_add(u16::from(byte)), 1) << (8 * byte)
        })
    }

    fn port_write(&self, port: u16, size: u8, value: u32) {
        let value = value & ones(size) as u32;
        if let Some(index) = self.port_device(port, size) {
            self.with_device(index, |device, now| {
                if let Some(pio) = device.pio() {
                    pio.pio_write(now, port, size, value);
                }
            });
        } else if port == ADDRESS_PORT && size == 4 {
            // Bits 1:0 are the data port's, 30:24 reserved.
            *self.config_address.lock() = value & 0x80ff_fffc;
        } else if port & !3 == DATA_PORT && (port & 3) + u16::from(size) <= 4 {
            if let Some((devfn, offset)) = self.config_target(port) {
                self.config_write(devfn, offset, size, value);
            }
        } else if !self.window_write(Space::Io, u64::from(port), size, u64::from(value)) && size > 1
        {
            for (byte, &value) in value
                .to_le_bytes()
                .iter()
                .enumerate()
                .take(usize::from(size))
            {
                self.port_write(port.wrapping_add(byte as u16), 1, u32::from(value));
            }
        }
    }
}

impl Bus for Board {
    fn mmio_read(&self, cpu: usize, addr: PhysAddr, size: u8) -> u64 {
        if let Some(offset) = self.apic_offset(cpu, addr) {
            // Registers are the first 4 of each 16 bytes.
            if offset & 0xc != 0 {
                return 0;
            }
            let value = u64::from(self.apics.mmio_read(cpu, offset & !3)) >> (8 * (offset & 3));
            return value & ones(size);
        }
        if let Some(index) = self.regions.find(addr, size) {
            let value = self.with_device(index, |d, now| {
                d.mmio().map(|m| m.mmio_read(now, addr, size))
            });
            return value.unwrap_or(u64::MAX) & ones(size);
        }
        self.window_read(Space::Memory, addr.0, size)
            .unwrap_or(u64::MAX)
            & ones(size)
    }

    fn mmio_write(&self, cpu: usize, addr: PhysAddr, size: u8, value: u64) {
        let value = value & ones(size);
        if let Some(offset) = self.apic_offset(cpu, addr) {
            if offset & 0xf == 0 {
                if let Some(vector) = self.apics.mmio_write(cpu, offset, value as u32) {
                    self.router.eoi(vector);
                }
            }
        } else if let Some(index) = self.regions.find(addr, size) {
            self.with_device(index, |device, now| {
                if let Some(mmio) = device.mmio() {
                    mmio.mmio_write(now, addr, size, value);
                }
            });
        } else if !self.window_write(Space::Memory, addr.0, size, value) {
            // The first page is where every CPU has its own APIC; a write there that misses it is nobody's.
            if (MSI_START + PAGE_SIZE..MSI_END).contains(&addr.0) && size >= 4 {
                self.send_msi(addr, value as u32);
            }
        }
    }

    fn pio_read(&self, _cpu: usize, port: u16, size: u8) -> u32 {
        self.port_read(port, size)
    }

    fn pio_write(&self, _cpu: usize, port: u16, size: u8, value: u32) {
        self.port_write(port, size, value);
    }
}

impl Platform for Board {
    fn tsc(&self) -> u64 {
        self.clock.tsc_at(self.clock.now())
    }

    fn ticks(&self) -> Option<&Ticks> {
        self.clock.ticks()
    }

    fn tsc_hz(&self) -> u64 {
        self.clock.tsc_hz()
    }

    fn crystal_hz(&self) -> u64 {
        self.clock.crystal_hz()
    }

    fn ack_interrupt(&self, cpu: usize) -> Option<u8> {
        match self.apics.acknowledge(cpu) {
            Acknowledge::Vector(vector) => Some(vector),
            Acknowledge::AskPic => self.router.pic_acknowledge(),
            Acknowledge::Nothing => None,
        }
    }

    fn cr8(&self, cpu: usize) -> u8 {
        self.apics.cr8(cpu)
    }

    fn set_cr8(&self, cpu: usize, value: u8) {
        self.apics.set_cr8(cpu, value);
    }

    fn apic_msr_read(&self, cpu: usize, msr: u32) -> Result<u64, MsrFault> {
        self.apics.read_msr(cpu, msr)
    }

    fn apic_msr_write(&self, cpu: usize, msr: u32, value: u64) -> Result<(), MsrFault> {
        if let Some(vector) = self.apics.write_msr(cpu, msr, value)? {
            self.router.eoi(vector);
        }
        Ok(())
    }

    fn tsc_deadline(&self, cpu: usize) -> u64 {
        self.apics.tsc_deadline(cpu)
    }

    fn set_tsc_deadline(&self, cpu: usize, raw_tsc: u64) {
        self.apics.set_tsc_deadline(cpu, raw_tsc);
    }

    fn apic_init(&self, cpu: usize) {
        self.apics.init(cpu);
    }
}
