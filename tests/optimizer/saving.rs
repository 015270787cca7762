//! Saving a checkpoint: after an error, a kill or a crash the path holds a complete file, symbolic
//! links stay, and nothing is left behind.

use std::fs;
use std::process::Command;
use std::time::Duration;

use fused_adam::{
    AdamW, CheckpointError, CheckpointReader, GradScaler, GroupId, Optimizer, Tensor, bf16,
};

use crate::checkpoints::{adamw, stepped, temporary};
use crate::common::Random;

/// If a file cannot be written, the old one does not change, and no other file is left.
#[test]
fn the_old_file_stays() {
    let (dir, path) = temporary();
    stepped(4).checkpoint().save(&path).unwrap();
    let old = fs::read(&path).unwrap();
    let twice = [0.0_f32];
    let opt = stepped(4);
    let error =
        opt.checkpoint().with_tensor("x", &twice).with_tensor("x", &twice).save(&path).unwrap_err();
    assert!(error.to_string().ends_with("there are two tensors `x`"), "{error}");
    // Under the same name with another type, and under the name of the metadata.
    let other = [bf16::ONE];
    let error = opt.checkpoint().with_tensor("w.m", &other).save(&path).unwrap_err();
    assert!(error.to_string().ends_with("there are two tensors `w.m`"), "{error}");
    assert!(opt.checkpoint().with_tensor("__metadata__", &twice).save(&path).is_err());
    // What could not be loaded again is not saved.
    for spoil in [
        |opt: &mut Optimizer| opt.rule_mut(GroupId::default()).unwrap().lr = f64::NAN,
        |opt: &mut Optimizer| opt.rule_mut(GroupId::default()).unwrap().amsgrad = true,
        |opt: &mut Optimizer| opt.grad_scaler = Some(GradScaler::constant(f64::INFINITY)),
    ] {
        let mut opt = stepped(4);
        spoil(&mut opt);
        let error = opt.checkpoint().save(&path).unwrap_err();
        assert!(matches!(error, CheckpointError::Invalid { .. }), "{error}");
    }
    assert!(opt.checkpoint().save(dir.path().join("no/such/directory")).is_err());
    assert_eq!(fs::read(&path).unwrap(), old);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// The number of elements of the parameter in the process that is killed.
const KILLED: usize = 1 << 16;

/// The environment variable that turns this program into the process that is killed.
const VICTIM: &str = "FUSED_ADAM_SAVES_TO";

/// Not a test: saves forever, with one step between saves. After each step all elements of θ and
/// the states are equal.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let mut opt = adamw(KILLED);
    let mut theta = vec![0.0_f32; KILLED];
    loop {
        opt.step([Tensor::new("w", &mut theta, &vec![1.0_f32; KILLED])]).unwrap();
        opt.checkpoint().with_tensor("theta", &theta).save(&path).unwrap();
    }
}

/// A process that is killed while it saves leaves a complete file: an old one or a new one. Every
/// other process is killed only after its first save, so that a slow machine tests something too.
#[test]
fn killed_while_saving() {
    let (_dir, path) = temporary();
    let random = &mut Random(11);
    let (mut last, mut loaded) = (0, 0);
    for kill in 0..200 {
        let after_a_save = kill % 2 == 1;
        if after_a_save && path.exists() {
            fs::remove_file(&path).unwrap();
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "saving::victim", "--quiet"])
            .env(VICTIM, &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while after_a_save && !path.exists() {
            assert!(child.try_wait().unwrap().is_none(), "kill {kill}: it ended by itself");
            std::thread::sleep(Duration::from_micros(100));
        }
        std::thread::sleep(Duration::from_micros(1000 + random.below(14_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        if !path.exists() {
            continue;
        }
        let mut opt = adamw(KILLED);
        let mut theta = vec![0.0_f32; KILLED];
        let mut file = CheckpointReader::open(&path).unwrap_or_else(|e| panic!("kill {kill}: {e}"));
        file.load(&mut opt).unwrap();
        file.read("theta", &mut theta).unwrap();
        // θ and the states are from the same step, which is the one in the file's step number.
        let mut reference = adamw(1);
        let mut one = [0.0_f32];
        for _ in 0..opt.steps() {
            reference.step([Tensor::new("w", &mut one, &[1.0_f32])]).unwrap();
        }
        let all =
            |values: &[f32], value: f32| values.iter().all(|x| x.to_bits() == value.to_bits());
        assert!(all(&theta, one[0]), "kill {kill}: θ is not that of step {}", opt.steps());
        for state in ["m", "v"] {
            let value = reference.state::<f32>(reference.id("w").unwrap(), state).unwrap()[0];
            assert!(all(opt.state(opt.id("w").unwrap(), state).unwrap(), value), "kill {kill}");
        }
        loaded += 1;
        last = last.max(opt.steps());
    }
    println!("{loaded} of 200 killed runs left a file; the longest had saved {last} times");
    assert!(loaded >= 100, "only {loaded} runs left a file");
}

/// A save replaces the file that a symbolic link points to, and keeps the link.
#[test]
#[cfg(unix)]
fn a_symbolic_link_stays() {
    let dir = tempfile::tempdir().unwrap();
    let [link, target] = ["link", "target"].map(|name| dir.path().join(name));
    std::os::unix::fs::symlink("target", &link).unwrap();
    for steps in [0, 1] {
        let mut opt = adamw(4);
        let mut theta = [1.0_f32; 4];
        for _ in 0..steps {
            opt.step([Tensor::new("w", &mut theta, &[1.0_f32; 4])]).unwrap();
        }
        // First the link points to nothing.
        opt.checkpoint().save(&link).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert!(target.symlink_metadata().unwrap().is_file());
        let mut loaded = adamw(4);
        CheckpointReader::open(&link).unwrap().load(&mut loaded).unwrap();
        assert_eq!(loaded.steps(), steps);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

/// The temporary file of a killed save is removed by the next save of the same path. That of a save
/// that still runs is locked, and stays. So does that of another path.
#[test]
fn leftovers_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("states");
    let names = || {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // The name that a save of this path uses: that of a file that is watched while it is written.
    let prefix = {
        let hash = b"states".iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        format!(".checkpoint-{hash:016x}-")
    };
    let [killed, running] = ["killed", "running"].map(|name| format!("{prefix}{name}"));
    let other = ".checkpoint-0123456789abcdef-killed".to_owned();
    for name in [&killed, &running, &other] {
        std::fs::write(dir.path().join(name), b"half").unwrap();
    }
    let lock = std::fs::File::open(dir.path().join(&running)).unwrap();
    lock.lock().unwrap();
    adamw(4).checkpoint().save(&path).unwrap();
    let mut expected = vec![running, other.clone(), "states".to_owned()];
    expected.sort();
    assert_eq!(names(), expected);
    // Not by closing the file: a child process that another test starts has a copy of it for a
    // moment, and the lock lives as long as any copy.
    lock.unlock().unwrap();
    adamw(4).checkpoint().save(&path).unwrap();
    assert_eq!(names(), [other, "states".to_owned()]);
}

/// 200,000 parameters with names of 40 characters: a header of more than 32 MiB.
#[test]
fn many_parameters_with_long_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("states");
    let build = || {
        let mut opt = Optimizer::new(AdamW::default()).unwrap();
        for i in 0..200_000 {
            opt.add::<f32>(GroupId::default(), &format!("{i:040}"), 1).unwrap();
        }
        opt
    };
    let (mut opt, mut theta) = (build(), vec![[1.0_f32]; 200_000]);
    let keys: Vec<_> = (0..200_000).map(|i| opt.id(&format!("{i:040}")).unwrap()).collect();
    let tensors = keys.iter().zip(&mut theta);
    opt.step(tensors.map(|(&id, theta)| Tensor::new(id, theta, &[1.0_f32]))).unwrap();
    opt.checkpoint().save(&path).unwrap();
    assert!(path.metadata().unwrap().len() > 32 << 20);
    let mut loaded = build();
    CheckpointReader::open(&path).unwrap().load(&mut loaded).unwrap();
    let last = loaded.id(&format!("{:040}", 199_999)).unwrap();
    assert_eq!((loaded.steps(), loaded.t(last)), (1, Some(1)));
}
