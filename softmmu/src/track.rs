//! Who wrote what: code lines, page generations, the dirty log, and how vCPUs are told to drop stale write tags.
//!
//! # Why a store can't slip past a translation
//! A TLB entry may let its vCPU store to a page without a word here, as long as the page holds no code. When a
//! page gets its first code line, such *plain write tags* must go. The vCPU that marks drops its own at once; of
//! the others it can only ask. So:
//!
//! 1. A vCPU that gets a plain write tag first sets its bit in the page's `writers`, then looks at the page's
//!    lines; with any line set the tag isn't plain. A marker first sets the line, then looks at `writers`. One of
//!    the two sees the other (both orders are sequentially consistent).
//!    On a page with code a vCPU may store in place to the lines that hold none (`tag::LINES`): it sets its bit in
//!    the page's `checkers` and then looks at the lines before each store. A marker takes it for a writer.
//! 2. A marker that sees other writers raises `epoch`, kicks them, and gets a [`CodeStamp`] that names them. Each
//!    of them, in `Mmu::sync`, reads `epoch`, takes the plain tags from pages with lines, and then publishes that
//!    epoch. All stores it made through such tags come before, in program order.
//! 3. Once all of them have published ([`GuestRam::is_settled`](crate::GuestRam::is_settled)), the marker compares
//!    the bytes again: it sees every store that went unrecorded, and all later ones are recorded. Until then a
//!    translation may run, but must be compared with memory each time before it is entered, and not be chained to.
//!
//! A recorded store (devices and slow paths) comes before the look at the lines, a marker's read of the bytes
//! comes after setting them: again one sees the other. A hit clears the lines, then raises the page's generation;
//! a mark reads the generation, then sets the lines. So as long as the generation is that of the stamp, the lines
//! are still set. The order for whoever trusts a translation: mark; see that the stamp is settled; read (or
//! compare) the bytes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use x86::{PAGE_MASK, PAGE_SIZE, PhysAddr};

use crate::map::zeroed;

/// vCPUs that one guest memory can serve.
pub const MAX_CPUS: usize = 64;
/// Bytes per bit of a page's line bitmap.
pub const LINE_SIZE: u64 = 64;
/// The binary logarithm of the distance between two pages' lines.
pub const LINES_SHIFT: u32 = 5;
const _: () = assert!(size_of::<Page>() == 1 << LINES_SHIFT);
/// `seen` of a vCPU that runs no guest code, or doesn't exist.
const PARKED: u64 = u64::MAX;

/// What a translation remembers of the page that it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CodeStamp {
    /// The page's generation just before its lines were marked.
    pub generation: u32,
    /// The epoch that every vCPU of `waiting` has to reach.
    pub epoch: u64,
    /// The vCPUs, a bit each, that may still hold write tags from before the mark.
    pub waiting: u64,
}

impl CodeStamp {
    /// Whether the page's generation alone tells if the bytes are still those that were read last.
    pub fn is_trusted(&self) -> bool {
        self.waiting == 0
    }

    /// The bytes have been compared since the stamp was seen to be settled.
    pub(crate) fn trust(&mut self) {
        self.waiting = 0;
    }
}

/// What `GuestRam::mark_code` yields.
#[derive(Clone, Copy, Debug)]
pub struct Marked {
    /// To be kept with the translation.
    pub stamp: CodeStamp,
    /// The marking vCPU itself may hold plain write tags of the page.
    pub own_tags: bool,
}

/// Tells a vCPU (by its index) that it has to call `Mmu::sync` before its next guest instruction.
pub type Kick = Box<dyn Fn(usize) + Send + Sync>;

/// What is known of one page; in one cache line, since a TLB fill looks at all of it.
#[repr(C, align(32))]
pub(crate) struct Page {
    /// Code lines. At offset 0: translated code looks at it.
    lines: AtomicU64,
    /// The vCPUs, a bit each, that may hold a plain write tag.
    writers: AtomicU64,
    /// The vCPUs that store where they have found no code line.
    checkers: AtomicU64,
    generation: AtomicU32,
}

/// A store that hit marked lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeHit {
    /// The physical page.
    pub page: PhysAddr,
    /// The lines that are no longer marked.
    pub lines: u64,
}

/// The last few of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct CodeHits {
    known: [CodeHit; 4],
    count: u32,
}

impl CodeHits {
    #[cold]
    pub(crate) fn add(&mut self, hit: CodeHit) {
        if let Some(place) = self.known.get_mut(self.count as usize) {
            *place = hit;
        }
        self.count = self.count.saturating_add(1);
    }

    /// All of them, if there were `count` and they are known.
    pub fn exactly(&self, count: u64) -> Option<&[CodeHit]> {
        (u64::from(self.count) == count)
            .then(|| self.known.get(..self.count as usize))
            .flatten()
    }
}

/// The tables; one element (or bit) per page frame of RAM.
pub(crate) struct Track {
    pages: Box<[Page]>,
    /// One bit per page: written since the log was last taken.
    dirty: Box<[AtomicU64]>,
    logging: AtomicBool,
    /// Rises with each hit of a marked line, anywhere.
    code_epoch: AtomicU64,
    /// Rises with each thing that `Mmu::sync` must look at.
    epoch: AtomicU64,
    /// Rises, before `epoch`, with each thing after which `Mmu::sync` must flush everything.
    flushes: AtomicU64,
    /// The epoch up to which each vCPU has synchronised.
    seen: [AtomicU64; MAX_CPUS],
    kick: OnceLock<Kick>,
}

/// The lines that `len` bytes at `offset` in a page touch; what lies beyond the page is cut off.
pub fn line_mask(offset: u64, len: u64) -> u64 {
    let Some(last) = len.checked_sub(1) else {
        return 0;
    };
    let first = (offset & PAGE_MASK) / LINE_SIZE;
    let last = (offset & PAGE_MASK).saturating_add(last).min(PAGE_SIZE - 1) / LINE_SIZE;
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

impl Track {
    pub(crate) fn new(frames: usize) -> Self {
        Self {
            pages: zeroed(frames),
            dirty: zeroed(frames.div_ceil(64)),
            logging: AtomicBool::new(false),
            code_epoch: AtomicU64::new(0),
            epoch: AtomicU64::new(1),
            flushes: AtomicU64::new(0),
            seen: [const { AtomicU64::new(PARKED) }; MAX_CPUS],
            kick: OnceLock::new(),
        }
    }

    pub(crate) fn set_kick(&self, kick: Kick) -> bool {
        self.kick.set(kick).is_ok()
    }

    #[inline]
    pub(crate) fn lines(&self, frame: usize) -> u64 {
        self.pages[frame].lines.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn generation(&self, frame: usize) -> u32 {
        self.pages[frame].generation.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn code_epoch(&self) -> u64 {
        self.code_epoch.load(Ordering::Acquire)
    }

    /// Marks the lines of `len` bytes at `offset` of a page for vCPU `cpu`.
    pub(crate) fn mark(&self, cpu: usize, frame: usize, offset: u64, len: u64) -> Marked {
        // Before the mark: whoever clears it raises the generation after that, so the stamp can't be newer than a
        // clearing that it doesn't know of.
        let generation = self.generation(frame);
        self.pages[frame]
            .lines
            .fetch_or(line_mask(offset, len), Ordering::SeqCst);
        #[cfg(test)]
        crate::tests::interleave();
        let writers = self.pages[frame].writers.load(Ordering::SeqCst);
        let others = writers | self.pages[frame].checkers.load(Ordering::SeqCst);
        let own = 1u64 << cpu;
        let mut waiting = 0;
        let epoch = if others & !own == 0 {
            0
        } else {
            let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
            for other in bits(others & !own) {
                if self.seen[other].load(Ordering::SeqCst) != PARKED {
                    waiting |= 1 << other;
                }
            }
            self.kick(waiting);
            epoch
        };
        fence(Ordering::SeqCst);
        Marked {
            stamp: CodeStamp {
                generation,
                epoch,
                waiting,
            },
            own_tags: writers & own != 0,
        }
    }

    /// The marking vCPU has taken its plain write tags of the page away.
    pub(crate) fn forget_writer(&self, cpu: usize, frame: usize) {
        self.pages[frame]
            .writers
            .fetch_and(!(1 << cpu), Ordering::SeqCst);
    }

    /// Unmarks lines; whether any was marked. What else was made of them must be compared and marked anew.
    pub(crate) fn clear(&self, frame: usize, offset: u64, len: u64) -> bool {
        let mask = line_mask(offset, len);
        if self.pages[frame].lines.fetch_and(!mask, Ordering::SeqCst) & mask == 0 {
            return false;
        }
        self.pages[frame].generation.fetch_add(1, Ordering::AcqRel);
        self.code_epoch.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// Records a store that has just been made; whether it hit code lines.
    #[inline]
    pub(crate) fn note_write(&self, frame: usize, offset: u64, len: u64) -> bool {
        self.note_dirty(frame);
        // The store before the look at the lines; see the module's text.
        fence(Ordering::SeqCst);
        let mask = line_mask(offset, len);
        if self.pages[frame].lines.load(Ordering::Relaxed) & mask == 0 {
            return false;
        }
        self.clear(frame, offset, len)
    }

    /// vCPU `cpu` is about to get a write tag for the page: whether it may be a plain one.
    #[inline]
    pub(crate) fn claim_write(&self, cpu: usize, frame: usize) -> bool {
        let own = 1u64 << cpu;
        if self.pages[frame].lines.load(Ordering::Relaxed) != 0 {
            return false;
        }
        #[cfg(test)]
        crate::tests::interleave();
        if self.pages[frame].writers.load(Ordering::SeqCst) & own == 0 {
            self.pages[frame].writers.fetch_or(own, Ordering::SeqCst);
        }
        self.pages[frame].lines.load(Ordering::SeqCst) == 0
    }

    /// vCPU `cpu` will store to lines of the page where it finds no code. To be called before it looks.
    #[inline]
    pub(crate) fn claim_lines(&self, cpu: usize, frame: usize) {
        let own = 1u64 << cpu;
        if self.pages[frame].checkers.load(Ordering::SeqCst) & own == 0 {
            self.pages[frame].checkers.fetch_or(own, Ordering::SeqCst);
        }
    }

    /// The address of the first page's lines; those of the next are [`LINES_SHIFT`] says how far on.
    pub(crate) fn address(&self) -> u64 {
        self.pages.as_ptr().expose_provenance() as u64
    }

    // The dirty log.

    #[inline]
    pub(crate) fn logging(&self) -> bool {
        self.logging.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn note_dirty(&self, frame: usize) {
        if self.logging() {
            let (word, bit) = (frame / 64, 1u64 << (frame % 64));
            if self.dirty[word].load(Ordering::Relaxed) & bit == 0 {
                self.dirty[word].fetch_or(bit, Ordering::AcqRel);
            }
        }
    }

    pub(crate) fn is_dirty(&self, frame: usize) -> bool {
        self.dirty[frame / 64].load(Ordering::Acquire) & 1 << (frame % 64) != 0
    }

    pub(crate) fn set_logging(&self, on: bool) {
        self.logging.store(on, Ordering::SeqCst);
        if !on {
            self.take_dirty(|_| {});
        }
    }

    /// Calls `f` with each dirty frame and makes it clean.
    pub(crate) fn take_dirty(&self, mut f: impl FnMut(usize)) {
        for (index, word) in self.dirty.iter().enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                for bit in bits(word.swap(0, Ordering::AcqRel)) {
                    f(index * 64 + bit);
                }
            }
        }
    }

    // Synchronising the vCPUs.

    pub(crate) fn kick(&self, cpus: u64) {
        if let Some(kick) = self.kick.get() {
            bits(cpus).for_each(kick);
        }
    }

    /// All translations of all vCPUs must go: RAM's layout, A20 or the log have changed. The stamp is settled
    /// when all have flushed.
    pub(crate) fn flush_cpus(&self) -> CodeStamp {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        let mut waiting = 0;
        for (cpu, seen) in self.seen.iter().enumerate() {
            if seen.load(Ordering::SeqCst) != PARKED {
                waiting |= 1 << cpu;
            }
        }
        self.kick(waiting);
        CodeStamp {
            generation: 0,
            epoch,
            waiting,
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Read after `epoch`: at least all flushes that belong to it.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    pub(crate) fn park(&self, cpu: usize) {
        self.seen[cpu].store(PARKED, Ordering::SeqCst);
    }

    pub(crate) fn publish(&self, cpu: usize, epoch: u64) {
        self.seen[cpu].store(epoch, Ordering::SeqCst);
    }

    pub(crate) fn is_settled(&self, stamp: CodeStamp) -> bool {
        bits(stamp.waiting).all(|cpu| self.seen[cpu].load(Ordering::SeqCst) >= stamp.epoch)
    }
}

/// The positions of the bits of `word` that are set, ascending.
pub(crate) fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros();
            word &= word - 1;
            bit as usize
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn lines_cover_exactly_the_bytes() {
        assert_eq!(line_mask(0, 1), 1);
        assert_eq!(line_mask(63, 1), 1);
        assert_eq!(line_mask(63, 2), 3);
        assert_eq!(line_mask(64, 64), 2);
        assert_eq!(line_mask(4095, 1), 1 << 63);
        assert_eq!(line_mask(0, 4096), u64::MAX);
        assert_eq!(line_mask(4090, 100), 1 << 63);
        assert_eq!(line_mask(5, u64::MAX), u64::MAX);
        assert_eq!(line_mask(5, 0), 0);
    }

    #[test]
    fn a_hit_clears_its_lines_and_raises_the_generation_once() {
        let track = Track::new(2);
        let stamp = track.mark(0, 1, 100, 200).stamp;
        assert_eq!(track.lines(1), 0b1_1110);
        assert!(!track.note_write(1, 0, 64));
        assert!(!track.note_write(0, 100, 8));
        assert_eq!(track.generation(1), stamp.generation);
        assert!(track.note_write(1, 127, 2));
        assert_eq!(track.lines(1), 0b1_1000);
        assert_eq!(
            (track.generation(1), track.code_epoch()),
            (stamp.generation + 1, 1)
        );
        assert!(!track.note_write(1, 127, 2));
        assert!(track.clear(1, 0, 4096) && !track.clear(1, 0, 4096));
        assert_eq!(
            (track.lines(1), track.generation(1)),
            (0, stamp.generation + 2)
        );
    }

    #[test]
    fn a_mark_waits_for_the_other_writers_only() {
        let track = Track::new(1);
        let kicked = Arc::new(AtomicUsize::new(0));
        let told = Arc::clone(&kicked);
        assert!(track.set_kick(Box::new(move |cpu| {
            told.fetch_or(1 << cpu, Ordering::SeqCst);
        })));
        for cpu in 0..4 {
            track.publish(cpu, track.epoch());
        }
        assert!(track.claim_write(0, 0) && track.claim_write(2, 0));
        let marked = track.mark(0, 0, 0, 16);
        assert!(marked.own_tags);
        assert_eq!(
            (marked.stamp.waiting, kicked.load(Ordering::SeqCst)),
            (1 << 2, 1 << 2)
        );
        assert!(!track.is_settled(marked.stamp));
        assert!(
            !track.claim_write(1, 0),
            "no plain tags while there is code"
        );
        let epoch = track.epoch();
        track.publish(2, epoch);
        assert!(track.is_settled(marked.stamp));
        // One that stores beside the code is waited for too, itself does not wait.
        track.publish(3, epoch);
        track.claim_lines(3, 0);
        assert_eq!(track.mark(0, 0, 128, 16).stamp.waiting, 1 << 2 | 1 << 3);
        let marked = track.mark(3, 0, 192, 16);
        assert_eq!(
            (marked.stamp.waiting, marked.own_tags),
            (1 << 0 | 1 << 2, false)
        );
        track.park(3);
        // A sleeping vCPU isn't waited for, nor kicked.
        track.park(2);
        kicked.store(0, Ordering::SeqCst);
        assert!(track.is_settled(track.mark(0, 0, 64, 16).stamp));
        assert_eq!(kicked.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn hits_are_known_exactly_or_not_at_all() {
        let mut hits = CodeHits::default();
        assert_eq!(hits.exactly(0), Some(&[][..]));
        for n in 1..=6_u64 {
            let page = PhysAddr(n * PAGE_SIZE);
            hits.add(CodeHit { page, lines: 1 });
            let known = hits.exactly(n).map(|hits| hits.last().map(|h| h.page));
            assert_eq!(known, (n <= 4).then_some(Some(page)));
            assert_eq!(hits.exactly(n + 1), None, "somebody else's");
        }
    }

    #[test]
    fn a_mark_cleared_at_once_is_known_to_be() {
        let track = Arc::new(Track::new(1));
        track.mark(0, 0, 0, 1);
        let writer = Arc::clone(&track);
        crate::tests::at_next_interleave(move || assert!(writer.note_write(0, 0, 1)));
        let stamp = track.mark(0, 0, 0, 1).stamp;
        assert_eq!(track.lines(0), 0);
        assert_ne!(track.generation(0), stamp.generation);
    }

    #[test]
    fn either_the_marker_or_the_writer_sees_the_other() {
        let track = Arc::new(Track::new(3));
        track.publish(0, 0);
        track.publish(1, 0);
        // The mark comes before, in the middle of, and after the claim.
        assert_eq!(track.mark(0, 0, 0, 1).stamp.waiting, 0);
        assert!(!track.claim_write(1, 0));
        let marker = Arc::clone(&track);
        crate::tests::at_next_interleave(move || {
            assert_eq!(marker.mark(0, 1, 0, 1).stamp.waiting, 0)
        });
        assert!(
            !track.claim_write(1, 1),
            "a plain tag that nobody waits for"
        );
        assert!(track.claim_write(1, 2));
        assert_eq!(track.mark(0, 2, 0, 1).stamp.waiting, 1 << 1);
    }
}
