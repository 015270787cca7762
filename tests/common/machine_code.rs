//! Reads the machine code of the kernels in the running program.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol};

/// The relevant instructions of a function, with their counts.
#[derive(Default)]
pub struct Function {
    /// Square roots and divisions: mnemonic and width in bits.
    pub units: BTreeMap<(Mnemonic, usize), usize>,
    /// The fused multiply-adds, as text.
    pub fused: Vec<String>,
}

/// Every function of this program that is a kernel by its name: of this crate, of the SIMD crates,
/// or a dispatched clone.
pub fn kernels() -> BTreeMap<String, Function> {
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
