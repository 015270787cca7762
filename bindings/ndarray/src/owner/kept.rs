//! The memory order of the states of one array. The core's optimizer stores states as slices, and
//! steps them element by element, so θ, its gradient and its states must have one element order. It
//! is that of θ, so that θ is stepped in place. If θ comes in another order than before, the states
//! are rearranged once.

use fused_adam::{
    Element, Error, GroupId, Optimizer, ParamId, Rounding, Rule, State, StateElement,
};
use ndarray::{ArrayD, ArrayRef, IxDyn};

use crate::arrays;
use crate::order::Order;
use crate::slices::copied;

/// An array of an optimizer.
pub(crate) struct Kept<R> {
    pub id: ParamId,
    pub shape: Vec<usize>,
    /// The element order of its states.
    pub order: Order,
    group: GroupId,
    /// The states that the core's optimizer stores, once it does.
    stored: &'static [State],
    /// The size of an element or block of its states.
    state_bytes: usize,
    /// The function that rearranges states of this type.
    arrange: fn(&mut Self, &mut Optimizer<R>, Order, bool) -> Result<(), Error>,
}

impl<R: Rule> Kept<R> {
    /// An array without states, which will be of type `S`.
    pub fn new<S: StateElement>(id: ParamId, group: GroupId, shape: &[usize]) -> Self {
        let (order, stored, state_bytes) = (Order::default(), &[][..], size_of::<S>());
        let shape = shape.to_vec();
        Kept { id, shape, order, group, stored, state_bytes, arrange: arrange::<R, S> }
    }

    /// The element order of a step.
    pub fn order_of<T: Element>(&self, theta: &ArrayRef<T, IxDyn>, rounding: Rounding) -> Order {
        arrays::order(theta, rounding, self.state_bytes)
    }

    /// Rearranges the states into this order, or if there are none, has them created in it. States
    /// of another rule than the present one stay: the next step or save reports them.
    pub fn arrange(
        &mut self,
        core: &mut Optimizer<R>,
        order: Order,
        parallel: bool,
    ) -> Result<(), Error> {
        (self.arrange)(self, core, order, parallel)
    }

    /// The states that the rule of this array has.
    pub fn declared(&self, core: &Optimizer<R>) -> &'static [State] {
        core.rule(self.group).map_or(&[], R::states)
    }

    /// After the states have been replaced by those of the present rule, in row-major order.
    pub fn replaced(&mut self, core: &Optimizer<R>) {
        (self.stored, self.order) = (self.declared(core), Order::default());
    }
}

fn arrange<R: Rule, S: StateElement>(
    kept: &mut Kept<R>,
    core: &mut Optimizer<R>,
    order: Order,
    parallel: bool,
) -> Result<(), Error> {
    let declared = kept.declared(core);
    let stored = |state: &State| core.state::<S>(kept.id, state.name());
    if kept.stored.first().and_then(stored).is_none() {
        (kept.stored, kept.order) = (declared, order);
        return Ok(());
    }
    let names = |states: &'static [State]| states.iter().map(State::name);
    if kept.order == order || names(kept.stored).ne(names(declared)) {
        return Ok(());
    }
    let arranged = |declared: &State| -> Option<(&str, ArrayD<S>)> {
        let state = kept.order.view(&kept.shape, stored(declared)?)?;
        Some((declared.name(), copied(order.arrange(state), parallel)))
    };
    let arranged: Vec<_> = kept.stored.iter().filter_map(arranged).collect();
    let slices: Vec<(&str, &[S])> =
        arranged.iter().filter_map(|(name, state)| Some((*name, state.as_slice()?))).collect();
    // If another rule has been used before, the core computes the scalars.
    let scalars = core.scalars(kept.id).unwrap_or_default();
    let scalars = match core.rule(kept.group) {
        Some(rule) if rule.scalars().len() == scalars.len() => scalars.to_vec(),
        _ => Vec::new(),
    };
    let t = core.t(kept.id).unwrap_or_default();
    core.set_states(kept.id, t, &scalars, &slices)?;
    kept.order = order;
    Ok(())
}
