//! A vCPU's state as text, for messages.

use std::fmt::Write;

use x86::Seg;

use crate::Vcpu;

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

impl Vcpu {
    /// Registers, segments and control registers, several lines.
    pub fn dump(&self) -> String {
        let st = &self.st;
        let mut text = format!(
            "vCPU {}: rip {:#018x} rflags {:#x} cpl {} {:?} retired {}",
            self.index,
            st.rip,
            self.rflags(),
            st.cpl(),
            st.activity,
            self.retired
        );
        for (n, (name, value)) in NAMES.iter().zip(st.gpr).enumerate() {
            let separator = if n % 4 == 0 { "\n  " } else { " " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{name:<3} {value:016x}");
        }
        for seg in Seg::ALL {
            let s = self.seg(seg);
            let _ = write!(
                text,
                "\n  {seg:?} {:04x} base {:016x} limit {:08x} attr {:05x}",
                s.selector, s.base, s.limit, s.attr
            );
        }
        let _ = write!(
            text,
            "\n  cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x}\n  gdt {:x}+{:x} idt {:x}+{:x} ldt {:04x} tr {:04x}",
            st.cr0,
            st.cr2,
            st.cr3,
            st.cr4,
            st.efer,
            st.gdtr.base,
            st.gdtr.limit,
            st.idtr.base,
            st.idtr.limit,
            st.ldtr.selector,
            st.tr.selector
        );
        text
    }
}
