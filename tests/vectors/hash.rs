//! Hashes of the results, to compare machines by one line of output.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// The hash of each kind of result, such as those of a backend.
static HASHES: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// Adds a result with its name. The order of the results does not matter.
pub fn add(kind: &str, name: &str, result: &str) {
    // FNV-1a.
    let fold = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    let hash = name.bytes().chain(result.bytes()).fold(0xCBF2_9CE4_8422_2325, fold);
    let mut hashes = HASHES.lock().unwrap();
    let sum = hashes.entry(kind.to_owned()).or_default();
    *sum = sum.wrapping_add(hash);
}

/// Prints a line for each kind.
pub fn print() {
    for (kind, hash) in HASHES.lock().unwrap().iter() {
        println!("hash of {kind}: {hash:016x}");
    }
}
