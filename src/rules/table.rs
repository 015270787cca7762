//! The table of rules. To add a rule: its file in this folder, and its line here.
//!
//! Everything that names all rules follows from it: [`AnyRule`] with its names, parsing and
//! conversions, serde, the tests of bits, the benchmarks and examples, and the bindings by name.

/// Calls the macro `$then` with the table: `name: Type` for each rule of the crate, in order.
///
/// ```
/// macro_rules! count {
///     ($($name:ident: $Rule:ident),* $(,)?) => { [$(stringify!($name)),*].len() };
/// }
/// assert_eq!(fused_adam::for_each_rule!(count), fused_adam::AnyRule::NAMES.len());
/// ```
#[macro_export]
macro_rules! for_each_rule {
    ($then:ident) => {
        $then! {
            sgd: Sgd,
            rmsprop: RmsProp,
            adagrad: AdaGrad,
            adam: Adam,
            adamw: AdamW,
            adamax: AdaMax,
            nadam: NAdam,
            radam: RAdam,
            adabound: AdaBound,
            adabelief: AdaBelief,
            lion: Lion,
            ademamix: AdEMAMix,
        }
    };
}

/// Declares the file of each rule.
macro_rules! files_of_rules {
    ($($name:ident: $Rule:ident),* $(,)?) => {
        $(mod $name;)*

        /// The rules of the crate.
        pub(crate) mod all {
            $(pub use super::$name::$Rule;)*
        }
    };
}

use core::fmt;
use core::str::FromStr;

use super::*;

macro_rules! any_rule {
    ($($name:ident: $Rule:ident),* $(,)?) => {
        /// Any rule of the crate, chosen when the program runs.
        ///
        /// Who names a rule's own type has only its kernels compiled; who names this one has all of
        /// them.
        ///
        /// ```
        /// use fused_adam::{AnyRule, Flat, Rule};
        ///
        /// let mut rule: AnyRule = "radam".parse()?; // with its defaults
        /// rule.set_lr(1e-2);
        /// let mut opt = Flat::new(rule, 1000)?;
        /// opt.step(&mut vec![0.5_f32; 1000], &vec![1.0; 1000])?;
        /// # Ok::<(), fused_adam::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "checkpoint", serde(rename_all = "lowercase"))]
        #[non_exhaustive]
        #[expect(missing_docs, reason = "each variant holds the rule of its name")]
        pub enum AnyRule {
            $($Rule($Rule),)*
        }

        impl AnyRule {
            /// The names of all rules, as [`name`](Rule::name) gives them and `parse` takes them.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];
        }

        impl FromStr for AnyRule {
            type Err = Error;

            /// The rule of this name, with its defaults.
            fn from_str(name: &str) -> Result<Self, Error> {
                $(
                    if name == stringify!($name) {
                        return Ok($Rule::default().into());
                    }
                )*
                Err(Error::UnknownRule { name: name.to_owned(), known: AnyRule::NAMES })
            }
        }

        impl Rule for AnyRule {
            fn name(&self) -> &'static str {
                match self { $(AnyRule::$Rule(rule) => rule.name(),)* }
            }

            fn lr(&self) -> f64 {
                match self { $(AnyRule::$Rule(rule) => rule.lr(),)* }
            }

            fn set_lr(&mut self, lr: f64) {
                match self { $(AnyRule::$Rule(rule) => rule.set_lr(lr),)* }
            }

            fn states(&self) -> &'static [State] {
                match self { $(AnyRule::$Rule(rule) => rule.states(),)* }
            }

            fn initial_state(&self, i: usize) -> f64 {
                match self { $(AnyRule::$Rule(rule) => rule.initial_state(i),)* }
            }

            fn scalars(&self) -> &'static [&'static str] {
                match self { $(AnyRule::$Rule(rule) => rule.scalars(),)* }
            }

            fn scalar_after(&self, i: usize, t: u64) -> f64 {
                match self { $(AnyRule::$Rule(rule) => rule.scalar_after(i, t),)* }
            }

            fn advance_scalars(&self, t: u64, scalars: &mut [f64]) {
                match self { $(AnyRule::$Rule(rule) => rule.advance_scalars(t, scalars),)* }
            }

            fn check(&self) -> Result<(), Error> {
                match self { $(AnyRule::$Rule(rule) => rule.check(),)* }
            }

            fn with_kernel<F: Float, W: WithKernel<F>>(
                &self,
                t: u64,
                scalars: &[f64],
                then: W,
            ) -> Result<(), Error> {
                let then = HandWritten(then);
                match self { $(AnyRule::$Rule(rule) => rule.with_kernel(t, scalars, then),)* }
            }
        }

        $(
            impl From<$Rule> for AnyRule {
                fn from(rule: $Rule) -> Self {
                    AnyRule::$Rule(rule)
                }
            }
        )*

        #[cfg(test)]
        mod tests {
            use super::*;

            /// A rule is called as its file is.
            #[test]
            fn names_are_those_of_the_table() {
                $(assert_eq!($Rule::default().name(), stringify!($name));)*
            }
        }
    };
}

for_each_rule!(any_rule);

impl fmt::Display for AnyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Goes on with kernels whose reference is written out by hand. Others do not compile.
struct HandWritten<W>(W);

impl<F: Float, W: WithKernel<F>> WithKernel<F> for HandWritten<W> {
    #[inline(always)]
    fn with<K: Kernel<F, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        const { assert!(K::HAND_WRITTEN, "a rule in the table has no reference of its own") };
        self.0.with(kernel)
    }
}
