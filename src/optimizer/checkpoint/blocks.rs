//! 8-bit states on the way from and to a file of `f32`: a few blocks at a time, so that no second
//! copy of a state is in memory.

use std::io;

use crate::elements::block8::{BLOCK, Block8, Blocks, BlocksMut, Code};
use crate::elements::codec;

/// The number of elements that are converted together.
const CHUNK: usize = 128 * BLOCK;

/// Decodes a state, and passes its elements to `write` as the bytes of `f32`.
pub(super) fn decode(
    state: Blocks<'_>,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = [0.0; CHUNK];
    let mut rest = state;
    while rest.len() > 0 {
        let len = rest.len().min(CHUNK);
        let (now, after) = rest.split_at(len);
        codec::decode_all(now.blocks, now.code, &mut buffer[..len]);
        write(bytemuck::cast_slice(&buffer[..len]))?;
        rest = after;
    }
    Ok(())
}

/// Decodes a state whose blocks `read` stores, to `to`.
pub(super) fn decode_to<E>(
    to: &mut [f32],
    code: Code,
    mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer: [Block8; CHUNK / BLOCK] = [[0; BLOCK + 1]; CHUNK / BLOCK];
    for to in to.chunks_mut(CHUNK) {
        let blocks = &mut buffer[..to.len().div_ceil(BLOCK)];
        read(bytemuck::cast_slice_mut(blocks))?;
        codec::decode_all(blocks, code, to);
    }
    Ok(())
}

/// Encodes a state, rounded to nearest, from elements that `read` stores as the bytes of `f32`.
pub(super) fn encode<E>(
    state: BlocksMut<'_>,
    mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = [0.0_f32; CHUNK];
    let mut rest = state;
    while rest.len() > 0 {
        let len = rest.len().min(CHUNK);
        let (now, after) = rest.split_at(len);
        read(bytemuck::cast_slice_mut(&mut buffer[..len]))?;
        codec::encode_nearest(&buffer[..len], now.blocks, now.code);
        rest = after;
    }
    Ok(())
}
