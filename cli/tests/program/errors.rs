//! Bad input: one line that says what failed, why and what to do, and the status of its kind.

use crate::common::{Temporary, exit, kernel, run, words};

/// The line on stderr, and the status.
fn failed(arguments: &[&str]) -> (String, Option<i32>) {
    let output = run(arguments);
    assert!(output.stdout.is_empty(), "{output:?}");
    (words(&output), output.status.code())
}

#[test]
fn usage_errors() {
    for (line, text) in [
        (
            "run",
            "nothing to boot: firmware that boots from disks is not built yet; load a kernel with --kernel FILE",
        ),
        (
            "run --kernal x",
            "there is no argument --kernal; did you mean --kernel?",
        ),
        ("run disk.img", "booting from a disk image is not built yet"),
        (
            "run --kernel x --mem 3K",
            "--mem 3K: it must be a multiple of 4K",
        ),
        (
            "run --kernel x --mem 0",
            "--mem 0: a machine needs some memory",
        ),
        (
            "run --kernel x --cpus 65",
            "--cpus 65: write a number from 1 to 64",
        ),
        (
            "run --kernel x --debug-exit 70000",
            "--debug-exit 70000: ports go from 0",
        ),
        (
            "run --kernel x --engine kvm",
            "--engine kvm is not built yet; use --engine interp",
        ),
        (
            "run --kernel x --engine bochs",
            "--engine bochs: there is no such engine; there are auto, interp",
        ),
        (
            "run --kernel x --cpu default,+smeb",
            "there is no CPU feature `smeb`; did you mean smep?",
        ),
        (
            "run --kernel x --cpu default,+avx512_bf16",
            "`avx512_bf16` is not built yet",
        ),
        (
            "run --kernel x --serial tcp:1",
            "--serial tcp:1: --serial takes stdio, file:PATH, unix:PATH or none",
        ),
        (
            "run --kernel x --serial stdio --serial stdio",
            "--serial stdio is there twice",
        ),
        (
            "run --kernel x --ticks never",
            "--ticks never: there is no such value",
        ),
        (
            "run --kernel x --net user,model=e1000",
            "--net user,model=e1000 is not built yet",
        ),
        (
            "run --kernel x --net wifi",
            "--net wifi: there is no such value; --net takes none, user",
        ),
        (
            "run --kernel x --display vnc=:1",
            "--display vnc=:1 is not built yet",
        ),
        (
            "run --kernel x --display gtk",
            "--display gtk: there is no such value",
        ),
        (
            "run --kernel x --engine interp --mmu shadow",
            "--mmu shadow: the interp engine has no windows",
        ),
        (
            "run --kernel x --mmu ept",
            "--mmu ept: there is no such value; --mmu takes tlb or shadow",
        ),
        ("run --kernel x --disk a.img", "--disk is not built yet"),
        ("run --kernel x --cdrom a.iso", "--cdrom is not built yet"),
        ("run --kernel x --floppy a.img", "--floppy is not built yet"),
        ("run --kernel x --boot d", "--boot is not built yet"),
        (
            "run --kernel x --firmware ovmf.fd",
            "--firmware FILE is not built yet",
        ),
        (
            "run --kernel x --monitor unix:m",
            "--monitor is not built yet",
        ),
        (
            "run --kernel x --screenshot a.png@5",
            "--screenshot is not built yet",
        ),
        ("run --kernel x --gdb :1234", "--gdb is not built yet"),
        (
            "run --kernel x --verify kvm",
            "--verify kvm is not built yet; --verify takes interp or jit",
        ),
        (
            "run --kernel x --verify auto",
            "--verify auto: there is no such engine to compare with; --verify takes interp or jit",
        ),
        (
            "run --kernel x --seed many",
            "--seed many: write a number, decimal or with 0x in front",
        ),
        (
            "run --kernel x --code-cache 64K",
            "write a size from 1M to 1G, for example 64M",
        ),
        (
            "run --kernel x --filter 0x100",
            "say what with --dump ir,asm",
        ),
        ("run --resume x", "--resume is not built yet"),
        ("bench", "doppel bench is not built yet"),
        ("ctl sock quit", "doppel ctl is not built yet"),
        ("boot", "there is no command boot; commands are run, exec"),
        ("exec --engine kvm", "--engine kvm is not built yet"),
        ("exec --cpu v9", "--cpu v9: there is no CPU model `v9`"),
        ("exec case.json", "there is no argument case.json"),
    ] {
        let (said, status) = failed(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(status, Some(2), "{line}: {said}");
        assert!(
            said.starts_with(&format!("doppel: {text}")) || said.contains(text),
            "{line}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn files_that_are_not_there_or_no_kernels() {
    let empty = Temporary::new("empty", b"");
    let text = Temporary::new(
        "text",
        "just some text, nothing to boot\n".repeat(100).as_bytes(),
    );
    let script = Temporary::new("cut", &kernel(&[])[..20]);
    for (kernel, said) in [
        (
            "/nonexistent/vmlinuz",
            "cannot load /nonexistent/vmlinuz: No such file or directory",
        ),
        ("/", "irectory"),
        (empty.path(), "the file is empty; give a complete one"),
        (text.path(), "no kernel that can be loaded directly"),
        (script.path(), "cannot load"),
    ] {
        let (words, status) = failed(&["run", "--engine", "interp", "--kernel", kernel]);
        assert_eq!(status, Some(4), "{words}");
        assert!(words.contains(said), "{words}");
        assert_eq!(words.lines().count(), 1, "{words}");
    }
    let good = Temporary::new("good", &kernel(&exit(1)));
    let (words, status) = failed(&[
        "run",
        "--engine",
        "interp",
        "--kernel",
        good.path(),
        "--initrd",
        "/nonexistent",
    ]);
    assert!(
        words.contains("/nonexistent: No such file") && status == Some(4),
        "{words}"
    );
    let (words, status) = failed(&["run", "--kernel", &format!("{},protocol=bios", good.path())]);
    assert!(words.contains("bios") && status == Some(2), "{words}");
}

/// A bzImage's first sector with the setup header of protocol 2.12, as documented in Linux' boot protocol.
fn bz_image(init_size: u32, len: usize) -> Vec<u8> {
    let mut image = vec![0; len];
    image[0x1f1] = 1;
    image[0x1f4..0x1f8].copy_from_slice(&0x1000_u32.to_le_bytes());
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x200..0x202].copy_from_slice(&[0xeb, 0x66]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20c_u16.to_le_bytes());
    image[0x211] = 1;
    image[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    image[0x230..0x234].copy_from_slice(&0x20_0000_u32.to_le_bytes());
    image[0x234] = 1;
    image[0x236..0x238].copy_from_slice(&3_u16.to_le_bytes());
    image[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    image[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
    image[0x260..0x264].copy_from_slice(&init_size.to_le_bytes());
    image
}

#[test]
fn a_cut_off_kernel_and_one_that_is_too_large() {
    let cut = Temporary::new("bz-cut", &bz_image(0x10_0000, 0x8000));
    let (words, status) = failed(&["run", "--engine", "interp", "--kernel", cut.path()]);
    assert!(
        words.contains("the file is cut off") && words.contains("fetch it again"),
        "{words}"
    );
    assert_eq!((status, words.lines().count()), (Some(4), 1), "{words}");
    let large = Temporary::new("bz-large", &bz_image(0x400_0000, 1024 + 0x1_0000));
    let (words, status) = failed(&[
        "run",
        "--engine",
        "interp",
        "--mem",
        "32M",
        "--kernel",
        large.path(),
    ]);
    assert!(words.contains("--mem"), "{words}");
    assert_eq!((status, words.lines().count()), (Some(4), 1), "{words}");
    let (words, status) = failed(&[
        "run",
        "--engine",
        "interp",
        "--mem",
        "100000G",
        "--kernel",
        large.path(),
    ]);
    assert!(
        words.contains("choose a smaller --mem") && status == Some(4),
        "{words}"
    );
}
