//! The states of a parameter, and how burn's checkpoints store them.

use std::borrow::Cow;
use std::sync::Arc;

use burn_core::tensor::{DType, Device, Tensor, TensorData};
use burn_optim::{RecordState, StateSink, StateSource};
use fused_adam::{AnyRule, Block8, Error, Rule, State, bytemuck};

use crate::StepError;
use crate::origin::{Origin, take_burns};

/// The name of a byte tensor that lists the names of all states and scalars of a record, separated
/// by spaces. A record needs the list, because burn can look up an entry by name but cannot list
/// the entries.
const NAMES: &str = "names";

/// The name of a byte tensor with the name of the rule. Records of other optimizers do not have it.
const RULE: &str = "rule";

/// What follows the name of a state in 8 bits in a record: the format with its version.
const BLOCK8: &str = ".block8.1";

/// The name of a state or scalar, from a rule or from a record.
type Name = Cow<'static, str>;

/// The states and scalars of one parameter, with the names that the rule gives them, and the number
/// of steps taken.
///
/// burn's checkpoints store them as the tensors `m`, `v` and so on, numbers such as `mu_product`,
/// the number `t`, and the texts `rule` and `names`. States in 8 bits are tensors of bytes, such as
/// `m.block8.1`, with the number `seed`.
///
/// The next step continues a checkpoint of another rule, or of burn's own optimizers, if its states
/// are the same averages: those of Adam, AdamW, NAdam, RAdam and AdaBound, and those of burn's
/// Adam, AdamW and Lamb, whose `moment_1`, `moment_2` and `max_moment_2` become `m`, `v` and
/// `v_max`. AdaGrad continues burn's AdaGrad, whose `sum` becomes `v`. The step gives a warning of
/// the `log` crate. It refuses other checkpoints with [`StepError::OtherRule`].
#[derive(Clone, Debug)]
pub struct FusedState<const D: usize> {
    origin: Origin,
    t: u64,
    /// The seed of the random bits of states in 8 bits.
    seed: Option<u64>,
    states: Vec<(Name, Stored<D>)>,
    scalars: Vec<(Name, f64)>,
}

/// A state: a tensor of the shape of θ, or blocks of 8 bits.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most states are tensors")]
pub(crate) enum Stored<const D: usize> {
    Tensor(Tensor<D>),
    Blocks(Arc<Vec<Block8>>),
}

impl<const D: usize> FusedState<D> {
    pub(crate) fn new(
        rule: &AnyRule,
        t: u64,
        seed: Option<u64>,
        states: impl Iterator<Item = (&'static str, Stored<D>)>,
        scalars: impl Iterator<Item = (&'static str, f64)>,
    ) -> Self {
        let states = states.map(|(name, state)| (name.into(), state)).collect();
        let scalars = scalars.map(|(name, scalar)| (name.into(), scalar)).collect();
        FusedState { origin: Origin::rule(rule.name()), t, seed, states, scalars }
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// The number of steps taken.
    pub fn t(&self) -> u64 {
        self.t
    }

    /// The state with this name, such as `m`, if there is one and it is not in 8 bits.
    pub fn get(&self, name: &str) -> Option<&Tensor<D>> {
        match self.find(name)? {
            Stored::Tensor(state) => Some(state),
            Stored::Blocks(_) => None,
        }
    }

    /// The state with this name, if there is one and it is in 8 bits: a block for each 32 elements,
    /// in row-major order. [`State::decode`] decodes them.
    pub fn blocks(&self, name: &str) -> Option<&[Block8]> {
        match self.find(name)? {
            Stored::Tensor(_) => None,
            Stored::Blocks(blocks) => Some(blocks),
        }
    }

    /// The names of the states.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.states.iter().map(|(name, _)| &**name)
    }

    fn find(&self, name: &str) -> Option<&Stored<D>> {
        self.states.iter().find(|(of, _)| *of == name).map(|(_, state)| state)
    }

    /// The seed of the random bits of states in 8 bits: a hash of θ and the gradient of the first
    /// step, or of that in which the states were converted to 8 bits. None without such states.
    /// [`ParamMut::with_seed`](fused_adam::ParamMut::with_seed) gives the same bits with it.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// The scalar with this name, such as `mu_product`, after the steps taken, if there is one.
    pub fn scalar(&self, name: &str) -> Option<f64> {
        self.scalars.iter().find(|(of, _)| *of == name).map(|(_, scalar)| *scalar)
    }

    pub(crate) fn map(self, mut to: impl FnMut(Tensor<D>) -> Tensor<D>) -> Self {
        let to = |(name, state)| match state {
            Stored::Tensor(state) => (name, Stored::Tensor(to(state))),
            blocks => (name, blocks),
        };
        let states = self.states.into_iter().map(to).collect();
        FusedState { states, ..self }
    }

    /// The states in the order of the rule, if this rule can continue them.
    pub(crate) fn into_states_of(mut self, rule: &AnyRule) -> Result<Vec<Stored<D>>, StepError> {
        let (declared, given) = (rule.states(), self.states.len());
        if !self.origin.continues_as(rule) {
            return Err(StepError::OtherRule {
                found: self.origin.describe(self.names()),
                rule: rule.name(),
                states: declared.iter().map(State::name).collect(),
            });
        }
        let expected = declared.len();
        let names = || declared.iter().map(State::name).collect();
        let take = |state: &State| {
            let name = state.name();
            let i = self.states.iter().position(|(of, _)| *of == name);
            let i = i.ok_or_else(|| Error::MissingState { name, expected, names: names() })?;
            Ok(self.states.swap_remove(i).1)
        };
        let states = declared.iter().map(take).collect::<Result<Vec<_>, Error>>()?;
        if self.states.is_empty() {
            return Ok(states);
        }
        Err(Error::SuperfluousState { given, expected, names: names() }.into())
    }

    /// The scalars in the order of the rule. A scalar that the record does not have gets the value
    /// after the same number of steps of this rule.
    pub(crate) fn scalars_of(&self, rule: &AnyRule) -> Vec<f64> {
        let scalar = |(i, &name)| self.scalar(name).unwrap_or_else(|| rule.scalar_after(i, self.t));
        rule.scalars().iter().enumerate().map(scalar).collect()
    }
}

impl<const D: usize> RecordState for FusedState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, RULE, text(self.origin.name()));
        out.push_scalar(prefix, "t", self.t.into());
        let mut names: Vec<Name> = Vec::new();
        for (name, state) in &self.states {
            let (name, data) = match state {
                Stored::Tensor(state) => (name.clone(), state.to_data()),
                Stored::Blocks(blocks) => {
                    let (bytes, shape) = (blocks.as_flattened().to_vec(), [blocks.len(), 33]);
                    (format!("{name}{BLOCK8}").into(), TensorData::new(bytes, shape))
                }
            };
            out.push_tensor(prefix, &name, data);
            names.push(name);
        }
        if let Some(seed) = self.seed {
            out.push_scalar(prefix, "seed", seed.into());
        }
        for (name, scalar) in &self.scalars {
            out.push_scalar(prefix, name, (*scalar).into());
            names.push(name.clone());
        }
        if !names.is_empty() {
            out.push_tensor(prefix, NAMES, text(&names.join(" ")));
        }
    }

    /// Never `None`, which would begin the states anew: the next step reports what it cannot use.
    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let rule = src.take_tensor(prefix, RULE);
        let t = src.take_scalar(prefix, "t").and_then(|t| t.try_into().ok());
        let (Some(rule), Some(t)) = (rule, t) else {
            let (origin, t, tensors) = take_burns(prefix, src);
            let state = |(name, data)| stored(name, data, device);
            let states = tensors.into_iter().filter_map(state).collect();
            return Some(FusedState { origin, t, seed: None, states, scalars: Vec::new() });
        };
        let origin = Origin::from_record(&rule);
        let (mut states, mut scalars) = (Vec::new(), Vec::new());
        let names = src.take_tensor(prefix, NAMES).filter(|names| names.dtype() == DType::U8);
        let names = names.as_ref().map_or(&[][..], |names| names.as_bytes());
        // If an entry is missing, the next step reports it.
        for name in String::from_utf8_lossy(names).split_terminator(' ') {
            if let Some(data) = src.take_tensor(prefix, name) {
                states.extend(stored(name, data, device));
            } else if let Some(scalar) = src.take_scalar(prefix, name) {
                scalars.extend(
                    f64::try_from(scalar).ok().map(|scalar| (name.to_owned().into(), scalar)),
                );
            }
        }
        let seed = src.take_scalar(prefix, "seed").and_then(|seed| seed.try_into().ok());
        Some(FusedState { origin, t, seed, states, scalars })
    }
}

/// A text as a tensor of bytes.
fn text(text: &str) -> TensorData {
    TensorData::new(text.as_bytes().to_vec(), [text.len()])
}

/// A state of a record, from its name there. None if it has another rank than the parameter, or is
/// in 8 bits of another format.
fn stored<const D: usize>(
    name: &str,
    data: TensorData,
    device: &Device,
) -> Option<(Name, Stored<D>)> {
    let dtype = data.dtype();
    let Some(name) = name.strip_suffix(BLOCK8) else {
        let fits = dtype.is_float() && data.rank() == D;
        let state = || Stored::Tensor(Tensor::from_data(data, (device, dtype)));
        return fits.then(|| (name.to_owned().into(), state()));
    };
    let blocks: &[Block8] = bytemuck::try_cast_slice(data.as_bytes()).ok()?;
    let blocks = Arc::new(blocks.to_vec());
    (dtype == DType::U8).then(|| (name.to_owned().into(), Stored::Blocks(blocks)))
}
