//! Registers of `f32` and `f64` in each instruction set, some of them computed together.
//!
//! Everything here loops over arrays of registers and does not use the methods of arrays: those are
//! functions of their own, which the compiler leaves as calls, without the instruction set, where
//! there are many.

use core::ops::{Add, Div, Mul, Sub};

use pulp::Simd;

use crate::backend::Register;
use crate::{Float, Lanes};

/// A number that has registers in each instruction set.
pub trait NativeFloat: Sized {
    /// What those registers can do: on a type of its own, so that generic code over [`Float`] does
    /// not meet these names.
    type Native: Arithmetic<Number = Self>;
}

impl NativeFloat for f32 {
    type Native = Single;
}

impl NativeFloat for f64 {
    type Native = Double;
}

/// One register of the instruction set `S`.
type Native<E, S> = <<E as NativeFloat>::Native as Arithmetic>::Register<S>;

/// What a register can do in each instruction set.
pub trait Arithmetic {
    type Number;
    type Register<S: Simd>: Copy;

    fn splat<S: Simd>(simd: S, x: Self::Number) -> Self::Register<S>;
    /// As many whole registers as the elements fill.
    fn of<S: Simd>(elements: &[Self::Number]) -> &[Self::Register<S>];
    fn of_mut<S: Simd>(elements: &mut [Self::Number]) -> &mut [Self::Register<S>];
    fn add<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn sub<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn mul<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn div<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn sqrt<S: Simd>(simd: S, a: Self::Register<S>) -> Self::Register<S>;
    fn abs<S: Simd>(simd: S, a: Self::Register<S>) -> Self::Register<S>;
    /// `then` where a > b, else `otherwise`.
    fn if_greater<S: Simd>(
        simd: S,
        a: Self::Register<S>,
        b: Self::Register<S>,
        then: Self::Register<S>,
        otherwise: Self::Register<S>,
    ) -> Self::Register<S>;
}

/// Registers of `f32`.
pub struct Single;

impl Arithmetic for Single {
    type Number = f32;
    type Register<S: Simd> = S::f32s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: f32) -> S::f32s {
        simd.splat_f32s(x)
    }
    #[inline(always)]
    fn of<S: Simd>(elements: &[f32]) -> &[S::f32s] {
        S::as_simd_f32s(elements).0
    }
    #[inline(always)]
    fn of_mut<S: Simd>(elements: &mut [f32]) -> &mut [S::f32s] {
        S::as_mut_simd_f32s(elements).0
    }
    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.add_f32s(a, b)
    }
    #[inline(always)]
    fn sub<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.sub_f32s(a, b)
    }
    #[inline(always)]
    fn mul<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.mul_f32s(a, b)
    }
    #[inline(always)]
    fn div<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.div_f32s(a, b)
    }
    #[inline(always)]
    fn sqrt<S: Simd>(simd: S, a: S::f32s) -> S::f32s {
        simd.sqrt_f32s(a)
    }
    #[inline(always)]
    fn abs<S: Simd>(simd: S, a: S::f32s) -> S::f32s {
        simd.abs_f32s(a)
    }
    #[inline(always)]
    fn if_greater<S: Simd>(
        simd: S,
        a: S::f32s,
        b: S::f32s,
        then: S::f32s,
        otherwise: S::f32s,
    ) -> S::f32s {
        simd.select_f32s(simd.greater_than_f32s(a, b), then, otherwise)
    }
}

/// Registers of `f64`.
pub struct Double;

impl Arithmetic for Double {
    type Number = f64;
    type Register<S: Simd> = S::f64s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: f64) -> S::f64s {
        simd.splat_f64s(x)
    }
    #[inline(always)]
    fn of<S: Simd>(elements: &[f64]) -> &[S::f64s] {
        S::as_simd_f64s(elements).0
    }
    #[inline(always)]
    fn of_mut<S: Simd>(elements: &mut [f64]) -> &mut [S::f64s] {
        S::as_mut_simd_f64s(elements).0
    }
    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.add_f64s(a, b)
    }
    #[inline(always)]
    fn sub<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.sub_f64s(a, b)
    }
    #[inline(always)]
    fn mul<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.mul_f64s(a, b)
    }
    #[inline(always)]
    fn div<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.div_f64s(a, b)
    }
    #[inline(always)]
    fn sqrt<S: Simd>(simd: S, a: S::f64s) -> S::f64s {
        simd.sqrt_f64s(a)
    }
    #[inline(always)]
    fn abs<S: Simd>(simd: S, a: S::f64s) -> S::f64s {
        simd.abs_f64s(a)
    }
    #[inline(always)]
    fn if_greater<S: Simd>(
        simd: S,
        a: S::f64s,
        b: S::f64s,
        then: S::f64s,
        otherwise: S::f64s,
    ) -> S::f64s {
        simd.select_f64s(simd.greater_than_f64s(a, b), then, otherwise)
    }
}

/// `U` registers of the instruction set `S`, computed together.
#[derive(Clone, Copy)]
pub struct Registers<F: NativeFloat, S: Simd, const U: usize> {
    pub(super) simd: S,
    pub(super) of: [Native<F, S>; U],
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Registers<F, S, U> {
    #[inline(always)]
    fn map(mut self, f: impl Fn(Native<F, S>) -> Native<F, S>) -> Self {
        for a in &mut self.of {
            *a = f(*a);
        }
        self
    }

    #[inline(always)]
    fn zip(
        mut self,
        other: Self,
        f: impl Fn(S, Native<F, S>, Native<F, S>) -> Native<F, S>,
    ) -> Self {
        for (a, b) in self.of.iter_mut().zip(other.of) {
            *a = f(self.simd, *a, b);
        }
        self
    }

    #[inline(always)]
    fn splat(self, x: F) -> Native<F, S> {
        F::Native::splat(self.simd, x)
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Add for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, F::Native::add)
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Sub for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, F::Native::sub)
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Mul for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, F::Native::mul)
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Div for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, F::Native::div)
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Add<F> for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn add(self, x: F) -> Self {
        self.map(|a| F::Native::add(self.simd, a, self.splat(x)))
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Mul<F> for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, x: F) -> Self {
        self.map(|a| F::Native::mul(self.simd, a, self.splat(x)))
    }
}

impl<F: Float, S: Simd, const U: usize> Lanes for Registers<F, S, U> {
    type Float = F;

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(|a| F::Native::sqrt(self.simd, a))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.map(|a| F::Native::abs(self.simd, a))
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.zip(other, |simd, a, b| F::Native::if_greater(simd, a, b, a, b))
    }

    #[inline(always)]
    fn under(self, x: F) -> Self {
        let x = self.splat(x);
        self.map(|a| F::Native::div(self.simd, x, a))
    }

    #[inline(always)]
    fn at_most(self, x: F) -> Self {
        let x = self.splat(x);
        self.map(|a| F::Native::if_greater(self.simd, a, x, x, a))
    }

    #[inline(always)]
    fn at_least(self, x: F) -> Self {
        let x = self.splat(x);
        self.map(|a| F::Native::if_greater(self.simd, x, a, x, a))
    }

    #[inline(always)]
    fn sign(self) -> Self {
        let (zero, one) = (self.splat(F::from_f64(0.0)), self.splat(F::from_f64(1.0)));
        let less = self.splat(F::from_f64(-1.0));
        self.map(|a| {
            let below = F::Native::if_greater(self.simd, zero, a, less, a);
            F::Native::if_greater(self.simd, a, zero, one, below)
        })
    }
}

impl<F: Float, S: Simd, const U: usize> Register for Registers<F, S, U> {
    type Token = S;
    const LEN: usize = U * size_of::<Native<F, S>>() / size_of::<F>();

    #[inline(always)]
    fn load(simd: S, from: &[F]) -> Self {
        let from = F::Native::of::<S>(from);
        let mut of = [from[0]; U];
        of.copy_from_slice(&from[..U]);
        Registers { simd, of }
    }

    #[inline(always)]
    fn store(self, to: &mut [F]) {
        F::Native::of_mut::<S>(to)[..U].copy_from_slice(&self.of);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn fetch<E>(buffer: &[E], start: usize, bytes: usize) {
        if U == 1 {
            // For the few elements at the ends.
            return;
        }
        let ahead = start + bytes / size_of::<E>();
        if let Some(elements) = buffer.get(ahead..ahead + Self::LEN) {
            for line in elements.chunks(64 / size_of::<E>()) {
                safe_arch::prefetch_t0(&line[0]);
            }
        }
    }
}
