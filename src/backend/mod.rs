//! The backend axis: how many elements at once, and on whose thread.
//!
//! A [`Backend`] is a name. [`Backend::resolve`] turns it into an [`Engine`], the proof that this
//! CPU can run it, once per call and outside every loop. An engine sweeps a kernel over
//! [`Buffers`]: `scalar` runs the hand-written reference, `wide` and `native` run the fused
//! arithmetic on registers, and `parallel` hands any of them one chunk after the other.

pub(crate) mod native;
#[cfg(feature = "parallel")]
pub(crate) mod parallel;
mod scalar;
pub(crate) mod wide;

use core::fmt;
use core::str::FromStr;

use crate::{Element, Error, Kernel, Lanes};

/// How many elements are computed at once, and with which instructions.
///
/// All backends give the same bits. They differ in speed, and in where they are available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// `native` where the CPU has one, else `wide`. The default.
    #[default]
    Auto,
    /// The reference, written out by hand one element at a time. Everywhere.
    Scalar,
    /// Portable SIMD on the crate `wide`, with the instructions that the build enables: on a plain
    /// build for x86-64 these are 128 bits wide. Everywhere.
    Wide,
    /// The best instruction set that the CPU turns out to have when the program runs:
    /// [`Avx512`](Self::Avx512), [`Avx2`](Self::Avx2) or [`Neon`](Self::Neon), in this order.
    Native,
    /// 256-bit registers on x86-64 (the level x86-64-v3).
    Avx2,
    /// 512-bit registers on x86-64 (the level x86-64-v4).
    Avx512,
    /// 128-bit registers on AArch64.
    Neon,
}

impl Backend {
    /// Every backend, available here or not.
    pub const ALL: [Backend; 7] = [
        Backend::Auto,
        Backend::Scalar,
        Backend::Wide,
        Backend::Native,
        Backend::Avx2,
        Backend::Avx512,
        Backend::Neon,
    ];

    /// The backend's name: `auto`, `scalar`, `wide`, `native`, `avx2`, `avx512` or `neon`.
    pub const fn name(self) -> &'static str {
        match self {
            Backend::Auto => "auto",
            Backend::Scalar => "scalar",
            Backend::Wide => "wide",
            Backend::Native => "native",
            Backend::Avx2 => "avx2",
            Backend::Avx512 => "avx512",
            Backend::Neon => "neon",
        }
    }

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        Engine::of(self).is_some()
    }

    /// The backend that runs here when this one is asked for, with `auto` and `native` looked
    /// up: `None` where it is not available.
    ///
    /// ```
    /// use fused_adam::Backend;
    /// assert_eq!(Backend::Scalar.resolved(), Some(Backend::Scalar));
    /// assert_ne!(Backend::Auto.resolved(), Some(Backend::Auto));
    /// ```
    pub fn resolved(self) -> Option<Backend> {
        Engine::of(self).map(Engine::backend)
    }

    pub(crate) fn resolve(self) -> Result<Engine, Error> {
        Engine::of(self).ok_or_else(|| Error::BackendNotAvailable {
            backend: self,
            available: Backend::ALL.into_iter().filter(|b| b.is_available()).collect(),
        })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Backend::ALL
            .into_iter()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| Error::UnknownBackend { name: name.to_owned() })
    }
}

/// A backend that this CPU has: the decision, made once per call.
#[derive(Clone, Copy)]
pub(crate) enum Engine {
    Scalar,
    Wide,
    Native(native::Level),
}

impl Engine {
    fn of(backend: Backend) -> Option<Self> {
        match backend {
            Backend::Auto => Some(native::Level::best().map_or(Engine::Wide, Engine::Native)),
            Backend::Scalar => Some(Engine::Scalar),
            Backend::Wide => Some(Engine::Wide),
            Backend::Native => native::Level::best().map(Engine::Native),
            named => native::Level::named(named).map(Engine::Native),
        }
    }

    fn backend(self) -> Backend {
        match self {
            Engine::Scalar => Backend::Scalar,
            Engine::Wide => Backend::Wide,
            Engine::Native(level) => level.backend(),
        }
    }

    /// Steps all of `buffers` on this thread.
    pub(crate) fn sweep<E: Element, K: Kernel<E, N>, const N: usize>(
        self,
        kernel: &K,
        buffers: Buffers<'_, E, N>,
    ) {
        match self {
            Engine::Scalar => scalar::sweep(kernel, buffers),
            Engine::Wide => wide::sweep(kernel, buffers),
            Engine::Native(level) => level.sweep(kernel, buffers),
        }
    }
}

/// The slices of one step, all equally long: θ, g, and the `N` states of the rule.
pub(crate) struct Buffers<'a, E, const N: usize> {
    pub theta: &'a mut [E],
    pub grad: &'a [E],
    pub state: [&'a mut [E]; N],
}

impl<'a, E, const N: usize> Buffers<'a, E, N> {
    pub fn len(&self) -> usize {
        self.theta.len()
    }

    /// The first `mid` elements of each slice, and the rest of each.
    #[inline(always)]
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        let (theta, theta_rest) = self.theta.split_at_mut(mid);
        let (grad, grad_rest) = self.grad.split_at(mid);
        let mut rests = self.state.map(|state| state.split_at_mut(mid));
        let state = rests.each_mut().map(|(first, _)| core::mem::take(first));
        let state_rest = rests.map(|(_, rest)| rest);
        (
            Buffers { theta, grad, state },
            Buffers { theta: theta_rest, grad: grad_rest, state: state_rest },
        )
    }
}

/// [`Lanes`] that can be filled from a slice and written back: what a SIMD backend computes with.
pub trait Register: Lanes {
    /// Proof that the CPU has the instructions.
    type Token: Copy;
    /// The number of lanes.
    const LEN: usize;

    /// Fills the lanes with the first `LEN` elements of `from`.
    fn load(token: Self::Token, from: &[Self::Element]) -> Self;

    /// Writes the lanes to the first `LEN` elements of `to`.
    fn store(self, to: &mut [Self::Element]);

    /// Asks for the elements of `buffer` that will be loaded some iterations after those at
    /// `start`, so that they are on their way from memory while the present ones are computed.
    #[inline(always)]
    fn fetch(buffer: &[Self::Element], start: usize) {
        let _ = (buffer, start);
    }
}

/// The loop of the SIMD backends: steps as many whole registers as `buffers` hold, and returns
/// the rest of the buffers, shorter than one register.
#[inline(always)]
fn whole_registers<'a, L, K, const N: usize>(
    token: L::Token,
    kernel: K,
    buffers: Buffers<'a, L::Element, N>,
) -> Buffers<'a, L::Element, N>
where
    L: Register,
    K: Kernel<L::Element, N>,
{
    let whole = buffers.len() - buffers.len() % L::LEN;
    let (body, rest) = buffers.split_at(whole);
    let Buffers { theta, grad, state } = body;
    for start in (0..whole).step_by(L::LEN) {
        let lanes = start..start + L::LEN;
        for buffer in [&*theta, grad] {
            L::fetch(buffer, start);
        }
        for buffer in &state {
            L::fetch(buffer, start);
        }
        let old = core::array::from_fn(|i| L::load(token, &state[i][lanes.clone()]));
        let (new_theta, new_state) = kernel.update(
            L::load(token, &theta[lanes.clone()]),
            L::load(token, &grad[lanes.clone()]),
            old,
        );
        new_theta.store(&mut theta[lanes.clone()]);
        for i in 0..N {
            new_state[i].store(&mut state[i][lanes.clone()]);
        }
    }
    rest
}

/// A single element is a register too, of one lane: for the last few elements of a sweep.
impl<E: Element> Register for E
where
    E: Lanes<Element = E>,
{
    type Token = ();
    const LEN: usize = 1;

    #[inline(always)]
    fn load(_: (), from: &[E]) -> E {
        from[0]
    }

    #[inline(always)]
    fn store(self, to: &mut [E]) {
        to[0] = self;
    }
}
