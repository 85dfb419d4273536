#include "gateway.h"

#include "google/rpc/error_details.pb.h"

using recoup::v1::CreateRefundRequest;
using recoup::v1::CreateRefundResponse;
using recoup::v1::GetValidationStatusRequest;
using recoup::v1::GetValidationStatusResponse;
using recoup::v1::Refund;
using recoup::v1::RefundEvent;
using recoup::v1::RefundService;
using recoup::v1::StreamRefundEventsRequest;
using recoup::v1::StreamRefundEventsResponse;
using recoup::v1::ValidationStatus;
using recoup::v1::ValidationStatusService;
using recoup::v1::WaitRefundRequest;
using recoup::v1::WaitRefundResponse;

namespace {

// The gateway answers shortly before it, with the refund as it then is.
constexpr std::chrono::seconds kDeadline{30};

class BearerToken : public grpc::MetadataCredentialsPlugin {
 public:
  explicit BearerToken(const std::string& token) : authorization_("Bearer " + token) {}

  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<std::string, std::string>* metadata) override {
    metadata->emplace("authorization", authorization_);
    return grpc::Status::OK;
  }

 private:
  const std::string authorization_;
};

void SetDeadline(grpc::ClientContext& context, std::chrono::seconds deadline) {
  context.set_deadline(std::chrono::system_clock::now() + deadline);
}

void ThrowUnlessOk(const grpc::Status& status) {
  if (!status.ok()) throw CallError(status);
}

}  // namespace

CallError::CallError(const grpc::Status& status)
    : std::runtime_error(status.error_message()), code_(status.error_code()) {
  status_.ParseFromString(status.error_details());
}

bool CallError::is_unanswered() const {
  return code_ == grpc::StatusCode::UNAVAILABLE || code_ == grpc::StatusCode::DEADLINE_EXCEEDED ||
         !detail<google::rpc::ErrorInfo>();
}

Gateway::Gateway(const Settings& settings) {
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = settings.ca_certificates;
  const auto token = grpc::MetadataCredentialsFromPlugin(std::make_unique<BearerToken>(settings.token));
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(settings.service_config);
  const auto channel = grpc::CreateCustomChannel(
      settings.server, grpc::CompositeChannelCredentials(grpc::SslCredentials(tls), token), arguments);
  refunds_ = RefundService::NewStub(channel);
  validation_ = ValidationStatusService::NewStub(channel);
}

CreateRefundResponse Gateway::CreateRefund(const std::string& account, const std::string& order,
                                           const std::string& refund_id) {
  CreateRefundRequest request;
  request.set_refund_id(refund_id);
  request.set_account(account);
  request.mutable_sectigo()->set_order_number(order);
  request.mutable_sectigo()->set_reason(recoup::v1::SECTIGO_REFUND_REASON_OTHER);
  grpc::ClientContext context;
  SetDeadline(context, kDeadline);
  CreateRefundResponse response;
  ThrowUnlessOk(refunds_->CreateRefund(&context, request, &response));
  return response;
}

Refund Gateway::WaitRefund(const Refund& seen) {
  WaitRefundRequest request;
  request.set_name(seen.name());
  request.set_after_revision(seen.revision());
  grpc::ClientContext context;
  SetDeadline(context, kDeadline);
  WaitRefundResponse response;
  ThrowUnlessOk(refunds_->WaitRefund(&context, request, &response));
  return response.refund();
}

ValidationStatus Gateway::GetValidationStatus(const std::string& account, const std::string& order) {
  GetValidationStatusRequest request;
  request.set_account(account);
  request.set_order_number(order);
  grpc::ClientContext context;
  SetDeadline(context, kDeadline);
  GetValidationStatusResponse response;
  ThrowUnlessOk(validation_->GetValidationStatus(&context, request, &response));
  return response.validation_status();
}

void Gateway::StreamEvents(std::int64_t after_sequence, std::chrono::seconds deadline,
                           const std::function<bool(const RefundEvent&)>& handle) {
  StreamRefundEventsRequest request;
  request.set_after_sequence(after_sequence);
  grpc::ClientContext context;
  SetDeadline(context, deadline);
  const auto reader = refunds_->StreamRefundEvents(&context, request);
  for (StreamRefundEventsResponse response; reader->Read(&response);) {
    if (!handle(response.event())) {
      context.TryCancel();
      reader->Finish();
      return;
    }
  }
  const grpc::Status status = reader->Finish();
  if (status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) ThrowUnlessOk(status);
}
