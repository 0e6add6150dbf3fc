// SPDX-License-Identifier: BSD-2-Clause
// Ports and visible signals of the design, of any width, as bytes in memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

// Anything that ends the run: one sentence for the user.
struct Fault : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A signal of the design. Verilator keeps signals of up to 8, 16, 32 and 64 bits in integers and
// wider ones in arrays of 32-bit words, all little endian on the machines we run on: bytes.
struct Pin {
    uint8_t* bytes = nullptr;
    size_t size = 0;

    uint64_t get() const {
        uint64_t value = 0;
        if (bytes) std::memcpy(&value, bytes, size < 8 ? size : 8);
        return value;
    }
    void set(uint64_t value) {
        if (bytes) std::memcpy(bytes, &value, size < 8 ? size : 8);
    }
    explicit operator bool() const { return get() != 0; }
};

template <class Signal>
Pin pin(Signal& signal) {
    return {reinterpret_cast<uint8_t*>(&signal), sizeof(Signal)};
}

// AXI4 master of the design. Pins that the design lacks stay empty: they read as zero.
struct AxiPins {
    int index = 0;
    int bytes = 0;  // width of a beat
    Pin arvalid, arready, araddr, arlen, arsize, arburst, arid;
    Pin rvalid, rready, rdata, rresp, rlast, rid;
    Pin awvalid, awready, awaddr, awlen, awsize, awburst, awid;
    Pin wvalid, wready, wdata, wstrb, wlast;
    Pin bvalid, bready, bresp, bid;
};

// AXI4-Lite slave of the design.
struct LitePins {
    Pin awvalid, awready, awaddr, wvalid, wready, wdata, wstrb, bvalid, bready, bresp;
    Pin arvalid, arready, araddr, rvalid, rready, rdata, rresp;
};

// Signals that are written to a file in every cycle in which ``valid`` is high, or, without it, in
// which they are not as they were; those that are timed with the number of the cycle before them.
struct StreamPins {
    std::string name;
    bool timed;
    Pin valid;
    std::vector<Pin> fields;
};

struct Pins {
    Pin clock, reset_n, interrupt;
    LitePins lite;
    std::vector<AxiPins> axi;
    std::vector<StreamPins> streams;
};

inline std::string hex(uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}
