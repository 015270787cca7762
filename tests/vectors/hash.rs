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

/// Prints the hash of all results. Those of every backend count once, as they are equal. If they
/// are not, prints a hash for each.
pub fn print(backends: impl IntoIterator<Item = String>) {
    let mut rest = HASHES.lock().unwrap().clone();
    let steps = backends.into_iter().filter_map(|name| rest.remove(&name).map(|hash| (name, hash)));
    let steps: Vec<(String, u64)> = steps.collect();
    let others = rest.values().fold(0, |sum: u64, &hash| sum.wrapping_add(hash));
    if steps.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        let hash = steps.first().map_or(0, |(_, hash)| *hash).wrapping_add(others);
        println!("hash: {hash:016x}");
    } else {
        for (name, hash) in &steps {
            println!("hash on {name}: {hash:016x}");
        }
    }
}
