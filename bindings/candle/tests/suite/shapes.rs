//! `save_with_variables` keeps shapes, so that candle reads the variables of the file. And files
//! of C, which have flat shapes, and of candle, which have no states.

use candle_core::{DType, Device, Var};
use candle_nn::{Init, Optimizer as _, VarBuilder, VarMap};
use fused_adam::{AdamW, AnyRule, CheckpointError, bf16, f16};
use fused_adam_candle::{Error, Optimizer, fused_adam};

use crate::common::{bits, elements, everything, grads, tensor_bits, var};
use crate::digits::Random;

const TYPES: [(&str, DType); 4] =
    [("f32", DType::F32), ("bf16", DType::BF16), ("f16", DType::F16), ("f64", DType::F64)];
const SHAPES: [(&str, &[usize]); 4] =
    [("scalar", &[]), ("vector", &[5]), ("matrix", &[2, 3]), ("cube", &[3, 1, 20])];

/// A variable of each type and shape, with random numbers.
fn random_map(seed: u64) -> VarMap {
    let (map, mut random) = (VarMap::new(), Random(seed));
    for (of_type, dtype) in TYPES {
        for (name, shape) in SHAPES {
            let name = format!("{of_type}.{name}");
            let zero = Init::Const(0.0);
            map.get(shape, &name, zero, dtype, &Device::Cpu).unwrap();
            let numbers = match dtype {
                DType::F32 => var::<f32>(&mut random, shape),
                DType::BF16 => var::<bf16>(&mut random, shape),
                DType::F16 => var::<f16>(&mut random, shape),
                _ => var::<f64>(&mut random, shape),
            };
            map.data().lock().unwrap()[&name].set(&numbers).unwrap();
        }
    }
    map
}

fn all(map: &VarMap) -> Vec<(String, Var)> {
    let mut all: Vec<_> =
        map.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn candle_reads_the_variables() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    for in_8_bits in [false, true] {
        let saved = random_map(1);
        let mut opt = Optimizer::from_var_map(&saved, AdamW::default()).unwrap();
        if in_8_bits {
            opt.set_8bit_states(61).unwrap();
        }
        let vars = all(&saved);
        opt.step(&grads(vars.iter().map(|(_, var)| (var, var.as_tensor().clone())))).unwrap();
        opt.save_with_variables(&path).unwrap();

        let mut map = random_map(2);
        map.load(&path).unwrap();
        for ((name, saved), (_, loaded)) in vars.iter().zip(all(&map)) {
            assert_eq!(tensor_bits(saved), tensor_bits(&loaded), "{name}");
        }
        for (of_type, dtype) in TYPES {
            // SAFETY: nothing changes the file while it is mapped.
            let builder = unsafe {
                VarBuilder::from_mmaped_safetensors(&[&path], dtype, &Device::Cpu).unwrap()
            };
            for (name, shape) in SHAPES {
                let name = format!("{of_type}.{name}");
                let loaded = builder.get(shape, &name).unwrap();
                let (_, saved) = vars.iter().find(|(other, _)| *other == name).unwrap();
                assert_eq!((loaded.dtype(), loaded.dims()), (dtype, shape));
                assert_eq!(tensor_bits(&loaded), tensor_bits(saved), "{name}");
            }
        }
        let map = random_map(3);
        let mut opt = Optimizer::from_var_map(&map, AdamW::default()).unwrap();
        if in_8_bits {
            opt.set_8bit_states(61).unwrap();
        }
        opt.load_with_variables(&path).unwrap();
        for ((name, saved), (_, loaded)) in vars.iter().zip(all(&map)) {
            assert_eq!(tensor_bits(saved), tensor_bits(&loaded), "{name}");
        }
    }
}

/// The same number of elements in another shape.
#[test]
fn another_shape_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    let of = |seed, shape: &[usize]| {
        let mut random = Random(seed);
        let vars = vec![var::<f32>(&mut random, &[4]), var::<f32>(&mut random, shape)];
        let named = ["b", "w"].into_iter().zip(vars.clone());
        let mut opt = Optimizer::with_names(named, AdamW::default()).unwrap();
        opt.step(&grads(vars.iter().map(|var| (var, var.as_tensor().clone())))).unwrap();
        (opt, vars)
    };
    of(1, &[2, 3]).0.save_with_variables(&path).unwrap();
    for (shape, shown) in [(&[3, 2][..], "[3, 2]"), (&[6], "[6]"), (&[2, 3, 1], "[2, 3, 1]")] {
        let (mut opt, vars) = of(2, shape);
        let before = everything(&opt, &vars).unwrap();
        let error = opt.load_with_variables(&path).unwrap_err();
        let message = format!("the shape of `w` is [2, 3], expected {shown}");
        assert_eq!(error.to_string(), format!("{}: {message}", path.display()));
        assert!(matches!(error, Error::Checkpoint(CheckpointError::Mismatch { .. })));
        assert_eq!(everything(&opt, &vars).unwrap(), before);
    }
    let (mut opt, vars) = of(2, &[2, 3]);
    opt.load_with_variables(&path).unwrap();
    assert_eq!(everything(&opt, &vars).unwrap(), {
        let (opt, vars) = of(1, &[2, 3]);
        everything(&opt, &vars).unwrap()
    });
}

/// A file as the C interface writes it, with flat variables.
#[test]
fn flat_shapes_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    let mut core = fused_adam::Optimizer::new(AnyRule::from(AdamW::default())).unwrap();
    let mut saved = Vec::new();
    for (name, shape) in SHAPES {
        core.add::<f32>(fused_adam::GroupId::default(), name, shape.iter().product()).unwrap();
        saved.push((name, elements::<f32>(&var::<f32>(&mut Random(1), shape))));
    }
    let writer = core.checkpoint();
    let writer = saved.iter().fold(writer, |writer, (name, theta)| writer.with_tensor(name, theta));
    writer.save(&path).unwrap();

    let vars = SHAPES.map(|(name, shape)| (name, var::<f32>(&mut Random(2), shape)));
    let mut opt = Optimizer::with_names(vars.clone(), AdamW::default()).unwrap();
    opt.load_with_variables(&path).unwrap();
    for ((name, loaded), (_, saved)) in vars.iter().zip(&saved) {
        assert_eq!(tensor_bits(loaded), bits(saved), "{name}");
    }

    // Flat, but of another length.
    let vars = SHAPES.map(|(name, shape)| {
        let longer = if name == "cube" { &[3, 1, 21] } else { shape };
        (name, var::<f32>(&mut Random(2), longer))
    });
    let mut opt = Optimizer::with_names(vars, AdamW::default()).unwrap();
    let error = opt.load_with_variables(&path).unwrap_err();
    let message = "the shape of `cube` is [60], expected [3, 1, 21]";
    assert_eq!(error.to_string(), format!("{}: {message}", path.display()));
}

#[test]
fn a_file_of_variables_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    random_map(1).save(&path).unwrap();
    let map = random_map(2);
    let vars: Vec<Var> = all(&map).into_iter().map(|(_, var)| var).collect();
    let mut opt = Optimizer::from_var_map(&map, AdamW::default()).unwrap();
    opt.step(&grads(vars.iter().map(|var| (var, var.as_tensor().clone())))).unwrap();
    let before = everything(&opt, &vars).unwrap();
    for error in [opt.load(&path).unwrap_err(), opt.load_with_variables(&path).unwrap_err()] {
        let why = "is not a checkpoint: its metadata lack `fused_adam`; it has only variables, \
                   which `VarMap::load` reads";
        assert_eq!(error.to_string(), format!("{}: {why}", path.display()));
        assert!(matches!(error, Error::NoStates { .. }));
        assert_eq!(everything(&opt, &vars).unwrap(), before);
    }
}
