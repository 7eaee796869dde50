// Switches between stacks: by hand on x86-64, where swapcontext would make two system calls each
// time, and with it elsewhere.
#pragma once

#include <cstddef>

#ifdef __x86_64__

#include <cstdint>

namespace emulated {

struct Context {
  void* stack;
};

// Keeps the registers that a function must keep, and the stack.
extern "C" void emulated_switch(void** from, void* to);
asm(R"(
.text
.local emulated_switch
.type emulated_switch, @function
emulated_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulated_switch, .-emulated_switch
)");

inline void switch_context(Context& from, const Context& to) {
  emulated_switch(&from.stack, to.stack);
}

// The context calls `run`, which must not return; `end` is the stack's upper end.
inline void make_context(Context& context, char* end, size_t, void (*run)()) {
  auto* stack = reinterpret_cast<uintptr_t*>(end) - 8;
  for (int i = 0; i < 6; ++i) stack[i] = 0;
  stack[6] = reinterpret_cast<uintptr_t>(run);
  stack[7] = 0;  // where run would return to; the stack is then as after a call
  context.stack = stack;
}

}  // namespace emulated

#else

#include <ucontext.h>

namespace emulated {

using Context = ucontext_t;

inline void switch_context(Context& from, const Context& to) { swapcontext(&from, &to); }

inline void make_context(Context& context, char* end, size_t bytes, void (*run)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = end - bytes;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  makecontext(&context, run, 0);
}

}  // namespace emulated

#endif
