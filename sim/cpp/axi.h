// SPDX-License-Identifier: BSD-2-Clause
// Memory side of one AXI4 master: serves its bursts and checks that it keeps the protocol.
#pragma once

#include <array>
#include <deque>
#include <string>
#include <vector>

#include "memory.h"
#include "pin.h"

// A channel driven by the design: valid stays high, and its payload the same, until ready.
class Watch {
public:
    Watch(std::string name, Pin valid, Pin ready, std::vector<Pin> payload)
        : name_(std::move(name)), valid_(valid), ready_(ready), payload_(std::move(payload)) {}

    // True if there is a transfer in this cycle.
    bool sample() {
        const bool valid = bool(valid_);
        if (waiting_) {
            if (!valid) throw Fault(name_ + ": valid was taken back before ready");
            size_t at = 0;
            for (const Pin& pin : payload_) {
                if (pin.bytes && std::memcmp(pin.bytes, &held_[at], pin.size))
                    throw Fault(name_ + ": the payload changed before ready");
                at += pin.size;
            }
        }
        waiting_ = valid && !bool(ready_);
        if (waiting_) {
            held_.clear();
            for (const Pin& pin : payload_) held_.insert(held_.end(), pin.bytes, pin.bytes + pin.size);
        }
        return valid && bool(ready_);
    }
    void reset() { waiting_ = false; }

private:
    std::string name_;
    Pin valid_, ready_;
    std::vector<Pin> payload_;
    std::vector<uint8_t> held_;
    bool waiting_ = false;
};

class AxiPort {
public:
    AxiPort(const AxiPins& pins, Memory& memory)
        : p_(pins), memory_(memory), name_("m_axi_gmem" + std::to_string(pins.index)),
          ar_(name_ + " AR", p_.arvalid, p_.arready, {p_.araddr, p_.arlen, p_.arsize, p_.arburst, p_.arid}),
          aw_(name_ + " AW", p_.awvalid, p_.awready, {p_.awaddr, p_.awlen, p_.awsize, p_.awburst, p_.awid}),
          w_(name_ + " W", p_.wvalid, p_.wready, {p_.wdata, p_.wstrb, p_.wlast}) {}

    void seed(uint64_t value) {
        for (size_t i = 0; i < stalls_.size(); i++)
            stalls_[i].seed(value ? value * 64 + p_.index * stalls_.size() + i : 0);
    }

    // What happens at the coming clock edge, from settled outputs.
    void sample(uint64_t cycle) {
        if (ar_.sample()) {
            Burst burst = accept(p_.araddr, p_.arlen, p_.arsize, p_.arburst, p_.arid, false);
            burst.ready = cycle + std::max<uint64_t>(1, memory_.latency + stalls_[R].below(memory_.jitter));
            reads_.push_back(burst);
        }
        read_taken_ = p_.rvalid && p_.rready;
        if (aw_.sample()) {
            writes_.push_back(accept(p_.awaddr, p_.awlen, p_.awsize, p_.awburst, p_.awid, true));
            unanswered_++;
        }
        if (w_.sample()) {
            Beat beat{{}, p_.wstrb.get(), bool(p_.wlast)};
            std::memcpy(beat.data.data(), p_.wdata.bytes, p_.bytes);
            beats_.push_back(beat);
        }
        while (!writes_.empty() && !beats_.empty()) store(cycle);
        answer_taken_ = p_.bvalid && p_.bready;
        if (answer_taken_) unanswered_--;
    }

    // Inputs of the next cycle.
    void drive(uint64_t cycle) {
        if (read_taken_) p_.rvalid.set(0);
        if (answer_taken_) p_.bvalid.set(0);
        p_.arready.set(reads_.size() < memory_.outstanding && !stalls_[AR].next());
        p_.awready.set(unanswered_ < memory_.outstanding && !stalls_[AW].next());
        p_.wready.set(beats_.size() < 16 && !stalls_[W].next() && memory_.take(p_.bytes * bool(p_.wvalid)));
        const bool held = stalls_[R].next();
        if (!p_.rvalid && !reads_.empty() && reads_.front().ready <= cycle && !held &&
            !memory_.silent(reads_.front().address, p_.bytes) && memory_.take(p_.bytes)) {
            Burst& burst = reads_.front();
            p_.rresp.set(memory_.read(burst.address, p_.rdata.bytes, p_.bytes));
            p_.rid.set(burst.id);
            p_.rlast.set(burst.beats == 1);
            p_.rvalid.set(1);
            burst.address += p_.bytes;
            if (--burst.beats == 0) reads_.pop_front();
        }
        const bool late = stalls_[B].next();
        if (!p_.bvalid && !answers_.empty() && answers_.front().ready <= cycle && !late &&
            !memory_.silent(answers_.front().first, answers_.front().address - answers_.front().first)) {
            p_.bresp.set(answers_.front().response);
            p_.bid.set(answers_.front().id);
            p_.bvalid.set(1);
            answers_.pop_front();
        }
    }

    // Nothing is under way: a core that is idle or was soft reset must leave its ports like this.
    bool quiet() const {
        return reads_.empty() && !p_.rvalid && unanswered_ == 0 && beats_.empty() && !p_.arvalid &&
               !p_.awvalid && !p_.wvalid;
    }

    // A master that is in reset asks for nothing.
    void check_reset() const {
        if (p_.arvalid || p_.awvalid || p_.wvalid) throw Fault(name_ + ": valid is high in reset");
    }

    void reset() {
        reads_.clear();
        writes_.clear();
        beats_.clear();
        answers_.clear();
        unanswered_ = 0;
        read_taken_ = answer_taken_ = false;
        p_.rvalid.set(0);
        p_.bvalid.set(0);
        p_.arready.set(0);
        p_.awready.set(0);
        p_.wready.set(0);
        ar_.reset();
        aw_.reset();
        w_.reset();
    }

private:
    enum Channel { AR, R, AW, W, B, CHANNELS };
    struct Burst {
        uint64_t address = 0, beats = 0, id = 0, ready = 0, first = 0;
        int response = OKAY;
    };
    struct Beat {
        std::array<uint8_t, 16> data;
        uint64_t strobe;
        bool last;
    };

    Burst accept(const Pin& address, const Pin& length, const Pin& size, const Pin& type,
                 const Pin& id, bool write) {
        const std::string what = name_ + (write ? " AW" : " AR");
        Burst burst;
        burst.address = burst.first = address.get();
        burst.beats = length.get() + 1;
        burst.id = id.get();
        const uint64_t bytes = burst.beats * p_.bytes;
        if (type.get() != 1)
            throw Fault(what + ": burst type is " + std::to_string(type.get()) + ", must be 1, INCR");
        if (1u << size.get() != static_cast<unsigned>(p_.bytes))
            throw Fault(what + ": beats of " + std::to_string(1u << size.get()) + " bytes, must be " +
                        std::to_string(p_.bytes));
        if (burst.beats > 16)
            throw Fault(what + ": " + std::to_string(burst.beats) + " beats in a burst, at most 16");
        if (burst.address % p_.bytes)
            throw Fault(what + ": address " + hex(burst.address) + " is not a multiple of " +
                        std::to_string(p_.bytes));
        if (burst.address / 4096 != (burst.address + bytes - 1) / 4096)
            throw Fault(what + ": " + std::to_string(bytes) + " bytes at " + hex(burst.address) +
                        " cross a 4 KiB boundary");
        memory_.check(burst.address, bytes, write);
        return burst;
    }

    void store(uint64_t cycle) {
        Burst& burst = writes_.front();
        const Beat beat = beats_.front();
        beats_.pop_front();
        if (beat.last != (burst.beats == 1))
            throw Fault(name_ + " W: last is " + std::to_string(beat.last) + " with " +
                        std::to_string(burst.beats) + " beats to come");
        const int response = memory_.write(burst.address, beat.data.data(), beat.strobe, p_.bytes);
        burst.response = std::max(burst.response, response);
        burst.address += p_.bytes;
        if (--burst.beats == 0) {
            burst.ready = cycle + std::max<uint64_t>(1, memory_.latency + stalls_[B].below(memory_.jitter));
            answers_.push_back(burst);
            writes_.pop_front();
        }
    }

    AxiPins p_;
    Memory& memory_;
    std::string name_;
    Watch ar_, aw_, w_;
    std::array<Stall, CHANNELS> stalls_;
    std::deque<Burst> reads_, writes_, answers_;
    std::deque<Beat> beats_;
    size_t unanswered_ = 0;
    bool read_taken_ = false, answer_taken_ = false;
};
