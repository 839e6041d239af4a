//! Random cases: an encoding first, then states in which its operands lie where they can be compared.

mod encode;
mod sequence;
mod special;
mod state;

use frontend_x86::Features;
use iced_x86::Code;

pub use encode::Encoding;
pub use state::linear;
pub(crate) use state::{base_of, lane, linear_element, value, vsib_size};

use crate::codes::Vendor;
use crate::layout;
use crate::native::Abilities;
use crate::{Case, Random};

/// Makes cases, from a seed.
pub struct Generator {
    random: Random,
    features: Features,
    vendor: Vendor,
    abilities: Abilities,
    template: Vec<u8>,
    /// There are YMM registers.
    avx: bool,
    /// There are ZMM and mask registers, here and in the guest.
    avx512: bool,
    /// Memory operands lie where RBX and RSP point: for sequences.
    simple: bool,
    pool: Vec<Code>,
    branches: Vec<Code>,
}

impl Generator {
    /// A generator for a host.
    pub fn new(seed: u64, features: Features, vendor: Vendor, abilities: Abilities) -> Self {
        let (pool, branches) = sequence::pool();
        let fit = |list: Vec<Code>| list.into_iter().filter(|c| features.allow(*c)).collect();
        Self {
            random: Random::new(seed),
            features,
            vendor,
            abilities,
            template: layout::template(),
            avx: is_x86_feature_detected!("avx"),
            avx512: features.has(iced_x86::CpuidFeature::AVX512F)
                && is_x86_feature_detected!("avx512bw"),
            simple: false,
            pool: fit(pool),
            branches: fit(branches),
        }
    }

    /// Starts anew from a seed, so that what follows does not depend on what was made before.
    pub fn reseed(&mut self, seed: u64) {
        self.random = Random::new(seed);
    }

    /// A state for an encoding; `None` when none was found that comes back from the host.
    pub fn case(&mut self, encoding: &Encoding) -> Option<Case> {
        for _ in 0..8 {
            let case = self.state(encoding);
            if !self.useless(&case, encoding) {
                return Some(case);
            }
        }
        None
    }
}
