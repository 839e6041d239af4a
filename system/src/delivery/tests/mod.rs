//! Every way into a handler: by mode, gate type and privilege; the faults on the way with their error codes.

mod escalation;
mod long;
mod protected;
mod real;
mod vm86;

use x86::{Exception, flags};

use super::{Event, Source, soft_int};
use crate::testing::{Machine, START};

/// Flags that handlers must not inherit, and some that they must.
const SEEN: u64 = flags::FIXED | flags::CF | flags::TF | flags::IF | flags::DF | flags::NT;

/// A machine whose RFLAGS are [`SEEN`].
fn with_flags(mut m: Machine) -> Machine {
    let kept = m.v.st.rflags & (flags::VM | flags::IOPL);
    m.v.st.rflags = SEEN | kept;
    m
}

/// Delivers what is no software interrupt.
fn hardware(m: &mut Machine, vector: u8, error: Option<u32>) -> Result<(), Exception> {
    let event = Event {
        vector,
        error,
        source: Source::Exception,
        ip: START,
        resume: error.is_some(),
    };
    m.v.deliver(&event)
}

/// INT n.
fn int(m: &mut Machine, vector: u8) -> Result<(), Exception> {
    soft_int(&mut m.v, u64::from(vector), 2, 0).map(|_| ())
}

/// Delivers by hardware and by INT n; both must fail with these error codes (EXT is added for hardware) and leave
/// everything as it was.
fn fails(build: &dyn Fn() -> Machine, what: &str, vector: u8, expected: Exception) {
    for software in [false, true] {
        let mut m = build();
        let before = m.snapshot();
        let got = if software {
            int(&mut m, vector)
        } else {
            hardware(&mut m, vector, None)
        };
        let mut expected = expected;
        if !software && expected.cr2.is_none() {
            expected.error = expected.error.map(|code| code | 1);
        }
        assert_eq!(got, Err(expected), "{what}, software {software}");
        assert_eq!(
            m.snapshot(),
            before,
            "{what} changed something, software {software}"
        );
    }
}
