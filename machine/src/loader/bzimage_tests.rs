//! Synthetic bzImages of several protocol versions.

use super::super::error::Problem;
use super::super::files::{BootFiles, Module};
use super::super::testing::{Ram, environment};
use super::super::{Environment, LoadError, Loaded, Protocol};
use x86::{Gpr, Seg};

/// A bzImage: four setup sectors, 64 KiB of code whose first byte is 90h.
pub(in super::super) fn image(version: u16) -> Vec<u8> {
    let mut image = vec![0; 5 * 512 + 0x1_0000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[4]);
    put(0x1f4, &0x1000_u32.to_le_bytes()); // syszise: 64 KiB
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &version.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1, 21]);
    put(0x236, &3_u16.to_le_bytes()); // 64-bit entry, above 4G
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x200_0000_u32.to_le_bytes());
    put(5 * 512, &[0x90]);
    image
}

fn files(kernel: Vec<u8>, initrd: usize, append: &str) -> BootFiles {
    let module = |n| Module {
        file: "i".into(),
        command_line: "i".into(),
        bytes: vec![0x5a; n],
    };
    BootFiles {
        name: "bz".into(),
        kernel,
        protocol: Protocol::Auto,
        modules: (initrd > 0).then(|| module(initrd)).into_iter().collect(),
        append: append.into(),
    }
}

fn load(files: &BootFiles, env: &Environment) -> Result<(Loaded, Ram), LoadError> {
    let mut ram = Ram::new(&env.map);
    let loaded = files.load(env, &mut ram)?;
    Ok((loaded, ram))
}

fn problem(files: &BootFiles, env: &Environment) -> Problem {
    load(files, env).map(|_| ()).unwrap_err().problem
}

#[test]
fn sixty_four_bit_entry() {
    let env = environment(512);
    let (loaded, ram) = load(&files(image(0x20f), 0x1_2345, "console=ttyS0 quiet"), &env).unwrap();
    assert_eq!(loaded.protocol, Protocol::Linux);
    let e = loaded.entry;
    assert_eq!(e.rip, 0x100_0200);
    assert_eq!(e.seg[Seg::Cs as usize].selector, 0x10);
    assert_eq!(ram.read(0x100_0000, 1), [0x90]);
    let zero = e.gpr[Gpr::Rsi as usize];
    assert_eq!(ram.read(zero + 0x202, 4), *b"HdrS");
    assert_eq!(ram.read(zero + 0x210, 1), [0xff]);
    assert_eq!(ram.u32(zero + 0x214), 0x100_0000);
    assert_eq!(
        ram.string(ram.u32(zero + 0x228).into()),
        "console=ttyS0 quiet"
    );
    assert_eq!(ram.u64(zero + 0x70), 0xf_0040);
    let initrd = u64::from(ram.u32(zero + 0x218));
    assert_eq!(ram.u32(zero + 0x21c), 0x1_2345);
    assert_eq!(initrd, (0x2000_0000 - 0x1_2345) & !0xfff);
    assert_eq!(ram.read(initrd + 0x1_2344, 1), [0x5a]);
    // e820: RAM, EBDA, F segment, RAM, and the four windows under 4 GiB.
    assert_eq!(ram.read(zero + 0x1e8, 1), [8]);
    let entry = |n: u64| {
        let at = zero + 0x2d0 + n * 20;
        (ram.u64(at), ram.u64(at + 8), ram.u32(at + 16))
    };
    assert_eq!(entry(0), (0, 0x9_fc00, 1));
    assert_eq!(entry(1), (0x9_fc00, 0x400, 2));
    assert_eq!(entry(2), (0xf_0000, 0x1_0000, 2));
    assert_eq!(entry(3), (0x10_0000, 0x1ff0_0000, 1));
    assert_eq!((ram.u16(0x40e), ram.u16(0x413)), (0x9fc0, 639));
    // Without VGA nobody claims that there is one.
    assert_eq!(ram.read(zero + 0xf, 1), [0]);
}

#[test]
fn thirty_two_bit_entry_without_long_mode() {
    let env = Environment {
        long_mode: false,
        vga_text: true,
        ..environment(64)
    };
    let (loaded, ram) = load(&files(image(0x20f), 0, ""), &env).unwrap();
    assert_eq!(
        (loaded.entry.rip, loaded.entry.efer, loaded.entry.cr0),
        (0x100_0000, 0, 0x11)
    );
    let zero = loaded.entry.gpr[Gpr::Rsi as usize];
    assert_eq!(ram.read(zero + 6, 2), [3, 80]);
    assert_eq!(ram.read(zero + 0xe, 2), [25, 1]);
}

#[test]
fn not_relocatable_is_loaded_at_one_mib() {
    // As memtest86+ 6: protocol 2.12, fixed at 1 MiB, code not a multiple of 16 bytes.
    let mut kernel = image(0x20c);
    kernel[0x234] = 0;
    kernel[0x258..0x260].copy_from_slice(&0x10_0000_u64.to_le_bytes());
    kernel[0x260..0x264].copy_from_slice(&0x6_0000_u32.to_le_bytes());
    kernel[0x22c..0x230].fill(0xff);
    kernel.truncate(kernel.len() - 8);
    let (loaded, ram) = load(&files(kernel, 0, "console=ttyS0,115200"), &environment(64)).unwrap();
    assert_eq!(loaded.entry.rip, 0x10_0200);
    assert_eq!(ram.read(0x10_0000, 1), [0x90]);
}

#[test]
fn oldest_protocol_has_its_zero_page_at_90000h() {
    let (loaded, ram) = load(&files(image(0x201), 100, "ro"), &environment(64)).unwrap();
    assert_eq!(loaded.entry.rip, 0x10_0000);
    assert_eq!(loaded.entry.gpr[Gpr::Rsi as usize], 0x9_0000);
    assert_eq!(ram.u16(0x9_0020), 0xa33f);
    assert_eq!(ram.string(0x9_0000 + u64::from(ram.u16(0x9_0022))), "ro");
    assert!(ram.u32(0x9_0218) < 0x3800_0000);
}

#[test]
fn an_initrd_goes_above_four_gib_only_where_it_must() {
    let mut kernel = image(0x20f);
    kernel[0x22c..0x230].copy_from_slice(&0x2ff_ffff_u32.to_le_bytes());
    let env = environment(5 << 10);
    let (loaded, ram) = load(&files(kernel.clone(), 4096, ""), &env).unwrap();
    let zero = loaded.entry.gpr[Gpr::Rsi as usize];
    // The unpacked kernel ends at 48 MiB, where the allowed range ends: the gap below it is taken.
    assert_eq!(ram.u32(zero + 0x218), 0xff_f000);
    let (loaded, ram) = load(&files(kernel, 17 << 20, ""), &env).unwrap();
    let zero = loaded.entry.gpr[Gpr::Rsi as usize];
    assert_eq!(ram.u32(zero + 0xc0), 1);
    assert_eq!(ram.u32(zero + 0x218), 0x8000_0000 - (17 << 20));
}

#[test]
fn bad_images() {
    let env = environment(64);
    let mut cut = image(0x20f);
    cut.truncate(0x8000);
    assert!(matches!(
        problem(&files(cut, 0, ""), &env),
        Problem::Truncated { .. }
    ));
    let mut cut = image(0x20f);
    cut.truncate(0x230);
    assert!(matches!(
        problem(&files(cut, 0, ""), &env),
        Problem::Truncated { .. }
    ));

    let mut zimage = image(0x20f);
    zimage[0x211] = 0;
    assert!(
        problem(&files(zimage, 0, ""), &env)
            .to_string()
            .contains("zImage")
    );

    let mut ipxe = image(0x207);
    ipxe[0x214..0x218].fill(0);
    assert!(
        problem(&files(ipxe, 0, ""), &env)
            .to_string()
            .contains("16-bit")
    );

    let mut odd = image(0x20f);
    odd[0x230] = 3;
    assert!(matches!(
        problem(&files(odd, 0, ""), &env),
        Problem::Malformed(_)
    ));

    assert!(matches!(
        problem(&files(image(0x20f), 0, ""), &environment(32)),
        Problem::TooLarge { .. }
    ));
    assert!(matches!(
        problem(&files(image(0x20f), 40 << 20, ""), &env),
        Problem::NoRoom { .. }
    ));
    let long = "x".repeat(2048);
    assert!(matches!(
        problem(&files(image(0x20f), 0, &long), &env),
        Problem::CommandLine {
            len: 2048,
            max: 2047
        }
    ));
}
