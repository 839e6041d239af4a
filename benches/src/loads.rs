//! The programs, what they do, and the initramfs that runs them one after another.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use guests::{Cache, Guest, Init, PackageSet, initramfs_with};

use crate::inputs;

/// The packages.
pub const PACKAGES: PackageSet = PackageSet {
    name: "programs",
    packages: &[
        "bzip2",
        "flac",
        "gzip",
        "lame",
        "libjpeg-turbo-progs",
        "mawk",
        "openssl",
        "perl-base",
        "python3-minimal",
        "sqlite3",
        "vorbis-tools",
        "xz-utils",
        "zstd",
    ],
};

/// A program at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// A short name.
    pub name: &'static str,
    /// A shell command; its standard output is the result.
    pub command: &'static str,
}

/// All loads. Those whose work is integer arithmetic, translation itself, or to start, are there as well as those that
/// use floating point and vectors.
pub const LOADS: [Load; 15] = [
    Load {
        name: "mawk",
        command: "/bin/mawk '{for(i=1;i<=NF;i++)n[$i]++} END{for(k in n){t+=n[k]*length(k);s+=n[k]*n[k]} \
            for(i=1;i<1500000;i++)h[i%5003]+=i*i%997; for(k in h)x+=h[k]*(k%7); print NR,t,s,x}' /bench/text",
    },
    Load {
        name: "flac",
        command: "for i in 1 2 3 4; do /bin/flac -8 -s -c /bench/sound.wav; done",
    },
    Load {
        name: "lame",
        command: "/bin/lame --quiet -q 2 -b 192 /bench/sound.wav -",
    },
    Load {
        name: "oggenc",
        command: "for q in 2 5 8; do /bin/oggenc -Q --serial 1 -q $q -o - /bench/sound.wav; done",
    },
    Load {
        name: "cjpeg",
        command: "for q in 40 45 50 55 60 65 70 75 80 85 90 92 94 96 98 99; do /bin/cjpeg -dct float -quality $q /bench/picture.ppm; \
            /bin/cjpeg -quality $q /bench/picture.ppm; done",
    },
    Load {
        name: "aes+sha",
        command: "for i in 1 2 3 4 5 6 7 8; do cat /bench/text /bench/sound.wav; done >/tmp/large; \
            /bin/openssl dgst -r -sha512 /tmp/large; /bin/openssl dgst -r -sha256 /tmp/large; \
            for i in 1 2 3 4; do \
            /bin/openssl enc -aes-256-ctr -K 0123 -iv 4567 -in /tmp/large | /bin/openssl dgst -r -md5; done",
    },
    Load {
        name: "prime",
        // 2^2203-1.
        command: "/bin/openssl prime -hex 07$(printf 'ff%.0s' $(seq 275))",
    },
    Load {
        name: "xz",
        command: "head -c 2000000 /bench/text | /bin/xz -T1 -6 -c",
    },
    Load {
        name: "zstd",
        command: "/bin/zstd -q --single-thread -12 -c /bench/text",
    },
    Load {
        name: "gzip",
        command: "/bin/gzip -n -9 -c /bench/text /bench/sound.wav",
    },
    Load {
        name: "bzip2",
        command: "/bin/bzip2 -c /bench/text; /bin/bzip2 -c /bench/sound.wav",
    },
    Load {
        name: "perl",
        command: "/bin/perl -e 'while(<>){for(split){$n{$_}++;$c++ if /^[aeiou].*[rst]$/}} \
            for(sort{$n{$b}<=>$n{$a}||$a cmp $b}keys %n){print \"$_ $n{$_}\\n\"} print \"$c\\n\"' /bench/text",
    },
    Load {
        name: "sqlite",
        command: "/bin/sqlite3 :memory: \"create table t(a integer primary key,b text,c int); \
            with recursive n(i) as (select 1 union all select i+1 from n where i<120000) \
            insert into t select i,hex(i*7919),i*31%1009 from n; create index x on t(c); \
            select sum(a.a), count(*) from t a join t b on a.c=b.a where a.b like '%3%'; \
            select c,count(*),avg(a) from t group by c order by 2 desc,1;\"",
    },
    Load {
        name: "python",
        command: "/bin/python3 /bench/nbody.py",
    },
    Load {
        name: "processes",
        // Libraries at other addresses each time.
        command: "for i in $(seq 60); do /bin/perl -e \"print $i*$i, ' '\"; echo $i | /bin/mawk '{print $1+1}'; done",
    },
];

/// A floating-point program of dictionaries, lists and functions.
const NBODY: &str = "\
def step(bodies, dt):
    for i, a in enumerate(bodies):
        for b in bodies[i + 1:]:
            d = [a['x'][k] - b['x'][k] for k in range(3)]
            m = dt / (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] + 0.01) ** 1.5
            for k in range(3):
                a['v'][k] -= d[k] * b['m'] * m
                b['v'][k] += d[k] * a['m'] * m
    for a in bodies:
        for k in range(3):
            a['x'][k] += dt * a['v'][k]

bodies = [{'x': [i * 1.5, i % 3 * 0.7, i % 2 - 0.4], 'v': [0.1 * i, 0.0, 0.2], 'm': 1.0 / (i + 1)} for i in range(6)]
for _ in range(6000):
    step(bodies, 0.001)
for a in bodies:
    print(*a['x'], *a['v'])
words = {}
for line in open('/bench/text'):
    for word in line.split():
        words[word] = words.get(word, 0) + 1
print(sorted(words.items(), key=lambda w: (-w[1], w[0]))[:50])
";

/// Whether a package's file is of use when nobody reads manuals and all text is ASCII.
fn is_needed(path: &str) -> bool {
    const USELESS: [&str; 6] = ["usr/share/", "share/", "etc/", "var/", "sbin/", "usr/sbin/"];
    !USELESS.iter().any(|folder| path.starts_with(folder)) && !path.contains("/gconv/")
}

/// The script that runs loads between marker lines (see [`crate::protocol`]). A result is summed after its end marker.
pub fn script(loads: &[Load]) -> String {
    let mut script = String::from(
        "export PATH=/bin OPENSSL_CONF=/dev/null LC_ALL=C PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1\n\
         run() {\n\
         echo \"@@BEGIN $1\"\n\
         sh -e -o pipefail -c \"$2\" >/tmp/out 2>/tmp/err </dev/null\n\
         status=$?\n\
         echo \"@@END $1\"\n\
         set -- \"$1\" $(sha256sum </tmp/out) $(wc -c </tmp/out)\n\
         echo \"@@SUM $1 $status $4 $2\"\n\
         head -n 5 /tmp/err\n\
         rm -f /tmp/*\n\
         }\n",
    );
    for load in loads {
        let quoted = load.command.replace('\'', r"'\''");
        script += &format!("run {} '{quoted}'\n", load.name);
    }
    script + "echo @@DONE\n"
}

/// Builds the initramfs for loads from the packages' files.
///
/// # Errors
/// A package cannot be read.
pub fn archive(busybox: &[u8], debs: &[PathBuf], loads: &[Load]) -> io::Result<Vec<u8>> {
    let mut result = Ok(());
    let bytes = initramfs_with(busybox, &Init::Script(script(loads)), |cpio| {
        cpio.file("bench/text", 0o644, &inputs::text(6_000_000))
            .file("bench/sound.wav", 0o644, &inputs::sound(20))
            .file("bench/picture.ppm", 0o644, &inputs::picture(1600, 1200))
            .file("bench/nbody.py", 0o644, NBODY.as_bytes());
        result = debs
            .iter()
            .try_for_each(|deb| cpio.package(deb, is_needed).map(|_| ()));
    });
    result.map(|()| bytes)
}

/// Gets everything from the cache or from Debian, and writes the initramfs to `to`; the kernel's path.
///
/// # Errors
/// Something cannot be had, or the file cannot be written.
pub fn prepare(cache: &Cache, loads: &[Load], to: &Path) -> Result<PathBuf, String> {
    let get = |guest| cache.get(guest).map_err(|e| e.to_string());
    let kernel = get(Guest::CloudKernel)?;
    let busybox = get(Guest::Busybox)?;
    let debs = cache.packages(&PACKAGES).map_err(|e| e.to_string())?;
    let write = || fs::write(to, archive(&fs::read(busybox)?, &debs, loads)?);
    write().map_err(|e| format!("cannot make the initramfs {}: {e}", to.display()))?;
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::{LOADS, is_needed, script};
    use std::collections::BTreeSet;
    use std::process::Command;

    #[test]
    fn names_are_unique_words() {
        let names: BTreeSet<_> = LOADS.iter().map(|l| l.name).collect();
        assert_eq!(names.len(), LOADS.len());
        assert!(!names.iter().any(|n| n.contains(char::is_whitespace)));
    }

    #[test]
    fn the_shell_can_read_the_script() {
        let text = script(&LOADS);
        let checked = Command::new("sh").args(["-n", "-c", &text]).status();
        assert!(checked.unwrap().success());
        for load in LOADS {
            let checked = Command::new("sh").args(["-n", "-c", load.command]).status();
            assert!(checked.unwrap().success(), "{}", load.name);
        }
        assert!(text.ends_with("echo @@DONE\n"));
    }

    #[test]
    fn libraries_stay_and_manuals_go() {
        assert!(
            is_needed("usr/lib/x86_64-linux-gnu/libz.so.1")
                && is_needed("lib64/ld-linux-x86-64.so.2")
        );
        assert!(!is_needed("usr/share/man/man1/x.1.gz"));
        assert!(!is_needed("usr/lib/x86_64-linux-gnu/gconv/BIG5.so"));
    }
}
