//! The recorded bits that a program in C is compared with (`tests/programs/bits_table.inc`).

use fused_adam::{AnyRule, Backend, Parallelism, Rule, Step, bf16, f16};

use crate::common::{Bits, rules};

/// Three steps of the reference, of a rule with its defaults on four numbers, as a line of C.
fn table_line(name: &str) -> String {
    fn bits<E: Bits>(rule: &AnyRule) -> Vec<u64> {
        let of = |numbers: [f64; 4]| numbers.map(E::from_f64);
        let mut theta = of([0.5, -0.25, 1.0, -2.0]);
        let mut states: Vec<[E; 4]> =
            (0..rule.states().len()).map(|i| of([rule.initial_state(i); 4])).collect();
        for t in 1..=3 {
            let grad = of([0.125, -1.5, 0.0, 3.0].map(|g| g * t as f64));
            let mut states: Vec<&mut [E]> = states.iter_mut().map(|s| &mut s[..]).collect();
            let step = Step::new(rule, t)
                .with_backend(Backend::Scalar)
                .with_parallelism(Parallelism::Serial);
            step.run(&mut theta, &grad, &mut states).unwrap();
        }
        theta.map(Bits::bits).to_vec()
    }
    let rule: AnyRule = name.parse().unwrap();
    let shown = |bits: Vec<u64>, suffix: &str| {
        let all: Vec<String> = bits.iter().map(|bits| format!("0x{bits:x}{suffix}")).collect();
        format!("{{{}}}", all.join(", "))
    };
    format!(
        "{{\"{name}\",\n {},\n {},\n {},\n {}}},\n",
        shown(bits::<f32>(&rule), "u"),
        shown(bits::<f64>(&rule), "u"),
        shown(bits::<bf16>(&rule), "u"),
        shown(bits::<f16>(&rule), "u"),
    )
}

/// The table of the C program has the reference's results when the table was made, perhaps on
/// another machine. It only changes if the core's results change. It may lack some rules.
/// `UPDATE_TABLE=1 cargo test -p fused-adam-c --test bits table` makes it again, with all rules.
#[test]
fn the_table_of_the_c_program() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/bits_table.inc");
    let lines: Vec<String> = rules::names().map(table_line).collect();
    if std::env::var_os("UPDATE_TABLE").is_some() {
        std::fs::write(path, lines.concat()).unwrap();
    }
    let mut rest = &*std::fs::read_to_string(path).unwrap();
    assert!(!rest.is_empty());
    while !rest.is_empty() {
        let line = lines.iter().find(|line| rest.starts_with(&***line));
        rest = &rest[line.unwrap_or_else(|| panic!("no rule has the bits of {rest}")).len()..];
    }
}
