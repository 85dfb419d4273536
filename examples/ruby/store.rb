# frozen_string_literal: true

require 'json'
require 'securerandom'

# What must survive a crash of this program: which refund belongs to which order, and how far the
# event stream has been read. A shop keeps both in its database.
class Store
  # Not on disk before save.
  attr_accessor :last_sequence

  def initialize(path)
    @path = path
    content = File.exist?(path) ? JSON.parse(File.read(path)) : {}
    @refunds = content.fetch('refunds', {})
    @last_sequence = content.fetch('last_sequence', 0)
  end

  # The order's refund id. A new one is on disk before it is returned.
  def refund_id(order)
    unless @refunds.key?(order)
      @refunds[order] = SecureRandom.uuid
      save
    end
    @refunds[order]
  end

  # A new file replaces the old one at once, so that a crash leaves one of the two.
  def save
    File.open("#{@path}.new", 'w') do |file|
      file.write(JSON.pretty_generate(refunds: @refunds, last_sequence: @last_sequence))
      file.fsync
    end
    File.rename("#{@path}.new", @path)
    File.open(File.dirname(@path), &:fsync)
  end
end
