/* A textbook loop of AdamW, one element at a time. The library is compared with it. */

#ifndef TEXTBOOK_H
#define TEXTBOOK_H

#include <stddef.h>
#include <stdint.h>

void textbook_adamw_f32(size_t len, float *theta, const float *grad, float *m, float *v, uint64_t t,
                        double lr, double beta1, double beta2, double eps, double weight_decay);

void textbook_adamw_f64(size_t len, double *theta, const double *grad, double *m, double *v,
                        uint64_t t, double lr, double beta1, double beta2, double eps,
                        double weight_decay);

#endif
