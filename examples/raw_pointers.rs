//! Steps on memory of another library, which gives raw pointers: a C program, a GPU's pinned host
//! memory, a memory map.
//!
//! ```sh
//! cargo run --release --example raw_pointers
//! ```
//!
//! The step itself is safe code on slices. So the pointers become slices first, in one place. What
//! Rust cannot check, the caller of that place promises: that the pointers are valid, and that
//! nothing else uses the buffers.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::slice;

use fused_adam::{AdamW, Error};

/// Buffers of one parameter, as another library gives them.
#[derive(Clone, Copy)]
struct RawBuffers {
    len: usize,
    theta: *mut f32,
    grad: *const f32,
    m: *mut f32,
    v: *mut f32,
}

/// Takes step number `t`.
///
/// # Safety
///
/// Each pointer must be valid for `len` elements, at most `isize::MAX` bytes, aligned to 4 bytes,
/// and not null, not even if `len` is 0 (use `NonNull::dangling` then). `theta`, `m` and `v` must
/// be valid for writes, and overlap neither each other nor `grad`. Nothing else may use the buffers
/// until this returns.
unsafe fn step(rule: &AdamW, t: u64, buffers: RawBuffers) -> Result<(), Error> {
    let RawBuffers { len, theta, grad, m, v } = buffers;
    // SAFETY: the caller promises all that these functions require. Memory that was never written
    // is not valid: `alloc_zeroed` or `calloc` gives valid memory, `malloc` does not.
    let (theta, grad, m, v) = unsafe {
        (
            slice::from_raw_parts_mut(theta, len),
            slice::from_raw_parts(grad, len),
            slice::from_raw_parts_mut(m, len),
            slice::from_raw_parts_mut(v, len),
        )
    };
    rule.step(t, theta, grad, [m, v])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const LEN: usize = 1 << 20;
    let layout = Layout::array::<f32>(LEN)?.align_to(64)?;
    // SAFETY: the layout has a size above 0.
    let [theta, grad, m, v] = [(); 4].map(|()| unsafe { alloc_zeroed(layout) }.cast::<f32>());
    if [theta, grad, m, v].iter().any(|buffer| buffer.is_null()) {
        return Err("out of memory".into());
    }
    let buffers = RawBuffers { len: LEN, theta, grad, m, v };
    let rule = AdamW { lr: 1e-2, weight_decay: 0.0, ..AdamW::default() };
    for t in 1..=10 {
        // The other library writes the gradient. Here it pulls every element of θ towards 1.
        for i in 0..LEN {
            // SAFETY: `i` is within both buffers.
            unsafe { *grad.add(i) = *theta.add(i) - 1.0 };
        }
        // SAFETY: four separate buffers of `LEN` zeros or numbers, which only this thread uses.
        unsafe { step(&rule, t, buffers)? };
    }
    // SAFETY: `theta` has `LEN` elements, and no step is in progress.
    let last = unsafe { *theta.add(LEN - 1) };
    println!("after 10 steps, the last of {LEN} elements is {last}");
    if !(0.08..0.11).contains(&last) {
        return Err(format!("the last element is {last}, expected about 0.1").into());
    }
    for buffer in [theta, grad, m, v] {
        // SAFETY: the buffer came from the same allocator with this layout.
        unsafe { dealloc(buffer.cast(), layout) };
    }
    Ok(())
}
