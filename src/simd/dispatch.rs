//! Run-time dispatch: selects the instruction set once per call, outside of every loop.
//!
//! A [`Backend`] is a name. [`Backend::resolve`] makes an [`Engine`] of it, which is the proof that
//! this CPU can run it. [`Engine::vectorize`] compiles the same generic code once for each
//! instruction set, and runs the clone of this engine. A plain `cargo build` compiles all clones.
//! The crate `pulp` detects the CPU and dispatches, in safe code.

use core::fmt;
use core::str::FromStr;

use pulp::NullaryFnOnce;

use super::native::NativeSimd;
use crate::error::Error;

/// The instructions that a step uses, and so how many elements it computes at once.
///
/// All backends give the same bits. They differ in speed and in availability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Backend {
    /// [`Native`](Self::Native) if it is available, else [`Wide`](Self::Wide). The default.
    #[default]
    Auto,
    /// The scalar reference, written by hand, which computes one element at a time. Available
    /// everywhere.
    Scalar,
    /// Portable SIMD on the crate `wide`, with the instructions that the build enables. In a plain
    /// build for x86-64 these are 128 bits wide. On wasm without `simd128` it computes one element
    /// at a time. Available everywhere.
    Wide,
    /// The best instruction set that the CPU has, detected at run time: the first of
    /// [`Avx512`](Self::Avx512), [`Avx2`](Self::Avx2) and [`Neon`](Self::Neon) that is available.
    Native,
    /// 256-bit registers on x86-64. Needs the level x86-64-v3.
    Avx2,
    /// 512-bit registers on x86-64. Needs the level x86-64-v4.
    Avx512,
    /// 128-bit registers on AArch64.
    Neon,
}

impl Backend {
    /// All backends, whether they are available or not.
    pub const ALL: &'static [Backend] = &[
        Backend::Auto,
        Backend::Scalar,
        Backend::Wide,
        Backend::Native,
        Backend::Avx2,
        Backend::Avx512,
        Backend::Neon,
    ];

    /// The backend's name: `auto`, `scalar`, `wide`, `native`, `avx2`, `avx512` or `neon`.
    /// `FromStr` parses it.
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

    /// Whether this CPU can run the backend.
    pub fn is_available(self) -> bool {
        Engine::of(self).is_some()
    }

    /// The backend that a step with this one runs on this CPU: looks up `auto` and `native`, and
    /// returns all others unchanged. `None` if it is not available.
    ///
    /// ```
    /// use fused_adam::Backend;
    /// assert_eq!(Backend::Scalar.resolved(), Some(Backend::Scalar));
    /// assert_ne!(Backend::Auto.resolved(), Some(Backend::Auto));
    /// ```
    pub fn resolved(self) -> Option<Backend> {
        Engine::of(self).map(Engine::backend)
    }

    /// The engine of this backend, or [`Error::BackendNotAvailable`].
    pub(crate) fn resolve(self) -> Result<Engine, Error> {
        let available = |backend: &Backend| backend.is_available();
        Engine::of(self).ok_or_else(|| Error::BackendNotAvailable {
            backend: self.name(),
            available: Backend::ALL.iter().copied().filter(available).map(Backend::name).collect(),
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

    /// The backend of this name. [`Error::UnknownBackend`] if there is none.
    fn from_str(name: &str) -> Result<Self, Error> {
        Backend::ALL.iter().copied().find(|backend| backend.name() == name).ok_or_else(|| {
            let known = Backend::ALL.iter().copied().map(Backend::name).collect();
            Error::UnknownBackend { name: name.to_owned(), known }
        })
    }
}

/// A backend that this CPU can run, selected once per call.
#[derive(Clone, Copy)]
pub(crate) enum Engine {
    Scalar,
    Wide,
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
}

impl Engine {
    /// The fastest engine.
    pub(crate) fn best() -> Self {
        Engine::native().unwrap_or(Engine::Wide)
    }

    /// The best instruction set that is detected at run time.
    fn native() -> Option<Self> {
        [Backend::Avx512, Backend::Avx2, Backend::Neon].into_iter().find_map(Engine::of)
    }

    /// The engine of a backend, if the CPU can run it. `pulp` detects the CPU once per process.
    pub(crate) fn of(backend: Backend) -> Option<Self> {
        match backend {
            Backend::Auto => Some(Engine::best()),
            Backend::Scalar => Some(Engine::Scalar),
            Backend::Wide => Some(Engine::Wide),
            Backend::Native => Engine::native(),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => pulp::x86::V3::try_new().map(Engine::Avx2),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => pulp::x86::V4::try_new().map(Engine::Avx512),
            #[cfg(target_arch = "aarch64")]
            Backend::Neon => pulp::aarch64::Neon::try_new().map(Engine::Neon),
            // Each target lacks the instruction sets of others.
            _ => None,
        }
    }

    fn backend(self) -> Backend {
        match self {
            Engine::Scalar => Backend::Scalar,
            Engine::Wide => Backend::Wide,
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2(_) => Backend::Avx2,
            #[cfg(target_arch = "x86_64")]
            Engine::Avx512(_) => Backend::Avx512,
            #[cfg(target_arch = "aarch64")]
            Engine::Neon(_) => Backend::Neon,
        }
    }

    /// Runs `work`, inlined into a function that enables the instruction set. An engine that is not
    /// one of `pulp`'s returns `work` unchanged, as an error.
    #[inline(always)]
    pub(crate) fn vectorize<W: WithSimd>(self, work: W) -> Result<W::Output, W> {
        match self {
            Engine::Scalar | Engine::Wide => Err(work),
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2(simd) => Ok(pulp::Simd::vectorize(simd, Ready { simd, work })),
            #[cfg(target_arch = "x86_64")]
            Engine::Avx512(simd) => Ok(pulp::Simd::vectorize(simd, Ready { simd, work })),
            #[cfg(target_arch = "aarch64")]
            Engine::Neon(simd) => Ok(pulp::Simd::vectorize(simd, Ready { simd, work })),
        }
    }
}

/// Work that is compiled once for each instruction set of `pulp`.
///
/// It is a type and not a closure, since a closure need not be inlined into the function that
/// enables the instruction set. It would then run without the instruction set.
pub(crate) trait WithSimd {
    type Output;

    /// Does the work. Implementations must be `#[inline(always)]`.
    fn with<P: NativeSimd>(self, simd: P) -> Self::Output;
}

/// Work, and the instruction set that it runs with.
struct Ready<P, W> {
    simd: P,
    work: W,
}

impl<P: NativeSimd, W: WithSimd> NullaryFnOnce for Ready<P, W> {
    type Output = W::Output;

    #[inline(always)]
    fn call(self) -> W::Output {
        self.work.with(self.simd)
    }
}
