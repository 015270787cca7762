//! Checkpoints in torch's layout: reads torch's states, writes ours without loss, and returns an
//! error for other files.

use std::fs;
use std::path::Path;

use fused_adam::{Adam, AdamW, CheckpointReader, GroupId, Lion, Optimizer, Tensor};
use safetensors::SafeTensors;

use crate::checkpoints::{adamw, load, stepped, temporary};

/// From the states of torch's Adam after three steps, two more steps reach torch's result after
/// five.
#[test]
fn torchs_states_are_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/torch_adam.safetensors");
    let bytes = fs::read(&path).unwrap();
    let torch = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| -> Vec<f64> { bytemuck_pod(torch.tensor(name).unwrap().data()) };
    let adam = Adam { lr: 0.02, amsgrad: true, weight_decay: 0.1, ..Adam::default() };
    let mut opt = Optimizer::new(adam).unwrap();
    opt.add::<f64>(GroupId::default(), "w", 12).unwrap();
    opt.add::<f64>(GroupId::default(), "b", 3).unwrap();
    opt.add::<f64>(GroupId::default(), "new", 3).unwrap();
    CheckpointReader::open(&path).unwrap().load_torch(&mut opt).unwrap();
    assert_eq!([opt.t(opt.id("w").unwrap()), opt.t(opt.id("new").unwrap())], [Some(3), Some(0)]);
    for name in ["w", "b"] {
        let mut theta = tensor(&format!("{name}.theta3"));
        for t in [4, 5] {
            opt.step([Tensor::new(name, &mut theta, &tensor(&format!("{name}.grad{t}")))]).unwrap();
        }
        for (theta, torch) in theta.iter().zip(tensor(&format!("{name}.theta5"))) {
            assert!((theta - torch).abs() < 1e-14, "{name}: {theta}, torch has {torch}");
        }
    }

    // Writes and reads it again.
    let (_dir, path) = temporary();
    opt.torch_checkpoint().save(&path).unwrap();
    let mut back = Optimizer::new(adam).unwrap();
    back.add::<f64>(GroupId::default(), "w", 12).unwrap();
    let mut file = CheckpointReader::open(&path).unwrap();
    file.load_torch(&mut back).unwrap();
    let [w, same] =
        [&opt, &back].map(|opt| opt.state::<f64>(opt.id("w").unwrap(), "v_max").unwrap());
    assert_eq!(w, same);
    assert_eq!(back.t(back.id("w").unwrap()), Some(5));
    let mut narrow = Optimizer::new(AdamW::default()).unwrap();
    narrow.add::<f32>(GroupId::default(), "w", 12).unwrap();
    let error = file.load_torch(&mut narrow).unwrap_err().to_string();
    assert!(error.ends_with("the type of `w.exp_avg` is f64, expected f32"), "{error}");
    let mut lion = Optimizer::new(Lion::default()).unwrap();
    lion.add::<f64>(GroupId::default(), "w", 12).unwrap();
    let error = file.load_torch(&mut lion).unwrap_err().to_string();
    assert!(
        error.ends_with("the rule of `w` is one whose states have names in torch, expected lion"),
        "{error}"
    );
}

fn bytemuck_pod(bytes: &[u8]) -> Vec<f64> {
    fused_adam::bytemuck::pod_collect_to_vec(bytes)
}

/// A file of something else is not mistaken for one without any steps.
#[test]
fn what_is_not_torchs() {
    let (_dir, path) = temporary();
    let refused = |why: &str| {
        let mut opt = stepped(4);
        let w = opt.id("w").unwrap();
        let m = opt.state::<f32>(w, "m").unwrap().to_vec();
        let error = CheckpointReader::open(&path).unwrap().load_torch(&mut opt).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: {why}", path.display()));
        assert_eq!((opt.t(w), opt.state::<f32>(w, "m")), (Some(1), Some(&m[..])));
    };
    let none = "has no tensor `<param>.step` of a parameter";
    stepped(4).checkpoint().save(&path).unwrap();
    refused(none);
    let weights = [1.0_f32; 4].map(f32::to_le_bytes).concat();
    let view = |name| {
        let shape = vec![4];
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &weights);
        (name, view.unwrap())
    };
    safetensors::serialize_to_file([view("w")], None, &path).unwrap();
    refused(none);
    safetensors::serialize_to_file([view("w.exp_avg"), view("w.exp_avg_sq")], None, &path).unwrap();
    refused("lacks the tensor `w.step`");

    // A file that this crate writes may have no states.
    adamw(4).torch_checkpoint().with_tensor("w", &[1.0_f32; 4]).save(&path).unwrap();
    let mut opt = stepped(4);
    CheckpointReader::open(&path).unwrap().load_torch(&mut opt).unwrap();
    assert_eq!((opt.t(opt.id("w").unwrap()), opt.steps()), (Some(0), 0));
}

/// Step numbers that are not exact in `f32` are written with more digits. Those that are not exact
/// in `f64` are an error.
#[test]
fn torchs_step_numbers() {
    let (_dir, path) = temporary();
    stepped(4).checkpoint().save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    for t in [1, 1 << 24, (1 << 24) + 1, 8_999_999_999_999_999, 9_000_000_000_000_000_u64] {
        let text = String::from_utf8_lossy(&bytes[8..]).into_owned();
        let end = text.rfind("}}").expect("the header ends in two braces") + 2;
        let header = text[..end].replacen("\\\"t\\\":1", &format!("\\\"t\\\":{t}"), 1);
        let data = &bytes[bytes.len() - 32..];
        let new = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        fs::write(&path, new).unwrap();
        let mut opt = adamw(4);
        load(&path, &mut opt).unwrap();
        let w = opt.id("w").unwrap();
        assert_eq!(opt.t(w), Some(t));
        let saved = opt.torch_checkpoint().save(&path);
        if t >= 9_000_000_000_000_000 {
            let error = saved.unwrap_err().to_string();
            assert!(error.contains(&format!("step number `t` is {t}, expected less")), "{error}");
            continue;
        }
        saved.unwrap();
        let mut back = adamw(4);
        CheckpointReader::open(&path).unwrap().load_torch(&mut back).unwrap();
        assert_eq!(back.t(back.id("w").unwrap()), Some(t));
    }
}
