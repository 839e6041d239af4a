//! Random changes of page tables, flushes and switches, against what the architecture lets a TLB remember.
//!
//! The model knows, for each PCID and page, every translation that could have been cached since the flush that
//! last covered it, and the same for global translations. What the MMU uses must be among them; a fault must be
//! justified by the tables as they are.

use std::collections::BTreeSet;

use x86::{PhysAddr, cr4};

use super::{A, Bench, D, G, P, PS, Rng, U, W, lin, long_state};

/// Pages under test: some 4 KiB ones low and high, and parts of a large page.
const PAGES: [u64; 10] = [
    0x1000,
    0x40_1000,
    // The same TLB entry as the first.
    0x1000 + (1024 << 12) * 512,
    0x7fff_ffff_f000,
    0xffff_8000_0000_1000,
    0xffff_8000_0040_1000,
    0xffff_ffff_ffff_f000,
    0x80_0000,
    0x80_5000,
    0x9f_f000,
];
/// From here on a page is part of the large page at 800000h.
const LARGE: usize = 7;
const ROOTS: usize = 3;
const PCIDS: usize = 3;

/// What an entry says: the physical page, writable, user.
type Seen = (u64, bool, bool);

struct Model {
    roots: [u64; ROOTS],
    /// Entry of each page (for parts of the large page: the same) in each root.
    entries: [[u64; PAGES.len()]; ROOTS],
    /// What may be cached: by PCID, and global.
    local: [[BTreeSet<Seen>; PAGES.len()]; PCIDS],
    global: [BTreeSet<Seen>; PAGES.len()],
    root: usize,
    pcid: usize,
    pcids_on: bool,
}

impl Model {
    fn seen(&self, page: usize) -> Option<(Seen, bool)> {
        let entry = self.entries[self.root][page];
        if entry & P == 0 {
            return None;
        }
        let base = entry & 0x000f_ffff_ffff_f000;
        let phys = if page >= LARGE {
            base + (PAGES[page] & 0x1f_f000)
        } else {
            base
        };
        Some(((phys, entry & W != 0, entry & U != 0), entry & G != 0))
    }

    /// From now on the current translations may be cached.
    fn current(&mut self) {
        for page in 0..PAGES.len() {
            if let Some((seen, global)) = self.seen(page) {
                self.local[self.pcid][page].insert(seen);
                if global {
                    self.global[page].insert(seen);
                }
            }
        }
    }

    fn drop_local(&mut self, pcid: usize) {
        // A translation that was cached as global stays in `global`.
        self.local[pcid].iter_mut().for_each(BTreeSet::clear);
    }

    fn drop_page(&mut self, pcid: usize, page: usize, global: bool) {
        let pages = if page >= LARGE {
            LARGE..PAGES.len()
        } else {
            page..page + 1
        };
        for page in pages {
            self.local[pcid][page].clear();
            if global {
                self.global[page].clear();
            }
        }
    }

    fn may_use(&self, page: usize, wanted: impl Fn(&Seen) -> bool) -> bool {
        self.local[self.pcid][page]
            .iter()
            .chain(&self.global[page])
            .any(wanted)
    }
}

fn run(seed: u64, pcids_on: bool, steps: usize) {
    let mut rng = Rng(seed);
    let mut bench = Bench::long_mode();
    let roots = std::array::from_fn(|_| bench.new_table());
    let mut model = Model {
        roots,
        entries: [[0; PAGES.len()]; ROOTS],
        local: Default::default(),
        global: Default::default(),
        root: 0,
        pcid: 0,
        pcids_on,
    };
    // Physical pages 2 MiB to 6 MiB hold their own numbers.
    for frame in 0x200..0x600u64 {
        bench.write(frame << 12, frame);
    }
    let mut state = long_state(roots[0]);
    state.cr4 |= if pcids_on { cr4::PCIDE } else { 0 };
    state.cpl = 0;
    bench.mmu.restore(state);
    let (mut hits, mut faults, mut stale) = (0, 0, 0);
    for step in 0..steps {
        let page = rng.below(PAGES.len() as u64) as usize;
        match rng.below(24) {
            // Change an entry, mostly of the current root.
            0..=3 => {
                let root = if rng.below(3) == 0 {
                    rng.below(ROOTS as u64) as usize
                } else {
                    model.root
                };
                let rights = rng.next() & (W | U | G) | if rng.below(5) == 0 { 0 } else { P };
                let rights = rights | if rng.below(2) == 0 { W | P } else { 0 };
                let (entry, level) = if page >= LARGE {
                    (((1 + rng.below(2)) * 0x20_0000) | rights | PS, 2)
                } else {
                    (((0x200 + rng.below(0x400)) << 12) | rights, 1)
                };
                let place = bench.place(roots[root], PAGES[page], level);
                bench.write(place, entry);
                let pages = if page >= LARGE {
                    LARGE..PAGES.len()
                } else {
                    page..page + 1
                };
                pages.for_each(|page| model.entries[root][page] = entry);
            }
            4 => {
                bench.mmu.invlpg(lin(PAGES[page] + rng.below(4096)));
                model.drop_page(model.pcid, page, true);
            }
            5 | 6 => {
                model.root = rng.below(ROOTS as u64) as usize;
                if model.pcids_on {
                    model.pcid = rng.below(PCIDS as u64) as usize;
                    let noflush = rng.below(2) == 0;
                    bench
                        .mmu
                        .write_cr3(model.roots[model.root] | model.pcid as u64, noflush)
                        .expect("long mode");
                    if !noflush {
                        model.drop_local(model.pcid);
                    }
                } else {
                    bench
                        .mmu
                        .write_cr3(model.roots[model.root], rng.below(2) == 0)
                        .expect("long mode");
                    model.drop_local(0);
                }
            }
            7 => match rng.below(6) {
                0 => {
                    let pcid = rng.below(PCIDS as u64) as usize;
                    bench.mmu.invpcid_context(pcid as u16);
                    model.drop_local(pcid);
                }
                1 | 2 => {
                    let pcid = rng.below(PCIDS as u64) as usize;
                    bench.mmu.invpcid_address(pcid as u16, lin(PAGES[page]));
                    model.drop_page(pcid, page, false);
                }
                3 => {
                    bench.mmu.invpcid_all_non_global();
                    (0..PCIDS).for_each(|pcid| model.drop_local(pcid));
                }
                4 => {
                    bench.mmu.invpcid_all();
                    (0..PCIDS).for_each(|pcid| model.drop_local(pcid));
                    model.global.iter_mut().for_each(BTreeSet::clear);
                }
                _ => {
                    // PGE off and on, as kernels flush.
                    let cr4 = bench.mmu.state().cr4;
                    bench.mmu.write_cr4(cr4 & !cr4::PGE).expect("long mode");
                    bench.mmu.write_cr4(cr4).expect("long mode");
                    (0..PCIDS).for_each(|pcid| model.drop_local(pcid));
                    model.global.iter_mut().for_each(BTreeSet::clear);
                }
            },
            8 => bench.mmu.set_cpl(if rng.below(2) == 0 { 3 } else { 0 }),
            _ => {
                model.current();
                let user = bench.mmu.state().cpl == 3;
                let write = rng.below(3) == 0;
                let at = lin(PAGES[page] + 8);
                // Stores go beside the number that names the page.
                let result = if write {
                    bench.mmu.store64(at, step as u64)
                } else {
                    bench.mmu.load64(at).map(|_| ())
                };
                let now = model.seen(page);
                if result.is_err() {
                    let good = now.is_some_and(|((_, w, u), _)| (u || !user) && (w || !write));
                    assert!(
                        !good,
                        "seed {seed} step {step}: fault on {:#x}",
                        PAGES[page]
                    );
                    faults += 1;
                    continue;
                }
                // Which page was used: the number at its start, read the same way.
                let frame = bench.mmu.load64(lin(PAGES[page])).expect("just used");
                let usable =
                    |seen: &Seen| seen.0 == frame << 12 && (seen.2 || !user) && (seen.1 || !write);
                assert!(
                    model.may_use(page, usable),
                    "seed {seed} step {step}: {:#x} uses {frame:#x}",
                    PAGES[page]
                );
                if write {
                    assert_eq!(
                        bench.ram.read_u64(PhysAddr((frame << 12) + 8)),
                        Ok(step as u64)
                    );
                }
                hits += 1;
                stale += u32::from(now.is_none_or(|(seen, _)| !usable(&seen)));
            }
        }
        model.current();
    }
    // Accessed and dirty flags are the only changes the MMU made to the entries.
    for (root, entries) in roots.iter().zip(&model.entries) {
        for (page, &entry) in entries.iter().enumerate() {
            if entry != 0 {
                let place = bench.place(*root, PAGES[page], if page >= LARGE { 2 } else { 1 });
                assert_eq!(bench.read(place) & !(A | D), entry & !(A | D));
            }
        }
    }
    assert!(
        hits > steps as u32 / 5 && faults > steps as u32 / 50 && stale > 0,
        "{hits} {faults} {stale}"
    );
}

#[test]
fn no_stale_translation_outlives_its_flush() {
    for seed in 0..12 {
        run(seed, true, 8_000);
        run(seed + 100, false, 8_000);
    }
}
