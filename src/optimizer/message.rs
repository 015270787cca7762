//! The message that each process of a distributed step sends to all others: its norm and its
//! options, or why it failed.
//!
//! All processes read the same messages, so they reach the same decision: all take the step, all
//! skip it, or all fail. `kernels.md` has the layout.

use super::options::{ClipNorm, StepOptions};
use crate::error::Error;
use crate::norm::GradNorm;

/// The first bytes: a name, and the version of the layout.
const HEADER: [u8; 8] = *b"fadam\0\0\x01";

/// The options that must be the same on all processes, in their order in a message.
const OPTIONS: [&str; 4] = ["grad_scale / loss_scale", "clip_norm", "clip_value", "skip_nonfinite"];

/// Whether a step with gradients that are not finite is skipped.
#[derive(Clone, Copy)]
pub(super) enum MaySkip {
    No = 0,
    Yes = 1,
    /// The loss scale cannot shrink any more, so such a step fails.
    Exhausted = 2,
}

/// The bytes of the reason of a failure. A longer one is cut.
const REASON_BYTES: usize = 256;

const OPTIONS_AT: usize = HEADER.len() + 8;
const NORM_AT: usize = OPTIONS_AT + 5 * 8;
const REASON_AT: usize = NORM_AT + GradNorm::BYTES;
const BYTES: usize = REASON_AT + REASON_BYTES;

/// Exchanges messages: it gets that of this process, and returns those of all processes.
pub(super) type AllGather<'f> = &'f mut dyn FnMut(&[u8]) -> Result<Vec<u8>, Error>;

/// Takes a step with an all-gather. If the step fails before it exchanges messages, it tells the
/// other processes.
pub(super) fn once<T>(
    all_gather: impl FnOnce(&[u8]) -> Result<Vec<u8>, Error>,
    step: impl FnOnce(AllGather<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut unused = Some(all_gather);
    let result = step(&mut |message| match unused.take() {
        Some(all_gather) => all_gather(message),
        None => Err(Error::AllGather { reason: "it was needed twice".to_owned() }),
    });
    if let (Err(error), Some(all_gather)) = (&result, unused) {
        // This error comes before those of other processes.
        let _ = all_gather(&failed_step(&error.to_string()));
    }
    result
}

/// The message of a process that cannot take a distributed step, with the reason. It has the length
/// of every message. If all processes pass their messages to the same all-gather, the others fail
/// with [`Error::OtherProcess`].
///
/// [`step_all_distributed`](crate::step_all_distributed) sends it for errors of its own. It is for
/// a process that fails before that call.
pub fn failed_step(reason: &str) -> Vec<u8> {
    let mut message = empty();
    message[HEADER.len()] = 1;
    let mut end = reason.len().min(REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    message[REASON_AT..][..end].copy_from_slice(&reason.as_bytes()[..end]);
    message
}

fn empty() -> Vec<u8> {
    let mut message = vec![0; BYTES];
    message[..HEADER.len()].copy_from_slice(&HEADER);
    message
}

/// The norm of the gradients of all processes. `grad_scale` and `may_skip` are those of the step.
pub(super) fn norm_of_all(
    all_gather: AllGather<'_>,
    norm: &GradNorm,
    options: &StepOptions,
    grad_scale: f64,
    may_skip: MaySkip,
) -> Result<GradNorm, Error> {
    let mut message = empty();
    let (kind, bound) = match options.clip_norm {
        None => (0, 0.0),
        Some(ClipNorm::Two(bound)) => (1, bound),
        Some(ClipNorm::Inf(bound)) => (2, bound),
    };
    let clip_value = options.clip_value.unwrap_or(f64::INFINITY).to_bits();
    let words = [grad_scale.to_bits(), kind, bound.to_bits(), clip_value, may_skip as u64];
    for (to, word) in message[OPTIONS_AT..NORM_AT].as_chunks_mut().0.iter_mut().zip(words) {
        *to = word.to_le_bytes();
    }
    message[NORM_AT..REASON_AT].copy_from_slice(&norm.to_bytes());
    merge(&all_gather(&message)?)
}

/// The sum of the norms of all messages, which are in the order of the ranks.
fn merge(all: &[u8]) -> Result<GradNorm, Error> {
    let broken = |reason: String| Err(Error::AllGather { reason });
    let (messages, []) = all.as_chunks::<BYTES>() else {
        return broken(format!("it returned {} bytes, expected {BYTES} a process", all.len()));
    };
    let Some(first) = messages.first() else {
        return broken("it returned no message, expected one of each process".to_owned());
    };
    for (rank, message) in messages.iter().enumerate() {
        if message[..HEADER.len()] != HEADER {
            return broken(format!("the message of rank {rank} has another format"));
        }
    }
    for (rank, message) in messages.iter().enumerate() {
        if message[HEADER.len()] != 0 {
            let reason = String::from_utf8_lossy(&message[REASON_AT..]);
            let reason = reason.trim_end_matches('\0').to_owned();
            return Err(Error::OtherProcess { rank, reason });
        }
    }
    let expected = options_of(first);
    for (rank, message) in messages.iter().enumerate() {
        for ((option, value), expected) in OPTIONS.iter().zip(options_of(message)).zip(&expected) {
            if value != *expected {
                let expected = expected.clone();
                return Err(Error::OptionDiffers { option, rank, value, expected });
            }
        }
    }
    let mut sum = GradNorm::new();
    for (rank, message) in messages.iter().enumerate() {
        let Some(norm) = message[NORM_AT..].first_chunk().and_then(GradNorm::from_bytes) else {
            return broken(format!("the norm of rank {rank} is not one"));
        };
        sum.merge(&norm);
    }
    Ok(sum)
}

/// The values of [`OPTIONS`] in a message, as text.
fn options_of(message: &[u8; BYTES]) -> [String; OPTIONS.len()] {
    let words = message[OPTIONS_AT..NORM_AT].as_chunks().0;
    let word = |i: usize| u64::from_le_bytes(words[i]);
    let number = |i| f64::from_bits(word(i));
    let none = || "None".to_owned();
    [
        format!("{:?}", number(0)),
        match word(1) {
            0 => none(),
            1 => format!("{:?}", ClipNorm::Two(number(2))),
            _ => format!("{:?}", ClipNorm::Inf(number(2))),
        },
        if number(3) == f64::INFINITY { none() } else { format!("{:?}", number(3)) },
        match word(4) {
            0 => "false".to_owned(),
            1 => "true".to_owned(),
            _ => "true with a loss scale that cannot shrink".to_owned(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(grads: &[f32], options: &StepOptions) -> Vec<u8> {
        let mut norm = GradNorm::new();
        norm.add(grads);
        let mut sent = Vec::new();
        let _ = norm_of_all(
            &mut |message| {
                sent = message.to_vec();
                Ok(message.to_vec())
            },
            &norm,
            options,
            options.grad_scale,
            if options.skip_nonfinite { MaySkip::Yes } else { MaySkip::No },
        );
        sent
    }

    /// A broken message is an error, and never a norm: each byte of the header, a wrong length, and
    /// a largest element that no norm has.
    #[test]
    fn broken_messages_are_refused() {
        let good = message(&[1.0, 2.0], &StepOptions::default());
        assert!(merge(&good).is_ok());
        let is_refused = |all: &[u8]| matches!(merge(all), Err(Error::AllGather { .. }));
        for at in 0..HEADER.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(is_refused(&[&*good, &*bad].concat()), "byte {at}");
        }
        for len in [0, 1, BYTES - 1, BYTES + 1] {
            assert!(is_refused(&good.repeat(2)[..len]), "{len} bytes");
        }
        for largest in [f64::NAN, f64::INFINITY, -1.0] {
            let mut bad = good.clone();
            let at = NORM_AT + GradNorm::BYTES - 24;
            bad[at..at + 8].copy_from_slice(&largest.to_le_bytes());
            assert!(is_refused(&bad), "{largest}");
        }
    }

    /// A process that differs in an option is named, with the option and both values.
    #[test]
    fn options_must_agree() {
        let default = StepOptions { clip_norm: Some(ClipNorm::Two(1.0)), ..StepOptions::default() };
        let others = [
            StepOptions { grad_scale: 0.5, ..default },
            StepOptions { clip_norm: Some(ClipNorm::Inf(1.0)), ..default },
            StepOptions { clip_norm: None, ..default },
            StepOptions { clip_value: Some(3.0), ..default },
            StepOptions { skip_nonfinite: true, ..default },
        ];
        let texts = [
            "`grad_scale / loss_scale` is 0.5 on rank 2, expected 1.0 as on rank 0",
            "`clip_norm` is Inf(1.0) on rank 2, expected Two(1.0) as on rank 0",
            "`clip_norm` is None on rank 2, expected Two(1.0) as on rank 0",
            "`clip_value` is 3.0 on rank 2, expected None as on rank 0",
            "`skip_nonfinite` is true on rank 2, expected false as on rank 0",
        ];
        for (other, text) in others.iter().zip(texts) {
            let all = [&default, &default, other].map(|options| message(&[1.0], options)).concat();
            assert_eq!(merge(&all).unwrap_err().to_string(), text);
        }
    }

    /// A failure comes before everything else, and its text is cut between characters.
    #[test]
    fn failures_are_named() {
        let good = message(&[1.0], &StepOptions::default());
        let text = format!("{}ü", "a".repeat(REASON_BYTES - 1));
        let failed = failed_step(&text);
        assert_eq!(failed.len(), good.len());
        let error = merge(&[good, failed].concat()).unwrap_err();
        let reason = "a".repeat(REASON_BYTES - 1);
        assert_eq!(error, Error::OtherProcess { rank: 1, reason });
    }
}
