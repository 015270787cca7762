//! The table of rules. To add a rule, add its file to this folder and its line here.
//!
//! Everything that lists all rules is generated from this table: [`AnyRule`] with its names,
//! parsing and conversions, serde, the tests of bits, the benchmarks and examples, and the bindings
//! by name.

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
        /// Any rule of the crate, chosen at run time.
        ///
        /// A program that uses only the type of one rule compiles only the kernels of that rule. A
        /// program that uses `AnyRule` compiles the kernels of all rules.
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
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
        #[non_exhaustive]
        #[expect(missing_docs, reason = "each variant holds the rule of its name")]
        pub enum AnyRule {
            $($Rule($Rule),)*
        }

        impl AnyRule {
            /// The names of all rules, as returned by [`name`](Rule::name) and accepted by `parse`.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];
        }

        impl FromStr for AnyRule {
            type Err = Error;

            /// Returns the rule with this name and its default hyper-parameters, or
            /// [`Error::UnknownRule`].
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

            fn visit_kernel<F: Float, W: KernelVisitor<F>>(
                &self,
                t: u64,
                scalars: &[f64],
                visitor: W,
            ) -> Result<(), Error> {
                let visitor = HandWritten(visitor);
                match self { $(AnyRule::$Rule(rule) => rule.visit_kernel(t, scalars, visitor),)* }
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

            /// The name of a rule is the name of its file.
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

/// A visitor that accepts only kernels with a handwritten reference. Other kernels do not compile.
struct HandWritten<W>(W);

impl<F: Float, W: KernelVisitor<F>> KernelVisitor<F> for HandWritten<W> {
    #[inline(always)]
    fn visit<K: Kernel<F, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        const { assert!(K::HAND_WRITTEN, "a rule in the table has no reference of its own") };
        self.0.visit(kernel)
    }
}
