//! Calls the functions of the C interface in any order, with any arguments that the header allows.
//!
//! The bytes of an input choose the calls. Each call is repeated with the Rust API and the scalar
//! backend. No call may panic. It must return the status that the header describes. After an error
//! nothing may have changed, and after a success all bits must be those of the Rust API.

#![no_main]

mod beside;
mod borrowed;
mod conversions;
mod elements;
mod files;
mod optimizer;
mod options;
mod rules;
mod schedules;
mod source;
mod status;
mod step;
mod threads;

use fused_adam::AnyRule;
use libfuzzer_sys::fuzz_target;

use files::Folder;
use optimizer::OptimizerHandle;
use options::OptionsHandle;
use rules::RuleHandle;
use source::Source;

thread_local! {
    static FOLDER: Folder = Folder::new();
}

/// The most calls of one input.
const CALLS: usize = 60;

/// The handles of an input. There is at least one of each.
struct Handles {
    rules: Vec<RuleHandle>,
    options: Vec<OptionsHandle>,
    optimizers: Vec<OptimizerHandle>,
}

impl Handles {
    fn new(source: &mut Source) -> Self {
        let name = source.pick(AnyRule::NAMES);
        let rule = RuleHandle::new(name.parse().expect("a name"));
        let mut optimizer = OptimizerHandle::new(&rule).expect("a valid rule");
        for _ in 0..source.below(3) {
            optimizer.add(source);
        }
        Handles {
            rules: vec![rule],
            options: vec![OptionsHandle::new()],
            optimizers: vec![optimizer],
        }
    }

    fn call(&mut self, folder: &Folder, source: &mut Source) {
        let Handles { rules, options, optimizers } = self;
        let (rule, option) = (source.below(rules.len()), source.below(options.len()));
        let opt = source.below(optimizers.len());
        let (rule, option, opt) = (&mut rules[rule], &mut options[option], &mut optimizers[opt]);
        match source.below(32) {
            0..=4 => opt.step(source),
            5 | 6 => opt.add(source),
            7 | 8 => opt.set(source),
            9 => opt.set_options(option, source),
            10 => opt.set_grad_scaler(source),
            11 => opt.set_schedule(source),
            12 => opt.add_group(rule, source),
            13 => opt.describe(source),
            14 => opt.save(folder, source),
            15 => opt.load(folder, source),
            16 | 17 => rule.set(source),
            18 => rule.describe(source),
            19 => rule.advance(source),
            20 | 21 => option.set(source),
            22 | 23 => borrowed::step_many(rules, &options[0], source),
            24 | 25 => borrowed::step_one(rule, option, source),
            26 => conversions::split_or_join(source),
            27 => conversions::encode_or_decode(rule, source),
            28 => conversions::numbers(source),
            29 => schedules::factor(source),
            30 => threads::choose(source),
            _ => self.make_or_free(source),
        }
    }

    fn make_or_free(&mut self, source: &mut Source) {
        let Handles { rules, options, optimizers } = self;
        let rule = source.below(rules.len());
        match source.below(7) {
            0 if rules.len() < 4 => rules.extend(RuleHandle::try_new(source)),
            1 if rules.len() < 4 => rules.push(rules[rule].copy()),
            2 if options.len() < 3 => options.push(OptionsHandle::new()),
            3 if optimizers.len() < 3 => optimizers.extend(OptimizerHandle::new(&rules[rule])),
            4 if rules.len() > 1 => drop(rules.remove(rule)),
            5 if options.len() > 1 => drop(options.pop()),
            6 if optimizers.len() > 1 => drop(optimizers.remove(0)),
            _ => {}
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        folder.clear();
        threads::reset();
        let source = &mut Source::new(bytes);
        let mut handles = Handles::new(source);
        for _ in 0..CALLS {
            if source.is_empty() {
                break;
            }
            handles.call(folder, source);
        }
    });
});
