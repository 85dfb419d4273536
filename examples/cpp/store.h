// What must survive a crash of this program: which refund belongs to which order, and how far the
// event stream has been read. A shop keeps both in its database.

#ifndef STORE_H_
#define STORE_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

class Store {
 public:
  explicit Store(std::filesystem::path path);

  // The order's refund id. A new one is on disk before it is returned.
  std::string RefundId(const std::string& order);

  std::int64_t last_sequence() const { return last_sequence_; }
  // Not on disk before Save.
  void set_last_sequence(std::int64_t sequence) { last_sequence_ = sequence; }
  void Save() const;

 private:
  std::filesystem::path path_;
  std::map<std::string, std::string> refunds_;
  std::int64_t last_sequence_ = 0;
};

#endif  // STORE_H_
