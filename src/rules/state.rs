//! The properties of the states that a rule keeps, and their encoding in 8 bits.

use crate::elements::block8::{Block8, Code};
use crate::elements::codec;

/// A state of a rule: a buffer of the same length as θ that each step reads and writes.
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

    /// Declares that the update is divided by this state or by its square root, so that a small
    /// value must not become 0.
    #[must_use]
    pub const fn divisor(self) -> Self {
        State { divisor: true, ..self }
    }

    /// Declares that this state is a running maximum, so that an upward error would be permanent.
    #[must_use]
    pub const fn running_max(self) -> Self {
        State { running_max: true, ..self }
    }

    /// Sets the name of this state in torch. A rule whose states all have such a name can be saved
    /// in torch's layout.
    #[must_use]
    pub const fn torch(self, name: &'static str) -> Self {
        State { torch: Some(name), ..self }
    }

    /// The name of the state, such as `m`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the elements may be below 0.
    pub const fn is_signed(&self) -> bool {
        self.signed
    }

    /// Whether the update is divided by this state or by its square root.
    pub const fn is_divisor(&self) -> bool {
        self.divisor
    }

    /// Whether this state is a running maximum.
    pub const fn is_running_max(&self) -> bool {
        self.running_max
    }

    /// The name of this state in torch, such as `exp_avg`, if it has one.
    pub const fn torch_name(&self) -> Option<&'static str> {
        self.torch
    }

    /// How this state is stored in 8 bits: with a sign or not, above 0 if the update is divided by
    /// it, and rounded to nearest if it is a running maximum.
    pub(crate) const fn code(&self) -> Code {
        let divisor = self.divisor && !self.signed;
        Code { signed: self.signed, divisor, nearest: self.running_max }
    }

    /// Encodes elements of this state in 8 bits, rounded to nearest. There must be as many blocks
    /// as [`StateElement::slots`](crate::StateElement::slots) says: further ones become 0, and
    /// elements that do not fit are left out.
    ///
    /// ```
    /// use fused_adam::{AdamW, Rule};
    ///
    /// let (v, mut blocks, mut decoded) = (AdamW::default().states()[1], [[0; 33]; 2], [0.0; 40]);
    /// v.encode(&[0.3; 40], &mut blocks);
    /// v.decode(&blocks, &mut decoded);
    /// assert!((decoded[39] - 0.3).abs() < 0.3 / 64.0);
    /// ```
    pub fn encode(&self, elements: &[f32], blocks: &mut [Block8]) {
        codec::encode_nearest(elements, blocks, self.code());
    }

    /// Decodes elements of this state from 8 bits. Elements without a block do not change.
    pub fn decode(&self, blocks: &[Block8], elements: &mut [f32]) {
        codec::decode_all(blocks, self.code(), elements);
    }
}

/// The names of these states, in order.
pub(crate) fn names(states: &[State]) -> Vec<&'static str> {
    states.iter().map(State::name).collect()
}

/// The moving average of the gradient, as in Adam.
pub(super) const M: State = State::signed("m");

/// The moving average of the squared gradient, as in Adam.
pub(super) const V: State = State::non_negative("v").divisor();

/// The largest `v` so far, as in AMSGrad.
pub(super) const V_MAX: State = State::non_negative("v_max").divisor().running_max();
