// Adds the Poisson losses' kernels to kernomics._cuda.
#pragma once

#include <pybind11/pybind11.h>

namespace kernomics {

void define_poisson(pybind11::module_& m);

}  // namespace kernomics
