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

// A kernel without scratch.
template <typename Params>
void define_kernel(py::module_& m, const char* name, void (*run)(const Params&, CudaStream)) {
  m.def(name, [=](const py::dict& given) {
    Params params{};
    CudaCall call{};
    Named(name, given).fill(params, call);
    py::gil_scoped_release release;
    run(params, call.cuda_stream);
  });
}

// A kernel without scratch for each type that the parameter `kind` may name.
template <template <typename> class Params, typename... Types, typename Run>
void define_kernel_of(py::module_& m, const char* name, const char* kind, Run run) {
  m.def(name, [=](const py::dict& given) {
    Named named(name, given);
    with_kind<Types...>(named, kind, named.kind(kind), [&](auto zero) {
      Params<decltype(zero)> params{};
      CudaCall call{};
      named.fill(params, call);
      py::gil_scoped_release release;
      run(params, call.cuda_stream);
    });
  });
}

// A kernel for each type that the parameter `kind` may name, and `name`_scratch, which tells how
// many bytes of scratch it wants.
template <template <typename> class Params, typename... Types, typename Scratch, typename Run>
void define_kernel_of(py::module_& m, const char* name, const char* kind, Scratch scratch,
                      Run run) {
  m.def((std::string(name) + "_scratch").c_str(), [=](const py::dict& given) {
    Named named(name, given);
    return with_kind<Types...>(named, kind, named.kind(kind), [&](auto zero) -> size_t {
      Params<decltype(zero)> params{};
      named.fill(params);
      return scratch(params);
    });
  });
  m.def(name, [=](const py::dict& given) {
    Named named(name, given);
    with_kind<Types...>(named, kind, named.kind(kind), [&](auto zero) {
      Params<decltype(zero)> params{};
      CudaCall call{};
      named.fill(params, call);
      py::gil_scoped_release release;
      run(params, call.scratch, call.cuda_stream);
    });
  });
}

// The same of one type.
template <typename Params>
void define_kernel(py::module_& m, const char* name, size_t (*scratch)(const Params&),
                   void (*run)(const Params&, void* scratch, CudaStream)) {
  m.def((std::string(name) + "_scratch").c_str(), [=](const py::dict& given) {
    Params params{};
    Named(name, given).fill(params);
    return scratch(params);
  });
  m.def(name, [=](const py::dict& given) {
    Params params{};
    CudaCall call{};
    Named(name, given).fill(params, call);
    py::gil_scoped_release release;
    run(params, call.scratch, call.cuda_stream);
  });
}

}  // namespace kernomics
