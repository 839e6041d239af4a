//! `--cpu MODEL,+f,-f`: model and feature names, and a useful word when one is wrong.

use std::fmt;

use super::{CpuModel, Feature, Group};

/// Why a `--cpu` argument was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelError {
    /// No such model.
    UnknownModel(String),
    /// No such feature; the names that come close.
    UnknownFeature(String, Vec<&'static str>),
    /// A model or feature that this version does not have yet.
    NotBuilt(String),
    /// A part that begins with neither `+` nor `-`.
    Sign(String),
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownModel(name) => {
                write!(
                    f,
                    "there is no CPU model `{name}`; models are max, v1, v2, v3 and v4"
                )
            }
            Self::UnknownFeature(name, close) if close.is_empty() => {
                write!(
                    f,
                    "there is no CPU feature `{name}`; features have the names of Linux' /proc/cpuinfo"
                )
            }
            Self::UnknownFeature(name, close) => {
                write!(
                    f,
                    "there is no CPU feature `{name}`; did you mean {}?",
                    close.join(" or ")
                )
            }
            Self::NotBuilt(name) => write!(f, "`{name}` is not built yet"),
            Self::Sign(part) => {
                write!(
                    f,
                    "`{part}` after the CPU model: write +{part} to switch it on, -{part} to switch it off"
                )
            }
        }
    }
}

impl std::error::Error for ModelError {}

/// A name without what people write differently.
fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '-' | '_' | '.'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// The number of insertions, deletions and replacements between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The feature with a name, or an error with those that come close.
fn feature(name: &str) -> Result<Feature, ModelError> {
    let wanted = plain(name);
    let names = || {
        Feature::TABLE.iter().flat_map(|row| {
            row.aliases
                .iter()
                .chain([&row.name])
                .map(move |n| (row.feature, *n))
        })
    };
    if let Some((feature, _)) = names().find(|(_, n)| plain(n) == wanted) {
        return Ok(feature);
    }
    let limit = (wanted.len() / 3).clamp(1, 3);
    let mut close: Vec<_> = names()
        .map(|(_, n)| (distance(&plain(n), &wanted), n))
        .filter(|(d, n)| {
            *d <= limit && *d < wanted.len() || (wanted.len() >= 3 && plain(n).starts_with(&wanted))
        })
        .collect();
    close.sort_unstable();
    close.truncate(5);
    Err(ModelError::UnknownFeature(
        name.to_owned(),
        close.into_iter().map(|(_, n)| n).collect(),
    ))
}

/// See [`CpuModel::parse`].
pub fn parse(text: &str) -> Result<CpuModel, ModelError> {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default();
    let mut model = match name {
        "max" | "default" => CpuModel::default(),
        "v1" => CpuModel::of_groups(&[Group::Base]),
        "v2" => CpuModel::of_groups(&[Group::Base, Group::V2]),
        "v3" => CpuModel::of_groups(&[Group::Base, Group::V2, Group::V3]),
        "v4" => CpuModel::of_groups(&[Group::Base, Group::V2, Group::V3, Group::V4]),
        _ => return Err(ModelError::UnknownModel(name.to_owned())),
    };
    for part in parts {
        if let Some(name) = part.strip_prefix('+') {
            let feature = feature(name)?;
            if feature.row().group == Group::Later {
                return Err(ModelError::NotBuilt(name.to_owned()));
            }
            model.features.insert(feature);
        } else if let Some(name) = part.strip_prefix('-') {
            model.features.remove(feature(name)?);
        } else {
            return Err(ModelError::Sign(part.to_owned()));
        }
    }
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::{ModelError, distance, parse};
    use crate::cpuid::Feature;

    #[test]
    fn models_and_features() {
        let v1 = parse("v1").expect("v1 exists");
        assert!(v1.has(Feature::Sse2) && !v1.has(Feature::Sse3) && v1.has(Feature::Smep));
        let v2 = parse("v2").expect("v2 exists");
        assert!(v2.has(Feature::Sse42) && v2.has(Feature::LahfLm) && !v2.has(Feature::Bmi1));
        let m = parse("v2,+pku,-sse4.2,+sha-ni,-SSE4_1").expect("all exist");
        assert!(
            m.has(Feature::Pku)
                && m.has(Feature::Sha)
                && !m.has(Feature::Sse42)
                && !m.has(Feature::Sse41)
        );
        assert!(m.has(Feature::Ssse3));
        let v3 = parse("v3").expect("v3 exists");
        assert!(v3.has(Feature::Avx2) && v3.has(Feature::Movbe) && !v3.has(Feature::Aes));
        let less = parse("v3,-avx").expect("all exist");
        assert!(!less.has(Feature::Avx2) && !less.has(Feature::Fma) && less.has(Feature::Bmi2));
        assert_eq!((v3.xcr0(), less.xcr0(), v2.xcr0()), (7, 3, 3));
        let max = parse("max").expect("max exists");
        assert!(max.has(Feature::Vaes) && max.has(Feature::Gfni));
        let v4 = parse("v4").expect("v4 exists");
        assert!(v4.has(Feature::Avx512vl) && v4.has(Feature::Avx512bw) && v4.xcr0() == 0xe7);
        assert!(!v4.has(Feature::Avx512vbmi) && !v3.has(Feature::Avx512f));
        let some = parse("v2,+avx512vbmi").expect("vbmi exists");
        assert!(some.has(Feature::Avx512bw) && some.has(Feature::Fma) && some.xcr0() == 0xe7);
        let none = parse("v4,-avx2").expect("all exist");
        assert!(!none.has(Feature::Avx512f) && !none.has(Feature::Avx512vl) && none.xcr0() == 7);
    }

    #[test]
    fn errors_say_what_to_do() {
        let text = |t: &str| parse(t).expect_err("wrong").to_string();
        assert_eq!(
            text("default,+avx512-bf16"),
            "`avx512-bf16` is not built yet"
        );
        assert_eq!(
            text("core2"),
            "there is no CPU model `core2`; models are max, v1, v2, v3 and v4"
        );
        assert_eq!(
            text("default,+smeb"),
            "there is no CPU feature `smeb`; did you mean smep?"
        );
        assert!(text("default,+avx512-v").contains("avx512f or avx512vl"));
        assert!(text("default,+qqqqqq").starts_with("there is no CPU feature `qqqqqq`; features"));
        assert_eq!(
            parse("default,pku").err(),
            Some(ModelError::Sign("pku".into()))
        );
        assert_eq!(
            parse("").err(),
            Some(ModelError::UnknownModel(String::new()))
        );
    }

    #[test]
    fn edit_distance() {
        for (a, b, d) in [
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("smep", "smap", 1),
            ("x", "x", 0),
        ] {
            assert_eq!(distance(a, b), d);
            assert_eq!(distance(b, a), d);
        }
    }
}
