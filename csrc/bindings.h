// How a call's parameters get from Python into the struct that a kernel takes: a dict, read field
// by field by the names that the struct gives (common/fields.h). A name that is missing, one that
// is none of the struct's, and a value of another type than the field's raise TypeError.
// Addresses are integers; 0 is a null pointer.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "common/fields.h"

namespace kernomics {

namespace py = pybind11;

template <typename Params, typename = void>
struct HasFields : std::false_type {};
template <typename Params>
struct HasFields<Params, std::void_t<decltype(Params::kNames)>> : std::true_type {};

// The names of a struct's fields, interned: looking one up compares addresses.
template <typename Params>
const std::vector<PyObject*>& names_of() {
  static const std::vector<PyObject*> names = [] {
    std::vector<PyObject*> found;
    std::istringstream list(Params::kNames);
    for (std::string name; std::getline(list >> std::ws, name, ',');) {
      found.push_back(PyUnicode_InternFromString(name.c_str()));
      if (found.back() == nullptr) throw py::error_already_set();
    }
    return found;
  }();
  return names;
}

// What a call was given, by name.
class Named {
 public:
  Named(const char* function, const py::dict& given) : function_(function), given_(given.ptr()) {}

  // Fills the structs, which together have each name exactly once.
  template <typename... Params>
  void fill(Params&... params) {
    (read(params), ...);
    if (used_ == PyDict_Size(given_)) return;
    PyObject *key, *value;
    for (Py_ssize_t place = 0; PyDict_Next(given_, &place, &key, &value) != 0;)
      if (!(knows(params, key) || ...)) fail(key, "is not one of its parameters");
  }

  // A ScalarKind, ahead of the struct that it chooses.
  int kind(const char* name) const {
    int kind = -1;
    convert(py::str(name).ptr(), value_of(py::str(name).ptr()), kind);
    return kind;
  }

  [[noreturn]] void fail(PyObject* name, const std::string& what) const {
    PyErr_Clear();
    throw py::type_error(std::string(function_) + ": " + std::string(py::repr(name)) + " " + what);
  }

 private:
  template <typename Params>
  void read(Params& params) {
    PyObject* const* name = names_of<Params>().data();
    params.visit_fields([&](auto&... field) { (read_field(*name++, field), ...); });
  }

  template <typename Field>
  void read_field(PyObject* name, Field& field) {
    if constexpr (HasFields<Field>::value) {
      read(field);
    } else {
      convert(name, value_of(name), field);
      ++used_;
    }
  }

  PyObject* value_of(PyObject* name) const {
    PyObject* value = PyDict_GetItemWithError(given_, name);
    if (value == nullptr) fail(name, "is missing");
    return value;
  }

  template <typename Field>
  void convert(PyObject* name, PyObject* value, Field& field) const {
    constexpr bool truth = std::is_same_v<Field, bool>, real = std::is_same_v<Field, double>;
    const bool fits = truth  ? PyBool_Check(value)
                      : real ? PyFloat_Check(value)
                             : PyLong_CheckExact(value);
    if (!fits)
      fail(name, "is of type " + std::string(Py_TYPE(value)->tp_name) + "; " +
                     (truth  ? "bool"
                      : real ? "float"
                             : "int") +
                     " is needed");
    if constexpr (truth) {
      field = value == Py_True;
    } else if constexpr (real) {
      field = PyFloat_AS_DOUBLE(value);
    } else if constexpr (std::is_pointer_v<Field>) {
      field = static_cast<Field>(PyLong_AsVoidPtr(value));
      if (field == nullptr && PyErr_Occurred() != nullptr) fail(name, "is no address");
    } else {
      const int64_t number = PyLong_AsLongLong(value);
      const bool failed = number == -1 && PyErr_Occurred() != nullptr;
      field = static_cast<Field>(number);
      if (failed || static_cast<int64_t>(field) != number) fail(name, "is out of range");
    }
  }

  template <typename Params>
  static bool knows(Params& params, PyObject* key) {
    bool found = false;
    PyObject* const* name = names_of<Params>().data();
    const auto look = [&](auto& field) {
      if constexpr (HasFields<std::decay_t<decltype(field)>>::value)
        found = knows(field, key) || found;
      else
        found = PyObject_RichCompareBool(key, *name, Py_EQ) == 1 || found;
      ++name;
    };
    params.visit_fields([&](auto&... field) { (look(field), ...); });
    return found;
  }

  const char* function_;
  PyObject* given_;
  Py_ssize_t used_ = 0;
};

// Calls body(T()) with the one of the types whose kind the call names in a field.
template <typename T, typename... Rest, typename Body>
auto with_kind(const Named& named, const char* field, int kind, Body body) {
  if (kind == kKindOf<T>) return body(T());
  if constexpr (sizeof...(Rest) > 0)
    return with_kind<Rest...>(named, field, kind, body);
  else
    named.fail(py::str(field).ptr(), "is no kind of number that the kernel knows");
}

}  // namespace kernomics
