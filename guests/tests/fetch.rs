//! Fetches a small guest as users would: needs Debian's archive or a filled cache, else it is skipped.

#[cfg(test)]
mod tests {
    use guests::{Guest, Init, initramfs, require};
    use std::fs;

    #[test]
    fn busybox_is_an_x86_64_program() {
        let Some(path) = require(Guest::Busybox) else {
            return;
        };
        let busybox = fs::read(path).unwrap();
        assert_eq!(&busybox[..4], b"\x7fELF");
        assert_eq!(busybox[18], 62); // EM_X86_64
        let archive = initramfs(
            &busybox,
            &Init::Shell {
                greeting: "hello".into(),
            },
        );
        let linked = |name: &[u8]| archive.windows(name.len()).any(|w| w == name);
        assert!(linked(b"bin/cttyhack\0") && linked(b"bin/setsid\0") && linked(b"bin/poweroff\0"));
        assert!(
            linked(b"bin/nproc\0"),
            "the names in the executable were not found"
        );
    }
}
