//! The scalars that a rule keeps for each parameter beside its states, over the steps.

use smallvec::SmallVec;

use crate::rules::Rule;

/// The scalars of one parameter.
pub(crate) type Scalars = SmallVec<[f64; 2]>;

/// The scalars of a rule after `t` steps with its current hyper-parameters.
pub(crate) fn scalars_after(rule: &impl Rule, t: u64) -> Scalars {
    (0..rule.scalars().len()).map(|i| rule.scalar_after(i, t)).collect()
}

/// Sets `next` to the scalars after step `t`, computed from those before it. If their number is not
/// that of the rule, because the rule has been replaced, they are computed from the values after
/// `t` − 1 steps of the current rule.
pub(crate) fn advance_scalars(rule: &impl Rule, t: u64, before: &[f64], next: &mut Scalars) {
    if before.len() == rule.scalars().len() {
        next.clear();
        next.extend_from_slice(before);
    } else {
        *next = scalars_after(rule, t - 1);
    }
    rule.advance_scalars(t, next);
}
