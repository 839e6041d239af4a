//! Each event that flushes: what it must drop, and what it must not lose.

use x86::{cr0, cr4, efer};

use super::{Bench, G, P, PS, U, W, lin, long_state};

/// Pages in both halves, global and not, and a large one in each; all mapped to pages that hold their tag.
const LOW: u64 = 0x40_0000;
const LOW_GLOBAL: u64 = 0x41_0000;
const LOW_LARGE: u64 = 0x60_0000;
const HIGH: u64 = 0xffff_8880_0040_0000;
const HIGH_GLOBAL: u64 = 0xffff_8880_0041_0000;
const HIGH_LARGE: u64 = 0xffff_8880_0060_0000;
const ALL: [u64; 6] = [LOW, LOW_GLOBAL, LOW_LARGE, HIGH, HIGH_GLOBAL, HIGH_LARGE];

struct Spaces {
    bench: Bench,
    roots: [u64; 2],
}

impl Spaces {
    /// Two address spaces with the same pages, PCIDs on or off; the first is current and all its pages are in the
    /// TLB, fetched through.
    fn new(pcid: bool) -> Self {
        let mut bench = Bench::long_mode();
        let roots = [bench.new_table(), bench.new_table()];
        for (space, &root) in roots.iter().enumerate() {
            for (i, &at) in ALL.iter().enumerate() {
                let frame = 0x10_0000 + ((space * ALL.len() + i) as u64) * 0x1000;
                if at == LOW_LARGE || at == HIGH_LARGE {
                    let place = bench.place(root, at, 2);
                    bench.write(
                        place,
                        0x40_0000 | P | W | PS | if at == HIGH_LARGE { G } else { 0 },
                    );
                } else {
                    let place = bench.place(root, at, 1);
                    let global = at == LOW_GLOBAL || at == HIGH_GLOBAL;
                    bench.write(place, frame | P | W | if global { G } else { 0 });
                }
            }
        }
        let mut state = long_state(roots[0]);
        if pcid {
            state.cr4 |= cr4::PCIDE;
            state.cr3 |= 1;
        }
        bench.mmu.restore(state);
        let mut spaces = Self { bench, roots };
        spaces.warm();
        spaces
    }

    fn warm(&mut self) {
        for at in ALL {
            self.bench.mmu.load8(lin(at)).expect("mapped");
            self.bench.mmu.fetch_page(lin(at)).expect("mapped");
        }
    }

    /// The pages that are in the TLB, as a string of `ALL`'s initials: l g L for the low half, h k H for the high.
    fn held(&self) -> String {
        ALL.iter()
            .zip("lgLhkH".chars())
            .filter(|&(&at, _)| self.bench.mmu.try_load8(lin(at)).is_some())
            .map(|(_, name)| name)
            .collect()
    }
}

#[test]
fn cr3_writes_without_pcids_keep_globals() {
    let mut spaces = Spaces::new(false);
    assert_eq!(spaces.held(), "lgLhkH");
    let generation = spaces.bench.mmu.map_gen;
    spaces
        .bench
        .mmu
        .write_cr3(spaces.roots[0], false)
        .expect("long mode");
    assert_eq!(spaces.held(), "gkH");
    assert_ne!(spaces.bench.mmu.map_gen, generation);
    spaces.warm();
    // Bit 63 counts with PCIDs only.
    spaces
        .bench
        .mmu
        .write_cr3(spaces.roots[1], true)
        .expect("long mode");
    assert_eq!(spaces.held(), "gkH");
}

#[test]
fn cr3_writes_with_pcids_flush_their_pcid_only() {
    let mut spaces = Spaces::new(true);
    let (first, second) = (spaces.roots[0] | 1, spaces.roots[1] | 2);
    let generation = spaces.bench.mmu.map_gen;
    spaces.bench.mmu.write_cr3(second, true).expect("long mode");
    assert_eq!(spaces.held(), "kH", "only what is shared");
    spaces.warm();
    spaces.bench.mmu.write_cr3(first, true).expect("long mode");
    assert_eq!(spaces.held(), "lgLkH", "low pages are where they were");
    assert_eq!(spaces.bench.mmu.map_gen, generation, "nothing has gone");
    spaces
        .bench
        .mmu
        .write_cr3(second, false)
        .expect("long mode");
    assert_eq!(
        spaces.held(),
        "gkH",
        "the new PCID was flushed, but for globals"
    );
    spaces.bench.mmu.write_cr3(first, true).expect("long mode");
    assert_eq!(spaces.held(), "lgLkH");
    spaces.bench.mmu.write_cr3(first, false).expect("long mode");
    assert_eq!(spaces.held(), "gkH");
    assert_ne!(spaces.bench.mmu.map_gen, generation);
}

#[test]
fn the_same_pcid_with_another_root_is_flushed_too() {
    let mut spaces = Spaces::new(true);
    let (first, second) = (spaces.roots[0] | 1, spaces.roots[1] | 1);
    spaces
        .bench
        .mmu
        .write_cr3(second, false)
        .expect("long mode");
    spaces.bench.mmu.write_cr3(first, true).expect("long mode");
    assert!(!spaces.held().contains('l'), "{}", spaces.held());
}

#[test]
fn sixteen_contexts_are_remembered() {
    let mut bench = Bench::long_mode();
    let roots: Vec<u64> = (0..20).map(|_| bench.new_table()).collect();
    for (i, &root) in roots.iter().enumerate() {
        let place = bench.place(root, LOW, 1);
        bench.write(place, (0x10_0000 + i as u64 * 4096) | P | W);
    }
    let mut state = long_state(roots[0]);
    state.cr4 |= cr4::PCIDE;
    bench.mmu.restore(state);
    let visit = |bench: &mut Bench, i: usize| {
        bench
            .mmu
            .write_cr3(roots[i] | i as u64, true)
            .expect("long mode");
        let held = bench.mmu.try_load8(lin(LOW)).is_some();
        bench.mmu.store8(lin(LOW), i as u8).expect("mapped");
        assert_eq!(
            bench
                .ram
                .read_u8(x86::PhysAddr(0x10_0000 + i as u64 * 4096)),
            Ok(i as u8)
        );
        held
    };
    (0..16).for_each(|i| assert!(!visit(&mut bench, i)));
    (0..16).for_each(|i| assert!(visit(&mut bench, i), "{i}"));
    (16..20).for_each(|i| assert!(!visit(&mut bench, i)));
    assert!(
        visit(&mut bench, 15) && !visit(&mut bench, 0),
        "the oldest were given up"
    );
}

#[test]
fn invlpg_drops_the_page_whatever_its_size() {
    for (i, &at) in ALL.iter().enumerate() {
        for pcid in [false, true] {
            let mut spaces = Spaces::new(pcid);
            let generation = spaces.bench.mmu.map_gen;
            spaces
                .bench
                .mmu
                .invlpg(lin(at + if i % 3 == 2 { 0x12_3456 } else { 0xfff }));
            let expected: String = "lgLhkH"
                .chars()
                .enumerate()
                .filter(|&(n, _)| n != i)
                .map(|(_, c)| c)
                .collect();
            assert_eq!(spaces.held(), expected);
            assert_ne!(spaces.bench.mmu.map_gen, generation);
        }
    }
}

#[test]
fn invlpg_of_what_was_never_fetched_keeps_links() {
    let mut spaces = Spaces::new(true);
    let (map, data) = (spaces.bench.mmu.map_gen, spaces.bench.mmu.data_gen);
    spaces.bench.mmu.invlpg(lin(0x1234_5000));
    assert_eq!(spaces.bench.mmu.map_gen, map);
    assert!(
        spaces.bench.mmu.data_gen > data,
        "but cached data addresses are void"
    );
}

#[test]
fn invlpg_reaches_globals_of_other_contexts() {
    let mut spaces = Spaces::new(true);
    spaces
        .bench
        .mmu
        .write_cr3(spaces.roots[1] | 2, true)
        .expect("long mode");
    spaces.bench.mmu.invlpg(lin(LOW_GLOBAL));
    spaces.bench.mmu.invlpg(lin(LOW));
    spaces
        .bench
        .mmu
        .write_cr3(spaces.roots[0] | 1, true)
        .expect("long mode");
    assert_eq!(
        spaces.held(),
        "lLkH",
        "not the local page of another PCID, but its global one"
    );
}

#[test]
fn invpcid_does_what_its_type_says() {
    let run = |f: &dyn Fn(&mut Spaces)| {
        let mut spaces = Spaces::new(true);
        // The other space's pages are held under PCID 2, with its generation.
        spaces
            .bench
            .mmu
            .write_cr3(spaces.roots[1] | 2, true)
            .expect("long mode");
        spaces.warm();
        let other = spaces.bench.mmu.map_gen;
        spaces
            .bench
            .mmu
            .write_cr3(spaces.roots[0] | 1, true)
            .expect("long mode");
        spaces.warm();
        let own = spaces.bench.mmu.map_gen;
        f(&mut spaces);
        let here = (spaces.held(), spaces.bench.mmu.map_gen == own);
        spaces
            .bench
            .mmu
            .write_cr3(spaces.roots[1] | 2, true)
            .expect("long mode");
        (here, (spaces.held(), spaces.bench.mmu.map_gen == other))
    };
    let state = |held: &str, same| (held.to_owned(), same);
    assert_eq!(run(&|_| {}), (state("lgLhkH", true), state("lgLkH", true)));
    // Type 0: one page of one PCID, unless global.
    assert_eq!(
        run(&|s| s.bench.mmu.invpcid_address(1, lin(LOW))),
        (state("gLhkH", false), state("lgLkH", true))
    );
    assert_eq!(
        run(&|s| s.bench.mmu.invpcid_address(2, lin(LOW_LARGE + 0x5000))),
        (state("lgLhkH", true), state("lgkH", false))
    );
    assert_eq!(
        run(&|s| s.bench.mmu.invpcid_address(1, lin(HIGH))),
        (state("lgLkH", false), state("lgLkH", true))
    );
    assert_eq!(
        run(&|s| s.bench.mmu.invpcid_address(1, lin(HIGH_GLOBAL)))
            .0
            .0,
        "lgLhkH"
    );
    assert_eq!(
        run(&|s| s.bench.mmu.invpcid_address(1, lin(LOW_GLOBAL)))
            .0
            .0,
        "lgLhkH"
    );
    // Type 1: one PCID, but globals.
    assert_eq!(
        run(&|s| s.bench.mmu.invpcid_context(1)),
        (state("gkH", false), state("lgLkH", true))
    );
    assert_eq!(
        run(&|s| s.bench.mmu.invpcid_context(2)),
        (state("lgLhkH", true), state("gkH", false))
    );
    // Types 2 and 3.
    assert_eq!(
        run(&|s| s.bench.mmu.invpcid_all()),
        (state("", false), state("", false))
    );
    let (here, there) = run(&|s| s.bench.mmu.invpcid_all_non_global());
    assert_eq!(here, state("gkH", false));
    assert!(!there.0.contains(['l', 'L', 'h']) && !there.1);
}

#[test]
fn control_bits_flush_everything() {
    for bit in [
        cr4::PSE,
        cr4::PGE,
        cr4::SMEP,
        cr4::SMAP,
        cr4::PKE,
        cr4::PCIDE,
        cr4::LA57,
    ] {
        let mut spaces = Spaces::new(false);
        let generation = spaces.bench.mmu.map_gen;
        spaces
            .bench
            .mmu
            .write_cr4(spaces.bench.mmu.state().cr4 ^ bit)
            .expect("long mode");
        assert_eq!(spaces.held(), "", "{bit:#x}");
        assert_ne!(spaces.bench.mmu.map_gen, generation);
    }
    for bit in [cr0::WP, cr0::PG] {
        let mut spaces = Spaces::new(false);
        spaces
            .bench
            .mmu
            .write_cr0(spaces.bench.mmu.state().cr0 ^ bit)
            .expect("long mode");
        assert_eq!(spaces.held(), "");
    }
    let mut spaces = Spaces::new(false);
    spaces
        .bench
        .mmu
        .write_efer(spaces.bench.mmu.state().efer ^ efer::NXE);
    assert_eq!(spaces.held(), "");
    // Bits that have nothing to do with translations flush nothing.
    let mut spaces = Spaces::new(false);
    spaces
        .bench
        .mmu
        .write_cr0(spaces.bench.mmu.state().cr0 ^ cr0::TS)
        .expect("long mode");
    spaces
        .bench
        .mmu
        .write_cr4(spaces.bench.mmu.state().cr4 ^ cr4::OSFXSR)
        .expect("long mode");
    spaces
        .bench
        .mmu
        .write_efer(spaces.bench.mmu.state().efer ^ efer::SCE);
    assert_eq!(spaces.held(), "lgLhkH");
}

#[test]
fn write_protect_takes_effect_at_once() {
    let mut bench = Bench::long_mode();
    bench.map(LOW, 0x5000 | P);
    bench.mmu.write_cr0(cr0::PE | cr0::PG).expect("long mode");
    bench.mmu.store8(lin(LOW), 1).expect("WP is clear");
    bench
        .mmu
        .write_cr0(cr0::PE | cr0::PG | cr0::WP)
        .expect("long mode");
    assert!(bench.mmu.store8(lin(LOW), 1).is_err());
}

#[test]
fn keys_switch_rights_without_flushing() {
    let mut bench = Bench::long_mode();
    bench.map(LOW, 0x5000 | P | W | U | 3 << 59);
    bench.map(HIGH, 0x6000 | P | W | U | G | 3 << 59);
    bench.map(HIGH_GLOBAL, 0x7000 | P | W | G);
    bench
        .mmu
        .write_cr4(bench.mmu.state().cr4 | cr4::PKE)
        .expect("long mode");
    for at in [LOW, HIGH, HIGH_GLOBAL] {
        bench.mmu.store8(lin(at), 1).expect("all rights");
    }
    bench.mmu.set_pkru(0b10 << 6);
    assert!(bench.mmu.store8(lin(LOW), 1).is_err() && bench.mmu.store8(lin(HIGH), 1).is_err());
    assert_eq!(
        (bench.mmu.load8(lin(LOW)), bench.mmu.load8(lin(HIGH))),
        (Ok(1), Ok(1))
    );
    bench.mmu.set_pkru(0b01 << 6);
    assert!(bench.mmu.load8(lin(LOW)).is_err() && bench.mmu.load8(lin(HIGH)).is_err());
    assert_eq!(
        bench.mmu.try_load8(lin(HIGH_GLOBAL)),
        Some(1),
        "supervisor pages have no keys"
    );
    bench.mmu.set_pkru(0);
    assert_eq!(
        bench.mmu.try_load8(lin(LOW)),
        Some(1),
        "the first context is still there"
    );
    assert!(bench.mmu.store8(lin(HIGH), 1).is_ok());
}

#[test]
fn pae_loads_its_pdptes_when_the_manual_says() {
    let mut bench = Bench::new();
    let (pdpt, directory, table) = (0x1000u64, 0x2000, 0x3000);
    bench.write(pdpt, directory | P);
    bench.write(directory, table | P | W);
    bench.write(table + 8 * 5, 0x8000 | P | W);
    bench.mmu.write_cr4(cr4::PAE).expect("paging is off");
    bench.mmu.write_cr3(pdpt, false).expect("paging is off");
    bench.mmu.write_cr0(cr0::PE | cr0::PG).expect("good PDPTEs");
    assert_eq!(bench.mmu.state().pdptes, [directory | P, 0, 0, 0]);
    bench.mmu.store8(lin(0x5000), 3).expect("mapped");
    // A change in memory counts when CR3 is written.
    bench.write(pdpt, 0);
    assert_eq!(bench.mmu.load8(lin(0x5000)), Ok(3));
    bench.mmu.flush_all();
    assert_eq!(bench.mmu.load8(lin(0x5000)), Ok(3));
    bench.mmu.write_cr3(pdpt, false).expect("absent is good");
    assert!(bench.mmu.load8(lin(0x5000)).is_err());
    bench.write(pdpt, directory | P | W);
    assert!(bench.mmu.write_cr3(pdpt, false).is_err());
    assert_eq!(bench.mmu.state().pdptes, [0; 4], "nothing has changed");
    bench.write(pdpt, directory | P);
    bench
        .mmu
        .write_cr4(cr4::PAE | cr4::PGE)
        .expect("good PDPTEs");
    assert_eq!(bench.mmu.load8(lin(0x5000)), Ok(3));
    bench.write(pdpt, directory | P | 1 << 5);
    assert!(bench.mmu.write_cr0(cr0::PE | cr0::PG | cr0::CD).is_err());
    assert!(
        bench.mmu.write_cr0(cr0::PE | cr0::PG | cr0::WP).is_ok(),
        "WP loads nothing"
    );
}

#[test]
fn entering_long_mode_in_one_step() {
    let mut bench = Bench::new();
    let root = bench.new_table();
    let place = bench.place(root, LOW, 1);
    bench.write(place, 0x5000 | P | W);
    bench.mmu.write_cr4(cr4::PAE).expect("paging is off");
    bench.mmu.write_cr3(root, false).expect("paging is off");
    bench.mmu.write_efer(efer::LME);
    bench
        .mmu
        .write_cr0_efer(cr0::PE | cr0::PG, efer::LME | efer::LMA)
        .expect("no PDPTEs in long mode");
    bench.mmu.store8(lin(LOW), 5).expect("mapped");
    assert_eq!(bench.ram.read_u8(x86::PhysAddr(0x5000)), Ok(5));
}

#[test]
fn links_between_shared_kernel_pages_survive_a_switch_but_not_invlpg() {
    let mut spaces = Spaces::new(true);
    let (roots, mmu) = (spaces.roots, &mut spaces.bench.mmu);
    mmu.flush_all();
    mmu.fetch_page(lin(HIGH_GLOBAL)).expect("mapped");
    let (low, high) = (mmu.generation(LOW), mmu.generation(HIGH_GLOBAL));
    mmu.write_cr3(roots[1] | 2, true).expect("no PDPTEs here");
    assert_ne!(mmu.generation(LOW), low);
    assert_eq!(
        mmu.generation(HIGH_GLOBAL),
        high,
        "it is the same in all address spaces"
    );
    mmu.invlpg(lin(HIGH_GLOBAL));
    assert_ne!(mmu.generation(HIGH_GLOBAL), high);
    // Fetched through a page that isn't shared, links above bit 63 are good in their own address space only.
    mmu.fetch_page(lin(HIGH)).expect("mapped");
    let here = mmu.generation(HIGH);
    mmu.write_cr3(roots[0] | 1, true).expect("no PDPTEs here");
    assert_ne!(mmu.generation(HIGH), here);
    mmu.write_cr3(roots[1] | 2, true).expect("no PDPTEs here");
    assert_eq!(mmu.generation(HIGH), here);
}

#[test]
fn links_of_a_32_bit_kernel_survive_a_switch_but_not_invlpg() {
    const KERNEL: u64 = 0xc040_0000;
    const USER: u64 = 0x40_0000;
    let mut bench = Bench::new();
    let root = bench.new_table();
    bench.write(root + 4 * (KERNEL >> 22), P | W | PS | G);
    let user = bench.new_table();
    bench.write(root + 4 * (USER >> 22), user | P | W);
    bench.write(user, P | W);
    let mmu = &mut bench.mmu;
    mmu.write_cr4(cr4::PSE | cr4::PGE).expect("paging is off");
    mmu.write_cr3(root, false).expect("paging is off");
    mmu.write_cr0(cr0::PE | cr0::PG).expect("no PDPTEs here");
    mmu.fetch_page(lin(KERNEL)).expect("mapped");
    mmu.fetch_page(lin(USER)).expect("mapped");
    let (kernel, user) = (mmu.generation(KERNEL), mmu.generation(USER));
    mmu.write_cr3(root, false).expect("no PDPTEs here");
    assert_eq!(mmu.generation(KERNEL), kernel, "it is global");
    assert_ne!(mmu.generation(USER), user);
    mmu.invlpg(lin(KERNEL));
    assert_ne!(mmu.generation(KERNEL), kernel);
    // In long mode nothing is special about that address.
    assert!(!crate::is_kernels(KERNEL, true));
}
