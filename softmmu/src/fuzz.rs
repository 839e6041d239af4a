//! Fuzz entries: guest-controlled paging state and tables as bytes.

use x86::{LinAddr, PhysAddr};

use crate::paging::{Access, AccessKind, PagingState};
use crate::ram::GuestRam;
use crate::walk::{peek, probe, read_pdptes, walk as translate};

/// Takes fixed-size pieces off the front of the input; zeros when it has ended.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut piece = [0; N];
        let len = self.0.len().min(N);
        piece[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        piece
    }

    fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Walks with a paging state and paging structures made of `data`. Panics if a walk does what it must not: if a
/// probe and a walk disagree, if a second walk of a permitted access faults, or a page lies beyond MAXPHYADDR.
pub fn walk(data: &[u8]) {
    let mut input = Input(data);
    let pages = 1 + u64::from(input.byte() % 16);
    let Ok(ram) = GuestRam::new(pages * 4096) else {
        return;
    };
    let mut state = PagingState::new(32 + input.byte() % 21);
    let flags = input.byte();
    state.cpl = flags & 3;
    state.ac = flags & 4 != 0;
    state.gib_pages = flags & 8 != 0;
    state.pse36 = flags & 16 != 0;
    ram.set_a20(flags & 32 == 0);
    state.cr0 = input.word() | x86::cr0::PG;
    state.cr4 = input.word();
    state.efer = input.word();
    // Keep the roots inside RAM more often than not.
    let root = input.word();
    state.cr3 = if root & 1 == 0 {
        root % (pages * 4096)
    } else {
        root
    };
    state.pkru = input.word() as u32;
    for pdpte in &mut state.pdptes {
        *pdpte = input.word() % (pages * 4096);
    }
    let accesses: [_; 4] = std::array::from_fn(|_| (input.word(), input.byte()));
    // The rest lies in RAM, as entries whose addresses are mostly folded into RAM.
    let mut at = 0;
    while !input.0.is_empty() && at < pages * 4096 {
        let entry = input.word();
        let entry = if entry & 1 << 11 == 0 {
            entry & !0x000f_ffff_ffff_f000 | entry & ((pages - 1) << 12)
        } else {
            entry
        };
        // Inside RAM by the loop's condition.
        let _ = ram.write_u64(PhysAddr(at), entry);
        at += 8;
    }
    for (lin, how) in accesses {
        let kind = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch][usize::from(how % 3)];
        let access = Access {
            kind,
            user: how & 64 != 0,
            implicit: how & 128 != 0 && how & 64 == 0,
        };
        let expected = probe(&ram, &state, LinAddr(lin), access);
        let found = translate(&ram, &state, LinAddr(lin), access);
        match (&expected, &found) {
            (Ok(before), Ok(after)) => {
                // Setting flags can change tables that map themselves, so only the first step is compared.
                assert!(
                    after.page.0 <= state.physical_mask(),
                    "a page beyond MAXPHYADDR"
                );
                assert_eq!(before.size, after.size);
            }
            (Err(before), Err(after)) => assert_eq!(before, after),
            // A table that is its own page may have changed under the walk.
            _ => {}
        }
        peek(&ram, &state, LinAddr(lin));
    }
    let _ = read_pdptes(&ram, state.cr3, state.maxphyaddr);
}

#[cfg(test)]
mod tests {
    #[test]
    fn random_tables_do_no_harm() {
        let mut rng = crate::tests::Rng(0x5eed);
        for round in 0..3000 {
            let len = (rng.next() % 3000) as usize;
            let mut data: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
            // Entries that are present with rights and no reserved bits keep the walk going.
            if round % 2 == 0 {
                for entry in data.chunks_exact_mut(8).skip(16) {
                    entry[0] |= 7;
                    entry[1] &= !8;
                    entry[7] = 0;
                }
            }
            super::walk(&data);
        }
    }

    #[test]
    fn the_corner_inputs_do_no_harm() {
        super::walk(&[]);
        super::walk(&[0xff; 4096]);
        super::walk(&[0; 100]);
    }
}
