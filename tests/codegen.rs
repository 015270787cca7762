//! Checks the machine code of the kernels: this test disassembles itself.
//!
//! Tests of the results prove the arithmetic, but not which instructions are used. A dispatched
//! kernel that is not inlined into its clone has the same results with 128-bit registers, at half
//! the speed. And a fused multiply-add would change the results on some machines only. So this test
//! checks that every clone has square roots and divisions of its own width, and that no kernel has
//! a fused multiply-add.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "common/machine_code.rs"]
mod machine_code;

use fused_adam::{Adam, Backend, Block8, Element, Step, bf16};
use iced_x86::Mnemonic;
use machine_code::{Function, kernels};

/// Takes a step with and without AMSGrad, so that both kernels are compiled.
fn instantiate<E: Element>(backend: Backend) {
    let zero = [E::from_f64(0.0); 3];
    for amsgrad in [false, true] {
        let adam = Adam { amsgrad, ..Adam::default() };
        let (mut theta, grad, [mut m, mut v, mut v_max]) = (zero, zero, [zero; 3]);
        let states: &mut [&mut [E]] = &mut [&mut m, &mut v, &mut v_max];
        let states = &mut states[..if amsgrad { 3 } else { 2 }];
        Step::new(&adam, 1).with_backend(backend).run(&mut theta, &grad, states).unwrap();
    }
}

/// The same with states in 8 bits.
fn instantiate_8bit(backend: Backend) {
    for amsgrad in [false, true] {
        let adam = Adam { amsgrad, ..Adam::default() };
        let (mut theta, grad) = ([0.0_f32; 40], [0.0_f32; 40]);
        let [mut m, mut v, mut v_max]: [[Block8; 2]; 3] = [[[0; 33]; 2]; 3];
        let states: &mut [&mut [Block8]] = &mut [&mut m, &mut v, &mut v_max];
        let states = &mut states[..if amsgrad { 3 } else { 2 }];
        Step::new(&adam, 1).with_backend(backend).run_mixed(&mut theta, &grad, states).unwrap();
    }
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "the test profile optimizes too little: cargo test --release --test codegen"
)]
fn clones_use_their_own_width_and_nothing_is_fused() {
    for backend in [Backend::Scalar, Backend::Wide, Backend::Avx2, Backend::Avx512] {
        if backend.is_available() {
            instantiate::<f32>(backend);
            instantiate::<f64>(backend);
            instantiate::<bf16>(backend);
            instantiate_8bit(backend);
        } else {
            // The code for it is compiled and checked anyway.
            println!("skipped: running {backend}, which is not available on this CPU");
        }
    }
    let kernels = kernels();
    assert!(!kernels.is_empty(), "no kernel was found in this program");

    for (name, function) in &kernels {
        assert!(function.fused.is_empty(), "{name} fuses: {:?}", function.fused);
    }

    // The two backends without dispatch: their step functions must be among the checked functions.
    let sweeps = |of: &str, units: &[Mnemonic]| {
        let has = |function: &Function| {
            function.units.keys().any(|(mnemonic, _)| units.contains(mnemonic))
        };
        kernels.iter().filter(|(name, function)| name.contains(of) && has(function)).count()
    };
    let single = [Mnemonic::Sqrtps, Mnemonic::Vsqrtps];
    let double = [Mnemonic::Sqrtpd, Mnemonic::Vsqrtpd];
    let wide = (sweeps("::portable", &single), sweeps("::portable", &double));
    // With and without AMSGrad, in f32, in bf16 and with states in 8 bits. These two are computed
    // in f32.
    assert_eq!(wide, (6, 2), "sweeps of wide");
    let scalar = kernels.keys().filter(|name| name.contains("reference::step")).count();
    println!("wide: {wide:?} sweeps; scalar: {scalar}");
    // With and without AMSGrad, in f32 (in which bf16 is computed) and in f64.
    assert_eq!(scalar, 4, "sweeps of the reference");

    // A clone is one function with the whole step inlined: its blocks of registers, its single
    // registers, and its last elements.
    for (level, width) in [("v3::V3", 256), ("v4::V4", 512)] {
        let clones: Vec<_> = kernels
            .iter()
            .filter(|(name, function)| name.contains(level) && !function.units.is_empty())
            .collect();
        let of =
            |mnemonic| clones.iter().filter(move |(_, f)| f.units.contains_key(&(mnemonic, width)));
        let single = (of(Mnemonic::Vsqrtps).count(), of(Mnemonic::Vdivps).count());
        let double = (of(Mnemonic::Vsqrtpd).count(), of(Mnemonic::Vdivpd).count());
        println!("{level}: {} clones, f32 {single:?}, f64 {double:?}", clones.len());
        assert_eq!((single, double), ((6, 6), (2, 2)), "{level} at {width} bits");
        // The blocks: four registers at a time, or two if bf16 is converted, and single registers.
        // With states in 8 bits, as many registers as have 32 lanes.
        let mut blocks: Vec<usize> = clones
            .iter()
            .flat_map(|(_, function)| &function.units)
            .filter(|((mnemonic, bits), _)| *mnemonic == Mnemonic::Vsqrtps && *bits == width)
            .map(|(_, count)| *count)
            .collect();
        blocks.sort_unstable();
        println!("{level}: square roots in each clone of f32 and bf16: {blocks:?}");
        assert!(
            blocks[0] >= 2 && blocks[4] >= 4,
            "{level} does not hold its registers: {blocks:?}"
        );
    }
}
