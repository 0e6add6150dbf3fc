// SPDX-License-Identifier: BSD-2-Clause
// Memory behind all ports: windows of bytes, one bandwidth, injected bus errors, stalls.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "pin.h"

// SILENT is no answer at all, until the address is made to answer again.
enum Response : int { OKAY = 0, SLVERR = 2, DECERR = 3, SILENT = 4 };

// Decides cycle by cycle whether a channel is held up: quiet, random and blocked spells in turn.
class Stall {
public:
    void seed(uint64_t value) {
        state_ = value;
        left_ = 0;
        on_ = value != 0;
    }
    bool next() {
        if (!on_) return false;
        if (left_ == 0) {
            static const uint32_t rates[] = {0, 32, 128, 224, 256};  // of 256
            const uint32_t draw = random();
            rate_ = rates[draw % 5];
            left_ = 1 + (draw >> 8) % (rate_ == 256 ? 24 : 64);
        }
        left_--;
        return (random() & 255) < rate_;
    }
    uint32_t below(uint32_t limit) { return on_ ? random() % limit : 0; }

private:
    // splitmix64: any seed will do, zero included.
    uint32_t random() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return static_cast<uint32_t>((z ^ (z >> 31)) >> 16);
    }
    uint64_t state_ = 0;
    uint32_t left_ = 0, rate_ = 0;
    bool on_ = false;
};

class Memory {
public:
    // Where the design may go: addresses, beside what is there.
    struct Range {
        uint64_t base, size;
        bool writable;
    };

    double bytes_per_cycle = 64;
    uint64_t latency = 100;
    // With stalls, up to so many more cycles of latency.
    uint64_t jitter = 64;
    // Bursts of either kind that are accepted before the first of them is answered.
    size_t outstanding = 16;
    // What lies outside of all windows is answered as an interconnect would, and no fault.
    bool answers_outside = false;
    uint64_t bytes_read = 0, bytes_written = 0;

    void window(uint64_t base, uint64_t size, bool writable) {
        for (const Window& other : windows_)
            if (base < other.base + other.bytes.size() && other.base < base + size)
                throw Fault("the memory window at " + hex(base) + " overlaps the one at " +
                            hex(other.base));
        windows_.push_back({base, writable, std::vector<uint8_t>(size)});
    }
    void load(const std::string& file, uint64_t address) {
        std::ifstream stream(file, std::ios::binary | std::ios::ate);
        if (!stream) throw Fault("cannot read " + file);
        const uint64_t size = stream.tellg();
        stream.seekg(0);
        stream.read(reinterpret_cast<char*>(at(address, size)), size);
    }
    void dump(const std::string& file, uint64_t address, uint64_t size) {
        std::ofstream stream(file, std::ios::binary);
        stream.write(reinterpret_cast<char*>(at(address, size)), size);
        if (!stream) throw Fault("cannot write " + file);
    }
    void fill(uint64_t address, uint64_t size, uint8_t value) {
        std::memset(at(address, size), value, size);
    }
    void inject(uint64_t address, int response) {
        if (response == OKAY)
            errors_.erase(address);
        else
            errors_[address] = response;
    }

    // From here on every access lies in one of these, or the design has broken its contract.
    void allow(std::vector<Range> ranges) {
        limited_ = true;
        allowed_ = std::move(ranges);
    }
    void allow_all() { limited_ = false; }

    // Unused bandwidth is not saved up: only the fraction of one beat is carried over.
    void tick(int beat_bytes) {
        credit_ = std::min(credit_ + bytes_per_cycle, bytes_per_cycle + beat_bytes);
    }
    bool take(int bytes) {
        if (credit_ < bytes) return false;
        credit_ -= bytes;
        return true;
    }

    // ``address`` and ``size`` lie in one window, or the design has broken its contract.
    void check(uint64_t address, uint64_t size, bool write) const {
        if (limited_ && !is_allowed(address, size, write))
            throw Fault(std::string(write ? "a write" : "a read") + " of " + std::to_string(size) +
                        " bytes at " + hex(address) + " lies outside of what the registers allow");
        if (answers_outside) return;
        const Window* window = find(address, size);
        if (!window)
            throw Fault(std::string(write ? "a write" : "a read") + " of " + std::to_string(size) +
                        " bytes at " + hex(address) + " lies outside the memory windows");
        if (write && !window->writable)
            throw Fault("a write of " + std::to_string(size) + " bytes at " + hex(address) +
                        " lies in a read-only window");
    }
    bool silent(uint64_t address, uint64_t size) const { return error(address, size) == SILENT; }
    int read(uint64_t address, uint8_t* data, int bytes) {
        bytes_read += bytes;
        if (answers_outside && !find(address, bytes)) {
            std::memset(data, 0xDE, bytes);
            return DECERR;
        }
        std::memcpy(data, at(address, bytes), bytes);
        return error(address, bytes);
    }
    int write(uint64_t address, const uint8_t* data, uint64_t strobe, int bytes) {
        if (answers_outside) {
            const Window* window = find(address, bytes);
            if (!window || !window->writable) return window ? SLVERR : DECERR;
        }
        const int response = error(address, bytes);
        uint8_t* to = at(address, bytes);
        for (int i = 0; i < bytes; i++)
            if (strobe >> i & 1) {
                bytes_written++;
                if (response == OKAY || response == SILENT) to[i] = data[i];
            }
        return response == SILENT ? OKAY : response;
    }

private:
    struct Window {
        uint64_t base;
        bool writable;
        std::vector<uint8_t> bytes;
    };

    bool is_allowed(uint64_t address, uint64_t size, bool write) const {
        for (const Range& range : allowed_)
            // From the base on, addresses wrap as those of the design do.
            if (address - range.base < range.size && size <= range.size - (address - range.base) &&
                range.writable == write)
                return true;
        return false;
    }
    const Window* find(uint64_t address, uint64_t size) const {
        for (const Window& window : windows_)
            if (address >= window.base && size <= window.bytes.size() &&
                address - window.base <= window.bytes.size() - size)
                return &window;
        return nullptr;
    }
    uint8_t* at(uint64_t address, uint64_t size) {
        const Window* window = find(address, size);
        if (!window)
            throw Fault(std::to_string(size) + " bytes at " + hex(address) +
                        " lie outside the memory windows");
        return const_cast<uint8_t*>(window->bytes.data()) + (address - window->base);
    }
    int error(uint64_t address, uint64_t size) const {
        const auto found = errors_.lower_bound(address);
        return found != errors_.end() && found->first < address + size ? found->second : OKAY;
    }

    std::vector<Window> windows_;
    std::vector<Range> allowed_;
    bool limited_ = false;
    std::map<uint64_t, int> errors_;
    double credit_ = 0;
};
