//! The guests that we know by name: what they are called in the cache, and which Debian package holds them.

use std::fmt;

/// A file that some demo or test boots or needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guest {
    /// Debian's kernel for virtual machines, 64-bit.
    CloudKernel,
    /// The ELF file inside [`Guest::CloudKernel`]: it has a PVH entry point.
    CloudVmlinux,
    /// Debian's kernel for PCs, 64-bit.
    Amd64Kernel,
    /// Debian's kernel for PCs, 32-bit with PAE.
    I686Kernel,
    /// A static busybox, 64-bit.
    Busybox,
    /// A static busybox, 32-bit.
    BusyboxI386,
    /// memtest86+, 32-bit.
    MemtestIa32,
    /// memtest86+, 64-bit.
    MemtestX64,
    /// The SeaBIOS image of 256 KiB.
    SeaBios,
    /// SeaBIOS's VGA option ROM for a standard VGA.
    SeaVgaBios,
    /// UEFI firmware's code.
    OvmfCode,
    /// UEFI firmware's variables.
    OvmfVars,
    /// A CD image with GRUB.
    GrubCd,
    /// A floppy image with GRUB.
    GrubFloppy,
    /// A CD image with iPXE.
    IpxeCd,
    /// iPXE as a kernel with a 16-bit entry point.
    IpxeKernel,
    /// The Xen hypervisor, gzip-compressed as packaged.
    XenGz,
    /// The Xen hypervisor, an ELF file with multiboot headers.
    Xen,
}

/// The Debian architecture whose package lists hold a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Arch {
    Amd64,
    I386,
}

impl Arch {
    /// dpkg's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::I386 => "i386",
        }
    }
}

/// Where a guest comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file in a package.
    Package(Package),
    /// The ELF file inside a bzImage.
    Vmlinux(Guest),
    /// A gzip-compressed guest.
    Gunzip(Guest),
}

/// Which package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub arch: Arch,
    /// Its name, or that of a package which depends on it.
    pub name: &'static str,
    /// If not empty: the package wanted is the dependency of `name` that begins so.
    pub dependency: &'static str,
    /// The file's path in the package, without the leading slash; more than one where releases differ, the best
    /// first. A `*` stands for any part of a file's name.
    pub members: &'static [&'static str],
}

impl Guest {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::CloudKernel,
        Self::CloudVmlinux,
        Self::Amd64Kernel,
        Self::I686Kernel,
        Self::Busybox,
        Self::BusyboxI386,
        Self::MemtestIa32,
        Self::MemtestX64,
        Self::SeaBios,
        Self::SeaVgaBios,
        Self::OvmfCode,
        Self::OvmfVars,
        Self::GrubCd,
        Self::GrubFloppy,
        Self::IpxeCd,
        Self::IpxeKernel,
        Self::XenGz,
        Self::Xen,
    ];

    /// The file's path inside the cache folder.
    pub fn file(self) -> &'static str {
        match self {
            Self::CloudKernel => "vmlinuz-cloud",
            Self::CloudVmlinux => "vmlinux-cloud",
            Self::Amd64Kernel => "vmlinuz-amd64",
            Self::I686Kernel => "vmlinuz-686",
            Self::Busybox => "busybox",
            Self::BusyboxI386 => "busybox-686",
            Self::MemtestIa32 => "memtest/memtest86+ia32.bin",
            Self::MemtestX64 => "memtest/memtest86+x64.bin",
            Self::SeaBios => "seabios/bios-256k.bin",
            Self::SeaVgaBios => "seabios/vgabios-stdvga.bin",
            Self::OvmfCode => "ovmf/OVMF_CODE.fd",
            Self::OvmfVars => "ovmf/OVMF_VARS.fd",
            Self::GrubCd => "grub/grub-rescue-cdrom.iso",
            Self::GrubFloppy => "grub/grub-rescue-floppy.img",
            Self::IpxeCd => "ipxe/ipxe.iso",
            Self::IpxeKernel => "ipxe/ipxe.lkrn",
            Self::XenGz => "xen.gz",
            Self::Xen => "xen",
        }
    }

    /// What it is, for messages.
    pub fn what(self) -> &'static str {
        match self {
            Self::CloudKernel => "Debian's cloud kernel",
            Self::CloudVmlinux => "the ELF file in Debian's cloud kernel",
            Self::Amd64Kernel => "Debian's amd64 kernel",
            Self::I686Kernel => "Debian's 686-pae kernel",
            Self::Busybox => "busybox",
            Self::BusyboxI386 => "busybox for i386",
            Self::MemtestIa32 => "memtest86+ (32-bit)",
            Self::MemtestX64 => "memtest86+ (64-bit)",
            Self::SeaBios => "SeaBIOS",
            Self::SeaVgaBios => "SeaBIOS's VGA BIOS",
            Self::OvmfCode => "OVMF",
            Self::OvmfVars => "OVMF's variables",
            Self::GrubCd => "GRUB's rescue CD",
            Self::GrubFloppy => "GRUB's rescue floppy",
            Self::IpxeCd => "iPXE's CD",
            Self::IpxeKernel => "iPXE's kernel image",
            Self::XenGz => "the Xen hypervisor, compressed",
            Self::Xen => "the Xen hypervisor",
        }
    }

    pub(crate) fn source(self) -> Source {
        let package = |arch, name, dependency, members| {
            Source::Package(Package {
                arch,
                name,
                dependency,
                members,
            })
        };
        let amd64 = |name, members| package(Arch::Amd64, name, "", members);
        let kernel = |arch, name| package(arch, name, "linux-image-", &["boot/vmlinuz-*"]);
        // Releases with a merged /usr have no bin/ in packages.
        const BUSYBOX: &[&str] = &["bin/busybox", "usr/bin/busybox"];
        match self {
            Self::CloudKernel => kernel(Arch::Amd64, "linux-image-cloud-amd64"),
            Self::CloudVmlinux => Source::Vmlinux(Self::CloudKernel),
            Self::Amd64Kernel => kernel(Arch::Amd64, "linux-image-amd64"),
            Self::I686Kernel => kernel(Arch::I386, "linux-image-686-pae"),
            Self::Busybox => amd64("busybox-static", BUSYBOX),
            Self::BusyboxI386 => package(Arch::I386, "busybox-static", "", BUSYBOX),
            Self::MemtestIa32 => amd64(
                "memtest86+",
                &["boot/memtest86+ia32.bin", "boot/memtest86+ia32"],
            ),
            Self::MemtestX64 => amd64(
                "memtest86+",
                &["boot/memtest86+x64.bin", "boot/memtest86+x64"],
            ),
            Self::SeaBios => amd64("seabios", &["usr/share/seabios/bios-256k.bin"]),
            Self::SeaVgaBios => amd64("seabios", &["usr/share/seabios/vgabios-stdvga.bin"]),
            Self::OvmfCode => amd64(
                "ovmf",
                &[
                    "usr/share/OVMF/OVMF_CODE.fd",
                    "usr/share/OVMF/OVMF_CODE_4M.fd",
                ],
            ),
            Self::OvmfVars => amd64(
                "ovmf",
                &[
                    "usr/share/OVMF/OVMF_VARS.fd",
                    "usr/share/OVMF/OVMF_VARS_4M.fd",
                ],
            ),
            Self::GrubCd => amd64(
                "grub-rescue-pc",
                &["usr/lib/grub-rescue/grub-rescue-cdrom.iso"],
            ),
            Self::GrubFloppy => amd64(
                "grub-rescue-pc",
                &["usr/lib/grub-rescue/grub-rescue-floppy.img"],
            ),
            Self::IpxeCd => amd64("ipxe", &["usr/lib/ipxe/ipxe.iso", "boot/ipxe.iso"]),
            Self::IpxeKernel => amd64("ipxe", &["usr/lib/ipxe/ipxe.lkrn", "boot/ipxe.lkrn"]),
            Self::XenGz => package(
                Arch::Amd64,
                "xen-system-amd64",
                "xen-hypervisor-",
                &["boot/xen-*.gz"],
            ),
            Self::Xen => Source::Gunzip(Self::XenGz),
        }
    }

    /// The guests that come in the same package, this one first: one download serves them all.
    pub(crate) fn companions(self) -> Vec<(Self, Package)> {
        let package = |guest: Self| match guest.source() {
            Source::Package(package) => Some((guest, package)),
            Source::Vmlinux(_) | Source::Gunzip(_) => None,
        };
        let Some(mine) = package(self) else {
            return Vec::new();
        };
        let others = Self::ALL
            .into_iter()
            .filter(|g| *g != self)
            .filter_map(package);
        let same = |p: &Package| (p.arch, p.name) == (mine.1.arch, mine.1.name);
        std::iter::once(mine)
            .chain(others.filter(|(_, p)| same(p)))
            .collect()
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what())
    }
}

#[cfg(test)]
mod tests {
    use super::Guest;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_relative() {
        let files: BTreeSet<_> = Guest::ALL.iter().map(|g| g.file()).collect();
        assert_eq!(files.len(), Guest::ALL.len());
        assert!(
            files
                .iter()
                .all(|f| !f.starts_with('/') && !f.contains(".."))
        );
    }

    #[test]
    fn one_package_for_both_memtests() {
        let both: Vec<_> = Guest::MemtestX64
            .companions()
            .into_iter()
            .map(|(g, _)| g)
            .collect();
        assert_eq!(both, [Guest::MemtestX64, Guest::MemtestIa32]);
        assert_eq!(Guest::Busybox.companions().len(), 1);
        assert!(Guest::Xen.companions().is_empty());
    }
}
