// SPDX-License-Identifier: BSD-2-Clause
// Master of the AXI4-Lite register port: one access at a time.
#pragma once

#include "memory.h"
#include "pin.h"

class LiteMaster {
public:
    explicit LiteMaster(const LitePins& pins) : p_(pins) {}

    void seed(uint64_t value) { stall_.seed(value ? value * 64 + 63 : 0); }

    void start_write(uint32_t address, uint32_t data, uint32_t strobe = 15) {
        p_.awaddr.set(address);
        p_.wdata.set(data);
        p_.wstrb.set(strobe);
        aw_ = w_ = b_ = true;
    }
    void start_read(uint32_t address) {
        p_.araddr.set(address);
        ar_ = r_ = true;
    }
    bool busy() const { return b_ || r_; }
    uint32_t value() const { return value_; }
    int response() const { return response_; }
    // Reads and writes whose address the design has taken.
    uint64_t accesses = 0;

    void sample() {
        if (p_.awvalid && p_.awready) {
            aw_ = false;
            accesses++;
        }
        if (p_.wvalid && p_.wready) w_ = false;
        if (p_.arvalid && p_.arready) {
            ar_ = false;
            accesses++;
        }
        if (p_.bvalid && p_.bready) {
            if (!b_) throw Fault("s_axi_control B: an answer to no write");
            response_ = p_.bresp.get();
            b_ = false;
        }
        if (p_.rvalid && p_.rready) {
            if (!r_) throw Fault("s_axi_control R: an answer to no read");
            response_ = p_.rresp.get();
            value_ = p_.rdata.get();
            r_ = false;
        }
    }
    // A valid that is up stays up; the others may come late.
    void drive() {
        p_.awvalid.set(aw_ && (p_.awvalid || !stall_.next()));
        p_.wvalid.set(w_ && (p_.wvalid || !stall_.next()));
        p_.arvalid.set(ar_ && (p_.arvalid || !stall_.next()));
        p_.bready.set(!stall_.next());
        p_.rready.set(!stall_.next());
    }
    void reset() {
        aw_ = w_ = b_ = ar_ = r_ = false;
        p_.awvalid.set(0);
        p_.wvalid.set(0);
        p_.arvalid.set(0);
    }

private:
    LitePins p_;
    Stall stall_;
    bool aw_ = false, w_ = false, b_ = false, ar_ = false, r_ = false;
    uint32_t value_ = 0;
    int response_ = 0;
};
