// recoup's gateway over TLS, with a token and a deadline on every call.

#ifndef GATEWAY_H_
#define GATEWAY_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include <grpcpp/grpcpp.h>

#include "google/rpc/status.pb.h"
#include "recoup/v1/refund_service.grpc.pb.h"
#include "recoup/v1/validation_status_service.grpc.pb.h"

// An error that a call ended with, with its details as google.rpc.Status carries them.
class CallError : public std::runtime_error {
 public:
  explicit CallError(const grpc::Status& status);

  grpc::StatusCode code() const { return code_; }

  // The detail of this type, where the error has one.
  template <typename Detail>
  std::optional<Detail> detail() const {
    for (const auto& any : status_.details()) {
      if (Detail detail; any.UnpackTo(&detail)) return detail;
    }
    return std::nullopt;
  }

  // Whether the error leaves open what became of the refund, or passes by itself. Only an error with
  // an ErrorInfo says that the call recorded nothing.
  bool is_unanswered() const;

 private:
  grpc::StatusCode code_;
  google::rpc::Status status_;
};

class Gateway {
 public:
  struct Settings {
    std::string server;
    std::string ca_certificates;
    std::string token;
    std::string service_config;
  };

  explicit Gateway(const Settings& settings);

  recoup::v1::CreateRefundResponse CreateRefund(const std::string& account, const std::string& order,
                                                const std::string& refund_id);

  // Returns when the refund has changed, or shortly before the deadline.
  recoup::v1::Refund WaitRefund(const recoup::v1::Refund& seen);

  recoup::v1::ValidationStatus GetValidationStatus(const std::string& account, const std::string& order);

  // Reads the events of the ledger after the sequence, until the deadline or until `handle` returns
  // false.
  void StreamEvents(std::int64_t after_sequence, std::chrono::seconds deadline,
                    const std::function<bool(const recoup::v1::RefundEvent&)>& handle);

 private:
  std::unique_ptr<recoup::v1::RefundService::Stub> refunds_;
  std::unique_ptr<recoup::v1::ValidationStatusService::Stub> validation_;
};

#endif  // GATEWAY_H_
