// From C++: handles in smart pointers. Many threads take steps at the same time. All results are
// bit-identical, and each thread has its own error messages.

#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

struct Free {
  void operator()(FusedAdamRule *rule) const { fused_adam_rule_free(rule); }
  void operator()(FusedAdamOptimizer *opt) const { fused_adam_optimizer_free(opt); }
};

using Rule = std::unique_ptr<FusedAdamRule, Free>;
using Optimizer = std::unique_ptr<FusedAdamOptimizer, Free>;

Rule make_rule(const char *name) {
  FusedAdamRule *rule = nullptr;
  OK(fused_adam_rule_new(name, &rule));
  return Rule(rule);
}

// Large enough for several threads.
constexpr std::size_t LEN = 300000;

std::vector<float> train(const FusedAdamRule *rule, const std::string &name) {
  FusedAdamOptimizer *made = nullptr;
  OK(fused_adam_optimizer_new(rule, &made));
  Optimizer opt(made);
  std::vector<float> theta(LEN, 0.5f), grad(LEN);
  std::size_t param = 0;
  OK(fused_adam_optimizer_add(opt.get(), 0, name.c_str(), LEN, FUSED_ADAM_TYPE_F32,
                              FUSED_ADAM_TYPE_F32, FUSED_ADAM_TYPE_F32, &param));
  FusedAdamTensor tensor{};
  tensor.param = param;
  tensor.len = LEN;
  tensor.theta = theta.data();
  tensor.grad = grad.data();
  for (int t = 0; t < 5; t++) {
    for (std::size_t i = 0; i < LEN; i++) grad[i] = theta[i] - static_cast<float>(i % 13) / 16;
    OK(fused_adam_optimizer_step(opt.get(), &tensor, 1, nullptr));
    // This call fails. Its message belongs to this thread.
    tensor.param = 1000;
    CHECK(fused_adam_optimizer_step(opt.get(), &tensor, 1, nullptr) == FUSED_ADAM_STATUS_UNKNOWN);
    tensor.param = param;
    FusedAdamRule *none = nullptr;
    CHECK(fused_adam_rule_new(name.c_str(), &none) == FUSED_ADAM_STATUS_UNKNOWN && none == nullptr);
    std::this_thread::yield();
    CHECK(std::strstr(fused_adam_last_error(), ("`" + name + "`").c_str()) != nullptr);
  }
  return theta;
}

}  // namespace

int main() {
  Rule rule = make_rule("adam");
  CHECK(*fused_adam_last_error() == '\0');
  const std::vector<float> alone = train(rule.get(), "alone");
  std::vector<std::vector<float>> results(4);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < results.size(); i++) {
    threads.emplace_back([&, i] {
      CHECK(*fused_adam_last_error() == '\0');
      // Change the number of threads while other threads take steps.
      OK(fused_adam_set_threads(i));
      results[i] = train(rule.get(), "thread " + std::to_string(i));
    });
  }
  for (std::thread &thread : threads) thread.join();
  for (const std::vector<float> &result : results) {
    CHECK(std::memcmp(result.data(), alone.data(), LEN * sizeof(float)) == 0);
  }
  OK(fused_adam_set_threads(0));
  std::printf("%zu threads are bit-identical, each with its own error messages\n", results.size());
}
