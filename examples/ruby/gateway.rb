# frozen_string_literal: true

$LOAD_PATH.unshift(File.expand_path('generated', __dir__))

require 'google/protobuf/well_known_types'
require 'google/rpc/error_details_pb'
require 'google/rpc/status_pb'
require 'grpc'
require 'recoup/v1/refund_service_services_pb'
require 'recoup/v1/validation_status_service_services_pb'

# recoup's gateway over TLS, with a token and a deadline on every call.
class Gateway
  include Recoup::V1

  SETTINGS = %w[RECOUP_SERVER RECOUP_CA_FILE RECOUP_TOKEN_FILE].freeze

  # In seconds. The gateway answers shortly before it, with the refund as it then is.
  DEADLINE = 30

  def initialize
    server, ca_file, token_file = ENV.values_at(*SETTINGS)
    authorization = "Bearer #{File.read(token_file).strip}"
    token = GRPC::Core::CallCredentials.new(->(_context) { { authorization: authorization } })
    credentials = GRPC::Core::ChannelCredentials.new(File.read(ca_file)).compose(token)
    options = {
      timeout: DEADLINE,
      channel_args: { 'grpc.service_config' => File.read(File.expand_path('../service_config.json', __dir__)) }
    }
    @refunds = RefundService::Stub.new(server, credentials, **options)
    @validation = ValidationStatusService::Stub.new(server, credentials, **options)
  end

  def create_refund(account, order, refund_id)
    target = SectigoTarget.new(order_number: order, reason: :SECTIGO_REFUND_REASON_OTHER)
    @refunds.create_refund(CreateRefundRequest.new(refund_id: refund_id, account: account, sectigo: target))
  end

  # Returns when the refund has changed, or shortly before the deadline.
  def wait_refund(seen)
    @refunds.wait_refund(WaitRefundRequest.new(name: seen.name, after_revision: seen.revision))
  end

  def validation_status(account, order)
    request = GetValidationStatusRequest.new(account: account, order_number: order)
    @validation.get_validation_status(request).validation_status
  end

  # Yields the events of the ledger after the sequence, until the deadline or until the block breaks.
  def each_event(after:, deadline:)
    request = StreamRefundEventsRequest.new(after_sequence: after)
    call = @refunds.stream_refund_events(request, deadline: Time.now + deadline, return_op: true)
    call.execute.each { |response| yield response.event }
  rescue GRPC::DeadlineExceeded
    nil
  ensure
    call&.cancel
  end

  # Whether the error leaves open what became of the refund, or passes by itself. Only an error with
  # an ErrorInfo says that the call recorded nothing.
  def self.unanswered?(error)
    case error
    when GRPC::Unavailable, GRPC::DeadlineExceeded then true
    else detail(error, Google::Rpc::ErrorInfo).nil?
    end
  end

  # The error's detail of this type, or nil.
  def self.detail(error, type)
    error.to_rpc_status&.details.to_a.find { |any| any.is(type) }&.unpack(type)
  end
end
