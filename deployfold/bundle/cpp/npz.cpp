#include "npz.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace {

constexpr uint32_t kLocalFile = 0x04034b50, kDirectory = 0x02014b50, kEnd = 0x06054b50;
constexpr uint32_t kInZip64 = 0xffffffff;  // the real number is in the extra field

/// Reads numbers and strings from the bytes of a file, and never past their end.
class Bytes {
 public:
  explicit Bytes(const std::vector<char>& all) : all_(all) {}

  template <typename T>
  T number(size_t at) const {
    T found;
    std::memcpy(&found, span(at, sizeof found), sizeof found);
    return found;
  }
  std::string text(size_t at, size_t length) const { return {span(at, length), length}; }
  const char* span(size_t at, size_t length) const {
    if (at > all_.size() || length > all_.size() - at)
      throw std::runtime_error("the .npz file is cut short");
    return all_.data() + at;
  }
  size_t size() const { return all_.size(); }

 private:
  const std::vector<char>& all_;
};

size_t find_end(const Bytes& file) {
  for (size_t back = 22; back <= file.size(); ++back)
    if (file.number<uint32_t>(file.size() - back) == kEnd) return file.size() - back;
  throw std::runtime_error("the reference is not an .npz file");
}

std::string header_value(const std::string& header, const std::string& key) {
  const size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) throw std::runtime_error("an .npy header has no " + key);
  return header.substr(header.find(':', at) + 1);
}

Array read_npy(const Bytes& file, size_t at, size_t length) {
  if (file.text(at, 6) != "\x93NUMPY") throw std::runtime_error("a member is not an .npy file");
  const bool first_version = *file.span(at + 6, 1) == 1;
  const size_t head = first_version ? file.number<uint16_t>(at + 8) : file.number<uint32_t>(at + 8);
  const size_t start = at + (first_version ? 10 : 12);
  const std::string header = file.text(start, head);
  if (header_value(header, "fortran_order").compare(0, 6, " False") != 0)
    throw std::runtime_error("an array is in Fortran order");
  Array array;
  const std::string descr = header_value(header, "descr");
  const size_t quote = descr.find('\'');
  array.dtype = descr.substr(quote + 1, descr.find('\'', quote + 1) - quote - 1);
  std::string shape = header_value(header, "shape");
  shape = shape.substr(shape.find('(') + 1, shape.find(')') - shape.find('(') - 1);
  for (size_t next = 0; next < shape.size();) {
    const size_t comma = std::min(shape.find(',', next), shape.size());
    const std::string axis = shape.substr(next, comma - next);
    if (axis.find_first_of("0123456789") != std::string::npos)
      array.shape.push_back(std::stoll(axis));
    next = comma + 1;
  }
  const size_t bytes = at + length - (start + head);
  const char* data = file.span(start + head, bytes);
  array.data.assign(data, data + bytes);
  return array;
}

}  // namespace

std::map<std::string, Array> read_npz(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot read " + path);
  const std::vector<char> content{std::istreambuf_iterator<char>(stream), {}};
  const Bytes file(content);
  const size_t end = find_end(file);
  size_t at = file.number<uint32_t>(end + 16);
  std::map<std::string, Array> found;
  for (int left = file.number<uint16_t>(end + 10); left > 0; --left) {
    if (file.number<uint32_t>(at) != kDirectory)
      throw std::runtime_error("the directory of the .npz file is damaged");
    if (file.number<uint16_t>(at + 10) != 0)
      throw std::runtime_error("the .npz file is compressed; write it with numpy.savez");
    const size_t name = file.number<uint16_t>(at + 28), extra = file.number<uint16_t>(at + 30);
    const std::string member = file.text(at + 46, name);
    size_t length = file.number<uint32_t>(at + 24), local = file.number<uint32_t>(at + 42);
    if (length == kInZip64 || local == kInZip64)
      throw std::runtime_error("an array has more than 4 GB");
    if (file.number<uint32_t>(local) != kLocalFile)
      throw std::runtime_error("a member of the .npz file is damaged");
    const size_t data =
        local + 30 + file.number<uint16_t>(local + 26) + file.number<uint16_t>(local + 28);
    found[member.substr(0, member.rfind(".npy"))] = read_npy(file, data, length);
    at += 46 + name + extra + file.number<uint16_t>(at + 32);
  }
  return found;
}
