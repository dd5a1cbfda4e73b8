#include "inputs.h"

namespace doge::ort {
namespace {

std::string written(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

bool fits(const Shape& given, const Shape& wanted) {
  if (given.size() != wanted.size()) return false;
  for (size_t i = 0; i < wanted.size(); i++) {
    if (wanted[i] != -1 && wanted[i] != given[i]) return false;
  }
  return true;
}

}  // namespace

Error refused(const std::string& reason) { return {INVALID_ARGUMENT, reason}; }

void check(bool holds, const char* rule) {
  if (!holds) throw refused(rule);
}

void* Inputs::next(const char* name, Type type, const Shape& shape, Shape* found) {
  if (index_ >= count_) throw refused(std::string(name) + " is missing");
  const Value* value = api_.input(context_, index_++);
  Shape given;
  int given_type = api_.type(value, given);
  if (given_type != type) {
    throw refused(std::string(name) + " has element type " + std::to_string(given_type) + "; it must be " +
                  std::to_string(type));
  }
  if (!fits(given, shape)) {
    throw refused(std::string(name) + " has shape " + written(given) + "; it must be " + written(shape));
  }
  if (found != nullptr) *found = given;
  return api_.data(value);
}

int Inputs::next_type() const {
  Shape shape;
  return index_ < count_ ? api_.type(api_.input(context_, index_), shape) : (int)ANY;
}

void Inputs::end(size_t behind) const {
  if (index_ + behind > count_) throw refused(std::to_string(index_ + behind - count_) + " inputs are missing");
  if (index_ + behind < count_) throw refused(std::to_string(count_ - behind - index_) + " inputs too many");
}

}  // namespace doge::ort
