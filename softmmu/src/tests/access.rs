//! Accesses through an MMU: hits, crossings, device memory, ROM, breakpoints, strings, code.

use x86::{PhysAddr, cr0, cr4};

use super::{A, Bench, D, P, Rng, U, W, lin};
use crate::{
    AccessKind, CodeHit, Fault, Mmu, MmuIndex, PageAttr, PageFault, Place, Privilege, Run,
    TAG_MASK, TlbEntry, Watch, pf, tlb_index,
};

const CUR: Privilege = Privilege::Current;

#[test]
fn inline_accesses_hit_after_the_first() {
    let mut bench = Bench::long_mode();
    bench.map(0x1000, 0x5000 | P | W);
    let mmu = &mut bench.mmu;
    assert_eq!(mmu.try_load32(lin(0x1010)), None);
    assert!(!mmu.try_store32(lin(0x1010), 7));
    assert_eq!(mmu.store32(lin(0x1010), 0x1234_5678), Ok(()));
    assert_eq!(mmu.try_load32(lin(0x1010)), Some(0x1234_5678));
    assert_eq!(mmu.try_load8(lin(0x1013)), Some(0x12));
    assert_eq!(mmu.try_load16(lin(0x1011)), Some(0x3456));
    assert!(mmu.try_store64(lin(0x1ff8), u64::MAX));
    assert_eq!(mmu.try_load64(lin(0x1ff8)), Some(u64::MAX));
    assert_eq!(mmu.try_load64(lin(0x1ff9)), None, "a crossing never hits");
    assert!(!mmu.try_store16(lin(0x1fff), 0));
    assert!(mmu.try_store128(lin(0x1100), 5 << 64));
    assert_eq!(mmu.load128(lin(0x1100)), Ok(5 << 64));
    assert_eq!(mmu.load8(lin(0x1100)), Ok(0));
    assert_eq!(mmu.fills(), 1);
    assert_eq!(bench.ram.read_u32(PhysAddr(0x5010)), Ok(0x1234_5678));
    let host = bench
        .ram
        .host_page(PhysAddr(0x5000))
        .expect("RAM")
        .as_ptr()
        .wrapping_add(0x10);
    assert_eq!(bench.mmu.hit_read(lin(0x1010), 8), Some(host));
    assert_eq!(bench.mmu.hit_write(lin(0x1010), 8), Some(host));
    assert_eq!(bench.mmu.hit_read(lin(0x1ffc), 8), None);
}

#[test]
fn a_read_gives_no_right_to_write_until_dirty() {
    let mut bench = Bench::long_mode();
    bench.map(0x1000, 0x5000 | P | W);
    let place = bench.place(bench.mmu.state().cr3, 0x1000, 1);
    assert_eq!(bench.mmu.load8(lin(0x1000)), Ok(0));
    assert_eq!(bench.read(place), 0x5000 | P | W | A);
    assert!(!bench.mmu.try_store8(lin(0x1000), 1));
    assert_eq!(bench.mmu.store8(lin(0x1000), 1), Ok(()));
    assert_eq!(bench.read(place), 0x5000 | P | W | A | D);
    assert!(bench.mmu.try_store8(lin(0x1000), 1));
    // A dirty page may be written at once after a read.
    bench.mmu.flush_all();
    assert_eq!(bench.mmu.load8(lin(0x1000)), Ok(1));
    assert!(bench.mmu.try_store8(lin(0x1000), 2));
}

#[test]
fn crossings_are_all_or_nothing() {
    let mut bench = Bench::long_mode();
    bench.map(0x1000, 0x5000 | P | W);
    bench.map(0x2000, 0x9000 | P);
    bench.map(0x4000, 0x7000 | P | W);
    for offset in 1..8u64 {
        let at = 0x2000 - offset;
        bench.ram.fill(PhysAddr(0x5ff0), 16, 0xaa).expect("RAM");
        let fault = Fault::Page(PageFault {
            lin: lin(0x2000),
            error: pf::P | pf::W,
        });
        assert_eq!(bench.mmu.store64(lin(at), 0), Err(fault));
        assert_eq!(bench.mmu.rmw(lin(at), 8, |_| 0), Err(fault));
        assert_eq!(bench.mmu.rmw_locked(lin(at), 8, |_| 0), Err(fault));
        assert_eq!(bench.mmu.xchg(lin(at), 8, 0), Err(fault));
        assert_eq!(bench.mmu.store_bytes(lin(at), &[0; 4200], CUR), Err(fault));
        assert_eq!(bench.mmu.probe_write(lin(at), 8, CUR), Err(fault));
        assert_eq!(
            bench.ram.read_u64(PhysAddr(0x5ff8)),
            Ok(0xaaaa_aaaa_aaaa_aaaa),
            "nothing was written"
        );
        // Reading across works, the fault in the first page comes first.
        bench
            .ram
            .write_u64(PhysAddr(0x9000), 0x1122_3344_5566_7788)
            .expect("RAM");
        let mut expected = [0xaau8; 8];
        expected[offset as usize..]
            .copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes()[..8 - offset as usize]);
        assert_eq!(bench.mmu.load64(lin(at)), Ok(u64::from_le_bytes(expected)));
        let fault = Fault::Page(PageFault {
            lin: lin(0x4000 - offset),
            error: pf::W,
        });
        assert_eq!(bench.mmu.store64(lin(0x4000 - offset), 0), Err(fault));
        let fault = Fault::Page(PageFault {
            lin: lin(0x5000),
            error: 0,
        });
        assert_eq!(bench.mmu.load64(lin(0x5000 - offset)), Err(fault));
    }
    // Across two pages that lie apart.
    bench.map(0x5000, 0x3000 | P | W);
    bench
        .mmu
        .store64(lin(0x4ffd), 0x8877_6655_4433_2211)
        .expect("both writable");
    assert_eq!(
        bench.ram.read_u32(PhysAddr(0x7ffc)).map(|v| v >> 8),
        Ok(0x33_2211)
    );
    assert_eq!(
        bench
            .ram
            .read_u64(PhysAddr(0x3000))
            .map(|v| v & 0xff_ffff_ffff),
        Ok(0x88_7766_5544)
    );
    assert_eq!(
        bench.mmu.rmw(lin(0x4ffd), 8, |old| old + 1),
        Ok(0x8877_6655_4433_2211)
    );
    assert_eq!(bench.mmu.xadd(lin(0x4ffd), 8, 1), Ok(0x8877_6655_4433_2212));
    assert_eq!(
        bench.mmu.cmpxchg(lin(0x4ffd), 8, 0, 1),
        Ok(0x8877_6655_4433_2213)
    );
    assert_eq!(
        bench.mmu.cmpxchg(lin(0x4ffd), 8, 0x8877_6655_4433_2213, 1),
        Ok(0x8877_6655_4433_2213)
    );
    assert_eq!(bench.mmu.load64(lin(0x4ffd)), Ok(1));
}

#[test]
fn long_accesses_cross_many_pages() {
    let mut bench = Bench::long_mode();
    for page in 0..24u64 {
        bench.map(
            0x10_0000 + page * 4096,
            (0x20_0000 + (page * 7 % 24) * 4096) | P | W | U,
        );
    }
    let bytes: Vec<u8> = (0..70_000u32).map(|i| ((i * 13) >> 3) as u8).collect();
    bench
        .mmu
        .store_bytes(lin(0x10_0123), &bytes, CUR)
        .expect("mapped");
    let mut back = vec![0; bytes.len()];
    bench
        .mmu
        .load_bytes(lin(0x10_0123), &mut back, Privilege::User)
        .expect("mapped");
    assert_eq!(back, bytes);
    assert_eq!(
        bench.ram.read_u8(PhysAddr(0x20_0000 + 7 * 4096)),
        Ok(bytes[4096 - 0x123])
    );
    assert!(
        bench
            .mmu
            .load_bytes(lin(0x11_7fff), &mut [0; 2], CUR)
            .is_err()
    );
    assert_eq!(bench.mmu.probe_read(lin(0x10_0000), 24 * 4096, CUR), Ok(()));
    let beyond = Fault::Page(PageFault {
        lin: lin(0x11_8000),
        error: 0,
    });
    assert_eq!(
        bench.mmu.probe_read(lin(0x10_0000), 24 * 4096 + 1, CUR),
        Err(beyond)
    );
}

#[test]
fn linear_addresses_wrap_at_4_gib_outside_long_mode() {
    let mut bench = Bench::new();
    // Paging is off: the last bytes below 4 GiB are device memory, the next ones RAM at 0.
    bench.ram.write_u16(PhysAddr(0), 0x5566).expect("RAM");
    assert_eq!(bench.mmu.load32(lin(0xffff_fffe)), Ok(0x5566_fffe));
    assert_eq!(bench.bus.take(), [(false, 0xffff_fffe, 2, 0xfffe)]);
}

#[test]
fn a_fault_after_the_wrap_is_told_at_0() {
    let mut bench = Bench::new();
    // 32-bit paging: the last page is there, the first isn't.
    bench
        .ram
        .write_u32(PhysAddr(0x1000 + 1023 * 4), 0x2000 | 3)
        .expect("RAM");
    bench
        .ram
        .write_u32(PhysAddr(0x2000 + 1023 * 4), 0x5000 | 3)
        .expect("RAM");
    bench.mmu.write_cr3(0x1000, false).expect("paging is off");
    bench.mmu.write_cr0(cr0::PE | cr0::PG).expect("no PDPTEs");
    bench.mmu.store16(lin(0xffff_fffe), 1).expect("mapped");
    let fault = |error| Fault::Page(PageFault { lin: lin(0), error });
    assert_eq!(bench.mmu.store32(lin(0xffff_fffe), 1), Err(fault(pf::W)));
    assert_eq!(
        bench.mmu.probe_read(lin(0xffff_fffe), 4, CUR),
        Err(fault(0))
    );
}

#[test]
fn device_accesses_split_to_natural_sizes() {
    let mut bench = Bench::new();
    // Address, size, and the offset and size of each part.
    type Case = (u64, usize, &'static [(u64, u8)]);
    let cases: &[Case] = &[
        (0xfee0_0000, 1, &[(0, 1)]),
        (0xfee0_0000, 4, &[(0, 4)]),
        (0xfee0_0008, 8, &[(8, 8)]),
        (0xfee0_0002, 4, &[(2, 2), (4, 2)]),
        (0xfee0_0001, 4, &[(1, 1), (2, 2), (4, 1)]),
        (0xfee0_0003, 8, &[(3, 1), (4, 4), (8, 2), (10, 1)]),
        (0xfee0_0004, 8, &[(4, 4), (8, 4)]),
        (0xfee0_0000, 16, &[(0, 8), (8, 8)]),
        (0xfee0_0000, 3, &[(0, 2), (2, 1)]),
        (0xfee0_0ffe, 4, &[(0xffe, 2), (0x1000, 2)]),
    ];
    for &(at, size, parts) in cases {
        let bytes: Vec<u8> = (0..size)
            .map(|i| (at as u8).wrapping_add(i as u8))
            .collect();
        let mut read = vec![0; size];
        bench
            .mmu
            .load_bytes(lin(at), &mut read, CUR)
            .expect("paging is off");
        let got = bench.bus.take();
        let places: Vec<_> = got
            .iter()
            .map(|&(write, at, size, _)| (write, at - 0xfee0_0000, size))
            .collect();
        assert_eq!(
            places,
            parts
                .iter()
                .map(|&(at, size)| (false, at, size))
                .collect::<Vec<_>>(),
            "{at:#x} {size}"
        );
        bench
            .mmu
            .store_bytes(lin(at), &bytes, CUR)
            .expect("paging is off");
        let written = bench.bus.take();
        assert_eq!(written.len(), parts.len());
        // What is read in parts is what is written in parts.
        for (read, written) in got.iter().zip(&written) {
            assert_eq!((written.0, written.1, written.2), (true, read.1, read.2));
            let mask = u64::MAX >> (64 - 8 * u32::from(read.2));
            let start = (written.1 - at) as usize;
            let mut value = [0; 8];
            value[..usize::from(read.2)]
                .copy_from_slice(&bytes[start..start + usize::from(read.2)]);
            assert_eq!(written.3 & mask, u64::from_le_bytes(value));
        }
    }
    assert_eq!(
        bench.mmu.try_load32(lin(0xfee0_0000)),
        None,
        "device memory never hits"
    );
    assert_eq!(bench.mmu.xchg(lin(0xfee0_0010), 4, 9), Ok(0x1312_1110));
    assert_eq!(
        bench.bus.take(),
        [
            (false, 0xfee0_0010, 4, 0x1312_1110),
            (true, 0xfee0_0010, 4, 9)
        ]
    );
    assert_eq!(
        bench.mmu.fetch_page(lin(0xfee0_0000)).map(|page| page.ram),
        Ok(false)
    );
}

#[test]
fn rom_swallows_stores() {
    let mut bench = Bench::new();
    bench
        .ram
        .load_bytes(PhysAddr(0xc_0000), &[0x55, 0xaa])
        .expect("RAM");
    bench
        .mmu
        .store8(lin(0xc_0000), 0x55)
        .expect("paging is off");
    bench.ram.set_attr(PhysAddr(0xc_0000), 4096, PageAttr::Rom);
    bench.mmu.sync();
    assert_eq!(bench.mmu.store16(lin(0xc_0000), 0), Ok(()));
    assert_eq!(bench.mmu.xchg(lin(0xc_0000), 2, 0), Ok(0xaa55));
    assert_eq!(bench.mmu.rmw(lin(0xc_0000), 2, |_| 0), Ok(0xaa55));
    assert_eq!(bench.mmu.cmpxchg16b(lin(0xc_0000), 0xaa55, 0), Ok(0xaa55));
    assert_eq!(bench.mmu.load16(lin(0xc_0000)), Ok(0xaa55));
    assert_eq!(bench.mmu.try_load16(lin(0xc_0000)), Some(0xaa55));
    assert!(!bench.mmu.try_store16(lin(0xc_0000), 0));
}

#[test]
fn a20_changes_reach_the_tlb_through_sync() {
    let mut bench = Bench::new();
    bench.mmu.store8(lin(0x10_0000), 7).expect("paging is off");
    bench.ram.set_a20(false);
    bench.mmu.sync();
    bench.mmu.store8(lin(0x10_0000), 9).expect("paging is off");
    assert_eq!(
        (
            bench.ram.read_u8(PhysAddr(0)),
            bench.ram.read_u8(PhysAddr(0x10_0000))
        ),
        (Ok(9), Ok(7))
    );
}

#[test]
fn privileges_use_their_own_tables() {
    let mut bench = Bench::long_mode();
    bench.map(0x1000, 0x5000 | P | W | U);
    bench.map(0x2000, 0x6000 | P | W);
    bench
        .mmu
        .write_cr4(bench.mmu.state().cr4 | cr4::SMAP)
        .expect("no PDPTEs");
    let fault = |at, error| {
        Fault::Page(PageFault {
            lin: lin(at),
            error,
        })
    };
    assert_eq!(bench.mmu.index(), MmuIndex::SuperSmap);
    assert_eq!(bench.mmu.load8(lin(0x1000)), Err(fault(0x1000, pf::P)));
    assert_eq!(bench.mmu.load8(lin(0x2000)), Ok(0));
    bench.mmu.set_ac(true);
    assert_eq!(bench.mmu.load8(lin(0x1000)), Ok(0));
    assert_eq!(
        bench.mmu.load(lin(0x1000), 1, Privilege::Implicit),
        Err(fault(0x1000, pf::P))
    );
    assert_eq!(bench.mmu.load(lin(0x2000), 1, Privilege::Implicit), Ok(0));
    assert_eq!(
        bench.mmu.load(lin(0x2000), 1, Privilege::User),
        Err(fault(0x2000, pf::P | pf::U))
    );
    bench.mmu.set_ac(false);
    assert_eq!(bench.mmu.load8(lin(0x1000)), Err(fault(0x1000, pf::P)));
    bench.mmu.set_cpl(3);
    assert_eq!(bench.mmu.load8(lin(0x1000)), Ok(0));
    assert_eq!(
        bench.mmu.store8(lin(0x2000), 1),
        Err(fault(0x2000, pf::P | pf::U | pf::W))
    );
    assert_eq!(
        bench.mmu.store(lin(0x2000), 1, 1, Privilege::Supervisor),
        Ok(())
    );
    assert_eq!(bench.mmu.load(lin(0x2000), 1, Privilege::Implicit), Ok(1));
    // Back and forth: nothing was lost.
    let fills = bench.mmu.fills();
    assert_eq!(bench.mmu.try_load8(lin(0x1000)), Some(0));
    bench.mmu.set_cpl(0);
    assert_eq!(bench.mmu.try_load8(lin(0x2000)), Some(1));
    assert_eq!(bench.mmu.fills(), fills);
}

#[test]
fn locked_operations_add_up_at_every_alignment() {
    let mut bench = Bench::new();
    for size in [1u32, 2, 4, 8] {
        let mask = u64::MAX >> (64 - 8 * size);
        for offset in 0..64u64 {
            let at = lin(0x3000 + offset);
            bench
                .mmu
                .store(at, size, 0x1122_3344_5566_7788, CUR)
                .expect("RAM");
            let old = 0x1122_3344_5566_7788 & mask;
            assert_eq!(bench.mmu.xadd(at, size, 0x1_0101), Ok(old));
            let old = old.wrapping_add(0x1_0101) & mask;
            assert_eq!(bench.mmu.rmw_locked(at, size, |old| !old), Ok(old));
            assert_eq!(bench.mmu.cmpxchg(at, size, old, 5), Ok(!old & mask));
            assert_eq!(bench.mmu.cmpxchg(at, size, !old, 5), Ok(!old & mask));
            assert_eq!(bench.mmu.xchg(at, size, u64::MAX), Ok(5));
            assert_eq!(bench.mmu.rmw(at, size, |old| old & 0xf0), Ok(mask));
            assert_eq!(bench.mmu.load(at, size, CUR), Ok(0xf0));
        }
    }
    assert_eq!(bench.mmu.cmpxchg16b(lin(0x4000), 0, u128::MAX / 3), Ok(0));
    assert_eq!(bench.mmu.cmpxchg16b(lin(0x4000), 0, 1), Ok(u128::MAX / 3));
    assert_eq!(bench.mmu.load128(lin(0x4000)), Ok(u128::MAX / 3));
}

#[test]
fn breakpoints_hit_what_touches_them() {
    let mut bench = Bench::new();
    bench.mmu.store8(lin(0x3100), 0).expect("RAM");
    bench.mmu.set_watch(
        0,
        Some(Watch {
            lin: lin(0x3100),
            len: 4,
            on_read: false,
        }),
    );
    bench.mmu.set_watch(
        2,
        Some(Watch {
            lin: lin(0x3ff8),
            len: 8,
            on_read: true,
        }),
    );
    let hits = |mmu: &mut Mmu, f: &dyn Fn(&mut Mmu)| {
        f(mmu);
        mmu.take_watch_hits()
    };
    let mmu = &mut bench.mmu;
    assert!(!mmu.try_store8(lin(0x3100), 0));
    assert_eq!(
        hits(mmu, &|mmu| mmu.store8(lin(0x3103), 1).expect("RAM")),
        1
    );
    assert_eq!(
        hits(mmu, &|mmu| mmu.store8(lin(0x3104), 1).expect("RAM")),
        0
    );
    assert_eq!(
        hits(mmu, &|mmu| mmu.store64(lin(0x30f9), 1).expect("RAM")),
        1
    );
    assert_eq!(
        hits(mmu, &|mmu| mmu.store64(lin(0x30f8), 1).expect("RAM")),
        0
    );
    assert_eq!(
        hits(mmu, &|mmu| assert!(mmu.load64(lin(0x3100)).is_ok())),
        0
    );
    assert_eq!(hits(mmu, &|mmu| assert!(mmu.load8(lin(0x3fff)).is_ok())), 4);
    assert_eq!(
        hits(mmu, &|mmu| assert!(mmu.load64(lin(0x3ffc)).is_ok())),
        4,
        "across the page"
    );
    assert_eq!(
        hits(mmu, &|mmu| assert!(mmu.xadd(lin(0x3100), 4, 1).is_ok())),
        1
    );
    assert_eq!(
        hits(mmu, &|mmu| assert!(
            mmu.rmw(lin(0x3100), 4, |old| old).is_ok()
        )),
        1
    );
    let run = mmu.string_run(lin(0x3000), 8, 8, false, AccessKind::Write, CUR);
    assert!(matches!(run, Ok(Run::Single)));
    mmu.set_watch(0, None);
    mmu.set_watch(2, None);
    assert_eq!(
        hits(mmu, &|mmu| mmu.store8(lin(0x3100), 1).expect("RAM")),
        0
    );
    assert!(mmu.try_store8(lin(0x3100), 1));
}

#[test]
fn strings_run_to_the_page_end() {
    let mut bench = Bench::long_mode();
    for page in 0..4u64 {
        bench.map(0x10_0000 + page * 4096, (0x20_0000 + page * 4096) | P | W);
    }
    let count = |run: Result<Run, Fault>| match run {
        Ok(Run::Ram(run)) => run.count(),
        Ok(Run::Single) => 0,
        Err(_) => u64::MAX,
    };
    let run = |bench: &mut Bench, at, size, max, backward, kind| {
        bench
            .mmu
            .string_run(lin(at), size, max, backward, kind, CUR)
    };
    assert_eq!(
        count(run(&mut bench, 0x10_0000, 4, 5000, false, AccessKind::Read)),
        1024
    );
    assert_eq!(
        count(run(&mut bench, 0x10_0001, 4, 5000, false, AccessKind::Read)),
        1023
    );
    assert_eq!(
        count(run(&mut bench, 0x10_0ffd, 4, 5000, false, AccessKind::Read)),
        0
    );
    assert_eq!(
        count(run(&mut bench, 0x10_0ffc, 4, 7, false, AccessKind::Read)),
        1
    );
    assert_eq!(
        count(run(&mut bench, 0x10_0ffc, 4, 5000, true, AccessKind::Read)),
        1024
    );
    assert_eq!(
        count(run(&mut bench, 0x10_0006, 4, 5000, true, AccessKind::Read)),
        2
    );
    assert_eq!(
        count(run(&mut bench, 0x10_0006, 4, 1, true, AccessKind::Read)),
        1
    );
    assert_eq!(
        count(run(&mut bench, 0x11_0000, 4, 1, true, AccessKind::Read)),
        u64::MAX
    );
    let mut rng = Rng(7);
    let mut model = vec![0u8; 4 * 4096];
    for byte in &mut model {
        *byte = rng.next() as u8;
    }
    bench.ram.write(PhysAddr(0x20_0000), &model).expect("RAM");
    for _ in 0..500 {
        let size = 1u64 << rng.below(4);
        let backward = rng.below(2) == 0;
        let (from, to) = (4096 + rng.below(8000), 4096 + rng.below(8000));
        let max = 1 + rng.below(600);
        let source = run(
            &mut bench,
            0x10_0000 + from,
            size as u32,
            max,
            backward,
            AccessKind::Read,
        );
        let target = run(
            &mut bench,
            0x10_0000 + to,
            size as u32,
            max,
            backward,
            AccessKind::Write,
        );
        let (Ok(Run::Ram(source)), Ok(Run::Ram(target))) = (source, target) else {
            continue;
        };
        let n = source.count().min(target.count());
        let value = rng.next();
        let fill = rng.below(3) == 0;
        if fill {
            bench.mmu.fill_run(&target, n, value);
        } else {
            bench.mmu.copy_run(&target, &source, n);
        }
        for i in 0..n {
            let place = |start: u64| {
                (if backward {
                    start - i * size
                } else {
                    start + i * size
                }) as usize
            };
            if fill {
                model[place(to)..place(to) + size as usize]
                    .copy_from_slice(&value.to_le_bytes()[..size as usize]);
            } else {
                model.copy_within(place(from)..place(from) + size as usize, place(to));
            }
        }
        let mut bytes = vec![0; model.len()];
        bench
            .ram
            .read(PhysAddr(0x20_0000), &mut bytes)
            .expect("RAM");
        assert!(bytes == model, "{size} {backward} {from:#x} {to:#x} {n}");
        assert_eq!(
            bench.mmu.run_load(&target, n - 1).to_le_bytes()[..size as usize],
            {
                let at = (if backward {
                    to - (n - 1) * size
                } else {
                    to + (n - 1) * size
                }) as usize;
                model[at..at + size as usize].to_vec()
            }
        );
    }
}

#[test]
fn stores_to_code_take_the_slow_path_and_are_told() {
    let mut bench = Bench::new();
    let mmu = &mut bench.mmu;
    mmu.store8(lin(0x3000), 1).expect("RAM");
    assert!(mmu.try_store8(lin(0x3000), 1), "a plain tag");
    let generation = mmu.data_gen;
    let stamp = mmu.mark_code(PhysAddr(0x3100), 0x40).expect("RAM");
    assert!(mmu.data_gen > generation, "the plain tag has gone");
    assert!(mmu.ram().is_settled(stamp), "no other vCPU");
    assert!(!mmu.try_store8(lin(0x3000), 1));
    mmu.store8(lin(0x3000), 1).expect("RAM");
    assert!(
        !mmu.take_code_hit() && mmu.code_valid(PhysAddr(0x3100), stamp),
        "data beside code"
    );
    let ways: &[&dyn Fn(&mut Mmu)] = &[
        &|mmu| mmu.store8(lin(0x3100), 1).expect("RAM"),
        &|mmu| mmu.store64(lin(0x30f9), 1).expect("RAM"),
        &|mmu| assert!(mmu.xadd(lin(0x3110), 4, 1).is_ok()),
        &|mmu| assert!(mmu.xchg(lin(0x3110), 4, 1).is_ok()),
        &|mmu| assert!(mmu.rmw(lin(0x3110), 4, |old| old + 1).is_ok()),
        &|mmu| assert!(mmu.rmw_locked(lin(0x3110), 4, |old| old + 1).is_ok()),
        &|mmu| assert!(mmu.cmpxchg(lin(0x3120), 4, 0, 0).is_ok()),
        &|mmu| assert!(mmu.cmpxchg16b(lin(0x3130), 0, 0).is_ok()),
        &|mmu| mmu.store_bytes(lin(0x3000), &[0; 0x101], CUR).expect("RAM"),
        &|mmu| {
            let run = mmu.string_run(lin(0x3108), 8, 4, true, AccessKind::Write, CUR);
            let Ok(Run::Ram(run)) = run else {
                panic!("{run:?}")
            };
            mmu.fill_run(&run, 2, 0);
        },
    ];
    for (i, way) in ways.iter().enumerate() {
        let stamp = mmu.mark_code(PhysAddr(0x3100), 0x40).expect("RAM");
        way(mmu);
        assert!(mmu.take_code_hit(), "way {i}");
        assert!(!mmu.code_valid(PhysAddr(0x3100), stamp));
        assert!(!mmu.take_code_hit());
    }
    bench
        .ram
        .write(PhysAddr(0x3ffe), &[1, 2, 3, 4])
        .expect("RAM");
    assert!(bench.mmu.code_matches(PhysAddr(0x3ffe), &[1, 2, 3, 4]));
    assert!(!bench.mmu.code_matches(PhysAddr(0x3ffe), &[1, 2, 3, 5]));
    assert!(bench.mmu.mark_code(PhysAddr(0xfee0_0000), 4).is_none());
}

#[test]
fn stores_beside_code_are_made_in_place() {
    let mut bench = Bench::new();
    let mmu = &mut bench.mmu;
    let place = |mmu: &mut Mmu, at, size| mmu.place(lin(at), size, true).expect("RAM");
    let base = mmu.ram().host_address(PhysAddr(0x3000)).expect("RAM");
    let stamp = mmu.mark_code(PhysAddr(0x3100), 0x40).expect("RAM");
    for _ in 0..2 {
        assert_eq!(place(mmu, 0x3000, 8), Place::Ram(base));
        assert!(!mmu.try_store8(lin(0x3000), 1), "not a plain tag");
        assert_eq!(place(mmu, 0x30f8, 8), Place::Ram(base + 0xf8));
        assert_eq!(place(mmu, 0x30f9, 8), Place::Code);
        assert_eq!(place(mmu, 0x313f, 1), Place::Code);
        assert_eq!(place(mmu, 0x3140, 64), Place::Ram(base + 0x140));
    }
    assert!(mmu.code_valid(PhysAddr(0x3100), stamp) && !mmu.take_code_hit());
    assert_eq!(mmu.take_hits().exactly(0).map(<[_]>::len), Some(0));
    mmu.store8(lin(0x3100), 1).expect("RAM");
    let hit = CodeHit {
        page: PhysAddr(0x3000),
        lines: 1 << 4,
    };
    assert_eq!(mmu.take_hits().exactly(1), Some(&[hit][..]));
    // No code is left: the tag becomes plain, until there is code again.
    assert_eq!(place(mmu, 0x3000, 8), Place::Ram(base));
    assert!(mmu.try_store8(lin(0x3100), 1));
    mmu.mark_code(PhysAddr(0x3100), 0x40).expect("RAM");
    assert!(!mmu.try_store8(lin(0x3000), 1));
    assert_eq!(place(mmu, 0x3100, 8), Place::Code);
}

#[test]
fn the_dirty_log_names_the_pages_written() {
    let mut bench = Bench::new();
    bench.mmu.store8(lin(0x3000), 1).expect("RAM");
    bench.ram.set_dirty_log(true);
    bench.mmu.sync();
    for round in 0..3 {
        assert_eq!(
            bench.mmu.load8(lin(0x5000)),
            Ok(if round == 0 { 0 } else { 9 })
        );
        bench.mmu.store8(lin(0x5000), 9).expect("RAM");
        bench.mmu.store8(lin(0x5001), 9).expect("RAM");
        bench.mmu.store64(lin(0x7ffc), 9).expect("RAM");
        assert!(
            bench.mmu.try_store8(lin(0x5000), 9),
            "only the first store is slow"
        );
        let mut pages = Vec::new();
        bench.ram.take_dirty(|page| pages.push(page.0));
        assert_eq!(pages, [0x5000, 0x7000, 0x8000]);
        bench.mmu.sync();
    }
}

#[test]
fn inline_code_finds_the_entry_by_the_published_layout() {
    let mut bench = Bench::long_mode();
    for at in [0x7654_3000u64, 0xffff_8880_1234_5000] {
        bench.map(at, 0x5000 | P | W);
        bench.mmu.store32(lin(at + 8), 77).expect("mapped");
        let table = bench.mmu.data[(at >> 63) as usize].cast::<u8>();
        let entry = table.wrapping_add(tlb_index(at) << crate::ENTRY_SHIFT);
        let word = |offset: usize| {
            let wanted = entry.wrapping_add(offset);
            let field = bench
                .mmu
                .hit_read(lin(at), 8)
                .map(|host| (host as u64).wrapping_sub(at));
            (wanted as usize % 8, field)
        };
        let host = bench.ram.host_page(PhysAddr(0x5000)).expect("RAM").as_ptr() as u64;
        assert_eq!(
            word(TlbEntry::OFFSET_ADDEND),
            (0, Some(host.wrapping_sub(at)))
        );
        assert_eq!(at & TAG_MASK, at);
    }
    let offsets = [
        Mmu::OFFSET_DATA,
        Mmu::OFFSET_TABLES,
        Mmu::OFFSET_MAP_GEN,
        Mmu::OFFSET_DATA_GEN,
    ];
    assert_eq!(offsets, [0, 16, 64, 80]);
    assert_eq!((Mmu::OFFSET_CODE_HIT, Mmu::OFFSET_WATCH_HITS), (88, 92));
}

#[test]
fn fetches_know_their_page() {
    let mut bench = Bench::long_mode();
    bench.map(0x1000, 0x5000 | P);
    bench.map(0x2000, 0x6000 | P | super::NX);
    bench.ram.write(PhysAddr(0x5ffd), &[1, 2, 3]).expect("RAM");
    assert_eq!(bench.mmu.hit_exec(lin(0x1ffd)), None);
    assert_eq!(bench.mmu.load8(lin(0x1000)), Ok(0));
    assert_eq!(
        bench.mmu.hit_exec(lin(0x1ffd)),
        None,
        "fetched through by fetches only"
    );
    let page = bench.mmu.fetch_page(lin(0x1ffd)).expect("executable");
    assert_eq!((page.page, page.ram), (PhysAddr(0x5000), true));
    assert_eq!(bench.mmu.hit_exec(lin(0x1ffd)), Some(PhysAddr(0x5ffd)));
    let mut bytes = [0; 15];
    assert_eq!(bench.mmu.fetch_bytes(lin(0x1ffd), &mut bytes), Ok(3));
    assert_eq!(bytes[..4], [1, 2, 3, 0]);
    let fault = Fault::Page(PageFault {
        lin: lin(0x2000),
        error: pf::P | pf::ID,
    });
    assert_eq!(bench.mmu.fetch_page(lin(0x2000)), Err(fault));
    assert_eq!(
        bench.mmu.translate_debug(lin(0x2345)),
        Some(PhysAddr(0x6345))
    );
    assert_eq!(bench.mmu.translate_debug(lin(0x3345)), None);
}

#[test]
fn a_large_page_is_known_whole_where_nothing_in_it_is_odd() {
    const AT: u64 = 0x4060_0000;
    const HUGE: u64 = 0x8000_0000;
    const PHYSICAL: u64 = 0x20_0000;
    const WHOLE: u64 = 2 << 20;
    let mut bench = Bench::long_mode();
    let root = bench.new_table();
    let user = P | W | U;
    let large = bench.place(root, AT, 2);
    bench.write(large, PHYSICAL | user | super::PS);
    // Of 1 GiB RAM has 16 MiB.
    let huge = bench.place(root, HUGE, 3);
    bench.write(huge, user | super::PS);
    let small = bench.place(root, AT + WHOLE, 1);
    bench.write(small, PHYSICAL | user);
    let supervisors = bench.place(root, AT + 2 * WHOLE, 2);
    bench.write(supervisors, PHYSICAL | P | W | super::PS);
    bench.mmu.restore(super::long_state(root));
    let load = |bench: &mut Bench, at| bench.mmu.load8(lin(at)).expect("mapped");

    // Nothing is known, then a part; of others nothing.
    assert_eq!(bench.mmu.large(AT + 0x5000), None);
    load(&mut bench, AT + 0x5000);
    let addend = bench.mmu.large(AT + 0x5123).expect("known");
    assert_eq!(bench.mmu.large(AT + 0x6000), None);
    let place = bench.mmu.hit_read(lin(AT + 0x5000), 1).expect("known");
    let place = place.expose_provenance() as u64;
    assert_eq!(place, (AT + 0x5000).wrapping_add(addend));
    load(&mut bench, AT + WHOLE);
    assert_eq!(bench.mmu.large(AT + WHOLE), None);
    load(&mut bench, HUGE + PHYSICAL);
    assert!(bench.mmu.large(HUGE + PHYSICAL).is_some());
    // Memory has a hole there.
    load(&mut bench, HUGE);
    assert_eq!(bench.mmu.large(HUGE), None);

    // Who runs matters.
    load(&mut bench, AT + 2 * WHOLE);
    assert!(bench.mmu.large(AT + 2 * WHOLE).is_some());
    bench.mmu.set_cpl(3);
    assert_eq!(bench.mmu.large(AT + 2 * WHOLE), None);
    load(&mut bench, AT + 0x5000);
    assert_eq!(bench.mmu.large(AT + 0x5000), Some(addend));

    // A breakpoint anywhere in it.
    let watch = Watch {
        lin: lin(AT + 0x10_0000),
        len: 8,
        on_read: true,
    };
    let generation = bench.mmu.data_gen;
    bench.mmu.set_watch(1, Some(watch));
    assert!(bench.mmu.data_gen > generation);
    load(&mut bench, AT + 0x5000);
    assert_eq!(bench.mmu.large(AT + 0x5000), None);
    bench.mmu.set_watch(1, None);
    load(&mut bench, AT + 0x5000);
    assert_eq!(bench.mmu.large(AT + 0x5000), Some(addend));

    // Half of it is the other half.
    bench.ram.set_a20(false);
    bench.mmu.sync();
    load(&mut bench, AT + 0x5000);
    assert_eq!(bench.mmu.large(AT + 0x5000), None);
}
