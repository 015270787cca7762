//! The backend axis: how many elements at once, and on whose thread.
//!
//! A [`Backend`] is a name. [`Backend::resolve`] turns it into an [`Engine`], the proof that this
//! CPU can run it, once per call and outside every loop. An engine sweeps a kernel over
//! [`Buffers`]: `scalar` runs the hand-written reference, `wide` and `native` run the fused
//! arithmetic on registers, and `parallel` hands any of them one chunk after the other.

pub(crate) mod columns;
pub(crate) mod native;
#[cfg(feature = "parallel")]
pub(crate) mod parallel;
mod scalar;
pub(crate) mod tiles;
pub(crate) mod wide;

use core::fmt;
use core::str::FromStr;

use crate::elements::bf16;
use crate::elements::words::{Representation, Words};
use crate::{Element, Error, Float, Kernel, Lanes};
use columns::{Buffers, Mixed, Table};
use tiles::Conversion;
use wide::WideFloat;

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
    /// The fastest.
    pub(crate) fn best() -> Self {
        native::Level::best().map_or(Engine::Wide, Engine::Native)
    }

    pub(crate) fn of(backend: Backend) -> Option<Self> {
        match backend {
            Backend::Auto => Some(Engine::best()),
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
    pub(crate) fn sweep<T, G, S, K, const N: usize>(
        self,
        kernel: &K,
        buffers: Buffers<'_, T, G, S, N>,
    ) where
        T: Swept,
        G: Swept<Float = T::Float>,
        S: Swept<Float = T::Float>,
        K: Kernel<T::Float, N>,
    {
        match self {
            Engine::Scalar => scalar::sweep(kernel, buffers),
            Engine::Wide => wide::sweep(kernel, buffers),
            Engine::Native(level) => level.sweep(kernel, buffers),
        }
    }

    /// Steps all of `mixed` on this thread.
    pub(crate) fn sweep_mixed<K: Kernel<f32, N>, const N: usize>(
        self,
        kernel: &K,
        mixed: Mixed<'_, N>,
    ) {
        match self {
            Engine::Scalar => scalar::sweep_mixed(kernel, mixed),
            Engine::Wide | Engine::Native(_) => tiles::sweep(self, kernel, mixed),
        }
    }

    /// Converts between `f32` and 16 bits.
    fn convert<C: Conversion>(self, conversion: C) {
        let rest = match self {
            Engine::Scalar => conversion,
            Engine::Wide => wide::convert(conversion),
            Engine::Native(level) => level.convert(conversion),
        };
        rest.run::<f32>(());
    }
}

/// An element whose buffers every backend can sweep over.
pub(crate) trait Swept:
    Element + Stored<Self::Float> + Stored<<Self::Float as WideFloat>::Wide> + native::StoredNatively
{
}

impl<E> Swept for E where
    E: Element + Stored<E::Float> + Stored<<E::Float as WideFloat>::Wide> + native::StoredNatively
{
}

/// An element that the registers `L` can be filled from and written to.
pub trait Stored<L: Register>: Sized {
    /// The first `L::LEN` elements of `from`.
    fn load(token: L::Token, from: &[Self]) -> L;

    /// Stores the lanes, rounded to the nearest, in the first `L::LEN` elements of `to`.
    fn store(lanes: L, to: &mut [Self]);

    /// The same elements, in whichever order of lanes is cheapest: for a step in which all buffers
    /// are of this type, and so in the same order.
    #[inline(always)]
    fn load_alike(token: L::Token, from: &[Self]) -> L {
        Self::load(token, from)
    }

    /// Stores lanes that are in the order of [`load_alike`](Self::load_alike) and come from
    /// elements of this type alone.
    #[inline(always)]
    fn store_alike(lanes: L, to: &mut [Self]) {
        Self::store(lanes, to);
    }
}

impl<L: Register<Float = f32>> Stored<L> for f32 {
    #[inline(always)]
    fn load(token: L::Token, from: &[f32]) -> L {
        L::load(token, from)
    }

    #[inline(always)]
    fn store(lanes: L, to: &mut [f32]) {
        lanes.store(to);
    }
}

impl<L: Register<Float = f64>> Stored<L> for f64 {
    #[inline(always)]
    fn load(token: L::Token, from: &[f64]) -> L {
        L::load(token, from)
    }

    #[inline(always)]
    fn store(lanes: L, to: &mut [f64]) {
        lanes.store(to);
    }
}

impl<L: MixedRegister> Stored<L> for half::bf16 {
    #[inline(always)]
    fn load(token: L::Token, from: &[Self]) -> L {
        bf16::decode(L::load_upper(token, bytemuck::cast_slice(from)))
    }

    #[inline(always)]
    fn store(lanes: L, to: &mut [Self]) {
        L::store_upper(bf16::nearest(lanes), bytemuck::cast_slice_mut(to));
    }

    #[inline(always)]
    fn load_alike(token: L::Token, from: &[Self]) -> L {
        bf16::decode(L::load_upper_unordered(token, bytemuck::cast_slice(from)))
    }

    #[inline(always)]
    fn store_alike(lanes: L, to: &mut [Self]) {
        // The lower half of any NaN is zero here: it stays what it is.
        L::store_nearest_unordered(lanes.to_words(), bytemuck::cast_slice_mut(to));
    }
}

/// [`Lanes`] that can be filled from a slice and written back: what a SIMD backend computes with.
pub trait Register: Lanes {
    /// Proof that the CPU has the instructions.
    type Token: Copy;
    /// The number of lanes.
    const LEN: usize;

    /// Fills the lanes with the first `LEN` numbers of `from`.
    fn load(token: Self::Token, from: &[Self::Float]) -> Self;

    /// Writes the lanes to the first `LEN` numbers of `to`.
    fn store(self, to: &mut [Self::Float]);

    /// Asks for the elements of `buffer` that lie so many bytes after those at `start`, so that they
    /// are on their way from memory while the present ones are computed.
    #[inline(always)]
    fn fetch<E>(buffer: &[E], start: usize, bytes: usize) {
        let _ = (buffer, start, bytes);
    }
}

/// A register of `f32` that can also be filled from 16-bit elements and written to them.
pub trait MixedRegister: Register<Float = f32> + Representation {
    /// The numbers of the lanes: 0, 1, 2, …
    fn iota(token: Self::Token) -> Self::Words;

    /// Fills the lower halves of the lanes with the first `LEN` of `from`, the upper ones with
    /// zeros.
    fn load_halves(token: Self::Token, from: &[u16]) -> Self::Words;

    /// Writes the lower halves of the lanes to the first `LEN` of `to`; the upper ones are zero.
    fn store_halves(words: Self::Words, to: &mut [u16]);

    /// Fills the upper halves of the lanes with the first `LEN` of `from`, the lower ones with
    /// zeros.
    #[inline(always)]
    fn load_upper(token: Self::Token, from: &[u16]) -> Self::Words {
        Self::load_halves(token, from).left(16)
    }

    /// Writes the upper halves of the lanes to the first `LEN` of `to`.
    #[inline(always)]
    fn store_upper(words: Self::Words, to: &mut [u16]) {
        Self::store_halves(words.right(16), to);
    }

    /// [`load_upper`](Self::load_upper) in another order of lanes, if that is cheaper; below the
    /// upper halves are zeros.
    #[inline(always)]
    fn load_upper_unordered(token: Self::Token, from: &[u16]) -> Self::Words {
        Self::load_upper(token, from)
    }

    /// Rounds to the nearest upper halves and stores them, from the order of
    /// [`load_upper_unordered`](Self::load_upper_unordered). The lower half of any NaN is zero: so it
    /// is where arithmetic makes one of numbers, and where it is handed on from a `bf16`.
    #[inline(always)]
    fn store_nearest_unordered(words: Self::Words, to: &mut [u16]) {
        Self::store_upper(words.nearest_upper(), to);
    }
}

/// How far ahead of the computation a buffer is asked for, in a step with so many states. The CPU's own
/// prefetchers stop at each page, and its out-of-order window is full of pending divisions and does not
/// see that far. With fewer buffers an iteration is shorter, and as much time is further ahead.
const fn fetch_bytes(states: usize) -> usize {
    if states < 2 { 2 << 10 } else { 1 << 10 }
}

/// The loop of the SIMD backends: steps as many whole registers as `buffers` hold, and returns
/// the rest of the buffers, shorter than one register.
#[inline(always)]
fn whole_registers<'a, L, T, G, S, K, const N: usize>(
    token: L::Token,
    kernel: K,
    buffers: Buffers<'a, T, G, S, N>,
) -> Buffers<'a, T, G, S, N>
where
    L: Register,
    T: Stored<L> + Send,
    G: Stored<L> + Send + Sync,
    S: Stored<L> + Send,
    K: Kernel<L::Float, N>,
{
    let whole = buffers.len() - buffers.len() % L::LEN;
    let (body, rest) = buffers.split_at(whole);
    let Buffers { theta, grad, state: mut states, mut copy } = body;
    // Of the types that are swept over, no two have one size.
    let alike = const { size_of::<T>() == size_of::<G>() && size_of::<G>() == size_of::<S>() };
    let ahead = const { fetch_bytes(N) };
    for start in (0..whole).step_by(L::LEN) {
        let lanes = start..start + L::LEN;
        L::fetch(theta, start, ahead);
        L::fetch(grad, start, ahead);
        for state in &states {
            L::fetch(state, start, ahead);
        }
        let old_grad = load(alike, token, &grad[lanes.clone()]);
        let mut old = [old_grad; N];
        for (old, state) in old.iter_mut().zip(&states) {
            *old = load(alike, token, &state[lanes.clone()]);
        }
        let old_theta = load(alike, token, &theta[lanes.clone()]);
        let (new_theta, new) = kernel.update(old_theta, old_grad, old);
        store(alike, new_theta, &mut theta[lanes.clone()]);
        for (new, state) in new.into_iter().zip(&mut states) {
            store(alike, new, &mut state[lanes.clone()]);
        }
        if let Some(copy) = &mut copy {
            // Not asked for: it is not read.
            store(alike, new_theta, &mut copy[lanes]);
        }
    }
    rest
}

#[inline(always)]
fn load<L: Register, E: Stored<L>>(alike: bool, token: L::Token, from: &[E]) -> L {
    if alike { E::load_alike(token, from) } else { E::load(token, from) }
}

#[inline(always)]
fn store<L: Register, E: Stored<L>>(alike: bool, lanes: L, to: &mut [E]) {
    if alike { E::store_alike(lanes, to) } else { E::store(lanes, to) }
}

/// A single number is a register too, of one lane: for the last few elements of a sweep.
impl<F: Float> Register for F {
    type Token = ();
    const LEN: usize = 1;

    #[inline(always)]
    fn load((): (), from: &[F]) -> F {
        from[0]
    }

    #[inline(always)]
    fn store(self, to: &mut [F]) {
        to[0] = self;
    }
}

impl MixedRegister for f32 {
    #[inline(always)]
    fn iota((): ()) -> u32 {
        0
    }

    #[inline(always)]
    fn load_halves((): (), from: &[u16]) -> u32 {
        from[0].into()
    }

    #[inline(always)]
    fn store_halves(words: u32, to: &mut [u16]) {
        to[0] = words as u16;
    }
}
