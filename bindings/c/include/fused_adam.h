/* fused-adam for C and C++: optimizer steps of the Adam family in one fused pass.
 *
 * Functions return a FusedAdamStatus, 0 if all went well; fused_adam_last_error() then says what is
 * wrong. Everything is checked before anything is written. Link with `pkg-config --libs fused-adam`.
 *
 * Made by cbindgen from the comments of the Rust source, and not to be edited.
 * SPDX-License-Identifier: MIT OR Apache-2.0 */

#ifndef FUSED_ADAM_H
#define FUSED_ADAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * The first number of the version of this header.
 */
#define FUSED_ADAM_VERSION_MAJOR 0

/**
 * The second number of the version of this header.
 */
#define FUSED_ADAM_VERSION_MINOR 1

/**
 * The third number of the version of this header.
 */
#define FUSED_ADAM_VERSION_PATCH 0

/**
 * What a function returns. Everything but FUSED_ADAM_STATUS_OK means that nothing has been
 * changed, unless the function says otherwise; fused_adam_last_error() has the details.
 *
 * Later versions may return codes that are not listed here.
 */
enum FusedAdamStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It was done.
   */
  FUSED_ADAM_STATUS_OK = 0,
  /**
   * A pointer is NULL that may not be.
   */
  FUSED_ADAM_STATUS_NULL = 1,
  /**
   * A buffer is too long for memory, or not as long as another one, or as its parameter.
   */
  FUSED_ADAM_STATUS_LENGTH = 2,
  /**
   * A buffer's address is not a multiple of its elements' size.
   */
  FUSED_ADAM_STATUS_MISALIGNED = 3,
  /**
   * A buffer that is written shares memory with another buffer.
   */
  FUSED_ADAM_STATUS_OVERLAP = 4,
  /**
   * There is nothing of this name or number: the message lists what there is.
   */
  FUSED_ADAM_STATUS_UNKNOWN = 5,
  /**
   * A hyper-parameter, an option or a step number is outside its range.
   */
  FUSED_ADAM_STATUS_VALUE = 6,
  /**
   * An element type is not one of FusedAdamType, or does not go with the others.
   */
  FUSED_ADAM_STATUS_TYPE = 7,
  /**
   * There are more states or scalars than the rule keeps, or fewer.
   */
  FUSED_ADAM_STATUS_STATES = 8,
  /**
   * There is a parameter of this name already, or one was given twice in a step.
   */
  FUSED_ADAM_STATUS_DUPLICATE = 9,
  /**
   * This CPU cannot run the backend.
   */
  FUSED_ADAM_STATUS_BACKEND = 10,
  /**
   * The norm of the gradients is infinite or NaN and was to be clipped.
   */
  FUSED_ADAM_STATUS_NONFINITE = 11,
  /**
   * A name is not UTF-8.
   */
  FUSED_ADAM_STATUS_TEXT = 12,
  /**
   * A file could not be read or written.
   */
  FUSED_ADAM_STATUS_IO = 13,
  /**
   * A file is not a checkpoint, or not one of this optimizer.
   */
  FUSED_ADAM_STATUS_CHECKPOINT = 14,
  /**
   * The threads could not be started.
   */
  FUSED_ADAM_STATUS_THREADS = 15,
  /**
   * A fault in this library. The buffers of this call may have been written in part, and the
   * handle that it was called on is to be freed.
   */
  FUSED_ADAM_STATUS_PANIC = 16,
  /**
   * What this version has no other code for.
   */
  FUSED_ADAM_STATUS_OTHER = 17,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum FusedAdamStatus FusedAdamStatus;
#else
typedef int32_t FusedAdamStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What the elements of a buffer are. Functions take it as an int32_t, since any number can come in.
 */
enum FusedAdamType
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * float. It is 0, so what is not said is float.
   */
  FUSED_ADAM_TYPE_F32 = 0,
  /**
   * double. It goes with double alone; the three others go together in any mixture.
   */
  FUSED_ADAM_TYPE_F64 = 1,
  /**
   * bfloat16, the upper half of a float, in a uint16_t.
   */
  FUSED_ADAM_TYPE_BF16 = 2,
  /**
   * IEEE 754 half precision, in a uint16_t.
   */
  FUSED_ADAM_TYPE_F16 = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum FusedAdamType FusedAdamType;
#else
typedef int32_t FusedAdamType;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The states of many tensors, and what is done to their gradients before a step: made by
 * fused_adam_optimizer_new, freed by fused_adam_optimizer_free.
 *
 * Parameters are registered by name, in groups that each have a rule of their own. A state is made
 * when its parameter has its first gradient. One thread at a time may use an optimizer; any number
 * of them may be used at once.
 */
typedef struct FusedAdamOptimizer FusedAdamOptimizer;

/**
 * What is done to the gradients of a step, and how it runs: made by fused_adam_options_new, freed
 * by fused_adam_options_free. Where functions take it, NULL stands for the defaults.
 *
 * One thread at a time may change it; while none does, any number may use it.
 */
typedef struct FusedAdamOptions FusedAdamOptions;

/**
 * A rule with its hyper-parameters, such as AdamW: made by fused_adam_rule_new, freed by
 * fused_adam_rule_free.
 *
 * One thread at a time may change it; while none does, any number may use it.
 */
typedef struct FusedAdamRule FusedAdamRule;

/**
 * A tensor that is kept in a checkpoint beside the optimizer's states.
 */
typedef struct FusedAdamKept {
  /**
   * What it is called in the file.
   */
  const char *name;
  /**
   * Its elements: they are read when it is saved, and written when it is loaded.
   */
  void *values;
  /**
   * How many there are.
   */
  size_t len;
  /**
   * Their FusedAdamType.
   */
  int32_t element_type;
} FusedAdamKept;

/**
 * A loss scale that follows the gradients: it grows while they are finite and shrinks when one is
 * not, in which case that step is skipped.
 */
typedef struct FusedAdamLossScale {
  /**
   * What the loss of the next step is to be multiplied with. 65536 is a usual first value.
   */
  double scale;
  /**
   * What it is multiplied with after growth_interval finite steps in a row: 2 as a rule, 1 for one that stays.
   */
  double growth_factor;
  /**
   * What it is multiplied with after a step that was not finite: 0.5 as a rule, 1 for one that stays.
   */
  double backoff_factor;
  /**
   * 2000 as a rule, and at least 1.
   */
  uint64_t growth_interval;
  /**
   * Finite steps since the scale changed last: 0 at first.
   */
  uint64_t finite_steps;
} FusedAdamLossScale;

/**
 * One tensor in a step of fused_adam_step_all, with states that the caller keeps. To be set to zero
 * before its members are: 0 and NULL stand for "not used", and for float.
 */
typedef struct FusedAdamLent {
  /**
   * Which of the rules of the call it is stepped by.
   */
  size_t rule;
  /**
   * The number of its step, from 1 on.
   */
  uint64_t t;
  /**
   * How many elements each of its buffers has.
   */
  size_t len;
  /**
   * The parameters, which are updated.
   */
  void *theta;
  /**
   * Their gradient, which is read.
   */
  const void *grad;
  /**
   * An array of state_count pointers, to the states that fused_adam_rule_state_name names, in
   * that order. They are updated.
   */
  void *const *states;
  /**
   * How many states there are.
   */
  size_t state_count;
  /**
   * An array of scalar_count numbers: the scalars that fused_adam_rule_scalar_name names, as
   * they are after this step, which fused_adam_rule_advance_scalars makes of those before it.
   * They are read. NULL for what fused_adam_rule_scalar_after says, which is right where the
   * hyper-parameters have been the present ones in all steps.
   */
  const double *scalars;
  /**
   * How many scalars there are.
   */
  size_t scalar_count;
  /**
   * Where the new theta, if it is float, is stored a second time in 16 bits, rounded to the
   * nearest; or NULL.
   */
  void *copy;
  /**
   * What its random bits are drawn from, together with the seed of the options.
   */
  uint64_t seed;
  /**
   * If it is a part of a tensor, the shard of one machine, say: which element of the whole is its first one.
   * It concerns stochastic rounding alone, whose random bits belong to the whole.
   */
  uint64_t offset;
  /**
   * The FusedAdamType of theta.
   */
  int32_t theta_type;
  /**
   * The FusedAdamType of grad.
   */
  int32_t grad_type;
  /**
   * The FusedAdamType of all states.
   */
  int32_t state_type;
  /**
   * The FusedAdamType of copy, if there is one: one of the two of 16 bits.
   */
  int32_t copy_type;
} FusedAdamLent;

/**
 * What a step did.
 */
typedef struct FusedAdamReport {
  /**
   * The norm of all gradients, scaled but not clipped: the largest |g| with "clip_norm_inf", else
   * the root of the sum of the squares. The same on every machine and number of threads. 0 if
   * has_grad_norm is false.
   */
  double grad_norm;
  /**
   * What the gradients were multiplied with to clip their norm: 1 if they were not.
   */
  double clip_factor;
  /**
   * The largest change of an element of theta. 0 if has_largest_update is false.
   */
  double largest_update;
  /**
   * How many gradients were infinite or NaN. 0 if has_grad_norm is false.
   */
  uint64_t nonfinite;
  /**
   * Whether the gradients were looked at: for "clip_norm", "clip_norm_inf", "skip_nonfinite",
   * "report_norm", or a loss scale.
   */
  bool has_grad_norm;
  /**
   * Whether "report_largest_update" asked for it.
   */
  bool has_largest_update;
  /**
   * That no step was taken, since a gradient was infinite or NaN.
   */
  bool skipped;
} FusedAdamReport;

/**
 * One parameter in one step of an optimizer. To be set to zero before its members are: 0 and NULL
 * stand for "not used".
 */
typedef struct FusedAdamTensor {
  /**
   * The number that fused_adam_optimizer_add gave.
   */
  size_t param;
  /**
   * How many elements its buffers have: as many as were registered.
   */
  size_t len;
  /**
   * The parameters, which are updated, of the type that was registered.
   */
  void *theta;
  /**
   * Their gradient, of the type that was registered. It is read, and written only with
   * zero_grad.
   */
  const void *grad;
  /**
   * Where the new theta, if it is float, is stored a second time in 16 bits, rounded to the
   * nearest; or NULL.
   */
  void *copy;
  /**
   * The FusedAdamType of copy, if there is one: one of the two of 16 bits.
   */
  int32_t copy_type;
  /**
   * 1 to have the gradient set to zero in the same pass, in a step that is skipped too; else 0.
   */
  int32_t zero_grad;
} FusedAdamTensor;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Saves an optimizer, and other tensors with it, to a safetensors file: the states of all parameters,
 * their step numbers, the rules of all groups, and the loss scale. The options are not in it.
 *
 * The file is written beside the old one, brought to the disk, and takes its place: a crash leaves
 * the old file or the new one.
 *
 * - path: the file.
 * - kept: an array of kept_count tensors to be kept in the same file, such as the parameters
 *   themselves, by names of their own. NULL if there are none.
 *
 * Returns FUSED_ADAM_STATUS_IO if it cannot be written, FUSED_ADAM_STATUS_CHECKPOINT if it could
 * not be loaded again: two tensors of one name, or rules that were changed and do not fit;
 * FUSED_ADAM_STATUS_NULL, FUSED_ADAM_STATUS_TEXT, FUSED_ADAM_STATUS_TYPE, FUSED_ADAM_STATUS_LENGTH and
 * FUSED_ADAM_STATUS_MISALIGNED.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread changes. Texts end with a NUL, and each other
 * pointer points to what is said of it, which no other thread changes during the call.
 */
FusedAdamStatus fused_adam_optimizer_save(const struct FusedAdamOptimizer *opt,
                                          const char *path,
                                          const struct FusedAdamKept *kept,
                                          size_t kept_count);

/**
 * Loads what fused_adam_optimizer_save has saved. The optimizer goes on from there to the bit: the
 * states and step numbers of its parameters, the rules of its groups, the number of its steps and its loss scale become
 * those of the file. Its parameters and groups must be those that were saved, of the same types;
 * its options stay.
 *
 * - path: the file. It is not trusted: every length in it is checked.
 * - kept: an array of kept_count tensors to be read from the same file, of the type and length that they have
 *   in it. NULL if there are none. The file may have more of them.
 *
 * Nothing has changed after an error. Returns FUSED_ADAM_STATUS_IO, FUSED_ADAM_STATUS_CHECKPOINT if the
 * file is not a checkpoint, not whole, or one of something else, FUSED_ADAM_STATUS_OVERLAP, and what
 * fused_adam_optimizer_save does.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread uses. Texts end with a NUL, and each other
 * pointer points to what is said of it, which no other thread uses during the call.
 */
FusedAdamStatus fused_adam_optimizer_load(struct FusedAdamOptimizer *opt,
                                          const char *path,
                                          const struct FusedAdamKept *kept,
                                          size_t kept_count);

/**
 * Makes an optimizer with no parameters yet and one group, number 0, of a copy of this rule.
 *
 * - out: where the new handle is put, for fused_adam_optimizer_free to free; NULL after an error.
 *
 * Returns FUSED_ADAM_STATUS_VALUE for a hyper-parameter outside its range, and
 * FUSED_ADAM_STATUS_NULL. Any thread may call it.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes; `out` is NULL or may be written.
 */
FusedAdamStatus fused_adam_optimizer_new(const struct FusedAdamRule *rule,
                                         struct FusedAdamOptimizer **out);

/**
 * Frees an optimizer and its states. NULL is fine.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that is not used any more.
 */
void fused_adam_optimizer_free(struct FusedAdamOptimizer *opt);

/**
 * Adds a group, whose parameters have a copy of this rule. Its number is put at `group`.
 *
 * Returns FUSED_ADAM_STATUS_VALUE for a hyper-parameter outside its range, and
 * FUSED_ADAM_STATUS_NULL.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread uses; `rule` is NULL or a rule that no other
 * thread changes; `group` is NULL or may be written.
 */
FusedAdamStatus fused_adam_optimizer_add_group(struct FusedAdamOptimizer *opt,
                                               const struct FusedAdamRule *rule,
                                               size_t *group);

/**
 * Registers a parameter. Its number, from 0 on, is put at `param`.
 *
 * - group: 0, or what fused_adam_optimizer_add_group gave.
 * - name: another one than those before; it is what checkpoints know it by.
 * - len: how many elements it has.
 * - theta_type, grad_type, state_type: the FusedAdamType of the parameter, of its gradients, and of
 *   the states that are kept for it. FUSED_ADAM_TYPE_F64 is for all three or for none.
 *
 * Returns FUSED_ADAM_STATUS_UNKNOWN for a group that is not there, FUSED_ADAM_STATUS_DUPLICATE for a
 * name that is, FUSED_ADAM_STATUS_TYPE, FUSED_ADAM_STATUS_LENGTH for more than memory can hold,
 * FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread uses; `name` is NULL or ends with a NUL; `param`
 * is NULL or may be written.
 */
FusedAdamStatus fused_adam_optimizer_add(struct FusedAdamOptimizer *opt,
                                         size_t group,
                                         const char *name,
                                         size_t len,
                                         int32_t theta_type,
                                         int32_t grad_type,
                                         int32_t state_type,
                                         size_t *param);

/**
 * Puts the number of the parameter of this name at `param`.
 *
 * Returns FUSED_ADAM_STATUS_UNKNOWN if there is none, FUSED_ADAM_STATUS_NULL and
 * FUSED_ADAM_STATUS_TEXT.
 *
 * # Safety
 *
 * As for fused_adam_optimizer_add.
 */
FusedAdamStatus fused_adam_optimizer_find(const struct FusedAdamOptimizer *opt,
                                          const char *name,
                                          size_t *param);

/**
 * Changes a hyper-parameter of a group's rule, as fused_adam_rule_set does: the "lr" of a schedule,
 * say. It holds from the next step on, which is refused if the rule then keeps other states than before.
 *
 * Returns FUSED_ADAM_STATUS_UNKNOWN for a group or a hyper-parameter that is not there, and else what
 * fused_adam_rule_set does.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread uses; `name` is NULL or ends with a NUL.
 */
FusedAdamStatus fused_adam_optimizer_set(struct FusedAdamOptimizer *opt,
                                         size_t group,
                                         const char *name,
                                         double value);

/**
 * Puts a hyper-parameter of a group's rule at `value`, as fused_adam_rule_get does.
 *
 * Returns FUSED_ADAM_STATUS_UNKNOWN for a group or a hyper-parameter that is not there, and else what
 * fused_adam_rule_get does.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread uses; `name` is NULL or ends with a NUL; `value`
 * is NULL or may be written.
 */
FusedAdamStatus fused_adam_optimizer_get(const struct FusedAdamOptimizer *opt,
                                         size_t group,
                                         const char *name,
                                         double *value);

/**
 * Has later steps do what these options say; NULL for the defaults. The optimizer keeps a copy.
 *
 * Returns FUSED_ADAM_STATUS_NULL if `opt` is NULL.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread uses; `options` is NULL or options that no
 * other thread changes.
 */
FusedAdamStatus fused_adam_optimizer_set_options(struct FusedAdamOptimizer *opt,
                                                 const struct FusedAdamOptions *options);

/**
 * Has gradients be those of a loss that is multiplied with a scale, by which later steps divide
 * them; NULL for none, as at first. A step whose gradients are not all finite is then skipped.
 *
 * The fields are checked in each step. Returns FUSED_ADAM_STATUS_NULL if `opt` is NULL.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread uses; `loss_scale` is NULL or may be read.
 */
FusedAdamStatus fused_adam_optimizer_set_loss_scale(struct FusedAdamOptimizer *opt,
                                                    const struct FusedAdamLossScale *loss_scale);

/**
 * What the loss of the next step is to be multiplied with: 1 without a loss scale, and for NULL.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread changes.
 */
double fused_adam_optimizer_loss_scale(const struct FusedAdamOptimizer *opt);

/**
 * The steps that an optimizer has taken; those that were skipped do not count. 0 for NULL.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread changes.
 */
uint64_t fused_adam_optimizer_steps(const struct FusedAdamOptimizer *opt);

/**
 * The steps that a parameter has taken. 0 if there is none of this number, with
 * FUSED_ADAM_STATUS_UNKNOWN as fused_adam_last_status, and for NULL.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread changes.
 */
uint64_t fused_adam_optimizer_t(const struct FusedAdamOptimizer *opt, size_t param);

/**
 * Puts the address of a parameter's state of this name, such as "m", at `state`: as many elements as
 * the parameter has, of the type that was registered for its states, to be read until the optimizer's
 * next call that is not const. NULL, which is not an error, before the parameter's first step.
 *
 * Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such parameter, or its rule keeps no such state,
 * with a message that lists them; FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread changes; `name` is NULL or ends with a NUL;
 * `state` is NULL or may be written.
 */
FusedAdamStatus fused_adam_optimizer_state(const struct FusedAdamOptimizer *opt,
                                           size_t param,
                                           const char *name,
                                           const void **state);

/**
 * Makes options that are all at their defaults.
 *
 * - out: where the new handle is put, for fused_adam_options_free to free.
 *
 * Returns FUSED_ADAM_STATUS_NULL for a NULL. Any thread may call it.
 *
 * # Safety
 *
 * `out` is NULL or may be written.
 */
FusedAdamStatus fused_adam_options_new(struct FusedAdamOptions **out);

/**
 * Frees options. NULL is fine. Optimizers have their own copies.
 *
 * # Safety
 *
 * `options` is NULL or options that are not used any more.
 */
void fused_adam_options_free(struct FusedAdamOptions *options);

/**
 * Changes an option:
 *
 * - "grad_scale": what every gradient is multiplied with before all else, such as one over a loss
 *   scale. Default 1.
 * - "clip_norm": scales all gradients down together where the root of the sum of their squares is
 *   larger than this. INFINITY, the default, for no bound.
 * - "clip_norm_inf": the same for the largest |g|. The one of the two that is set last holds.
 * - "clip_value": holds every gradient within plus and minus this, after it has been scaled.
 *   INFINITY, the default, for no bound.
 * - "skip_nonfinite": 1 to take no step if a gradient is infinite or NaN. Default 0.
 * - "report_norm": 1 to report the norm of the gradients also where nothing else needs it, which reads
 *   them once more. Default 0.
 * - "report_largest_update": 1 to report it; this takes longer. Default 0.
 *
 * Ranges are checked in each step.
 *
 * Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such option, with a message that lists them;
 * FUSED_ADAM_STATUS_VALUE for a truth value that is not 0 or 1; FUSED_ADAM_STATUS_NULL and
 * FUSED_ADAM_STATUS_TEXT.
 *
 * # Safety
 *
 * `options` is NULL or options that no other thread uses; `name` is NULL or ends with a NUL.
 */
FusedAdamStatus fused_adam_options_set(struct FusedAdamOptions *options,
                                       const char *name,
                                       double value);

/**
 * Chooses how many elements are computed at once, and with which instructions: "auto", which is the
 * default and the fastest, "scalar", "wide", "native", "avx2", "avx512" or "neon". The results
 * are the same to the bit.
 *
 * Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such backend, with a message that lists them;
 * FUSED_ADAM_STATUS_BACKEND if this CPU cannot run it; FUSED_ADAM_STATUS_NULL and
 * FUSED_ADAM_STATUS_TEXT.
 *
 * # Safety
 *
 * `options` is NULL or options that no other thread uses; `name` is NULL or ends with a NUL.
 */
FusedAdamStatus fused_adam_options_set_backend(struct FusedAdamOptions *options, const char *name);

/**
 * Says how a step is cut for its threads: into pieces of about so many elements, however short the
 * buffers. 0, the default, leaves it to the library, and SIZE_MAX keeps the step on the calling
 * thread. The results are the same to the bit.
 *
 * Returns FUSED_ADAM_STATUS_NULL for a NULL.
 *
 * # Safety
 *
 * `options` is NULL or options that no other thread uses.
 */
FusedAdamStatus fused_adam_options_set_chunk(struct FusedAdamOptions *options, size_t elements);

/**
 * Has what is stored in 16 bits rounded to the nearest number, ties to even. It is the default.
 *
 * Returns FUSED_ADAM_STATUS_NULL for a NULL.
 *
 * # Safety
 *
 * `options` is NULL or options that no other thread uses.
 */
FusedAdamStatus fused_adam_options_round_to_nearest(struct FusedAdamOptions *options);

/**
 * Has what is stored in 16 bits rounded up or down by chance, so that it is right on average. The
 * chance depends on the seed, the number of the step, the parameter and the element, and on nothing else.
 *
 * Returns FUSED_ADAM_STATUS_NULL for a NULL.
 *
 * # Safety
 *
 * `options` is NULL or options that no other thread uses.
 */
FusedAdamStatus fused_adam_options_round_stochastically(struct FusedAdamOptions *options,
                                                        uint64_t seed);

/**
 * The backend that runs when the one of this name is asked for, with "auto" and "native" looked
 * up: "avx512", say. NULL, which is not an error, if this CPU cannot run it.
 *
 * Returns a text that is valid for ever. Also NULL for a name that is none, with
 * FUSED_ADAM_STATUS_UNKNOWN as fused_adam_last_status, and for NULL. Any thread may call it.
 *
 * # Safety
 *
 * `name` is NULL or ends with a NUL.
 */
const char *fused_adam_backend_resolved(const char *name);

/**
 * The name of rule number `i` of those that there are, from 0 on, such as "adamw"; NULL, which is
 * not an error, when there are no more.
 *
 * Returns a text that is valid for ever. Any thread may call it.
 */
const char *fused_adam_rule_name_at(size_t i);

/**
 * Makes the rule of this name, such as "adamw", with its defaults. fused_adam_rule_name_at lists
 * the names.
 *
 * - out: where the new handle is put, for fused_adam_rule_free to free; NULL after an error.
 *
 * Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such rule, with a message that lists them;
 * FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT. Any thread may call it.
 *
 * # Safety
 *
 * `name` is NULL or ends with a NUL; `out` is NULL or may be written.
 */
FusedAdamStatus fused_adam_rule_new(const char *name, struct FusedAdamRule **out);

/**
 * Makes a copy of a rule, for fused_adam_rule_free to free.
 *
 * Returns FUSED_ADAM_STATUS_NULL for a NULL.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes; `out` is NULL or may be written.
 */
FusedAdamStatus fused_adam_rule_clone(const struct FusedAdamRule *rule, struct FusedAdamRule **out);

/**
 * Frees a rule. NULL is fine. Optimizers have their own copies.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that is not used any more.
 */
void fused_adam_rule_free(struct FusedAdamRule *rule);

/**
 * Changes a hyper-parameter of a rule: "lr", "beta1", "weight_decay" and so on, by the name of
 * the field in the documentation of the Rust crate. Truth values such as "amsgrad" are 0 or 1, and
 * those that count, such as a number of steps, are whole numbers from 0 to 2^53.
 *
 * Whether all of them go together is checked in each step, or by fused_adam_rule_check.
 *
 * Returns FUSED_ADAM_STATUS_UNKNOWN if the rule has no such hyper-parameter, with a message that
 * lists them; FUSED_ADAM_STATUS_VALUE if the value is not finite, not 0 or 1 for a truth value, or
 * not whole for a number that counts; FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread uses; `name` is NULL or ends with a NUL.
 */
FusedAdamStatus fused_adam_rule_set(struct FusedAdamRule *rule, const char *name, double value);

/**
 * Puts a hyper-parameter of a rule at `value`; a truth value is 0 or 1.
 *
 * Returns FUSED_ADAM_STATUS_UNKNOWN if the rule has no such hyper-parameter, with a message that
 * lists them; FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes; `name` is NULL or ends with a NUL; `value` is
 * NULL or may be written.
 */
FusedAdamStatus fused_adam_rule_get(const struct FusedAdamRule *rule,
                                    const char *name,
                                    double *value);

/**
 * Checks that all hyper-parameters of a rule are in their ranges and go together, as each step
 * does.
 *
 * Returns FUSED_ADAM_STATUS_VALUE with a message that names the first one that is not, and
 * FUSED_ADAM_STATUS_NULL.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes.
 */
FusedAdamStatus fused_adam_rule_check(const struct FusedAdamRule *rule);

/**
 * The name of a rule, such as "adamw"; NULL for NULL.
 *
 * Returns a text that is valid for ever.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes.
 */
const char *fused_adam_rule_name(const struct FusedAdamRule *rule);

/**
 * The name of hyper-parameter number `i` of a rule, from 0 on, in alphabetical order; NULL, which
 * is not an error, when there are no more.
 *
 * Returns a text that is valid for ever; NULL for a NULL too.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes.
 */
const char *fused_adam_rule_parameter_name(const struct FusedAdamRule *rule, size_t i);

/**
 * How many states a rule keeps for each parameter with the hyper-parameters that it has: from none
 * for plain "sgd" to 3 for "adamw" with "amsgrad". 0 for NULL.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes.
 */
size_t fused_adam_rule_state_count(const struct FusedAdamRule *rule);

/**
 * The name of state number `i` of a rule, from 0 on, such as "m" or "v": in this order they are handed
 * to a step. NULL, which is not an error, when there are no more.
 *
 * Returns a text that is valid for ever; NULL for a NULL too.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes.
 */
const char *fused_adam_rule_state_name(const struct FusedAdamRule *rule,
                                       size_t i);

/**
 * What the elements of state number `i` are before the first step: 0, but for "adagrad" with an
 * "initial_accumulator_value". 0 for NULL.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes.
 */
double fused_adam_rule_initial_state(const struct FusedAdamRule *rule, size_t i);

/**
 * How many scalars a rule keeps for each parameter beside its states: numbers that do not follow
 * from the number of the step, such as the product of the momenta of all steps, which a schedule
 * may change. 0 for most rules, and for NULL.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes.
 */
size_t fused_adam_rule_scalar_count(const struct FusedAdamRule *rule);

/**
 * The name of scalar number `i` of a rule, from 0 on, such as "mu_product": in this order they are
 * handed to a step. NULL, which is not an error, when there are no more.
 *
 * Returns a text that is valid for ever; NULL for a NULL too.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes.
 */
const char *fused_adam_rule_scalar_name(const struct FusedAdamRule *rule, size_t i);

/**
 * What scalar number `i` of a rule is after `t` steps that all had its present hyper-parameters:
 * with 0, what it is before the first step. 0 if there is no such scalar, and for NULL.
 *
 * Also 0 if a hyper-parameter is outside its range, with FUSED_ADAM_STATUS_VALUE as
 * fused_adam_last_status.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes.
 */
double fused_adam_rule_scalar_after(const struct FusedAdamRule *rule, size_t i, uint64_t t);

/**
 * Turns the scalars of a parameter as they were after step `t` - 1 into those after step `t`,
 * which fused_adam_step_all takes in FusedAdamLent. It is to be called with the hyper-parameters
 * of that step.
 *
 * - scalars: an array of count numbers, which are changed in place. Before the first step they are
 *   what fused_adam_rule_scalar_after says of step 0.
 *
 * Returns FUSED_ADAM_STATUS_STATES if they are not as many as the rule keeps,
 * FUSED_ADAM_STATUS_VALUE for a hyper-parameter outside its range or if `t` is 0,
 * FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_MISALIGNED.
 *
 * # Safety
 *
 * `rule` is NULL or a rule that no other thread changes; `scalars` is NULL or points to `count`
 * numbers that no other thread uses.
 */
FusedAdamStatus fused_adam_rule_advance_scalars(const struct FusedAdamRule *rule,
                                                uint64_t t,
                                                double *scalars,
                                                size_t count);

/**
 * What went wrong in the last call of this thread that failed: it names the argument, its value,
 * and what was expected.
 *
 * Returns a text that is valid until the next call of this thread that fails, or until the
 * thread ends; an empty one if none has failed. A call that succeeds does not change it. Each
 * thread has its own.
 */
const char *fused_adam_last_error(void);

/**
 * The code of the last call of this thread that failed: FUSED_ADAM_STATUS_OK if none has. For
 * functions that return something else than a code.
 *
 * Each thread has its own.
 */
FusedAdamStatus fused_adam_last_status(void);

/**
 * The name of a code, such as "overlap"; "unknown code" for a number that is none.
 *
 * Returns a text that is valid for ever. Any thread may call it.
 */
const char *fused_adam_status_name(int32_t status);

/**
 * Takes a step on many tensors, in one parallel region, with states that the caller keeps. The
 * results are to the bit those of a step on each tensor alone; a norm that is clipped is that of all
 * gradients together.
 *
 * - rules: an array of rule_count rules. A tensor says by number which one is its own.
 * - tensors: an array of tensor_count structures.
 * - options: what else is asked for; NULL for the defaults.
 * - report: where to write what was done; NULL if nobody wants to know.
 *
 * Buffers may be of any length, the empty ones NULL; they are aligned to their elements and
 * share no memory, but gradients, which are only read, may share it with each other.
 *
 * Everything is checked before anything is written; nothing has changed after an error, which
 * names a tensor by its number. Returns FUSED_ADAM_STATUS_NULL, FUSED_ADAM_STATUS_LENGTH,
 * FUSED_ADAM_STATUS_MISALIGNED, FUSED_ADAM_STATUS_OVERLAP, FUSED_ADAM_STATUS_UNKNOWN for a rule that is not there,
 * FUSED_ADAM_STATUS_VALUE for hyper-parameters, options or step numbers outside their ranges,
 * FUSED_ADAM_STATUS_TYPE for types that do not go together, FUSED_ADAM_STATUS_STATES for more or
 * fewer states or scalars than the rule keeps, and FUSED_ADAM_STATUS_NONFINITE.
 *
 * Any number of threads may call it, each on buffers of its own.
 *
 * # Safety
 *
 * Each pointer that is not NULL points to what is said of it, for as many elements as are said; no
 * other thread writes any of it during the call, nor reads what the call writes.
 */
FusedAdamStatus fused_adam_step_all(const struct FusedAdamRule *const *rules,
                                    size_t rule_count,
                                    const struct FusedAdamLent *tensors,
                                    size_t tensor_count,
                                    const struct FusedAdamOptions *options,
                                    struct FusedAdamReport *report);

/**
 * Takes step number `t`, from 1 on, of a rule on buffers of float whose states the caller keeps.
 *
 * - len: how many elements each buffer has. With 0 they may be NULL.
 * - theta: the parameters, which are updated.
 * - grad: their gradient, which is read.
 * - states: an array of state_count pointers, to the states that fused_adam_rule_state_name names, in
 *   that order. They are updated; before the first step they are what
 *   fused_adam_rule_initial_state says, which is 0 as a rule.
 * - options: what else is asked for; NULL for the defaults.
 * - report: where to write what was done; NULL if nobody wants to know.
 *
 * Scalars of the rule, if it keeps any, are those that fused_adam_rule_scalar_after gives:
 * fused_adam_step_all takes others.
 *
 * Errors, what the buffers must be, and threads: as for fused_adam_step_all.
 *
 * # Safety
 *
 * As for fused_adam_step_all.
 */
FusedAdamStatus fused_adam_step_f32(const struct FusedAdamRule *rule,
                                    uint64_t t,
                                    size_t len,
                                    float *theta,
                                    const float *grad,
                                    float *const *states,
                                    size_t state_count,
                                    const struct FusedAdamOptions *options,
                                    struct FusedAdamReport *report);

/**
 * The same as fused_adam_step_f32, on buffers of double, and computed in double.
 *
 * # Safety
 *
 * As for fused_adam_step_all.
 */
FusedAdamStatus fused_adam_step_f64(const struct FusedAdamRule *rule,
                                    uint64_t t,
                                    size_t len,
                                    double *theta,
                                    const double *grad,
                                    double *const *states,
                                    size_t state_count,
                                    const struct FusedAdamOptions *options,
                                    struct FusedAdamReport *report);

/**
 * The same as fused_adam_step_f32, on buffers that hold the bits of bfloat16. It is computed in
 * float, and rounded as the options say. Use fused_adam_step_all for states in float.
 *
 * # Safety
 *
 * As for fused_adam_step_all.
 */
FusedAdamStatus fused_adam_step_bf16(const struct FusedAdamRule *rule,
                                     uint64_t t,
                                     size_t len,
                                     uint16_t *theta,
                                     const uint16_t *grad,
                                     uint16_t *const *states,
                                     size_t state_count,
                                     const struct FusedAdamOptions *options,
                                     struct FusedAdamReport *report);

/**
 * The same as fused_adam_step_bf16, on buffers that hold the bits of IEEE 754 half precision.
 *
 * # Safety
 *
 * As for fused_adam_step_all.
 */
FusedAdamStatus fused_adam_step_f16(const struct FusedAdamRule *rule,
                                    uint64_t t,
                                    size_t len,
                                    uint16_t *theta,
                                    const uint16_t *grad,
                                    uint16_t *const *states,
                                    size_t state_count,
                                    const struct FusedAdamOptions *options,
                                    struct FusedAdamReport *report);

/**
 * Takes a step on the parameters that are handed in, in any order, in one parallel region. The others
 * stay as they are, with their states and step numbers.
 *
 * - tensors: an array of tensor_count structures.
 * - report: where to write what was done; NULL if nobody wants to know.
 *
 * Everything is checked before anything is written. Returns FUSED_ADAM_STATUS_UNKNOWN for a
 * parameter that is not there, FUSED_ADAM_STATUS_DUPLICATE for one that is given twice,
 * FUSED_ADAM_STATUS_LENGTH for a length that is not its own, and what fused_adam_step_all does.
 *
 * # Safety
 *
 * `opt` is NULL or an optimizer that no other thread uses. Each other pointer that is not NULL points to
 * what is said of it, for as many elements as are said; no other thread writes any of it during
 * the call, nor reads what the call writes.
 */
FusedAdamStatus fused_adam_optimizer_step(struct FusedAdamOptimizer *opt,
                                          const struct FusedAdamTensor *tensors,
                                          size_t tensor_count,
                                          struct FusedAdamReport *report);

/**
 * Chooses the threads that later steps run on, for the whole program. The results are the same
 * to the bit whatever is chosen.
 *
 * - 0: one for each processor, or as many as the environment variable RAYON_NUM_THREADS says. They
 *   start with the first long step, and stay. This is how it is at first.
 * - 1: the calling thread alone.
 * - up to 1024: a pool of so many threads, which start at once. The pool before it ends when no step
 *   runs on it any more.
 *
 * Steps on less than 1 MiB of theta run on the calling thread in any case, unless
 * fused_adam_options_set_chunk says otherwise.
 *
 * In a process that has been forked the threads of the parent are missing, and a long step would
 * wait for them for ever: there, call this with another number than 0 before the first step.
 *
 * Returns FUSED_ADAM_STATUS_THREADS if there are to be more than 1024, or if the system does not let them start; then
 * all is as before. Any thread may call it, while steps run too.
 */
FusedAdamStatus fused_adam_set_threads(size_t threads);

/**
 * How many threads a long step runs on. Where that is one for each processor, this starts them.
 *
 * Any thread may call it.
 */
size_t fused_adam_threads(void);

/**
 * The version of the library that the program runs with, such as "0.1.0".
 *
 * Returns a text that is valid for ever. Any thread may call it.
 */
const char *fused_adam_version(void);

/**
 * The version of the library that the program runs with, in one number: a million times the first
 * one, a thousand times the second, and the third. It is to be compared with
 * FUSED_ADAM_VERSION_MAJOR and so on, which are those of the header.
 *
 * Any thread may call it.
 */
uint32_t fused_adam_version_number(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FUSED_ADAM_H */
