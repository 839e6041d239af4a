//! Several vCPUs at once: accessed and dirty flags, locked operations, pages that become code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use x86::PhysAddr;

use super::{Bench, P, Recorder, Rng, U, W, lin, long_state};
use crate::{Access, AccessKind, Bus, CodeStamp, GuestRam, Mmu, pf, walk};

fn mmu(cpu: usize, ram: &Arc<GuestRam>) -> Mmu {
    Mmu::new(
        cpu,
        Arc::clone(ram),
        Arc::new(Recorder::default()) as Arc<dyn Bus>,
        40,
    )
}

/// Tells the other threads to stop when this one ends, also by a failed assertion.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn flags_never_land_in_an_entry_that_has_changed() {
    let mut bench = Bench::long_mode();
    let root = bench.mmu.state().cr3;
    let place = PhysAddr(bench.place(root, 0x1000, 1));
    let ram = Arc::clone(&bench.ram);
    let state = long_state(root);
    let done = AtomicBool::new(false);
    let walks = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for kind in [AccessKind::Read, AccessKind::Write] {
            let (ram, state, done, walks) = (&ram, &state, &done, &walks);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let access = Access {
                        kind,
                        user: false,
                        implicit: false,
                    };
                    if let Ok(found) = walk(ram, state, lin(0x1000), access) {
                        assert!(found.writable && matches!(found.page.0, 0x5000 | 0x6000));
                        walks.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let _stop = Stop(&done);
        let mut rounds = 0;
        while rounds < 3000 || walks.load(Ordering::Relaxed) < 1000 {
            rounds += 1;
            for page in [0x5000, 0x6000] {
                ram.write_u64(place, page | P | W | U).expect("RAM");
                for _ in 0..rounds % 50 {
                    std::hint::spin_loop();
                }
                // What a kernel does to unmap: takes the entry and looks whether it was dirty.
                let mut seen = ram.read_u64(place).expect("RAM");
                while !ram.replace_entry(place, 8, seen, 0) {
                    seen = ram.read_u64(place).expect("RAM");
                }
                assert_eq!(seen & !0x60, page | P | W | U);
                for _ in 0..4 {
                    assert_eq!(
                        ram.read_u64(place),
                        Ok(0),
                        "a flag was set in an entry that was gone"
                    );
                }
            }
            if rounds % 64 == 0 {
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn walks_that_race_for_flags_all_succeed() {
    let mut bench = Bench::long_mode();
    let root = bench.mmu.state().cr3;
    let places: Vec<_> = (1..=4)
        .map(|level| PhysAddr(bench.place(root, 0x1000, level)))
        .collect();
    bench.write(places[0].0, 0x5000 | P | W);
    let ram = Arc::clone(&bench.ram);
    let state = long_state(root);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let walkers: Vec<_> = [AccessKind::Read, AccessKind::Write]
            .into_iter()
            .map(|kind| {
                let (ram, state) = (&ram, &state);
                scope.spawn(move || {
                    for _ in 0..40_000 {
                        let access = Access {
                            kind,
                            user: false,
                            implicit: false,
                        };
                        let found = walk(ram, state, lin(0x1000), access).expect("always mapped");
                        assert!(found.dirty || kind == AccessKind::Read);
                    }
                })
            })
            .collect();
        let (ram, done) = (&ram, &done);
        scope.spawn(move || {
            // A kernel that ages its pages: takes the flags away, leaves the rest.
            while !done.load(Ordering::Relaxed) {
                for &place in &places {
                    let seen = ram.read_u64(place).expect("RAM");
                    ram.replace_entry(place, 8, seen, seen & !0x60);
                }
            }
        });
        let _stop = Stop(done);
        for walker in walkers {
            walker.join().expect("walker");
        }
    });
}

#[test]
fn a_walk_whose_entry_changes_under_it_starts_over() {
    // On each level: between reading the entry and flagging it, another vCPU moves the page, unmaps it, or sets
    // the flags itself.
    for level in 1..=4u32 {
        let mut bench = Bench::long_mode();
        let root = bench.mmu.state().cr3;
        let places: Vec<u64> = (1..=4)
            .map(|level| bench.place(root, 0x1000, level))
            .collect();
        bench.write(places[0], 0x5000 | P | W);
        let other = bench.new_table();
        let state = long_state(root);
        let access = Access {
            kind: AccessKind::Write,
            user: false,
            implicit: false,
        };
        let place = places[level as usize - 1];
        let race = |value: u64| {
            for &upper in &places[level as usize..] {
                bench.write(upper, bench.read(upper) | 0x20);
            }
            let old = bench.read(place) & !0x60;
            bench.write(place, old);
            let ram = Arc::clone(&bench.ram);
            super::at_next_interleave(move || ram.write_u64(PhysAddr(place), value).expect("RAM"));
            let found = walk(&bench.ram, &state, lin(0x1000), access);
            let left = bench.read(place);
            bench.write(place, old);
            (
                found.map(|found| found.page.0).map_err(|fault| fault.error),
                left,
            )
        };
        let old = bench.read(place);
        // The flags come from elsewhere: all is well.
        assert_eq!(race(old | 0x20).0, Ok(0x5000), "level {level}");
        // Gone: a fault, and nothing was set in it.
        assert_eq!(race(0), (Err(pf::W), 0), "level {level}");
        // Elsewhere: an empty table or another page.
        let moved = if level == 1 {
            0x6000 | P | W
        } else {
            other | P | W
        };
        let (found, left) = race(moved);
        if level == 1 {
            assert_eq!((found, left), (Ok(0x6000), moved | 0x60));
        } else {
            assert_eq!((found, left), (Err(pf::W), moved | 0x20), "level {level}");
        }
    }
}

#[test]
fn locked_operations_of_several_vcpus_add_up() {
    const ROUNDS: u64 = 20_000;
    let ram = Arc::new(GuestRam::new(1 << 20).expect("RAM"));
    std::thread::scope(|scope| {
        for cpu in 0..3 {
            let ram = &ram;
            scope.spawn(move || {
                let mut mmu = mmu(cpu, ram);
                let mut wide = 0u128;
                for _ in 0..ROUNDS {
                    mmu.xadd(lin(0x1000), 8, 1).expect("RAM");
                    // Unaligned, inside a line.
                    mmu.rmw_locked(lin(0x1043), 4, |old| old + 3).expect("RAM");
                    // Across lines, and across pages.
                    mmu.xadd(lin(0x10be), 4, 1).expect("RAM");
                    mmu.rmw_locked(lin(0x1ffd), 8, |old| old + 1).expect("RAM");
                    loop {
                        let found = mmu
                            .cmpxchg16b(lin(0x1100), wide, wide + (1 << 64 | 1))
                            .expect("RAM");
                        if found == wide {
                            break;
                        }
                        wide = found;
                    }
                }
            });
        }
    });
    let mut mmu = mmu(0, &ram);
    assert_eq!(mmu.load64(lin(0x1000)), Ok(3 * ROUNDS));
    assert_eq!(mmu.load32(lin(0x1043)), Ok(9 * ROUNDS as u32));
    assert_eq!(mmu.load32(lin(0x10be)), Ok(3 * ROUNDS as u32));
    assert_eq!(mmu.load64(lin(0x1ffd)), Ok(3 * ROUNDS));
    assert_eq!(
        mmu.load128(lin(0x1100)),
        Ok(u128::from(3 * ROUNDS) << 64 | u128::from(3 * ROUNDS))
    );
}

/// A translation, as an engine keeps it: the bytes it was made from and the stamp.
struct Block {
    value: u64,
    stamp: CodeStamp,
    trusted: bool,
}

const CODE: PhysAddr = PhysAddr(0x5100);

fn translate(mmu: &mut Mmu) -> Block {
    let stamp = mmu.mark_code(CODE, 8).expect("RAM");
    // Before the bytes: what was stored by then is seen, what comes later is told.
    let trusted = mmu.ram().is_settled(stamp);
    let value = mmu.ram().read_u64(CODE).expect("RAM");
    Block {
        value,
        stamp,
        trusted,
    }
}

#[test]
fn a_store_through_an_old_tag_is_found_before_the_block_is_trusted() {
    let ram = Arc::new(GuestRam::new(1 << 20).expect("RAM"));
    let kicks = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&kicks);
    assert!(ram.set_kick(Box::new(move |cpu| {
        told.fetch_or(1 << cpu, Ordering::SeqCst);
    })));
    let (mut executor, mut writer) = (mmu(0, &ram), mmu(1, &ram));
    writer.store64(lin(CODE.0), 1).expect("RAM");
    let block = translate(&mut executor);
    assert_eq!(
        (block.value, block.trusted, kicks.swap(0, Ordering::SeqCst)),
        (1, false, 2)
    );
    // Through the tag from before the mark: nobody is told ...
    assert!(writer.try_store64(lin(CODE.0), 2));
    assert!(executor.code_valid(CODE, block.stamp));
    // ... so the block isn't trusted until the writer has synchronised, and then compared.
    assert!(!ram.is_settled(block.stamp));
    writer.sync();
    assert!(ram.is_settled(block.stamp));
    assert!(!executor.code_matches(CODE, &block.value.to_le_bytes()));
    let block = translate(&mut executor);
    assert_eq!(block.value, 2);
    // From now on stores are told.
    assert!(!writer.try_store64(lin(CODE.0), 3));
    writer.store64(lin(CODE.0), 3).expect("RAM");
    assert!(writer.take_code_hit() && !executor.code_valid(CODE, block.stamp));
    // A vCPU that sleeps isn't waited for; waking it synchronises.
    writer.flush_all();
    ram.clear_code(CODE, 8);
    writer.store64(lin(CODE.0), 4).expect("RAM");
    assert!(writer.try_store64(lin(CODE.0), 4));
    writer.park();
    assert!(translate(&mut executor).trusted);
    writer.sync();
    assert!(!writer.try_store64(lin(CODE.0), 5));
}

#[test]
fn cross_modified_code_is_never_missed() {
    // The writer stores a number, then tells that it has; from then on the executor, having "serialised" (looked
    // at generation and content rules), must not run an older translation.
    const ROUNDS: u64 = 4000;
    let ram = Arc::new(GuestRam::new(1 << 20).expect("RAM"));
    let kick: Arc<[AtomicBool; 2]> = Arc::default();
    let told = Arc::clone(&kick);
    assert!(ram.set_kick(Box::new(move |cpu| told[cpu].store(true, Ordering::SeqCst))));
    let published = AtomicU64::new(0);
    let executed = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (ram, kick, published, executed) = (&ram, &kick, &published, &executed);
        let failed = &failed;
        scope.spawn(move || {
            let mut mmu = mmu(1, ram);
            let mut rng = Rng(5);
            for number in 1..=ROUNDS {
                if kick[1].swap(false, Ordering::SeqCst) {
                    mmu.sync();
                }
                if rng.below(3) == 0 {
                    mmu.flush_all();
                }
                mmu.store64(lin(CODE.0), number).expect("RAM");
                published.store(number, Ordering::SeqCst);
                if rng.below(4) == 0 {
                    while executed.load(Ordering::SeqCst) < number && !failed.load(Ordering::SeqCst)
                    {
                        if kick[1].swap(false, Ordering::SeqCst) {
                            mmu.sync();
                        }
                        std::thread::yield_now();
                    }
                }
            }
            mmu.park();
        });
        scope.spawn(move || {
            let _stop = Stop(failed);
            let mut mmu = mmu(0, ram);
            let mut block = translate(&mut mmu);
            let mut kept = 0u64;
            while executed.load(Ordering::SeqCst) < ROUNDS {
                if kick[0].swap(false, Ordering::SeqCst) {
                    mmu.sync();
                }
                let at_least = published.load(Ordering::SeqCst);
                let settled = block.trusted || ram.is_settled(block.stamp);
                let valid = mmu.code_valid(CODE, block.stamp)
                    && (block.trusted || mmu.code_matches(CODE, &block.value.to_le_bytes()));
                if valid {
                    block.trusted = settled;
                    kept += 1;
                } else {
                    block = translate(&mut mmu);
                }
                assert!(
                    block.value >= at_least,
                    "ran {} when {at_least} was stored",
                    block.value
                );
                executed.store(block.value, Ordering::SeqCst);
                if kept.is_multiple_of(16) {
                    // Forget everything, so that tags become plain again.
                    ram.clear_code(CODE, 8);
                    std::thread::yield_now();
                    block = translate(&mut mmu);
                }
                std::thread::yield_now();
            }
        });
    });
}
