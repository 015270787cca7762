//! Loads arbitrary bytes as a checkpoint. The result must be an error, or an optimizer that can
//! continue. It must never panic, and never allocate more memory than the registered parameters
//! need.

#![no_main]

use std::cell::OnceCell;
use std::path::PathBuf;

use fused_adam::{AdamW, Block8, CheckpointReader, GroupId, Optimizer, Tensor};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PATH: OnceCell<(tempfile::TempDir, PathBuf)> = const { OnceCell::new() };
}

/// An optimizer whose first parameter has states of `f32` or in 8 bits.
fn optimizer(in_8_bits: bool) -> Optimizer {
    let mut opt = Optimizer::new(AdamW::default()).expect("a valid rule");
    let group = GroupId::default();
    let added = match in_8_bits {
        true => opt.add_mixed::<f32, f32, Block8>(group, "w", 4),
        false => opt.add::<f32>(group, "w", 4),
    };
    added.expect("a new name");
    opt.add::<f64>(group, "d", 2).expect("a new name");
    opt
}

fuzz_target!(|bytes: &[u8]| {
    PATH.with(|path| {
        let (_, path) = path.get_or_init(|| {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("checkpoint");
            (dir, path)
        });
        std::fs::write(path, bytes).expect("a file");
        for in_8_bits in [false, true] {
            let Ok(mut file) = CheckpointReader::open(path) else { return };
            let mut opt = optimizer(in_8_bits);
            let mut torch = optimizer(in_8_bits);
            let loaded = file.load(&mut opt).is_ok();
            let _ = file.load_torch(&mut torch);
            let _ = file.read("w", &mut [0.0_f32; 4]);
            if loaded {
                // After a successful load, the optimizer can take a step or return an error, and
                // can be saved and loaded again.
                let (mut w, mut d) = ([0.5_f32; 4], [0.5_f64; 2]);
                let w = Tensor::new("w", &mut w, &[1.0_f32; 4]);
                let _ = opt.step([w, Tensor::new("d", &mut d, &[1.0_f64; 2])]);
                let again = path.with_extension("again");
                opt.checkpoint().save(&again).expect("a file");
                let mut again = CheckpointReader::open(&again).expect("what was saved");
                again.load(&mut optimizer(in_8_bits)).expect("what was saved");
            }
        }
    });
});
