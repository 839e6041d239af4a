//! Number formats of the command line.

/// `--mem N[K|M|G]`, powers of 1024, a plain N is MiB: bytes, a multiple of 4 KiB.
pub fn mem(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1 << 20),
    };
    let number =
        decimal(digits).ok_or("write a number with K, M or G behind it, for example 512M")?;
    let bytes: u64 = number
        .checked_mul(unit)
        .ok_or("that is more than any machine has")?;
    if bytes == 0 {
        return Err("a machine needs some memory, for example 512M".to_owned());
    }
    if !bytes.is_multiple_of(4096) {
        return Err("it must be a multiple of 4K".to_owned());
    }
    Ok(bytes)
}

/// `--code-cache`: a size as `--mem` has it, 1M to 1G.
pub fn code_cache(text: &str) -> Result<u64, String> {
    mem(text)
        .ok()
        .filter(|size| (1 << 20..=1 << 30).contains(size))
        .ok_or_else(|| "write a size from 1M to 1G, for example 64M".to_owned())
}

/// A decimal number, digits only.
fn decimal(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A number, decimal or 0x.
pub fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None => decimal(text),
    };
    parsed.ok_or_else(|| "write a number, decimal or with 0x in front".to_owned())
}

/// An I/O port, decimal or 0x.
pub fn port(text: &str) -> Result<u16, String> {
    let number = number(text)?;
    u16::try_from(number).map_err(|_| "ports go from 0 to 65535 (0xffff)".to_owned())
}

/// `--cpus`.
pub fn cpus(text: &str) -> Result<usize, String> {
    match decimal(text) {
        Some(n @ 1..=64) => Ok(n as usize),
        _ => Err("write a number from 1 to 64".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{cpus, mem, number, port};

    #[test]
    fn memory_sizes() {
        for (text, bytes) in [
            ("512", 512 << 20),
            ("512M", 512 << 20),
            ("4K", 4096),
            ("640K", 640 << 10),
            ("5G", 5 << 30),
            ("1g", 1 << 30),
        ] {
            assert_eq!(mem(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "0",
            "0K",
            "1K",
            "6K",
            "-1",
            "+1",
            "1.5G",
            "512MB",
            "0x10",
            "99999999999999999999",
            "17592186044416M",
            "é",
        ] {
            assert!(mem(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_and_numbers() {
        assert_eq!(port("244"), Ok(244));
        assert_eq!(port("0xf4"), Ok(244));
        assert_eq!(port("0xFFFF"), Ok(65535));
        for text in ["", "0x", "f4", "65536", "0x10000", "-1", "0x+1", "+4"] {
            assert!(port(text).is_err(), "{text}");
        }
        assert_eq!(number("0xffffffffffffffff"), Ok(u64::MAX));
        assert!(number("18446744073709551616").is_err());
        assert_eq!((cpus("1"), cpus("64")), (Ok(1), Ok(64)));
        for text in ["0", "65", "two", ""] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }
}
