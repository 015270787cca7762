//! Loads arbitrary bytes as a checkpoint. The result must be an error, or an optimizer that can
//! continue. It must never panic, and never allocate more memory than the registered parameters
//! need.

#![no_main]

use std::cell::OnceCell;
use std::path::PathBuf;

use fused_adam::{AdamW, CheckpointReader, GroupId, Optimizer, Tensor};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PATH: OnceCell<(tempfile::TempDir, PathBuf)> = const { OnceCell::new() };
}

fn optimizer() -> Optimizer {
    let mut opt = Optimizer::new(AdamW::default()).expect("a valid rule");
    opt.add::<f32>(GroupId::default(), "w", 4).expect("a new name");
    opt.add::<f64>(GroupId::default(), "d", 2).expect("a new name");
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
        let Ok(mut file) = CheckpointReader::open(path) else { return };
        let mut opt = optimizer();
        let mut torch = optimizer();
        let loaded = file.load(&mut opt).is_ok();
        let _ = file.load_torch(&mut torch);
        let _ = file.read("w", &mut [0.0_f32; 4]);
        if loaded {
            // After a successful load, the optimizer can take a step or return an error, and can be
            // saved and loaded again.
            let (mut w, mut d) = ([0.5_f32; 4], [0.5_f64; 2]);
            let w = Tensor::new("w", &mut w, &[1.0_f32; 4]);
            let _ = opt.step([w, Tensor::new("d", &mut d, &[1.0_f64; 2])]);
            opt.checkpoint().save(path).expect("a file");
            let mut again = CheckpointReader::open(path).expect("what was saved");
            again.load(&mut optimizer()).expect("what was saved");
        }
    });
});
