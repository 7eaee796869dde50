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

// A kernel, and `name`_scratch, which tells how many bytes of scratch it wants.
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
