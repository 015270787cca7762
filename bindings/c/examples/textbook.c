#include "textbook.h"

#include <math.h>

void textbook_adamw_f32(size_t len, float *restrict theta, const float *restrict grad,
                        float *restrict m, float *restrict v, uint64_t t, double lr, double beta1,
                        double beta2, double eps, double weight_decay) {
  const float b1 = (float)beta1, b2 = (float)beta2;
  const float correction1 = (float)(1 - pow(beta1, (double)t)),
              correction2 = (float)(1 - pow(beta2, (double)t));
  for (size_t i = 0; i < len; i++) {
    m[i] = b1 * m[i] + (1 - b1) * grad[i];
    v[i] = b2 * v[i] + (1 - b2) * grad[i] * grad[i];
    const float m_hat = m[i] / correction1, v_hat = v[i] / correction2;
    theta[i] -= (float)lr * (m_hat / (sqrtf(v_hat) + (float)eps) + (float)weight_decay * theta[i]);
  }
}

void textbook_adamw_f64(size_t len, double *restrict theta, const double *restrict grad,
                        double *restrict m, double *restrict v, uint64_t t, double lr, double beta1,
                        double beta2, double eps, double weight_decay) {
  const double correction1 = 1 - pow(beta1, (double)t), correction2 = 1 - pow(beta2, (double)t);
  for (size_t i = 0; i < len; i++) {
    m[i] = beta1 * m[i] + (1 - beta1) * grad[i];
    v[i] = beta2 * v[i] + (1 - beta2) * grad[i] * grad[i];
    const double m_hat = m[i] / correction1, v_hat = v[i] / correction2;
    theta[i] -= lr * (m_hat / (sqrt(v_hat) + eps) + weight_decay * theta[i]);
  }
}
