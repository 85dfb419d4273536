#include "store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <iomanip>
#include <random>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace fs = std::filesystem;

namespace {

// A random UUID (version 4).
std::string NewUuid() {
  std::random_device random;
  std::ostringstream uuid;
  uuid << std::hex << std::setfill('0');
  for (int i = 0; i < 16; ++i) {
    unsigned byte = random() & 0xff;
    if (i == 6) byte = (byte & 0x0f) | 0x40;
    if (i == 8) byte = (byte & 0x3f) | 0x80;
    if (i == 4 || i == 6 || i == 8 || i == 10) uuid << '-';
    uuid << std::setw(2) << byte;
  }
  return uuid.str();
}

[[noreturn]] void ThrowErrno(const fs::path& path) {
  throw std::system_error(errno, std::generic_category(), path.string());
}

class FileDescriptor {
 public:
  FileDescriptor(const fs::path& path, int flags) : fd_(open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    if (fd_ < 0) ThrowErrno(path);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { close(fd_); }

  int get() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace

// One refund a line, "ORDER REFUND_ID", below a line with the last sequence.
Store::Store(fs::path path) : path_(std::move(path)) {
  if (!fs::exists(path_)) return;
  std::ifstream file(path_);
  if (!(file >> last_sequence_)) throw std::runtime_error(path_.string() + " is not a store");
  for (std::string order, refund_id; file >> order >> refund_id;) refunds_[order] = refund_id;
}

std::string Store::RefundId(const std::string& order) {
  const auto [entry, is_new] = refunds_.try_emplace(order);
  if (is_new) {
    entry->second = NewUuid();
    Save();
  }
  return entry->second;
}

// A new file replaces the old one at once, so that a crash leaves one of the two.
void Store::Save() const {
  std::ostringstream lines;
  lines << last_sequence_ << '\n';
  for (const auto& [order, refund_id] : refunds_) lines << order << ' ' << refund_id << '\n';
  const std::string content = lines.str();

  const fs::path next = path_.string() + ".new";
  {
    const FileDescriptor file(next, O_WRONLY | O_CREAT | O_TRUNC);
    const ssize_t written = write(file.get(), content.data(), content.size());
    if (written != static_cast<ssize_t>(content.size()) || fsync(file.get()) != 0) ThrowErrno(next);
  }
  fs::rename(next, path_);
  const fs::path folder = fs::absolute(path_).parent_path();
  if (fsync(FileDescriptor(folder, O_RDONLY | O_DIRECTORY).get()) != 0) ThrowErrno(folder);
}
