//! The lines by which a guest tells which load it runs: `@@BEGIN name`, `@@END name`, `@@SUM name status bytes sha256`,
//! `@@DONE`.

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A load begins.
    Begin(String),
    /// It has ended.
    End(String),
    /// What came of it.
    Sum(String, Outcome),
    /// There are no more loads.
    Done,
}

/// What came of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit status.
    pub status: u8,
    /// The output's length.
    pub bytes: u64,
    /// The output's SHA-256.
    pub sum: String,
}

impl Outcome {
    /// Whether the load did its work at all: without an error and with a result.
    pub fn is_good(&self) -> bool {
        self.status == 0 && self.bytes > 0
    }
}

/// Reads a line of the console; `None` if it is something else. Firmware may have left words before a marker.
pub fn event(line: &str) -> Option<Event> {
    let mut words = line.trim().split_once("@@")?.1.split(' ');
    let mut word = || words.next().filter(|w| !w.is_empty()).map(str::to_owned);
    let event = match word()?.as_str() {
        "BEGIN" => Event::Begin(word()?),
        "END" => Event::End(word()?),
        "SUM" => {
            let name = word()?;
            let (status, bytes) = (word()?.parse().ok()?, word()?.parse().ok()?);
            let sum =
                word().filter(|s| s.len() == 64 && s.bytes().all(|b| b.is_ascii_hexdigit()))?;
            Event::Sum(name, Outcome { status, bytes, sum })
        }
        "DONE" => Event::Done,
        _ => return None,
    };
    word().is_none().then_some(event)
}

#[cfg(test)]
mod tests {
    use super::{Event, event};

    #[test]
    fn lines() {
        assert_eq!(event("@@BEGIN xz\r\n"), Some(Event::Begin("xz".into())));
        let first = event("\x1b[2J@@BEGIN xz");
        assert_eq!(first, Some(Event::Begin("xz".into())));
        assert_eq!(event("@@END xz"), Some(Event::End("xz".into())));
        assert_eq!(event("@@DONE\r"), Some(Event::Done));
        let sum = "0a".repeat(32);
        let Some(Event::Sum(name, outcome)) = event(&format!("@@SUM xz 0 12 {sum}")) else {
            panic!("it is a result");
        };
        assert_eq!((name.as_str(), outcome.sum.as_str()), ("xz", sum.as_str()));
        assert!(outcome.is_good());
        for (status, bytes) in [(1, 12), (0, 0)] {
            let line = format!("@@SUM xz {status} {bytes} {sum}");
            assert!(matches!(event(&line), Some(Event::Sum(_, o)) if !o.is_good()));
        }
        for other in [
            "",
            "@@",
            "@@BEGIN",
            "BEGIN xz",
            "@@END a b",
            "@@SUM xz 0 12 0a",
            "@@SUM xz 300 1 ",
        ] {
            assert_eq!(event(other), None, "{other}");
        }
    }
}
