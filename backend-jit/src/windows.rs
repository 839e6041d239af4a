//! Windows of a vCPU: when 32-bit code goes through them, and what they show.
//!
//! There are two, for user and for supervisor code (their rights differ), and blocks in two forms: those that go through a
//! window ([`key::WINDOW`] in their mode), and all others. A window shows what the TLB holds, and is good as long as nothing
//! was taken from that: `Mmu::data_gen` is what it was when the window was brought up to date. Any flush closes both: from
//! then on the other form runs, and costs nothing more than before. Once nothing has been flushed for a while, what the
//! window still shows is compared with the TLB, which by then holds what the program uses; the rest is hidden, what is
//! missing shown, and the window is open again.
//!
//! So programs that compute run with windows, those that fork, switch and map all the time without. A window in which much
//! is missing (a fault takes as long as 50 misses of the TLB) is closed too, and opened less often from then on.

use std::time::{Duration, Instant};

use frontend_x86::{CodeSize, Mode};
use softmmu::{Shown, Window};
use system::Vcpu;
use x86::{PAGE_SIZE, Seg};

use crate::core::key;
use crate::x64::emit::segmented;

/// Mappings of a window, and how many more there must be room for, where it goes on as it is when it is opened.
const MAPPINGS: usize = 8192;
const ROOM: usize = 1024;
/// How long nothing may have been flushed before a window opens.
const QUIET: Duration = Duration::from_millis(3);
/// How long a window must have been open to have been worth it.
const WORTH: Duration = Duration::from_millis(30);
/// The longest time that it stays closed.
const LONGEST: Duration = Duration::from_millis(60);
/// Faults that an opening may cost, and the time that another takes.
const FAULTS: u32 = 64;
const PER_FAULT: Duration = Duration::from_micros(100);

/// What windows were used for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub opened: u64,
    pub shown: u64,
    pub faults: u64,
}

/// The window of one privilege.
struct One {
    window: Window,
    /// `Mmu::data_gen` when it was brought up to date.
    good: Option<u64>,
    /// The last one seen, and since when it is that.
    seen: u64,
    since: Instant,
    /// How long to wait.
    quiet: Duration,
    opened: Instant,
    faults: u32,
}

/// See the module's text.
pub struct Windows {
    /// Whether there are to be any.
    how: Use,
    /// Supervisor's, user's; made when they are first asked for.
    ones: Option<[One; 2]>,
    /// The access that has faulted last, and how often it did so in a row.
    last: (u64, u32, u8),
    pub counts: Counts,
}

/// Whether code goes through windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Use {
    /// Never.
    #[default]
    Never,
    /// Where they pay.
    Paying,
    /// Wherever it can: for tests, and where time stands still.
    Always,
}

/// Whether code of a mode can go through one: 32-bit code whose addresses are linear.
fn fits(mode: Mode) -> bool {
    let flat = [Seg::Ss, Seg::Ds, Seg::Es].iter().all(|s| mode.flat(*s));
    mode.code() == CodeSize::B32 && flat && !segmented(mode)
}

impl Windows {
    /// None are open.
    pub fn new(how: Use) -> Self {
        Self {
            how,
            ones: None,
            last: (0, 0, 0),
            counts: Counts::default(),
        }
    }

    /// Whether there may be any.
    pub fn any(&self) -> bool {
        self.how != Use::Never
    }

    /// Whether an access that has faulted may be tried once more: not for ever, whatever the host does.
    pub fn again(&mut self, pc: u64, lin: u32) -> bool {
        const MOST: u8 = 4;
        self.counts.faults += 1;
        if (self.last.0, self.last.1) == (pc, lin) {
            self.last.2 = self.last.2.saturating_add(1);
        } else {
            self.last = (pc, lin, 0);
        }
        self.last.2 < MOST
    }

    /// No windows any more.
    fn give_up(&mut self, e: &std::io::Error) {
        static SAID: std::sync::Once = std::sync::Once::new();
        SAID.call_once(|| {
            tracing::warn!(
                "no room for windows of guest memory on this host ({e}): going by the TLB"
            );
        });
        self.how = Use::Never;
        if let Some(ones) = &mut self.ones {
            // Code that is in one faults, and goes on by other ways.
            ones.iter_mut().for_each(|one| one.good = None);
        }
    }

    /// The bit that a mode's blocks have while its window is open.
    pub fn bit(&self, v: &Vcpu, mode: Mode) -> u64 {
        let user = mode.cpl() == 3;
        let open = fits(mode)
            && self
                .ones
                .as_ref()
                .is_some_and(|ones| ones[usize::from(user)].good == Some(v.mmu.data_gen));
        if open { key::WINDOW } else { 0 }
    }

    /// As [`Windows::bit`], at a time when a window may be opened.
    pub fn consider(&mut self, v: &mut Vcpu, mode: Mode) -> u64 {
        if self.how == Use::Never || !fits(mode) {
            return 0;
        }
        let eager = self.how == Use::Always;
        if self.ones.is_none() {
            match One::new(v).and_then(|one| Ok([one, One::new(v)?])) {
                Ok(ones) => self.ones = Some(ones),
                Err(e) => self.give_up(&e),
            }
        }
        let Some(ones) = &mut self.ones else { return 0 };
        let user = mode.cpl() == 3;
        let one = &mut ones[usize::from(user)];
        if one.good == Some(v.mmu.data_gen) {
            if eager || !one.too_many() {
                return key::WINDOW;
            }
            one.since = Instant::now();
            one.wait();
            return 0;
        }
        let now = Instant::now();
        if one.seen != v.mmu.data_gen {
            one.seen = v.mmu.data_gen;
            one.since = now;
            one.closed(now);
        }
        if !eager && now.duration_since(one.since) < one.quiet {
            return 0;
        }
        match one.open(v, user, eager) {
            Ok(shown) => {
                self.counts.opened += 1;
                self.counts.shown += shown;
                key::WINDOW
            }
            Err(e) => {
                self.give_up(&e);
                0
            }
        }
    }

    /// The host address of a window, for the base of GS.
    pub fn address(&self, user: bool) -> u64 {
        let ones = self.ones.as_ref();
        ones.map_or(0, |ones| ones[usize::from(user)].window.address())
    }

    /// What code that goes to another level looks at ([`Frame::open`] and [`Frame::views`]).
    ///
    /// [`Frame::open`]: crate::x64::frame::Frame::open
    /// [`Frame::views`]: crate::x64::frame::Frame::views
    pub fn told(&self) -> ([u64; 2], [u64; 2]) {
        let Some(ones) = &self.ones else {
            return ([u64::MAX; 2], [0; 2]);
        };
        let open = [&ones[0], &ones[1]].map(|one| one.good.unwrap_or(u64::MAX));
        (open, [false, true].map(|user| self.address(user)))
    }

    /// An access faulted: shows its page, and those behind it, if the TLB permits it as it is. False: it is to be made in
    /// another way.
    pub fn show(&mut self, v: &mut Vcpu, user: bool, lin: u32, write: bool) -> bool {
        let Some(ones) = &mut self.ones else {
            return false;
        };
        let one = &mut ones[usize::from(user)];
        one.faults += 1;
        if one.good != Some(v.mmu.data_gen) {
            return false;
        }
        let Some(shown) = v.mmu.shown(lin, user).filter(|s| s.write || !write) else {
            return false;
        };
        if one.window.at(lin) == Some(shown) {
            return true;
        }
        match one.run(v, user, lin, shown) {
            Ok(pages) => {
                self.counts.shown += pages;
                pages != 0
            }
            Err(e) => {
                self.give_up(&e);
                false
            }
        }
    }
}

impl One {
    fn new(v: &Vcpu) -> std::io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            window: Window::new(v.mmu.ram())?,
            good: None,
            seen: 0,
            since: now,
            quiet: QUIET,
            opened: now,
            faults: 0,
        })
    }

    /// A flush has closed it: where it was not open for long, the next time it waits for longer.
    fn closed(&mut self, now: Instant) {
        if self.good.is_none() {
            return;
        }
        if now.duration_since(self.opened) < WORTH {
            self.wait();
        } else {
            self.quiet = QUIET;
        }
        self.good = None;
    }

    /// It stays closed, and for longer than last time.
    fn wait(&mut self) {
        self.quiet = (self.quiet * 2).min(LONGEST);
        self.good = None;
    }

    /// Whether more faults have come than the window is worth.
    fn too_many(&self) -> bool {
        let time = self.opened.elapsed();
        let allowed = FAULTS + (time.as_micros() / PER_FAULT.as_micros()).min(1 << 30) as u32;
        self.faults > allowed
    }

    /// Brings the window up to date; how many pages are shown anew.
    fn open(&mut self, v: &mut Vcpu, user: bool, bare: bool) -> std::io::Result<u64> {
        let mmu = &mut v.mmu;
        self.window.keep(|lin, was| {
            mmu.shown(lin, user)
                .is_some_and(|now| now.offset == was.offset && (now.write || !was.write))
        })?;
        if self.window.mappings() > MAPPINGS || Window::room() < ROOM {
            self.window.clear()?;
        }
        let now = Instant::now();
        (self.opened, self.faults) = (now, 0);
        self.good = Some(v.mmu.data_gen);
        if bare {
            return Ok(0);
        }
        let mut missing = Vec::new();
        v.mmu.all_shown(user, |lin, shown| {
            if self.window.at(lin) != Some(shown) {
                missing.push((lin, shown));
            }
        });
        missing.sort_unstable_by_key(|m| m.0);
        let mut pages = 0;
        let mut rest = &missing[..];
        while let Some(((lin, first), _)) = rest.split_first() {
            let follows = |n: &usize| {
                let by = *n as u64 * PAGE_SIZE;
                rest.get(*n).is_some_and(|(l, s)| {
                    u64::from(*l) == u64::from(*lin) + by
                        && s.offset == first.offset + by
                        && s.write == first.write
                })
            };
            let run = (1..).take_while(follows).count() + 1;
            if !self.window.show(*lin, *first, run)? {
                break;
            }
            pages += run as u64;
            rest = &rest[run..];
        }
        Ok(pages)
    }

    /// Shows a page and those behind it that follow it in RAM.
    fn run(&mut self, v: &mut Vcpu, user: bool, lin: u32, first: Shown) -> std::io::Result<u64> {
        const RUN: u64 = 16;
        let mut pages = 1;
        while pages < RUN {
            let by = pages * PAGE_SIZE;
            let next = u32::try_from(u64::from(lin) + by).ok();
            let follows = next.and_then(|next| v.mmu.shown(next, user))
                == Some(Shown {
                    offset: first.offset + by,
                    ..first
                });
            if !follows {
                break;
            }
            pages += 1;
        }
        let shown = self.window.show(lin, first, pages as usize)?;
        Ok(if shown { pages } else { 0 })
    }
}
