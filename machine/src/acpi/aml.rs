//! The few AML encodings that the DSDT needs (ACPI 6.5, chapter 20), and resource descriptors (section 6.4).
//!
//! Every function returns the bytes of one term; terms are concatenated.

/// A name of up to four characters, padded with underscores.
fn segment(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(4, b'_');
    bytes
}

/// A length as PkgLength counts it: the encoding itself included.
fn package_length(content: usize) -> Vec<u8> {
    if content + 1 < 0x40 {
        return vec![(content + 1) as u8];
    }
    let more = (1..=3)
        .find(|&n| content + 1 + n < 1 << (4 + 8 * n))
        .expect("tables are below 256 MiB");
    let total = content + 1 + more;
    let mut bytes = vec![(more << 6 | total & 0xf) as u8];
    bytes.extend((0..more).map(|n| (total >> (4 + 8 * n)) as u8));
    bytes
}

/// An opcode whose content is preceded by its length.
fn sized(op: &[u8], content: &[u8]) -> Vec<u8> {
    [op, &package_length(content.len()), content].concat()
}

/// An integer in its shortest form.
pub(super) fn integer(value: u64) -> Vec<u8> {
    let bytes = value.to_le_bytes();
    match value {
        0 | 1 => vec![bytes[0]],
        2..=0xff => vec![0x0a, bytes[0]],
        0x100..=0xffff => [&[0x0b], &bytes[..2]].concat(),
        0x1_0000..=0xffff_ffff => [&[0x0c], &bytes[..4]].concat(),
        _ => [&[0x0e], &bytes[..]].concat(),
    }
}

/// A string.
pub(super) fn string(text: &str) -> Vec<u8> {
    [&[0x0d], text.as_bytes(), &[0]].concat()
}

/// The compressed form of an id like PNP0A03.
pub(super) fn eisa_id(id: &str) -> Vec<u8> {
    let bytes = id.as_bytes();
    let letters = bytes[..3]
        .iter()
        .fold(0u32, |v, &c| v << 5 | u32::from(c - 0x40));
    let number = u32::from_str_radix(&id[3..], 16).expect("an EISA id");
    [&[0x0c], &(letters << 16 | number).to_be_bytes()[..]].concat()
}

/// Name(name, value).
pub(super) fn name(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0x08], &segment(name)[..], value].concat()
}

/// Scope(\name) {content}.
pub(super) fn scope(name: &str, content: &[Vec<u8>]) -> Vec<u8> {
    sized(
        &[0x10],
        &[b"\\", &segment(name)[..], &content.concat()].concat(),
    )
}

/// Device(name) {content}.
pub(super) fn device(name: &str, content: &[Vec<u8>]) -> Vec<u8> {
    sized(
        &[0x5b, 0x82],
        &[&segment(name)[..], &content.concat()].concat(),
    )
}

/// Method(name, arguments) {content}.
pub(super) fn method(name: &str, arguments: u8, content: &[Vec<u8>]) -> Vec<u8> {
    sized(
        &[0x14],
        &[&segment(name)[..], &[arguments], &content.concat()].concat(),
    )
}

/// Package() {elements}.
pub(super) fn package(elements: &[Vec<u8>]) -> Vec<u8> {
    sized(
        &[0x12],
        &[&[elements.len() as u8], &elements.concat()[..]].concat(),
    )
}

/// Buffer() {bytes}.
fn buffer(bytes: &[u8]) -> Vec<u8> {
    sized(&[0x11], &[&integer(bytes.len() as u64)[..], bytes].concat())
}

/// Return(value).
pub(super) fn returns(value: &[u8]) -> Vec<u8> {
    [&[0xa4], value].concat()
}

/// Store(Arg0, name).
pub(super) fn store_arg0(name: &str) -> Vec<u8> {
    [&[0x70, 0x68], &segment(name)[..]].concat()
}

/// If(predicate) {content}.
pub(super) fn when(predicate: &[u8], content: &[Vec<u8>]) -> Vec<u8> {
    sized(&[0xa0], &[predicate, &content.concat()].concat())
}

/// A reference to a name.
pub(super) fn reference(name: &str) -> Vec<u8> {
    segment(name)
}

/// ResourceTemplate() {descriptors}. The checksum 0 means "not checked".
pub(super) fn resources(descriptors: &[Vec<u8>]) -> Vec<u8> {
    buffer(&[&descriptors.concat()[..], &[0x79, 0]].concat())
}

/// IO(Decode16, first, first, 1, count).
pub(super) fn io(first: u16, count: u8) -> Vec<u8> {
    let [low, high] = first.to_le_bytes();
    vec![0x47, 1, low, high, low, high, 1, count]
}

/// IRQNoFlags() {irq}: edge-triggered, not shared.
pub(super) fn irq(irq: u8) -> Vec<u8> {
    let [low, high] = (1u16 << irq).to_le_bytes();
    vec![0x22, low, high]
}

/// Memory32Fixed(ReadWrite, start, len).
pub(super) fn memory32_fixed(start: u32, len: u32) -> Vec<u8> {
    [
        &[0x86, 9, 0, 1],
        &start.to_le_bytes()[..],
        &len.to_le_bytes(),
    ]
    .concat()
}

/// The fields that all address space descriptors of one width share: granularity, first, last, translation, length.
fn window<const N: usize>(tag: u8, kind: u8, type_flags: u8, fields: [[u8; N]; 5]) -> Vec<u8> {
    let len = (3 + 5 * N) as u16;
    // Both ends are fixed, and the bridge passes the range on to its bus.
    let general = 0x0c;
    [
        &[tag],
        &len.to_le_bytes()[..],
        &[kind, general, type_flags],
        &fields.concat(),
    ]
    .concat()
}

/// WordBusNumber(ResourceProducer, first..=last).
pub(super) fn bus_numbers(first: u16, last: u16) -> Vec<u8> {
    window(
        0x88,
        2,
        0,
        [0, first, last, 0, last - first + 1].map(u16::to_le_bytes),
    )
}

/// WordIO(ResourceProducer, EntireRange, first..=last).
pub(super) fn io_window(first: u16, last: u16) -> Vec<u8> {
    window(
        0x88,
        1,
        3,
        [0, first, last, 0, last - first + 1].map(u16::to_le_bytes),
    )
}

/// DWordMemory(ResourceProducer, NonCacheable, ReadWrite, first..=last).
pub(super) fn memory_window(first: u32, last: u32) -> Vec<u8> {
    window(
        0x87,
        0,
        1,
        [0, first, last, 0, last - first + 1].map(u32::to_le_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::{eisa_id, integer, package_length};

    #[test]
    fn lengths_count_themselves() {
        assert_eq!(package_length(0x3e), [0x3f]);
        assert_eq!(package_length(0x3f), [0x41, 0x04]);
        assert_eq!(package_length(0xffd), [0x4f, 0xff]);
        assert_eq!(package_length(0xffe), [0x81, 0x00, 0x01]);
    }

    #[test]
    fn ids_and_integers() {
        assert_eq!(eisa_id("PNP0A03"), [0x0c, 0x41, 0xd0, 0x0a, 0x03]);
        assert_eq!(integer(1), [1]);
        assert_eq!(integer(0x1234), [0x0b, 0x34, 0x12]);
    }
}
