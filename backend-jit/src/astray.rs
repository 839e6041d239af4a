//! Accesses to the one page that empty page caches name: they fault on the host, and go the way of those that miss.
//!
//! A page cache is looked at by distance, and no page can be named that every distance is too far from. The empty ones name
//! a page that no guest has, and lead to one that the host has not. So who accesses it, one page of 2^50 that is chosen by chance,
//! faults in front of memory: nothing of the access has been done, and what its check has changed, the cold way does without.

use iced_x86::{Code, Decoder, DecoderOptions};

use crate::core::Core;

impl Core {
    /// Where the access that has faulted at an address would have gone if its page cache had not known the page.
    pub fn cold_way(&self, pc: u64) -> Option<u64> {
        let id = self.block_at(self.memory.offset(pc)?)?;
        let info = self.blocks.get(id);
        let (at, len) = info.hot;
        let mut bytes = vec![0; len as usize];
        self.memory.read(at, &mut bytes);
        let cold = (self.memory.address(info.cold.0), u64::from(info.cold.1));
        way_out((self.memory.address(at), &bytes), cold, pc)
    }
}

/// Where the last check before `pc` leads when it fails: checks end with a jump to the cold part.
fn way_out((start, bytes): (u64, &[u8]), cold: (u64, u64), pc: u64) -> Option<u64> {
    let mut last = None;
    for insn in Decoder::with_ip(64, bytes, start, DecoderOptions::NONE) {
        if insn.ip() >= pc {
            return last.filter(|_| insn.ip() == pc);
        }
        let checks = matches!(
            insn.code(),
            Code::Ja_rel32_64 | Code::Jne_rel32_64 | Code::Jmp_rel32_64
        );
        let to = insn.near_branch_target();
        if checks && to.wrapping_sub(cold.0) < cold.1 {
            last = Some(to);
        }
    }
    None
}
