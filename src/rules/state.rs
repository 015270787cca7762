//! What a rule says about each state that it keeps.

/// A state of a rule: a buffer as long as θ that a step reads and writes.
///
/// ```
/// use fused_adam::State;
///
/// const M: State = State::signed("m").torch("exp_avg");
/// const V: State = State::non_negative("v").divisor();
/// assert!(M.name() == "m" && M.is_signed() && !M.is_divisor());
/// assert!(!V.is_signed() && V.is_divisor() && V.torch_name().is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    name: &'static str,
    signed: bool,
    divisor: bool,
    running_max: bool,
    torch: Option<&'static str>,
}

impl State {
    /// A state whose elements may have either sign, such as an average of gradients.
    pub const fn signed(name: &'static str) -> Self {
        State { name, signed: true, divisor: false, running_max: false, torch: None }
    }

    /// A state whose elements are never below 0, such as an average of squares.
    pub const fn non_negative(name: &'static str) -> Self {
        State { signed: false, ..State::signed(name) }
    }

    /// Says that the update is divided by it or by its root, so that a small value must not become
    /// 0.
    #[must_use]
    pub const fn divisor(self) -> Self {
        State { divisor: true, ..self }
    }

    /// Says that it is the largest of what it has been, so that an error upwards would stay.
    #[must_use]
    pub const fn running_max(self) -> Self {
        State { running_max: true, ..self }
    }

    /// Says what torch calls it. A rule whose states all have such a name is saved in torch's
    /// layout.
    #[must_use]
    pub const fn torch(self, name: &'static str) -> Self {
        State { torch: Some(name), ..self }
    }

    /// Its name, such as `m`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether its elements may be below 0.
    pub const fn is_signed(&self) -> bool {
        self.signed
    }

    /// Whether the update is divided by it or by its root.
    pub const fn is_divisor(&self) -> bool {
        self.divisor
    }

    /// Whether it is the largest of what it has been.
    pub const fn is_running_max(&self) -> bool {
        self.running_max
    }

    /// Its name in torch, such as `exp_avg`, if it has one there.
    pub const fn torch_name(&self) -> Option<&'static str> {
        self.torch
    }
}

/// The names of these states, in order.
pub(crate) fn names(states: &[State]) -> Vec<&'static str> {
    states.iter().map(State::name).collect()
}

/// The average of gradients of Adam and its like.
pub(super) const M: State = State::signed("m");

/// The average of squares of Adam and its like.
pub(super) const V: State = State::non_negative("v").divisor();

/// The largest of the averages of squares so far.
pub(super) const V_MAX: State = State::non_negative("v_max").divisor().running_max();
