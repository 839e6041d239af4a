//! Indirect jumps to places that take each other's slots in the jump cache.

use iced_x86::code_asm::*;
use system::testing::START;

use crate::support::all;

/// Where functions are copied to; no two of a row of addresses there have their pages alike.
const PLACES: u64 = START + 0x10_0000;
/// As many as are called: more than the two slots that they share.
const CALLED: usize = 5;

/// Addresses with slots next to each other, as `Frame::jump_slot` has it.
fn crowd() -> Vec<u64> {
    let slot = |rip: u64| (rip ^ rip >> 12) & 0x3fff;
    let wanted = slot(PLACES) & !1;
    let mut found: Vec<u64> = Vec::new();
    for place in PLACES..PLACES + 0x8_0000 {
        let far = found.last().is_none_or(|last| place - last >= 16);
        if slot(place) & !1 == wanted && far && found.len() < CALLED {
            found.push(place);
        }
    }
    assert_eq!(found.len(), CALLED, "too little room");
    found
}

#[test]
fn targets_that_share_a_slot() {
    let places = crowd();
    for used in 2..=CALLED {
        all(|a| {
            let (mut top, mut each) = (a.create_label(), a.create_label());
            for (n, place) in places.iter().enumerate() {
                // LEA EAX, [RAX + RAX * 2 + n]; RET
                let code =
                    u64::from_le_bytes([0x8d, 0x44, 0x40, n as u8 + 1, 0xc3, 0xf4, 0xf4, 0xf4]);
                a.mov(rax, code)?;
                a.mov(rcx, *place)?;
                a.mov(qword_ptr(rcx), rax)?;
                a.push(rcx)?;
            }
            a.xor(eax, eax)?;
            a.mov(ebx, 3000)?;
            a.mov(esi, 12345)?;
            // By chance, then in turns.
            a.set_label(&mut top)?;
            a.imul_3(esi, esi, 1_103_515_245)?;
            a.add(esi, 12345)?;
            a.mov(ecx, esi)?;
            a.shr(ecx, 16)?;
            a.imul_3(ecx, ecx, used as i32)?;
            a.shr(ecx, 16)?;
            a.call(qword_ptr(rsp + rcx * 8))?;
            a.dec(ebx)?;
            a.jnz(top)?;
            a.mov(ebx, used as u32 * 500)?;
            a.xor(ecx, ecx)?;
            a.set_label(&mut each)?;
            a.call(qword_ptr(rsp + rcx * 8))?;
            a.inc(ecx)?;
            a.xor(edx, edx)?;
            a.cmp(ecx, used as u32)?;
            a.cmove(ecx, edx)?;
            a.dec(ebx)?;
            a.jnz(each)?;
            a.hlt()
        });
    }
}
