//! What the compiler made of the kernels: this test disassembles itself.
//!
//! Bits prove the arithmetic, not the instructions: a dispatched kernel that was not inlined into
//! its clone gives the same bits on 128-bit registers, at half the speed. And one fused multiply-add
//! would change the bits on some machines only. So the machine code is looked at: every clone has
//! its own width of square root and division, and no kernel has a fused multiply-add.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::collections::BTreeMap;

use fused_adam::{Adam, AdamW, Backend, Element, Step};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol};

/// Takes a step with each option that leads to another kernel, so that all are compiled in.
fn instantiate<E: Element>(backend: Backend) {
    for (amsgrad, weight_decay, beta1) in
        [false, true].into_iter().flat_map(|a| [(a, 0.0, 0.9), (a, 0.1, 0.9), (a, 0.1, 0.1)])
    {
        let adam = Adam { amsgrad, weight_decay, beta1, ..Adam::default() };
        let adamw = AdamW { amsgrad, weight_decay, beta1, ..AdamW::default() };
        let (mut theta, grad, mut m) = ([E::ZERO; 3], [E::ZERO; 3], [E::ZERO; 3]);
        let (mut v, mut v_max) = (m, m);
        let states: &mut [&mut [E]] = &mut [&mut m, &mut v, &mut v_max];
        let states = &mut states[..if amsgrad { 3 } else { 2 }];
        Step::new(&adam, 1).backend(backend).run(&mut theta, &grad, states).unwrap();
        Step::new(&adamw, 1).backend(backend).run(&mut theta, &grad, states).unwrap();
    }
}

/// The instructions of a function that matter here, by how often they occur.
#[derive(Default)]
struct Function {
    /// Square roots and divisions: mnemonic and width in bits.
    units: BTreeMap<(Mnemonic, usize), usize>,
    /// Fused multiply-adds, as they are written.
    fused: Vec<String>,
}

/// Every function of this program whose name says that it is a kernel: of this crate, of the SIMD
/// crates, or a dispatched clone.
fn kernels() -> BTreeMap<String, Function> {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let file = object::File::parse(&*program).unwrap();
    let text = file.section_by_name(".text").unwrap();
    let (start, code) = (text.address(), text.data().unwrap());
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.size() > 0) {
        let name = rustc_demangle::demangle(symbol.name().unwrap()).to_string();
        let ours = ["fused_adam", "pulp::", "wide::"].iter().any(|krate| name.contains(krate));
        let Some(offset) = symbol.address().checked_sub(start) else { continue };
        let range = offset as usize..(offset + symbol.size()) as usize;
        if let (true, Some(code)) = (ours, code.get(range)) {
            functions.insert(name, Function::read(code, symbol.address()));
        }
    }
    functions
}

impl Function {
    fn read(code: &[u8], address: u64) -> Self {
        let mut function = Function::default();
        for instruction in Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
            let mnemonic = instruction.mnemonic();
            let name = format!("{mnemonic:?}");
            if ["Vfmadd", "Vfmsub", "Vfnm", "Vfmsubadd"].iter().any(|fused| name.starts_with(fused))
            {
                function.fused.push(name);
                continue;
            }
            use Mnemonic::{Divpd, Divps, Sqrtpd, Sqrtps, Vdivpd, Vdivps, Vsqrtpd, Vsqrtps};
            let packed = [Sqrtps, Sqrtpd, Divps, Divpd, Vsqrtps, Vsqrtpd, Vdivps, Vdivpd];
            if packed.contains(&mnemonic) && instruction.op0_kind() == OpKind::Register {
                let bits = Register::size(instruction.op0_register()) * 8;
                *function.units.entry((mnemonic, bits)).or_default() += 1;
            }
        }
        function
    }
}

#[test]
fn clones_use_their_own_width_and_nothing_is_fused() {
    for backend in [Backend::Scalar, Backend::Wide, Backend::Avx2, Backend::Avx512] {
        if backend.is_available() {
            instantiate::<f32>(backend);
            instantiate::<f64>(backend);
        } else {
            // Its code is compiled in and looked at all the same.
            println!("skipped: running {backend}, which is not available on this CPU");
        }
    }
    let kernels = kernels();
    assert!(!kernels.is_empty(), "no kernel was found in this program");

    for (name, function) in &kernels {
        assert!(function.fused.is_empty(), "{name} fuses: {:?}", function.fused);
    }

    // The two backends that are not dispatched: all of their sweeps are among what was looked at.
    let sweeps = |of: &str, units: &[Mnemonic]| {
        let has = |function: &Function| {
            function.units.keys().any(|(mnemonic, _)| units.contains(mnemonic))
        };
        kernels.iter().filter(|(name, function)| name.contains(of) && has(function)).count()
    };
    let single = [Mnemonic::Sqrtps, Mnemonic::Vsqrtps];
    let double = [Mnemonic::Sqrtpd, Mnemonic::Vsqrtpd];
    let wide = (sweeps("backend::wide::sweep", &single), sweeps("backend::wide::sweep", &double));
    assert_eq!(wide, (12, 12), "sweeps of wide");
    let scalar = kernels.keys().filter(|name| name.contains("backend::scalar::sweep")).count();
    println!("wide: {wide:?} sweeps; scalar: {scalar}");
    assert!(scalar >= 12, "only {scalar} sweeps of the reference");

    // A clone is one function with the whole sweep inlined: its blocks of registers, its single
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
        // None, L2 and decoupled decay × AMSGrad or not × both forms of the averages.
        assert_eq!((single, double), ((12, 12), (12, 12)), "{level} at {width} bits");
        for (name, function) in clones {
            let blocks = function.units.iter().filter(|((_, bits), _)| *bits == width);
            let most = blocks.map(|(_, &count)| count).max().unwrap_or(0);
            assert!(most >= 4, "{name} does not hold four registers: {:?}", function.units);
        }
    }
}
