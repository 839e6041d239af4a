//! The compressed formats of Debian's packages and of Linux's kernels, read by pure Rust.

use std::io::{self, BufRead, Read};

/// The largest window that zstd's strongest level uses (kernels are packed with it).
const ZSTD_WINDOW: u64 = 1 << 27;
/// Most memory for an LZMA dictionary, in KiB.
const LZMA_MEMORY_KIB: u32 = 256 << 10;
/// Bytes that a block of lz4's legacy format unpacks to at most.
const LZ4_BLOCK: usize = 8 << 20;

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Wraps a reader by what its first bytes say; bytes of no known format are passed through.
pub(crate) fn reader<'a>(mut from: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    // One read may yield less than the longest magic number.
    let mut start = Vec::new();
    from.by_ref().take(6).read_to_end(&mut start)?;
    let from = io::Cursor::new(start.clone()).chain(from);
    Ok(match start.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::GzDecoder::new(from)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new_mem_limit(
            from,
            false,
            LZMA_MEMORY_KIB,
        )),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder =
                ruzstd::decoding::StreamingDecoder::new_with_max_window_size(from, ZSTD_WINDOW);
            Box::new(decoder.map_err(|e| invalid(e.to_string()))?)
        }
        [0x02, 0x21, 0x4c, 0x18, ..] => Box::new(Lz4Legacy::new(from)?),
        [0x5d, 0, 0, ..] => Box::new(lzma_rust2::LzmaReader::new_mem_limit(
            from,
            LZMA_MEMORY_KIB,
            None,
        )?),
        [b'B', b'Z', b'h', ..] => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "bzip2 is not supported",
            ));
        }
        [0x89, b'L', b'Z', b'O', ..] => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "lzo is not supported",
            ));
        }
        _ => Box::new(from),
    })
}

/// lz4's legacy format (lz4_Frame_format.md, "Legacy frame"): blocks, each preceded by its length, to the end.
struct Lz4Legacy<R> {
    from: R,
    block: Vec<u8>,
    at: usize,
}

impl<R: BufRead> Lz4Legacy<R> {
    fn new(mut from: R) -> io::Result<Self> {
        from.read_exact(&mut [0; 4])?;
        Ok(Self {
            from,
            block: Vec::new(),
            at: 0,
        })
    }

    /// Unpacks the next block; false at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        if self.from.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let mut len = [0; 4];
        self.from.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
            return Err(invalid("an lz4 block is too long"));
        }
        let mut packed = vec![0; len];
        self.from.read_exact(&mut packed)?;
        self.block.resize(LZ4_BLOCK, 0);
        let len = lz4_flex::block::decompress_into(&packed, &mut self.block)
            .map_err(|e| invalid(e.to_string()))?;
        self.block.truncate(len);
        self.at = 0;
        Ok(true)
    }
}

impl<R: BufRead> Read for Lz4Legacy<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let rest = self.block.get(self.at..).unwrap_or_default();
        let len = rest.len().min(to.len());
        if let (Some(to), Some(from)) = (to.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        self.at += len;
        Ok(len)
    }
}

/// Unpacks all of `packed`, to at most `limit` bytes.
pub(crate) fn unpack(packed: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader(packed)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(invalid(format!("it unpacks to more than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{reader, unpack};
    use std::io::{self, Read, Write};

    /// Packs with gzip.
    pub(crate) fn gz(data: &[u8]) -> Vec<u8> {
        let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        w.write_all(data).unwrap();
        w.finish().unwrap()
    }

    /// Packs with xz and the x86 filter, as kernels are.
    pub(crate) fn xz(data: &[u8]) -> Vec<u8> {
        let mut options = lzma_rust2::XzOptions::with_preset(1);
        options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
        let mut w = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        w.write_all(data).unwrap();
        w.finish().unwrap()
    }

    /// Packs with zstd.
    pub(crate) fn zst(data: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
    }

    /// Packs in lz4's legacy format.
    pub(crate) fn lz4(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0x02, 0x21, 0x4c, 0x18];
        for block in data.chunks(super::LZ4_BLOCK) {
            let packed = lz4_flex::block::compress(block);
            out.extend((packed.len() as u32).to_le_bytes());
            out.extend(packed);
        }
        out
    }

    /// Half noise, half repetition; contains x86 call instructions for the filter.
    pub(crate) fn sample(len: usize) -> Vec<u8> {
        let mut x = 0x1234_5678_u32;
        (0..len)
            .map(|n| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if n % 64 < 32 {
                    (x >> 24) as u8
                } else {
                    [0xe8, 1, 2, 0, 0][n % 5]
                }
            })
            .collect()
    }

    #[test]
    fn every_format_round_trips() {
        let data = sample(300_000);
        for packed in [gz(&data), xz(&data), zst(&data), lz4(&data), data.clone()] {
            assert_eq!(unpack(&packed, 1 << 20).unwrap(), data);
            assert!(unpack(&packed, 1000).is_err());
        }
        let long = vec![7; super::LZ4_BLOCK + 5];
        assert_eq!(unpack(&lz4(&long), 1 << 24).unwrap(), long);
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let data = sample(20_000);
        for packed in [gz(&data), xz(&data), zst(&data), lz4(&data)] {
            let half = &packed[..packed.len() / 2];
            assert_ne!(unpack(half, 1 << 20).ok(), Some(data.clone()));
            for at in (0..packed.len()).step_by(97) {
                let mut bad = packed.clone();
                bad[at] ^= 0x55;
                // Whether it is noticed is up to the format; it must end.
                if let Ok(r) = reader(&bad[..]) {
                    io::copy(&mut r.take(1 << 20), &mut io::sink()).ok();
                }
            }
        }
        assert!(unpack(b"BZh91AY", 10).is_err());
    }
}
