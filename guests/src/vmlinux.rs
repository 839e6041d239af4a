//! The ELF file inside a bzImage (Documentation/arch/x86/boot.rst, `payload_offset` and `payload_length`): the
//! kernel as linked, which the bzImage unpacks in front of itself.

use std::io;

use crate::decompress;

/// No ELF file could be had from a kernel.
#[derive(Debug, thiserror::Error)]
pub enum VmlinuxError {
    /// Not a bzImage.
    #[error("it is no bzImage with a payload (boot protocol 2.08 or newer)")]
    NoPayload,
    /// The file ends before its payload.
    #[error("it is cut off: the payload ends at byte {need}, the file has {have}")]
    Truncated {
        /// Where the payload ends.
        need: u64,
        /// The file's length.
        have: u64,
    },
    /// The payload cannot be unpacked.
    #[error("its payload cannot be unpacked: {0}")]
    Packed(#[from] io::Error),
    /// The payload is something else.
    #[error("its payload is no ELF file")]
    NoElf,
}

/// More than any kernel unpacks to.
const LIMIT: u64 = 1 << 30;

/// Unpacks the kernel that a bzImage (`vmlinuz`) carries: gzip, xz, zstd, lz4 or LZMA.
///
/// # Errors
/// A [`VmlinuxError`] if `bzimage` is none, is damaged, or is packed in another way.
pub fn vmlinux(bzimage: &[u8]) -> Result<Vec<u8>, VmlinuxError> {
    let field = |at: usize, len: usize| bzimage.get(at..at + len);
    let word = |at| {
        field(at, 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_le_bytes)
    };
    let version = field(0x206, 2)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u16::from_le_bytes);
    if field(0x202, 4) != Some(b"HdrS") || version < 0x208 {
        return Err(VmlinuxError::NoPayload);
    }
    let sectors = match bzimage.get(0x1f1) {
        Some(0) | None => 4,
        Some(n) => u64::from(*n),
    };
    let offset = u64::from(word(0x248).unwrap_or(0));
    let len = u64::from(word(0x24c).unwrap_or(0));
    if offset == 0 || len < 8 {
        return Err(VmlinuxError::NoPayload);
    }
    let start = (sectors + 1) * 512 + offset;
    let payload = usize::try_from(start)
        .ok()
        .zip(usize::try_from(start + len).ok());
    let payload = payload.and_then(|(start, end)| bzimage.get(start..end));
    let payload = payload.ok_or(VmlinuxError::Truncated {
        need: start + len,
        have: bzimage.len() as u64,
    })?;
    // All formats but gzip, which has it anyway, are followed by the unpacked length.
    let packed = match payload {
        [0x1f, 0x8b, ..] => payload,
        [packed @ .., _, _, _, _] => packed,
        _ => payload,
    };
    let elf = decompress::unpack(packed, LIMIT)?;
    if elf.starts_with(b"\x7fELF") {
        Ok(elf)
    } else {
        Err(VmlinuxError::NoElf)
    }
}

#[cfg(test)]
mod tests {
    use super::{VmlinuxError, vmlinux};
    use crate::decompress::tests::{gz, lz4, sample, xz, zst};

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x400 + 0x100];
        image[0x1f1] = 1;
        image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        image[0x248] = 0x80;
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.truncate(0x400 + 0x80);
        image.extend(payload);
        image.extend([0; 100]);
        image
    }

    #[test]
    fn every_format() {
        let elf = [b"\x7fELF", &sample(100_000)[..]].concat();
        let size = (elf.len() as u32).to_le_bytes();
        assert_eq!(vmlinux(&bzimage(&gz(&elf))).unwrap(), elf);
        for packed in [xz(&elf), zst(&elf), lz4(&elf)] {
            assert_eq!(
                vmlinux(&bzimage(&[packed, size.to_vec()].concat())).unwrap(),
                elf
            );
        }
    }

    #[test]
    fn bad_input() {
        let whole = bzimage(&gz(b"\x7fELF and more"));
        assert!(matches!(
            vmlinux(&whole[..whole.len() - 110]),
            Err(VmlinuxError::Truncated { .. })
        ));
        assert!(matches!(vmlinux(b"no"), Err(VmlinuxError::NoPayload)));
        assert!(matches!(
            vmlinux(&bzimage(&gz(b"text text"))),
            Err(VmlinuxError::NoElf)
        ));
        let mut bad = whole.clone();
        bad[0x490] ^= 0xff;
        assert!(vmlinux(&bad).is_err());
    }
}
