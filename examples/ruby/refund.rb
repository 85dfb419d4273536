# frozen_string_literal: true

# Refunds a Sectigo order through recoup. Run again with the same arguments it sends nothing, and
# shows the same refund.
#
# Exit status: 0 the money moved, 4 it did not, 5 undecided (run it again), 1 refused, 2 wrong usage.

require_relative 'gateway'
require_relative 'store'

EXIT_STATUS = { MONEY_VERDICT_MOVED: 0, MONEY_VERDICT_NOT_MOVED: 4 }.freeze
REFUSED = 1
WRONG_USAGE = 2
UNDECIDED = 5

# How long to go on asking before the program leaves the refund to its next run.
PATIENCE = 120
PAUSE = 2

TERMINAL = %i[STATE_SUCCEEDED STATE_PARTIALLY_SUCCEEDED STATE_FAILED STATE_CANCELLED].freeze
FOR_A_PERSON = %i[STATE_NEEDS_REVIEW STATE_AWAITING_APPROVAL].freeze

class RefundExample
  def initialize(gateway, store)
    @gateway = gateway
    @store = store
  end

  def run(account, order)
    refund_id = @store.refund_id(order)

    refund = refund_until_decided(account, order, refund_id)
    if refund.nil?
      warn "refund #{refund_id} is undecided: run the same command again"
      return UNDECIDED
    end
    puts "created #{refund_id} #{state_name(refund)} #{verdict_name(refund)}"
    if FOR_A_PERSON.include?(refund.state)
      warn "refund #{refund_id} waits for a person: run the same command again when they have decided"
      return UNDECIDED
    end

    puts "replayed #{refund_id} #{@gateway.create_refund(account, order, refund_id).replayed}"
    show_refusal(account, refund_id)
    follow_events(refund)
    puts "validation #{@gateway.validation_status(account, order).order_status_text}"
    EXIT_STATUS.fetch(refund.money_verdict, UNDECIDED)
  end

  private

  # Creates the refund and waits until it is decided or needs a person. After a call without an
  # answer it asks again, always under the same id. nil: patience has run out.
  def refund_until_decided(account, order, refund_id)
    give_up = now + PATIENCE
    refund = nil
    while now < give_up
      begin
        response = refund ? @gateway.wait_refund(refund) : @gateway.create_refund(account, order, refund_id)
        refund = response.refund
        return refund if TERMINAL.include?(refund.state) || FOR_A_PERSON.include?(refund.state)
      rescue GRPC::BadStatus => e
        raise unless Gateway.unanswered?(e)

        warn "no answer about #{refund_id} (#{e.class}): asking again"
        sleep PAUSE
      end
    end
  end

  # Asks for another order under the same id, which is refused, and prints why.
  def show_refusal(account, refund_id)
    @gateway.create_refund(account, 'another-order', refund_id)
    raise "another order was taken under the id #{refund_id}"
  rescue GRPC::BadStatus => e
    info = Gateway.detail(e, Google::Rpc::ErrorInfo) or raise
    fields = [info.metadata['differing_fields']].compact
    fields += Gateway.detail(e, Google::Rpc::BadRequest)&.field_violations.to_a.map(&:field)
    puts "refused #{info.reason} #{fields.join(',')}"
  end

  # Prints the refund's events that the store has not seen, then opens the stream once more where it
  # ended, as a program does after a restart.
  def follow_events(refund)
    seen = read_events(refund, deadline: 5)
    puts "events #{seen.size} #{seen.first}..#{seen.last}" if seen.any?
    puts 'events 0' if seen.empty?
    after = @store.last_sequence
    read_events(refund, deadline: 1)
    puts "resumed after #{after}"
  end

  # The sequences of the refund's events after the store's last one, up to its latest revision.
  def read_events(refund, deadline:)
    seen = []
    @gateway.each_event(after: @store.last_sequence, deadline: deadline) do |event|
      raise "event #{event.sequence} came twice" if event.sequence <= @store.last_sequence

      @store.last_sequence = event.sequence
      next unless event.refund == refund.name

      warn format('%<sequence>6d %<note>s', sequence: event.sequence, note: event.note)
      seen << event.sequence
      break if event.revision >= refund.revision
    end
    # Only now: after a crash, what was read since the last time comes again.
    @store.save
    seen
  end

  def state_name(refund) = refund.state.to_s.delete_prefix('STATE_')

  def verdict_name(refund) = refund.money_verdict.to_s.delete_prefix('MONEY_VERDICT_')

  def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
end

if ARGV.length != 3
  warn 'usage: refund.rb ACCOUNT ORDER STORE'
  exit WRONG_USAGE
end
missing = Gateway::SETTINGS.reject { |name| ENV.key?(name) }
if missing.any?
  warn missing.map { |name| "#{name} is not set" }
  exit WRONG_USAGE
end
account, order, path = ARGV
begin
  exit RefundExample.new(Gateway.new, Store.new(path)).run(account, order)
rescue GRPC::BadStatus => e
  warn e.message
  exit REFUSED
end
