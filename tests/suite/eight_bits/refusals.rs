//! Wrong calls are refused by name, before the first write.

#![expect(clippy::single_range_in_vec_init, reason = "a dimension of a shard has a list of ranges")]

use fused_adam::{
    AdamW, Block8, Error, Flat, GroupId, Optimizer, ParamMut, Shard, Step, StepOptions, Tensor,
    bf16, step_all,
};

use super::Place;

/// What a wrong call must not change.
#[derive(Clone, Debug, PartialEq)]
struct Wrong {
    theta: Vec<f32>,
    m: Vec<Block8>,
    v: Vec<Block8>,
}

/// Makes a wrong call with θ, m and v of `len` elements, and checks that it changes nothing.
fn refused(len: usize, call: impl FnOnce(&mut Wrong, &[f32]) -> Error, expected: &str) {
    let blocks = vec![[1; 33]; len.div_ceil(32)];
    let mut buffers = Wrong { theta: vec![0.5; len], m: blocks.clone(), v: blocks };
    let before = buffers.clone();
    let error = call(&mut buffers, &vec![1.0; len]);
    assert_eq!(error.to_string(), expected);
    assert_eq!(buffers, before, "{expected}");
}

/// The number of blocks and the offset are checked by a step on slices, before the first write.
#[test]
fn a_step_on_slices_refuses_what_does_not_fit() {
    let rule = AdamW::default();
    let step = Step::new(&rule, 1);
    refused(
        33,
        |Wrong { theta, m, v }, grad| {
            step.run_mixed(theta, grad, &mut [m, &mut v[..1]]).unwrap_err()
        },
        "`v` has 1 block, expected 2 for 33 elements",
    );
    refused(
        32,
        |Wrong { theta, m, v }, grad| {
            let mut two = [m[0]; 2];
            let error = step.run_mixed(theta, grad, &mut [&mut two, v]).unwrap_err();
            assert_eq!(two, [m[0]; 2]);
            let Error::Blocks { name: "m", blocks: 2, expected: 1, len: 32 } = error else {
                panic!("{error:?}")
            };
            error
        },
        "`m` has 2 blocks, expected 1 for 32 elements",
    );
    refused(
        1,
        |Wrong { theta, v, .. }, grad| {
            step.run_mixed::<_, _, Block8>(theta, grad, &mut [&mut [], v]).unwrap_err()
        },
        "`m` has 0 blocks, expected 1 for 1 element",
    );
    refused(
        0,
        |Wrong { theta, m, .. }, grad| {
            step.run_mixed(theta, grad, &mut [m, &mut [[1; 33]]]).unwrap_err()
        },
        "`v` has 1 block, expected 0 for 0 elements",
    );
    for offset in [1, 31, 33, u64::MAX] {
        refused(
            40,
            |Wrong { theta, m, v }, grad| {
                let step = step.clone().with_offset(offset);
                let error = step.run_mixed(theta, grad, &mut [&mut *m, &mut *v]).unwrap_err();
                assert_eq!(error, Error::Offset { offset });
                let mut copy = vec![bf16::ZERO; 40];
                let copied = step.run_with_copy(theta, grad, &mut [m, v], &mut copy).unwrap_err();
                assert!(copied == error && copy == vec![bf16::ZERO; 40]);
                error
            },
            &format!("`offset` is {offset}, expected a multiple of 32 for states in 8 bits"),
        );
    }
    // Other states begin anywhere.
    let (mut theta, mut m, mut v) = ([1.0_f32; 4], [0.0; 4], [0.0; 4]);
    step.with_offset(5).run(&mut theta, &[1.0; 4], &mut [&mut m, &mut v]).unwrap();
}

/// The same checks by the owner of one buffer, which then has not counted the step.
#[test]
fn an_owner_of_one_buffer_refuses_what_does_not_fit() {
    let resume = |blocks: [usize; 2]| {
        let states = blocks.map(|blocks| vec![[1; 33]; blocks]).to_vec();
        Flat::<_, Block8>::resume(AdamW::default(), 1, states)
    };
    let refused = |opt: Flat<AdamW, Block8>, len: usize, expected: &str| {
        let (mut opt, mut theta) = (opt, vec![0.5_f32; len]);
        let error = opt.step_mixed(&mut theta, &vec![1.0_f32; len]).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(opt.t() == 1 && theta.iter().all(|x| *x == 0.5));
        let (_, _, states, _) = opt.into_parts();
        assert!(states.iter().flatten().all(|block| *block == [1; 33]), "{expected}");
    };
    refused(resume([2, 2]).unwrap(), 32, "`m` has 2 blocks, expected 1 for 32 elements");
    refused(resume([2, 2]).unwrap(), 65, "`m` has 2 blocks, expected 3 for 65 elements");
    let offset = "`offset` is 48, expected a multiple of 32 for states in 8 bits";
    refused(resume([2, 2]).unwrap().with_offset(48), 33, offset);
    let unequal = resume([2, 1]).unwrap_err().to_string();
    assert_eq!(unequal, "`v` has 1 block, expected 2 for 64 elements");
    for len in 33..=64 {
        let mut theta = vec![0.5_f32; len];
        resume([2, 2]).unwrap().step_mixed(&mut theta, &vec![1.0_f32; len]).unwrap();
    }
}

/// Runs of this shard, which has the columns of a matrix of four rows, and its number of elements.
fn columns(of: u64, columns: &[std::ops::Range<u64>]) -> (Shard, usize) {
    let shard = Shard::new(&[4, of], &[&[0..4], columns]).unwrap();
    let len = shard.len() as usize;
    (shard, len)
}

/// Shards whose runs do not begin with a block or are cut within one, with the first wrong index.
fn wrong_shards() -> Vec<(Shard, usize, u64)> {
    let all: [(u64, &[std::ops::Range<u64>], u64); 6] = [
        (96, &[16..48], 16),
        (64, &[0..16], 16),
        // The second row begins within a block.
        (48, &[0..32], 48),
        (96, &[32..63], 63),
        (96, &[0..32, 33..65], 33),
        (96, &[0..33, 64..96], 33),
    ];
    all.into_iter()
        .map(|(of, ranges, wrong)| {
            let (shard, len) = columns(of, ranges);
            (shard, len, wrong)
        })
        .collect()
}

/// The same checks in a step of many tensors, also of shards and of mixed types.
#[test]
fn a_step_of_many_refuses_what_does_not_fit() {
    let step = |tensor: ParamMut<'_>| {
        step_all(&[AdamW::default()], &StepOptions::default(), [tensor]).unwrap_err()
    };
    refused(
        33,
        |Wrong { theta, m, v }, grad| {
            step(ParamMut::new(0, 1, theta, grad).with_state(m).with_state(&mut v[..1]))
        },
        "`v` has 1 block, expected 2 for 33 elements",
    );
    refused(
        40,
        |Wrong { theta, m, v }, grad| {
            step(ParamMut::new(0, 1, theta, grad).with_state(m).with_state(v).with_offset(40))
        },
        "`offset` is 40, expected a multiple of 32 for states in 8 bits",
    );
    for (shard, len, wrong) in wrong_shards() {
        refused(
            len,
            |Wrong { theta, m, v }, grad| {
                step(
                    ParamMut::new(0, 1, theta, grad).with_state(m).with_state(v).with_shard(&shard),
                )
            },
            &format!("`offset` is {wrong}, expected a multiple of 32 for states in 8 bits"),
        );
    }
    // The second of two tensors is named, and the first one has not changed.
    refused(
        64,
        |Wrong { theta, m, v }, grad| {
            let ((theta, rest), (grad, rest_grad)) = (theta.split_at_mut(32), grad.split_at(32));
            let ((m, rest_m), (v, rest_v)) = (m.split_at_mut(1), v.split_at_mut(1));
            let first = ParamMut::new(0, 1, theta, grad).with_state(m).with_state(v);
            let rest = ParamMut::new(0, 1, rest, rest_grad).with_state(rest_m).with_state(rest_v);
            let both = [first, rest.with_offset(1)];
            step_all(&[AdamW::default()], &StepOptions::default(), both).unwrap_err()
        },
        "tensor number 1: `offset` is 1, expected a multiple of 32 for states in 8 bits",
    );
    refused(
        32,
        |Wrong { theta, m, .. }, grad| {
            step(ParamMut::new(0, 1, theta, grad).with_state(m).with_state(&mut [0.0_f32; 32]))
        },
        "`v` is f32, expected 8 bits",
    );
    refused(
        32,
        |Wrong { theta, v, .. }, grad| {
            step(ParamMut::new(0, 1, theta, grad).with_state(&mut [0.0_f32; 32]).with_state(v))
        },
        "`v` is 8 bits, expected f32",
    );
    refused(
        32,
        |Wrong { m, v, .. }, _| {
            let (mut theta, grad) = ([0.5_f64; 32], [1.0_f64; 32]);
            step(ParamMut::new(0, 1, &mut theta, &grad).with_state(m).with_state(v))
        },
        "`m` is 8 bits, expected f64",
    );
}

/// The same checks by an optimizer, which then has not counted the step.
#[test]
fn an_optimizer_refuses_what_does_not_fit() {
    let shards = wrong_shards().into_iter();
    let shards = shards.map(|(shard, len, wrong)| (Place::Shard(shard), len, wrong));
    let offsets = [1, 31, 40, u64::MAX].map(|first| (Place::Offset(first), 40, first));
    for (place, len, wrong) in shards.chain(offsets) {
        let mut opt = Optimizer::new(AdamW::default()).unwrap();
        let id = opt.add_mixed::<f32, f32, Block8>(GroupId::default(), "w", len).unwrap();
        let (mut theta, grad) = (vec![0.5_f32; len], vec![1.0_f32; len]);
        opt.step([Tensor::new(id, &mut theta, &grad)]).unwrap();
        let all = |opt: &Optimizer<AdamW>| {
            ["m", "v"].map(|name| opt.state::<Block8>(id, name).unwrap().to_vec())
        };
        let (before, theta_before) = (all(&opt), theta.clone());
        let tensor = place.tensor(Tensor::new(id, &mut theta, &grad));
        let error = opt.step([tensor]).unwrap_err();
        assert_eq!(*error.cause(), Error::Offset { offset: wrong });
        let message =
            format!("`offset` is {wrong}, expected a multiple of 32 for states in 8 bits");
        assert!(error.to_string().ends_with(&message), "{error}");
        assert!(opt.t(id) == Some(1) && opt.steps() == 1 && all(&opt) == before);
        assert_eq!(theta, theta_before);
    }
}
