// Functions of kernomics._cuda: each takes a dict of its kernel's parameters, the address of the
// scratch and the stream.
#pragma once

#include "bindings.h"
#include "cuda/kernels.h"

namespace kernomics {

struct CudaCall {
  void* scratch;
  CudaStream cuda_stream;
  KN_FIELDS(scratch, cuda_stream)
};

struct NoScratch {};  // of a kernel that takes none

// Defines a kernel of parameters that choose(named, body) makes: it calls body with a struct of the
// type that the call names. `run` takes the scratch only if there is a function of the parameters,
// defined as `name`_scratch, that tells how many bytes it wants.
template <typename Choose, typename Run, typename Scratch>
void define_chosen(py::module_& m, const char* name, Choose choose, Run run, Scratch scratch) {
  constexpr bool has_scratch = !std::is_same_v<Scratch, NoScratch>;
  if constexpr (has_scratch)
    m.def((std::string(name) + "_scratch").c_str(), [=](const py::dict& given) {
      Named named(name, given);
      return choose(named, [&](auto params) -> size_t {
        named.fill(params);
        return scratch(params);
      });
    });
  m.def(name, [=](const py::dict& given) {
    Named named(name, given);
    choose(named, [&](auto params) {
      CudaCall call{};
      named.fill(params, call);
      py::gil_scoped_release release;
      if constexpr (has_scratch)
        run(params, call.scratch, call.cuda_stream);
      else
        run(params, call.cuda_stream);
    });
  });
}

// A kernel of one type.
template <typename Params, typename Run, typename Scratch = NoScratch>
void define_kernel(py::module_& m, const char* name, Run run, Scratch scratch = {}) {
  const auto choose = [](const Named&, auto body) { return body(Params{}); };
  define_chosen(m, name, choose, run, scratch);
}

// A kernel for each type that the parameter `kind` may name.
template <template <typename> class Params, typename... Types, typename Run,
          typename Scratch = NoScratch>
void define_kernel_of(py::module_& m, const char* name, const char* kind, Run run,
                      Scratch scratch = {}) {
  const auto choose = [=](const Named& named, auto body) {
    return with_kind<Types...>(named, kind, named.kind(kind),
                               [&](auto zero) { return body(Params<decltype(zero)>{}); });
  };
  define_chosen(m, name, choose, run, scratch);
}

}  // namespace kernomics
