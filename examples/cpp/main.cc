// Refunds a Sectigo order through recoup. Run again with the same arguments it sends nothing, and
// shows the same refund.
//
// Exit status: 0 the money moved, 4 it did not, 5 undecided (run it again), 1 refused, 2 wrong usage.

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "gateway.h"
#include "google/rpc/error_details.pb.h"
#include "store.h"

using recoup::v1::Refund;
using recoup::v1::RefundEvent;
using std::chrono::seconds;
using std::chrono::steady_clock;

namespace {

enum ExitStatus { kMoved = 0, kRefused = 1, kWrongUsage = 2, kNotMoved = 4, kUndecided = 5 };

// How long to go on asking before the program leaves the refund to its next run.
constexpr seconds kPatience{120};
constexpr seconds kPause{2};

struct WrongUsage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string Setting(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) throw WrongUsage(name + " is not set");
  return value;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + " could not be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string Trimmed(const std::string& text) {
  const auto end = text.find_last_not_of(" \r\n");
  return text.substr(0, end == std::string::npos ? 0 : end + 1);
}

bool IsTerminal(const Refund& refund) {
  switch (refund.state()) {
    case Refund::STATE_SUCCEEDED:
    case Refund::STATE_PARTIALLY_SUCCEEDED:
    case Refund::STATE_FAILED:
    case Refund::STATE_CANCELLED:
      return true;
    default:
      return false;
  }
}

bool NeedsPerson(const Refund& refund) {
  return refund.state() == Refund::STATE_NEEDS_REVIEW || refund.state() == Refund::STATE_AWAITING_APPROVAL;
}

std::string WithoutPrefix(const std::string& name, const std::string& prefix) {
  return name.rfind(prefix, 0) == 0 ? name.substr(prefix.size()) : name;
}

// Creates the refund and waits until it is decided or needs a person. After a call without an answer
// it asks again, always under the same id. Nothing: patience has run out.
std::optional<Refund> RefundUntilDecided(Gateway& gateway, const std::string& account,
                                         const std::string& order, const std::string& refund_id) {
  const auto give_up = steady_clock::now() + kPatience;
  std::optional<Refund> refund;
  while (steady_clock::now() < give_up) {
    try {
      refund = refund ? gateway.WaitRefund(*refund) : gateway.CreateRefund(account, order, refund_id).refund();
      if (IsTerminal(*refund) || NeedsPerson(*refund)) return refund;
    } catch (const CallError& error) {
      if (!error.is_unanswered()) throw;
      std::cerr << "no answer about " << refund_id << " (" << error.what() << "): asking again\n";
      std::this_thread::sleep_for(kPause);
    }
  }
  return std::nullopt;
}

// Asks for another order under the same id, which is refused, and prints why.
void ShowRefusal(Gateway& gateway, const std::string& account, const std::string& refund_id) {
  try {
    gateway.CreateRefund(account, "another-order", refund_id);
  } catch (const CallError& error) {
    const auto info = error.detail<google::rpc::ErrorInfo>();
    if (!info) throw;
    std::vector<std::string> fields;
    if (const auto differing = info->metadata().find("differing_fields"); differing != info->metadata().end()) {
      fields.push_back(differing->second);
    }
    if (const auto request = error.detail<google::rpc::BadRequest>()) {
      for (const auto& violation : request->field_violations()) fields.push_back(violation.field());
    }
    std::cout << "refused " << info->reason();
    for (std::size_t i = 0; i < fields.size(); ++i) std::cout << (i == 0 ? ' ' : ',') << fields[i];
    std::cout << '\n';
    return;
  }
  throw std::runtime_error("another order was taken under the id " + refund_id);
}

// The refund's events after the store's last sequence, up to its latest revision.
std::vector<RefundEvent> ReadEvents(Gateway& gateway, Store& store, const Refund& refund, seconds deadline) {
  std::vector<RefundEvent> seen;
  gateway.StreamEvents(store.last_sequence(), deadline, [&](const RefundEvent& event) {
    if (event.sequence() <= store.last_sequence()) {
      throw std::runtime_error("event " + std::to_string(event.sequence()) + " came twice");
    }
    store.set_last_sequence(event.sequence());
    if (event.refund() != refund.name()) return true;
    std::cerr << std::setw(6) << event.sequence() << ' ' << event.note() << '\n';
    seen.push_back(event);
    return event.revision() < refund.revision();
  });
  // Only now: after a crash, what was read since the last time comes again.
  store.Save();
  return seen;
}

// Prints the refund's events that the store has not seen, then opens the stream once more where it
// ended, as a program does after a restart.
void FollowEvents(Gateway& gateway, Store& store, const Refund& refund) {
  const auto seen = ReadEvents(gateway, store, refund, seconds(5));
  std::cout << "events " << seen.size();
  if (!seen.empty()) std::cout << ' ' << seen.front().sequence() << ".." << seen.back().sequence();
  std::cout << '\n';
  const auto after = store.last_sequence();
  ReadEvents(gateway, store, refund, seconds(1));
  std::cout << "resumed after " << after << '\n';
}

ExitStatus Run(const std::string& account, const std::string& order, const std::string& path) {
  Gateway gateway({Setting("RECOUP_SERVER"), ReadFile(Setting("RECOUP_CA_FILE")),
                   Trimmed(ReadFile(Setting("RECOUP_TOKEN_FILE"))), ReadFile(SERVICE_CONFIG)});
  Store store(path);
  const std::string refund_id = store.RefundId(order);

  const auto refund = RefundUntilDecided(gateway, account, order, refund_id);
  if (!refund) {
    std::cerr << "refund " << refund_id << " is undecided: run the same command again\n";
    return kUndecided;
  }
  std::cout << "created " << refund_id << ' ' << WithoutPrefix(Refund::State_Name(refund->state()), "STATE_") << ' '
            << WithoutPrefix(Refund::MoneyVerdict_Name(refund->money_verdict()), "MONEY_VERDICT_") << '\n';
  if (NeedsPerson(*refund)) {
    std::cerr << "refund " << refund_id << " waits for a person: run it again when they have decided\n";
    return kUndecided;
  }

  const auto again = gateway.CreateRefund(account, order, refund_id);
  std::cout << "replayed " << refund_id << ' ' << std::boolalpha << again.replayed() << '\n';
  ShowRefusal(gateway, account, refund_id);
  FollowEvents(gateway, store, *refund);
  std::cout << "validation " << gateway.GetValidationStatus(account, order).order_status_text() << '\n';

  switch (refund->money_verdict()) {
    case Refund::MONEY_VERDICT_MOVED:
      return kMoved;
    case Refund::MONEY_VERDICT_NOT_MOVED:
      return kNotMoved;
    default:
      return kUndecided;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: recoup-example ACCOUNT ORDER STORE\n";
    return kWrongUsage;
  }
  try {
    return Run(argv[1], argv[2], argv[3]);
  } catch (const WrongUsage& error) {
    std::cerr << error.what() << '\n';
    return kWrongUsage;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return kRefused;
  }
}
