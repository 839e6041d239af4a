//! The devices on the board, one file or folder each.

pub mod console;
pub mod debug_exit;
pub mod dma;
pub mod fw_cfg;
pub mod hpet;
pub mod i8042;
pub mod interrupt_ports;
pub mod pit;
pub mod pm;
pub mod port92;
pub mod rtc;
pub mod test_device;
pub mod uart;
